// Prevents a call of the target nvstate_cudss_v1 that answers wrongly, or not at all afterwards,
// once a call of the driver or of cuDSS has failed, and one that races with another thread's. Both
// libraries are those of fake_cudss.cc, whose path is the argument; XLA is frame.h.

#include <dlfcn.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "frame.h"
#include "nvstate/cache.h"
#include "nvstate/error.h"
#include "nvstate/library.h"
#include "nvstate/solver.h"

namespace solver = nvstate::solver;

extern "C" {
XLA_FFI_Error* nvstate_cudss_v1_instantiate(XLA_FFI_CallFrame*);
XLA_FFI_Error* nvstate_cudss_v1_execute(XLA_FFI_CallFrame*);
void* nvstate_cudss_v1_type_id();
void* nvstate_cudss_v1_type_info();
}

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
using Values = std::vector<double>;  // of one matrix, or of a batch one after the other

Values Scaled(const std::vector<double>& scales) {
  Values values;
  for (const double scale : scales) {
    for (const double value : {4., 1., 1., 5., 2., 2., 6.}) values.push_back(scale * value);
  }
  return values;
}

Values Weak() {  // its first pivot is replaced, and some digits are right
  Values values = Scaled({1});
  values[0] = 4e-14;
  return values;
}

// The largest error of A x = b, or of its transpose's.
double Error(const double* values, const double* x, bool transposed, const double* b) {
  double error = 0, product[kN] = {};
  for (int64_t row = 0; row < kN; ++row) {
    for (int32_t p = kIndptr[row]; p < kIndptr[row + 1]; ++p) {
      const int32_t column = kIndices[p];
      (transposed ? product[column] : product[row]) += values[p] * x[transposed ? row : column];
    }
  }
  for (int64_t i = 0; i < kN; ++i) error = std::max(error, std::abs(product[i] - b[i]));
  return std::isfinite(error) ? error : 1e300;
}

using Words = std::vector<uint32_t>;

Words Prints(const Values& values) {
  Words words;
  for (size_t i = 0; i < values.size() / kNnz; ++i) {
    uint64_t sum = 0;
    bool finite = true;
    for (size_t j = 0; j < kNnz; ++j) {
      uint64_t bits;
      std::memcpy(&bits, &values[i * kNnz + j], sizeof(bits));
      sum += bits * (2 * j + 1);
      finite &= std::isfinite(values[i * kNnz + j]);
    }
    words.insert(words.end(), {static_cast<uint32_t>(sum), static_cast<uint32_t>(sum >> 32),
                               finite ? 0u : 1u, 0u});
  }
  return words;
}

struct Factor {
  Values values;
  Words tickets;
  std::vector<int32_t> info;

  int64_t batch() const { return static_cast<int64_t>(values.size()) / kNnz; }
  Factor Part(size_t i) const {
    return {{values.begin() + kNnz * i, values.begin() + kNnz * (i + 1)},
            {tickets.begin() + 8 * i, tickets.begin() + 8 * (i + 1)},
            {info.begin() + 8 * i, info.begin() + 8 * (i + 1)}};
  }
  static Factor Stacked(const std::vector<Factor>& parts) {
    Factor all;
    for (const Factor& one : parts) {
      all.values.insert(all.values.end(), one.values.begin(), one.values.end());
      all.tickets.insert(all.tickets.end(), one.tickets.begin(), one.tickets.end());
      all.info.insert(all.info.end(), one.info.begin(), one.info.end());
    }
    return all;
  }
  Factor Edited(size_t i, const Values& own) const {  // but its tickets
    Factor other = *this;
    std::copy(own.begin(), own.end(), other.values.begin() + static_cast<int64_t>(kNnz * i));
    return other;
  }
};

struct Knobs {
  std::string type = "general";
  std::string matching = "none";
  bool deterministic = false;
  int64_t slots = 2;
};

// The calls of one plan. A call that failed has told so; what the others gave must be right.
class Plan {
 public:
  explicit Plan(Knobs knobs) : knobs_(std::move(knobs)) {}

  bool told = false;

  // The calls of what follows are of one run of the program.
  void NextRun() { ++run_; }

  Factor Factorize(const Values& values) {
    Factor factor = Empty(values);
    const Words prints = Prints(values);
    const int64_t batch = factor.batch();
    auto operands = Pattern(values);
    operands.emplace_back(XLA_FFI_DataType_U32, Dims{batch, 4}, prints.data());
    operands.emplace_back(XLA_FFI_DataType_F64, Dims{batch, 0}, nullptr);
    if (!Done(Of("factorize").Execute(run_, operands, Outcome(factor)), {})) return {};
    CheckInfo(factor);
    return factor;
  }

