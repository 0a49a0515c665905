// What Python asks of cuDSS: analyses and their arrays, its version, and a configuration set and
// read back.

#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "nvstate/answer.h"
#include "nvstate/cudss_ring.h"

namespace nvstate::cudss {
namespace {

Shape ShapeOf(const solver::Pattern& pattern, solver::Element element) {
  return {pattern.n, pattern.nnz, 1, element, pattern.offset_bytes, pattern.index_bytes};
}

// As int32 or float64, whatever the index and value types are.
template <typename To>
std::vector<To> Numbers(const std::vector<char>& bytes, bool is_real, int width) {
  std::vector<To> numbers(bytes.size() / static_cast<size_t>(width));
  for (size_t i = 0; i < numbers.size(); ++i) {
    const char* const at = bytes.data() + i * static_cast<size_t>(width);
    if (is_real && width == 4) {
      float number;
      std::memcpy(&number, at, sizeof(number));
      numbers[i] = static_cast<To>(number);
    } else if (is_real) {
      double number;
      std::memcpy(&number, at, sizeof(number));
      numbers[i] = static_cast<To>(number);
    } else {
      numbers[i] = static_cast<To>(solver::Pattern::At(at, width, 0));
    }
  }
  return numbers;
}

class Engine : public solver::Engine {
 public:
  solver::Facts Analyze(int64_t device, const solver::Request& request, solver::Element element,
                        const solver::Pattern& pattern, const int32_t* permutation,
                        const void* reference) const override {
    const auto ordinal = static_cast<int>(device);
    OnDevice on(ordinal);
    const Shape shape = ShapeOf(pattern, element);
    try {
      const std::shared_ptr<Ring> ring = RingFor(ordinal, request, shape, [&] {
        const HostPattern host(request.options, pattern, permutation);
        return std::make_unique<Ring>(ordinal, request.options, shape, host, reference);
      });
      return ring->facts();
    } catch (const Failure& failure) {
      throw Failure(failure.code(), std::string(failure.what()) + " (" + Describe(shape) + ")");
    }
  }

  std::optional<solver::Array> Find(int64_t device, const std::string& ring,
                                    std::string_view name) const override {
    const auto ordinal = static_cast<int>(device);
    const auto rings = solver::RingsOf<Ring>(Ring::kEngine, device, ring);
    if (rings.empty()) return std::nullopt;
    OnDevice on(ordinal);
    Ring& first = *rings.front();
    std::lock_guard lock(first.mutex());
    const Shape& shape = first.shape();
    const int index = shape.index_bytes;
    const auto indices = [&](abi::cudssDataParam_t parameter) -> std::optional<solver::Array> {
      const auto bytes = first.Array(parameter, static_cast<size_t>(shape.n * index));
      if (bytes.empty()) return std::nullopt;
      return Numbers<int32_t>(bytes, false, index);
    };
    const auto scales = [&](abi::cudssDataParam_t parameter) -> std::optional<solver::Array> {
      const int width = solver::IsSingle(shape.element) ? 4 : 8;
      const auto bytes = first.Array(parameter, static_cast<size_t>(shape.n * width));
      if (bytes.empty()) return std::nullopt;
      return Numbers<double>(bytes, true, width);
    };
    if (name == "row_permutation") return indices(abi::CUDSS_DATA_PERM_REORDER_ROW);
    if (name == "column_permutation") return indices(abi::CUDSS_DATA_PERM_REORDER_COL);
    if (name == "partition_tree") return indices(abi::CUDSS_DATA_ND_PARTITION_TREE);
    if (first.options().matching == "none") return std::nullopt;
    if (name == "matching") return indices(abi::CUDSS_DATA_PERM_MATCHING);
    if (name == "row_scale") return scales(abi::CUDSS_DATA_SCALE_ROW);
    if (name == "column_scale") return scales(abi::CUDSS_DATA_SCALE_COL);
    return std::nullopt;
  }
};

const bool known = solver::AddEngine(Ring::kEngine, new Engine());

}  // namespace
}  // namespace nvstate::cudss

using nvstate::Called;
namespace cudss = nvstate::cudss;
namespace solver = nvstate::solver;

extern "C" {

// Three numbers.
NVS_EXPORT int nvstate_cudss_version(int* version) {
  return Called([&] {
    const auto& found = nvstate::Opened<cudss::Api>().version;
    std::copy(std::begin(found), std::end(found), version);
  });
}

// A configuration set from attributes and read back, as JSON. `device_bytes` are what a share of
// the memory is of. No device is needed.
NVS_EXPORT int nvstate_cudss_config(const char* attributes, int64_t batch, int64_t device_bytes) {
  return Called([&] {
    nvstate::TextAttributes source(attributes);
    const solver::Request request(source);
    source.Done();
    nvstate::LastText() = cudss::Config(request.options, batch, device_bytes).Json();
  });
}

}  // extern "C"
