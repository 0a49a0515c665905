// What Python asks of the solver engines through ctypes.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string>

#include "nvstate/answer.h"
#include "nvstate/error.h"
#include "nvstate/mkl.h"
#include "nvstate/solver_engine.h"

namespace nvstate::solver {
namespace {

std::map<std::string, const Engine*, std::less<>>& Engines() {
  static auto* const engines = new std::map<std::string, const Engine*, std::less<>>();
  return *engines;
}

std::string Json(const char* name, double value) {
  const std::string text = value < 0 ? "null" : Text(value);
  return std::string("\"") + name + "\": " + text;
}

std::string Json(const char* name, int64_t value) {
  const std::string text = value < 0 ? "null" : std::to_string(value);
  return std::string("\"") + name + "\": " + text;
}

std::string Json(const Facts& facts) {
  return "{" + Json("seconds", facts.seconds) + ", " + Json("factor_nnz", facts.factor_nnz) + ", " +
         Json("flops", facts.flops) + ", " + Json("host_bytes", facts.host_bytes) + ", " +
         Json("peak_host_bytes", facts.peak_host_bytes) + ", " +
         Json("device_bytes", facts.device_bytes) + ", " +
         Json("peak_device_bytes", facts.peak_device_bytes) + ", " +
         Json("superpanels", facts.superpanels) + ", " +
         Json("hybrid_min_bytes", facts.hybrid_min_bytes) + "}";
}

}  // namespace

bool AddEngine(const char* name, const Engine* engine) {
  return Engines().emplace(name, engine).second;
}

const Engine& EngineNamed(std::string_view name) {
  const auto found = Engines().find(name);
  if (found == Engines().end()) {
    throw Failure(Code::kInvalidArgument, "there is no engine " + std::string(name));
  }
  return *found->second;
}

}  // namespace nvstate::solver

namespace solver = nvstate::solver;
using nvstate::Called;

extern "C" {

// `openmp` is Intel's OpenMP runtime beside MKL or elsewhere, null if there is none.
NVS_EXPORT int nvstate_mkl_open(const char* path, const char* openmp) {
  return Called([&] { nvstate::mkl::Open(path, openmp); });
}

// The version, and "intel threads" (or another package's) or "sequential".
NVS_EXPORT int nvstate_mkl_version() {
  return Called([] { nvstate::LastText() = nvstate::mkl::Version(); });
}

// `permutation` and `reference` may be null.
NVS_EXPORT int nvstate_solver_analyze(const char* engine, int device, const char* attributes,
                                      const char* dtype, int64_t n, int64_t nnz, const void* indptr,
                                      int offset_bytes, const void* indices, int index_bytes,
                                      const int32_t* permutation, const void* reference) {
  return Called([&] {
    nvstate::TextAttributes source(attributes);
    const solver::Request request(source);
    source.Done();
    const solver::Pattern pattern{n, nnz, indptr, offset_bytes, indices, index_bytes};
    nvstate::LastText() = solver::Json(solver::EngineNamed(engine).Analyze(
        device, request, solver::ElementNamed(dtype), pattern, permutation, reference));
  });
}

// `out` has room for `capacity` entries, int32 or float64; `written` is how many there are, 0 if
// the engine has none, and `is_double` of which type. Nothing is written if they do not fit.
NVS_EXPORT int nvstate_solver_array(const char* engine, int device, const char* ring,
                                    const char* name, void* out, int64_t capacity, int64_t* written,
                                    int* is_double) {
  return Called([&] {
    *written = *is_double = 0;
    const auto array = solver::EngineNamed(engine).Find(device, ring, name);
    if (!array.has_value()) return;
    *is_double = std::holds_alternative<std::vector<double>>(*array);
    std::visit(
        [&](const auto& values) {
          *written = static_cast<int64_t>(values.size());
          if (*written <= capacity)
            std::memcpy(out, values.data(), values.size() * sizeof(values[0]));
        },
        *array);
  });
}

// analyses, factorizations, refactorizations, solves, factor_hits, factor_misses: the first n.
NVS_EXPORT int nvstate_solver_counts(int64_t* out, int n) {
  return Called([&] {
    const solver::Counters& c = solver::Counters::Global();
    const int64_t all[] = {c.analyses, c.factorizations, c.refactorizations,
                           c.solves,   c.factor_hits,    c.factor_misses};
    std::copy_n(all, std::clamp<int64_t>(n, 0, std::size(all)), out);
  });
}

// The digest of an array of the pattern's kind, for tests: n, nnz, indptr and indices.
NVS_EXPORT int nvstate_solver_digest(int64_t n, int64_t nnz, const void* indptr, int offset_bytes,
                                     const void* indices, int index_bytes, uint64_t* lanes) {
  return Called([&] {
    const auto digest =
        solver::DigestOf({n, nnz, indptr, offset_bytes, indices, index_bytes}).lanes;
    std::copy(digest.begin(), digest.end(), lanes);
  });
}

}  // extern "C"
