// The FFI target nvstate_cublaslt_autotune_v1: the same product by each of the algorithms pinned in
// its attributes, timed on XLA's stream.
//
//   as nvstate_cublaslt_matmul_v1 -> times, as nvstate_cublaslt_matmul_v1, flush
//
// times is float32[iterations, algorithms] in microseconds, infinite where one does not run here.
// flush is scratch of twice the second-level cache: overwriting it makes every run start cold, and
// keeps the device busy until all three of event, launch and event are queued.

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <random>
#include <vector>

#include "nvstate/cublaslt_call.h"

namespace nvstate::cublaslt {
namespace {

using matmul::Operand;

struct Spec : matmul::Spec {
  static constexpr const char* kOperation = "matmul";
  static constexpr int64_t kVersion = 1;
  explicit Spec(Attributes& a) : matmul::Spec(a), seed(a.Int("seed")), places(*this) {}
  int64_t seed;
  Places places;
};

struct Nothing {};
using Site = SiteOf<Spec, Nothing>;

abi::CUdeviceptr Device(const void* pointer) { return reinterpret_cast<abi::CUdeviceptr>(pointer); }

Owned<abi::CUevent> Event() {
  const Driver& driver = Opened<Driver>();
  abi::CUevent event;
  NVS_CHECK(driver.cuEventCreate(&event, abi::CU_EVENT_DEFAULT));
  return {event, [&driver](abi::CUevent dying) { driver.cuEventDestroy_v2(dying); }};
}

// Of each algorithm, or nothing where it does not run here. Each has run once, so that no time is
// that of loading kernels.
std::vector<std::optional<Candidate>> Runners(const Spec& spec, const Operation& operation,
                                              const Call& call, abi::CUstream stream) {
  std::vector<std::optional<Candidate>> runners;
  for (size_t i = 0; i < spec.algorithms.size(); ++i) {
    if (spec.problems[i] != operation.layout().problem) {
      throw Failure(Code::kInvalidArgument,
                    "algorithm " + std::to_string(i) + " is for another problem");
    }
    abi::cublasStatus_t status;
    auto& runner = runners.emplace_back(operation.Check(spec.algorithms[i], &status));
    if (runner.has_value() && runner->workspace > call.workspace) runner.reset();
    if (!runner.has_value()) continue;
    try {
      operation.Launch(stream, call.pointers, *runner);
    } catch (const Failure&) {
      runner.reset();
    }
  }
  NVS_CHECK(Opened<Driver>().cuStreamSynchronize(stream));
  return runners;
}

std::vector<float> Measured(const std::vector<std::optional<Candidate>>& runners,
                            const Operation& operation, const Call& call, ffi::AnyBuffer flush,
                            int64_t iterations, int64_t seed, abi::CUstream stream) {
  const Driver& driver = Opened<Driver>();
  const size_t count = runners.size();
  const Owned<abi::CUevent> start = Event(), end = Event();
  std::vector<float> times(iterations * count, std::numeric_limits<float>::infinity());
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::mt19937_64 random(static_cast<uint64_t>(seed));
  for (int64_t i = 0; i < iterations; ++i) {
    // Always in one order, each would start with what the same one left behind.
    std::shuffle(order.begin(), order.end(), random);
    for (const size_t candidate : order) {
      if (!runners[candidate].has_value()) continue;
      NVS_CHECK(
          driver.cuMemsetD8Async(Device(flush.untyped_data()), 0, flush.size_bytes(), stream));
      NVS_CHECK(driver.cuEventRecord(*start, stream));
      operation.Launch(stream, call.pointers, *runners[candidate]);
      NVS_CHECK(driver.cuEventRecord(*end, stream));
      NVS_CHECK(driver.cuStreamSynchronize(stream));
      float milliseconds;
      NVS_CHECK(driver.cuEventElapsedTime(&milliseconds, *start, *end));
      times[i * count + candidate] = 1000 * milliseconds;
    }
  }
  return times;
}

ffi::Error Execute(abi::CUstream stream, int32_t device, Site* site, ffi::RemainingArgs args,
                   ffi::RemainingRets rets) {
  const Spec& spec = site->spec();
  return Guard(
      "matmul", [&] { return "autotune: " + Describe(spec, args, rets); },
      [&] {
        const Call call(spec.places, args, rets, {1, 1});
        const ffi::AnyBuffer out = **rets.get<ffi::AnyBuffer>(0);
        const ffi::AnyBuffer flush = **rets.get<ffi::AnyBuffer>(rets.size() - 1);
        const auto dims = out.dimensions();
        const size_t count = spec.algorithms.size();
        if (out.element_type() != ffi::F32 || dims.size() != 2 ||
            dims[1] != static_cast<int64_t>(count)) {
          throw Failure(
              Code::kInvalidArgument,
              "times are float32[iterations," + std::to_string(count) + "], got " + TypeOf(out));
        }
        if (out.element_count() == 0) return;
        const Operation operation(device, spec, LayoutOf(spec, call.types()));
        operation.CheckAlignment(call.pointers);
        OnDevice on(device);
        const auto runners = Runners(spec, operation, call, stream);
        const std::vector<float> times =
            Measured(runners, operation, call, flush, dims[0], spec.seed, stream);
        const Driver& driver = Opened<Driver>();
        NVS_CHECK(driver.cuMemcpyHtoDAsync_v2(Device(out.untyped_data()), times.data(),
                                              out.size_bytes(), stream));
        NVS_CHECK(driver.cuStreamSynchronize(stream));  // until then the copy reads `times`
      });
}

}  // namespace

NVS_TARGET_WAITING(nvstate_cublaslt_autotune_v1, Site, Execute, all_buffers);

}  // namespace nvstate::cublaslt
