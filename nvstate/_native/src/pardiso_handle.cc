// Calls of PARDISO.

#include <limits>
#include <string>

#include "nvstate/pardiso.h"

namespace nvstate::pardiso {
namespace {

std::string ErrorName(int64_t error) {
  switch (error) {
    case -1:
      return "inconsistent input";
    case -2:
      return "not enough host memory";
    case -3:
      return "the reordering failed";
    case -7:
      return "a diagonal matrix is singular";
    case -8:
      return "a 32-bit integer overflowed";
    default:
      return "an internal error";
  }
}

void Check(int64_t error, int64_t phase) {
  if (error == 0 || (error == -4 && phase == 22)) return;
  throw Failure(error == -2 ? Code::kResourceExhausted : Code::kInternal,
                "PARDISO's phase " + std::to_string(phase) + " failed with error " +
                    std::to_string(error) + ": " + ErrorName(error));
}

template <typename Int, typename Function>
int64_t Called(Function* function, void* pt, int64_t maxfct, int64_t mnum, int64_t mtype,
               int64_t phase, const Matrix& matrix, const void* values, Iparm& iparm,
               void* permutation, int64_t columns, const void* b, void* x) {
  const auto wanted = [](int64_t value) { return static_cast<Int>(value); };
  const Int args[] = {wanted(maxfct),
                      wanted(mnum),
                      wanted(mtype),
                      wanted(phase),
                      wanted(matrix.pattern().n),
                      wanted(columns),
                      0};
  std::array<Int, 64> all;
  for (size_t i = 0; i < all.size(); ++i) all[i] = wanted(iparm[i + 1]);
  Int error = 0, nothing = 0;
  double unread[2] = {};  // stands for operands that this phase does not read
  function(pt, &args[0], &args[1], &args[2], &args[3], &args[4],
           values != nullptr ? values : unread, static_cast<const Int*>(matrix.rows().data()),
           static_cast<const Int*>(matrix.columns().data()),
           permutation != nullptr ? static_cast<Int*>(permutation) : &nothing, &args[5], all.data(),
           &args[6], b != nullptr ? const_cast<void*>(b) : unread, x != nullptr ? x : unread,
           &error);
  for (size_t i = 0; i < all.size(); ++i) iparm[i + 1] = all[i];
  return error;
}

}  // namespace

Threads::Threads(const Options& options)
    : before_(Opened<mkl::Api>().MKL_Set_Num_Threads_Local(
          static_cast<int>(options.deterministic      ? 1
                           : options.host_threads > 0 ? options.host_threads
                                                      : solver::CpuCount()))) {}

Threads::~Threads() { Opened<mkl::Api>().MKL_Set_Num_Threads_Local(before_); }

Handle::Handle(const Matrix& matrix, int mtype, bool wide, int64_t maxfct)
    : api_(Opened<mkl::Api>()), matrix_(matrix), mtype_(mtype), wide_(wide), maxfct_(maxfct) {}

Handle::~Handle() {
  Iparm iparm{};
  try {
    Run(-1, 1, nullptr, iparm);
  } catch (const Failure&) {  // of a handle whose analysis failed; there is nobody to tell
  }
}

int64_t Handle::Run(int64_t phase, int64_t mnum, const void* values, Iparm& iparm,
                    void* permutation, int64_t columns, const void* b, void* x) {
  const int64_t error =
      wide_ ? Called<long long>(api_.pardiso_64, pt_.data(), maxfct_, mnum, mtype_, phase, matrix_,
                                values, iparm, permutation, columns, b, x)
            : Called<int>(api_.pardiso, pt_.data(), maxfct_, mnum, mtype_, phase, matrix_, values,
                          iparm, permutation, columns, b, x);
  Check(error, phase);
  return error;
}

void Handle::Diagonal(int64_t mnum, void* of_factor, void* of_matrix) {
  int64_t error = 0;  // with MKL's other interface it takes 64 bits; the lower ones come first
  api_.pardiso_getdiag(pt_.data(), of_factor, of_matrix, reinterpret_cast<const int*>(&mnum),
                       reinterpret_cast<int*>(&error));
  if (error == 0) return;
  throw Failure(Code::kInternal, "pardiso_getdiag failed");
}

}  // namespace nvstate::pardiso
