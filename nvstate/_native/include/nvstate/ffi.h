// What every XLA FFI target of nvstate is made of: attributes decoded once, a Site for each call in
// a program, and a Guard around each handler.

#ifndef NVSTATE_FFI_H_
#define NVSTATE_FFI_H_

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <set>
#include <shared_mutex>
#include <string>
#include <utility>
#include <vector>

#include "nvstate/abi/cuda_driver.h"
#include "nvstate/attributes.h"
#include "nvstate/dtypes.h"
#include "nvstate/error.h"
#include "xla/ffi/api/ffi.h"

namespace nvstate {

namespace ffi = ::xla::ffi;
using In = ffi::AnyBuffer;
using Out = ffi::Result<ffi::AnyBuffer>;

std::string TypeOf(ffi::AnyBuffer buffer);  // as JAX prints it: complex64[64,128]

// Runs a handler's body. A failure says which operation, and with what: `describe` is called then.
template <typename Describe, typename Body>
ffi::Error Guard(const char* operation, const Describe& describe, const Body& body) noexcept {
  try {
    body();
    return ffi::Error::Success();
  } catch (...) {
    auto [code, text] = Caught();
    return ffi::Error(static_cast<ffi::ErrorCode>(code),
                      std::string("nvstate.") + operation + ": " + text + " (" + describe() + ")");
  }
}

// A buffer's type; throws kInvalidArgument if its elements are none of CUDA's.
Typed TypedOf(ffi::AnyBuffer buffer);

struct Workspace {
  void* data;
  size_t bytes;
};

// The hidden result that is a library's workspace, aligned to 256 bytes as libraries want it. Its
// bytes are as if the most were lost in front: what fits must not depend on the addresses of one
// execution.
Workspace WorkspaceOf(ffi::AnyBuffer buffer);

// The attributes that XLA decodes.
class Attributes : public AttributeSource {
 public:
  explicit Attributes(ffi::Dictionary dictionary) : dictionary_(dictionary) {}
  int64_t Int(const char* name) override { return Get<int64_t>(name, "an integer"); }
  double Double(const char* name) override { return Get<double>(name, "a float64"); }
  std::string String(const char* name) override {
    return std::string(Get<std::string_view>(name, "a string"));
  }
  std::vector<int64_t> Ints(const char* name) override {
    return Array<int64_t>(name, "an array of int64");
  }
  std::vector<uint64_t> Words(const char* name) override {
    return Array<uint64_t>(name, "an array of uint64");
  }
  std::vector<double> Doubles(const char* name) override {
    return Array<double>(name, "an array of float64");
  }
  void Done() const override;

 private:
  template <typename T>
  T Get(const char* name, const char* type) {
    names_.insert(name);
    const auto value = dictionary_.get<T>(name);
    if (!value.has_value()) Missing(name, type);
    return *value;
  }
  template <typename T>
  std::vector<T> Array(const char* name, const char* type) {
    const auto span = Get<ffi::Span<const T>>(name, type);
    return {span.begin(), span.end()};  // a copy: the memory is promised for this call only
  }
  ffi::Dictionary dictionary_;
  std::set<std::string_view> names_;
};

// One call of a target in one executable, shared by all of its devices, concurrently. Immutable but
// for its plans: one for each device, since a site's local dimensions never change. They stay as
// long as the executable, whose CUDA graphs may hold their addresses.
template <typename Spec, typename Plan>
class SiteOf {
 public:
  inline static ffi::TypeId id = {};

  explicit SiteOf(Spec spec) : spec_(std::move(spec)) {}
  const Spec& spec() const { return spec_; }

  static ffi::ErrorOr<std::unique_ptr<SiteOf>> Instantiate(ffi::Dictionary dictionary) {
    std::unique_ptr<SiteOf> site;
    const ffi::Error error = Guard(
        Spec::kOperation, [] { return "in the attributes of a call"; },
        [&] {
          Attributes attributes(dictionary);
          if (attributes.Int("v") != Spec::kVersion) {
            throw Failure(Code::kInvalidArgument,
                          "attributes of version " + std::to_string(Spec::kVersion) + " expected");
          }
          site = std::make_unique<SiteOf>(Spec(attributes));
          attributes.Done();
        });
    if (error.failure()) return ffi::Unexpected(error);
    return site;
  }

