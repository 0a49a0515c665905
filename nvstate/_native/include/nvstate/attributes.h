// The attributes of a call by name, wherever they come from: XLA's dictionary (ffi.h) or the text
// that Python sends to ask about a call before there is one.

#ifndef NVSTATE_ATTRIBUTES_H_
#define NVSTATE_ATTRIBUTES_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace nvstate {

// Each attribute must be asked for: an unknown one may change the problem's meaning. All getters
// throw kInvalidArgument if it is missing or of another type.
class AttributeSource {
 public:
  virtual ~AttributeSource() = default;
  virtual int64_t Int(const char* name) = 0;
  virtual double Double(const char* name) = 0;
  virtual std::string String(const char* name) = 0;
  virtual std::vector<int64_t> Ints(const char* name) = 0;
  virtual std::vector<uint64_t> Words(const char* name) = 0;
  virtual std::vector<double> Doubles(const char* name) = 0;
  virtual void Done() const = 0;  // throws if there are others

 protected:
  [[noreturn]] static void Missing(const char* name, const char* type);
  [[noreturn]] static void Unknown(std::string_view name);
};

// A line for each: name, type and values, tabs between. The type is i, d, s, I, W or D as above;
// doubles come as the integers that have their bits.
class TextAttributes : public AttributeSource {
 public:
  explicit TextAttributes(std::string_view text);
  int64_t Int(const char* name) override;
  double Double(const char* name) override;
  std::string String(const char* name) override;
  std::vector<int64_t> Ints(const char* name) override;
  std::vector<uint64_t> Words(const char* name) override;
  std::vector<double> Doubles(const char* name) override;
  void Done() const override;

 private:
  struct Value {
    char type;
    std::string text;
    std::vector<uint64_t> words;
  };
  const Value& Get(const char* name, char letter, const char* type);
  std::map<std::string, Value, std::less<>> values_;
  std::set<std::string, std::less<>> names_;
};

}  // namespace nvstate

#endif  // NVSTATE_ATTRIBUTES_H_
