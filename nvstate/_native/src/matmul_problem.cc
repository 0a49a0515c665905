#include "nvstate/matmul_problem.h"

#include <functional>
#include <numeric>
#include <string_view>
#include <tuple>

#include "nvstate/error.h"

namespace nvstate::matmul {
namespace {

[[noreturn]] void Refuse(const std::string& text) { throw Failure(Code::kInvalidArgument, text); }

using Buffers = std::array<const Typed*, kAll>;  // by Operand; none is nullptr

// The steps of a buffer whose dimensions are `batch`, or 1 in place of any, and then `rest`, whose
// steps are returned.
Ints Place(Party& party, Operand name, const Typed& buffer, const Ints& layout, const Ints& batch,
           const Ints& rest) {
  const size_t nb = batch.size();
  Ints expected = batch;
  expected.insert(expected.end(), rest.begin(), rest.end());
  bool fits = buffer.dims.size() == expected.size();
  for (size_t i = 0; fits && i < expected.size(); ++i) {
    fits = buffer.dims[i] == expected[i] || (i < nb && buffer.dims[i] == 1);
  }
  if (!fits) {
    Refuse(std::string("`") + OperandName(name) + "` is " + NameOf(buffer) +
           ", expected dimensions " + Dims(expected) +
           (nb == 0 ? "" : ", where those of the batch may be 1"));
  }
  Ints strides(expected.size());
  int64_t stride = 1;
  for (size_t i = expected.size(); i-- > 0;) {
    const size_t dim = layout.empty() ? i : static_cast<size_t>(layout[i]);
    strides[dim] = stride;
    stride *= buffer.dims[dim];
  }
  party.there = true;
  party.result = static_cast<int>(name) >= kOperands;
  party.type = buffer.type;
  for (size_t i = 0; i < nb; ++i) party.batch.push_back(buffer.dims[i] == 1 ? 0 : strides[i]);
  return {strides.begin() + static_cast<int64_t>(nb), strides.end()};
}

void Full(const Party& party, const Problem& p, const char* name) {
  for (size_t i = 0; i < p.batch.size(); ++i) {
    if (p.batch[i] != 1 && party.batch[i] == 0) {
      Refuse(std::string("`") + name + "` lacks batch dimension " + std::to_string(i));
    }
  }
}

// One number, or as many as a mode wants for a matrix of `rows` by K.
void CheckScales(const Typed& buffer, Operand name, const Scaling& scaling, int64_t members,
                 int64_t rows, int64_t k) {
  const std::string_view mode = scaling.name;
  int64_t count = 1;
  if (mode == "outer") count = rows;
  if (mode == "1x128") count = RoundedUp(k, 128) / 128 * rows;
  if (mode == "128x128") count = RoundedUp(rows, 128) / 128 * RoundedUp(RoundedUp(k, 128) / 128, 4);
  if (mode == "mxfp8") count = members * RoundedUp(rows, 128) * RoundedUp(RoundedUp(k, 32) / 32, 4);
  if (mode == "nvfp4") count = members * RoundedUp(rows, 128) * RoundedUp(RoundedUp(k, 16) / 16, 4);
  if (buffer.count() != count) {
    Refuse(std::string("`") + OperandName(name) + "` is " + NameOf(buffer) + ", expected " +
           std::to_string(count) + " scales of mode " + scaling.name);
  }
}

// Scales, amax, alpha and beta: numbers beside the matrices.
void CheckNumbers(const Spec& s, const Problem& p, const Buffers& at) {
  const auto has = [&](Operand operand) { return at[static_cast<int>(operand)] != nullptr; };
  const auto buffer = [&](Operand operand) -> const Typed& {
    return *at[static_cast<int>(operand)];
  };
  const int64_t members =
      std::accumulate(p.batch.begin(), p.batch.end(), int64_t{1}, std::multiplies<>());
  if (s.block_scaled() && members != 1) {
    const bool tiled = std::string_view(s.scaling_a->name) == "mxfp8" ||
                       std::string_view(s.scaling_a->name) == "nvfp4";
    if (!tiled) Refuse("scales by rows or blocks are for one product, not for a batch");
    Full(p.parties[kA], p, "a"), Full(p.parties[kB], p, "b");
  }
  for (const auto& [name, scaling, rows] : {std::tuple(Operand::kScaleA, s.scaling_a, p.m),
                                            std::tuple(Operand::kScaleB, s.scaling_b, p.n)}) {
    if (has(name)) CheckScales(buffer(name), name, *scaling, members, rows, p.k);
  }
  for (const Operand name : {Operand::kAlpha, Operand::kBeta, Operand::kScaleC, Operand::kScaleD,
                             Operand::kScaleAux, Operand::kAmax, Operand::kAuxAmax}) {
    if (has(name) && buffer(name).count() != 1) {
      Refuse(std::string("`") + OperandName(name) + "` is " + NameOf(buffer(name)) +
             ", expected one number");
    }
  }
  for (const Operand name : {Operand::kAlpha, Operand::kBeta}) {
    if (has(name) && buffer(name).type != s.scale_type) {
      Refuse(std::string("`") + OperandName(name) + "` is " + NameOf(buffer(name)) + ", expected " +
             NameOf(s.scale_type));
    }
  }
}

}  // namespace

int64_t RoundedUp(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

std::string Dims(const Ints& dims) {
  std::string text;
  for (const int64_t size : dims) text += (text.empty() ? "" : ",") + std::to_string(size);
  return "[" + text + "]";
}

Problem ProblemOf(const Spec& s, const std::vector<Typed>& all) {
  Buffers at{};
  size_t count = 0;
  std::string names;
  for (int i = 0; i < kAll; ++i) {
    const auto operand = static_cast<Operand>(i);
    if (!Has(s, operand)) continue;
    if (count < all.size()) at[i] = &all[count];
    names += (count++ == 0 ? "`" : ", `") + std::string(OperandName(operand)) + "`";
  }
  if (count != all.size()) {
    Refuse("operands and results " + names + " expected, got " + std::to_string(all.size()));
  }
  const auto buffer = [&](Operand operand) -> const Typed& {
    return *at[static_cast<int>(operand)];
  };
  const auto has = [&](Operand operand) { return at[static_cast<int>(operand)] != nullptr; };

  Problem p;
  const auto nb = static_cast<size_t>(s.batch);
  const Ints &a = buffer(Operand::kA).dims, &d = buffer(Operand::kD).dims;
  if (a.size() != nb + 2 || d.size() != nb + 2) {
    Refuse("`a` and `d` have " + std::to_string(nb + 2) + " dimensions, got " +
           NameOf(buffer(Operand::kA)) + " and " + NameOf(buffer(Operand::kD)));
  }
  p.batch.assign(d.begin(), d.begin() + static_cast<int64_t>(nb));
  p.m = d[nb], p.n = d[nb + 1], p.k = a[nb + 1];
  if (p.k == 0) Refuse("K is 0: there is nothing to multiply");

  Party& pa = p.parties[kA];
  Ints steps = Place(pa, Operand::kA, buffer(Operand::kA), s.layout_a, p.batch, {p.m, p.k});
  pa.has_m = true, pa.m = steps[0], pa.k = steps[1];
  Party& pb = p.parties[kB];
  steps = Place(pb, Operand::kB, buffer(Operand::kB), s.layout_b, p.batch, {1, p.k, p.n});
  pb.k = steps[1], pb.n = steps[2];
  Party& pd = p.parties[kD];
  steps = Place(pd, Operand::kD, buffer(Operand::kD), s.layout_d, p.batch, {p.m, p.n});
  pd.has_m = true, pd.m = steps[0], pd.n = steps[1];
  if (has(Operand::kC)) {
    Party& pc = p.parties[kC];
    const Typed& c = buffer(Operand::kC);
    const int64_t rows = c.dims.size() == nb + 2 && c.dims[nb] == 1 ? 1 : p.m;
    steps = Place(pc, Operand::kC, c, s.layout_c, p.batch, {rows, p.n});
    pc.has_m = rows == p.m, pc.m = pc.has_m ? steps[0] : 0, pc.n = steps[1];
  }
  if (has(Operand::kBias)) {
    Place(p.parties[kBias], Operand::kBias, buffer(Operand::kBias), {}, p.batch, {1, p.n});
  }
  if (s.epilog->aux()) {
    const Operand name = s.epilog->aux_in ? Operand::kAuxIn : Operand::kAuxOut;
    const int64_t row = s.epilog->mask ? RoundedUp(p.n, 128) / 8 : RoundedUp(p.n, 8);
    Party& aux = p.parties[kAux];
    steps = Place(aux, name, buffer(name), {}, p.batch, {p.m, row});
    aux.has_m = true, aux.m = steps[0];
    if (s.epilog->mask && aux.type != abi::CUDA_R_8U) Refuse("a relu mask is uint8");
    if (s.epilog->aux_out) Full(aux, p, "aux");
  }
  if (has(Operand::kGrad)) {
    Party& grad = p.parties[kGrad];
    const bool of_a = s.epilog->grad == Epilog::Grad::kA;
    steps = Place(grad, Operand::kGrad, buffer(Operand::kGrad), {}, p.batch,
                  of_a ? Ints{p.m} : Ints{1, p.n});
    grad.has_m = of_a, grad.m = of_a ? steps[0] : 0;
    const Party* reduced = of_a ? &pa : s.epilog->grad == Epilog::Grad::kB ? &pb : &pd;
    for (size_t i = 0; i < nb; ++i) {
      // Where the operand has no batch every member writes the same, and one place is enough.
      if (p.batch[i] != 1 && grad.batch[i] == 0 && reduced->batch[i] != 0) Full(grad, p, "bgrad");
    }
  }

  CheckNumbers(s, p, at);
  return p;
}

}  // namespace nvstate::matmul
