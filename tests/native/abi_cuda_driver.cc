// Compares our declarations with the official headers, where those are present.

#include "abi_same.h"
#include "nvstate/abi/cuda_driver.h"
// The official ones.
#include <cuda.h>

FUNCTION(cuInit)
FUNCTION(cuDeviceGet)
FUNCTION(cuDevicePrimaryCtxRetain)
FUNCTION(cuCtxGetCurrent)
FUNCTION(cuCtxPushCurrent_v2)
FUNCTION(cuCtxPopCurrent_v2)
FUNCTION(cuMemGetInfo_v2)
FUNCTION(cuMemAlloc_v2)
FUNCTION(cuMemFree_v2)
FUNCTION(cuMemcpyDtoDAsync_v2)
FUNCTION(cuStreamCreate)
FUNCTION(cuStreamDestroy_v2)
FUNCTION(cuStreamBeginCapture_v2)
FUNCTION(cuStreamEndCapture)
FUNCTION(cuGraphDestroy)
FUNCTION(cuDeviceGetAttribute)
FUNCTION(cuMemcpyHtoDAsync_v2)
FUNCTION(cuMemsetD8Async)
FUNCTION(cuMemsetD2D8Async)
FUNCTION(cuEventCreate)
FUNCTION(cuEventDestroy_v2)
FUNCTION(cuEventRecord)
FUNCTION(cuStreamSynchronize)
FUNCTION(cuMemcpyDtoHAsync_v2)
FUNCTION(cuMemAllocHost_v2)
FUNCTION(cuMemFreeHost)
FUNCTION(cuMemPoolCreate)
FUNCTION(cuMemPoolDestroy)
FUNCTION(cuMemPoolSetAttribute)
FUNCTION(cuMemAllocFromPoolAsync)
FUNCTION(cuMemFreeAsync)
FUNCTION(cuStreamWaitEvent)
FUNCTION(cuEventSynchronize)
FUNCTION(cuStreamIsCapturing)
FUNCTION(cuMemsetD32Async)
// CUDA 13's header renames it to a version that older drivers lack; both take the same.
#ifdef cuEventElapsedTime
#undef cuEventElapsedTime
static_assert(SameFunction<decltype(nvstate::abi::cuEventElapsedTime),
                           decltype(::cuEventElapsedTime_v2)>::value);
#else
FUNCTION(cuEventElapsedTime)
#endif

VALUE(CUDA_SUCCESS)
VALUE(CUDA_ERROR_INVALID_VALUE)
VALUE(CUDA_ERROR_OUT_OF_MEMORY)
VALUE(CUDA_ERROR_NOT_INITIALIZED)
VALUE(CUDA_ERROR_DEINITIALIZED)
VALUE(CUDA_ERROR_NO_DEVICE)
VALUE(CUDA_ERROR_INVALID_DEVICE)
VALUE(CUDA_ERROR_INVALID_CONTEXT)
VALUE(CUDA_ERROR_INVALID_HANDLE)
VALUE(CUDA_ERROR_ILLEGAL_ADDRESS)
VALUE(CUDA_ERROR_LAUNCH_FAILED)
VALUE(CUDA_ERROR_NOT_PERMITTED)
VALUE(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
VALUE(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
VALUE(CU_STREAM_CAPTURE_MODE_RELAXED)
VALUE(CU_STREAM_NON_BLOCKING)
VALUE(CU_EVENT_DEFAULT)
VALUE(CU_EVENT_DISABLE_TIMING)
VALUE(CU_STREAM_CAPTURE_STATUS_NONE)
VALUE(CU_MEM_ALLOCATION_TYPE_PINNED)
VALUE(CU_MEM_HANDLE_TYPE_NONE)
VALUE(CU_MEM_LOCATION_TYPE_DEVICE)
VALUE(CU_MEMPOOL_ATTR_RELEASE_THRESHOLD)
VALUE(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)

using OurProps = nvstate::abi::CUmemPoolProps;
using TheirProps = CUmemPoolProps;
static_assert(sizeof(OurProps) == sizeof(TheirProps));
static_assert(offsetof(OurProps, allocType) == offsetof(TheirProps, allocType));
static_assert(offsetof(OurProps, handleTypes) == offsetof(TheirProps, handleTypes));
static_assert(offsetof(OurProps, location.id) == offsetof(TheirProps, location.id));
static_assert(offsetof(OurProps, maxSize) == offsetof(TheirProps, maxSize));
