// MKL's PARDISO and what it takes to open MKL, as declared in mkl_pardiso.h and mkl_service.h
// (2026.2; unchanged since 2017). Integers are 32 bits wide with the LP64 interface, and always 64
// in pardiso_64.

#ifndef NVSTATE_ABI_PARDISO_H_
#define NVSTATE_ABI_PARDISO_H_

namespace nvstate::abi {

extern "C" {
void pardiso(void* pt, const int* maxfct, const int* mnum, const int* mtype, const int* phase,
             const int* n, const void* a, const int* ia, const int* ja, int* perm, const int* nrhs,
             int* iparm, const int* msglvl, void* b, void* x, int* error);
void pardiso_64(void* pt, const long long* maxfct, const long long* mnum, const long long* mtype,
                const long long* phase, const long long* n, const void* a, const long long* ia,
                const long long* ja, long long* perm, const long long* nrhs, long long* iparm,
                const long long* msglvl, void* b, void* x, long long* error);
void pardiso_getdiag(const void* pt, void* of_factor, void* of_matrix, const void* mnum,
                     void* error);
int MKL_Set_Threading_Layer(int code);
int MKL_Set_Interface_Layer(int code);
int MKL_Set_Num_Threads_Local(int threads);
int MKL_Get_Max_Threads();
void MKL_Get_Version_String(char* text, int size);
}

enum { MKL_THREADING_INTEL = 0, MKL_THREADING_SEQUENTIAL = 1 };
enum { MKL_INTERFACE_LP64 = 0, MKL_INTERFACE_ILP64 = 1 };  // the lowest bit; another is GNU's

// iparm, by the numbers of Intel's documentation, which count from 1.
enum {
  IPARM_NO_DEFAULTS = 1,
  IPARM_REORDERING = 2,
  IPARM_PERMUTATION = 5,
  IPARM_REFINEMENT = 8,
  IPARM_PIVOT_EPSILON = 10,
  IPARM_SCALING = 11,
  IPARM_TRANSPOSED = 12,
  IPARM_MATCHING = 13,
  IPARM_PERTURBED = 14,
  IPARM_PEAK_KB = 15,
  IPARM_ANALYSIS_KB = 16,
  IPARM_FACTOR_KB = 17,
  IPARM_FACTOR_NNZ = 18,
  IPARM_MFLOP = 19,
  IPARM_PIVOTING = 21,
  IPARM_POSITIVE = 22,
  IPARM_NEGATIVE = 23,
  IPARM_SINGLE = 28,
  IPARM_FAILING = 30,
  IPARM_ZERO_BASED = 35,
  IPARM_DIAGONAL = 56,
};

}  // namespace nvstate::abi

#endif  // NVSTATE_ABI_PARDISO_H_
