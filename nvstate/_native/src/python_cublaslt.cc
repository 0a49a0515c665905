// What Python asks of cuBLASLt through ctypes. A call is described as it will be made: by its
// attributes (TextAttributes) and the types of its operands and results. Answers that are more than
// a number are JSON, in nvstate_last_text() of the same thread.

#include <cstring>
#include <string>

#include "nvstate/answer.h"
#include "nvstate/cublaslt_algorithm.h"
#include "nvstate/cublaslt_plan.h"
#include "nvstate/error.h"

namespace nvstate {
namespace {

struct Described {
  Described(const char* attributes, const char* buffers)
      : text(attributes), spec(text), layout(LayoutOf(spec, TypedOf(buffers))) {
    if (text.Int("v") != 1) {
      throw Failure(Code::kInvalidArgument, "attributes of version 1 expected");
    }
    text.Done();
  }
  TextAttributes text;
  matmul::Spec spec;
  matmul::Layout layout;
};

std::string Quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  }
  return result + "\"";
}

template <typename Items, typename Text>
std::string List(const Items& items, const Text& text) {
  std::string result;
  for (const auto& item : items) result += (result.empty() ? "" : ", ") + text(item);
  return "[" + result + "]";
}

std::string Json(const cublaslt::Candidate& candidate) {
  std::string words = List(candidate.algo.data, [](uint64_t word) { return std::to_string(word); });
  return "{\"data\": " + words + ", \"workspace\": " + std::to_string(candidate.workspace) +
         ", \"waves\": " + std::to_string(candidate.waves) +
         ", \"config\": " + cublaslt::ConfigurationJson(candidate.algo) + "}";
}

abi::cublasLtMatmulAlgo_t AlgorithmOf(const uint64_t* words) {
  abi::cublasLtMatmulAlgo_t algo;
  std::memcpy(algo.data, words, sizeof(algo.data));
  return algo;
}

}  // namespace
}  // namespace nvstate

using nvstate::Called;
using nvstate::Described;
using nvstate::LastText;
namespace cublaslt = nvstate::cublaslt;

extern "C" {

NVS_EXPORT int nvstate_cublaslt_version(int64_t* version) {
  return Called([&] { *version = nvstate::Opened<cublaslt::Api>().version; });
}

NVS_EXPORT int nvstate_device_cache_bytes(int device, int64_t* bytes) {
  return Called([&] { *bytes = nvstate::CacheBytes(device); });
}

NVS_EXPORT int nvstate_cublaslt_layout(const char* attributes, const char* buffers) {
  return Called([&] { LastText() = Json(Described(attributes, buffers).layout); });
}

// `alignment` of the matrices, in place of what calls count on; 0: that.
NVS_EXPORT int nvstate_cublaslt_heuristic(int device, const char* attributes, const char* buffers,
                                          int64_t workspace, int limit, int64_t alignment) {
  return Called([&] {
    if (limit < 1) {
      throw nvstate::Failure(nvstate::Code::kInvalidArgument, "a limit of 1 or more is expected");
    }
    const Described call(attributes, buffers);
    const cublaslt::Operation operation(device, call.spec, call.layout);
    nvstate::abi::cublasStatus_t status;
    LastText() = nvstate::List(operation.Heuristic(workspace, limit, &status, alignment),
                              [](const auto& candidate) { return nvstate::Json(candidate); });
  });
}

NVS_EXPORT int nvstate_cublaslt_diagnose(int device, const char* attributes, const char* buffers,
                                         int64_t workspace) {
  return Called([&] {
    const Described call(attributes, buffers);
    const auto diagnosis = cublaslt::Diagnose(device, call.spec, call.layout, workspace);
    LastText() = "{\"helps\": " + nvstate::List(diagnosis.helps, nvstate::Quoted) +
                ", \"reasons\": " + nvstate::List(diagnosis.reasons, nvstate::Quoted) + "}";
  });
}

// null if the library refuses the algorithm.
NVS_EXPORT int nvstate_cublaslt_check(int device, const char* attributes, const char* buffers,
                                      const uint64_t* words) {
  return Called([&] {
    const Described call(attributes, buffers);
    const cublaslt::Operation operation(device, call.spec, call.layout);
    nvstate::abi::cublasStatus_t status;
    const auto candidate = operation.Check(nvstate::AlgorithmOf(words), &status);
    LastText() = candidate.has_value() ? nvstate::Json(*candidate) : "null";
  });
}

NVS_EXPORT int nvstate_cublaslt_ids(int device, const char* attributes, const char* buffers,
                                    int limit) {
  return Called([&] {
    if (limit < 1) {
      throw nvstate::Failure(nvstate::Code::kInvalidArgument, "a limit of 1 or more is expected");
    }
    const Described call(attributes, buffers);
    LastText() = nvstate::List(cublaslt::AlgorithmIds(device, call.spec, call.layout, limit),
                              [](int id) { return std::to_string(id); });
  });
}

NVS_EXPORT int nvstate_cublaslt_init(int device, const char* attributes, const char* buffers,
                                     int id, uint64_t* words) {
  return Called([&] {
    const Described call(attributes, buffers);
    const auto algo = cublaslt::AlgorithmWithId(device, call.spec, call.layout, id);
    std::memcpy(words, algo.data, sizeof(algo.data));
  });
}

NVS_EXPORT int nvstate_cublaslt_config(const uint64_t* words) {
  return Called([&] { LastText() = cublaslt::ConfigurationJson(nvstate::AlgorithmOf(words)); });
}

NVS_EXPORT int nvstate_cublaslt_capabilities(const uint64_t* words) {
  return Called([&] { LastText() = cublaslt::CapabilitiesJson(nvstate::AlgorithmOf(words)); });
}

NVS_EXPORT int nvstate_cublaslt_configure(uint64_t* words, const char* name, int64_t value) {
  return Called([&] {
    auto algo = nvstate::AlgorithmOf(words);
    cublaslt::Configure(algo, name, value);
    std::memcpy(words, algo.data, sizeof(algo.data));
  });
}

}  // extern "C"
