// XLA's side of a call of an FFI target: attributes, buffers in the host's memory, and the state
// that instantiate makes. So a target for CUDA can be called where there is no GPU.

#ifndef NVSTATE_TESTS_FRAME_H_
#define NVSTATE_TESTS_FRAME_H_

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "xla/ffi/api/c_api.h"

struct XLA_FFI_Error {
  XLA_FFI_Error_Code code;
  std::string message;
};

struct XLA_FFI_ExecutionContext {
  void* state = nullptr;
  int64_t run = 0;
  int32_t device = 0;
};

namespace frame {

inline XLA_FFI_ByteSpan Span(const std::string& text) { return {text.data(), text.size()}; }

class Attributes {
 public:
  void Int(const std::string& name, int64_t value) {
    integers_.push_back(value);
    scalars_.push_back({XLA_FFI_DataType_S64, &integers_.back()});
    Add(name, XLA_FFI_AttrType_SCALAR, &scalars_.back());
  }
  void Double(const std::string& name, double value) {
    doubles_.push_back(value);
    scalars_.push_back({XLA_FFI_DataType_F64, &doubles_.back()});
    Add(name, XLA_FFI_AttrType_SCALAR, &scalars_.back());
  }
  void String(const std::string& name, const std::string& value) {
    strings_.push_back(value);
    spans_.push_back(Span(strings_.back()));
    Add(name, XLA_FFI_AttrType_STRING, &spans_.back());
  }
  void Words(const std::string& name, std::vector<uint64_t> value) {
    words_.push_back(std::move(value));
    arrays_.push_back({XLA_FFI_DataType_U64, words_.back().size(), words_.back().data()});
    Add(name, XLA_FFI_AttrType_ARRAY, &arrays_.back());
  }

  // As XLA passes them, by name. What it points to is valid until the next call.
  XLA_FFI_Attrs Decoded() {
    types_.clear(), names_.clear(), values_.clear();
    for (auto& [name, value] : by_name_) {
      types_.push_back(value.type);
      names_.push_back(&(value.name = Span(name)));
      values_.push_back(value.data);
    }
    return {XLA_FFI_Attrs_STRUCT_SIZE,
            nullptr,
            static_cast<int64_t>(types_.size()),
            types_.data(),
            names_.data(),
            values_.data()};
  }

 private:
  struct Value {
    XLA_FFI_AttrType type;
    void* data;
    XLA_FFI_ByteSpan name;
  };
  void Add(const std::string& name, XLA_FFI_AttrType type, void* data) {
    by_name_[name] = {type, data, {}};
  }
  std::map<std::string, Value> by_name_;
  std::list<int64_t> integers_;
  std::list<double> doubles_;
  std::list<std::string> strings_;
  std::list<std::vector<uint64_t>> words_;
  std::list<XLA_FFI_Scalar> scalars_;
  std::list<XLA_FFI_ByteSpan> spans_;
  std::list<XLA_FFI_Array> arrays_;
  std::vector<XLA_FFI_AttrType> types_;
  std::vector<XLA_FFI_ByteSpan*> names_;
  std::vector<void*> values_;
};

struct Buffer {
  Buffer(XLA_FFI_DataType type, std::vector<int64_t> dims, const void* data)
      : type(type), dims(std::move(dims)), data(const_cast<void*>(data)) {}
  XLA_FFI_DataType type;
  std::vector<int64_t> dims;
  void* data;
};

namespace internal {

inline XLA_FFI_Error* CreateError(XLA_FFI_Error_Create_Args* args) {
  return new XLA_FFI_Error{args->errc, args->message};
}
inline void ErrorMessage(XLA_FFI_Error_GetMessage_Args* args) {
  args->message = args->error->message.c_str();
}
inline void DestroyError(XLA_FFI_Error_Destroy_Args* args) { delete args->error; }
inline XLA_FFI_Error* GetStream(XLA_FFI_Stream_Get_Args* args) {
  args->stream = reinterpret_cast<void*>(16);
  return nullptr;
}
inline XLA_FFI_Error* SetState(XLA_FFI_State_Set_Args* args) {
  args->ctx->state = args->state;
  return nullptr;
}
inline XLA_FFI_Error* GetState(XLA_FFI_State_Get_Args* args) {
  args->state = args->ctx->state;
  return nullptr;
}
inline XLA_FFI_Error* GetRun(XLA_FFI_RunId_Get_Args* args) {
  args->run_id = args->ctx->run;
  return nullptr;
}
inline XLA_FFI_Error* GetDevice(XLA_FFI_DeviceOrdinal_Get_Args* args) {
  args->device_ordinal = args->ctx->device;
  return nullptr;
}

inline const XLA_FFI_Api* Api() {
  static const XLA_FFI_Api api = [] {
    XLA_FFI_Api made{};
    made.struct_size = XLA_FFI_Api_STRUCT_SIZE;
    made.XLA_FFI_Error_Create = CreateError;
    made.XLA_FFI_Error_GetMessage = ErrorMessage;
    made.XLA_FFI_Error_Destroy = DestroyError;
    made.XLA_FFI_Stream_Get = GetStream;
    made.XLA_FFI_State_Set = SetState;
    made.XLA_FFI_State_Get = GetState;
    made.XLA_FFI_RunId_Get = GetRun;
    made.XLA_FFI_DeviceOrdinal_Get = GetDevice;
    return made;
  }();
  return &api;
}

}  // namespace internal

// Of the state of sites, once, before there are any.
inline void Register(void* type_id) { static_cast<XLA_FFI_TypeId*>(type_id)->type_id = 1; }

// One call in an executable. Threads may call at once.
class Site {
 public:
  Site(XLA_FFI_Handler* instantiate, XLA_FFI_Handler* execute, void* type_info)
      : instantiate_(instantiate),
        execute_(execute),
        type_info_(static_cast<XLA_FFI_TypeInfo*>(type_info)) {}
  ~Site() {
    if (state_ != nullptr) type_info_->deleter(state_);
  }
  Site(const Site&) = delete;
  Site& operator=(const Site&) = delete;

