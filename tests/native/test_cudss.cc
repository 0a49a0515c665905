// Prevents a ring that answers for other values, keeps memory, or spoils one element by another.
// cuDSS and the driver are those of fake_cudss.cc, whose path is the argument.

#include <dlfcn.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "nvstate/cudss_ring.h"

using nvstate::Failure;
using nvstate::cudss::Branch;
using nvstate::cudss::HostPattern;
using nvstate::cudss::Print;
using nvstate::cudss::Ring;
using nvstate::cudss::Shape;
namespace solver = nvstate::solver;

namespace {

#define EXPECT(condition)                                                  \
  do {                                                                     \
    if (!(condition)) {                                                    \
      std::printf("%s:%d: %s is false\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                        \
    }                                                                      \
  } while (false)

constexpr int64_t kN = 3, kNnz = 7;
const std::vector<int32_t> kIndptr = {0, 2, 5, 7}, kIndices = {0, 1, 0, 1, 2, 1, 2};
const std::vector<double> kValues = {4, 1, 1, 5, 2, 2, 6};

solver::Options OptionsOf(const char* type, int64_t slots = 2) {
  solver::Options o;
  o.ring = type;
  o.matrix_type = std::string(type) == "spd"         ? solver::MatrixType::kSpd
                  : std::string(type) == "symmetric" ? solver::MatrixType::kSymmetric
                                                     : solver::MatrixType::kGeneral;
  o.reordering = o.pivoting = "auto";
  o.matching = "none";
  o.factorization_algorithm = o.solve_algorithm = o.pivot_epsilon_algorithm = "default";
  const double nan = std::nan("");
  std::memcpy(&o.pivot_threshold_bits, &nan, sizeof(nan));
  o.pivot_epsilon_bits = o.refinement_tolerance_bits = o.pivot_threshold_bits;
  o.slots = slots;
  o.pattern = solver::DigestOf({kN, kNnz, kIndptr.data(), 4, kIndices.data(), 4});
  return o;
}

std::unique_ptr<Ring> Made(const solver::Options& options, int64_t batch,
                           const std::vector<double>* reference = nullptr) {
  const nvstate::OnDevice on(0);
  const Shape shape{kN, kNnz, batch, solver::Element::kF64, 4, 4};
  const HostPattern pattern(options, {kN, kNnz, kIndptr.data(), 4, kIndices.data(), 4}, nullptr);
  return std::make_unique<Ring>(0, options, shape, pattern,
                                reference == nullptr ? nullptr : reference->data());
}

std::vector<double> Scaled(std::vector<double> scales) {
  std::vector<double> values;
  for (const double scale : scales) {
    for (const double value : kValues) values.push_back(scale * value);
  }
  return values;
}

std::vector<Print> Prints(size_t batch, size_t not_finite = 99) {
  std::vector<Print> prints(batch);
  for (size_t i = 0; i < batch; ++i) prints[i] = {uint32_t(i), 1, i == not_finite ? 1u : 0u, 0};
  return prints;
}

// The largest error of A x = b, or of its transpose's, with A the scaled matrix.
double Error(double scale, const double* x, bool transposed, const double* b) {
  double error = 0;
  std::vector<double> product(kN);
  for (int64_t row = 0; row < kN; ++row) {
    for (int32_t p = kIndptr[row]; p < kIndptr[row + 1]; ++p) {
      const int32_t column = kIndices[p];
      (transposed ? product[column] : product[row]) +=
          scale * kValues[p] * x[transposed ? row : column];
    }
  }
  for (int64_t i = 0; i < kN; ++i) error = std::max(error, std::abs(product[i] - b[i]));
  return std::isfinite(error) && std::isfinite(x[0]) ? error : 1e300;
}

void Solves(Ring& ring, int64_t slot, const std::vector<double>& scales, bool transposed = false) {
  const int64_t k = 2, batch = static_cast<int64_t>(scales.size()), step = k * kN;
  std::vector<double> b(static_cast<size_t>(batch * step)), x(b.size());
  for (size_t i = 0; i < b.size(); ++i) b[i] = 1 + static_cast<double>(i % 5);
  const auto good = [&](const std::vector<double>& found) {
    for (int64_t i = 0; i < batch; ++i) {
      for (int64_t c = 0; c < k; ++c) {
        const double* const at = found.data() + i * step + c * kN;
        const bool failed = ring.slots()[slot].numerics[static_cast<size_t>(i)].failed();
        if (failed ? !std::isnan(at[0]) || !std::isnan(at[2])
                   : !(Error(scales[static_cast<size_t>(i)], at, transposed,
                             b.data() + i * step + c * kN) < 1e-12)) {
          return false;
        }
      }
    }
    return true;
  };
  ring.SolveAll(slot, transposed, b.data(), x.data(), k);
  EXPECT(good(x));
  for (int64_t i = batch - 1; i >= 0; --i) {
    ring.Solve(slot, i, transposed, b.data() + i * step, x.data() + i * step, k);
  }
  EXPECT(good(x));
  ring.SolveAll(slot, transposed, b.data(), x.data(), k);
  EXPECT(good(x));
}

std::vector<int32_t> Statuses(Ring& ring, int64_t slot) {
  std::vector<int32_t> statuses;
  for (const auto& one : ring.slots()[slot].numerics) statuses.push_back(one.status);
  return statuses;
}

using Ints = std::vector<int32_t>;

void TestSlots() {
  const auto ring = Made(OptionsOf("general"), 1);
  int64_t slots[3];
  for (int i = 0; i < 3; ++i) {
    slots[i] = ring->Factorize(0, Scaled({1.0 + i}).data(), Prints(1), nullptr);
    Solves(*ring, slots[i], {1.0 + i});
    Solves(*ring, slots[i], {1.0 + i}, true);
  }
  EXPECT(slots[0] != slots[1] && slots[2] == slots[0]);
  Solves(*ring, slots[1], {2});
}

void TestBatch() {
  const auto ring = Made(OptionsOf("general"), 3);
  const int64_t slot = ring->Factorize(0, Scaled({1, 2, 3}).data(), Prints(3), nullptr);
  EXPECT(ring->IsUniform(slot));
  Solves(*ring, slot, {1, 2, 3});
  Solves(*ring, slot, {1, 2, 3}, true);
  const int64_t with_nan = ring->Factorize(0, Scaled({1, 2, 3}).data(), Prints(3, 1), nullptr);
  EXPECT(Statuses(*ring, with_nan) == Ints({0, 4, 0}));
  Solves(*ring, with_nan, {1, 2, 3});
  EXPECT(with_nan != slot);
  const auto inertia = Made(OptionsOf("symmetric"), 3);  // each element's own
  const int64_t own = inertia->Factorize(0, Scaled({1, -2, 3}).data(), Prints(3, 2), nullptr);
  EXPECT(!inertia->IsUniform(own));
  EXPECT(Statuses(*inertia, own) == Ints({0, 0, 4}));
  EXPECT(inertia->slots()[own].numerics[0].positive == 3);
  EXPECT(inertia->slots()[own].numerics[1].negative == 3);
  EXPECT(inertia->slots()[own].numerics[2].negative == -1);
}

void TestOneBadMember() {
  const auto ring = Made(OptionsOf("spd"), 3);
  const int64_t good = ring->Factorize(0, Scaled({1, 2, 3}).data(), Prints(3), nullptr);
  const int64_t slot = ring->Factorize(0, Scaled({1, -1, 3}).data(), Prints(3), nullptr);
  EXPECT(Statuses(*ring, slot) == Ints({0, 3, 0}));
  EXPECT(ring->slots()[slot].numerics[1].failing_pivot == 0);
  Solves(*ring, slot, {1, -1, 3});
  Solves(*ring, good, {1, 2, 3});  // still the uniform one
  for (const double scale : {-1.0, 4.0}) {
    const int64_t again = ring->Factorize(0, Scaled({scale, 2, 3}).data(), Prints(3), nullptr);
    EXPECT(Statuses(*ring, again) == Ints({scale < 0 ? 3 : 0, 0, 0}));
    Solves(*ring, again, {scale, 2, 3});
  }
}

void TestPerturbed() {
  const auto ring = Made(OptionsOf("general"), 1);
  std::vector<double> values = kValues;
  values[0] = 4e-14;  // replaced: some digits of x are right
  int64_t slot = ring->Factorize(0, values.data(), Prints(1), nullptr);
  EXPECT(Statuses(*ring, slot) == Ints({1}));
  EXPECT(ring->slots()[slot].numerics[0].perturbed_pivots == 1);
  slot = ring->Factorize(0, Scaled({0}).data(), Prints(1), nullptr);  // none is
  EXPECT(Statuses(*ring, slot) == Ints({2}));
  Solves(*ring, slot, {0});  // NaN
  slot = ring->Factorize(0, kValues.data(), Prints(1), nullptr);
  EXPECT(Statuses(*ring, slot) == Ints({0}));
  Solves(*ring, slot, {1});
}

void TestReusedPivots() {
  solver::Options options = OptionsOf("general");
  options.reuse_pivots = true;
  options.reference = solver::ReferenceDigest(solver::Element::kF64, kValues.data(), kNnz);
  auto& counters = solver::Counters::Global();
  const int64_t full = counters.factorizations, again = counters.refactorizations;
  const auto ring = Made(options, 2, &kValues);
  for (int i = 0; i < 3; ++i) {  // of two slots
    Solves(*ring, ring->Factorize(0, Scaled({1, 2}).data(), Prints(2), nullptr), {1, 2});
  }
  EXPECT(counters.factorizations - full == 4 && counters.refactorizations - again == 6);
  try {
    std::vector<double> edited = kValues;
    edited[1] = 7;
    Made(options, 2, &edited);
    EXPECT(false);
  } catch (const Failure& failure) {
    EXPECT(failure.code() == nvstate::Code::kInvalidArgument);
  }
}

void TestColumnsAlone() {
  for (const bool hybrid : {false, true}) {
    solver::Options options = OptionsOf("general");
    (hybrid ? options.hybrid_execute : options.deterministic) = true;
    const auto ring = Made(options, 2);
    Solves(*ring, ring->Factorize(0, Scaled({1, 2}).data(), Prints(2), nullptr), {1, 2});
  }
}

void TestMemory(const std::function<int64_t()>& allocated,
                const std::function<void(int64_t)>& limit) {
  EXPECT(allocated() == 0);
  const auto ring = Made(OptionsOf("general", 3), 1);
  EXPECT(ring->bytes() == allocated());
  const int64_t slot = ring->Factorize(0, kValues.data(), Prints(1), nullptr);
  limit(allocated() + 5000);  // one more data object
  EXPECT(ring->Factorize(0, kValues.data(), Prints(1), nullptr) != slot);
  EXPECT(ring->Factorize(0, kValues.data(), Prints(1), nullptr) ==
         slot);  // none is made that cannot fit
  limit(100);
  try {
    Made(OptionsOf("general"), 1);
    EXPECT(false);
  } catch (const Failure& failure) {
    EXPECT(failure.code() == nvstate::Code::kResourceExhausted);
    EXPECT(std::string(failure.what()).find("factor_slots=1") != std::string::npos);
  }
  limit(INT64_MAX);
  Solves(*ring, ring->Factorize(0, kValues.data(), Prints(1), nullptr), {1});
}

struct Failing {  // each call of the libraries in turn
  const char* (*fail)(int64_t call);
  int64_t (*allocated)();
  std::set<std::string> names = {};

  // `make` a ring and `use` it; then use one that is there: a failure must be told as one, and
  // leave nothing behind that a later use trips over.
  template <typename Make, typename Use>
  void Sweep(const Make& make, const Use& use) {
    const auto tried = [&](const auto& run) {
      for (int64_t call = 1;; ++call) {
        fail(call);
        bool told = false;
        try {
          run();
        } catch (const Failure& failure) {
          told = true;
          EXPECT(std::strlen(failure.what()) > 10);
        }
        const char* const name = fail(0);
        if (name == nullptr) {
          EXPECT(!told);
          return;
        }
        names.insert(name);
        if (!told && !MayBeSilent(name)) std::puts(name);
        EXPECT(told || MayBeSilent(name));
        after();
      }
    };
    const int64_t before = allocated();
    after = [&] { EXPECT(allocated() == before); };
    tried([&] {
      const std::unique_ptr<Ring> ring = make();
      use(*ring);
    });
    const std::unique_ptr<Ring> ring = make();
    use(*ring);
    after = [&] { use(*ring); };
    tried([&] { use(*ring); });
  }

  // What an analysis tells is not needed; a stream that cannot wait is waited for; and where a
  // further slot does not fit, those there are do.
  static bool MayBeSilent(const std::string& name) {
    const std::set<std::string> may = {
        "cudssDataGet",       "cuEventRecord",           "cuStreamWaitEvent",
        "cuEventSynchronize", "cuStreamSynchronize",     "cuMemFreeAsync",
        "cudssExecute",       "cuMemAllocFromPoolAsync", "cuMemAllocHost_v2"};
    return may.count(name) == 1;
  }
  std::function<void()> after = {};
};

void TestFailures(Failing failing) {
  for (const int64_t batch : {1, 3}) {
    std::vector<double> scales = {1, 2, 3};
    scales.resize(static_cast<size_t>(batch));
    const auto factorized = [&](Ring& ring) {
      for (int i = 0; i < 3; ++i) {  // of two slots
        Branch branch(ring.context(), nullptr);
        const int64_t slot =
            ring.Factorize(0, Scaled(scales).data(), Prints(scales.size()), nullptr);
        Solves(ring, slot, scales);
      }
    };
    for (const char* type : {"general", "symmetric", "spd"}) {
      failing.Sweep([&] { return Made(OptionsOf(type), batch); }, factorized);
    }
    for (const bool hybrid : {false, true}) {
      solver::Options options = OptionsOf("general");
      (hybrid ? options.hybrid_execute : options.deterministic) = true;
      failing.Sweep([&] { return Made(options, batch); }, factorized);
    }
    solver::Options options = OptionsOf("general");
    options.reuse_pivots = true;
    options.reference = solver::ReferenceDigest(solver::Element::kF64, kValues.data(), kNnz);
    failing.Sweep([&] { return Made(options, batch, &kValues); }, factorized);
  }
  const auto fused = [](Ring& ring) {
    const std::vector<double> b = {1, 2, 3};
    std::vector<double> x(kN);
    Branch branch(ring.context(), nullptr);
    ring.FactorizeAndSolve(false, kValues.data(), b.data(), x.data(), 1);
    EXPECT(Error(1, x.data(), false, b.data()) < 1e-12);
  };
  failing.Sweep([] { return Made(OptionsOf("general"), 1); }, fused);
  for (const char* name : {"cudssExecute", "cudssDataCreate", "cudssMatrixCreateCsr",
                           "cudssMatrixSetValues", "cudssDataSet", "cudssDataGet", "cudssConfigSet",
                           "cuMemAllocFromPoolAsync", "cuMemcpyDtoHAsync_v2", "cuEventRecord",
                           "cuMemAllocHost_v2", "cuStreamSynchronize", "cuEventSynchronize"}) {
    EXPECT(failing.names.count(name) == 1);
  }
}

}  // namespace

int main(int, char** argv) {
  nvstate::Library::Open("cuda", argv[1]);
  nvstate::Library::Open("cudss", argv[1]);
  void* const fake = dlopen(argv[1], RTLD_NOW);
  const auto allocated = reinterpret_cast<int64_t (*)()>(dlsym(fake, "fake_allocated"));
  const auto limit = reinterpret_cast<void (*)(int64_t)>(dlsym(fake, "fake_limit"));
  const nvstate::OnDevice on(0);
  TestSlots();
  TestBatch();
  TestOneBadMember();
  TestPerturbed();
  TestReusedPivots();
  TestColumnsAlone();
  TestMemory(allocated, limit);
  TestFailures({reinterpret_cast<const char* (*)(int64_t)>(dlsym(fake, "fake_fail")), allocated});
  EXPECT(allocated() == 0);
  std::puts("ok");
}
