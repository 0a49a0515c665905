// A call of the matmul targets as XLA makes it: buffers by name, and what an error tells of them.

#ifndef NVSTATE_CUBLASLT_CALL_H_
#define NVSTATE_CUBLASLT_CALL_H_

#include <array>
#include <string>
#include <vector>

#include "nvstate/cublaslt_plan.h"
#include "nvstate/ffi.h"

namespace nvstate::cublaslt {

// Which of all results are the product's: the others lie before and behind.
struct Around {
  size_t before = 0;
  size_t behind = 0;
};

// The buffers that attributes speak of: read once, for every execution asks.
struct Places {
  explicit Places(const matmul::Spec& spec);
  std::vector<matmul::Operand> operands, results;  // those there, in the order of a call
  std::array<int, matmul::kAll> place{};           // of each among them
};

class Call {
 public:
  // Throws kInvalidArgument if there are not as many buffers as the attributes say.
  Call(const Places& places, ffi::RemainingArgs args, ffi::RemainingRets rets, Around around = {});

  ffi::AnyBuffer at(matmul::Operand operand) const;  // one that is there
  std::vector<Typed> types() const;

  Pointers pointers;
  int64_t workspace = 0;  // bytes

 private:
  const Places& places_;
  const ffi::RemainingArgs args_;
  const ffi::RemainingRets rets_;
  const Around around_;
};

std::string Describe(const matmul::Spec& spec, ffi::RemainingArgs args, ffi::RemainingRets rets);

inline const auto all_buffers = [](auto binding) {
  return std::move(binding).RemainingArgs().RemainingRets();
};

}  // namespace nvstate::cublaslt

#endif  // NVSTATE_CUBLASLT_CALL_H_
