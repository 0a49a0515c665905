// The element types that CUDA's libraries share, declared in our own words.
// tests/native/abi_cuda_types.cc compares them with the official header where there is one.

#ifndef NVSTATE_ABI_CUDA_TYPES_H_
#define NVSTATE_ABI_CUDA_TYPES_H_

#include "nvstate/abi/cuda_driver.h"

namespace nvstate::abi {

enum cudaDataType : int {
  CUDA_R_32F = 0,
  CUDA_R_64F = 1,
  CUDA_R_16F = 2,
  CUDA_R_8I = 3,
  CUDA_C_32F = 4,
  CUDA_C_64F = 5,
  CUDA_R_8U = 8,
  CUDA_R_32I = 10,
  CUDA_R_16BF = 14,
  CUDA_R_64I = 24,
  CUDA_R_8F_E4M3 = 28,
  CUDA_R_8F_E5M2 = 29,
  CUDA_R_8F_UE8M0 = 30,
  CUDA_R_4F_E2M1 = 33,
};

using cudaStream_t = CUstream;

}  // namespace nvstate::abi

#endif  // NVSTATE_ABI_CUDA_TYPES_H_
