// Compares our declarations with the official headers, where those are present.

#include "abi_same.h"
#include "nvstate/abi/cuda_types.h"
// The official ones.
#include <library_types.h>

VALUE(CUDA_R_32F)
VALUE(CUDA_R_64F)
VALUE(CUDA_R_16F)
VALUE(CUDA_R_8I)
VALUE(CUDA_C_32F)
VALUE(CUDA_C_64F)
VALUE(CUDA_R_8U)
VALUE(CUDA_R_32I)
VALUE(CUDA_R_16BF)
VALUE(CUDA_R_64I)
VALUE(CUDA_R_8F_E4M3)
VALUE(CUDA_R_8F_E5M2)
VALUE(CUDA_R_8F_UE8M0)
VALUE(CUDA_R_4F_E2M1)
