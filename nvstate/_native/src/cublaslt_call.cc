#include "nvstate/cublaslt_call.h"

namespace nvstate::cublaslt {
namespace {

using matmul::Operand;

ffi::AnyBuffer Argument(const ffi::RemainingArgs& args, size_t i) {
  return *args.get<ffi::AnyBuffer>(i);
}

ffi::AnyBuffer Result(const ffi::RemainingRets& rets, size_t i) {
  return **rets.get<ffi::AnyBuffer>(i);
}

}  // namespace

Places::Places(const matmul::Spec& spec) {
  for (int i = 0; i < matmul::kAll; ++i) {
    const auto operand = static_cast<Operand>(i);
    if (!Has(spec, operand)) continue;
    auto& list = i < matmul::kOperands ? operands : results;
    place[i] = static_cast<int>(list.size());
    list.push_back(operand);
  }
}

Call::Call(const Places& places, ffi::RemainingArgs args, ffi::RemainingRets rets, Around around)
    : places_(places), args_(args), rets_(rets), around_(around) {
  const size_t operands = places.operands.size();
  const size_t results = places.results.size() + around.before + around.behind;
  if (args.size() != operands || (rets.size() != results && rets.size() != results + 1)) {
    throw Failure(Code::kInvalidArgument,
                  std::to_string(operands) + " operands and " + std::to_string(results) +
                      " results expected beside a workspace, got " + std::to_string(args.size()) +
                      " and " + std::to_string(rets.size()));
  }
  size_t i = 0;
  for (const Operand operand : places.operands) {
    pointers[operand] = Argument(args, i++).untyped_data();
  }
  i = around.before;
  for (const Operand operand : places.results) pointers[operand] = Result(rets, i++).untyped_data();
  if (rets.size() != results) {
    const Workspace work = WorkspaceOf(Result(rets, i));
    pointers.work = work.data;
    workspace = static_cast<int64_t>(work.bytes);
  }
}

ffi::AnyBuffer Call::at(Operand operand) const {
  const auto place = static_cast<size_t>(places_.place[static_cast<int>(operand)]);
  return static_cast<int>(operand) < matmul::kOperands ? Argument(args_, place)
                                                       : Result(rets_, around_.before + place);
}

std::vector<Typed> Call::types() const {
  std::vector<Typed> types;
  for (const auto* list : {&places_.operands, &places_.results}) {
    for (const Operand operand : *list) types.push_back(TypedOf(at(operand)));
  }
  return types;
}

std::string Describe(const matmul::Spec& spec, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  std::string text;
  const auto add = [&](ffi::AnyBuffer buffer) {
    text += (text.empty() || text.back() == ' ' ? "" : ", ") + TypeOf(buffer);
  };
  for (size_t i = 0; i < args.size(); ++i) add(Argument(args, i));
  text += " to ";
  for (size_t i = 0; i < rets.size(); ++i) add(Result(rets, i));
  return text + "; epilog " + spec.epilog->name + ", compute type " + spec.compute_name +
         ", scale type " + NameOf(spec.scale_type);
}

}  // namespace nvstate::cublaslt
