#include "nvstate/cublaslt_plan.h"

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <utility>

namespace nvstate::cublaslt {
namespace {

// The library's log is the process's; a thread keeps what it is told while it asks a question.
std::mutex log_mutex;  // of the callback and the level
thread_local std::vector<std::string>* log_lines = nullptr;

void Logged(int, const char* function, const char* message) noexcept {
  if (log_lines == nullptr || log_lines->size() >= 8) return;
  try {
    std::string line = std::string(function) + ": " + message;
    while (!line.empty() && line.back() == '\n') line.pop_back();
    log_lines->push_back(std::move(line));
  } catch (...) {  // of memory there is too little: a line less
  }
}

bool UserLogs() {
  for (const char* name : {"CUBLASLT_LOG_LEVEL", "CUBLASLT_LOG_MASK", "CUBLASLT_LOG_FILE"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

template <typename Body>
std::vector<std::string> Overheard(const Body& body) {
  std::vector<std::string> lines;
  if (UserLogs()) {  // then the log is the user's, and so is what it says
    body();
    return lines;
  }
  const Api& api = Opened<Api>();
  // What goes to the callback is written to the file too, which is the standard output at first.
  static std::FILE* const nowhere = std::fopen("/dev/null", "w");
  std::lock_guard lock(log_mutex);
  log_lines = &lines;
  const auto silence = [&] {
    api.cublasLtLoggerSetLevel(0);
    api.cublasLtLoggerSetCallback(nullptr);
    if (nowhere != nullptr) api.cublasLtLoggerSetFile(stdout);
    log_lines = nullptr;
  };
  if (nowhere != nullptr) api.cublasLtLoggerSetFile(nowhere);
  api.cublasLtLoggerSetCallback(Logged);
  api.cublasLtLoggerSetLevel(4);  // all but the trace of calls
  try {
    body();
  } catch (...) {
    silence();
    throw;
  }
  silence();
  return lines;
}

std::string Joined(const std::vector<std::string>& texts, const char* between) {
  std::string result;
  for (const std::string& text : texts) result += (result.empty() ? "" : between) + text;
  return result;
}

std::string VersionText() {
  const int64_t version = Opened<Api>().version;
  return std::to_string(version / 10000) + "." + std::to_string(version % 10000 / 100) + "." +
         std::to_string(version % 100);
}

const abi::cublasLtMatmulAlgo_t* PinnedFor(const matmul::Spec& spec, const matmul::Layout& layout) {
  for (size_t i = 0; i < spec.problems.size(); ++i) {
    if (spec.problems[i] == layout.problem) return &spec.algorithms[i];
  }
  return nullptr;
}

std::string KeyOf(int device, const matmul::Spec& spec, const matmul::Layout& layout,
                  int64_t workspace) {
  std::string key = "cublaslt " + std::to_string(Opened<Api>().version) + " " +
                    std::to_string(device) + " " + std::to_string(workspace) + " " + spec.Key() +
                    " " + Json(layout);
  if (const auto* pinned = PinnedFor(spec, layout)) {
    for (const uint64_t word : pinned->data) key += " " + std::to_string(word);
  } else if (!spec.problems.empty()) {
    key += " unpinned";
  }
  return key;
}

}  // namespace

Diagnosis Diagnose(int device, const matmul::Spec& spec, const matmul::Layout& layout,
                   int64_t workspace) {
  Diagnosis diagnosis;
  const auto runs = [&](const matmul::Spec& relaxed, int64_t bytes, int64_t alignment) {
    try {
      abi::cublasStatus_t status;
      return !Operation(device, relaxed, layout).Heuristic(bytes, 1, &status, alignment).empty();
    } catch (const Failure&) {  // one that the library refuses to describe
      return false;
    }
  };
  const auto relax = [&](const char* name, auto change) {
    matmul::Spec relaxed = spec;
    change(relaxed);
    if (runs(relaxed, workspace, 0)) diagnosis.helps.push_back(name);
  };
  abi::cublasStatus_t status = abi::CUBLAS_STATUS_SUCCESS;
  bool found = false;
  diagnosis.reasons = Overheard(
      [&] { found = !Operation(device, spec, layout).Heuristic(workspace, 1, &status).empty(); });
  diagnosis.reasons.insert(diagnosis.reasons.begin(),
                           found ? "it has an algorithm after all"
                                 : "cublasLtMatmulAlgoGetHeuristic: " + StatusName(status));
  if (found) return diagnosis;
  for (const auto& [name, x] : {std::pair("a", &layout.a), std::pair("b", &layout.b)}) {
    if (x->op == abi::CUBLAS_OP_C && x->order == abi::CUBLASLT_ORDER_ROW) {
      diagnosis.reasons.push_back(std::string("a conjugate of `") + name +
                                  "` that is not transposed must be written out first");
    }
  }
  if (spec.epilog->grad == matmul::Epilog::Grad::kA && layout.a.op == abi::CUBLAS_OP_N) {
    diagnosis.reasons.push_back("bgrada needs M innermost in `a`");
  }
  if (spec.epilog->grad == matmul::Epilog::Grad::kB && layout.b.op == abi::CUBLAS_OP_T) {
    diagnosis.reasons.push_back("bgradb needs N innermost in `b`");
  }
  constexpr int64_t kMuch = int64_t{1} << 40;
  if (runs(spec, kMuch, 0)) diagnosis.helps.push_back("workspace");
  if (spec.reduction_mask != 7) {
    relax("reduction_scheme_mask", [](matmul::Spec& s) { s.reduction_mask = 7; });
  }
  if (spec.impl_mask != -1) {
    relax("numerical_impl_mask", [](matmul::Spec& s) { s.impl_mask = -1; });
  }
  if (spec.max_waves != 0) {
    relax("max_waves_count", [](matmul::Spec& s) { s.max_waves = 0; });
  }
  if (runs(spec, workspace, 256)) diagnosis.helps.push_back("alignment");
  if (spec.epilog->value != abi::CUBLASLT_EPILOGUE_DEFAULT) {
    relax("epilog", [](matmul::Spec& s) {
      s.epilog = &matmul::Epilog::Named("none");
      s.scale_aux = s.aux_amax = false;
    });
  }
  return diagnosis;
}

std::string TextOf(const Diagnosis& diagnosis) {
  return (diagnosis.helps.empty()
              ? std::string("relaxing no single constraint helps")
              : "it has one if this is relaxed: " + Joined(diagnosis.helps, ", ")) +
         ". It says: " + Joined(diagnosis.reasons, "; ");
}

Plan::Plan(int device, const matmul::Spec& spec, matmul::Layout layout, int64_t workspace)
    : operation_(device, spec, std::move(layout)) {
  abi::cublasStatus_t status;
  if (const auto* pinned = PinnedFor(spec, operation_.layout())) {
    chosen_ = operation_.Check(*pinned, &status);
    if (!chosen_.has_value()) {
      throw Failure(Code::kFailedPrecondition,
                    "the plan's algorithm does not run here: cublasLtMatmulAlgoCheck says " +
                        StatusName(status) + " of it, in cuBLASLt " + VersionText() +
                        ". Tune or plan again on this device");
    }
    if (chosen_->workspace > workspace) {
      throw Failure(Code::kFailedPrecondition,
                    "the plan's algorithm needs " + std::to_string(chosen_->workspace) +
                        " bytes of workspace, " + std::to_string(workspace) + " were planned");
    }
    return;
  }
  const std::vector<Candidate> candidates = operation_.Heuristic(workspace, 1, &status);
  if (candidates.empty()) {
    throw Failure(Code::kFailedPrecondition,
                  "cuBLASLt " + VersionText() + " has no algorithm for this product within " +
                      std::to_string(workspace) + " bytes of workspace; " +
                      TextOf(Diagnose(device, spec, operation_.layout(), workspace)));
  }
  chosen_ = candidates.front();
}

void Plan::Warm(const Pointers& pointers) {
  CaptureOnly([&](abi::CUstream stream) {
    operation_.Launch(stream, pointers, *chosen_, /*first_only=*/true);
  });
  warm_ = true;
}

std::shared_ptr<Plan> PlanFor(int device, const matmul::Spec& spec, const matmul::Layout& layout,
                              int64_t workspace) {
  if (!spec.problems.empty() && PinnedFor(spec, layout) == nullptr) ++Cache::Global().unpinned;
  return std::static_pointer_cast<Plan>(
      Cache::Global().Get(KeyOf(device, spec, layout, workspace), spec.owner,
                          [&] { return std::make_unique<Plan>(device, spec, layout, workspace); }));
}

}  // namespace nvstate::cublaslt
