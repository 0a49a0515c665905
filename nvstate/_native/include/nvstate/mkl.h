// Intel's MKL: opened by Python, which finds its files and sees that none is missing, because MKL
// ends the process over a missing one.

#ifndef NVSTATE_MKL_H_
#define NVSTATE_MKL_H_

#include <string>

#include "nvstate/abi/pardiso.h"
#include "nvstate/error.h"
#include "nvstate/library.h"

namespace nvstate::mkl {

// Opens libmkl_rt at `path` and settles its layers, once per process. `openmp` is the runtime of
// Intel's threading layer, nullptr if there is none.
void Open(const char* path, const char* openmp);

std::string Version();  // and the threading layer; throws as Api

struct Api {
  Api();  // throws kFailedPrecondition unless MKL is open
  Library library;
  NVS_SYMBOL(pardiso)
  NVS_SYMBOL(pardiso_64)
  NVS_SYMBOL(pardiso_getdiag)
  NVS_SYMBOL(MKL_Set_Num_Threads_Local)
  NVS_SYMBOL(MKL_Get_Max_Threads)
  NVS_SYMBOL(MKL_Get_Version_String)
  bool wide;  // integers are 64 bits wide everywhere: another package has settled that before
};

}  // namespace nvstate::mkl

#endif  // NVSTATE_MKL_H_
