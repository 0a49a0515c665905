// The buffers of a call of nvstate_cudss_v1.

#ifndef NVSTATE_CUDSS_CALL_H_
#define NVSTATE_CUDSS_CALL_H_

#include <cstdint>

#include "nvstate/cudss_system.h"
#include "nvstate/ffi.h"

namespace nvstate::cudss {

// The buffers of a call, checked against each other.
class Buffers {
 public:
  Buffers(const solver::Request& request, ffi::RemainingArgs args, ffi::RemainingRets rets);

  const Shape& shape() const { return shape_; }
  int64_t k() const { return k_; }
  ffi::AnyBuffer arg(size_t i) const { return *args_.get<ffi::AnyBuffer>(i); }
  ffi::AnyBuffer ret(size_t i) const { return **rets_.get<ffi::AnyBuffer>(i); }
  // M e of each element, which must come back from a solve; null: it was not computed.
  const void* probe() const {
    return probed_ && arg(6).element_count() != 0 ? arg(6).untyped_data() : nullptr;
  }
  ffi::AnyBuffer ticket() const { return ret(has_b_ ? 1 : 0); }
  ffi::AnyBuffer info() const { return ret(has_b_ ? 2 : 1); }
  const void* values() const { return arg(4).untyped_data(); }
  const char* b(int64_t element) const { return At(arg(b_), element, k_); }
  char* x(int64_t element) const { return At(ret(0), element, k_); }
  char* diagonal(int64_t element) const { return At(ret(0), element, 1); }

 private:
  char* At(ffi::AnyBuffer buffer, int64_t element, int64_t rows) const {
    return static_cast<char*>(buffer.untyped_data()) + element * rows * shape_.vector_bytes();
  }

  const solver::Request& request_;
  const ffi::RemainingArgs args_;
  const ffi::RemainingRets rets_;
  bool has_b_;
  bool probed_;   // whether there is an operand for it
  size_t b_ = 6;  // where b is among the operands
  Shape shape_{};
  int64_t k_ = 1;
};

}  // namespace nvstate::cudss

#endif  // NVSTATE_CUDSS_CALL_H_
