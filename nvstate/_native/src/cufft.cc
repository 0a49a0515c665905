// The FFI target nvstate_cufft_v1: one FFT along axes that may lie anywhere among the batch's.
//
//   x                            -> y, workspace             c2c, r2c
//   x                            -> y, scratch, workspace    c2r, whose input cuFFT may overwrite
//
// The workspace is left out where lowering knows that none is needed: XLA allocates per execution.
// `scratch` has x's type; XLA aliases them unless x is still needed, or the partitioner dropped the
// alias: so the pointers decide. c2c is in place where y is x.

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "nvstate/cache.h"
#include "nvstate/cufft_plan.h"
#include "nvstate/device.h"
#include "nvstate/ffi.h"

namespace nvstate::cufft {
namespace {

struct Spec {
  static constexpr const char* kOperation = "fft";
  static constexpr int64_t kVersion = 1;

  explicit Spec(Attributes& a)
      : kind(KindOf(a.String("kind"))),
        inverse(a.Int("inverse") != 0),
        owner(a.Int("owner")),
        lengths(a.Ints("lengths")),
        layout(a.Ints("layout")) {
    if ((kind == Kind::kR2C && inverse) || (kind == Kind::kC2R && !inverse)) {
      throw Failure(Code::kInvalidArgument, "r2c is forward and c2r inverse");
    }
    if (layout.size() < lengths.size() || lengths.empty()) {
      throw Failure(Code::kInvalidArgument, "lengths expected, and at least as many dimensions");
    }
    // What the smallest buffers show to be wrong need not wait for the real ones.
    Ints x(layout.size(), 1);
    std::copy(lengths.begin(), lengths.end(), x.end() - static_cast<int64_t>(lengths.size()));
    Ints y = x;
    if (kind != Kind::kC2C) (kind == Kind::kR2C ? y : x).back() = lengths.back() / 2 + 1;
    LayoutOf({kind, x, y, lengths, layout});
  }

  Kind kind;
  bool inverse;
  int64_t owner;  // which plan of Python's this is for
  Ints lengths;
  Ints layout;
};

class OwnWork {  // where XLA's work area was planned too small: a site's, as sites may run at once
 public:
  OwnWork(int32_t device, size_t bytes) : bytes_(bytes), memory_(Allocated(device, bytes)) {
    ++Cache::Global().own_workspaces;
    Cache::Global().own_workspace_bytes += bytes_;
  }
  ~OwnWork() { Cache::Global().own_workspace_bytes -= bytes_; }
  void* data() const { return reinterpret_cast<void*>(*memory_); }

 private:
  const int64_t bytes_;
  const Owned<abi::CUdeviceptr> memory_;
};

struct Fitted {  // a site's plan for its local dimensions on one device
  Fitted(Transform t, std::shared_ptr<Plan> p) : transform(std::move(t)), plan(std::move(p)) {}
  const Transform transform;
  const std::shared_ptr<Plan> plan;
  std::optional<OwnWork> own_work;
};

using Site = SiteOf<Spec, Fitted>;

bool IsWideOf(Kind kind, ffi::AnyBuffer x, ffi::AnyBuffer y) {
  const auto real_x = kind == Kind::kR2C, real_y = kind == Kind::kC2R;
  for (const bool wide : {false, true}) {
    const auto real = wide ? ffi::F64 : ffi::F32, complex = wide ? ffi::C128 : ffi::C64;
    if (x.element_type() == (real_x ? real : complex) &&
        y.element_type() == (real_y ? real : complex)) {
      return wide;
    }
  }
  throw Failure(Code::kInvalidArgument,
                "operand and result have types that this kind does not take");
}

Transform TransformOf(const Spec& spec, ffi::AnyBuffer x, ffi::AnyBuffer y) {
  const auto dims = [](ffi::AnyBuffer b) {
    return Ints(b.dimensions().begin(), b.dimensions().end());
  };
  return {spec.kind, IsWideOf(spec.kind, x, y),
          LayoutOf({spec.kind, dims(x), dims(y), spec.lengths, spec.layout})};
}

// The results after y, and the pointers of a launch.
struct Call {
  Call(const Spec& spec, In x, Out y, ffi::RemainingRets rest) {
    const size_t scratches = spec.kind == Kind::kC2R ? 1 : 0;
    if (rest.size() < scratches || rest.size() > scratches + 1) {
      throw Failure(Code::kInvalidArgument,
                    std::to_string(scratches) +
                        " hidden results expected beside a workspace, got " +
                        std::to_string(rest.size()));
    }
    if (rest.size() > scratches) work = WorkspaceOf(**rest.get<ffi::AnyBuffer>(scratches));
    launch = {spec.inverse, x.untyped_data(), y->untyped_data(), work.data};
    if (spec.kind == Kind::kC2R) {
      const ffi::AnyBuffer scratch = **rest.get<ffi::AnyBuffer>(0);
      if (scratch.size_bytes() != x.size_bytes() || scratch.element_type() != x.element_type()) {
        throw Failure(Code::kInvalidArgument, "the scratch is not of the operand's type");
      }
      launch.x = scratch.untyped_data();
      if (launch.x != x.untyped_data()) copied = x.size_bytes();
    }
  }

