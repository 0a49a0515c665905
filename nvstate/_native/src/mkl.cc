#include "nvstate/mkl.h"

#include <dlfcn.h>
#include <link.h>
#include <sys/stat.h>

#include <cstring>
#include <mutex>
#include <string_view>

namespace nvstate::mkl {
namespace {

struct Settled {
  bool open = false;
  bool wide = false;
  bool threaded = false;
};

std::mutex mutex;  // of this
Settled settled;

struct Sought {
  const char* file;
  bool other = false;  // an OpenMP runtime of this family is loaded, and it is not that file
};

bool Same(const char* a, const char* b) {
  struct stat x, y;
  return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

int See(dl_phdr_info* info, size_t, void* data) {
  auto* const sought = static_cast<Sought*>(data);
  std::string_view name(info->dlpi_name);
  const size_t slash = name.rfind('/');
  if (slash != std::string_view::npos) name.remove_prefix(slash + 1);
  if (name.rfind("libiomp5", 0) == 0 || name.rfind("libomp", 0) == 0) {
    sought->other = sought->other || !Same(info->dlpi_name, sought->file);
  }
  return 0;
}

// Two copies of Intel's (or LLVM's, which is the same) OpenMP runtime end the process.
bool OtherRuntime(const char* file) {
  Sought sought{file};
  dl_iterate_phdr(See, &sought);
  return sought.other;
}

}  // namespace

void Open(const char* path, const char* openmp) {
  std::lock_guard lock(mutex);
  if (settled.open) return;
  bool threaded = openmp != nullptr && !OtherRuntime(openmp);
  // MKL takes a copy from its own folder by path, else one that is loaded by its name.
  if (threaded) threaded = dlopen(openmp, RTLD_NOW | RTLD_LOCAL) != nullptr;
  Library::Open("mkl", path);
  const Library library("mkl");
  // Both answer with the layer in effect, which may be one that another package chose before.
  const int threads = library.Symbol<decltype(abi::MKL_Set_Threading_Layer)>(
      "MKL_Set_Threading_Layer")(threaded ? abi::MKL_THREADING_INTEL
                                          : abi::MKL_THREADING_SEQUENTIAL);
  const int interface = library.Symbol<decltype(abi::MKL_Set_Interface_Layer)>(
      "MKL_Set_Interface_Layer")(abi::MKL_INTERFACE_LP64);
  settled = {true, (interface & abi::MKL_INTERFACE_ILP64) != 0,
             threads != abi::MKL_THREADING_SEQUENTIAL};
}

Api::Api()
    : library([] {
        std::lock_guard lock(mutex);
        if (settled.open) return Library("mkl");
        throw Failure(Code::kFailedPrecondition,
                      "MKL is not open in this process: register nvstate's CPU targets first, and "
                      "install it with `pip install mkl`");
      }()),
      wide(settled.wide) {}

std::string Version() {
  const Api& api = Opened<Api>();
  char text[256] = {};
  api.MKL_Get_Version_String(text, sizeof(text) - 1);
  std::string version(text);
  version.erase(version.find_last_not_of(' ') + 1);
  return version + (settled.threaded ? "; intel threads" : "; sequential");
}

}  // namespace nvstate::mkl