  // nullptr if there is none yet. It runs before and in every execution: no allocation, no map.
  std::shared_ptr<Plan> Find(int32_t device, std::initializer_list<ffi::AnyBuffer> buffers) const {
    std::shared_lock lock(mutex_);
    for (const Slot& slot : slots_) {
      if (slot.device == device && Same(slot.shape, buffers)) return slot.plan;
    }
    return nullptr;
  }

  void Fill(int32_t device, std::initializer_list<ffi::AnyBuffer> buffers,
            std::shared_ptr<Plan> plan) {
    std::vector<int64_t> shape;
    for (const ffi::AnyBuffer& buffer : buffers) {
      shape.push_back(static_cast<int64_t>(buffer.element_type()));
      shape.push_back(static_cast<int64_t>(buffer.dimensions().size()));
      shape.insert(shape.end(), buffer.dimensions().begin(), buffer.dimensions().end());
    }
    std::unique_lock lock(mutex_);
    for (const Slot& slot : slots_) {
      if (slot.device == device && slot.shape == shape) return;  // another thread was first
    }
    slots_.push_back({device, std::move(shape), std::move(plan)});
  }

 private:
  struct Slot {
    int32_t device;
    std::vector<int64_t> shape;  // type, rank and dimensions of each buffer
    std::shared_ptr<Plan> plan;
  };

  static bool Same(const std::vector<int64_t>& shape,
                   std::initializer_list<ffi::AnyBuffer> buffers) {
    const int64_t* at = shape.data();  // ranks are compared first, so this stays inside
    for (const ffi::AnyBuffer& buffer : buffers) {
      const auto dims = buffer.dimensions();
      if (*at++ != static_cast<int64_t>(buffer.element_type())) return false;
      if (*at++ != static_cast<int64_t>(dims.size())) return false;
      if (!std::equal(dims.begin(), dims.end(), at)) return false;
      at += dims.size();
    }
    return true;
  }

  const Spec spec_;
  mutable std::shared_mutex mutex_;
  std::vector<Slot> slots_;
};

}  // namespace nvstate

// Exports a CUDA target's instantiate, and its state's type.
#define NVS_TARGET_STATE(name, Site)                                   \
  extern "C" {                                                         \
  NVS_EXPORT XLA_FFI_Error* name##_instantiate(XLA_FFI_CallFrame*);    \
  NVS_EXPORT XLA_FFI_Error* name##_execute(XLA_FFI_CallFrame*);        \
  NVS_EXPORT void* name##_type_id() { return &Site::id; }              \
  NVS_EXPORT void* name##_type_info() {                                \
    static auto type_info = ::xla::ffi::MakeTypeInfo<Site>();          \
    return &type_info;                                                 \
  }                                                                    \
  }                                                                    \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name##_instantiate, Site::Instantiate, \
                                ::xla::ffi::Ffi::BindInstantiate().Attrs())

#define NVS_BIND_EXECUTE(Site, buffers)                                    \
  buffers(::xla::ffi::Ffi::BindExecute()                                   \
              .Ctx<::xla::ffi::PlatformStream<::nvstate::abi::CUstream>>() \
              .Ctx<::xla::ffi::DeviceOrdinal>()                            \
              .Ctx<::xla::ffi::State<Site>>())

// Exports the handlers of a CUDA target and its state's type. `buffers` adds the operands and
// results to a binding; Execute only enqueues, so that XLA may capture it in a CUDA graph.
#define NVS_TARGET(name, Site, Initialize, Execute, buffers)                              \
  NVS_TARGET_STATE(name, Site);                                                           \
  extern "C" NVS_EXPORT XLA_FFI_Error* name##_initialize(XLA_FFI_CallFrame*);             \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name##_initialize, Initialize,                            \
                                buffers(::xla::ffi::Ffi::BindInitialize()                 \
                                            .Ctx<::xla::ffi::DeviceOrdinal>()             \
                                            .Ctx<::xla::ffi::State<Site>>()));            \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name##_execute, Execute, NVS_BIND_EXECUTE(Site, buffers), \
                                {::xla::ffi::Traits::kCmdBufferCompatible})

// The same without initialize: this Execute may wait for the device, and is never captured.
#define NVS_TARGET_WAITING(name, Site, Execute, buffers) \
  NVS_TARGET_STATE(name, Site);                          \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name##_execute, Execute, NVS_BIND_EXECUTE(Site, buffers))

#endif  // NVSTATE_FFI_H_
