// Threads and devices that plan and launch products at once, while the cache is cleared: with the
// handle, the plans and the library they share. Built with -fsanitize=thread: any race ends the
// program with an error. CUDA and cuBLASLt are fake_cuda.cc's. Prints "ok".

#include <dlfcn.h>

#include <array>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "nvstate/cache.h"
#include "nvstate/cublaslt_plan.h"

namespace nvstate {
namespace {

#define EXPECT(condition)                                                        \
  if (!(condition)) {                                                            \
    std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
    std::exit(1);                                                                \
  }

matmul::Spec SpecOf(const std::string& epilog, const std::string& pinned) {
  TextAttributes text(
      "owner\ti\t7\nbatch\ti\t2\nlayout_a\tI\t0 1 2 3\nlayout_b\tI\t0 1 2 3 4\nlayout_c\tI\t\n"
      "layout_d\tI\t0 1 2 3\nconjugate_a\ti\t0\nconjugate_b\ti\t0\ncompute_type\ts\tfloat32\n"
      "scale_type\ts\tfloat32\nc\ti\t0\nc_type\ts\t\nscalars\ti\t0\nalpha\tD\t0 0\nbeta\tD\t0 0\n"
      "scaling_a\ts\tnone\nscaling_b\ts\tnone\nscaling_d_out\ts\tnone\nscale_c\ti\t0\n"
      "scale_d\ti\t0\nscale_aux\ti\t0\nresult_amax\ti\t0\naux_amax\ti\t0\n"
      "fast_accumulation\ti\t0\nsm_count\ti\t0\nreduction_mask\ti\t7\nimpl_mask\ti\t-1\n"
      "max_waves\td\t0\nepilog\ts\t" +
      epilog + "\n" + pinned);
  return matmul::Spec(text);
}

const std::string kNone = "algorithms\tW\t\nproblems\tI\t";
const std::string kElsewhere = "algorithms\tW\t1 0 0 0 0 0 0 0\nproblems\tI\t9 9 9 9";
const std::string kPinned = "algorithms\tW\t1 0 0 0 0 0 0 0\nproblems\tI\t4 8 16 6";
const std::string kForeign = "algorithms\tW\t2 0 0 0 0 0 0 0\nproblems\tI\t4 8 16 6";

using Launched = std::vector<std::array<const void*, 6>>;

// Where each native call of a loop finds and puts things.
void TestLoops(const char* fake) {
  const auto record =
      reinterpret_cast<void (*)(Launched*)>(dlsym(dlopen(fake, RTLD_NOW), "fake_launches"));
  Launched launched;
  alignas(16) static char a[1], b[1], bias[1], d[1], aux[1];
  const matmul::Spec spec = SpecOf("relu_aux_bias", kNone);
  // Five members of b for each of three of a, and these three in a loop.
  const auto layout = LayoutOf(
      spec, TypedOf("float32[3,1,4,16] float32[1,5,1,16,8] float32[3,1,1,8] float32[3,5,4,8] "
                    "uint8[3,5,4,16]"));
  EXPECT(layout.calls() == 3);
  cublaslt::Pointers pointers;
  pointers[matmul::Operand::kA] = a, pointers[matmul::Operand::kB] = b;
  pointers[matmul::Operand::kBias] = bias, pointers[matmul::Operand::kD] = d;
  pointers[matmul::Operand::kAuxOut] = aux;
  const cublaslt::Operation operation(0, spec, layout);
  abi::cublasStatus_t status;
  const auto candidates = operation.Heuristic(4096, 1, &status);
  OnDevice on(0);
  record(&launched);
  operation.Launch(nullptr, pointers, candidates.front());
  operation.Launch(nullptr, pointers, candidates.front(), /*first_only=*/true);
  record(nullptr);
  EXPECT(launched.size() == 4);
  for (int i = 0; i < 4; ++i) {
    const int64_t at = i % 3;
    const std::array<const void*, 6> want = {
        b,                       // the library's A
        a + at * 4 * 16 * 4,     // its B
        d + at * 5 * 4 * 8 * 4,  // there is no C
        d + at * 5 * 4 * 8 * 4,
        bias + at * 8 * 4,
        aux + at * 5 * 4 * 16,
    };
    EXPECT(launched[i] == want);
  }
}

// A launch tells the library where its bias lies, but makes no descriptor for that.
void TestDescriptors(const char* fake) {
  void* const library = dlopen(fake, RTLD_NOW);
  const auto record = reinterpret_cast<void (*)(Launched*)>(dlsym(library, "fake_launches"));
  const auto made = reinterpret_cast<int (*)()>(dlsym(library, "fake_descriptors"));
  alignas(16) static char memory[64];
  const matmul::Spec spec = SpecOf("bias", kNone);
  const cublaslt::Operation operation(
      0, spec,
      LayoutOf(spec, TypedOf("float32[1,1,4,16] float32[1,1,1,16,8] float32[1,1,1,8] "
                             "float32[1,1,4,8]")));
  abi::cublasStatus_t status;
  const auto candidates = operation.Heuristic(4096, 1, &status);
  OnDevice on(0);
  Launched launched;
  record(&launched);
  int before = 0;
  for (int i = 0; i < 4; ++i) {
    cublaslt::Pointers pointers;
    for (void*& pointer : pointers.at) pointer = memory + 16 * (i % 3);
    operation.Launch(nullptr, pointers, candidates.front());
    EXPECT(launched.back()[4] == memory + 16 * (i % 3));
    if (i == 0) before = made();
  }
  record(nullptr);
  EXPECT(made() == before);
}

// Where there is no C: D in its place only if it is of C's type, else cuBLASLt refuses the launch.
void TestNoC(const char* fake) {
  const auto record =
      reinterpret_cast<void (*)(Launched*)>(dlsym(dlopen(fake, RTLD_NOW), "fake_launches"));
  alignas(16) static char a[1], b[1], d[1], scalar[4];
  for (const bool scalars : {false, true}) {
    for (const char* type : {"", "bfloat16"}) {
      matmul::Spec spec = SpecOf("none", kNone);
      spec.scalars = scalars;
      spec.c_type = type;
      const auto layout = LayoutOf(
          spec, TypedOf(std::string("float8_e4m3fn[1,1,16,16] float8_e4m3fn[1,1,1,16,16]") +
                        (scalars ? " float32[1] float32[1]" : "") + " float8_e4m3fn[1,1,16,16]"));
      cublaslt::Pointers pointers;
      pointers[matmul::Operand::kA] = a, pointers[matmul::Operand::kB] = b;
      pointers[matmul::Operand::kD] = d;
      pointers[matmul::Operand::kAlpha] = pointers[matmul::Operand::kBeta] = scalar;
      const cublaslt::Operation operation(0, spec, layout);
      abi::cublasStatus_t status;
      const auto candidates = operation.Heuristic(4096, 1, &status);
      Launched launched;
      OnDevice on(0);
      record(&launched);
      operation.Launch(nullptr, pointers, candidates.front());
      record(nullptr);
      const void* const other = scalars ? b : nullptr;
      EXPECT(launched.size() == 1 && launched[0][2] == (*type == 0 ? d : other));
    }
  }
}

// What lies beyond N in a gelu's aux is zero, in every row of every native call.
void TestPadding(const char* fake) {
  const auto record =
      reinterpret_cast<void (*)(Launched*)>(dlsym(dlopen(fake, RTLD_NOW), "fake_launches"));
  alignas(16) static char a[1], b[1], d[1], aux[64];
  const matmul::Spec spec = SpecOf("gelu_aux", kNone);
  for (const int n : {9, 16}) {
    const std::string columns = std::to_string(n) + "]";
    const auto layout =
        LayoutOf(spec, TypedOf("bfloat16[3,1,4,16] bfloat16[1,5,1,16," + columns +
                               " bfloat16[3,5,4," + columns + " bfloat16[3,5,4,16]"));
    cublaslt::Pointers pointers;
    pointers[matmul::Operand::kA] = a, pointers[matmul::Operand::kB] = b;
    pointers[matmul::Operand::kD] = d, pointers[matmul::Operand::kAuxOut] = aux;
    const cublaslt::Operation operation(0, spec, layout);
    abi::cublasStatus_t status;
    const auto candidates = operation.Heuristic(4096, 1, &status);
    Launched launched;
    OnDevice on(0);
    record(&launched);
    operation.Launch(nullptr, pointers, candidates.front());
    record(nullptr);
    const auto number = [](size_t x) { return reinterpret_cast<const void*>(x); };
    EXPECT(launched.size() == static_cast<size_t>(layout.calls()) + (n == 9 ? 1 : 0));
    if (n == 9) {
      const std::array<const void*, 6> want = {aux + 18, number(32), number(14), number(60)};
      EXPECT(launched.back() == want);
    }
  }
}

void TestHalf() {
  const auto half = [](double value) {
    uint16_t bits;
    std::memcpy(&bits, matmul::ScalarOf({value, 0}, abi::CUDA_R_16F).bytes, sizeof(bits));
    return bits;
  };
  EXPECT(half(0.0) == 0 && half(-0.0) == 0x8000);
  EXPECT(half(1.0) == 0x3c00 && half(-0.5) == 0xb800 && half(1.0 / 3) == 0x3555);
  EXPECT(half(65504.0) == 0x7bff && half(65519.0) == 0x7bff && half(65520.0) == 0x7c00);
  EXPECT(half(std::ldexp(1.0, -14)) == 0x0400 && half(std::ldexp(1.0, -24)) == 1);
  EXPECT(half(std::ldexp(1.0, -25)) == 0 && half(2047.0 / 2048) == 0x3bff);
}

void Run(int device, const matmul::Spec& spec, char* d) {
  const bool bias = spec.epilog->bias;
  const std::string types = std::string("float32[2,3,4,16] float32[2,3,1,16,8]") +
                            (bias ? " float32[1,1,1,8]" : "") + " float32[2,3,4,8]";
  const auto plan = cublaslt::PlanFor(device, spec, LayoutOf(spec, TypedOf(types)), 4096);
  EXPECT(plan->chosen().workspace == (bias ? 116 : 100));
  cublaslt::Pointers pointers;
  for (int i = 0; i < matmul::kAll; ++i) pointers.at[i] = d;
  plan->operation().CheckAlignment(pointers);
  OnDevice on(device);
  if (!plan->IsWarm()) plan->Warm(pointers);
  plan->operation().Launch(nullptr, pointers, plan->chosen());
}

template <typename Body>
std::string FailureOf(const Body& body) {
  try {
    body();
  } catch (const Failure& failure) {
    return failure.what();
  }
  return "";
}

bool Contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

}  // namespace
}  // namespace nvstate

