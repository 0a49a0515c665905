// The FFI target nvstate_cublaslt_matmul_v1: one product of matrices, batched or not, with what
// cuBLASLt can do beside it.
//
//   a, b, [c], [bias], [aux], [alpha, beta], [scale_a], [scale_b], [scale_c], [scale_d],
//   [scale_aux]
//     -> d, [aux], [bgrad], [amax], [aux amax], [d's scales], [workspace]
//
// The attributes say which are there. a is [*batch, M, K], b [*batch, 1, K, N], d [*batch, M, N]:
// every buffer has the batch's dimensions, of size 1 where it has none, and then a place for M.
// Transposes are layouts. d is c in place if XLA has aliased the two: pointers are passed as they
// come.

#include <memory>
#include <utility>

#include "nvstate/cublaslt_call.h"

namespace nvstate::cublaslt {
namespace {

using matmul::Operand;

struct Spec : matmul::Spec {
  static constexpr const char* kOperation = "matmul";
  static constexpr int64_t kVersion = 1;
  explicit Spec(Attributes& a) : matmul::Spec(a), places(*this) {}
  Places places;
};

using Site = SiteOf<Spec, Plan>;

template <typename Body>
ffi::Error Guarded(const Spec& spec, ffi::RemainingArgs args, ffi::RemainingRets rets,
                   const Body& body) {
  return Guard(
      "matmul", [&] { return Describe(spec, args, rets); },
      [&] {
        const Call call(spec.places, args, rets);
        const ffi::AnyBuffer d = call.at(Operand::kD);
        if (d.element_count() != 0) body(call, call.at(Operand::kA), call.at(Operand::kB), d);
      });
}

// Before every execution, never under capture. Mostly there is nothing left to do.
ffi::Error Initialize(int32_t device, Site* site, ffi::RemainingArgs args,
                      ffi::RemainingRets rets) {
  const Spec& spec = site->spec();
  return Guarded(spec, args, rets, [&](const Call& call, auto a, auto b, auto d) {
    std::shared_ptr<Plan> plan = site->Find(device, {a, b, d});
    const bool found = plan != nullptr;
    if (!found) {
      plan = PlanFor(device, spec, LayoutOf(spec, call.types()), call.workspace);
    }
    plan->Use();
    plan->operation().CheckAlignment(call.pointers);
    if (!plan->IsWarm()) {
      OnDevice on(device);
      plan->Warm(call.pointers);
    }
    if (!found) site->Fill(device, {a, b, d}, std::move(plan));
  });
}

ffi::Error Execute(abi::CUstream stream, int32_t device, Site* site, ffi::RemainingArgs args,
                   ffi::RemainingRets rets) {
  const Spec& spec = site->spec();
  return Guarded(spec, args, rets, [&](const Call& call, auto a, auto b, auto d) {
    const std::shared_ptr<Plan> plan = site->Find(device, {a, b, d});
    if (plan == nullptr) {
      throw Failure(Code::kFailedPrecondition, "executed before it was initialized");
    }
    plan->operation().CheckAlignment(call.pointers);
    OnDevice on(device);
    plan->operation().Launch(stream, call.pointers, plan->chosen());
  });
}

}  // namespace

NVS_TARGET(nvstate_cublaslt_matmul_v1, Site, Initialize, Execute, all_buffers);

}  // namespace nvstate::cublaslt
