#include "nvstate/cudss.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace nvstate {
namespace abi {

std::string StatusName(cudssStatus_t status) {
#define NAME(status) \
  case status:       \
    return #status
  switch (status) {
    NAME(CUDSS_STATUS_SUCCESS);
    NAME(CUDSS_STATUS_NOT_INITIALIZED);
    NAME(CUDSS_STATUS_ALLOC_FAILED);
    NAME(CUDSS_STATUS_INVALID_VALUE);
    NAME(CUDSS_STATUS_NOT_SUPPORTED);
    NAME(CUDSS_STATUS_EXECUTION_FAILED);
    NAME(CUDSS_STATUS_INTERNAL_ERROR);
    NAME(CUDSS_STATUS_IR_FAILED);
  }
#undef NAME
  return "cudssStatus_t " + std::to_string(static_cast<int>(status));
}

Code CodeOf(cudssStatus_t status) {
  switch (status) {
    case CUDSS_STATUS_ALLOC_FAILED:
      return Code::kResourceExhausted;
    case CUDSS_STATUS_NOT_SUPPORTED:
    case CUDSS_STATUS_INVALID_VALUE:
      return Code::kInvalidArgument;
    default:
      return Code::kInternal;
  }
}

}  // namespace abi

namespace cudss {
namespace {

// A solve with refinement allocates a few vectors and frees them again; below this many bytes they
// are not given back to the driver at every wait for the stream. One vector of complex128 with four
// million rows takes as much.
constexpr uint64_t kKeptByPool = uint64_t{64} << 20;

constexpr size_t kBlockBytes = size_t{1} << 19;  // a multiple of every element's

abi::CUmemoryPool PoolOf(int device) {
  static std::mutex mutex;
  static auto* const pools = new std::map<int, abi::CUmemoryPool>();
  std::lock_guard lock(mutex);
  if (const auto found = pools->find(device); found != pools->end()) return found->second;
  const StreamDriver& driver = Opened<StreamDriver>();
  abi::CUdevice handle;
  NVS_CHECK(Opened<Driver>().cuDeviceGet(&handle, device));
  abi::CUmemPoolProps properties{};
  properties.allocType = abi::CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.handleTypes = abi::CU_MEM_HANDLE_TYPE_NONE;
  properties.location = {abi::CU_MEM_LOCATION_TYPE_DEVICE, handle};
  abi::CUmemoryPool pool;
  NVS_CHECK(driver.cuMemPoolCreate(&pool, &properties));
  uint64_t threshold = kKeptByPool;
  NVS_CHECK(driver.cuMemPoolSetAttribute(pool, abi::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold));
  return (*pools)[device] = pool;
}

Owned<abi::CUstream> Stream() {
  const Driver& driver = Opened<Driver>();
  abi::CUstream stream;
  NVS_CHECK(driver.cuStreamCreate(&stream, abi::CU_STREAM_NON_BLOCKING));
  return {stream, [&driver](abi::CUstream dying) { driver.cuStreamDestroy_v2(dying); }};
}

Owned<abi::CUevent> Event() {
  const Driver& driver = Opened<Driver>();
  abi::CUevent event;
  NVS_CHECK(driver.cuEventCreate(&event, abi::CU_EVENT_DISABLE_TIMING));
  return {event, [&driver](abi::CUevent dying) { driver.cuEventDestroy_v2(dying); }};
}

Owned<void*> Pinned(size_t bytes) {
  const StreamDriver& driver = Opened<StreamDriver>();
  void* memory;
  NVS_CHECK(driver.cuMemAllocHost_v2(&memory, bytes));
  return {memory, [&driver](void* dying) { driver.cuMemFreeHost(dying); }};
}

int DeviceAlloc(void* memory, void** pointer, size_t bytes, abi::cudaStream_t stream) {
  return static_cast<Memory*>(memory)->Allocate(pointer, bytes, stream);
}

int DeviceFree(void* memory, void* pointer, size_t bytes, abi::cudaStream_t stream) {
  return static_cast<Memory*>(memory)->Free(pointer, bytes, stream);
}

}  // namespace

std::array<int, 3> CheckedVersion(decltype(abi::cudssGetProperty)* get) {
  std::array<int, 3> version;
  NVS_CHECK(get(abi::MAJOR_VERSION, &version[0]));
  NVS_CHECK(get(abi::MINOR_VERSION, &version[1]));
  NVS_CHECK(get(abi::PATCH_LEVEL, &version[2]));
  if (version[0] == 1 && version[1] == 0) return version;
  throw Failure(Code::kFailedPrecondition,
                "cuDSS 1.0 is needed, since its numbers are not those of other versions; found " +
                    std::to_string(version[0]) + "." + std::to_string(version[1]) + "." +
                    std::to_string(version[2]) + " in " + Library::Path("cudss") +
                    ". Install it with `pip install \"nvidia-cudss-cu13==1.0.*\"` (CUDA 13) or "
                    "`pip install \"nvidia-cudss-cu12==1.0.*\"` (CUDA 12).");
}

Memory::Memory(int device) : pool_(PoolOf(device)) {}

int Memory::Allocate(void** pointer, size_t bytes, abi::CUstream stream) noexcept {
  *pointer = nullptr;
  if (bytes == 0) return 0;  // every solve asks for this
  abi::CUdeviceptr memory = 0;
  if (driver_.cuMemAllocFromPoolAsync(&memory, bytes, pool_, stream) != abi::CUDA_SUCCESS) {
    refused_ = bytes;
    return 1;
  }
  *pointer = Pointer(memory);
  bytes_ += static_cast<int64_t>(bytes);
  return 0;
}

int Memory::Free(void* pointer, size_t bytes, abi::CUstream stream) noexcept {
  if (pointer == nullptr) return 0;
  bytes_ -= static_cast<int64_t>(bytes);
  return driver_.cuMemFreeAsync(Address(pointer), stream) == abi::CUDA_SUCCESS ? 0 : 1;
}

Context::Context(int device)
    : device_(device),
      stream_(Stream()),
      before_(Event()),
      after_(Event()),
      read_(Event()),
      written_(Event()),
      read_to_(Pinned(kFewBytes)),
      read_ahead_to_(Pinned(kFewBytes)),
      written_from_(Pinned(kFewBytes)),
      memory_(device) {
  const abi::cudssStatus_t status = api_.cudssCreate(&handle_);
  try {
    Check(status, "cudssCreate");
    abi::cudssDeviceMemHandler_t handler{&memory_, DeviceAlloc, DeviceFree, {}};
    std::strncpy(handler.name, "nvstate", abi::kAllocatorName - 1);
    NVS_CUDSS(*this, cudssSetDeviceMemHandler, handle_, &handler);
    NVS_CUDSS(*this, cudssSetStream, handle_, stream());
    if (const std::string layer = ThreadingLayer(); !layer.empty()) {
      NVS_CUDSS(*this, cudssSetThreadingLayer, handle_, layer.c_str());
    }
  } catch (...) {
    if (handle_ != nullptr) api_.cudssDestroy(handle_);
    throw;
  }
}

Context::~Context() {
  try {
    OnDevice on(device_);
    api_.cudssDestroy(handle_);
    Opened<Driver>().cuStreamSynchronize(stream());
  } catch (...) {  // the driver has shut down
  }
}

void Context::Fork(abi::CUstream xla) {
  NVS_CHECK(Opened<Driver>().cuEventRecord(*before_, xla));
  NVS_CHECK(driver_.cuStreamWaitEvent(stream(), *before_, 0));
}

void Context::Join(abi::CUstream xla) {
  NVS_CHECK(Opened<Driver>().cuEventRecord(*after_, stream()));
  NVS_CHECK(driver_.cuStreamWaitEvent(xla, *after_, 0));
}

void Context::Wait() const { NVS_CHECK(Opened<Driver>().cuStreamSynchronize(stream())); }

void Context::Read(void* to, const void* from, size_t bytes, abi::CUstream stream) const {
  if (bytes == 0) return;
  void* const first = bytes <= kFewBytes ? *read_to_ : to;
  NVS_CHECK(driver_.cuMemcpyDtoHAsync_v2(first, Address(from), bytes, stream));
  NVS_CHECK(Opened<Driver>().cuStreamSynchronize(stream));
  if (first != to) std::memcpy(to, first, bytes);
}

Context::Block::Block() : memory(Pinned(kBlockBytes)), copied(Event()) {}

void Context::ReadInBlocks(const void* from, size_t bytes, abi::CUstream stream,
                           const std::function<void(const void*, size_t, size_t)>& see) {
  for (std::optional<Block>& block : blocks_) {
    if (!block) block.emplace();
  }
  const size_t count = (bytes + kBlockBytes - 1) / kBlockBytes;
  const auto size = [&](size_t i) { return std::min(kBlockBytes, bytes - i * kBlockBytes); };
  for (size_t i = 0; i <= count; ++i) {
    if (i < count) {
      const Block& next = *blocks_[i % 2];
      const auto* const at = static_cast<const char*>(from) + i * kBlockBytes;
      NVS_CHECK(driver_.cuMemcpyDtoHAsync_v2(*next.memory, Address(at), size(i), stream));
      NVS_CHECK(Opened<Driver>().cuEventRecord(*next.copied, stream));
    }
    if (i > 0) {
      const Block& last = *blocks_[(i - 1) % 2];
      NVS_CHECK(driver_.cuEventSynchronize(*last.copied));
      see(*last.memory, (i - 1) * kBlockBytes, size(i - 1));
    }
  }
}

void Context::Write(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  if (bytes > kFewBytes) {
    NVS_CHECK(Opened<Driver>().cuMemcpyHtoDAsync_v2(Address(to), from, bytes, *stream_));
    Wait();  // until then the copy reads `from`
    return;
  }
  if (written_bytes_ + bytes > kFewBytes) {
    NVS_CHECK(driver_.cuEventSynchronize(*written_));
    written_bytes_ = 0;
  }
  char* const own = static_cast<char*>(*written_from_) + written_bytes_;
  std::memcpy(own, from, bytes);
  written_bytes_ += bytes;
  NVS_CHECK(Opened<Driver>().cuMemcpyHtoDAsync_v2(Address(to), own, bytes, *stream_));
  NVS_CHECK(Opened<Driver>().cuEventRecord(*written_, *stream_));
}

Context::Reading::Reading(Context& context, const void* from, size_t bytes, abi::CUstream stream)
    : context_(context) {
  NVS_CHECK(
      context.driver_.cuMemcpyDtoHAsync_v2(*context.read_ahead_to_, Address(from), bytes, stream));
  const abi::CUresult recorded = Opened<Driver>().cuEventRecord(*context.read_, stream);
  if (recorded == abi::CUDA_SUCCESS) return;
  Opened<Driver>().cuStreamSynchronize(stream);  // the destructor will not wait for the copy
  Check(recorded, "cuEventRecord");
}

Context::Reading::~Reading() { context_.driver_.cuEventSynchronize(*context_.read_); }

const void* Context::Reading::Wait() {
  NVS_CHECK(context_.driver_.cuEventSynchronize(*context_.read_));
  return *context_.read_ahead_to_;
}

Buffer::Buffer(Context& context, size_t bytes) : context_(&context), bytes_(bytes) {
  if (context.memory().Allocate(&data_, bytes, context.stream()) != 0) {
    ThrowExhausted(context, "cuMemAllocFromPoolAsync");
  }
}

Buffer::Buffer(Context& context, const void* host, size_t bytes) : Buffer(context, bytes) {
  context.Write(data_, host, bytes);
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(context_, other.context_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Buffer::~Buffer() {
  if (data_ != nullptr) context_->memory().Free(data_, bytes_, context_->stream());
}

int64_t TotalBytes() {
  size_t free, total;
  NVS_CHECK(Opened<Driver>().cuMemGetInfo_v2(&free, &total));
  return static_cast<int64_t>(total);
}

void CopyOnDevice(void* to, const void* from, size_t bytes, abi::CUstream stream) {
  NVS_CHECK(Opened<Driver>().cuMemcpyDtoDAsync_v2(Address(to), Address(from), bytes, stream));
}

void FillWord(void* to, uint32_t value, abi::CUstream stream) {
  NVS_CHECK(Opened<StreamDriver>().cuMemsetD32Async(Address(to), value, 1, stream));
}

void FillNan(void* to, size_t bytes, abi::CUstream stream) {
  NVS_CHECK(Opened<Driver>().cuMemsetD8Async(Address(to), 0xFF, bytes, stream));
}

void ThrowExhausted(const Context& context, const char* call) {
  throw Failure(
      Code::kResourceExhausted,
      std::string(call) + " failed: no device memory for " +
          std::to_string(context.memory().refused()) + " bytes more; this plan's factors hold " +
          std::to_string(context.memory().bytes()) + ", " + std::to_string(FreeBytes()) +
          " are free. Plan with `hybrid_memory=True` or with `factor_slots=1`, or leave more "
          "outside JAX's own pool with XLA_PYTHON_CLIENT_MEM_FRACTION");
}

void CheckCall(const Context& context, abi::cudssStatus_t status, const char* call) {
  if (status == abi::CUDSS_STATUS_ALLOC_FAILED) ThrowExhausted(context, call);
  Check(status, call);
}

std::string ThreadingLayer() {
  if (const char* own = std::getenv("CUDSS_THREADING_LIB"); own != nullptr) return own;
  const char* const path = Library::Path("cudss");
  std::string file = path == nullptr ? "" : path;
  const size_t slash = file.rfind('/');
  if (slash == std::string::npos) return "";
  file = file.substr(0, slash + 1) + "libcudss_mtlayer_gomp.so.1";
  return access(file.c_str(), R_OK) == 0 ? file : "";
}

}  // namespace cudss
}  // namespace nvstate
