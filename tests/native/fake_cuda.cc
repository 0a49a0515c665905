// A CUDA driver and a cuBLASLt in which nothing runs, so that threads, and what the library is
// told, can be tested without a GPU. Where NVSTATE_REAL_CUBLASLT names the real library,
// descriptors, layouts and preferences are its own: it refuses a value of the wrong size, and needs
// no GPU for that.

#include <dlfcn.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <vector>

#include "nvstate/abi/cublaslt.h"
#include "nvstate/abi/cuda_driver.h"

namespace nvstate::abi {

struct cublasLtMatmulDescStruct {
  const void* pointers[64];  // by attribute
};
struct cublasLtMatrixLayoutStruct {
  int64_t ld;
};
struct cublasLtMatmulPreferenceStruct {
  uint64_t impl_mask;
};

}  // namespace nvstate::abi

namespace fake {
using namespace nvstate::abi;  // NOLINT(build/namespaces): all of it is defined here

template <typename Function>
Function* Real(const char* name) {
  static void* const library = [] {
    const char* path = std::getenv("NVSTATE_REAL_CUBLASLT");
    return path == nullptr ? nullptr : dlopen(path, RTLD_NOW | RTLD_LOCAL);
  }();
  return library == nullptr ? nullptr : reinterpret_cast<Function*>(dlsym(library, name));
}

#define FORWARD(name, ...) \
  if (auto* const real = Real<decltype(name)>(#name)) return real(__VA_ARGS__)

extern "C" {
#define EXPORT __attribute__((visibility("default")))

EXPORT CUresult cuInit(unsigned int) { return CUDA_SUCCESS; }
EXPORT CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  *device = ordinal;
  return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute, CUdevice) {
  *value = 1 << 20;
  return CUDA_SUCCESS;
}
EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  *context = reinterpret_cast<CUcontext>(intptr_t{device} + 1);
  return CUDA_SUCCESS;
}
thread_local CUcontext current = nullptr;
EXPORT CUresult cuCtxGetCurrent(CUcontext* context) {
  *context = current;
  return CUDA_SUCCESS;
}
EXPORT CUresult cuCtxPushCurrent_v2(CUcontext context) {
  current = context;
  return CUDA_SUCCESS;
}
EXPORT CUresult cuCtxPopCurrent_v2(CUcontext* context) {
  *context = current;
  current = nullptr;
  return CUDA_SUCCESS;
}
EXPORT CUresult cuStreamCreate(CUstream* stream, unsigned int) {
  *stream = reinterpret_cast<CUstream>(8);
  return CUDA_SUCCESS;
}
EXPORT CUresult cuStreamEndCapture(CUstream, CUgraph* graph) {
  *graph = reinterpret_cast<CUgraph>(8);
  return CUDA_SUCCESS;
}
#define NOTHING(name, ...) \
  EXPORT CUresult name(__VA_ARGS__) { return CUDA_SUCCESS; }
NOTHING(cuMemGetInfo_v2, size_t*, size_t*)
NOTHING(cuMemAlloc_v2, CUdeviceptr*, size_t)
NOTHING(cuMemFree_v2, CUdeviceptr)
NOTHING(cuMemcpyDtoDAsync_v2, CUdeviceptr, CUdeviceptr, size_t, CUstream)
NOTHING(cuMemcpyHtoDAsync_v2, CUdeviceptr, const void*, size_t, CUstream)
NOTHING(cuMemsetD8Async, CUdeviceptr, unsigned char, size_t, CUstream)
NOTHING(cuEventCreate, CUevent*, unsigned int)
NOTHING(cuEventDestroy_v2, CUevent)
NOTHING(cuEventRecord, CUevent, CUstream)
NOTHING(cuEventElapsedTime, float*, CUevent, CUevent)
NOTHING(cuStreamSynchronize, CUstream)
NOTHING(cuStreamDestroy_v2, CUstream)
NOTHING(cuStreamBeginCapture_v2, CUstream, CUstreamCaptureMode)
NOTHING(cuGraphDestroy, CUgraph)

// The last launches: cuBLASLt's A, B, C and D, the bias or its gradient, and the aux. What is
// overwritten is among them: where, pitch, width and height.
std::mutex mutex;
std::vector<std::array<const void*, 6>>* launched = nullptr;
EXPORT void fake_launches(std::vector<std::array<const void*, 6>>* to) { launched = to; }

EXPORT CUresult cuMemsetD2D8Async(CUdeviceptr to, size_t pitch, unsigned char, size_t width,
                                  size_t height, CUstream) {
  const auto number = [](auto x) { return reinterpret_cast<const void*>(x); };
  if (launched != nullptr) {
    launched->push_back({number(to), number(pitch), number(width), number(height)});
  }
  return CUDA_SUCCESS;
}

EXPORT size_t cublasLtGetVersion() { return 130100; }
EXPORT cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = reinterpret_cast<cublasLtHandle_t>(current);  // its device shows
  return current == nullptr ? CUBLAS_STATUS_NOT_INITIALIZED : CUBLAS_STATUS_SUCCESS;
}

// The test's biases lie where their D does: a descriptor with another one is another thread's.
EXPORT cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                     const void*, const void* a, cublasLtMatrixLayout_t,
                                     const void* b, cublasLtMatrixLayout_t, const void*,
                                     const void* c, cublasLtMatrixLayout_t, void* d,
                                     cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t* algo,
                                     void*, size_t, cudaStream_t) {
  if (reinterpret_cast<CUcontext>(handle) != current) return CUBLAS_STATUS_ARCH_MISMATCH;
  if (algo->data[0] != 1) return CUBLAS_STATUS_INVALID_VALUE;
  const void* const bias = desc->pointers[CUBLASLT_MATMUL_DESC_BIAS_POINTER];
  if (launched != nullptr) {
    std::lock_guard lock(mutex);
    const void* const aux = desc->pointers[CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER];
    launched->push_back({a, b, c, d, bias, aux});
  } else if (bias != nullptr && bias != d) {
    return CUBLAS_STATUS_EXECUTION_FAILED;
  }
  return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                                 uint64_t rows, uint64_t cols, int64_t ld) {
  FORWARD(cublasLtMatrixLayoutCreate, layout, type, rows, cols, ld);
  *layout = new cublasLtMatrixLayoutStruct{ld};
  return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  FORWARD(cublasLtMatrixLayoutDestroy, layout);
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                       cublasLtMatrixLayoutAttribute_t attribute,
                                                       const void* value, size_t bytes) {
  FORWARD(cublasLtMatrixLayoutSetAttribute, layout, attribute, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}
std::atomic<int> descriptors{0};
EXPORT int fake_descriptors() { return descriptors; }
EXPORT cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc,
                                               cublasComputeType_t compute, cudaDataType scale) {
  FORWARD(cublasLtMatmulDescCreate, desc, compute, scale);
  ++descriptors;
  *desc = new cublasLtMatmulDescStruct{};
  return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  FORWARD(cublasLtMatmulDescDestroy, desc);
  delete desc;
  return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                                     cublasLtMatmulDescAttributes_t attribute,
                                                     const void* value, size_t bytes) {
  FORWARD(cublasLtMatmulDescSetAttribute, desc, attribute, value, bytes);
  if (bytes == sizeof(void*)) std::memcpy(&desc->pointers[attribute], value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  FORWARD(cublasLtMatmulPreferenceCreate, preference);
  *preference = new cublasLtMatmulPreferenceStruct{~uint64_t{0}};
  return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  FORWARD(cublasLtMatmulPreferenceDestroy, preference);
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasLtMatmulPreferenceSetAttribute(
    cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
    const void* value, size_t bytes) {
  FORWARD(cublasLtMatmulPreferenceSetAttribute, preference, attribute, value, bytes);
  if (attribute == CUBLASLT_MATMUL_PREF_IMPL_MASK) {
    std::memcpy(&preference->impl_mask, value, bytes);
  }
  return CUBLAS_STATUS_SUCCESS;
}

// As the library's own: what the callback is told is written to the file too.
FILE* log_file = stdout;
int log_level = 0;
cublasLtLoggerCallback_t log_callback = nullptr;
EXPORT cublasStatus_t cublasLtLoggerSetFile(FILE* file) {
  log_file = file;
  return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasLtLoggerSetLevel(int level) {
  log_level = level;
  return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasLtLoggerSetCallback(cublasLtLoggerCallback_t callback) {
  log_callback = callback;
  return CUBLAS_STATUS_SUCCESS;
}
void Log(const char* function, const char* message) {
  if (log_level == 0) return;
  if (log_callback != nullptr) log_callback(1, function, message);
  std::fprintf(log_file, "[cublasLt][%s] %s\n", function, message);
  std::fflush(log_file);
}

// One bit of the mask is of no algorithm here.
EXPORT cublasStatus_t cublasLtMatmulAlgoGetHeuristic(
    cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
    cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatmulPreference_t preference,
    int requested, cublasLtMatmulHeuristicResult_t* results, int* returned) {
  const bool own = Real<decltype(cublasLtGetVersion)>("cublasLtGetVersion") == nullptr;
  if (own && preference->impl_mask == 8) {
    Log("cublasLtMatmulAlgoGetHeuristic", "no kernel");
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  *returned = requested < 2 ? requested : 2;
  for (int i = 0; i < *returned; ++i) results[i] = {{{1}}, 100, CUBLAS_STATUS_SUCCESS, 0.5f, {}};
  return CUBLAS_STATUS_SUCCESS;
}
EXPORT cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              const cublasLtMatmulAlgo_t* algo,
                                              cublasLtMatmulHeuristicResult_t* result) {
  if (algo->data[0] != 1) return CUBLAS_STATUS_INVALID_VALUE;
  *result = {{}, 100, CUBLAS_STATUS_SUCCESS, 0.5f, {}};  // the algorithm itself is left out
  return CUBLAS_STATUS_SUCCESS;
}
#define UNUSED(name, ...) \
  EXPORT cublasStatus_t name(__VA_ARGS__) { return CUBLAS_STATUS_NOT_SUPPORTED; }
UNUSED(cublasLtMatmulAlgoGetIds, cublasLtHandle_t, cublasComputeType_t, cudaDataType, cudaDataType,
       cudaDataType, cudaDataType, cudaDataType, int, int*, int*)
UNUSED(cublasLtMatmulAlgoInit, cublasLtHandle_t, cublasComputeType_t, cudaDataType, cudaDataType,
       cudaDataType, cudaDataType, cudaDataType, int, cublasLtMatmulAlgo_t*)
UNUSED(cublasLtMatmulAlgoCapGetAttribute, const cublasLtMatmulAlgo_t*,
       cublasLtMatmulAlgoCapAttributes_t, void*, size_t, size_t*)
UNUSED(cublasLtMatmulAlgoConfigGetAttribute, const cublasLtMatmulAlgo_t*,
       cublasLtMatmulAlgoConfigAttributes_t, void*, size_t, size_t*)
UNUSED(cublasLtMatmulAlgoConfigSetAttribute, cublasLtMatmulAlgo_t*,
       cublasLtMatmulAlgoConfigAttributes_t, const void*, size_t)

}  // extern "C"
}  // namespace fake