  Factor FactorizeSolve(const Values& values, bool transposed = false) {
    Factor factor = Empty(values);
    const Words prints = Prints(values);
    const int64_t batch = factor.batch(), k = 2;
    const Values b = RightSides(batch, k);
    Values x(b.size(), 7);
    auto operands = Pattern(values);
    operands.emplace_back(XLA_FFI_DataType_U32, Dims{batch, 4}, prints.data());
    operands.emplace_back(XLA_FFI_DataType_F64, Dims{batch, 0}, nullptr);
    operands.emplace_back(XLA_FFI_DataType_F64, Dims{batch, k, kN}, b.data());
    auto results = Outcome(factor);
    results.emplace(results.begin(), XLA_FFI_DataType_F64, Dims{batch, k, kN}, x.data());
    const frame::Site& site = Of("factorize_solve", transposed);
    if (!Done(site.Execute(run_, operands, results), {})) return {};
    CheckInfo(factor);
    Check(factor, x, b, k, transposed);
    return factor;
  }

  void Solve(const Factor& factor, bool transposed = false, int64_t k = 2) {
    SolveOr(factor, "refactorize", transposed, k, {});
  }
  // "": it must be solved.
  void SolveOrRaise(const Factor& factor, const char* expected) {
    SolveOr(factor, "raise", false, 1, expected);
  }
  void SolveOrNan(const Factor& factor, bool held) {
    if (factor.values.empty()) return;
    const int64_t batch = factor.batch();
    const Values b = RightSides(batch, 1);
    Values x(b.size(), 7);
    Words hidden(static_cast<size_t>(4 * batch), 7);
    const Words check = CheckWords(factor);
    const frame::Site& site = Of("solve", false, "nan");
    if (!Done(site.Execute(run_, Operands(factor, check, b, 1),
                           {{XLA_FFI_DataType_F64, {batch, 1, kN}, x.data()},
                            {XLA_FFI_DataType_U32, {batch, 4}, hidden.data()}}),
              {})) {
      return;
    }
    bool same = true;
    for (size_t i = 0; i < static_cast<size_t>(batch); ++i) {
      for (size_t word : {0, 1}) {
        same &= hidden[4 * i + word] == check[12 * i + 4 + word];
        same &= hidden[4 * i + 2 + word] == check[12 * i + 8 + word];
      }
    }
    EXPECT(!same || held);
    if (!told) EXPECT(same == held);
    if (same) Check(factor, x, b, 1, false);
  }

  void Diagonal(const Factor& factor) {
    if (factor.values.empty()) return;
    const Words check = CheckWords(factor);
    Values d(static_cast<size_t>(factor.batch() * kN), 7);
    auto operands = Pattern(factor.values);
    operands.emplace_back(XLA_FFI_DataType_U32, Dims{factor.batch(), 12}, check.data());
    if (!Done(
            Of("diagonal")
                .Execute(run_, operands, {{XLA_FFI_DataType_F64, {factor.batch(), kN}, d.data()}}),
            {})) {
      return;
    }
    for (size_t i = 0; i < static_cast<size_t>(factor.batch()); ++i) {
      const double* const a = &factor.values[kNnz * i];
      const double second = a[3] - a[2] / a[0] * a[1];
      EXPECT(d[kN * i] == a[0] && d[kN * i + 1] == second &&
             std::abs(d[kN * i + 2] - (a[6] - a[5] / second * a[4])) < 1e-12);
    }
  }

  void Fused(const Values& values) {
    const Values b = RightSides(1, 2);
    Values x(b.size(), 7);
    auto operands = Pattern(values);
    operands.emplace_back(XLA_FFI_DataType_F64, Dims{1, 2, kN}, b.data());
    if (!Done(Of("fused").Execute(run_, operands, {{XLA_FFI_DataType_F64, {1, 2, kN}, x.data()}}),
              {})) {
      return;
    }
    Factor factor = Empty(values);
    Check(factor, x, b, 2, false);
  }

 private:
  using Dims = std::vector<int64_t>;

