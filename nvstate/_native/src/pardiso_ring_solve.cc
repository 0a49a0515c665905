// How a ring solves with its factorizations, and sees whether they solve.

#include <algorithm>
#include <cstring>
#include <limits>

#include "nvstate/pardiso.h"

namespace nvstate::pardiso {

Options Ring::StoredOptions() const {
  Options options = problem_.options;
  if (!options.is_general()) options.view = solver::View::kUpper;  // as PARDISO's matrix is
  return options;
}

void Ring::Probe(const At& at, Numerics& numerics) {
  const Options options = StoredOptions();
  const int64_t bytes = problem_.n * BytesOf(problem_.element);
  Buffer b(bytes), x(bytes);
  solver::ProbeProduct(options, matrix_->pattern(), problem_.element, at.values, false, b.data());
  SolveAt(at, 0, false, 1, b.data(), x.data());
  const double error = solver::ProbeError(problem_.element, x.data(), 0, problem_.n);
  const double back = solver::BackwardError(options, matrix_->pattern(), problem_.element,
                                            at.values, false, x.data(), b.data());
  numerics.refine = back > solver::kPoor * solver::Roundoff(problem_.element);
  const bool broken = error > solver::kProbeLimit;
  const auto passed = numerics.perturbed_pivots > 0 ? solver::kPerturbed : solver::kOk;
  numerics.status = passed;
  const int64_t steps = StepsOf(numerics);
  if (!broken) return;
  numerics.status = solver::kBreakdown;
  if (steps == 0) return;
  SolveAt(at, steps, false, 1, b.data(), x.data());  // refined it may have digits
  if (solver::ProbeError(problem_.element, x.data(), 0, problem_.n) <= solver::kProbeLimit) {
    numerics.status = passed;
  }
}

int64_t Ring::StepsOf(const Numerics& numerics) const {
  if (problem_.options.refinement_steps >= 0) return problem_.options.refinement_steps;
  return numerics.perturbed_pivots > 0 || numerics.refine ? solver::kAutoSteps : 0;
}

void Ring::Solve(const solver::Slots::Found& found, bool transposed, int64_t columns, const char* b,
                 char* x) {
  const Numerics& numerics = slots_[found.slot].numerics[static_cast<size_t>(found.element)];
  const int64_t bytes = problem_.n * BytesOf(problem_.element);
  if (numerics.failed()) {
    solver::FillNan(x, columns * bytes);
    return;
  }
  const At at = Where(found.slot, found.element);
  const bool doubtful = numerics.perturbed_pivots > 0 || numerics.refine;
  const auto solve = [&](int64_t count, const void* from, void* to) {
    const int64_t steps = StepsOf(numerics);
    OrDropped([&] { SolveAt(at, steps, transposed, count, from, to); });
    for (int64_t i = 0; i < count && steps > 0 && doubtful; ++i) {
      char* const column = static_cast<char*>(to) + i * bytes;
      const double error =
          solver::BackwardError(StoredOptions(), matrix_->pattern(), problem_.element, at.values,
                                transposed, column, static_cast<const char*>(from) + i * bytes);
      if (!(error <= solver::HopelessError(problem_.element))) solver::FillNan(column, bytes);
    }
    Multiply(problem_.element, to, count * problem_.n, at.scale);
  };
  // Measured (design page, section 5): for general matrices 16 columns in one call take twice the
  // time of 16 calls. Columns alone have the same bits whatever is solved beside them.
  const bool alone = problem_.options.is_general() || problem_.options.deterministic;
  if (!alone) {
    // PARDISO counts the entries of a block of right-hand sides in 32 bits.
    const int64_t most = std::max<int64_t>(std::numeric_limits<int32_t>::max() / problem_.n, 1);
    for (int64_t i = 0; i < columns; i += most) {
      solve(std::min(most, columns - i), b + i * bytes, x + i * bytes);
    }
    return;
  }
  if (!problem_.options.deterministic) {
    for (int64_t i = 0; i < columns; ++i) solve(1, b + i * bytes, x + i * bytes);
    return;
  }
  Buffer aligned_b(bytes), aligned_x(bytes);
  for (int64_t i = 0; i < columns; ++i) {
    std::memcpy(aligned_b.data(), b + i * bytes, static_cast<size_t>(bytes));
    solve(1, aligned_b.data(), aligned_x.data());
    std::memcpy(x + i * bytes, aligned_x.data(), static_cast<size_t>(bytes));
  }
}

void Ring::SolveAt(const At& at, int64_t steps, bool transposed, int64_t columns, const void* b,
                   void* x) {
  Iparm iparm = at.handle == handle_.get() ? iparm_ : IparmOf(problem_, true);
  iparm[abi::kIparmRefinement] = steps == 0 ? 0 : steps + 1;  // measured: the first only looks
  iparm[abi::kIparmPivoting] |= 2;                            // no refinement of its own accord
  iparm[abi::kIparmTransposed] = transposed ? 2 : 0;
  Run(33, at, iparm, columns, b, x);
}

void Ring::Diagonal(const solver::Slots::Found& found, void* out) {
  const int64_t bytes = problem_.n * BytesOf(problem_.element);
  if (slots_[found.slot].numerics[static_cast<size_t>(found.element)].failed()) {
    solver::FillNan(out, bytes);
    return;
  }
  // PARDISO gives the diagonal only of a handle that was told so before its analysis, where each
  // factorization takes a fifth longer (measured); so this one has a handle of its own.
  const At at = Where(found.slot, found.element);
  const bool matched = at.handle != handle_.get();
  const Threads threads(problem_.options);
  Handle handle(*matrix_, mtype_, wide_, 1);
  Iparm iparm = matched ? IparmOf(problem_, true) : iparm_;
  iparm[abi::kIparmDiagonal] = 1;
  const Iparm before = iparm;
  Indices order = permutation_;
  AnalyzeIn(handle, matched ? at.values : reference_.data(), iparm, order);
  iparm = before;
  handle.Run(22, 1, at.values, iparm);
  Buffer of_factor(bytes), of_matrix(bytes);
  handle.Diagonal(1, of_factor.data(), of_matrix.data());
  Multiply(problem_.element, of_factor.data(), problem_.n, 1 / at.scale);
  std::memcpy(out, of_factor.data(), static_cast<size_t>(bytes));
}

}  // namespace nvstate::pardiso
