// A call site shared by the devices and threads of its program, which find and fill its slots at
// once, while the cache counts, drops and limits what they hold. Built with -fsanitize=thread: any
// race ends the program with an error. Prints "ok".

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "nvstate/cache.h"
#include "nvstate/ffi.h"

namespace nvstate {
namespace {

#define EXPECT(condition)                                                        \
  if (!(condition)) {                                                            \
    std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
    std::exit(1);                                                                \
  }

std::atomic<int> alive{0};

struct Planned : NativePlan {
  Planned(int32_t device, int64_t n) : device(device), n(n) { ++alive; }
  ~Planned() override { --alive; }
  int64_t bytes() const override { return 10; }
  const int32_t device;
  const int64_t n;
};

struct Spec {
  static constexpr const char* kOperation = "test";
  static constexpr int64_t kVersion = 1;
  explicit Spec(int64_t owner) : owner(owner) {}
  int64_t owner;
};

using Site = SiteOf<Spec, Planned>;

struct Buffer {  // of XLA's, with nothing behind it
  explicit Buffer(int64_t rows) : dims{rows, 8} {
    c.struct_size = XLA_FFI_Buffer_STRUCT_SIZE;
    c.dtype = XLA_FFI_DataType_C64;
    c.rank = 2;
    c.dims = dims;
  }
  ffi::AnyBuffer any() { return ffi::AnyBuffer(&c); }
  int64_t dims[2];
  XLA_FFI_Buffer c{};
};

// What initialize and execute do, less the library.
void Run(Site& site, int32_t device, int64_t rows) {
  Buffer x(rows), y(rows);
  std::shared_ptr<Planned> plan = site.Find(device, {x.any(), y.any()});
  if (plan == nullptr) {
    const std::string key = std::to_string(device) + " " + std::to_string(rows);
    plan = std::static_pointer_cast<Planned>(Cache::Global().Get(
        key, site.spec().owner, [&] { return std::make_unique<Planned>(device, rows); }));
    site.Fill(device, {x.any(), y.any()}, plan);
  }
  plan->Use();
  EXPECT(plan->device == device && plan->n == rows);
  EXPECT(site.Find(device, {x.any(), y.any()}) != nullptr);
}

}  // namespace
}  // namespace nvstate

int main() {
  using namespace nvstate;
  {
    std::vector<std::unique_ptr<Site>> sites;
    for (int64_t owner = 0; owner < 3; ++owner)
      sites.push_back(std::make_unique<Site>(Spec(owner)));
    std::atomic<bool> running{true};
    std::vector<std::thread> threads;
    for (int t = 0; t < 6; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < 3000; ++i) Run(*sites[(t + i) % 3], i % 4, 1 + (i / 7) % 5);
      });
    }
    std::thread other([&] {
      while (running) {
        Cache::Global().Clear();
        Cache::Global().Drop(1);
        Cache::Global().SetLimit(2, 15);
        EXPECT(Cache::Global().Count().recent <= 2);
        EXPECT(Cache::Global().Rows(0).size() <= 60);
        Cache::Global().SetLimit(64, 1000);
      }
    });
    for (std::thread& thread : threads) thread.join();
    running = false;
    other.join();
    EXPECT(alive > 0 && Cache::Global().Count().held == Cache::Global().Count().plans);
  }
  Cache::Global().Clear();  // the sites are gone, so are their plans
  EXPECT(alive == 0 && Cache::Global().Count().plans == 0);
  std::puts("ok");
}