  static Factor Empty(const Values& values) {
    const size_t batch = values.size() / kNnz;
    return {values, Words(8 * batch), std::vector<int32_t>(8 * batch)};
  }
  static Values RightSides(int64_t batch, int64_t k) {
    Values b(static_cast<size_t>(batch * k * kN));
    for (size_t i = 0; i < b.size(); ++i) b[i] = 1 + static_cast<double>(i % 5);
    return b;
  }
  static std::vector<frame::Buffer> Pattern(const Values& values) {
    const auto batch = static_cast<int64_t>(values.size()) / kNnz;
    return {{XLA_FFI_DataType_S32, {kN + 1}, kIndptr.data()},
            {XLA_FFI_DataType_S32, {kNnz}, kIndices.data()},
            {XLA_FFI_DataType_S32, {0}, nullptr},
            {XLA_FFI_DataType_F64, {0}, nullptr},
            {XLA_FFI_DataType_F64, {batch, kNnz}, values.data()}};
  }
  static std::vector<frame::Buffer> Outcome(Factor& factor) {
    return {{XLA_FFI_DataType_U32, {factor.batch(), 8}, factor.tickets.data()},
            {XLA_FFI_DataType_S32, {factor.batch(), 8}, factor.info.data()}};
  }
  static Words CheckWords(const Factor& factor) {
    Words check;
    const Words prints = Prints(factor.values);
    for (int64_t i = 0; i < factor.batch(); ++i) {
      check.insert(check.end(), factor.tickets.begin() + 8 * i, factor.tickets.begin() + 8 * i + 8);
      check.insert(check.end(), prints.begin() + 4 * i, prints.begin() + 4 * i + 4);
    }
    return check;
  }
  static std::vector<frame::Buffer> Operands(const Factor& factor, const Words& check,
                                             const Values& b, int64_t k) {
    auto operands = Pattern(factor.values);
    operands.emplace_back(XLA_FFI_DataType_U32, Dims{factor.batch(), 12}, check.data());
    operands.emplace_back(XLA_FFI_DataType_F64, Dims{factor.batch(), k, kN}, b.data());
    return operands;
  }

  void SolveOr(const Factor& factor, const char* on_stale, bool transposed, int64_t k,
               const std::string& expected) {
    if (factor.values.empty()) return;  // its factorization failed, and told so
    const Values b = RightSides(factor.batch(), k);
    Values x(b.size(), 7);
    const Words check = CheckWords(factor);
    const frame::Site& site = Of("solve", transposed, on_stale);
    const std::string message =
        site.Execute(run_, Operands(factor, check, b, k),
                     {{XLA_FFI_DataType_F64, {factor.batch(), k, kN}, x.data()}});
    if (Done(message, expected)) Check(factor, x, b, k, transposed);
  }

  // What is known of the pivots.
  void CheckInfo(const Factor& factor) const {
    for (int64_t i = 0; i < factor.batch(); ++i) {
      const int32_t* const info = &factor.info[static_cast<size_t>(8 * i)];
      const double first = factor.values[static_cast<size_t>(kNnz * i)];
      const bool weak = std::abs(first) < 1e-12, failed = knobs_.type == "spd" && first < 0;
      EXPECT(info[0] == (failed ? solver::kNotDefinite : weak ? solver::kPerturbed : solver::kOk));
      EXPECT(info[1] == (weak ? 1 : 0));
      const bool has_inertia = knobs_.type == "symmetric";
      EXPECT(info[2] == (!has_inertia ? -1 : first > 0 ? 3 : 0));
      EXPECT(info[3] == (!has_inertia ? -1 : first > 0 ? 0 : 3));
      EXPECT(info[4] == (failed ? 0 : -1));
    }
  }

  // Right, or NaN where the factorization failed.
  static void Check(const Factor& factor, const Values& x, const Values& b, int64_t k,
                    bool transposed) {
    for (int64_t i = 0; i < factor.batch(); ++i) {
      for (int64_t c = 0; c < k; ++c) {
        const auto at = static_cast<size_t>((i * k + c) * kN);
        if (factor.info[static_cast<size_t>(8 * i)] >= solver::kBreakdown) {
          EXPECT(std::isnan(x[at]) && std::isnan(x[at + 2]));
        } else {
          EXPECT(Error(&factor.values[static_cast<size_t>(kNnz * i)], &x[at], transposed, &b[at]) <
                 1e-12);
        }
      }
    }
  }

  // Whether the call gave results. `expected`: a part of the message that it must end with.
  bool Done(const std::string& message, const std::string& expected) {
    if (message.empty()) {
      EXPECT(expected.empty());
      return true;
    }
    EXPECT(message.find("nvstate.direct_solver: ") == 0);
    EXPECT(message.find("cuDSS, indptr int32[4], indices int32[7]") != std::string::npos);
    if (expected.empty() || message.find(expected) == std::string::npos) told = true;
    return false;
  }

