#include "nvstate/attributes.h"

#include <cstdlib>
#include <cstring>

#include "nvstate/error.h"

namespace nvstate {
namespace {

std::string_view Before(std::string_view& rest, char end) {
  const size_t at = rest.find(end);
  const std::string_view part = rest.substr(0, at);
  rest.remove_prefix(at == std::string_view::npos ? rest.size() : at + 1);
  return part;
}

double DoubleOf(uint64_t bits) {
  double value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

}  // namespace

void AttributeSource::Missing(const char* name, const char* type) {
  throw Failure(Code::kInvalidArgument,
                std::string("attribute `") + name + "` is missing or not " + type);
}

void AttributeSource::Unknown(std::string_view name) {
  throw Failure(Code::kInvalidArgument, "unknown attribute `" + std::string(name) + "`");
}

TextAttributes::TextAttributes(std::string_view text) {
  while (!text.empty()) {
    std::string_view line = Before(text, '\n');
    const std::string name(Before(line, '\t'));
    const std::string_view type = Before(line, '\t');
    Value value{type.empty() ? '?' : type[0], std::string(line), {}};
    while (value.type != 's' && !line.empty()) {
      // Negative numbers are read as the unsigned ones with their bits.
      value.words.push_back(std::strtoull(std::string(Before(line, ' ')).c_str(), nullptr, 10));
    }
    values_.emplace(name, std::move(value));
  }
}

const TextAttributes::Value& TextAttributes::Get(const char* name, char letter, const char* type) {
  names_.insert(name);
  const auto found = values_.find(std::string_view(name));
  if (found == values_.end() || found->second.type != letter) Missing(name, type);
  return found->second;
}

int64_t TextAttributes::Int(const char* name) {
  const Value& value = Get(name, 'i', "an integer");
  if (value.words.size() != 1) Missing(name, "an integer");
  return static_cast<int64_t>(value.words[0]);
}

double TextAttributes::Double(const char* name) {
  const Value& value = Get(name, 'd', "a float64");
  if (value.words.size() != 1) Missing(name, "a float64");
  return DoubleOf(value.words[0]);
}

std::string TextAttributes::String(const char* name) { return Get(name, 's', "a string").text; }

std::vector<int64_t> TextAttributes::Ints(const char* name) {
  const Value& value = Get(name, 'I', "an array of int64");
  return {value.words.begin(), value.words.end()};
}

std::vector<uint64_t> TextAttributes::Words(const char* name) {
  return Get(name, 'W', "an array of uint64").words;
}

std::vector<double> TextAttributes::Doubles(const char* name) {
  std::vector<double> result;
  for (const uint64_t bits : Get(name, 'D', "an array of float64").words) {
    result.push_back(DoubleOf(bits));
  }
  return result;
}

void TextAttributes::Done() const {
  for (const auto& [name, value] : values_) {
    if (names_.count(name) == 0) Unknown(name);
  }
}

}  // namespace nvstate
