#include "nvstate/cudss_call.h"

#include <algorithm>
#include <string>
#include <vector>

namespace nvstate::cudss {
namespace {

using solver::Phase;

[[noreturn]] void Invalid(const std::string& text) { throw Failure(Code::kInvalidArgument, text); }

int BytesOfIndex(ffi::AnyBuffer buffer, const char* name) {
  if (buffer.element_type() == ffi::S32) return 4;
  if (buffer.element_type() == ffi::S64) return 8;
  Invalid(std::string(name) + " is int32 or int64, got " + TypeOf(buffer));
}

solver::Element ElementOf(ffi::AnyBuffer values) {
  return solver::ElementNamed(NameOf(nvstate::TypedOf(values).type));
}
void Expect(ffi::AnyBuffer buffer, ffi::DataType type, const std::vector<int64_t>& dims,
            const char* name) {
  const auto found = buffer.dimensions();
  if (buffer.element_type() != type || found.size() != dims.size() ||
      !std::equal(dims.begin(), dims.end(), found.begin())) {
    Invalid(std::string(name) + " has the wrong type: " + TypeOf(buffer));
  }
}
void Optional(ffi::AnyBuffer buffer, ffi::DataType type, int64_t size, bool present,
              const char* name) {
  Expect(buffer, present ? type : buffer.element_type(), {present ? size : 0}, name);
}

}  // namespace

Buffers::Buffers(const solver::Request& request, ffi::RemainingArgs args, ffi::RemainingRets rets)
    : request_(request), args_(args), rets_(rets) {
  const Phase phase = request_.call.phase;
  has_b_ = phase == Phase::kSolve || phase == Phase::kFactorizeSolve || phase == Phase::kFused;
  probed_ = phase == Phase::kFactorize || phase == Phase::kFactorizeSolve;
  const bool checks = phase == Phase::kSolve || phase == Phase::kDiagonal;
  const bool is_nan = phase == Phase::kSolve && request_.call.on_stale == solver::OnStale::kNan;
  const size_t results = phase == Phase::kFactorizeSolve        ? 3
                         : phase == Phase::kFactorize || is_nan ? 2
                                                                : 1;
  b_ = phase == Phase::kFused ? 5 : probed_ ? 7 : 6;
  const size_t operands = has_b_ ? b_ + 1 : 6u + (probed_ ? 1u : 0u);
  if (args.size() != operands || rets.size() != results) {
    Invalid(std::to_string(operands) + " operands and " + std::to_string(results) +
            " results expected, got " + std::to_string(args.size()) + " and " +
            std::to_string(rets.size()));
  }
  const auto values = arg(4).dimensions();
  const auto indptr = arg(0).dimensions();
  if (values.size() != 2 || indptr.size() != 1 || arg(1).dimensions().size() != 1 ||
      arg(1).dimensions()[0] != values[1]) {
    Invalid("indptr [n+1], indices [nnz] and values [B, nnz] expected");
  }
  shape_ = {indptr[0] - 1,
            values[1],
            values[0],
            ElementOf(arg(4)),
            BytesOfIndex(arg(0), "indptr"),
            BytesOfIndex(arg(1), "indices")};
  if (phase != Phase::kFused) {
    Expect(arg(5), ffi::U32, {shape_.batch, checks ? 12 : 4}, checks ? "check" : "prints");
  } else if (shape_.batch != 1) {
    Invalid("one member expected where the factors are not kept");
  }
  if (probed_) {
    const bool given = arg(6).element_count() != 0;
    Expect(arg(6), arg(4).element_type(), {shape_.batch, given ? shape_.n : 0}, "probe");
  }
  if (has_b_) {
    const auto dims = arg(b_).dimensions();
    k_ = dims.size() == 3 ? dims[1] : 0;
    Expect(arg(b_), arg(4).element_type(), {shape_.batch, k_, shape_.n}, "b");
    Expect(ret(0), arg(4).element_type(), {shape_.batch, k_, shape_.n}, "x");
  }
  if (phase == Phase::kFactorize || phase == Phase::kFactorizeSolve) {
    Expect(ticket(), ffi::U32, {shape_.batch, 8}, "ticket");
    Expect(info(), ffi::S32, {shape_.batch, 8}, "info");
  }
  if (is_nan) Expect(ret(1), ffi::U32, {shape_.batch, 4}, "the hidden result");
  if (phase == Phase::kDiagonal) {
    Expect(ret(0), arg(4).element_type(), {shape_.batch, shape_.n}, "the diagonal");
  }
  Optional(arg(2), ffi::S32, shape_.n, !request_.options.permutation.none(), "permutation");
  Optional(arg(3), arg(4).element_type(), shape_.nnz, !request_.options.reference.none(),
           "reference");
}

}  // namespace nvstate::cudss
