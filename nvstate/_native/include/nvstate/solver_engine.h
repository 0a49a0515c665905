// What Python asks of an engine through ctypes, under one name for each.

#ifndef NVSTATE_SOLVER_ENGINE_H_
#define NVSTATE_SOLVER_ENGINE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "nvstate/solver.h"

namespace nvstate::solver {

struct Facts {  // of an analysis; -1 where the engine does not say
  double seconds = 0;
  int64_t factor_nnz = -1;
  double flops = -1;
  int64_t host_bytes = 0;
  int64_t peak_host_bytes = -1;
  int64_t device_bytes = 0;
  int64_t peak_device_bytes = -1;
  int64_t superpanels = -1;
  int64_t hybrid_min_bytes = -1;
};

using Array = std::variant<std::vector<int32_t>, std::vector<double>>;

class Engine {
 public:
  virtual ~Engine() = default;
  // Makes the ring of one element with its analysis, unless there is one.
  virtual Facts Analyze(int64_t device, const Request& request, Element element,
                        const Pattern& pattern, const int32_t* permutation,
                        const void* reference) const = 0;
  // Of the analysis of this ring; nullopt if there is none, or the engine has no such array.
  virtual std::optional<Array> Find(int64_t device, const std::string& ring,
                                    std::string_view name) const = 0;
};

// True. An engine's source says `const bool known = AddEngine("pardiso", new ...);`
bool AddEngine(const char* name, const Engine* engine);
const Engine& EngineNamed(std::string_view name);  // throws kInvalidArgument

}  // namespace nvstate::solver

#endif  // NVSTATE_SOLVER_ENGINE_H_
