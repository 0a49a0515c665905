// How a ring factorizes into a slot, and sees whether that solves.

#include <algorithm>
#include <cstring>
#include <utility>

#include "nvstate/cudss_ring.h"

namespace nvstate::cudss {
namespace {

using solver::Numerics;

// Solves whose entries did not grow come back within some hundred roundoffs (2e-14 was measured, of
// a million unknowns): beyond ten times that a solution is refined.
constexpr double kFewDigits = 5000;

}  // namespace

void Ring::FactorizeAndSolve(bool transposed, const void* values, const void* b, void* x,
                             int64_t k) {
  Any();  // whose order an analysis replays
  if (passing_ == nullptr) passing_ = Analyzed(single_);
  try {
    passing_->Factorize(values, false);
    SolveWith(*passing_, transposed, std::max<int64_t>(options_.refinement_steps, 0), b, x, k);
  } catch (...) {
    Settle();
    passing_.reset();  // what the library leaves behind is not known
    throw;
  }
  ++solver::Counters::Global().factorizations;
}

int64_t Ring::Factorize(int64_t run, const void* values, const std::vector<Print>& prints,
                        const void* probe) {
  int64_t at = slots_.Choose(run, [this] { return CanGrow(); });
  std::vector<Numerics> numerics;
  const auto attempt = [&] {
    OrEmptied(at, [&] { numerics = Attempt(at, values, prints, probe); });
  };
  try {
    attempt();
  } catch (const Failure& failure) {
    // One slot more did not fit: then those there are must do.
    if (failure.code() != Code::kResourceExhausted || !slots_.Withdraw(at)) throw;
    held_.resize(std::min(held_.size(), static_cast<size_t>(slots_.size())));
    at = slots_.Choose(0, [] { return false; });
    attempt();
  }
  std::vector<std::array<uint32_t, 2>> fingerprints;
  for (const Print& print : prints) fingerprints.push_back({print[0], print[1]});
  slots_.Fill(at, run, std::move(numerics), std::move(fingerprints));
  return at;
}

std::vector<Numerics> Ring::Attempt(int64_t slot, const void* values,
                                    const std::vector<Print>& prints, const void* probe) {
  for (;;) {
    bool again = false;
    Held& held = Prepared(slot);
    const void* from = values;
    if (keeps_values_) {
      CopyOnDevice(held.values.data(), values, held.values.bytes(), context_.stream());
      from = held.values.data();
    }
    std::vector<Numerics> numerics = held.all != nullptr
                                         ? FactorizeAll(held, from, prints, &again)
                                         : FactorizeSingles(held, from, prints, &again);
    if (again) continue;
    // Static pivoting may grow entries without replacing a pivot, and says nothing of it.
    if (!options_.is_definite()) {
      Probe(held, from, probe, numerics, std::vector<bool>(numerics.size(), true));
    }
    if (options_.rematches && Rematch(held, from, probe, numerics) && held.all != nullptr) {
      uniform_ = false;  // from here on, as after replaced pivots
      continue;
    }
    const bool refines = std::any_of(numerics.begin(), numerics.end(),
                                     [this](const Numerics& one) { return StepsOf(one) > 0; });
    if (!refines || keeps_values_) return numerics;
    keeps_values_ = true;  // and factorize again, from what the refinement may read later
  }
}

std::vector<Numerics> Ring::FactorizeAll(Held& held, const void* values,
                                         const std::vector<Print>& prints, bool* again) {
  std::vector<Numerics> numerics(prints.size());
  bool any_finite = false;
  for (size_t i = 0; i < prints.size(); ++i) {
    if (prints[i][2] != 0) numerics[i].status = solver::kNotFinite;
    any_finite |= prints[i][2] == 0;
  }
  if (!any_finite) return numerics;
  batched_->SetElement(-1);
  held.all->ResetInfo();
  held.all->Factorize(values, false);
  solver::Counters::Global().factorizations += shape_.batch;
  const Outcome outcome = held.all->Result(false);
  if (outcome.info != 0 || outcome.pivots != 0) {
    // The sums do not say whose, and after one that is not definite later ones come out wrong. This
    // ring's batches are factorized one by one from here on.
    uniform_ = false;
    *again = true;
    return {};
  }
  for (Numerics& one : numerics) {
    if (!one.failed()) one.lu_nnz = std::max<int64_t>(facts_.factor_nnz, 0);
  }
  return numerics;
}

void Ring::FactorizeOne(System& system, const void* values) {
  auto& counters = solver::Counters::Global();
  if (options_.reuse_pivots && !system.referenced) {
    system.ResetInfo();
    system.Factorize(reference_.data(), false);
    system.referenced = true;
    ++counters.factorizations;
  }
  system.ResetInfo();
  system.Factorize(values, options_.reuse_pivots);
  ++(options_.reuse_pivots ? counters.refactorizations : counters.factorizations);
}

std::vector<Numerics> Ring::FactorizeSingles(Held& held, const void* values,
                                             const std::vector<Print>& prints, bool* again) {
  std::vector<Numerics> numerics(prints.size());
  for (size_t i = 0; i < prints.size(); ++i) {  // all are enqueued before one is waited for
    if (prints[i][2] != 0) {
      numerics[i].status = solver::kNotFinite;
    } else {
      FactorizeOne(*held.singles[i], At(values, static_cast<int64_t>(i)));
    }
  }
  for (size_t i = 0; i < prints.size(); ++i) {
    if (numerics[i].failed()) continue;
    System& system = *held.singles[i];
    numerics[i] = NumericsOf(system, system.Result(options_.has_inertia()));
    if (numerics[i].status != solver::kPerturbed) continue;
    if (StepsOf(numerics[i]) > 0 && !keeps_values_ && !options_.rematches) {
      keeps_values_ = true;  // and factorize again, from what the refinement may read later
      *again = true;
      return {};
    }
  }
  return numerics;
}

Numerics Ring::NumericsOf(System& system, const Outcome& outcome) {
  Numerics numerics;
  numerics.lu_nnz = facts_.factor_nnz;
  if (IsColamd(options_) || numerics.lu_nnz < 0) {  // else the analysis knows it
    numerics.lu_nnz = system.NumberOr(abi::CUDSS_DATA_LU_NNZ, sizeof(int64_t), 0);
  }
  numerics.perturbed_pivots = static_cast<int32_t>(outcome.pivots);
  numerics.positive = static_cast<int32_t>(outcome.positive);
  numerics.negative = static_cast<int32_t>(outcome.negative);
  if (outcome.info != 0) {
    numerics.status = options_.is_definite() ? solver::kNotDefinite : solver::kBreakdown;
    numerics.failing_pivot = static_cast<int32_t>(outcome.info - 1);  // in the engine's order
  } else if (outcome.pivots > 0) {
    numerics.status = solver::kPerturbed;
  }
  return numerics;
}

bool Ring::Rematch(Held& held, const void* values, const void* probe,
                   std::vector<Numerics>& numerics) {
  std::vector<bool> which(numerics.size());
  for (size_t i = 0; i < which.size(); ++i) {
    which[i] = numerics[i].status == solver::kPerturbed || numerics[i].status == solver::kBreakdown;
  }
  if (std::none_of(which.begin(), which.end(), [](bool one) { return one; })) return false;
  if (held.all != nullptr) return true;
  if (!matching_) {
    solver::Options options = options_;
    options.matching = "product";
    matching_.emplace(options, 0, TotalBytes());
  }
  held.matched.resize(which.size());
  for (size_t i = 0; i < which.size(); ++i) {
    if (!which[i]) continue;
    // By these values alone: whatever others the ring has seen, the result is the same.
    const char* const own = At(values, static_cast<int64_t>(i));
    held.matched[i] =
        std::make_unique<System>(context_, shape_, options_, *pattern_, *matching_, own, given_);
    held.matched[i]->Factorize(own, false);
    ++solver::Counters::Global().factorizations;
    numerics[i] = NumericsOf(*held.matched[i], held.matched[i]->Result(options_.has_inertia()));
  }
  Probe(held, values, probe, numerics, which);
  return true;
}

System& Ring::SystemOf(Held& held, int64_t element) const {
  const auto at = static_cast<size_t>(element);
  if (held.all != nullptr) return *held.all;
  if (at < held.matched.size() && held.matched[at] != nullptr) return *held.matched[at];
  return *held.singles[at];
}

void Ring::Probe(Held& held, const void* values, const void* probe, std::vector<Numerics>& numerics,
                 const std::vector<bool>& which) {
  const auto skipped = [&](size_t i) { return !which[i] || numerics[i].failed(); };
  bool all_skipped = true;
  for (size_t i = 0; i < numerics.size(); ++i) all_skipped &= skipped(i);
  if (all_skipped) return;
  const auto bytes = static_cast<size_t>(shape_.batch * shape_.vector_bytes());
  Buffer own;
  if (probe == nullptr) {
    own = Buffer(context_, bytes);
    WriteProbes(values, own);
    probe = own.data();
  }
  const Buffer x(context_, bytes);
  const int64_t step = shape_.vector_bytes();
  if (held.all != nullptr) {
    batched_->SetElement(-1);
    SolveWith(*held.all, false, StepsOf(Numerics{}), probe, x.data(), 1);
  } else {
    for (size_t i = 0; i < numerics.size(); ++i) {
      if (skipped(i)) continue;
      const int64_t at = static_cast<int64_t>(i) * step;
      SolveWith(SystemOf(held, static_cast<int64_t>(i)), false, StepsOf(numerics[i]),
                static_cast<const char*>(probe) + at, static_cast<char*>(x.data()) + at, 1);
    }
  }
  const int64_t each = solver::BytesOf(shape_.element);
  for (size_t i = 0; i < numerics.size(); ++i) {
    if (skipped(i)) continue;
    double error = 0;
    const auto see = [&](const void* block, size_t at, size_t size) {
      const double found =
          solver::ProbeError(shape_.element, block, static_cast<int64_t>(at) / each,
                             static_cast<int64_t>(size) / each);
      error = std::max(error, found);
    };
    context_.ReadInBlocks(static_cast<const char*>(x.data()) + static_cast<int64_t>(i) * step,
                          static_cast<size_t>(step), context_.stream(), see);
    if (error > solver::kProbeLimit) numerics[i].status = solver::kBreakdown;
    numerics[i].refine = error > kFewDigits * solver::Roundoff(shape_.element);
  }
}

void Ring::WriteProbes(const void* values, const Buffer& b) {
  const auto size = [](int64_t bytes) { return static_cast<size_t>(bytes); };
  std::vector<char> indptr(size((shape_.n + 1) * shape_.offset_bytes));
  std::vector<char> indices(size(shape_.nnz * shape_.index_bytes));
  std::vector<char> host(size(shape_.batch * shape_.value_bytes()));
  std::vector<char> vectors(size(shape_.batch * shape_.vector_bytes()));
  context_.Read(indptr.data(), pattern_->indptr(), indptr.size(), context_.stream());
  context_.Read(indices.data(), pattern_->indices(), indices.size(), context_.stream());
  context_.Read(host.data(), values, host.size(), context_.stream());
  const solver::Pattern pattern{
      shape_.n, shape_.nnz, indptr.data(), shape_.offset_bytes, indices.data(), shape_.index_bytes};
  for (int64_t i = 0; i < shape_.batch; ++i) {
    solver::ProbeProduct(options_, pattern, shape_.element, host.data() + i * shape_.value_bytes(),
                         false, vectors.data() + i * shape_.vector_bytes());
  }
  context_.Write(b.data(), vectors.data(), vectors.size());
}

}  // namespace nvstate::cudss
