// The few functions of cuDSS 1.0 that nvstate calls, declared in our own words: no toolkit is
// needed to build. They are looked up at run time and never linked. Numbers of parameters and
// algorithms moved at each version before, so no other version is accepted.
// tests/native/abi_cudss.cc compares them with the official headers where those are present.

#ifndef NVSTATE_ABI_CUDSS_H_
#define NVSTATE_ABI_CUDSS_H_

#include <cstddef>
#include <cstdint>

#include "nvstate/abi/cuda_types.h"

namespace nvstate::abi {

enum libraryPropertyType : int { MAJOR_VERSION = 0, MINOR_VERSION = 1, PATCH_LEVEL = 2 };

enum cudssStatus_t : int {
  CUDSS_STATUS_SUCCESS = 0,
  CUDSS_STATUS_NOT_INITIALIZED = 1,
  CUDSS_STATUS_ALLOC_FAILED = 2,
  CUDSS_STATUS_INVALID_VALUE = 3,
  CUDSS_STATUS_NOT_SUPPORTED = 4,
  CUDSS_STATUS_EXECUTION_FAILED = 5,
  CUDSS_STATUS_INTERNAL_ERROR = 6,
  CUDSS_STATUS_IR_FAILED = 7,
};

enum cudssConfigParam_t : int {
  CUDSS_CONFIG_REORDERING_ALG = 0,
  CUDSS_CONFIG_FACTORIZATION_ALG = 1,
  CUDSS_CONFIG_SOLVE_ALG = 2,
  CUDSS_CONFIG_MATCHING_ALG = 3,
  CUDSS_CONFIG_SOLVE_MODE = 4,
  CUDSS_CONFIG_IR_N_STEPS = 5,
  CUDSS_CONFIG_IR_TOL = 6,
  CUDSS_CONFIG_PIVOT_TYPE = 7,
  CUDSS_CONFIG_PIVOT_THRESHOLD = 8,
  CUDSS_CONFIG_PIVOT_EPSILON = 9,
  CUDSS_CONFIG_MAX_LU_NNZ = 10,
  CUDSS_CONFIG_HYBRID_MEMORY_MODE = 11,
  CUDSS_CONFIG_HYBRID_DEVICE_MEMORY_LIMIT = 12,
  CUDSS_CONFIG_USE_CUDA_REGISTER_MEMORY = 13,
  CUDSS_CONFIG_HOST_NTHREADS = 14,
  CUDSS_CONFIG_HYBRID_EXECUTE_MODE = 15,
  CUDSS_CONFIG_PIVOT_EPSILON_ALG = 16,
  CUDSS_CONFIG_ND_NLEVELS = 17,
  CUDSS_CONFIG_UBATCH_SIZE = 18,
  CUDSS_CONFIG_UBATCH_INDEX = 19,
  CUDSS_CONFIG_USE_SUPERPANELS = 20,
  CUDSS_CONFIG_DETERMINISTIC_MODE = 24,
  CUDSS_CONFIG_ND_UBFACTOR = 25,
};

enum cudssDataParam_t : int {
  CUDSS_DATA_INFO = 0,
  CUDSS_DATA_LU_NNZ = 1,
  CUDSS_DATA_NPIVOTS = 2,
  CUDSS_DATA_INERTIA = 3,
  CUDSS_DATA_PERM_REORDER_ROW = 4,
  CUDSS_DATA_PERM_REORDER_COL = 5,
  CUDSS_DATA_DIAG = 8,
  CUDSS_DATA_USER_PERM = 9,
  CUDSS_DATA_HYBRID_DEVICE_MEMORY_MIN = 10,
  CUDSS_DATA_MEMORY_ESTIMATES = 13,
  CUDSS_DATA_PERM_MATCHING = 14,
  CUDSS_DATA_SCALE_ROW = 15,
  CUDSS_DATA_SCALE_COL = 16,
  CUDSS_DATA_NSUPERPANELS = 17,
  CUDSS_DATA_USER_ND_PARTITION_TREE = 21,
  CUDSS_DATA_ND_PARTITION_TREE = 22,
  CUDSS_DATA_FLOPS = 26,
};

enum cudssPhase_t : int {
  CUDSS_PHASE_ANALYSIS = 3,
  CUDSS_PHASE_FACTORIZATION = 4,
  CUDSS_PHASE_REFACTORIZATION = 8,
  CUDSS_PHASE_SOLVE = 1008,
};

enum cudssMatrixType_t : int {
  CUDSS_MTYPE_GENERAL = 0,
  CUDSS_MTYPE_SYMMETRIC = 1,
  CUDSS_MTYPE_HERMITIAN = 2,
  CUDSS_MTYPE_SPD = 3,
  CUDSS_MTYPE_HPD = 4,
};

enum cudssMatrixViewType_t : int {
  CUDSS_MVIEW_FULL = 0,
  CUDSS_MVIEW_LOWER = 1,
  CUDSS_MVIEW_UPPER = 2,
};

enum cudssIndexBase_t : int { CUDSS_BASE_ZERO = 0 };
enum cudssLayout_t : int { CUDSS_LAYOUT_COL_MAJOR = 0 };
enum cudssSolveMode_t : int { CUDSS_SOLVE_MODE_NORMAL = 0, CUDSS_SOLVE_MODE_TRANSPOSE = 1 };

enum cudssReorderingAlg_t : int {
  CUDSS_REORDERING_ALG_DEFAULT = 0,
  CUDSS_REORDERING_ALG_BTF_COLAMD = 1,
  CUDSS_REORDERING_ALG_COLAMD = 2,
  CUDSS_REORDERING_ALG_AMD = 3,
  CUDSS_REORDERING_ALG_NESTED_DISSECTION = 4,
  CUDSS_REORDERING_ALG_NONE = 5,
};

enum cudssFactorizationAlg_t : int {
  CUDSS_FACTORIZATION_ALG_DEFAULT = 0,
  CUDSS_FACTORIZATION_ALG_MULTIBLOCK = 1,
  CUDSS_FACTORIZATION_ALG_GENERAL = 2,
};

enum cudssPivotEpsilonAlg_t : int {
  CUDSS_PIVOT_EPSILON_ALG_DEFAULT = 0,
  CUDSS_PIVOT_EPSILON_ALG_SCALED = 1,
  CUDSS_PIVOT_EPSILON_ALG_STATIC = 2,
};

enum cudssSolveAlg_t : int { CUDSS_SOLVE_ALG_DEFAULT = 0, CUDSS_SOLVE_ALG_GENERAL = 1 };

enum cudssMatchingAlg_t : int {
  CUDSS_MATCHING_ALG_NONE = 0,
  CUDSS_MATCHING_ALG_MAX_DIAG_COUNT = 1,
  CUDSS_MATCHING_ALG_MAX_MIN_DIAG = 2,
  CUDSS_MATCHING_ALG_MAX_MIN_DIAG_ALT = 3,
  CUDSS_MATCHING_ALG_MAX_DIAG_SUM = 4,
  CUDSS_MATCHING_ALG_MAX_DIAG_PRODUCT = 5,
};

enum cudssPivotType_t : int {
  CUDSS_PIVOT_AUTO = 0,
  CUDSS_PIVOT_NONE = 1,
  CUDSS_PIVOT_GLOBAL_COL = 2,
  CUDSS_PIVOT_GLOBAL_ROW = 3,
  CUDSS_PIVOT_DIAGONAL = 4,
  CUDSS_PIVOT_LOCAL_BLOCK = 5,
  CUDSS_PIVOT_BUNCH_KAUFMAN = 6,
};

using cudssHandle_t = struct cudssContext*;
using cudssMatrix_t = struct cudssMatrix*;
using cudssData_t = struct cudssData*;
using cudssConfig_t = struct cudssConfig*;

constexpr size_t kAllocatorName = 64;  // CUDSS_ALLOCATOR_NAME_LEN, a macro

struct cudssDeviceMemHandler_t {
  void* ctx;
  int (*device_alloc)(void* ctx, void** pointer, size_t bytes, cudaStream_t stream);
  int (*device_free)(void* ctx, void* pointer, size_t bytes, cudaStream_t stream);
  char name[kAllocatorName];
};

cudssStatus_t cudssGetProperty(libraryPropertyType property, int* value);
cudssStatus_t cudssCreate(cudssHandle_t* handle);
cudssStatus_t cudssDestroy(cudssHandle_t handle);
cudssStatus_t cudssSetStream(cudssHandle_t handle, cudaStream_t stream);
cudssStatus_t cudssSetThreadingLayer(cudssHandle_t handle, const char* file);
cudssStatus_t cudssSetDeviceMemHandler(cudssHandle_t handle,
                                       const cudssDeviceMemHandler_t* handler);
cudssStatus_t cudssConfigCreate(cudssConfig_t* config);
cudssStatus_t cudssConfigDestroy(cudssConfig_t config);
cudssStatus_t cudssConfigSet(cudssConfig_t config, cudssConfigParam_t parameter, const void* value,
                             size_t bytes);
cudssStatus_t cudssConfigGet(const cudssConfig_t config, cudssConfigParam_t parameter, void* value,
                             size_t bytes, size_t* written);
cudssStatus_t cudssDataCreate(const cudssHandle_t handle, cudssData_t* data);
cudssStatus_t cudssDataDestroy(cudssHandle_t handle, cudssData_t data);
cudssStatus_t cudssDataSet(const cudssHandle_t handle, cudssData_t data, cudssDataParam_t parameter,
                           const void* value, size_t bytes);
cudssStatus_t cudssDataGet(const cudssHandle_t handle, const cudssData_t data,
                           cudssDataParam_t parameter, void* value, size_t bytes, size_t* written);
cudssStatus_t cudssMatrixCreateDn(cudssMatrix_t* matrix, int64_t rows, int64_t columns, int64_t ld,
                                  const void* values, cudaDataType type, cudssLayout_t layout);
cudssStatus_t cudssMatrixCreateCsr(cudssMatrix_t* matrix, int64_t rows, int64_t columns,
                                   int64_t nnz, const void* row_start, const void* row_end,
                                   const void* indices, const void* values,
                                   cudaDataType offset_type, cudaDataType index_type,
                                   cudaDataType value_type, cudssMatrixType_t type,
                                   cudssMatrixViewType_t view, cudssIndexBase_t base);
cudssStatus_t cudssMatrixDestroy(cudssMatrix_t matrix);
cudssStatus_t cudssMatrixSetValues(cudssMatrix_t matrix, const void* values);
cudssStatus_t cudssExecute(cudssHandle_t handle, int phase, const cudssConfig_t config,
                           cudssData_t data, const cudssMatrix_t matrix, cudssMatrix_t solution,
                           const cudssMatrix_t rhs);

}  // namespace nvstate::abi

#endif  // NVSTATE_ABI_CUDSS_H_
