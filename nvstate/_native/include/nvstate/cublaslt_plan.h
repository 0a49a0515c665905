// cuBLASLt's side of a product: what it is told, which algorithm it runs, and the launch.

#ifndef NVSTATE_CUBLASLT_PLAN_H_
#define NVSTATE_CUBLASLT_PLAN_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "nvstate/abi/cublaslt.h"
#include "nvstate/cache.h"
#include "nvstate/device.h"
#include "nvstate/library.h"
#include "nvstate/matmul.h"

namespace nvstate {
namespace abi {
std::string StatusName(cublasStatus_t status);
Code CodeOf(cublasStatus_t status);
}  // namespace abi

namespace cublaslt {

struct Api {
  Library library{"cublasLt"};
  NVS_SYMBOL(cublasLtGetVersion)
  NVS_SYMBOL(cublasLtCreate)
  NVS_SYMBOL(cublasLtMatmul)
  NVS_SYMBOL(cublasLtMatrixLayoutCreate)
  NVS_SYMBOL(cublasLtMatrixLayoutDestroy)
  NVS_SYMBOL(cublasLtMatrixLayoutSetAttribute)
  NVS_SYMBOL(cublasLtMatmulDescCreate)
  NVS_SYMBOL(cublasLtMatmulDescDestroy)
  NVS_SYMBOL(cublasLtMatmulDescSetAttribute)
  NVS_SYMBOL(cublasLtMatmulPreferenceCreate)
  NVS_SYMBOL(cublasLtMatmulPreferenceDestroy)
  NVS_SYMBOL(cublasLtMatmulPreferenceSetAttribute)
  NVS_SYMBOL(cublasLtMatmulAlgoGetHeuristic)
  NVS_SYMBOL(cublasLtMatmulAlgoCheck)
  NVS_SYMBOL(cublasLtMatmulAlgoGetIds)
  NVS_SYMBOL(cublasLtMatmulAlgoInit)
  NVS_SYMBOL(cublasLtMatmulAlgoCapGetAttribute)
  NVS_SYMBOL(cublasLtMatmulAlgoConfigGetAttribute)
  NVS_SYMBOL(cublasLtMatmulAlgoConfigSetAttribute)
  NVS_SYMBOL(cublasLtLoggerSetCallback)
  NVS_SYMBOL(cublasLtLoggerSetFile)
  NVS_SYMBOL(cublasLtLoggerSetLevel)
  int64_t version;  // 120804 is 12.8.4
  Api();            // throws kFailedPrecondition below 12
};

// A device's handle, shared by all threads, for good. Needs a driver and a device.
abi::cublasLtHandle_t HandleOf(int device);

struct Pointers {  // of a launch, by Operand; and the workspace, aligned
  std::array<void*, matmul::kAll> at{};
  void* work = nullptr;

  void*& operator[](matmul::Operand operand) { return at[static_cast<int>(operand)]; }
  void* operator[](matmul::Operand operand) const { return at[static_cast<int>(operand)]; }
};

struct Candidate {
  abi::cublasLtMatmulAlgo_t algo;
  int64_t workspace;  // bytes to be given, what the library asks for and what it may overrun
  float waves;
};

template <auto destroy>
struct Destroyer {
  template <typename Struct>
  void operator()(Struct* dying) const {
    (Opened<Api>().*destroy)(dying);
  }
};
using Desc =
    std::unique_ptr<abi::cublasLtMatmulDescStruct, Destroyer<&Api::cublasLtMatmulDescDestroy>>;
using MatrixLayout =
    std::unique_ptr<abi::cublasLtMatrixLayoutStruct, Destroyer<&Api::cublasLtMatrixLayoutDestroy>>;

// One native call's descriptors. Immutable, but for those that hold pointers: of these each launch
// has one of its own while it lasts, so that concurrent ones share nothing that changes.
class Operation {
 public:
  Operation(int device, const matmul::Spec& spec, matmul::Layout layout);

