// Compares our declarations with the official headers, where those are present.

#include "abi_same.h"
#include "nvstate/abi/cufft.h"
// The official ones.
#include <cufft.h>
#include <cufftXt.h>

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
static_assert(nvstate::abi::kForward == CUFFT_FORWARD && nvstate::abi::kInverse == CUFFT_INVERSE);
