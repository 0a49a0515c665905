// Inside the library a failure is an exception. It becomes a value at both boundaries, to XLA
// (Guard, in ffi.h) and to Python (Called, here): an exception must not cross between C++ runtimes.

#ifndef NVSTATE_ERROR_H_
#define NVSTATE_ERROR_H_

#include <exception>
#include <stdexcept>
#include <string>
#include <utility>

#define NVS_EXPORT __attribute__((visibility("default")))

namespace nvstate {

enum class Code : int {  // XLA's numbers, so that both boundaries report the same
  kInvalidArgument = 3,
  kNotFound = 5,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kInternal = 13,
};

class Failure : public std::runtime_error {
 public:
  Failure(Code code, const std::string& text) : std::runtime_error(text), code_(code) {}
  Code code() const { return code_; }

 private:
  Code code_;
};

std::string Text(double number);  // with a point, wherever the process is

std::string CallName(const char* expression);  // "api.cufftCreate(&plan)" -> "cufftCreate"

// A library's header gives its status type StatusName() and CodeOf(), found beside that type.
template <typename Status>
void Check(Status status, const char* expression) {
  if (static_cast<int>(status) == 0) return;
  throw Failure(CodeOf(status), CallName(expression) + " failed: " + StatusName(status));
}
#define NVS_CHECK(call) ::nvstate::Check((call), #call)

// What was thrown, seen from inside a catch block.
std::pair<Code, std::string> Caught() noexcept;

const char* LastError() noexcept;                                // of this thread
int SetLastError(std::pair<Code, std::string> caught) noexcept;  // the code, as a number

// Runs the body of a function that Python calls: 0, or the code whose text is LastError().
template <typename Body>
int Called(Body body) noexcept {
  try {
    body();
    return 0;
  } catch (...) {
    return SetLastError(Caught());
  }
}

}  // namespace nvstate

#endif  // NVSTATE_ERROR_H_
