// One CUDA device through the driver: its context, its memory, and captures that run nothing.

#ifndef NVSTATE_DEVICE_H_
#define NVSTATE_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>

#include "nvstate/abi/cuda_driver.h"
#include "nvstate/error.h"
#include "nvstate/library.h"
#include "nvstate/owned.h"

namespace nvstate {
namespace abi {
std::string StatusName(CUresult status);
Code CodeOf(CUresult status);
}  // namespace abi

struct Driver {
  Library library{"cuda"};
  NVS_SYMBOL(cuInit)
  NVS_SYMBOL(cuDeviceGet)
  NVS_SYMBOL(cuDeviceGetAttribute)
  NVS_SYMBOL(cuDevicePrimaryCtxRetain)
  NVS_SYMBOL(cuCtxGetCurrent)
  NVS_SYMBOL(cuCtxPushCurrent_v2)
  NVS_SYMBOL(cuCtxPopCurrent_v2)
  NVS_SYMBOL(cuMemGetInfo_v2)
  NVS_SYMBOL(cuMemAlloc_v2)
  NVS_SYMBOL(cuMemFree_v2)
  NVS_SYMBOL(cuMemcpyDtoDAsync_v2)
  NVS_SYMBOL(cuMemcpyHtoDAsync_v2)
  NVS_SYMBOL(cuMemsetD8Async)
  NVS_SYMBOL(cuMemsetD2D8Async)
  NVS_SYMBOL(cuEventCreate)
  NVS_SYMBOL(cuEventDestroy_v2)
  NVS_SYMBOL(cuEventRecord)
  NVS_SYMBOL(cuEventElapsedTime)
  NVS_SYMBOL(cuStreamSynchronize)
  NVS_SYMBOL(cuStreamCreate)
  NVS_SYMBOL(cuStreamDestroy_v2)
  NVS_SYMBOL(cuStreamBeginCapture_v2)
  NVS_SYMBOL(cuStreamEndCapture)
  NVS_SYMBOL(cuGraphDestroy)
  Driver() { NVS_CHECK(cuInit(0)); }
};

// Makes a device's primary context, which XLA uses too, current in this scope and thread. In XLA's
// threads it is already, and then this costs one look.
class OnDevice {
 public:
  explicit OnDevice(int device);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  bool pushed_ = false;
};

size_t FreeBytes();                     // of the current device
int64_t CacheBytes(int device);         // of its second-level cache
std::mutex& PlanningMutex(int device);  // held while planning, so that FreeBytes tells what it took

// Device memory outside XLA's pool. It throws kResourceExhausted with the bytes needed and free.
Owned<abi::CUdeviceptr> Allocated(int device, size_t bytes);

// Calls `enqueue` with a stream of the current device that records and does not run: what it
// launches is loaded, which must not happen first under XLA's own capture.
void CaptureOnly(const std::function<void(abi::CUstream)>& enqueue);

}  // namespace nvstate

#endif  // NVSTATE_DEVICE_H_