  frame::Site& Of(const std::string& phase, bool transposed = false,
                  const std::string& on_stale = "refactorize") {
    auto& site = sites_[phase + on_stale + (transposed ? " transposed" : "")];
    if (site != nullptr) return *site;
    const double nan = std::nan("");
    frame::Attributes all;
    for (const char* name : {"v", "owner"}) all.Int(name, 1);
    for (const char* name : {"reuse_pivots", "host_threads", "hybrid_execute"}) all.Int(name, 0);
    for (const char* name : {"refinement_steps", "nd_levels", "nd_unbalance", "superpanels",
                             "max_lu_nnz", "register_host_memory"}) {
      all.Int(name, -1);
    }
    for (const char* name : {"pivot_threshold", "pivot_epsilon", "refinement_tolerance"}) {
      all.Double(name, nan);
    }
    for (const char* name :
         {"factorization_algorithm", "solve_algorithm", "pivot_epsilon_algorithm"}) {
      all.String(name, "default");
    }
    const solver::Digest pattern =
        solver::DigestOf({kN, kNnz, kIndptr.data(), 4, kIndices.data(), 4});
    all.Words("pattern", {pattern.lanes[0], pattern.lanes[1]});
    all.Words("reference", {0, 0});
    all.Words("permutation", {0, 0});
    all.Words("tree", {});
    all.Int("deterministic", knobs_.deterministic);
    all.Int("transposed", transposed);
    all.Int("slots", knobs_.slots);
    all.String("phase", phase);
    all.String("ring", knobs_.type + knobs_.matching + std::to_string(knobs_.deterministic) +
                           std::to_string(knobs_.slots));
    all.String("matrix_type", knobs_.type);
    all.String("view", "full");
    all.String("reordering", "auto");
    all.String("matching", knobs_.matching);
    all.String("pivoting", "auto");
    all.String("on_stale", on_stale);
    all.String("hybrid_memory", "");
    site = std::make_unique<frame::Site>(nvstate_cudss_v1_instantiate, nvstate_cudss_v1_execute,
                                         nvstate_cudss_v1_type_info());
    const std::string message = site->Instantiate(all);
    if (!message.empty()) std::puts(message.c_str());
    EXPECT(message.empty());
    return *site;
  }

  const Knobs knobs_;
  int64_t run_ = 1;
  std::map<std::string, std::unique_ptr<frame::Site>> sites_;
};

using Scenario = std::function<void(Plan&)>;

void Alone(Plan& plan) {
  const Factor one = plan.Factorize(Scaled({1}));
  plan.Solve(one);
  plan.Solve(one, true);
  plan.NextRun();
  const Factor two = plan.Factorize(Scaled({2}));
  plan.Solve(two);
  plan.Solve(one);  // another slot than the one that is guessed
  plan.Solve(one, false, 0);
  plan.Diagonal(two);
  if (!one.values.empty()) {
    plan.Solve(one.Edited(0, Scaled({3})));
    plan.Solve(one.Edited(0, Scaled({3})), true);
  }
  plan.NextRun();
  plan.Solve(plan.FactorizeSolve(Scaled({-5}), true));
}

void Batch(Plan& plan) {
  const Factor all = plan.Factorize(Scaled({1, 2, 3}));
  plan.Solve(all);
  if (all.values.empty()) return;
  plan.Solve(all.Part(1), true);  // of another size of batch
  plan.Solve(Factor::Stacked({all.Part(2), all.Part(0), all.Part(1)}));
  plan.Solve(all.Edited(1, Scaled({7})), true);  // one of three is not there
  plan.Diagonal(all);
  plan.NextRun();
  plan.Solve(plan.FactorizeSolve(Scaled({1, -2, 3})));
  plan.Solve(all);
}

void Stale(Plan& plan) {
  const Factor one = plan.Factorize(Scaled({1}));
  plan.SolveOrRaise(one, "");
  plan.SolveOrNan(one, true);
  plan.NextRun();
  const Factor two = plan.Factorize(Scaled({2}));
  if (one.values.empty() || two.values.empty()) return;
  plan.SolveOrNan(one.Edited(0, Scaled({2})), false);
  plan.SolveOrRaise(two.Edited(0, Scaled({1})), "plan with `on_stale=\"refactorize\"`");
  plan.SolveOrRaise(two, "");
}

void Rematched(Plan& plan) {
  const Factor weak = plan.Factorize(Weak());
  plan.Solve(weak);
  plan.Solve(weak, true);
  plan.NextRun();
  Values both = Scaled({1});
  for (const double value : Weak()) both.push_back(value);
  plan.Solve(plan.Factorize(both));
}

void Fused(Plan& plan) {
  plan.Fused(Scaled({1}));
  plan.Fused(Scaled({2}));
}