  const matmul::Layout& layout() const { return layout_; }
  int device() const { return device_; }

  // Empty if the library has none; `status` is what it said.
  std::vector<Candidate> Heuristic(int64_t workspace, int limit, abi::cublasStatus_t* status,
                                   int64_t alignment = 0) const;
  std::optional<Candidate> Check(const abi::cublasLtMatmulAlgo_t& algo,
                                 abi::cublasStatus_t* status) const;

  // What the library was told of each pointer must hold; throws with the operand's name.
  void CheckAlignment(const Pointers& pointers) const;

  // Enqueues every native call. The device must be current. It runs in every execution: it neither
  // allocates nor tells the library again what a launch before has told it.
  void Launch(abi::CUstream stream, const Pointers& pointers, const Candidate& candidate,
              bool first_only = false) const;

  struct Types {
    abi::cudaDataType a, b, c, d;  // the library's
  };
  Types types() const { return {layout_.b.type, layout_.a.type, layout_.c.type, layout_.d.type}; }

 private:
  struct Holder {  // a descriptor, and the pointers in it
    Desc desc;
    Pointers pointers;
  };
  struct Held {
    matmul::Operand operand;
    abi::cublasLtMatmulDescAttributes_t attribute;
    const matmul::Vector* vector;  // of a bias, its gradient or an aux; else null
  };

  std::vector<Held> AllHeld() const;
  Desc MadeDesc() const;
  Holder TakenHolder() const;
  void Point(Holder& holder, const Pointers& pointers, const std::vector<int64_t>& index) const;
  void ZeroPadding(abi::CUstream stream, const Pointers& pointers) const;  // of a gelu aux
  int64_t AlignmentFor(matmul::Operand operand) const;
  Candidate CandidateOf(const abi::cublasLtMatmulHeuristicResult_t& result) const;

  const Api& api_ = Opened<Api>();
  const int device_;
  const abi::cublasLtHandle_t handle_;
  const matmul::Spec spec_;
  const matmul::Layout layout_;
  const MatrixLayout a_, b_, c_, d_;  // of ours; the library's A is b_
  const std::vector<Held> held_;      // what a descriptor points to
  const matmul::Scalar alpha_, beta_;
  std::array<uintptr_t, matmul::kAll> misaligned_{};  // bits that no address may have
  Holder asked_;                      // for queries; for launches too if it holds no pointers
  mutable std::mutex mutex_;          // of
  mutable std::vector<Holder> idle_;  // those that no launch has
};

// Which constraint, if relaxed, lets the library run a product that it has no algorithm for.
struct Diagnosis {
  std::vector<std::string> helps;    // in the words of Python's arguments
  std::vector<std::string> reasons;  // the library's own
};
Diagnosis Diagnose(int device, const matmul::Spec& spec, const matmul::Layout& layout,
                   int64_t workspace);
std::string TextOf(const Diagnosis& diagnosis);

class Plan : public NativePlan {  // an operation and the algorithm that it runs
 public:
  Plan(int device, const matmul::Spec& spec, matmul::Layout layout, int64_t workspace);

  int64_t bytes() const override { return 0; }  // nothing on the device
  const Operation& operation() const { return operation_; }
  const Candidate& chosen() const { return *chosen_; }
  bool IsWarm() const { return warm_; }
  void Warm(const Pointers& pointers);  // loads its kernels

 private:
  const Operation operation_;
  std::optional<Candidate> chosen_;
  std::atomic<bool> warm_{false};
};

// The plan for this problem within so many bytes of workspace: that of a pinned algorithm if the
// problem is its own, else of the heuristic's first.
std::shared_ptr<Plan> PlanFor(int device, const matmul::Spec& spec, const matmul::Layout& layout,
                              int64_t workspace);

}  // namespace cublaslt
}  // namespace nvstate

#endif  // NVSTATE_CUBLASLT_PLAN_H_
