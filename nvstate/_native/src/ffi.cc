#include "nvstate/ffi.h"

#include <optional>

namespace nvstate {
namespace {

std::optional<abi::cudaDataType> TypeOf(ffi::DataType type) {
  switch (type) {
    case ffi::F16:
      return abi::CUDA_R_16F;
    case ffi::BF16:
      return abi::CUDA_R_16BF;
    case ffi::F32:
      return abi::CUDA_R_32F;
    case ffi::F64:
      return abi::CUDA_R_64F;
    case ffi::C64:
      return abi::CUDA_C_32F;
    case ffi::C128:
      return abi::CUDA_C_64F;
    case ffi::S8:
      return abi::CUDA_R_8I;
    case ffi::U8:
      return abi::CUDA_R_8U;
    case ffi::S32:
      return abi::CUDA_R_32I;
    case ffi::F8E4M3FN:
      return abi::CUDA_R_8F_E4M3;
    case ffi::F8E5M2:
      return abi::CUDA_R_8F_E5M2;
    case ffi::F8E8M0FNU:
      return abi::CUDA_R_8F_UE8M0;
    case ffi::F4E2M1FN:
      return abi::CUDA_R_4F_E2M1;
    default:
      return std::nullopt;
  }
}

}  // namespace

std::string TypeOf(ffi::AnyBuffer buffer) {
  std::string dims;
  for (const int64_t size : buffer.dimensions()) {
    dims += (dims.empty() ? "" : ",") + std::to_string(size);
  }
  const auto type = TypeOf(buffer.element_type());
  return std::string(type.has_value() ? NameOf(*type) : "an unexpected type") + "[" + dims + "]";
}

Typed TypedOf(ffi::AnyBuffer buffer) {
  const auto type = TypeOf(buffer.element_type());
  if (!type.has_value()) {
    throw Failure(Code::kInvalidArgument, "no library takes the elements of " + TypeOf(buffer));
  }
  return {*type, {buffer.dimensions().begin(), buffer.dimensions().end()}};
}

Workspace WorkspaceOf(ffi::AnyBuffer buffer) {
  constexpr size_t kAlignment = 256;
  if (buffer.size_bytes() < kAlignment) return {nullptr, 0};
  const auto address = reinterpret_cast<uintptr_t>(buffer.untyped_data());
  const size_t lost = (kAlignment - address % kAlignment) % kAlignment;
  return {static_cast<char*>(buffer.untyped_data()) + lost, buffer.size_bytes() - kAlignment};
}

void Attributes::Done() const {
  for (const std::string_view name : dictionary_) {
    if (names_.count(name) == 0) Unknown(name);
  }
}

}  // namespace nvstate
