// Compares our declarations with the official headers, where those are present.

#include "abi_same.h"
#include "nvstate/abi/pardiso.h"
namespace ours = nvstate::abi;
constexpr int kLp64 = ours::MKL_INTERFACE_LP64, kIlp64 = ours::MKL_INTERFACE_ILP64;
constexpr int kIntel = ours::MKL_THREADING_INTEL, kSequential = ours::MKL_THREADING_SEQUENTIAL;
// The official ones; those constants are macros there.
#include <mkl_pardiso.h>
#include <mkl_service.h>

FUNCTION(pardiso)
FUNCTION(pardiso_64)
FUNCTION(pardiso_getdiag)
FUNCTION(MKL_Set_Threading_Layer)
FUNCTION(MKL_Set_Interface_Layer)
FUNCTION(MKL_Set_Num_Threads_Local)
FUNCTION(MKL_Get_Max_Threads)
FUNCTION(MKL_Get_Version_String)
static_assert(kLp64 == MKL_INTERFACE_LP64 && kIlp64 == MKL_INTERFACE_ILP64);
static_assert(kIntel == MKL_THREADING_INTEL && kSequential == MKL_THREADING_SEQUENTIAL);
