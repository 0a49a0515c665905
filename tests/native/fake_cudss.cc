// A CUDA driver whose device memory is the host's, and a cuDSS that factorizes densely by Gauss
// without pivoting, float64 only: what a ring does with slots, batches, failures and memory can be
// tested without a GPU. It has cuDSS's manners: the error indicator stays until it is reset, and a
// uniform batch tells one sum. Any one call may be told to fail.

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "nvstate/abi/cuda_driver.h"
#include "nvstate/abi/cudss.h"

namespace nvstate::abi {

struct cudssContext {
  cudssDeviceMemHandler_t memory;
};
struct cudssMatrix {
  int64_t rows, columns, nnz;
  const void *indptr, *indices, *values;
  cudssMatrixType_t type;
};
struct cudssConfig {
  std::map<int, int64_t> numbers;
};
struct cudssData {
  std::vector<std::vector<double>> factors;  // by element, row-major
  int32_t info = 0;
  int32_t pivots = 0;
  int32_t inertia[2] = {0, 0};
  void* memory = nullptr;  // as a factor's: from the handler
  bool analysed = false;
  bool broken = false;  // once a phase has failed nothing that it says can be believed
};

}  // namespace nvstate::abi

namespace fake {
using namespace nvstate::abi;  // NOLINT(build/namespaces): all of it is defined here

std::mutex mutex;       // of the next three
int64_t allocated = 0;  // bytes of pools
int64_t limit = INT64_MAX;
std::map<CUdeviceptr, size_t> sizes;
std::atomic<int64_t> alive{0};  // streams, events, pinned areas and cuDSS's objects

std::atomic<int64_t> calls_left{0};  // until one fails; 0: none will
const char* failed = nullptr;

bool Fails(const char* name) {
  if (calls_left == 0 || --calls_left != 0) return false;
  failed = name;
  return true;
}

constexpr double kTiny = 1e-13;  // a smaller pivot is replaced by it

bool IsDefinite(const cudssMatrix* m) {
  return m->type == CUDSS_MTYPE_SPD || m->type == CUDSS_MTYPE_HPD;
}

std::vector<double> Dense(const cudssMatrix* m, int64_t element) {
  const auto* indptr = static_cast<const int32_t*>(m->indptr);
  const auto* indices = static_cast<const int32_t*>(m->indices);
  const auto* values = static_cast<const double*>(m->values) + element * m->nnz;
  const int64_t n = m->rows;
  std::vector<double> a(static_cast<size_t>(n * n));
  for (int64_t row = 0; row < n; ++row) {
    for (int32_t p = indptr[row]; p < indptr[row + 1]; ++p) a[row * n + indices[p]] = values[p];
  }
  return a;
}

std::vector<double> Factors(const cudssMatrix* m, int64_t element, cudssData* data) {
  const int64_t n = m->rows;
  std::vector<double> a = Dense(m, element);
  for (int64_t j = 0; j < n; ++j) {
    if (IsDefinite(m) && a[j * n + j] <= 0 && data->info == 0) data->info = j + 1;
    if (std::abs(a[j * n + j]) < kTiny) {
      ++data->pivots;
      a[j * n + j] = kTiny;
    }
    ++data->inertia[a[j * n + j] > 0 ? 0 : 1];
    for (int64_t i = j + 1; i < n; ++i) {
      const double factor = a[i * n + j] /= a[j * n + j];
      for (int64_t k = j + 1; k < n; ++k) a[i * n + k] -= factor * a[j * n + k];
    }
  }
  return a;
}

void Solve(const std::vector<double>& a, int64_t n, bool transposed, const double* b, double* x) {
  std::memcpy(x, b, static_cast<size_t>(n) * sizeof(double));
  const auto at = [&](int64_t i, int64_t j) { return transposed ? a[j * n + i] : a[i * n + j]; };
  for (int64_t i = 0; i < n; ++i) {  // of the two factors the first is lower, its diagonal ones
    for (int64_t j = 0; j < i; ++j) x[i] -= at(i, j) * x[j];  // or, transposed, U's
    if (transposed) x[i] /= at(i, i);
  }
  for (int64_t i = n - 1; i >= 0; --i) {
    for (int64_t j = i + 1; j < n; ++j) x[i] -= at(i, j) * x[j];
    if (!transposed) x[i] /= at(i, i);
  }
}

extern "C" {
#define EXPORT __attribute__((visibility("default")))
#define RESULT EXPORT CUresult
#define STATUS EXPORT cudssStatus_t

EXPORT int64_t fake_allocated() {
  std::lock_guard lock(mutex);
  return allocated;
}
EXPORT int64_t fake_alive() { return alive; }
EXPORT void fake_limit(int64_t bytes) { limit = bytes; }
// The call of this number fails, counted from now on, from 1; 0: none. Returns the name of the one
// that has failed since the last time, or null.
EXPORT const char* fake_fail(int64_t call) {
  calls_left = call;
  const char* const name = failed;
  failed = nullptr;
  return name;
}

thread_local CUcontext current = nullptr;
RESULT cuInit(unsigned int) { return CUDA_SUCCESS; }
RESULT cuDeviceGet(CUdevice* device, int ordinal) {
  *device = ordinal;
  return CUDA_SUCCESS;
}
RESULT cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  *context = reinterpret_cast<CUcontext>(intptr_t{device} + 1);
  return CUDA_SUCCESS;
}
RESULT cuCtxGetCurrent(CUcontext* context) {
  *context = current;
  return CUDA_SUCCESS;
}
RESULT cuCtxPushCurrent_v2(CUcontext context) {
  current = context;
  return CUDA_SUCCESS;
}
RESULT cuCtxPopCurrent_v2(CUcontext* context) {
  *context = current;
  current = nullptr;
  return CUDA_SUCCESS;
}
RESULT cuMemGetInfo_v2(size_t* free, size_t* total) {
  if (Fails(__func__)) return CUDA_ERROR_LAUNCH_FAILED;
  std::lock_guard lock(mutex);
  *total = size_t{1} << 30;
  *free = static_cast<size_t>(limit - allocated < (1 << 29) ? limit - allocated : 1 << 29);
  return CUDA_SUCCESS;
}
RESULT cuStreamCreate(CUstream* stream, unsigned int) {
  if (Fails(__func__)) return CUDA_ERROR_LAUNCH_FAILED;
  *stream = reinterpret_cast<CUstream>(8);
  ++alive;
  return CUDA_SUCCESS;
}
RESULT cuStreamDestroy_v2(CUstream) {
  --alive;
  return CUDA_SUCCESS;
}
RESULT cuEventCreate(CUevent* event, unsigned int) {
  if (Fails(__func__)) return CUDA_ERROR_LAUNCH_FAILED;
  *event = reinterpret_cast<CUevent>(8);
  ++alive;
  return CUDA_SUCCESS;
}
RESULT cuEventDestroy_v2(CUevent) {
  --alive;
  return CUDA_SUCCESS;
}
RESULT cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream) {
  if (Fails(__func__)) return CUDA_ERROR_LAUNCH_FAILED;
  std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
  return CUDA_SUCCESS;
}
RESULT cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream) {
  if (Fails(__func__)) return CUDA_ERROR_LAUNCH_FAILED;
  std::memcpy(reinterpret_cast<void*>(to), from, bytes);
  return CUDA_SUCCESS;
}
// What is copied to the host is there once it has been waited for, and not if that fails.
struct Copy {
  void* to;
  std::vector<char> bytes;
};
thread_local std::vector<Copy> copies;
RESULT cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream) {
  if (Fails(__func__)) return CUDA_ERROR_LAUNCH_FAILED;
  const auto* const begin = reinterpret_cast<const char*>(from);
  copies.push_back({to, {begin, begin + bytes}});
  return CUDA_SUCCESS;
}
CUresult Waited(const char* name) {
  const bool fails = Fails(name);
  for (const Copy& copy : copies) {
    if (!fails) std::memcpy(copy.to, copy.bytes.data(), copy.bytes.size());
  }
  copies.clear();
  return fails ? CUDA_ERROR_LAUNCH_FAILED : CUDA_SUCCESS;
}
RESULT cuStreamSynchronize(CUstream) { return Waited(__func__); }
RESULT cuEventSynchronize(CUevent) { return Waited(__func__); }
RESULT cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream) {
  if (Fails(__func__)) return CUDA_ERROR_LAUNCH_FAILED;
  std::memset(reinterpret_cast<void*>(to), value, bytes);
  return CUDA_SUCCESS;
}
RESULT cuMemsetD32Async(CUdeviceptr to, unsigned int value, size_t count, CUstream) {
  if (Fails(__func__)) return CUDA_ERROR_LAUNCH_FAILED;
  for (size_t i = 0; i < count; ++i) reinterpret_cast<unsigned int*>(to)[i] = value;
  return CUDA_SUCCESS;
}
RESULT cuMemAllocHost_v2(void** pointer, size_t bytes) {
  if (Fails(__func__)) return CUDA_ERROR_OUT_OF_MEMORY;
  ++alive;
  *pointer = std::malloc(bytes);
  return CUDA_SUCCESS;
}
RESULT cuMemFreeHost(void* pointer) {
  --alive;
  std::free(pointer);
  return CUDA_SUCCESS;
}
RESULT cuMemPoolCreate(CUmemoryPool* pool, const CUmemPoolProps*) {
  *pool = reinterpret_cast<CUmemoryPool>(8);
  return CUDA_SUCCESS;
}
RESULT cuMemAllocFromPoolAsync(CUdeviceptr* pointer, size_t bytes, CUmemoryPool, CUstream) {
  if (Fails(__func__)) return CUDA_ERROR_OUT_OF_MEMORY;
  std::lock_guard lock(mutex);
  if (allocated + static_cast<int64_t>(bytes) > limit) return CUDA_ERROR_OUT_OF_MEMORY;
  allocated += static_cast<int64_t>(bytes);
  *pointer = reinterpret_cast<CUdeviceptr>(std::malloc(bytes));
  sizes[*pointer] = bytes;
  return CUDA_SUCCESS;
}
RESULT cuMemFreeAsync(CUdeviceptr pointer, CUstream) {
  std::lock_guard lock(mutex);
  const auto found = sizes.find(pointer);
  if (found == sizes.end()) std::abort();
  allocated -= static_cast<int64_t>(found->second);
  sizes.erase(found);
  std::free(reinterpret_cast<void*>(pointer));
  return CUDA_SUCCESS;
}
RESULT cuStreamIsCapturing(CUstream, CUstreamCaptureStatus* status) {
  *status = CU_STREAM_CAPTURE_STATUS_NONE;
  return CUDA_SUCCESS;
}
#define NOTHING(name, ...) \
  RESULT name(__VA_ARGS__) { return Fails(#name) ? CUDA_ERROR_LAUNCH_FAILED : CUDA_SUCCESS; }
NOTHING(cuDeviceGetAttribute, int*, CUdevice_attribute, CUdevice)
NOTHING(cuMemAlloc_v2, CUdeviceptr*, size_t)
NOTHING(cuMemFree_v2, CUdeviceptr)
NOTHING(cuMemsetD2D8Async, CUdeviceptr, size_t, unsigned char, size_t, size_t, CUstream)
NOTHING(cuEventRecord, CUevent, CUstream)
NOTHING(cuEventElapsedTime, float*, CUevent, CUevent)
NOTHING(cuStreamWaitEvent, CUstream, CUevent, unsigned int)
NOTHING(cuStreamBeginCapture_v2, CUstream, CUstreamCaptureMode)
NOTHING(cuStreamEndCapture, CUstream, CUgraph*)
NOTHING(cuGraphDestroy, CUgraph)
NOTHING(cuMemPoolSetAttribute, CUmemoryPool, CUmemPool_attribute, void*)

STATUS cudssGetProperty(libraryPropertyType property, int* value) {
  *value = property == MAJOR_VERSION ? 1 : 0;
  return CUDSS_STATUS_SUCCESS;
}
STATUS cudssCreate(cudssHandle_t* handle) {
  if (Fails(__func__)) return CUDSS_STATUS_INTERNAL_ERROR;
  *handle = new cudssContext{};
  ++alive;
  return current == nullptr ? CUDSS_STATUS_NOT_INITIALIZED : CUDSS_STATUS_SUCCESS;
}
STATUS cudssDestroy(cudssHandle_t handle) {
  --alive;
  delete handle;
  return CUDSS_STATUS_SUCCESS;
}
STATUS cudssSetDeviceMemHandler(cudssHandle_t handle, const cudssDeviceMemHandler_t* handler) {
  if (Fails(__func__)) return CUDSS_STATUS_INTERNAL_ERROR;
  handle->memory = *handler;
  return CUDSS_STATUS_SUCCESS;
}
STATUS cudssConfigCreate(cudssConfig_t* config) {
  if (Fails(__func__)) return CUDSS_STATUS_INTERNAL_ERROR;
  *config = new cudssConfig{};
  ++alive;
  return CUDSS_STATUS_SUCCESS;
}
STATUS cudssConfigDestroy(cudssConfig_t config) {
  --alive;
  delete config;
  return CUDSS_STATUS_SUCCESS;
}
STATUS cudssConfigSet(cudssConfig_t config, cudssConfigParam_t parameter, const void* value,
                      size_t bytes) {
  if (Fails(__func__)) return CUDSS_STATUS_INTERNAL_ERROR;
  int64_t number = 0;
  std::memcpy(&number, value, bytes);
  config->numbers[parameter] = bytes == 4 ? static_cast<int32_t>(number) : number;
  return CUDSS_STATUS_SUCCESS;
}
STATUS cudssDataCreate(const cudssHandle_t, cudssData_t* data) {
  if (Fails(__func__)) return CUDSS_STATUS_INTERNAL_ERROR;
  *data = new cudssData{};
  ++alive;
  return CUDSS_STATUS_SUCCESS;
}
STATUS cudssDataDestroy(cudssHandle_t handle, cudssData_t data) {
  if (data->memory != nullptr) {
    handle->memory.device_free(handle->memory.ctx, data->memory, 4096, nullptr);
  }
  --alive;
  delete data;
  return CUDSS_STATUS_SUCCESS;
}
STATUS cudssDataSet(const cudssHandle_t, cudssData_t data, cudssDataParam_t parameter,
                    const void* value, size_t) {
  if (Fails(__func__)) return CUDSS_STATUS_INTERNAL_ERROR;
  if (parameter == CUDSS_DATA_INFO) std::memcpy(&data->info, value, sizeof(data->info));
  return CUDSS_STATUS_SUCCESS;
}
STATUS cudssDataGet(const cudssHandle_t, const cudssData_t data, cudssDataParam_t parameter,
                    void* value, size_t bytes, size_t* written) {
  if (Fails(__func__)) return CUDSS_STATUS_INTERNAL_ERROR;
  if (parameter == CUDSS_DATA_DIAG && data->factors.size() == 1) {
    const std::vector<double>& factors = data->factors.front();
    const auto n = static_cast<size_t>(std::lround(std::sqrt(factors.size())));
    for (size_t i = 0; i < n; ++i) static_cast<double*>(value)[i] = factors[i * n + i];
    *written = n * sizeof(double);
    return *written == bytes ? CUDSS_STATUS_SUCCESS : CUDSS_STATUS_INVALID_VALUE;
  }
  const int32_t* const from = parameter == CUDSS_DATA_INFO      ? &data->info
                              : parameter == CUDSS_DATA_NPIVOTS ? &data->pivots
                              : parameter == CUDSS_DATA_INERTIA ? data->inertia
                                                                : nullptr;
  if (from == nullptr) return CUDSS_STATUS_NOT_SUPPORTED;
  *written = parameter == CUDSS_DATA_INERTIA ? 8 : 4;
  if (bytes != *written) return CUDSS_STATUS_INVALID_VALUE;
  std::memcpy(value, from, bytes);
  return CUDSS_STATUS_SUCCESS;
}
STATUS cudssMatrixCreateDn(cudssMatrix_t* matrix, int64_t rows, int64_t columns, int64_t,
                           const void* values, cudaDataType, cudssLayout_t) {
  if (Fails(__func__)) return CUDSS_STATUS_INTERNAL_ERROR;
  ++alive;
  *matrix = new cudssMatrix{rows, columns, 0, nullptr, nullptr, values, CUDSS_MTYPE_GENERAL};
  return CUDSS_STATUS_SUCCESS;
}
STATUS cudssMatrixCreateCsr(cudssMatrix_t* matrix, int64_t rows, int64_t columns, int64_t nnz,
                            const void* start, const void*, const void* indices, const void* values,
                            cudaDataType, cudaDataType, cudaDataType, cudssMatrixType_t type,
                            cudssMatrixViewType_t, cudssIndexBase_t) {
  if (Fails(__func__)) return CUDSS_STATUS_INTERNAL_ERROR;
  ++alive;
  *matrix = new cudssMatrix{rows, columns, nnz, start, indices, values, type};
  return CUDSS_STATUS_SUCCESS;
}
STATUS cudssMatrixDestroy(cudssMatrix_t matrix) {
  --alive;
  delete matrix;
  return CUDSS_STATUS_SUCCESS;
}
STATUS cudssMatrixSetValues(cudssMatrix_t matrix, const void* values) {
  if (Fails(__func__)) return CUDSS_STATUS_INTERNAL_ERROR;
  matrix->values = values;
  return CUDSS_STATUS_SUCCESS;
}
STATUS cudssExecute(cudssHandle_t handle, int phase, const cudssConfig_t config, cudssData_t data,
                    const cudssMatrix_t m, cudssMatrix_t x, const cudssMatrix_t b) {
  if (Fails(__func__)) {
    data->broken = true;
    return CUDSS_STATUS_ALLOC_FAILED;
  }
  const auto number = [&](cudssConfigParam_t parameter, int64_t other) {
    const auto found = config->numbers.find(parameter);
    return found == config->numbers.end() ? other : found->second;
  };
  const int64_t batch = number(CUDSS_CONFIG_UBATCH_SIZE, 1);
  const int64_t element = number(CUDSS_CONFIG_UBATCH_INDEX, -1);
  if (phase == CUDSS_PHASE_ANALYSIS) {
    data->analysed = true;
    void** const memory = &data->memory;
    return handle->memory.device_alloc(handle->memory.ctx, memory, 4096, nullptr) == 0
               ? CUDSS_STATUS_SUCCESS
               : CUDSS_STATUS_ALLOC_FAILED;
  }
  if (!data->analysed) return CUDSS_STATUS_INVALID_VALUE;
  if (phase == CUDSS_PHASE_FACTORIZATION || phase == CUDSS_PHASE_REFACTORIZATION) {
    if (element != -1) return CUDSS_STATUS_NOT_SUPPORTED;
    data->pivots = data->inertia[0] = data->inertia[1] = 0;
    data->factors.clear();
    for (int64_t i = 0; i < batch; ++i) data->factors.push_back(Factors(m, i, data));
    return CUDSS_STATUS_SUCCESS;
  }
  const bool transposed = number(CUDSS_CONFIG_SOLVE_MODE, 0) == CUDSS_SOLVE_MODE_TRANSPOSE;
  const int64_t first = element == -1 ? 0 : element, last = element == -1 ? batch : element + 1;
  const auto* from = static_cast<const double*>(b->values);
  auto* to = static_cast<double*>(const_cast<void*>(x->values));
  for (int64_t i = first; i < last; ++i) {
    for (int64_t c = 0; c < b->columns; ++c, from += m->rows, to += m->rows) {
      Solve(data->factors[static_cast<size_t>(i)], m->rows, transposed, from, to);
      if (data->info != 0 || data->broken) *to = 1e300;
    }
  }
  return CUDSS_STATUS_SUCCESS;
}
#define UNUSED(name, ...)                                                       \
  STATUS name(__VA_ARGS__) {                                                    \
    return Fails(#name) ? CUDSS_STATUS_EXECUTION_FAILED : CUDSS_STATUS_SUCCESS; \
  }
UNUSED(cudssSetStream, cudssHandle_t, cudaStream_t)
UNUSED(cudssSetThreadingLayer, cudssHandle_t, const char*)
UNUSED(cudssConfigGet, const cudssConfig_t, cudssConfigParam_t, void*, size_t, size_t*)

}  // extern "C"
}  // namespace fake
