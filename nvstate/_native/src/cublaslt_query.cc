// What cuBLASLt answers of a product: its heuristic's algorithms, and whether one runs.

#include <algorithm>

#include "nvstate/cublaslt_plan.h"

namespace nvstate::cublaslt {

using matmul::Operand;

Candidate Operation::CandidateOf(const abi::cublasLtMatmulHeuristicResult_t& result) const {
  auto bytes = static_cast<int64_t>(result.workspaceSize);
  // With an epilog the library may write past what it asked for: nvmath-python, which its makers
  // wrote, gives it 16 bytes more ("workaround for library issue").
  if (bytes != 0 && spec_.epilog->value != abi::CUBLASLT_EPILOGUE_DEFAULT) bytes += 16;
  return {result.algo, bytes, result.wavesCount};
}

std::vector<Candidate> Operation::Heuristic(int64_t workspace, int limit,
                                            abi::cublasStatus_t* status, int64_t alignment) const {
  abi::cublasLtMatmulPreference_t made;
  NVS_CHECK(api_.cublasLtMatmulPreferenceCreate(&made));
  const std::unique_ptr<abi::cublasLtMatmulPreferenceStruct,
                        Destroyer<&Api::cublasLtMatmulPreferenceDestroy>>
      preference(made);
  const auto set = [&](abi::cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    NVS_CHECK(api_.cublasLtMatmulPreferenceSetAttribute(made, attribute, &value, sizeof(value)));
  };
  const int64_t spare = spec_.epilog->value == abi::CUBLASLT_EPILOGUE_DEFAULT ? 0 : 16;
  set(abi::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
      static_cast<uint64_t>(std::max<int64_t>(workspace - spare, 0)));
  const auto aligned = [&](Operand operand) {
    return static_cast<uint32_t>(alignment != 0 ? alignment : AlignmentFor(operand));
  };
  set(abi::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, aligned(Operand::kB));
  set(abi::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, aligned(Operand::kA));
  set(abi::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
      aligned(spec_.has_c ? Operand::kC : Operand::kD));
  set(abi::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, aligned(Operand::kD));
  if (spec_.reduction_mask != 7) {
    set(abi::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        static_cast<uint32_t>(spec_.reduction_mask));
  }
  if (spec_.impl_mask != -1) {
    set(abi::CUBLASLT_MATMUL_PREF_IMPL_MASK, static_cast<uint64_t>(spec_.impl_mask));
  }
  if (spec_.max_waves != 0) {
    set(abi::CUBLASLT_MATMUL_PREF_MAX_WAVES_COUNT, static_cast<float>(spec_.max_waves));
  }
  std::vector<abi::cublasLtMatmulHeuristicResult_t> results(static_cast<size_t>(limit));
  int count = 0;
  OnDevice on(device_);
  *status =
      api_.cublasLtMatmulAlgoGetHeuristic(handle_, asked_.desc.get(), b_.get(), a_.get(), c_.get(),
                                          d_.get(), made, limit, results.data(), &count);
  std::vector<Candidate> candidates;
  // What the library refuses, a product or a constraint, is no failure of the question.
  if (*status == abi::CUBLAS_STATUS_NOT_SUPPORTED || *status == abi::CUBLAS_STATUS_INVALID_VALUE ||
      *status == abi::CUBLAS_STATUS_ARCH_MISMATCH) {
    return candidates;
  }
  nvstate::Check(*status, "cublasLtMatmulAlgoGetHeuristic");
  for (int i = 0; i < count; ++i) {
    if (results[i].state == abi::CUBLAS_STATUS_SUCCESS) {
      candidates.push_back(CandidateOf(results[i]));
    }
  }
  return candidates;
}

std::optional<Candidate> Operation::Check(const abi::cublasLtMatmulAlgo_t& algo,
                                          abi::cublasStatus_t* status) const {
  abi::cublasLtMatmulHeuristicResult_t result{};
  OnDevice on(device_);
  *status = api_.cublasLtMatmulAlgoCheck(handle_, asked_.desc.get(), b_.get(), a_.get(), c_.get(),
                                         d_.get(), &algo, &result);
  if (*status != abi::CUBLAS_STATUS_SUCCESS) return std::nullopt;
  result.algo = algo;  // the check leaves it out
  return CandidateOf(result);
}

}  // namespace nvstate::cublaslt
