// Compares our declarations with the official headers, where those are present: it need only
// compile. Ours come first and are in a namespace, because the official constants are macros.

#include <type_traits>

#include "nvstate/abi/cuda_driver.h"
#include "nvstate/abi/cufft.h"
// The official ones.
#include <cuda.h>
#include <cufft.h>
#include <cufftXt.h>

// Opaque structs and enums are equal by what a caller passes: a pointer, an int. All else must be
// the same type.
template <typename Ours, typename Theirs>
constexpr bool Same() {
  if constexpr (std::is_pointer_v<Ours> && std::is_pointer_v<Theirs>) {
    using O = std::remove_pointer_t<Ours>;
    using T = std::remove_pointer_t<Theirs>;
    return std::is_const_v<O> == std::is_const_v<T> &&
           ((std::is_class_v<O> && std::is_class_v<T>) || Same<O, T>());
  } else if constexpr (std::is_enum_v<Ours> && std::is_enum_v<Theirs>) {
    return sizeof(Ours) == sizeof(Theirs) && sizeof(Ours) == sizeof(int);
  } else {
    return std::is_same_v<Ours, Theirs>;
  }
}

template <typename Ours, typename Theirs>
struct SameFunction : std::false_type {};

template <typename R, typename... As, typename S, typename... Bs>
struct SameFunction<R(As...), S(Bs...)> {
  static constexpr bool Arguments() {
    if constexpr (sizeof...(As) == sizeof...(Bs)) {
      return (Same<As, Bs>() && ...);
    } else {
      return false;
    }
  }
  static constexpr bool value = Same<R, S>() && Arguments();
};

#define FUNCTION(name) \
  static_assert(SameFunction<decltype(nvstate::abi::name), decltype(::name)>::value, #name);
#define VALUE(name) static_assert(int{nvstate::abi::name} == int{::name}, #name);

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

FUNCTION(cufftGetVersion)
FUNCTION(cufftCreate)
FUNCTION(cufftDestroy)
FUNCTION(cufftSetAutoAllocation)
FUNCTION(cufftSetStream)
FUNCTION(cufftSetWorkArea)
FUNCTION(cufftEstimateMany)
FUNCTION(cufftXtGetSizeMany)
FUNCTION(cufftXtMakePlanMany)
FUNCTION(cufftXtExec)

VALUE(CUFFT_SUCCESS)
VALUE(CUFFT_INVALID_PLAN)
VALUE(CUFFT_ALLOC_FAILED)
VALUE(CUFFT_INVALID_TYPE)
VALUE(CUFFT_INVALID_VALUE)
VALUE(CUFFT_INTERNAL_ERROR)
VALUE(CUFFT_EXEC_FAILED)
VALUE(CUFFT_SETUP_FAILED)
VALUE(CUFFT_INVALID_SIZE)
VALUE(CUFFT_UNALIGNED_DATA)
VALUE(CUFFT_INVALID_DEVICE)
VALUE(CUFFT_NO_WORKSPACE)
VALUE(CUFFT_NOT_IMPLEMENTED)
VALUE(CUFFT_NOT_SUPPORTED)
VALUE(CUFFT_C2C)
VALUE(CUFFT_R2C)
VALUE(CUFFT_C2R)
VALUE(CUFFT_Z2Z)
VALUE(CUFFT_D2Z)
VALUE(CUFFT_Z2D)
VALUE(CUDA_R_32F)
VALUE(CUDA_R_64F)
VALUE(CUDA_C_32F)
VALUE(CUDA_C_64F)
static_assert(nvstate::abi::kForward == CUFFT_FORWARD && nvstate::abi::kInverse == CUFFT_INVERSE);
