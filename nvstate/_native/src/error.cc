#include "nvstate/error.h"

#include <locale>
#include <new>
#include <sstream>
#include <string_view>

namespace nvstate {
namespace {
thread_local std::string last_error;
}  // namespace

std::string Text(double number) {
  std::ostringstream out;
  out.imbue(std::locale::classic());
  out.precision(17);
  out << number;
  return out.str();
}

std::string CallName(const char* expression) {
  std::string_view text(expression);
  text = text.substr(0, text.find('('));
  const size_t start = text.find_last_of(".>: ");
  return std::string(start == std::string_view::npos ? text : text.substr(start + 1));
}

std::pair<Code, std::string> Caught() noexcept {
  try {
    throw;
  } catch (const Failure& failure) {
    return {failure.code(), failure.what()};
  } catch (const std::bad_alloc&) {
    return {Code::kResourceExhausted, "out of host memory"};
  } catch (const std::exception& error) {
    return {Code::kInternal, error.what()};
  } catch (...) {
    return {Code::kInternal, "an unknown exception"};
  }
}

const char* LastError() noexcept { return last_error.c_str(); }

int SetLastError(std::pair<Code, std::string> caught) noexcept {
  last_error = std::move(caught.second);
  return static_cast<int>(caught.first);
}

}  // namespace nvstate
