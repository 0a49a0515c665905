// CUDA libraries, opened at run time so that one build serves every machine, with a GPU or without.

#ifndef NVSTATE_LIBRARY_H_
#define NVSTATE_LIBRARY_H_

#include <string>

namespace nvstate {

// An Api is a struct of a Library and one NVS_SYMBOL for each function that is called:
//   struct Api {
//     Library library{"cufft"};
//     NVS_SYMBOL(cufftCreate)
//   };
// The functions have exactly the types that nvstate/abi/ declares.
class Library {
 public:
  // Opens a known library unless it is open: the copy this process has loaded, else the loader's.
  explicit Library(const char* name);

  template <typename Function>
  Function* Symbol(const char* symbol) const {
    return reinterpret_cast<Function*>(Address(symbol));
  }

  // Opens the copy at `path`; with nullptr only one that this process has loaded already (XLA's).
  // A library once open stays as it is.
  static void Open(const char* name, const char* path);
  static void Hint(const char* name, const char* path);  // where to look when it is first used
  static const char* Path(const char* name);             // nullptr if it is not open

 private:
  void* Address(const char* symbol) const;
  const char* name_;
  void* handle_;
};

#define NVS_SYMBOL(function)                           \
  decltype(::nvstate::abi::function)* const function = \
      library.Symbol<decltype(::nvstate::abi::function)>(#function);

// The process's one Api, opened by its first user; if that throws, the next user tries again.
template <typename Api>
const Api& Opened() {
  static const Api* const api = new Api();  // never destroyed: plans may outlive static objects
  return *api;
}

}  // namespace nvstate

#endif  // NVSTATE_LIBRARY_H_
