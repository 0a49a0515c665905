// A ring of PARDISO's factorizations: one handle, a matrix number for each slot and element.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "nvstate/pardiso.h"

namespace nvstate::pardiso {
namespace {

using solver::Counters;
using solver::MatrixType;

constexpr const char* kEngine = "pardiso";

[[noreturn]] void Lacks(const char* name, const std::string& value) {
  throw Failure(Code::kInvalidArgument,
                std::string("PARDISO has no ") + name + " \"" + value + "\"");
}

// 10^-n is the only form of epsilon that PARDISO takes; -1: its own.
int64_t EpsilonExponent(const Options& options) {
  const double epsilon = options.pivot_epsilon();
  if (std::isnan(epsilon)) return -1;
  if (options.is_definite()) Lacks("pivot epsilon for definite matrices", Text(epsilon));
  const auto exponent = static_cast<int64_t>(std::lround(-std::log10(epsilon)));
  if (exponent >= 1 && exponent <= 300 && std::stod("1e-" + std::to_string(exponent)) == epsilon) {
    return exponent;
  }
  throw Failure(Code::kInvalidArgument,
                "PARDISO's pivot epsilon is a power of ten from 1e-1 on, got " + Text(epsilon));
}

void CheckOptions(const Options& o) {
  const auto one_of = [](const char* name, const std::string& value,
                         std::initializer_list<const char*> known) {
    for (const char* each : known) {
      if (value == each) return;
    }
    Lacks(name, value);
  };
  one_of("reordering", o.reordering, {"auto", "nd", "amd", "user"});
  if (o.reordering == "user" && o.permutation.none()) {
    throw Failure(Code::kInvalidArgument, "the reordering \"user\" wants a permutation");
  }
  one_of("matching", o.matching, {"none", "product"});
  if (o.is_definite()) one_of("matching for definite matrices", o.matching, {"none"});
  one_of("pivoting", o.pivoting, {"auto", "diagonal", "bunch_kaufman"});
  if (o.is_general() || o.is_definite()) {
    one_of("pivoting for general or definite matrices", o.pivoting, {"auto"});
  }
  one_of("hybrid memory", o.hybrid_memory, {""});
  one_of("factorization algorithm", o.factorization_algorithm, {"default"});
  one_of("solve algorithm", o.solve_algorithm, {"default"});
  one_of("pivot epsilon algorithm", o.pivot_epsilon_algorithm, {"default"});
  if (!std::isnan(o.pivot_threshold())) Lacks("pivot threshold", Text(o.pivot_threshold()));
  if (!std::isnan(o.refinement_tolerance())) {
    Lacks("refinement tolerance", Text(o.refinement_tolerance()));
  }
  if (o.reuse_pivots) Lacks("factorization that keeps pivots:", "reuse_pivots");
  if (o.hybrid_execute) Lacks("hybrid execution:", "hybrid_execute");
  for (const auto& [name, value] : {std::pair{"number of levels", o.nd_levels},
                                    {"unbalance", o.nd_unbalance},
                                    {"superpanels", o.superpanels},
                                    {"limit of factors", o.max_lu_nnz},
                                    {"registered memory", o.register_host_memory}}) {
    if (value != -1) Lacks(name, std::to_string(value));
  }
  if (!o.tree.empty()) Lacks("partition", "tree");
}

int TypeOf(const Problem& problem) {
  const Options& options = problem.options;
  const bool complex = IsComplex(problem.element);
  switch (options.matrix_type) {
    case MatrixType::kGeneral:
      return complex ? 13 : 11;
    case MatrixType::kSymmetric:
      return complex ? 6 : -2;
    case MatrixType::kHermitian:
      return complex ? -4 : -2;
    case MatrixType::kSpd:
      if (complex) Lacks("matrix type on complex numbers", "spd");
      return 2;
    default:
      return complex ? 4 : 2;
  }
}

// The entries of PARDISO's matrix and the zeros of its diagonal must be few enough for `int`.
bool Wide(const mkl::Api& api, const Problem& problem) {
  return api.wide || problem.nnz + problem.n >= std::numeric_limits<int32_t>::max();
}

Iparm IparmOf(const Problem& problem, bool matching) {
  const Options& options = problem.options;
  Iparm iparm{};
  iparm[abi::kIparmNoDefaults] = 1;
  iparm[abi::kIparmReordering] = options.reordering == "amd" ? 0 : 2;
  const int64_t exponent = EpsilonExponent(options);
  iparm[abi::kIparmPivotEpsilon] = exponent != -1 ? exponent : options.is_general() ? 13 : 8;
  iparm[abi::kIparmScaling] = matching;
  iparm[abi::kIparmMatching] = matching;
  iparm[abi::kIparmPivoting] = options.pivoting == "diagonal" ? 0 : 1;
  iparm[abi::kIparmSingle] = IsSingle(problem.element);
  iparm[abi::kIparmZeroBased] = 1;
  return iparm;
}

}  // namespace

Ring::Ring(Problem problem, int64_t batch)
    : problem_(std::move(problem)),
      api_(Opened<mkl::Api>()),
      wide_(Wide(api_, problem_)),
      mtype_(TypeOf(problem_)),
      slots_(problem_.options.slots, batch),
      permutation_(wide_) {
  CheckOptions(problem_.options);
  iparm_ = IparmOf(problem_, problem_.options.matching == "product");
}

void Ring::Analyze(const Pattern& pattern, const int32_t* permutation, const void* reference) {
  if (analyzed()) return;
  const Options& options = problem_.options;
  solver::CheckPattern(pattern);
  solver::CheckDigest("pattern", options.pattern, DigestOf(pattern));
  if (!options.permutation.none()) {
    solver::CheckPermutation(permutation, problem_.n);
    solver::CheckDigest("permutation", options.permutation,
                        solver::PermutationDigest(permutation, problem_.n));
  }
  const auto begin = std::chrono::steady_clock::now();
  auto matrix = std::make_unique<Matrix>(problem_, pattern, wide_);
  if (!options.reference.none()) {
    solver::CheckDigest("reference", options.reference,
                        solver::ReferenceDigest(problem_.element, reference, problem_.nnz));
    reference_ = Buffer(matrix->bytes());
    matrix->Gather(reference, reference_.data());
    const int64_t count = matrix->columns().size();
    Multiply(problem_.element, reference_.data(), count,
             Scale(problem_.element, reference_.data(), count));
  }
  Indices order(wide_);
  for (int64_t i = 0; i < problem_.n; ++i) {
    order.Add(options.permutation.none() ? 0 : permutation[i]);
  }
  auto handle = std::make_unique<Handle>(*matrix, mtype_, wide_, slots_.limit() * slots_.batch());
  Iparm iparm = iparm_;
  AnalyzeIn(*handle, reference_.data(), iparm, order);
  ++Counters::Global().analyses;
  matrix_ = std::move(matrix);
  handle_ = std::move(handle);
  permutation_ = std::move(order);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  facts_.seconds = took.count();
  facts_.factor_nnz = iparm[abi::kIparmFactorNnz];
  const int64_t mflop = iparm[abi::kIparmMflop];  // 0: too few to tell
  facts_.flops = mflop > 0 ? static_cast<double>(mflop) * 1e6 : -1;
  facts_.host_bytes = (iparm[abi::kIparmAnalysisKb] + iparm[abi::kIparmFactorKb]) * 1024;
  facts_.peak_host_bytes = std::max(iparm[abi::kIparmPeakKb] * 1024, facts_.host_bytes);
  analysis_bytes_ = iparm[abi::kIparmAnalysisKb] * 1024;
  CountBytes();
}

void Ring::AnalyzeIn(Handle& handle, const void* values, Iparm& iparm, Indices& permutation) const {
  const Threads threads(problem_.options);
  // In later phases too these would be answered: measured, a permutation that is asked for makes
  // each factorization a fifth longer.
  iparm[abi::kIparmPermutation] = problem_.options.permutation.none() ? 2 : 1;
  iparm[abi::kIparmFactorNnz] = iparm[abi::kIparmMflop] = -1;
  handle.Run(11, 1, values, iparm, permutation.data());
}

std::vector<int32_t> Ring::Permutation() const {
  std::vector<int32_t> order;
  for (int64_t i = 0; i < permutation_.size(); ++i) {
    order.push_back(static_cast<int32_t>(permutation_[i]));
  }
  return order;
}

Ring::Values& Ring::Held(int64_t slot, int64_t element) {
  const auto at = static_cast<size_t>(Mnum(slot, element));
  if (held_.size() < at) held_.resize(at);
  Values& held = held_[at - 1];
  if (held.values.bytes() == 0) held.values = Buffer(matrix_->bytes());
  return held;
}

const Ring::Values& Ring::Held(int64_t slot, int64_t element) const {
  return held_[static_cast<size_t>(Mnum(slot, element) - 1)];
}

void Ring::CountBytes() {
  int64_t bytes = analysis_bytes_ + factor_bytes_ + matrix_->own_bytes() + reference_.bytes();
  for (const Values& held : held_) bytes += held.values.bytes();
  bytes_ = bytes;
}

template <typename Body>
auto Ring::OrDropped(const Body& body) {
  try {
    return body();
  } catch (const Failure& failure) {
    // Measured: once memory is short the handle fails for ever, old factorizations with it. So it
    // goes with all of them, and is made anew; if a further slot did not fit, for one less.
    if (failure.code() == Code::kResourceExhausted) slots_.Withdraw(slots_.size() - 1);
    slots_.Clear();
    held_.clear();
    handle_.reset();
    matrix_.reset();
    reference_ = Buffer();
    factor_bytes_ = bytes_ = 0;
    throw;
  }
}

int64_t Ring::Factorize(int64_t run, const char* values) {
  const int64_t batch = slots_.batch();
  const int64_t slot = slots_.Choose(run, [] { return true; });
  std::vector<Numerics> numerics(static_cast<size_t>(batch));
  for (int64_t element = 0; element < batch; ++element) {
    numerics[static_cast<size_t>(element)] = OrDropped([&] {
      return FactorizeOne(slot, element,
                          values + element * problem_.nnz * BytesOf(problem_.element));
    });
  }
  slots_.Fill(slot, run, std::move(numerics), {static_cast<size_t>(batch), {0, 0}});
  CountBytes();
  return slot;
}

int64_t Ring::Run(int64_t phase, const At& at, Iparm& iparm, int64_t columns, const void* b,
                  void* x) {
  const Threads threads(problem_.options);
  return at.handle->Run(phase, at.mnum, at.values, iparm, nullptr, columns, b, x);
}

Ring::At Ring::Where(int64_t slot, int64_t element) const {
  const Values& held = Held(slot, element);
  const void* const values = held.values.data();
  if (held.matched != nullptr) return {held.matched.get(), 1, values, held.scale};
  return {handle_.get(), Mnum(slot, element), values, held.scale};
}

Numerics Ring::FactorizeOne(int64_t slot, int64_t element, const void* values) {
  Values& held = Held(slot, element);
  held.matched.reset();
  held.scale = 1;
  const int64_t count = matrix_->columns().size();
  matrix_->Gather(values, held.values.data());
  if (!solver::AllFinite(problem_.element, held.values.data(), count)) {
    Numerics numerics;
    numerics.status = solver::kNotFinite;
    return numerics;
  }
  held.scale = Scale(problem_.element, held.values.data(), count);
  Multiply(problem_.element, held.values.data(), count, held.scale);
  const Numerics numerics = FactorizeAt(Where(slot, element), iparm_);
  const bool fine = numerics.status == solver::kOk && !numerics.refine;
  if (fine || !problem_.options.rematches) return numerics;
  // Static pivots did not do. Large entries on the diagonal help, by these values alone: whatever
  // others the ring has seen, the result is the same.
  held.matched = std::make_unique<Handle>(*matrix_, mtype_, wide_, 1);
  Iparm iparm = IparmOf(problem_, true);
  Indices order = permutation_;
  const At at = Where(slot, element);
  AnalyzeIn(*at.handle, at.values, iparm, order);
  ++Counters::Global().analyses;
  return FactorizeAt(at, IparmOf(problem_, true));
}

Numerics Ring::FactorizeAt(const At& at, Iparm iparm) {
  Numerics numerics;
  numerics.lu_nnz = std::max<int64_t>(facts_.factor_nnz, 0);
  const int64_t error = Run(22, at, iparm);
  if (at.handle == handle_.get()) factor_bytes_ = iparm[abi::kIparmFactorKb] * 1024;
  ++Counters::Global().factorizations;
  numerics.perturbed_pivots = static_cast<int32_t>(iparm[abi::kIparmPerturbed]);
  if (error != 0) {
    numerics.status = problem_.options.is_definite() ? solver::kNotDefinite : solver::kBreakdown;
    numerics.failing_pivot = static_cast<int32_t>(iparm[abi::kIparmFailing] - 1);
    return numerics;
  }
  if (mtype_ == -2) {
    numerics.positive = static_cast<int32_t>(iparm[abi::kIparmPositive]);
    numerics.negative = static_cast<int32_t>(iparm[abi::kIparmNegative]);
  }
  // Static pivoting may grow entries without replacing a pivot, and says nothing of it.
  if (!problem_.options.is_definite()) Probe(at, numerics);
  return numerics;
}

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

bool Ring::Same(const solver::Slots::Found& found, const void* values) const {
  const Values& held = Held(found.slot, found.element);
  return matrix_->Same(values, held.values.data(), held.scale);
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

std::shared_ptr<Ring> RingFor(int64_t device, const Problem& problem, int64_t batch,
                              int64_t owner) {
  const auto ring = std::static_pointer_cast<Ring>(
      Cache::Global().Get(solver::RingKey(kEngine, device, problem.options.ring, batch), owner,
                          [&] { return std::make_unique<Ring>(problem, batch); }));
  if (ring->problem() == problem) return ring;
  throw Failure(Code::kInvalidArgument,
                "attribute `ring` is that of calls with other attributes or operands");
}

std::vector<std::shared_ptr<Ring>> RingsFor(int64_t device, const Problem& problem) {
  std::vector<std::shared_ptr<Ring>> rings;
  for (auto& ring : solver::RingsOf<Ring>(kEngine, device, problem.options.ring)) {
    if (ring->problem() == problem) rings.push_back(std::move(ring));
  }
  return rings;
}

}  // namespace nvstate::pardiso
