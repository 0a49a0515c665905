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

Call::Call(const matmul::Spec& spec, ffi::RemainingArgs args, ffi::RemainingRets rets,
           Around around)
    : spec_(spec), args_(args), rets_(rets), around_(around) {
  size_t operands = 0, results = 0;
  for (int i = 0; i < matmul::kAll; ++i) {
    if (!Has(spec, static_cast<Operand>(i))) continue;
    ++(i < matmul::kOperands ? operands : results);
  }
  const size_t hidden = around.before + around.behind;
  const size_t with = results + hidden + 1;  // and a workspace
  if (args.size() != operands || (rets.size() != with && rets.size() + 1 != with)) {
    throw Failure(Code::kInvalidArgument,
                  std::to_string(operands) + " operands and " + std::to_string(results + hidden) +
                      " results expected beside a workspace, got " + std::to_string(args.size()) +
                      " and " + std::to_string(rets.size()));
  }
  size_t argument = 0, result = around.before;
  for (int i = 0; i < matmul::kAll; ++i) {
    const auto operand = static_cast<Operand>(i);
    if (!Has(spec, operand)) continue;
    pointers[operand] = i < matmul::kOperands ? Argument(args, argument++).untyped_data()
                                              : Result(rets, result++).untyped_data();
  }
  if (rets.size() == with) {
    const Workspace work = WorkspaceOf(Result(rets, result));
    pointers.work = work.data;
    workspace = static_cast<int64_t>(work.bytes);
  }
}

ffi::AnyBuffer Call::at(Operand operand) const {
  const int place = static_cast<int>(operand);
  const bool is_result = place >= matmul::kOperands;
  size_t before = is_result ? around_.before : 0;
  for (int i = is_result ? matmul::kOperands : 0; i < place; ++i) {
    before += Has(spec_, static_cast<Operand>(i)) ? 1 : 0;
  }
  return is_result ? Result(rets_, before) : Argument(args_, before);
}

std::vector<Typed> Call::types() const {
  std::vector<Typed> types;
  for (int i = 0; i < matmul::kAll; ++i) {
    const auto operand = static_cast<Operand>(i);
    if (Has(spec_, operand)) types.push_back(TypedOf(at(operand)));
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
