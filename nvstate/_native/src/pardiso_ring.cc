// A ring of PARDISO's factorizations: one handle, a matrix number for each slot and element.

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "nvstate/pardiso.h"

namespace nvstate::pardiso {
namespace {

using solver::Counters;

constexpr const char* kEngine = "pardiso";

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

void Ring::OrDropped(const std::function<void()>& body) {
  try {
    body();
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
    OrDropped([&] {
      numerics[static_cast<size_t>(element)] =
          FactorizeOne(slot, element, values + element * problem_.nnz * BytesOf(problem_.element));
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

bool Ring::Same(const solver::Slots::Found& found, const void* values) const {
  const Values& held = Held(found.slot, found.element);
  return matrix_->Same(values, held.values.data(), held.scale);
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
