// MKL, whose libmkl_rt NVSTATE_REAL_MKL names, but that any one call of PARDISO may be told to
// fail. As with the real one, a handle that has failed is good for nothing but its release: each
// later call of it fails too.

#include <dlfcn.h>

#include <cstdlib>
#include <set>

#include "nvstate/abi/pardiso.h"

namespace {

template <typename Function>
Function* Real(const char* name) {
  static void* const library = dlopen(std::getenv("NVSTATE_REAL_MKL"), RTLD_NOW | RTLD_LOCAL);
  void* const found = library == nullptr ? nullptr : dlsym(library, name);
  if (found == nullptr) std::abort();
  return reinterpret_cast<Function*>(found);
}
#define REAL(name) Real<decltype(nvstate::abi::name)>(#name)

constexpr int kInternal = -6, kRelease = -1;
int calls_left = 0, error_then = 0;  // calls until one fails; 0: none will
bool has_failed = false;
std::set<void*> broken;

// The error of this call; 0: it is to be made.
int ErrorOf(void* handle) {
  if (broken.count(handle) != 0) return kInternal;
  if (calls_left == 0 || --calls_left != 0) return 0;
  has_failed = true;
  broken.insert(handle);
  return error_then;
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// The call of this number fails with this error, counted from now on, from 1; 0: none. Returns
// whether one has failed since the last time.
EXPORT int fail(int call, int error) {
  const bool before = has_failed;
  calls_left = call;
  error_then = error;
  has_failed = false;
  return before;
}

EXPORT void pardiso(void* pt, const int* maxfct, const int* mnum, const int* mtype,
                    const int* phase, const int* n, const void* a, const int* ia, const int* ja,
                    int* perm, const int* nrhs, int* iparm, const int* msglvl, void* b, void* x,
                    int* error) {
  if (*phase == kRelease) {
    broken.erase(pt);
  } else if (const int failed = ErrorOf(pt); failed != 0) {
    *error = failed;
    return;
  }
  REAL(pardiso)(pt, maxfct, mnum, mtype, phase, n, a, ia, ja, perm, nrhs, iparm, msglvl, b, x,
                error);
}
EXPORT void pardiso_64(void*, const long long*, const long long*, const long long*,
                       const long long*, const long long*, const void*, const long long*,
                       const long long*, long long*, const long long*, long long*, const long long*,
                       void*, void*, long long*) {
  std::abort();  // it is for patterns of 2^31 entries
}
EXPORT void pardiso_getdiag(void* pt, void* df, void* da, const int* mnum, int* error) {
  if (const int failed = ErrorOf(pt); failed != 0) {
    *error = failed;
    return;
  }
  REAL(pardiso_getdiag)(pt, df, da, mnum, error);
}
EXPORT int MKL_Set_Threading_Layer(int code) { return REAL(MKL_Set_Threading_Layer)(code); }
EXPORT int MKL_Set_Interface_Layer(int code) { return REAL(MKL_Set_Interface_Layer)(code); }
EXPORT int MKL_Set_Num_Threads_Local(int threads) {
  return REAL(MKL_Set_Num_Threads_Local)(threads);
}
EXPORT int MKL_Get_Max_Threads() { return REAL(MKL_Get_Max_Threads)(); }
EXPORT void MKL_Get_Version_String(char* text, int size) {
  REAL(MKL_Get_Version_String)(text, size);
}
