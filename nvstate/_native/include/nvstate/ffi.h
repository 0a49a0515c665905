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

// Attributes by name. Each one must be asked for: an unknown one may change the problem's meaning.
class Attributes {
 public:
  explicit Attributes(ffi::Dictionary dictionary) : dictionary_(dictionary) {}
  int64_t Int(const char* name) { return Get<int64_t>(name, "an integer"); }
  std::string String(const char* name) {
    return std::string(Get<std::string_view>(name, "a string"));
  }
  std::vector<int64_t> Ints(const char* name) {
    const auto span = Get<ffi::Span<const int64_t>>(name, "an array of int64");
    return {span.begin(), span.end()};  // a copy: the memory is promised for this call only
  }
  void Done() const;  // throws if there are others

 private:
  template <typename T>
  T Get(const char* name, const char* type) {
    names_.insert(name);
    const auto value = dictionary_.get<T>(name);
    if (!value.has_value()) {
      throw Failure(Code::kInvalidArgument,
                    std::string("attribute `") + name + "` is missing or not " + type);
    }
    return *value;
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

// Exports the handlers of a CUDA target and its state's type. `buffers` adds the operands and
// results to a binding; Execute only enqueues, so that XLA may capture it in a CUDA graph.
#define NVS_TARGET(name, Site, Initialize, Execute, buffers)                   \
  extern "C" {                                                                 \
  NVS_EXPORT XLA_FFI_Error* name##_instantiate(XLA_FFI_CallFrame*);            \
  NVS_EXPORT XLA_FFI_Error* name##_initialize(XLA_FFI_CallFrame*);             \
  NVS_EXPORT XLA_FFI_Error* name##_execute(XLA_FFI_CallFrame*);                \
  NVS_EXPORT void* name##_type_id() { return &Site::id; }                      \
  NVS_EXPORT void* name##_type_info() {                                        \
    static auto type_info = ::xla::ffi::MakeTypeInfo<Site>();                  \
    return &type_info;                                                         \
  }                                                                            \
  }                                                                            \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name##_instantiate, Site::Instantiate,         \
                                ::xla::ffi::Ffi::BindInstantiate().Attrs());   \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(name##_initialize, Initialize,                 \
                                buffers(::xla::ffi::Ffi::BindInitialize()      \
                                            .Ctx<::xla::ffi::DeviceOrdinal>()  \
                                            .Ctx<::xla::ffi::State<Site>>())); \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(                                               \
      name##_execute, Execute,                                                 \
      buffers(::xla::ffi::Ffi::BindExecute()                                   \
                  .Ctx<::xla::ffi::PlatformStream<::nvstate::abi::CUstream>>() \
                  .Ctx<::xla::ffi::DeviceOrdinal>()                            \
                  .Ctx<::xla::ffi::State<Site>>()),                            \
      {::xla::ffi::Traits::kCmdBufferCompatible})

#endif  // NVSTATE_FFI_H_
