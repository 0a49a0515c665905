#include "nvstate/dtypes.h"

#include <cstdlib>
#include <functional>
#include <numeric>

#include "nvstate/error.h"

namespace nvstate {
namespace {

struct Known {
  const char* name;
  abi::cudaDataType type;
  int64_t bits;
};

constexpr Known kKnown[] = {
    {"float32", abi::CUDA_R_32F, 32},
    {"float64", abi::CUDA_R_64F, 64},
    {"float16", abi::CUDA_R_16F, 16},
    {"bfloat16", abi::CUDA_R_16BF, 16},
    {"complex64", abi::CUDA_C_32F, 64},
    {"complex128", abi::CUDA_C_64F, 128},
    {"int8", abi::CUDA_R_8I, 8},
    {"uint8", abi::CUDA_R_8U, 8},
    {"int32", abi::CUDA_R_32I, 32},
    {"float8_e4m3fn", abi::CUDA_R_8F_E4M3, 8},
    {"float8_e5m2", abi::CUDA_R_8F_E5M2, 8},
    {"float8_e8m0fnu", abi::CUDA_R_8F_UE8M0, 8},
    {"float4_e2m1fn", abi::CUDA_R_4F_E2M1, 4},
};

const Known& Find(abi::cudaDataType type) {
  for (const Known& known : kKnown) {
    if (known.type == type) return known;
  }
  throw Failure(Code::kInvalidArgument, "unknown element type " + std::to_string(type));
}

}  // namespace

abi::cudaDataType TypeNamed(std::string_view name) {
  for (const Known& known : kKnown) {
    if (name == known.name) return known.type;
  }
  throw Failure(Code::kInvalidArgument, "dtype " + std::string(name) + " is none of cuBLASLt's");
}

const char* NameOf(abi::cudaDataType type) { return Find(type).name; }

int64_t BitsOf(abi::cudaDataType type) { return Find(type).bits; }

int64_t Typed::count() const {
  return std::accumulate(dims.begin(), dims.end(), int64_t{1}, std::multiplies<>());
}

std::string NameOf(const Typed& buffer) {
  std::string dims;
  for (const int64_t size : buffer.dims) dims += (dims.empty() ? "" : ",") + std::to_string(size);
  return std::string(NameOf(buffer.type)) + "[" + dims + "]";
}

std::vector<Typed> TypedOf(std::string_view text) {
  std::vector<Typed> result;
  while (!text.empty()) {
    const size_t end = text.find(' ');
    const std::string one(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    const size_t open = one.find('[');
    if (open == std::string::npos || one.back() != ']') {
      throw Failure(Code::kInvalidArgument, "dtype[dims] expected, got " + one);
    }
    Typed typed{TypeNamed(one.substr(0, open)), {}};
    for (const char* at = one.c_str() + open; *at != ']' && at[1] != ']';) {
      char* after;
      typed.dims.push_back(std::strtoll(at + 1, &after, 10));
      if (after == at + 1 || (*after != ',' && *after != ']')) {
        throw Failure(Code::kInvalidArgument, "dtype[dims] expected, got " + one);
      }
      at = after;
    }
    result.push_back(std::move(typed));
  }
  return result;
}

}  // namespace nvstate
