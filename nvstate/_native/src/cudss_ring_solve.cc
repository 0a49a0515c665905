// What a ring does with a slot that is factorized.

#include <algorithm>

#include "nvstate/cudss_ring.h"

namespace nvstate::cudss {

using solver::Numerics;

int64_t Ring::StepsOf(const Numerics& numerics) const {
  if (options_.refinement_steps >= 0) return options_.refinement_steps;
  // Deterministic mode excludes refinement.
  const bool poor = numerics.perturbed_pivots > 0 || numerics.refine;
  return poor && !options_.deterministic ? solver::kAutoSteps : 0;
}

void Ring::SolveWith(System& system, bool transposed, int64_t steps, const void* b, void* x,
                     int64_t columns) {
  system.config().SetSteps(steps);
  system.config().SetTransposed(transposed);
  if (!options_.deterministic && !options_.hybrid_execute) {
    system.Solve(b, x, columns);
    return;
  }
  const int64_t step = shape_.vector_bytes();
  for (int64_t c = 0; c < columns; ++c) {  // the library takes one at a time
    const char* const from = static_cast<const char*>(b) + c * step;
    char* const to = static_cast<char*>(x) + c * step;
    if (!options_.hybrid_execute) {
      system.Solve(from, to, 1);
      continue;
    }
    char* const own = static_cast<char*>(column_.data());
    CopyOnDevice(own, from, static_cast<size_t>(step), context_.stream());
    system.Solve(own, own + step, 1);
    CopyOnDevice(to, own + step, static_cast<size_t>(step), context_.stream());
  }
}

void Ring::Solve(int64_t slot, int64_t element, bool transposed, const void* b, void* x,
                 int64_t k) {
  const Numerics& numerics = slots_[slot].numerics[static_cast<size_t>(element)];
  if (numerics.failed()) {
    FillNan(x, static_cast<size_t>(k * shape_.vector_bytes()), context_.stream());
    return;
  }
  OrEmptied(slot, [&] {
    Held& held = held_[static_cast<size_t>(slot)];
    if (held.all != nullptr) batched_->SetElement(element);
    SolveWith(SystemOf(held, element), transposed, StepsOf(numerics), b, x, k);
    if (numerics.perturbed_pivots > 0 && StepsOf(numerics) > 0) {
      Refuse(At(held.values.data(), element), transposed, b, x, k);
    }
  });
}

void Ring::Refuse(const void* values, bool transposed, const void* b, void* x, int64_t k) {
  const auto host = [&](const void* from, int64_t bytes) {
    std::vector<char> to(static_cast<size_t>(bytes));
    context_.Read(to.data(), from, to.size(), context_.stream());
    return to;
  };
  const int64_t step = shape_.vector_bytes();
  const auto indptr = host(pattern_->indptr(), (shape_.n + 1) * shape_.offset_bytes);
  const auto indices = host(pattern_->indices(), shape_.nnz * shape_.index_bytes);
  const auto entries = host(values, shape_.value_bytes());
  const auto right = host(b, k * step), found = host(x, k * step);
  const solver::Pattern pattern{
      shape_.n, shape_.nnz, indptr.data(), shape_.offset_bytes, indices.data(), shape_.index_bytes};
  for (int64_t i = 0; i < k; ++i) {
    const double error =
        solver::BackwardError(options_, pattern, shape_.element, entries.data(), transposed,
                              found.data() + i * step, right.data() + i * step);
    if (error <= solver::HopelessError(shape_.element)) continue;
    FillNan(static_cast<char*>(x) + i * step, static_cast<size_t>(step), context_.stream());
  }
}

void Ring::SolveAll(int64_t slot, bool transposed, const void* b, void* x, int64_t k) {
  const int64_t step = k * shape_.vector_bytes();
  Held& held = held_[static_cast<size_t>(slot)];
  const auto& numerics = slots_[slot].numerics;
  const auto failed = [](const Numerics& one) { return one.failed(); };
  const bool whole = held.all != nullptr && std::none_of(numerics.begin(), numerics.end(), failed);
  if (whole) {
    int64_t steps = 0;
    for (const Numerics& one : numerics) steps = std::max(steps, StepsOf(one));
    OrEmptied(slot, [&] {
      batched_->SetElement(-1);
      SolveWith(*held.all, transposed, steps, b, x, k);
    });
    return;
  }
  for (int64_t i = 0; i < shape_.batch; ++i) {
    Solve(slot, i, transposed, static_cast<const char*>(b) + i * step,
          static_cast<char*>(x) + i * step, k);
  }
}

void Ring::Diagonal(int64_t slot, int64_t element, void* to) {
  if (slots_[slot].numerics[static_cast<size_t>(element)].failed()) {
    FillNan(to, static_cast<size_t>(shape_.vector_bytes()), context_.stream());
    return;
  }
  bool found = false;
  OrEmptied(slot,
            [&] { found = SystemOf(held_[static_cast<size_t>(slot)], element).Diagonal(to); });
  if (!found) {
    throw Failure(Code::kInvalidArgument,
                  "cuDSS gives no diagonal of factors with these options; plan with "
                  "`reordering=\"colamd\"`, with which it does");
  }
}

}  // namespace nvstate::cudss
