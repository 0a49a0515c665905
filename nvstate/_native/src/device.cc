#include "nvstate/device.h"

#include <map>
#include <utility>

namespace nvstate {
namespace abi {

std::string StatusName(CUresult status) {
#define NAME(status) \
  case status:       \
    return #status
  switch (status) {
    NAME(CUDA_SUCCESS);
    NAME(CUDA_ERROR_INVALID_VALUE);
    NAME(CUDA_ERROR_OUT_OF_MEMORY);
    NAME(CUDA_ERROR_NOT_INITIALIZED);
    NAME(CUDA_ERROR_DEINITIALIZED);
    NAME(CUDA_ERROR_NO_DEVICE);
    NAME(CUDA_ERROR_INVALID_DEVICE);
    NAME(CUDA_ERROR_INVALID_CONTEXT);
    NAME(CUDA_ERROR_INVALID_HANDLE);
    NAME(CUDA_ERROR_ILLEGAL_ADDRESS);
    NAME(CUDA_ERROR_LAUNCH_FAILED);
    NAME(CUDA_ERROR_NOT_PERMITTED);
    NAME(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    NAME(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  }
#undef NAME
  return "CUresult " + std::to_string(static_cast<int>(status));
}

Code CodeOf(CUresult status) {
  switch (status) {
    case CUDA_ERROR_OUT_OF_MEMORY:
      return Code::kResourceExhausted;
    case CUDA_ERROR_NO_DEVICE:
    case CUDA_ERROR_INVALID_DEVICE:
      return Code::kFailedPrecondition;
    default:
      return Code::kInternal;
  }
}

}  // namespace abi

namespace {

abi::CUcontext PrimaryContext(int device) {
  // Retained once and for good: XLA keeps it as long, and a count per plan would gain nothing. A
  // thread remembers its last one, since every execution asks.
  thread_local std::pair<int, abi::CUcontext> last{-1, nullptr};
  if (last.first == device) return last.second;
  static std::mutex mutex;
  static auto* const contexts = new std::map<int, abi::CUcontext>();
  std::lock_guard lock(mutex);
  if (auto found = contexts->find(device); found != contexts->end()) {
    last = *found;
    return found->second;
  }
  const Driver& driver = Opened<Driver>();
  abi::CUdevice handle;
  abi::CUcontext context;
  NVS_CHECK(driver.cuDeviceGet(&handle, device));
  NVS_CHECK(driver.cuDevicePrimaryCtxRetain(&context, handle));
  last = {device, context};
  return (*contexts)[device] = context;
}

template <typename Handle, typename... Arguments>
Handle Created(abi::CUresult (*create)(Handle*, Arguments...), Arguments... arguments) {
  Handle handle;
  NVS_CHECK(create(&handle, arguments...));
  return handle;
}

}  // namespace

OnDevice::OnDevice(int device) {
  const abi::CUcontext context = PrimaryContext(device);
  const Driver& driver = Opened<Driver>();
  abi::CUcontext current;
  NVS_CHECK(driver.cuCtxGetCurrent(&current));
  if (current == context) return;
  NVS_CHECK(driver.cuCtxPushCurrent_v2(context));
  pushed_ = true;
}

OnDevice::~OnDevice() {
  if (!pushed_) return;
  abi::CUcontext context;
  Opened<Driver>().cuCtxPopCurrent_v2(&context);
}

size_t FreeBytes() {
  size_t free, total;
  NVS_CHECK(Opened<Driver>().cuMemGetInfo_v2(&free, &total));
  return free;
}

int64_t CacheBytes(int device) {
  const Driver& driver = Opened<Driver>();
  abi::CUdevice handle;
  int bytes;
  NVS_CHECK(driver.cuDeviceGet(&handle, device));
  NVS_CHECK(driver.cuDeviceGetAttribute(&bytes, abi::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, handle));
  return bytes;
}

std::mutex& PlanningMutex(int device) {
  static std::mutex mutex;
  static auto* const mutexes = new std::map<int, std::mutex>();  // its nodes do not move
  std::lock_guard lock(mutex);
  return (*mutexes)[device];
}

Owned<abi::CUdeviceptr> Allocated(int device, size_t bytes) {
  OnDevice on(device);
  abi::CUdeviceptr pointer;
  const abi::CUresult status = Opened<Driver>().cuMemAlloc_v2(&pointer, bytes);
  if (status == abi::CUDA_ERROR_OUT_OF_MEMORY) {
    throw Failure(Code::kResourceExhausted, "cuMemAlloc_v2 failed: " + StatusName(status) +
                                                ": needs " + std::to_string(bytes) + " bytes, " +
                                                std::to_string(FreeBytes()) + " are free");
  }
  Check(status, "cuMemAlloc_v2");
  return {pointer, [device](abi::CUdeviceptr memory) {
            OnDevice on(device);
            Opened<Driver>().cuMemFree_v2(memory);
          }};
}

void CaptureOnly(const std::function<void(abi::CUstream)>& enqueue) {
  const Driver& driver = Opened<Driver>();
  const Owned<abi::CUstream> stream(
      Created(driver.cuStreamCreate, unsigned{abi::CU_STREAM_NON_BLOCKING}),
      [&](abi::CUstream s) { driver.cuStreamDestroy_v2(s); });
  NVS_CHECK(driver.cuStreamBeginCapture_v2(*stream, abi::CU_STREAM_CAPTURE_MODE_RELAXED));
  abi::CUgraph graph = nullptr;
  try {
    enqueue(*stream);
  } catch (...) {
    driver.cuStreamEndCapture(*stream, &graph);
    if (graph != nullptr) driver.cuGraphDestroy(graph);
    throw;
  }
  NVS_CHECK(driver.cuStreamEndCapture(*stream, &graph));
  NVS_CHECK(driver.cuGraphDestroy(graph));
}

}  // namespace nvstate