  // Where the plan is known: its own work area if XLA's is too small, and what must hold.
  void Fit(const Fitted& fitted) {
    if (fitted.own_work.has_value()) launch.work = fitted.own_work->data();
    const Transform& t = fitted.transform;
    const auto misaligned = [](void* p, int64_t bytes) {
      return reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(bytes) != 0;
    };
    if (misaligned(launch.x, t.x_bytes()) || misaligned(launch.y, t.y_bytes())) {
      throw Failure(Code::kInvalidArgument, "a buffer is not aligned to its elements");
    }
    if (launch.x == launch.y && !(t.kind == Kind::kC2C && t.layout.x == t.layout.y)) {
      throw Failure(Code::kInvalidArgument, "in place, operand and result must have one layout");
    }
  }

  Workspace work{nullptr, 0};
  Launch launch;
  size_t copied = 0;  // bytes of x to be copied to the scratch first
};

auto Description(const Spec& spec, ffi::AnyBuffer x, ffi::AnyBuffer y) {
  return [&spec, x, y] {
    int64_t batch = 1;
    const auto dims = y.dimensions();
    for (size_t i = 0; i + spec.lengths.size() < dims.size(); ++i) batch *= dims[i];
    std::string lengths;
    for (const int64_t n : spec.lengths)
      lengths += (lengths.empty() ? "" : ", ") + std::to_string(n);
    return std::string(spec.inverse ? "inverse " : "forward ") + KindName(spec.kind) + " of " +
           TypeOf(x) + " to " + TypeOf(y) + ", lengths (" + lengths + "), batch " +
           std::to_string(batch);
  };
}

// Before every execution, never under capture. Mostly there is nothing left to do.
ffi::Error Initialize(int32_t device, Site* site, In x, Out y, ffi::RemainingRets rest) {
  const Spec& spec = site->spec();
  return Guard("fft", Description(spec, x, *y), [&] {
    if (y->element_count() == 0) return;
    Call call(spec, x, y, rest);
    std::shared_ptr<Fitted> fitted = site->Find(device, {x, *y});
    const bool found = fitted != nullptr;
    if (!found) {
      Transform transform = TransformOf(spec, x, *y);
      std::shared_ptr<Plan> plan = PlanFor(device, transform, spec.owner);
      fitted = std::make_shared<Fitted>(std::move(transform), std::move(plan));
      const size_t needed = fitted->plan->work_bytes();
      if (needed > call.work.bytes) fitted->own_work.emplace(device, needed);
    }
    fitted->plan->Use();
    call.Fit(*fitted);
    if (!fitted->plan->IsWarm(call.launch)) {
      OnDevice on(device);
      fitted->plan->Warm(call.launch, fitted->transform);
    }
    if (!found) site->Fill(device, {x, *y}, std::move(fitted));
  });
}

ffi::Error Execute(abi::CUstream stream, int32_t device, Site* site, In x, Out y,
                   ffi::RemainingRets rest) {
  const Spec& spec = site->spec();
  return Guard("fft", Description(spec, x, *y), [&] {
    if (y->element_count() == 0) return;
    Call call(spec, x, y, rest);
    const std::shared_ptr<Fitted> fitted = site->Find(device, {x, *y});
    if (fitted == nullptr) {
      throw Failure(Code::kFailedPrecondition, "executed before it was initialized");
    }
    call.Fit(*fitted);
    OnDevice on(device);
    if (call.copied != 0) {
      const auto pointer = [](void* p) { return reinterpret_cast<abi::CUdeviceptr>(p); };
      NVS_CHECK(Opened<Driver>().cuMemcpyDtoDAsync_v2(
          pointer(call.launch.x), pointer(x.untyped_data()), call.copied, stream));
    }
    fitted->plan->Execute(stream, call.launch, fitted->transform);
  });
}

const auto buffers = [](auto binding) {
  return std::move(binding).template Arg<In>().template Ret<ffi::AnyBuffer>().RemainingRets();
};

}  // namespace

NVS_TARGET(nvstate_cufft_v1, Site, Initialize, Execute, buffers);

}  // namespace nvstate::cufft
