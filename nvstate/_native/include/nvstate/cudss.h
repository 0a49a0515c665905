// cuDSS as nvstate calls it: its functions, the memory it takes, and a handle with the one stream
// that all of its phases run on.

#ifndef NVSTATE_CUDSS_H_
#define NVSTATE_CUDSS_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "nvstate/abi/cudss.h"
#include "nvstate/device.h"
#include "nvstate/error.h"
#include "nvstate/library.h"
#include "nvstate/owned.h"

namespace nvstate {
namespace abi {
std::string StatusName(cudssStatus_t status);
Code CodeOf(cudssStatus_t status);
}  // namespace abi

namespace cudss {

// Throws kFailedPrecondition unless it is 1.0.
std::array<int, 3> CheckedVersion(decltype(abi::cudssGetProperty)* get);

struct Api {
  Library library{"cudss"};
  NVS_SYMBOL(cudssGetProperty)
  // Before the rest is looked up, which other versions may lack.
  const std::array<int, 3> version = CheckedVersion(cudssGetProperty);
  NVS_SYMBOL(cudssCreate)
  NVS_SYMBOL(cudssDestroy)
  NVS_SYMBOL(cudssSetStream)
  NVS_SYMBOL(cudssSetThreadingLayer)
  NVS_SYMBOL(cudssSetDeviceMemHandler)
  NVS_SYMBOL(cudssConfigCreate)
  NVS_SYMBOL(cudssConfigDestroy)
  NVS_SYMBOL(cudssConfigSet)
  NVS_SYMBOL(cudssConfigGet)
  NVS_SYMBOL(cudssDataCreate)
  NVS_SYMBOL(cudssDataDestroy)
  NVS_SYMBOL(cudssDataSet)
  NVS_SYMBOL(cudssDataGet)
  NVS_SYMBOL(cudssMatrixCreateDn)
  NVS_SYMBOL(cudssMatrixCreateCsr)
  NVS_SYMBOL(cudssMatrixDestroy)
  NVS_SYMBOL(cudssMatrixSetValues)
  NVS_SYMBOL(cudssExecute)
};

struct StreamDriver {  // of the driver, what only this library's memory and streams need
  Library library{"cuda"};
  NVS_SYMBOL(cuMemcpyDtoHAsync_v2)
  NVS_SYMBOL(cuMemAllocHost_v2)
  NVS_SYMBOL(cuMemFreeHost)
  NVS_SYMBOL(cuMemPoolCreate)
  NVS_SYMBOL(cuMemPoolSetAttribute)
  NVS_SYMBOL(cuMemAllocFromPoolAsync)
  NVS_SYMBOL(cuMemFreeAsync)
  NVS_SYMBOL(cuStreamWaitEvent)
  NVS_SYMBOL(cuEventSynchronize)
  NVS_SYMBOL(cuMemsetD32Async)
};

inline abi::CUdeviceptr Address(const void* pointer) {
  return reinterpret_cast<abi::CUdeviceptr>(pointer);
}
inline void* Pointer(abi::CUdeviceptr address) { return reinterpret_cast<void*>(address); }

// A device's memory in stream order, from a pool of the driver's that all rings of a device share.
// It is also the library's allocator, whose callbacks do not throw. Whoever calls holds the lock of
// what this memory is of.
class Memory {
 public:
  explicit Memory(int device);
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  int Allocate(void** pointer, size_t bytes, abi::CUstream stream) noexcept;  // 0, or not
  int Free(void* pointer, size_t bytes, abi::CUstream stream) noexcept;

  int64_t bytes() const { return bytes_; }
  size_t refused() const { return refused_; }  // bytes of the last allocation that failed

 private:
  const StreamDriver& driver_ = Opened<StreamDriver>();
  const abi::CUmemoryPool pool_;
  std::atomic<int64_t> bytes_{0};
  size_t refused_ = 0;
};

// A handle and its stream, never another one: on an H100, an analysis on one stream and later
// phases on another returned garbage with status 0. So XLA's streams are forked from and joined by
// events. Making one wants its device current.
class Context {
 public:
  explicit Context(int device);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  const Api& api() const { return api_; }
  abi::cudssHandle_t handle() const { return handle_; }
  abi::CUstream stream() const { return *stream_; }
  int device() const { return device_; }
  Memory& memory() { return memory_; }
  const Memory& memory() const { return memory_; }

  void Fork(abi::CUstream xla);  // what comes here now comes after what is in XLA's stream,
  void Join(abi::CUstream xla);  // and what comes there after what is here
  void Wait() const;             // until all here is done

  // Copies to the host after all that is in the stream, and waits for it.
  void Read(void* to, const void* from, size_t bytes, abi::CUstream stream) const;
  // The same in blocks, each of which is seen while the next is copied: `see(block, at, size)`, all
  // in bytes.
  void ReadInBlocks(const void* from, size_t bytes, abi::CUstream stream,
                    const std::function<void(const void*, size_t, size_t)>& see);
  // Copies to the device, in the own stream. `from` may go at once.
  void Write(void* to, const void* from, size_t bytes);

  static constexpr size_t kFewBytes = 4096;  // tickets and fingerprints of 85 elements
  // A copy of few bytes to the host that has begun; other work may be enqueued until they are
  // wanted.
  class Reading {
   public:
    Reading(Context& context, const void* from, size_t bytes, abi::CUstream stream);
    ~Reading();  // waits too: the next one writes to the same place
    Reading(const Reading&) = delete;
    Reading& operator=(const Reading&) = delete;
    const void* Wait();

   private:
    Context& context_;
  };

 private:
  const int device_;
  const Api& api_ = Opened<Api>();
  const StreamDriver& driver_ = Opened<StreamDriver>();
  const Owned<abi::CUstream> stream_;
  const Owned<abi::CUevent> before_, after_, read_, written_;
  const Owned<void*> read_to_, read_ahead_to_, written_from_;  // kFewBytes each, pinned
  size_t written_bytes_ = 0;  // of that, by copies that may not be done
  struct Block {
    Block();
    const Owned<void*> memory;
    const Owned<abi::CUevent> copied;
  };
  std::optional<Block> blocks_[2];  // made when first wanted
  Memory memory_;
  abi::cudssHandle_t handle_ = nullptr;
};

class Buffer {  // device memory of a context's
 public:
  Buffer() = default;
  Buffer(Context& context, size_t bytes);                    // throws kResourceExhausted
  Buffer(Context& context, const void* host, size_t bytes);  // with a copy of these, waited for
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  Context* context_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

int64_t TotalBytes();  // of the current device's memory
void CopyOnDevice(void* to, const void* from, size_t bytes, abi::CUstream stream);
void FillWord(void* to, uint32_t value, abi::CUstream stream);  // one word
void FillNan(void* to, size_t bytes, abi::CUstream stream);     // 0xFF in every byte is a NaN

// A failure to allocate, with what helps.
[[noreturn]] void ThrowExhausted(const Context& context, const char* call);

// Throws with the call's name if a status is not success.
void CheckCall(const Context& context, abi::cudssStatus_t status, const char* call);
#define NVS_CUDSS(context, function, ...) \
  ::nvstate::cudss::CheckCall((context), (context).api().function(__VA_ARGS__), #function)

// The file of the library's threading layer; empty: there is none, and the analysis has one thread.
std::string ThreadingLayer();

}  // namespace cudss
}  // namespace nvstate

#endif  // NVSTATE_CUDSS_H_
