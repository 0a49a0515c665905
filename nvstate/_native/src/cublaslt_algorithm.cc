#include "nvstate/cublaslt_algorithm.h"

#include <optional>

namespace nvstate::cublaslt {
namespace {

struct Setting {
  const char* name;
  abi::cublasLtMatmulAlgoConfigAttributes_t attribute;
  size_t bytes;
};

constexpr Setting kSettings[] = {
    {"id", abi::CUBLASLT_ALGO_CONFIG_ID, 4},
    {"tile", abi::CUBLASLT_ALGO_CONFIG_TILE_ID, 4},
    {"stages", abi::CUBLASLT_ALGO_CONFIG_STAGES_ID, 4},
    {"split_k", abi::CUBLASLT_ALGO_CONFIG_SPLITK_NUM, 4},
    {"reduction_scheme", abi::CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, 4},
    {"cta_swizzling", abi::CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, 4},
    {"custom_option", abi::CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, 4},
    {"inner_shape", abi::CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, 2},
    {"cluster_shape", abi::CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, 2},
};

struct Capability {
  const char* name;
  abi::cublasLtMatmulAlgoCapAttributes_t attribute;
  size_t bytes;  // 0: an array of uint32
};

constexpr Capability kCapabilities[] = {
    {"split_k", abi::CUBLASLT_ALGO_CAP_SPLITK_SUPPORT, 4},
    {"reduction_scheme_mask", abi::CUBLASLT_ALGO_CAP_REDUCTION_SCHEME_MASK, 4},
    {"cta_swizzling", abi::CUBLASLT_ALGO_CAP_CTA_SWIZZLING_SUPPORT, 4},
    {"strided_batch", abi::CUBLASLT_ALGO_CAP_STRIDED_BATCH_SUPPORT, 4},
    {"out_of_place", abi::CUBLASLT_ALGO_CAP_OUT_OF_PLACE_RESULT_SUPPORT, 4},
    {"custom_option_max", abi::CUBLASLT_ALGO_CAP_CUSTOM_OPTION_MAX, 4},
    {"pointer_mode_mask", abi::CUBLASLT_ALGO_CAP_POINTER_MODE_MASK, 4},
    {"epilogue_mask", abi::CUBLASLT_ALGO_CAP_EPILOGUE_MASK, 4},
    {"numerical_impl_flags", abi::CUBLASLT_ALGO_CAP_NUMERICAL_IMPL_FLAGS, 8},
    {"alignment_a", abi::CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_A_BYTES, 4},
    {"alignment_b", abi::CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_B_BYTES, 4},
    {"alignment_c", abi::CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_C_BYTES, 4},
    {"alignment_d", abi::CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_D_BYTES, 4},
    {"tiles", abi::CUBLASLT_ALGO_CAP_TILE_IDS, 0},
    {"stages", abi::CUBLASLT_ALGO_CAP_STAGES_IDS, 0},
};

// nullopt if this version of the library does not know the attribute.
template <typename Get>
std::optional<int64_t> Number(const Get& get, size_t bytes) {
  uint64_t value = 0;  // little-endian: fewer bytes are the lower ones
  size_t written = 0;
  if (get(&value, bytes, &written) != abi::CUBLAS_STATUS_SUCCESS) return std::nullopt;
  return static_cast<int64_t>(value);
}

std::string Pair(const char* name, const std::string& value) {
  return std::string("\"") + name + "\": " + value;
}

std::string Braced(const std::vector<std::string>& pairs) {
  std::string text;
  for (const std::string& pair : pairs) text += (text.empty() ? "" : ", ") + pair;
  return "{" + text + "}";
}

}  // namespace

std::vector<int> AlgorithmIds(int device, const matmul::Spec& spec, const matmul::Layout& layout,
                              int limit) {
  const Api& api = Opened<Api>();
  const abi::cublasLtHandle_t handle = HandleOf(device);
  std::vector<int> ids(static_cast<size_t>(limit));
  int count = 0;
  OnDevice on(device);
  NVS_CHECK(api.cublasLtMatmulAlgoGetIds(handle, spec.compute, spec.scale_type, layout.b.type,
                                         layout.a.type, layout.c.type, layout.d.type, limit,
                                         ids.data(), &count));
  ids.resize(static_cast<size_t>(count));
  return ids;
}

abi::cublasLtMatmulAlgo_t AlgorithmWithId(int device, const matmul::Spec& spec,
                                          const matmul::Layout& layout, int id) {
  const Api& api = Opened<Api>();
  const abi::cublasLtHandle_t handle = HandleOf(device);
  abi::cublasLtMatmulAlgo_t algo{};
  OnDevice on(device);
  const abi::cublasStatus_t status =
      api.cublasLtMatmulAlgoInit(handle, spec.compute, spec.scale_type, layout.b.type,
                                 layout.a.type, layout.c.type, layout.d.type, id, &algo);
  if (status == abi::CUBLAS_STATUS_INVALID_VALUE || status == abi::CUBLAS_STATUS_NOT_SUPPORTED) {
    throw Failure(Code::kInvalidArgument,
                  "there is no algorithm " + std::to_string(id) + " for these types");
  }
  Check(status, "cublasLtMatmulAlgoInit");
  return algo;
}

std::string ConfigurationJson(const abi::cublasLtMatmulAlgo_t& algo) {
  const Api& api = Opened<Api>();
  std::vector<std::string> pairs;
  for (const Setting& setting : kSettings) {
    const auto number = Number(
        [&](void* value, size_t bytes, size_t* written) {
          return api.cublasLtMatmulAlgoConfigGetAttribute(&algo, setting.attribute, value, bytes,
                                                          written);
        },
        setting.bytes);
    if (number.has_value()) pairs.push_back(Pair(setting.name, std::to_string(*number)));
  }
  return Braced(pairs);
}

std::string CapabilitiesJson(const abi::cublasLtMatmulAlgo_t& algo) {
  const Api& api = Opened<Api>();
  std::vector<std::string> pairs;
  for (const Capability& capability : kCapabilities) {
    const auto get = [&](void* value, size_t bytes, size_t* written) {
      return api.cublasLtMatmulAlgoCapGetAttribute(&algo, capability.attribute, value, bytes,
                                                   written);
    };
    if (capability.bytes != 0) {
      const auto number = Number(get, capability.bytes);
      if (number.has_value()) pairs.push_back(Pair(capability.name, std::to_string(*number)));
      continue;
    }
    size_t bytes = 0;
    if (get(nullptr, 0, &bytes) != abi::CUBLAS_STATUS_SUCCESS) continue;
    std::vector<uint32_t> values(bytes / sizeof(uint32_t));
    if (!values.empty()) NVS_CHECK(get(values.data(), bytes, &bytes));
    std::string text;
    for (const uint32_t value : values) text += (text.empty() ? "" : ", ") + std::to_string(value);
    pairs.push_back(Pair(capability.name, "[" + text + "]"));
  }
  return Braced(pairs);
}

void Configure(abi::cublasLtMatmulAlgo_t& algo, std::string_view name, int64_t value) {
  for (const Setting& setting : kSettings) {
    if (name != setting.name) continue;
    if (setting.attribute == abi::CUBLASLT_ALGO_CONFIG_ID) break;  // it makes another algorithm
    const bool fits = value >= 0 && value >> (8 * setting.bytes - 1) == 0;
    const auto bits = static_cast<uint64_t>(value);
    const abi::cublasStatus_t status = fits ? Opened<Api>().cublasLtMatmulAlgoConfigSetAttribute(
                                                  &algo, setting.attribute, &bits, setting.bytes)
                                            : abi::CUBLAS_STATUS_INVALID_VALUE;
    if (status == abi::CUBLAS_STATUS_INVALID_VALUE) {
      throw Failure(Code::kInvalidArgument,
                    std::to_string(value) + " is no value of an algorithm's " + setting.name);
    }
    Check(status, "cublasLtMatmulAlgoConfigSetAttribute");
    return;
  }
  throw Failure(Code::kInvalidArgument, "an algorithm has no setting `" + std::string(name) + "`");
}

}  // namespace nvstate::cublaslt
