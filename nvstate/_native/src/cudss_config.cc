#include "nvstate/cudss_config.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <utility>

namespace nvstate::cudss {
namespace {

using solver::Options;

[[noreturn]] void Invalid(const std::string& text) { throw Failure(Code::kInvalidArgument, text); }

using Names = std::initializer_list<std::pair<const char*, int32_t>>;

int32_t Named(const char* attribute, const std::string& name, const Names& names) {
  std::string known;
  for (const auto& [text, value] : names) {
    if (name == text) return value;
    known += (known.empty() ? "" : ", ") + std::string(text);
  }
  Invalid(std::string(attribute) + " `" + name + "` is none of " + known);
}

int32_t ReorderingOf(const Options& o) {
  return Named("reordering", o.reordering,
               {{"auto", abi::CUDSS_REORDERING_ALG_DEFAULT},
                {"nd", abi::CUDSS_REORDERING_ALG_NESTED_DISSECTION},
                {"amd", abi::CUDSS_REORDERING_ALG_AMD},
                {"colamd", abi::CUDSS_REORDERING_ALG_COLAMD},
                {"btf_colamd", abi::CUDSS_REORDERING_ALG_BTF_COLAMD},
                {"none", abi::CUDSS_REORDERING_ALG_NONE},
                {"user", abi::CUDSS_REORDERING_ALG_DEFAULT}});
}

int32_t MatchingOf(const Options& o) {  // never the library's own "auto", which wants values
  return Named("matching", o.matching,
               {{"none", abi::CUDSS_MATCHING_ALG_NONE},
                {"count", abi::CUDSS_MATCHING_ALG_MAX_DIAG_COUNT},
                {"min", abi::CUDSS_MATCHING_ALG_MAX_MIN_DIAG},
                {"min_alt", abi::CUDSS_MATCHING_ALG_MAX_MIN_DIAG_ALT},
                {"sum", abi::CUDSS_MATCHING_ALG_MAX_DIAG_SUM},
                {"product", abi::CUDSS_MATCHING_ALG_MAX_DIAG_PRODUCT}});
}

int32_t PivotingOf(const Options& o) {
  return Named("pivoting", o.pivoting,
               {{"auto", abi::CUDSS_PIVOT_AUTO},
                {"none", abi::CUDSS_PIVOT_NONE},
                {"diagonal", abi::CUDSS_PIVOT_DIAGONAL},
                {"local", abi::CUDSS_PIVOT_LOCAL_BLOCK},
                {"bunch_kaufman", abi::CUDSS_PIVOT_BUNCH_KAUFMAN},
                {"global_row", abi::CUDSS_PIVOT_GLOBAL_ROW},
                {"global_column", abi::CUDSS_PIVOT_GLOBAL_COL}});
}

// Bytes of "<bytes>" or "<p>%".
int64_t LimitOf(const std::string& text, int64_t device_bytes) {
  std::istringstream in(text);
  in.imbue(std::locale::classic());
  double number = 0;
  std::string unit;
  const bool is_number = static_cast<bool>(in >> number);
  in >> unit;
  const bool is_share = unit == "%";
  if (!is_number || (!unit.empty() && !is_share) || !(number > 0) || (is_share && number > 100)) {
    Invalid("hybrid memory `" + text + "` is none of on, a number of bytes, a share as 80%");
  }
  return static_cast<int64_t>(is_share ? number / 100 * static_cast<double>(device_bytes) : number);
}

struct Knob {
  const char* name;
  abi::cudssConfigParam_t parameter;
  char type;  // i: int32, l: int64, d: double
};

constexpr Knob kKnobs[] = {
    {"reordering", abi::CUDSS_CONFIG_REORDERING_ALG, 'i'},
    {"factorization_algorithm", abi::CUDSS_CONFIG_FACTORIZATION_ALG, 'i'},
    {"solve_algorithm", abi::CUDSS_CONFIG_SOLVE_ALG, 'i'},
    {"matching", abi::CUDSS_CONFIG_MATCHING_ALG, 'i'},
    {"solve_mode", abi::CUDSS_CONFIG_SOLVE_MODE, 'i'},
    {"refinement_steps", abi::CUDSS_CONFIG_IR_N_STEPS, 'i'},
    {"refinement_tolerance", abi::CUDSS_CONFIG_IR_TOL, 'd'},
    {"pivoting", abi::CUDSS_CONFIG_PIVOT_TYPE, 'i'},
    {"pivot_threshold", abi::CUDSS_CONFIG_PIVOT_THRESHOLD, 'd'},
    {"pivot_epsilon", abi::CUDSS_CONFIG_PIVOT_EPSILON, 'd'},
    {"max_lu_nnz", abi::CUDSS_CONFIG_MAX_LU_NNZ, 'l'},
    {"hybrid_memory", abi::CUDSS_CONFIG_HYBRID_MEMORY_MODE, 'i'},
    {"hybrid_memory_limit", abi::CUDSS_CONFIG_HYBRID_DEVICE_MEMORY_LIMIT, 'l'},
    {"register_host_memory", abi::CUDSS_CONFIG_USE_CUDA_REGISTER_MEMORY, 'i'},
    {"host_threads", abi::CUDSS_CONFIG_HOST_NTHREADS, 'i'},
    {"hybrid_execute", abi::CUDSS_CONFIG_HYBRID_EXECUTE_MODE, 'i'},
    {"pivot_epsilon_algorithm", abi::CUDSS_CONFIG_PIVOT_EPSILON_ALG, 'i'},
    {"nd_levels", abi::CUDSS_CONFIG_ND_NLEVELS, 'i'},
    {"batch", abi::CUDSS_CONFIG_UBATCH_SIZE, 'i'},
    {"element", abi::CUDSS_CONFIG_UBATCH_INDEX, 'i'},
    {"superpanels", abi::CUDSS_CONFIG_USE_SUPERPANELS, 'i'},
    {"deterministic", abi::CUDSS_CONFIG_DETERMINISTIC_MODE, 'i'},
    {"nd_unbalance", abi::CUDSS_CONFIG_ND_UBFACTOR, 'i'},
};

}  // namespace

Config::Config(const Options& options, int64_t batch, int64_t device_bytes) {
  NVS_CHECK(api_.cudssConfigCreate(&config_));
  try {
    SetAll(options, batch, device_bytes);
  } catch (...) {
    api_.cudssConfigDestroy(config_);
    throw;
  }
}

template <typename T>
void Config::Set(abi::cudssConfigParam_t parameter, T value, const char* name) {
  const abi::cudssStatus_t status = api_.cudssConfigSet(config_, parameter, &value, sizeof(value));
  if (status == abi::CUDSS_STATUS_SUCCESS) return;
  throw Failure(CodeOf(status), std::string("cudssConfigSet failed: ") + StatusName(status) +
                                    " for " + name + " = " + std::to_string(value));
}

void Config::SetAll(const Options& o, int64_t batch, int64_t device_bytes) {
  // Numbers that are left out are the library's own; its enums have a default of their own.
  const auto number = [&](abi::cudssConfigParam_t parameter, int64_t value, const char* name) {
    if (value != -1) Set(parameter, static_cast<int32_t>(value), name);
  };
  const auto real = [&](abi::cudssConfigParam_t parameter, double value, const char* name) {
    if (!std::isnan(value)) Set(parameter, value, name);
  };
  Set(abi::CUDSS_CONFIG_REORDERING_ALG, ReorderingOf(o), "reordering");
  Set(abi::CUDSS_CONFIG_MATCHING_ALG, MatchingOf(o), "matching");
  Set(abi::CUDSS_CONFIG_PIVOT_TYPE, PivotingOf(o), "pivoting");
  Set(abi::CUDSS_CONFIG_FACTORIZATION_ALG,
      Named("factorization algorithm", o.factorization_algorithm,
            {{"default", abi::CUDSS_FACTORIZATION_ALG_DEFAULT},
             {"multiblock", abi::CUDSS_FACTORIZATION_ALG_MULTIBLOCK},
             {"general", abi::CUDSS_FACTORIZATION_ALG_GENERAL}}),
      "factorization_algorithm");
  Set(abi::CUDSS_CONFIG_SOLVE_ALG,
      Named("solve algorithm", o.solve_algorithm,
            {{"default", abi::CUDSS_SOLVE_ALG_DEFAULT}, {"general", abi::CUDSS_SOLVE_ALG_GENERAL}}),
      "solve_algorithm");
  Set(abi::CUDSS_CONFIG_PIVOT_EPSILON_ALG,
      Named("pivot epsilon algorithm", o.pivot_epsilon_algorithm,
            {{"default", abi::CUDSS_PIVOT_EPSILON_ALG_DEFAULT},
             {"scaled", abi::CUDSS_PIVOT_EPSILON_ALG_SCALED},
             {"static", abi::CUDSS_PIVOT_EPSILON_ALG_STATIC}}),
      "pivot_epsilon_algorithm");
  real(abi::CUDSS_CONFIG_PIVOT_THRESHOLD, o.pivot_threshold(), "pivot_threshold");
  real(abi::CUDSS_CONFIG_PIVOT_EPSILON, o.pivot_epsilon(), "pivot_epsilon");
  real(abi::CUDSS_CONFIG_IR_TOL, o.refinement_tolerance(), "refinement_tolerance");
  number(abi::CUDSS_CONFIG_ND_NLEVELS, o.nd_levels, "nd_levels");
  number(abi::CUDSS_CONFIG_ND_UBFACTOR, o.nd_unbalance, "nd_unbalance");
  number(abi::CUDSS_CONFIG_USE_SUPERPANELS, o.superpanels, "superpanels");
  number(abi::CUDSS_CONFIG_USE_CUDA_REGISTER_MEMORY, o.register_host_memory,
         "register_host_memory");
  if (o.max_lu_nnz != -1) Set(abi::CUDSS_CONFIG_MAX_LU_NNZ, o.max_lu_nnz, "max_lu_nnz");
  if (o.host_threads != 0 || !ThreadingLayer().empty()) {
    number(abi::CUDSS_CONFIG_HOST_NTHREADS,
           o.host_threads != 0 ? o.host_threads : solver::CpuCount(), "host_threads");
  }
  if (!o.hybrid_memory.empty()) {
    Set(abi::CUDSS_CONFIG_HYBRID_MEMORY_MODE, int32_t{1}, "hybrid_memory");
    if (o.hybrid_memory != "on") {
      Set(abi::CUDSS_CONFIG_HYBRID_DEVICE_MEMORY_LIMIT, LimitOf(o.hybrid_memory, device_bytes),
          "hybrid_memory");
    }
  }
  if (o.hybrid_execute) Set(abi::CUDSS_CONFIG_HYBRID_EXECUTE_MODE, int32_t{1}, "hybrid_execute");
  if (o.deterministic) Set(abi::CUDSS_CONFIG_DETERMINISTIC_MODE, int32_t{1}, "deterministic");
  if (batch != 0) Set(abi::CUDSS_CONFIG_UBATCH_SIZE, static_cast<int32_t>(batch), "batch");
  SetSteps(o.refinement_steps == -1 ? 0 : o.refinement_steps);
}

void Config::SetSteps(int64_t steps) {
  if (steps == steps_) return;
  Set(abi::CUDSS_CONFIG_IR_N_STEPS, static_cast<int32_t>(steps), "refinement_steps");
  steps_ = steps;
}

void Config::SetTransposed(bool transposed) {
  if (transposed == transposed_) return;
  const int32_t mode = transposed ? abi::CUDSS_SOLVE_MODE_TRANSPOSE : abi::CUDSS_SOLVE_MODE_NORMAL;
  Set(abi::CUDSS_CONFIG_SOLVE_MODE, mode, "transposed");
  transposed_ = transposed;
}

void Config::SetElement(int64_t element) {
  if (element == element_) return;
  Set(abi::CUDSS_CONFIG_UBATCH_INDEX, static_cast<int32_t>(element), "element");
  element_ = element;
}

std::string Config::Json() const {
  std::string text;
  for (const Knob& knob : kKnobs) {
    char bytes[8] = {};
    size_t written = 0;
    const size_t size = knob.type == 'i' ? 4 : 8;
    const abi::cudssStatus_t status =
        api_.cudssConfigGet(config_, knob.parameter, bytes, size, &written);
    if (status != abi::CUDSS_STATUS_SUCCESS) {
      throw Failure(CodeOf(status), std::string("cudssConfigGet failed: ") + StatusName(status) +
                                        " for " + knob.name);
    }
    std::string value;
    if (knob.type == 'd') {
      double number;
      std::memcpy(&number, bytes, sizeof(number));
      value = Text(number);
    } else if (knob.type == 'l') {
      int64_t number;
      std::memcpy(&number, bytes, sizeof(number));
      value = std::to_string(number);
    } else {
      int32_t number;
      std::memcpy(&number, bytes, sizeof(number));
      value = std::to_string(number);
    }
    text += (text.empty() ? "{\"" : ", \"") + std::string(knob.name) + "\": " + value;
  }
  return text + "}";
}

bool IsColamd(const Options& options) {
  return options.reordering == "colamd" || options.reordering == "btf_colamd";
}

abi::cudssMatrixType_t MatrixTypeOf(solver::MatrixType type) {
  switch (type) {
    case solver::MatrixType::kSymmetric:
      return abi::CUDSS_MTYPE_SYMMETRIC;
    case solver::MatrixType::kHermitian:
      return abi::CUDSS_MTYPE_HERMITIAN;
    case solver::MatrixType::kSpd:
      return abi::CUDSS_MTYPE_SPD;
    case solver::MatrixType::kHpd:
      return abi::CUDSS_MTYPE_HPD;
    default:
      return abi::CUDSS_MTYPE_GENERAL;
  }
}

abi::cudssMatrixViewType_t MatrixViewOf(solver::View view) {
  switch (view) {
    case solver::View::kLower:
      return abi::CUDSS_MVIEW_LOWER;
    case solver::View::kUpper:
      return abi::CUDSS_MVIEW_UPPER;
    default:
      return abi::CUDSS_MVIEW_FULL;
  }
}

}  // namespace nvstate::cudss
