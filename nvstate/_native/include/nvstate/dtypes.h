// Element types by JAX's names and by CUDA's numbers.

#ifndef NVSTATE_DTYPES_H_
#define NVSTATE_DTYPES_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "nvstate/abi/cuda_types.h"

namespace nvstate {

abi::cudaDataType TypeNamed(std::string_view name);  // throws kInvalidArgument
const char* NameOf(abi::cudaDataType type);
int64_t BitsOf(abi::cudaDataType type);

struct Typed {  // a buffer's type: that of its elements, and its dimensions
  abi::cudaDataType type;
  std::vector<int64_t> dims;

  int64_t count() const;
};

std::string NameOf(const Typed& buffer);            // as JAX prints it: float32[64,128]
std::vector<Typed> TypedOf(std::string_view text);  // the same, several with blanks between

}  // namespace nvstate

#endif  // NVSTATE_DTYPES_H_