int main(int, char** argv) {
  using namespace nvstate;
  Library::Open("cuda", argv[1]);
  Library::Open("cublasLt", argv[1]);
  const std::vector<matmul::Spec> specs = {SpecOf("none", kNone), SpecOf("bias", kNone),
                                           SpecOf("gelu_bias", kPinned),
                                           SpecOf("none", kElsewhere)};
  alignas(16) static char memory[16 * 64];
  std::atomic<bool> running{true};
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 1000; ++i) Run(i % 3, specs[(t + i) % 4], memory + 16 * (8 * t + i % 8));
    });
  }
  std::thread other([&] {
    while (running) {
      Cache::Global().Clear();
      Cache::Global().Count();
    }
  });
  for (std::thread& thread : threads) thread.join();
  running = false;
  other.join();
  EXPECT(Cache::Global().Count().unpinned == 6 * 250);  // each time that it was asked for

  TestLoops(argv[1]);
  TestNoC(argv[1]);
  TestDescriptors(argv[1]);
  TestPadding(argv[1]);
  TestHalf();
  EXPECT(Contains(FailureOf([&] { Run(0, SpecOf("none", kForeign), memory); }),
                  "the plan's algorithm does not run here: cublasLtMatmulAlgoCheck says "
                  "CUBLAS_STATUS_INVALID_VALUE of it, in cuBLASLt 13.1.0"));
  EXPECT(Contains(FailureOf([&] { Run(0, specs[0], memory + 8); }),
                  "`a` lies at an address that is no multiple of 16 bytes"));
  std::puts("ok");
}
