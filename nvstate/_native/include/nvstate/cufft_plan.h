// cuFFT's plans in the process's cache, apart from XLA: Python makes them too, while lowering.

#ifndef NVSTATE_CUFFT_PLAN_H_
#define NVSTATE_CUFFT_PLAN_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

#include "nvstate/abi/cufft.h"
#include "nvstate/cache.h"
#include "nvstate/device.h"
#include "nvstate/layout.h"
#include "nvstate/library.h"
#include "nvstate/owned.h"

namespace nvstate {
namespace abi {
const char* StatusName(cufftResult status);
Code CodeOf(cufftResult status);
}  // namespace abi

namespace cufft {

struct Api {
  Library library{"cufft"};
  NVS_SYMBOL(cufftGetVersion)
  NVS_SYMBOL(cufftCreate)
  NVS_SYMBOL(cufftDestroy)
  NVS_SYMBOL(cufftSetAutoAllocation)
  NVS_SYMBOL(cufftSetStream)
  NVS_SYMBOL(cufftSetWorkArea)
  NVS_SYMBOL(cufftEstimateMany)
  NVS_SYMBOL(cufftXtGetSizeMany)
  NVS_SYMBOL(cufftXtMakePlanMany)
  NVS_SYMBOL(cufftXtExec)
  int version;  // 12500 is 12.5.0
  Api();        // throws kFailedPrecondition below 11
};

struct Transform {
  Kind kind;
  bool wide;  // complex128 and float64, else complex64 and float32
  Layout layout;

  int64_t x_bytes() const { return (wide ? 8 : 4) * (kind == Kind::kR2C ? 1 : 2); }  // an element
  int64_t y_bytes() const { return (wide ? 8 : 4) * (kind == Kind::kC2R ? 1 : 2); }
};

bool IsWide(std::string_view dtype);  // of the complex side; throws kInvalidArgument

struct Launch {  // what changes from call to call
  bool inverse;
  void* x;
  void* y;
  void* work;
};

class Plan : public NativePlan {  // of both directions, in place or not
 public:
  static std::unique_ptr<Plan> Made(int device, const Transform& transform);

  int64_t bytes() const override { return bytes_; }
  size_t work_bytes() const { return work_bytes_; }

  // Enqueues one launch per index of the loops. The device must be current, here and in Warm.
  void Execute(abi::CUstream stream, const Launch& launch, const Transform& transform);

  // Loads the kernels of such a launch, once: each direction, in place or not, may have its own.
  void Warm(const Launch& launch, const Transform& transform);
  bool IsWarm(const Launch& launch) const { return (warm_ & Bit(launch)) != 0; }

 private:
  Plan(int device, const Transform& transform);
  static unsigned Bit(const Launch& launch) {
    return 1u << ((launch.inverse ? 1 : 0) + (launch.x == launch.y ? 2 : 0));
  }
  void Enqueue(abi::CUstream stream, const Launch& launch, const std::vector<Loop>& loops,
               const Transform& transform);

  const Api& api_ = Opened<Api>();
  const Owned<abi::cufftHandle> handle_;
  size_t work_bytes_ = 0;
  int64_t bytes_ = 0;
  std::mutex mutex_;  // the handle holds stream and work area: set, set, launch
  abi::CUstream stream_ = nullptr;
  void* work_ = nullptr;
  std::atomic<unsigned> warm_{0};
};

std::shared_ptr<Plan> PlanFor(int device, const Transform& transform, int64_t owner);

// Bytes of work area: "default" is cuFFT's formula, "refined" asks it about this very layout.
size_t Estimate(int device, const Transform& transform, std::string_view technique);

}  // namespace cufft
}  // namespace nvstate

#endif  // NVSTATE_CUFFT_PLAN_H_
