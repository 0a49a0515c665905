#include "nvstate/cufft_plan.h"

#include <climits>
#include <string_view>
#include <utility>
#include <vector>

namespace nvstate {
namespace abi {

const char* StatusName(cufftResult status) {
#define NAME(status) \
  case status:       \
    return #status
  switch (status) {
    NAME(CUFFT_SUCCESS);
    NAME(CUFFT_INVALID_PLAN);
    NAME(CUFFT_ALLOC_FAILED);
    NAME(CUFFT_INVALID_TYPE);
    NAME(CUFFT_INVALID_VALUE);
    NAME(CUFFT_INTERNAL_ERROR);
    NAME(CUFFT_EXEC_FAILED);
    NAME(CUFFT_SETUP_FAILED);
    NAME(CUFFT_INVALID_SIZE);
    NAME(CUFFT_UNALIGNED_DATA);
    NAME(CUFFT_INVALID_DEVICE);
    NAME(CUFFT_NO_WORKSPACE);
    NAME(CUFFT_NOT_IMPLEMENTED);
    NAME(CUFFT_NOT_SUPPORTED);
  }
#undef NAME
  return "an unknown cufftResult";
}

Code CodeOf(cufftResult status) {
  return status == CUFFT_ALLOC_FAILED ? Code::kResourceExhausted : Code::kInternal;
}

}  // namespace abi

namespace cufft {
namespace {

struct Types {
  abi::cudaDataType x, y, computed;
  abi::cufftType old;
};

Types TypesOf(const Transform& t) {
  const auto real = t.wide ? abi::CUDA_R_64F : abi::CUDA_R_32F;
  const auto complex = t.wide ? abi::CUDA_C_64F : abi::CUDA_C_32F;
  switch (t.kind) {
    case Kind::kC2C:
      return {complex, complex, complex, t.wide ? abi::CUFFT_Z2Z : abi::CUFFT_C2C};
    case Kind::kR2C:
      return {real, complex, complex, t.wide ? abi::CUFFT_D2Z : abi::CUFFT_R2C};
    default:
      return {complex, real, complex, t.wide ? abi::CUFFT_Z2D : abi::CUFFT_C2R};
  }
}

template <typename Integer>
Integer Narrow(int64_t value) {
  if (sizeof(Integer) == sizeof(int) && value > INT_MAX) {
    throw Failure(Code::kInvalidArgument, "cufftEstimateMany takes sizes below 2^31, got " +
                                              std::to_string(value) +
                                              "; technique \"refined\" has no such limit");
  }
  return static_cast<Integer>(value);
}

template <typename Integer>
std::vector<Integer> Narrow(const Ints& values) {
  std::vector<Integer> result;
  for (const int64_t value : values) result.push_back(Narrow<Integer>(value));
  return result;
}

// cufftXtMakePlanMany and cufftXtGetSizeMany are called alike; neither writes to its arrays.
template <typename Function>
size_t CallMany(Function* function, const char* name, abi::cufftHandle handle, const Transform& t) {
  auto n = Narrow<abi::Long>(t.layout.n);
  auto x_embed = Narrow<abi::Long>(t.layout.x.embed), y_embed = Narrow<abi::Long>(t.layout.y.embed);
  const Types types = TypesOf(t);
  size_t work = 0;
  Check(function(handle, static_cast<int>(n.size()), n.data(), x_embed.data(), t.layout.x.stride,
                 t.layout.x.dist, types.x, y_embed.data(), t.layout.y.stride, t.layout.y.dist,
                 types.y, t.layout.batch, &work, types.computed),
        name);
  return work;
}

Owned<abi::cufftHandle> Created(int device) {
  const Api& api = Opened<Api>();
  abi::cufftHandle handle;
  NVS_CHECK(api.cufftCreate(&handle));
  return {handle, [&api, device](abi::cufftHandle dying) {
            OnDevice on(device);
            api.cufftDestroy(dying);
          }};
}

size_t Refined(int device, const Transform& t) {
  const Owned<abi::cufftHandle> handle = Created(device);
  NVS_CHECK(Opened<Api>().cufftSetAutoAllocation(*handle, 0));
  return CallMany(Opened<Api>().cufftXtGetSizeMany, "cufftXtGetSizeMany", *handle, t);
}

std::string WorkText(int device, const Transform& t) {
  try {
    return std::to_string(Refined(device, t));
  } catch (const Failure&) {
    return "an unknown number of";
  }
}

std::string KeyOf(int device, const Transform& t) {
  std::string key = "cufft " + std::to_string(Opened<Api>().version);
  const auto add = [&](int64_t value) { key += " " + std::to_string(value); };
  const auto add_all = [&](const Ints& values) {
    key += " /";
    for (const int64_t value : values) add(value);
  };
  for (const int64_t value : {int64_t{device}, int64_t{t.wide}, t.layout.batch}) add(value);
  key += std::string(" ") + KindName(t.kind);
  add_all(t.layout.n);
  for (const Side* side : {&t.layout.x, &t.layout.y}) {
    add_all(side->embed);
    add(side->stride);
    add(side->dist);
  }
  return key;
}

}  // namespace

Api::Api() {
  NVS_CHECK(cufftGetVersion(&version));
  if (version < 11000) {
    throw Failure(Code::kFailedPrecondition,
                  "cuFFT 11 or newer is needed, " + std::string(Library::Path("cufft")) +
                      " is version " + std::to_string(version / 1000) + "." +
                      std::to_string(version % 1000 / 100) +
                      ". Install `nvidia-cufft` (CUDA 13) or `nvidia-cufft-cu12` (CUDA 12)");
  }
}

bool IsWide(std::string_view dtype) {
  if (dtype == "complex128") return true;
  if (dtype == "complex64") return false;
  throw Failure(Code::kInvalidArgument,
                "dtype complex64 or complex128 expected, got " + std::string(dtype));
}

Plan::Plan(int device, const Transform& t) : handle_(Created(device)) {
  // With auto-allocation on, planning would take work area that XLA lends us for each call.
  NVS_CHECK(api_.cufftSetAutoAllocation(*handle_, 0));
  work_bytes_ = CallMany(api_.cufftXtMakePlanMany, "cufftXtMakePlanMany", *handle_, t);
}

std::unique_ptr<Plan> Plan::Made(int device, const Transform& t) {
  OnDevice on(device);
  std::lock_guard planning(PlanningMutex(device));
  const size_t before = FreeBytes();
  try {
    std::unique_ptr<Plan> plan(new Plan(device, t));
    const size_t after = FreeBytes();
    plan->bytes_ = before > after ? static_cast<int64_t>(before - after) : 0;
    return plan;
  } catch (const Failure& failure) {
    if (failure.code() != Code::kResourceExhausted) throw;
    // cuFFT does not say what its tables needed; its work area is of the same order.
    throw Failure(failure.code(), std::string(failure.what()) + ": needs tables beside " +
                                      WorkText(device, t) + " bytes of work area, " +
                                      std::to_string(before) + " bytes were free");
  }
}

void Plan::Enqueue(abi::CUstream stream, const Launch& launch, const std::vector<Loop>& loops,
                   const Transform& t) {
  // The handle remembers both, and each of these calls costs more than a look.
  if (stream != stream_) {
    NVS_CHECK(api_.cufftSetStream(*handle_, stream));
    stream_ = stream;
  }
  if (launch.work != work_ && work_bytes_ != 0) {
    NVS_CHECK(api_.cufftSetWorkArea(*handle_, launch.work));
    work_ = launch.work;
  }
  ForEach(loops, [&](int64_t x_offset, int64_t y_offset) {
    NVS_CHECK(api_.cufftXtExec(*handle_, static_cast<char*>(launch.x) + x_offset * t.x_bytes(),
                               static_cast<char*>(launch.y) + y_offset * t.y_bytes(),
                               launch.inverse ? abi::kInverse : abi::kForward));
  });
}

void Plan::Execute(abi::CUstream stream, const Launch& launch, const Transform& t) {
  std::lock_guard lock(mutex_);
  Enqueue(stream, launch, t.layout.loops, t);
}

void Plan::Warm(const Launch& launch, const Transform& t) {
  std::lock_guard lock(mutex_);
  // The loops launch the same kernels again, so one launch loads them all.
  try {
    CaptureOnly([&](abi::CUstream stream) { Enqueue(stream, launch, {}, t); });
  } catch (...) {
    stream_ = nullptr;
    api_.cufftSetStream(*handle_, nullptr);
    throw;
  }
  NVS_CHECK(api_.cufftSetStream(*handle_, nullptr));  // the stream of the capture is gone
  stream_ = nullptr;
  warm_ |= Bit(launch);
}

std::shared_ptr<Plan> PlanFor(int device, const Transform& t, int64_t owner) {
  return std::static_pointer_cast<Plan>(
      Cache::Global().Get(KeyOf(device, t), owner, [&] { return Plan::Made(device, t); }));
}

size_t Estimate(int device, const Transform& t, std::string_view technique) {
  if (technique != "default" && technique != "refined") {
    throw Failure(Code::kInvalidArgument,
                  "technique default or refined expected, got " + std::string(technique));
  }
  OnDevice on(device);
  if (technique == "refined") return Refined(device, t);
  auto n = Narrow<int>(t.layout.n);
  auto x_embed = Narrow<int>(t.layout.x.embed), y_embed = Narrow<int>(t.layout.y.embed);
  size_t work = 0;
  NVS_CHECK(Opened<Api>().cufftEstimateMany(
      static_cast<int>(n.size()), n.data(), x_embed.data(), Narrow<int>(t.layout.x.stride),
      Narrow<int>(t.layout.x.dist), y_embed.data(), Narrow<int>(t.layout.y.stride),
      Narrow<int>(t.layout.y.dist), TypesOf(t).old, Narrow<int>(t.layout.batch), &work));
  return work;
}

}  // namespace cufft
}  // namespace nvstate
