#include "nvstate/library.h"

#include <dlfcn.h>
#include <link.h>

#include <mutex>
#include <string_view>
#include <vector>

#include "nvstate/error.h"

namespace nvstate {
namespace {

struct Known {
  std::string_view name;
  std::vector<const char*> sonames;  // the newest first
  const char* advice;
  std::string hint = {};  // a file to try before the loader's path
  void* handle = nullptr;
  std::string path = {};
};

std::mutex mutex;  // of what the next function returns

Known& Find(std::string_view name) {
  static auto* const known = new std::vector<Known>{
      {"cuda", {"libcuda.so.1"}, "Install the NVIDIA driver."},
      {"cufft",
       {"libcufft.so.12", "libcufft.so.11"},
       "Install it with `pip install nvidia-cufft` (CUDA 13) or `pip install nvidia-cufft-cu12` "
       "(CUDA 12)."},
      {"cublasLt",
       {"libcublasLt.so.13", "libcublasLt.so.12"},
       "Install it with `pip install nvidia-cublas` (CUDA 13) or `pip install nvidia-cublas-cu12` "
       "(CUDA 12)."},
      {"cudss",
       {"libcudss.so.1"},
       "Install it with `pip install \"nvidia-cudss-cu13==1.0.*\"` (CUDA 13) or "
       "`pip install \"nvidia-cudss-cu12==1.0.*\"` (CUDA 12)."},
      {"mkl", {"libmkl_rt.so.3", "libmkl_rt.so.2"}, "Install it with `pip install mkl`."},
  };
  for (Known& library : *known) {
    if (library.name == name) return library;
  }
  throw Failure(Code::kInvalidArgument, "unknown library " + std::string(name));
}

bool Try(Known& library, const char* file, int mode) {
  library.handle = dlopen(file, RTLD_NOW | RTLD_LOCAL | mode);
  if (library.handle == nullptr) return false;
  link_map* map = nullptr;
  dlinfo(library.handle, RTLD_DI_LINKMAP, &map);
  library.path = map != nullptr && map->l_name[0] != '\0' ? map->l_name : file;
  return true;
}

bool TrySonames(Known& library, int mode) {
  for (const char* soname : library.sonames) {
    if (Try(library, soname, mode)) return true;
  }
  return false;
}

std::string Sonames(const Known& library) {
  std::string text;
  for (const char* soname : library.sonames)
    text += (text.empty() ? "" : ", ") + std::string(soname);
  return text;
}

}  // namespace

Library::Library(const char* name) : name_(name) {
  std::lock_guard lock(mutex);
  Known& library = Find(name);
  if (library.handle == nullptr && !TrySonames(library, RTLD_NOLOAD) &&
      (library.hint.empty() || !Try(library, library.hint.c_str(), 0)) && !TrySonames(library, 0)) {
    throw Failure(Code::kNotFound,
                  std::string(name) + " was not found: searched for " + Sonames(library) +
                      " in this process and on the loader's path. " + library.advice);
  }
  handle_ = library.handle;
}

void Library::Open(const char* name, const char* path) {
  std::lock_guard lock(mutex);
  Known& library = Find(name);
  if (library.handle != nullptr) return;
  if (path == nullptr) {
    if (TrySonames(library, RTLD_NOLOAD)) return;
    throw Failure(Code::kNotFound, "this process has loaded none of " + Sonames(library));
  }
  if (!Try(library, path, 0)) throw Failure(Code::kNotFound, dlerror());
}

void Library::Hint(const char* name, const char* path) {
  std::lock_guard lock(mutex);
  Find(name).hint = path;
}

const char* Library::Path(const char* name) {
  std::lock_guard lock(mutex);
  const Known& library = Find(name);
  return library.handle == nullptr ? nullptr : library.path.c_str();
}

void* Library::Address(const char* symbol) const {
  void* const address = dlsym(handle_, symbol);
  if (address == nullptr) {
    throw Failure(Code::kFailedPrecondition, std::string(name_) + " has no " + symbol + " (" +
                                                 Path(name_) +
                                                 "): it is too old or not the right one");
  }
  return address;
}

}  // namespace nvstate