  // The message of a failure; empty: there was none.
  std::string Instantiate(Attributes& attributes) {
    XLA_FFI_ExecutionContext context;
    XLA_FFI_CallFrame frame = Frame(&context, XLA_FFI_ExecutionStage_INSTANTIATE);
    frame.attrs = attributes.Decoded();
    const std::string told = Told(instantiate_(&frame));
    state_ = context.state;
    return told;
  }

  std::string Execute(int64_t run, const std::vector<Buffer>& operands,
                      const std::vector<Buffer>& results) const {
    XLA_FFI_ExecutionContext context{state_, run, 0};
    XLA_FFI_CallFrame frame = Frame(&context, XLA_FFI_ExecutionStage_EXECUTE);
    auto args = Decoded(operands), rets = Decoded(results);
    std::vector<XLA_FFI_ArgType> arg_types(args.size(), XLA_FFI_ArgType_BUFFER);
    std::vector<XLA_FFI_RetType> ret_types(rets.size(), XLA_FFI_RetType_BUFFER);
    std::vector<void*> arg_pointers, ret_pointers;
    for (auto& one : args) arg_pointers.push_back(&one);
    for (auto& one : rets) ret_pointers.push_back(&one);
    frame.args = {XLA_FFI_Args_STRUCT_SIZE, nullptr, static_cast<int64_t>(args.size()),
                  arg_types.data(), arg_pointers.data()};
    frame.rets = {XLA_FFI_Rets_STRUCT_SIZE, nullptr, static_cast<int64_t>(rets.size()),
                  ret_types.data(), ret_pointers.data()};
    return Told(execute_(&frame));
  }

 private:
  static XLA_FFI_CallFrame Frame(XLA_FFI_ExecutionContext* context, XLA_FFI_ExecutionStage stage) {
    XLA_FFI_CallFrame frame{};
    frame.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
    frame.api = internal::Api();
    frame.ctx = context;
    frame.stage = stage;
    frame.args.struct_size = XLA_FFI_Args_STRUCT_SIZE;
    frame.rets.struct_size = XLA_FFI_Rets_STRUCT_SIZE;
    frame.attrs.struct_size = XLA_FFI_Attrs_STRUCT_SIZE;
    return frame;
  }
  static std::vector<XLA_FFI_Buffer> Decoded(const std::vector<Buffer>& buffers) {
    std::vector<XLA_FFI_Buffer> decoded;
    for (const Buffer& one : buffers) {
      decoded.push_back({XLA_FFI_Buffer_STRUCT_SIZE, nullptr, one.type, one.data,
                         static_cast<int64_t>(one.dims.size()),
                         const_cast<int64_t*>(one.dims.data())});
    }
    return decoded;
  }
  static std::string Told(XLA_FFI_Error* error) {
    const std::unique_ptr<XLA_FFI_Error> own(error);
    return error == nullptr ? "" : error->message;
  }

  XLA_FFI_Handler* const instantiate_;
  XLA_FFI_Handler* const execute_;
  XLA_FFI_TypeInfo* const type_info_;
  void* state_ = nullptr;
};

}  // namespace frame

#endif  // NVSTATE_TESTS_FRAME_H_
