#include "nvstate/cudss_ring.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>
#include <vector>

namespace nvstate::cudss {
namespace {

// The library's uniform batches take none of these. Of a batch it tells one number of pivots, one
// inertia: where each element wants its own, or its own pivots, it has its own data object.
bool MayBeUniform(const solver::Options& o, int64_t batch) {
  return batch > 1 && o.matching == "none" && !o.deterministic && o.hybrid_memory.empty() &&
         !o.hybrid_execute && !IsColamd(o) && !o.reuse_pivots && !o.has_inertia();
}

}  // namespace

Branch::~Branch() {
  try {
    context_.Join(xla_);
  } catch (...) {
    // XLA's stream cannot be told to wait. So the host does, and if that fails too, the device is
    // lost and nothing runs any more.
    try {
      context_.Wait();
    } catch (...) {
    }
  }
}

Ring::Ring(int device, const solver::Options& options, const Shape& shape,
           const HostPattern& pattern, const void* reference)
    : options_(options),
      shape_(shape),
      context_(device),
      pattern_(std::in_place, context_, pattern),
      given_(Order::Given(options, pattern)),
      order_(given_),
      single_(options, 0, TotalBytes()),
      uniform_(MayBeUniform(options, shape.batch)),
      keeps_values_(options.refinement_steps > 0 || options.hybrid_execute),
      slots_(options.slots, shape.batch) {
  const solver::Digest found = reference == nullptr
                                   ? solver::Digest{}
                                   : solver::ReferenceDigest(shape.element, reference, shape.nnz);
  solver::CheckDigest("reference values", options.reference, found);
  if (options.matching != "none" && reference == nullptr) {
    throw Failure(Code::kInvalidArgument, "matching `" + options.matching +
                                              "` goes by values: plan with A's, which are then "
                                              "kept as reference");
  }
  if (reference != nullptr) {
    const auto* const first = static_cast<const char*>(reference);
    std::vector<char> values(first, first + shape.value_bytes());
    if (options.has_inertia()) {  // in units as the values come
      solver::Multiply(shape.element, values.data(), shape.nnz,
                       solver::Scale(shape.element, values.data(), shape.nnz));
    }
    reference_ = Buffer(context_, values.data(), values.size());
  }
  if (uniform_) batched_.emplace(options, shape.batch, TotalBytes());
  if (options.hybrid_execute) {
    column_ = Buffer(context_, static_cast<size_t>(2 * shape.vector_bytes()));
  }
  const auto start = std::chrono::steady_clock::now();
  if (uniform_) held_.emplace_back().all = Analyzed(*batched_);
  const System& first = Any();
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  facts_ = FactsOf(first, taken.count());
  // Of matching's permutation the user's would be a part too: there an analysis is made anew.
  if (order_.permutation.empty() && options.matching == "none" && !IsColamd(options)) {
    order_ = first.Replay();
  }
}

Ring::~Ring() {
  try {
    OnDevice on(context_.device());
    context_.Wait();
    held_.clear();
    passing_.reset();
    column_ = Buffer();
    reference_ = Buffer();
    pattern_.reset();
  } catch (...) {  // the driver has shut down
  }
}

std::unique_ptr<System> Ring::Analyzed(Config& config) {
  return std::make_unique<System>(context_, shape_, options_, *pattern_, config, reference_.data(),
                                  order_);
}

System& Ring::Any() {
  for (const Held& held : held_) {
    if (held.all != nullptr) return *held.all;
    for (const auto& single : held.singles) {
      if (single != nullptr) return *single;
    }
  }
  if (held_.empty()) held_.emplace_back();  // a failure has dropped them
  auto& singles = held_.front().singles;
  singles.resize(static_cast<size_t>(shape_.batch));
  singles.front() = Analyzed(single_);
  return *singles.front();
}

solver::Facts Ring::FactsOf(const System& system, double seconds) const {
  solver::Facts facts;
  facts.seconds = seconds;
  facts.factor_nnz = system.NumberOr(abi::CUDSS_DATA_LU_NNZ, sizeof(int64_t), -1);
  facts.flops = static_cast<double>(system.NumberOr(abi::CUDSS_DATA_FLOPS, sizeof(int64_t), -1));
  facts.superpanels =
      system.NumberOr(abi::CUDSS_DATA_NSUPERPANELS, static_cast<size_t>(shape_.index_bytes), -1);
  int64_t estimates[16];
  const std::vector<char> bytes = system.Array(abi::CUDSS_DATA_MEMORY_ESTIMATES, sizeof(estimates));
  if (bytes.size() == sizeof(estimates)) {
    std::memcpy(estimates, bytes.data(), sizeof(estimates));
    facts.device_bytes = estimates[0];
    facts.peak_device_bytes = estimates[1];
    facts.host_bytes = estimates[2];
    facts.peak_host_bytes = estimates[3];
    if (!options_.hybrid_memory.empty()) facts.hybrid_min_bytes = estimates[4];
  }
  return facts;
}

std::vector<char> Ring::Array(abi::cudssDataParam_t parameter, size_t bytes) {
  if (parameter == abi::CUDSS_DATA_ND_PARTITION_TREE) return Any().Tree();
  return Any().Array(parameter, bytes);
}

const char* Ring::At(const void* values, int64_t element) const {
  return static_cast<const char*>(values) + element * shape_.value_bytes();
}

bool Ring::CanGrow() const {
  return context_.memory().bytes() / std::max<int64_t>(slots_.size(), 1) <=
         static_cast<int64_t>(FreeBytes());
}

Ring::Held& Ring::Prepared(int64_t slot) {
  const auto at = static_cast<size_t>(slot);
  if (held_.size() <= at) held_.resize(at + 1);
  Held& held = held_[at];
  held.matched.clear();
  if (uniform_) {
    if (held.all == nullptr) held.all = Analyzed(*batched_);
  } else {
    held.all.reset();
    held.singles.resize(static_cast<size_t>(shape_.batch));
    for (auto& single : held.singles) {
      if (single == nullptr) single = Analyzed(single_);
    }
  }
  if (keeps_values_ && held.values.bytes() == 0) {
    held.values = Buffer(context_, static_cast<size_t>(shape_.batch * shape_.value_bytes()));
  }
  return held;
}

void Ring::Settle() noexcept {
  try {
    context_.Wait();
  } catch (...) {  // the device is lost
  }
}

void Ring::OrEmptied(int64_t slot, const std::function<void()>& body) {
  try {
    body();
  } catch (...) {
    // What the library leaves behind is not known, and its memory may be what is missing.
    Settle();
    if (static_cast<size_t>(slot) < held_.size()) held_[static_cast<size_t>(slot)] = Held{};
    slots_.Empty(slot);
    throw;
  }
}

std::shared_ptr<Ring> RingFor(int device, const solver::Request& request, const Shape& shape,
                              const std::function<std::unique_ptr<Ring>()>& make) {
  const std::string key = solver::RingKey(Ring::kEngine, device, request.options.ring, shape.batch);
  std::shared_ptr<NativePlan> plan =
      Cache::Global().Get(key, request.call.owner, [&] { return make(); });
  auto ring = std::static_pointer_cast<Ring>(std::move(plan));
  if (!(ring->shape() == shape) || ring->options() != request.options) {
    throw Failure(Code::kInvalidArgument, "ring `" + request.options.ring +
                                              "` is another plan's: its options or sizes differ");
  }
  return ring;
}

}  // namespace nvstate::cudss
