// The FFI target nvstate_cudss_fused_v1: factorize and solve in one, for XLA's CUDA graphs.
//
//   indptr, indices, permutation, reference, values [1, nnz], b [1, k, n] -> x [1, k, n]
//
// Each call site has a handle, a data object and a stream of its own for each device, and leaves
// nothing behind: no ticket, no status. Initialize analyses a host copy of the pattern that the
// plan has registered, and runs both phases once, so that under capture nothing is loaded or
// allocated. Execute sets pointers and enqueues. Copies into buffers of the site's own gave wrong
// results in graphs, for a reason unknown: so there are none.

#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "nvstate/cache.h"
#include "nvstate/cudss_ring.h"
#include "nvstate/ffi.h"

namespace nvstate::cudss {
namespace {

[[noreturn]] void Invalid(const std::string& text) { throw Failure(Code::kInvalidArgument, text); }

struct Spec {
  static constexpr const char* kOperation = "direct_solver";
  static constexpr int64_t kVersion = 1;
  explicit Spec(Attributes& a) : request(a), pattern(Patterns::Global().Find(request.options)) {
    const solver::Options& o = request.options;
    const auto refuse = [](const char* what) {
      Invalid(std::string(what) + " cannot be factorized and solved in one captured call");
    };
    if (request.call.phase != solver::Phase::kFactorizeSolve) refuse("another phase");
    // One that is not definite would spoil all later ones: the library's error indicator stays
    // until it is reset, which waits.
    if (o.is_definite()) refuse("an spd or hpd matrix");
    if (o.matching != "none" || !o.reference.none()) refuse("a matrix with reference values");
    if (o.deterministic) refuse("a deterministic plan");
    if (!o.hybrid_memory.empty() || o.hybrid_execute) refuse("a plan with a hybrid mode");
    if (request.call.transposed && IsColamd(o))
      refuse("a transposed system with a COLAMD reordering");
  }
  solver::Request request;
  std::shared_ptr<const HostPattern> pattern;  // kept for all devices; null: not registered yet
};

// Ones on the diagonal: a system that can be factorized, if the pattern has a full diagonal.
std::vector<char> Identity(const HostPattern& pattern, solver::Element element) {
  const auto bytes = static_cast<size_t>(solver::BytesOf(element));
  std::vector<char> values(static_cast<size_t>(pattern.nnz) * bytes);
  const solver::Pattern view = pattern.view();
  const float single = 1;
  const double wide = 1;
  for (int64_t row = 0; row < view.n; ++row) {
    for (int64_t p = view.Offset(row); p < view.Offset(row + 1); ++p) {
      if (view.Index(p) != row) continue;
      char* const at = values.data() + static_cast<size_t>(p) * bytes;
      solver::IsSingle(element) ? std::memcpy(at, &single, sizeof(single))
                                : std::memcpy(at, &wide, sizeof(wide));
    }
  }
  return values;
}

class Fused {  // of a site and device; it is made with the device current
 public:
  Fused(int device, const solver::Request& request, const Shape& shape, const HostPattern& pattern,
        int64_t k)
      : context_(device),
        pattern_(std::in_place, context_, pattern),
        config_(request.options, 0, TotalBytes()),
        k_(k) {
    config_.SetTransposed(request.call.transposed);
    system_ = std::make_unique<System>(context_, shape, request.options, *pattern_, config_,
                                       nullptr, Order::Given(request.options, pattern));
    Warm(shape, pattern);
    bytes_ = context_.memory().bytes();
    Cache::Global().own_workspace_bytes += bytes_;
  }
  ~Fused() {
    Cache::Global().own_workspace_bytes -= bytes_;
    try {
      OnDevice on(context_.device());
      context_.Wait();
      system_.reset();
      pattern_.reset();
    } catch (...) {  // the driver has shut down
    }
  }

  void Execute(abi::CUstream stream, const void* values, const void* b, void* x) {
    std::lock_guard lock(mutex_);
    Branch branch(context_, stream);
    system_->Factorize(values, false);
    system_->Solve(b, x, k_);
  }

