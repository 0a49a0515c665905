// cuBLASLt's algorithms, 64 opaque bytes each: found by number, read, and changed.

#ifndef NVSTATE_CUBLASLT_ALGORITHM_H_
#define NVSTATE_CUBLASLT_ALGORITHM_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "nvstate/cublaslt_plan.h"

namespace nvstate::cublaslt {

// Those that know the types of a product; not each of them runs it.
std::vector<int> AlgorithmIds(int device, const matmul::Spec& spec, const matmul::Layout& layout,
                              int limit);
abi::cublasLtMatmulAlgo_t AlgorithmWithId(int device, const matmul::Spec& spec,
                                          const matmul::Layout& layout, int id);

std::string ConfigurationJson(const abi::cublasLtMatmulAlgo_t& algo);
std::string CapabilitiesJson(const abi::cublasLtMatmulAlgo_t& algo);

// Throws kInvalidArgument if the library has no such setting, or not this value of it.
void Configure(abi::cublasLtMatmulAlgo_t& algo, std::string_view name, int64_t value);

}  // namespace nvstate::cublaslt

#endif  // NVSTATE_CUBLASLT_ALGORITHM_H_
