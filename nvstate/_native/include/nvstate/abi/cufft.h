// The few functions of cuFFT that nvstate calls, declared in our own words: no toolkit is needed to
// build. They are looked up at run time and never linked; they are equal in cuFFT 11 and 12.
// tests/native/abi_cufft.cc compares them with the official headers where those are present.

#ifndef NVSTATE_ABI_CUFFT_H_
#define NVSTATE_ABI_CUFFT_H_

#include <cstddef>

#include "nvstate/abi/cuda_types.h"

namespace nvstate::abi {

enum cufftResult : int {
  CUFFT_SUCCESS = 0,
  CUFFT_INVALID_PLAN = 1,
  CUFFT_ALLOC_FAILED = 2,
  CUFFT_INVALID_TYPE = 3,
  CUFFT_INVALID_VALUE = 4,
  CUFFT_INTERNAL_ERROR = 5,
  CUFFT_EXEC_FAILED = 6,
  CUFFT_SETUP_FAILED = 7,
  CUFFT_INVALID_SIZE = 8,
  CUFFT_UNALIGNED_DATA = 9,
  CUFFT_INVALID_DEVICE = 11,
  CUFFT_NO_WORKSPACE = 13,
  CUFFT_NOT_IMPLEMENTED = 14,
  CUFFT_NOT_SUPPORTED = 16,
};

enum cufftType : int {
  CUFFT_C2C = 0x29,
  CUFFT_R2C = 0x2a,
  CUFFT_C2R = 0x2c,
  CUFFT_Z2Z = 0x69,
  CUFFT_D2Z = 0x6a,
  CUFFT_Z2D = 0x6c,
};

constexpr int kForward = -1;  // CUFFT_FORWARD and CUFFT_INVERSE, which are macros
constexpr int kInverse = 1;

using cufftHandle = int;
using Long = long long;  // NOLINT(runtime/int): the type that cufftXt.h has

cufftResult cufftGetVersion(int* version);
cufftResult cufftCreate(cufftHandle* plan);
cufftResult cufftDestroy(cufftHandle plan);
cufftResult cufftSetAutoAllocation(cufftHandle plan, int automatic);
cufftResult cufftSetStream(cufftHandle plan, cudaStream_t stream);
cufftResult cufftSetWorkArea(cufftHandle plan, void* work);
cufftResult cufftEstimateMany(int rank, int* n, int* inembed, int istride, int idist, int* onembed,
                              int ostride, int odist, cufftType type, int batch, size_t* work);
cufftResult cufftXtGetSizeMany(cufftHandle plan, int rank, Long* n, Long* inembed, Long istride,
                               Long idist, cudaDataType itype, Long* onembed, Long ostride,
                               Long odist, cudaDataType otype, Long batch, size_t* work,
                               cudaDataType computed);
cufftResult cufftXtMakePlanMany(cufftHandle plan, int rank, Long* n, Long* inembed, Long istride,
                                Long idist, cudaDataType itype, Long* onembed, Long ostride,
                                Long odist, cudaDataType otype, Long batch, size_t* work,
                                cudaDataType computed);
cufftResult cufftXtExec(cufftHandle plan, void* input, void* output, int direction);

}  // namespace nvstate::abi

#endif  // NVSTATE_ABI_CUFFT_H_