struct Fake {
  explicit Fake(const char* path) : library(dlopen(path, RTLD_NOW)) {}
  template <typename Function>
  Function* Get(const char* name) const {
    return reinterpret_cast<Function*>(dlsym(library, name));
  }
  void* const library;
  int64_t (*const allocated)() = Get<int64_t()>("fake_allocated");
  int64_t (*const alive)() = Get<int64_t()>("fake_alive");
  const char* (*const fail)(int64_t) = Get<const char*(int64_t)>("fake_fail");
};

// What does not need to be told: what an analysis tells is not needed, a stream that cannot wait is
// waited for, and where a further slot does not fit, those there are do.
bool MayBeSilent(const std::string& name) {
  const std::set<std::string> may = {
      "cudssDataGet",       "cuEventRecord",           "cuStreamWaitEvent",
      "cuEventSynchronize", "cuStreamSynchronize",     "cuMemFreeAsync",
      "cudssExecute",       "cuMemAllocFromPoolAsync", "cuMemAllocHost_v2"};
  return may.count(name) == 1;
}

std::set<std::string> Sweep(const Fake& fake, const Scenario& scenario, const Knobs& knobs) {
  std::set<std::string> names;
  for (int64_t call = 1;; ++call) {
    nvstate::Cache::Global().Clear();
    EXPECT(fake.allocated() == 0 && fake.alive() == 0);
    Plan first(knobs);
    fake.fail(call);
    scenario(first);
    const char* const name = fake.fail(0);
    if (name == nullptr) {
      EXPECT(!first.told && call > 20);
      break;
    }
    names.insert(name);
    if (!first.told && !MayBeSilent(name)) std::printf("call %ld, %s\n", long{call}, name);
    EXPECT(first.told || MayBeSilent(name));
    Plan again(knobs);
    scenario(again);
    EXPECT(!again.told);
  }
  nvstate::Cache::Global().Clear();
  EXPECT(fake.allocated() == 0 && fake.alive() == 0);
  return names;
}

void TestFailures(const Fake& fake) {
  std::set<std::string> names;
  const auto sweep = [&](const Scenario& scenario, const Knobs& knobs) {
    names.merge(Sweep(fake, scenario, knobs));
  };
  sweep(Alone, {});
  sweep(Alone, {"general", "none", true});
  sweep(Batch, {});
  sweep(Stale, {"general", "none", false, 1});
  sweep(Rematched, {"general", "auto"});
  sweep(Fused, {});
  for (const char* type : {"symmetric", "spd"}) {
    sweep([](Plan& plan) { plan.Solve(plan.FactorizeSolve(Scaled({1, -2, 3}))); }, {type});
  }
  for (const char* name :
       {"cudssExecute",         "cudssDataCreate",      "cudssMatrixCreateCsr",
        "cudssMatrixCreateDn",  "cudssMatrixSetValues", "cudssDataSet",
        "cudssDataGet",         "cudssConfigSet",       "cudssConfigCreate",
        "cudssCreate",          "cudssSetStream",       "cuMemAllocFromPoolAsync",
        "cuMemcpyDtoHAsync_v2", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoDAsync_v2",
        "cuMemsetD8Async",      "cuMemsetD32Async",     "cuEventRecord",
        "cuStreamWaitEvent",    "cuMemAllocHost_v2",    "cuStreamSynchronize",
        "cuEventSynchronize"}) {
    if (names.count(name) != 1) std::puts(name);
    EXPECT(names.count(name) == 1);
  }
}

// Of one ring, of several, and of batches of several sizes.
void TestThreads() {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      Plan alone({}), batch({}), other({"symmetric"});
      for (int i = 0; i < 20; ++i) {
        const Factor one = alone.Factorize(Scaled({1. + t}));
        const Factor three = batch.Factorize(Scaled({1. + i, 2. + t, 3}));
        other.Solve(other.Factorize(Scaled({2. + t})));
        alone.Solve(one);
        batch.Solve(three, true);
        alone.Solve(three.Part(1));
        alone.NextRun();
        EXPECT(!alone.told && !batch.told && !other.told);
        if (i % 7 == 6) nvstate::Cache::Global().Clear();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  nvstate::Cache::Global().Clear();
}

}  // namespace

int main(int, char** argv) {
  nvstate::Library::Open("cuda", argv[1]);
  nvstate::Library::Open("cudss", argv[1]);
  frame::Register(nvstate_cudss_v1_type_id());
  const Fake fake(argv[1]);
  TestFailures(fake);
  TestThreads();
  EXPECT(fake.allocated() == 0 && fake.alive() == 0);
  std::puts("ok");
}
