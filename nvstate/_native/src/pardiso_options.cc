// What a ring's options are to PARDISO, and those that it has not.

#include <cmath>
#include <initializer_list>
#include <limits>
#include <string>
#include <utility>

#include "nvstate/pardiso.h"

namespace nvstate::pardiso {
namespace {

using solver::MatrixType;

[[noreturn]] void Lacks(const char* name, const std::string& value) {
  throw Failure(Code::kInvalidArgument,
                std::string("PARDISO has no ") + name + " \"" + value + "\"");
}

// 10^-n is the only form of epsilon that PARDISO takes; -1: its own.
int64_t EpsilonExponent(const Options& options) {
  const double epsilon = options.pivot_epsilon();
  if (std::isnan(epsilon)) return -1;
  if (options.is_definite()) Lacks("pivot epsilon for definite matrices", Text(epsilon));
  const auto exponent = static_cast<int64_t>(std::lround(-std::log10(epsilon)));
  if (exponent >= 1 && exponent <= 300 && std::stod("1e-" + std::to_string(exponent)) == epsilon) {
    return exponent;
  }
  throw Failure(Code::kInvalidArgument,
                "PARDISO's pivot epsilon is a power of ten from 1e-1 on, got " + Text(epsilon));
}

}  // namespace

void CheckOptions(const Options& o) {
  const auto one_of = [](const char* name, const std::string& value,
                         std::initializer_list<const char*> known) {
    for (const char* each : known) {
      if (value == each) return;
    }
    Lacks(name, value);
  };
  one_of("reordering", o.reordering, {"auto", "nd", "amd", "user"});
  if (o.reordering == "user" && o.permutation.none()) {
    throw Failure(Code::kInvalidArgument, "the reordering \"user\" wants a permutation");
  }
  one_of("matching", o.matching, {"none", "product"});
  if (o.is_definite()) one_of("matching for definite matrices", o.matching, {"none"});
  one_of("pivoting", o.pivoting, {"auto", "diagonal", "bunch_kaufman"});
  if (o.is_general() || o.is_definite()) {
    one_of("pivoting for general or definite matrices", o.pivoting, {"auto"});
  }
  one_of("hybrid memory", o.hybrid_memory, {""});
  one_of("factorization algorithm", o.factorization_algorithm, {"default"});
  one_of("solve algorithm", o.solve_algorithm, {"default"});
  one_of("pivot epsilon algorithm", o.pivot_epsilon_algorithm, {"default"});
  if (!std::isnan(o.pivot_threshold())) Lacks("pivot threshold", Text(o.pivot_threshold()));
  if (!std::isnan(o.refinement_tolerance())) {
    Lacks("refinement tolerance", Text(o.refinement_tolerance()));
  }
  if (o.reuse_pivots) Lacks("factorization that keeps pivots:", "reuse_pivots");
  if (o.hybrid_execute) Lacks("hybrid execution:", "hybrid_execute");
  for (const auto& [name, value] : {std::pair{"number of levels", o.nd_levels},
                                    {"unbalance", o.nd_unbalance},
                                    {"superpanels", o.superpanels},
                                    {"limit of factors", o.max_lu_nnz},
                                    {"registered memory", o.register_host_memory}}) {
    if (value != -1) Lacks(name, std::to_string(value));
  }
  if (!o.tree.empty()) Lacks("partition", "tree");
}

int TypeOf(const Problem& problem) {
  const Options& options = problem.options;
  const bool complex = IsComplex(problem.element);
  switch (options.matrix_type) {
    case MatrixType::kGeneral:
      return complex ? 13 : 11;
    case MatrixType::kSymmetric:
      return complex ? 6 : -2;
    case MatrixType::kHermitian:
      return complex ? -4 : -2;
    case MatrixType::kSpd:
      if (complex) Lacks("matrix type on complex numbers", "spd");
      return 2;
    default:
      return complex ? 4 : 2;
  }
}

bool Wide(const mkl::Api& api, const Problem& problem) {
  return api.wide || problem.nnz + problem.n >= std::numeric_limits<int32_t>::max();
}

Iparm IparmOf(const Problem& problem, bool matching) {
  const Options& options = problem.options;
  Iparm iparm{};
  iparm[abi::kIparmNoDefaults] = 1;
  iparm[abi::kIparmReordering] = options.reordering == "amd" ? 0 : 2;
  const int64_t exponent = EpsilonExponent(options);
  iparm[abi::kIparmPivotEpsilon] = exponent != -1 ? exponent : options.is_general() ? 13 : 8;
  iparm[abi::kIparmScaling] = matching;
  iparm[abi::kIparmMatching] = matching;
  iparm[abi::kIparmPivoting] = options.pivoting == "diagonal" ? 0 : 1;
  iparm[abi::kIparmSingle] = IsSingle(problem.element);
  iparm[abi::kIparmZeroBased] = 1;
  return iparm;
}

}  // namespace nvstate::pardiso
