#include "nvstate/ffi.h"

namespace nvstate {
namespace {

const char* TypeName(ffi::DataType type) {
  switch (type) {
    case ffi::F32:
      return "float32";
    case ffi::F64:
      return "float64";
    case ffi::C64:
      return "complex64";
    case ffi::C128:
      return "complex128";
    case ffi::U8:
      return "uint8";
    default:
      return "an unexpected type";
  }
}

}  // namespace

std::string TypeOf(ffi::AnyBuffer buffer) {
  std::string dims;
  for (const int64_t size : buffer.dimensions()) {
    dims += (dims.empty() ? "" : ",") + std::to_string(size);
  }
  return std::string(TypeName(buffer.element_type())) + "[" + dims + "]";
}

void Attributes::Done() const {
  for (const std::string_view name : dictionary_) {
    if (names_.count(name) == 0) {
      throw Failure(Code::kInvalidArgument, "unknown attribute `" + std::string(name) + "`");
    }
  }
}

}  // namespace nvstate