 private:
  void Warm(const Shape& shape, const HostPattern& pattern) {
    const std::vector<char> ones = Identity(pattern, shape.element);
    const auto size = static_cast<size_t>(k_ * shape.vector_bytes());
    const std::vector<char> zeros(size);
    {
      const Buffer values(context_, ones.data(), ones.size()), b(context_, zeros.data(), size),
          x(context_, size);
      system_->Factorize(values.data(), false);
      context_.memory().Keep();  // what a solve frees, the next asks for, under capture
      for (int i = 0; i < 2; ++i) system_->Solve(b.data(), x.data(), k_);
      context_.Wait();
      context_.memory().StopKeeping();
    }
    context_.memory().Keep();
  }

  Context context_;
  std::optional<DevicePattern> pattern_;
  Config config_;
  const int64_t k_;
  std::unique_ptr<System> system_;
  int64_t bytes_ = 0;
  std::mutex mutex_;
};

using Site = SiteOf<Spec, Fused>;

struct Sizes {
  Shape shape;
  int64_t k;
};

Sizes SizesOf(const HostPattern& pattern, ffi::AnyBuffer indptr, ffi::AnyBuffer indices,
              ffi::AnyBuffer values, ffi::AnyBuffer b, ffi::AnyBuffer x) {
  const auto fits = [](ffi::AnyBuffer buffer, std::vector<int64_t> dims) {
    const auto found = buffer.dimensions();
    return found.size() == dims.size() && std::equal(dims.begin(), dims.end(), found.begin());
  };
  const auto is = [](ffi::AnyBuffer buffer, int bytes) {
    return buffer.element_type() == (bytes == 4 ? ffi::S32 : ffi::S64);
  };
  const int64_t k = b.dimensions().size() == 3 ? b.dimensions()[1] : 0;
  if (!fits(values, {1, pattern.nnz}) || !fits(b, {1, k, pattern.n}) ||
      !fits(x, {1, k, pattern.n}) || b.element_type() != values.element_type() ||
      x.element_type() != values.element_type() || !is(indptr, pattern.offset_bytes) ||
      !is(indices, pattern.index_bytes)) {
    Invalid("values [1, nnz], b and x [1, k, n] and the pattern's index types expected");
  }
  const solver::Element element = solver::ElementNamed(NameOf(nvstate::TypedOf(values).type));
  return {{pattern.n, pattern.nnz, 1, element, pattern.offset_bytes, pattern.index_bytes}, k};
}

auto Description(In values, In b) {
  return [values, b] {
    return "cuDSS, values " + nvstate::TypeOf(values) + ", b " + nvstate::TypeOf(b);
  };
}

// Before every execution, never under capture.
ffi::Error Initialize(int32_t device, Site* site, In indptr, In indices, In, In, In values, In b,
                      Out x) {
  const Spec& spec = site->spec();
  return Guard(Spec::kOperation, Description(values, b), [&] {
    if (b.element_count() == 0 || site->Find(device, {values, b}) != nullptr) return;
    const auto pattern =
        spec.pattern != nullptr ? spec.pattern : Patterns::Global().Find(spec.request.options);
    if (pattern == nullptr) {
      throw Failure(Code::kFailedPrecondition,
                    "this program's pattern is not known here: plan this pattern in this process "
                    "first, with nvstate.direct_solver.plan");
    }
    const Sizes sizes = SizesOf(*pattern, indptr, indices, values, b, *x);
    OnDevice on(device);
    site->Fill(device, {values, b},
               std::make_shared<Fused>(device, spec.request, sizes.shape, *pattern, sizes.k));
  });
}

ffi::Error Execute(abi::CUstream stream, int32_t device, Site* site, In, In, In, In, In values,
                   In b, Out x) {
  return Guard(Spec::kOperation, Description(values, b), [&] {
    if (b.element_count() == 0) return;
    const std::shared_ptr<Fused> fused = site->Find(device, {values, b});
    if (fused == nullptr) {
      throw Failure(Code::kFailedPrecondition, "executed before it was initialized");
    }
    OnDevice on(device);
    fused->Execute(stream, values.untyped_data(), b.untyped_data(), x->untyped_data());
  });
}

const auto buffers = [](auto binding) {
  return std::move(binding)
      .template Arg<In>()
      .template Arg<In>()
      .template Arg<In>()
      .template Arg<In>()
      .template Arg<In>()
      .template Arg<In>()
      .template Ret<ffi::AnyBuffer>();
};

}  // namespace

NVS_TARGET(nvstate_cudss_fused_v1, Site, Initialize, Execute, buffers);

}  // namespace nvstate::cudss
