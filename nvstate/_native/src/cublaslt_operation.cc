// What cuBLASLt is told of a product, and the launches.

#include <map>
#include <mutex>
#include <utility>

#include "nvstate/cublaslt_plan.h"
#include "nvstate/matmul_problem.h"

namespace nvstate {
namespace abi {

std::string StatusName(cublasStatus_t status) {
#define NAME(status) \
  case status:       \
    return #status
  switch (status) {
    NAME(CUBLAS_STATUS_SUCCESS);
    NAME(CUBLAS_STATUS_NOT_INITIALIZED);
    NAME(CUBLAS_STATUS_ALLOC_FAILED);
    NAME(CUBLAS_STATUS_INVALID_VALUE);
    NAME(CUBLAS_STATUS_ARCH_MISMATCH);
    NAME(CUBLAS_STATUS_MAPPING_ERROR);
    NAME(CUBLAS_STATUS_EXECUTION_FAILED);
    NAME(CUBLAS_STATUS_INTERNAL_ERROR);
    NAME(CUBLAS_STATUS_NOT_SUPPORTED);
    NAME(CUBLAS_STATUS_LICENSE_ERROR);
  }
#undef NAME
  return "cublasStatus_t " + std::to_string(static_cast<int>(status));
}

Code CodeOf(cublasStatus_t status) {
  return status == CUBLAS_STATUS_ALLOC_FAILED ? Code::kResourceExhausted : Code::kInternal;
}

}  // namespace abi

namespace cublaslt {
namespace {

using matmul::AlignmentOf;
using matmul::Operand;
using matmul::ScalarOf;

MatrixLayout Created(const matmul::Matrix& x, int64_t batch) {
  const Api& api = Opened<Api>();
  abi::cublasLtMatrixLayout_t made;
  NVS_CHECK(api.cublasLtMatrixLayoutCreate(&made, x.type, static_cast<uint64_t>(x.rows),
                                           static_cast<uint64_t>(x.cols), x.ld));
  MatrixLayout layout(made);
  const auto set = [&](abi::cublasLtMatrixLayoutAttribute_t attribute, auto value) {
    NVS_CHECK(api.cublasLtMatrixLayoutSetAttribute(made, attribute, &value, sizeof(value)));
  };
  if (x.order != abi::CUBLASLT_ORDER_COL) {
    set(abi::CUBLASLT_MATRIX_LAYOUT_ORDER, static_cast<int32_t>(x.order));
  }
  if (batch != 1) {
    set(abi::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<int32_t>(batch));
    set(abi::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, x.batch_stride);
  }
  return layout;
}

int64_t BytesFrom(abi::cudaDataType type, const std::vector<int64_t>& steps,
                  const std::vector<int64_t>& index) {
  int64_t elements = 0;
  for (size_t i = 0; i < steps.size(); ++i) elements += steps[i] * index[i];
  return elements * BitsOf(type) / 8;
}

// Where there is no C beta is 0, whatever the attribute says.
matmul::Scalar BetaOf(const matmul::Spec& s) {
  return ScalarOf(s.has_c ? s.beta : std::array{0.0, 0.0}, s.scale_type);
}

}  // namespace

Api::Api() : version(static_cast<int64_t>(cublasLtGetVersion())) {
  if (version < 120000) {
    throw Failure(Code::kFailedPrecondition,
                  "cuBLASLt 12 or newer is needed, " + std::string(Library::Path("cublasLt")) +
                      " is version " + std::to_string(version / 10000) + "." +
                      std::to_string(version % 10000 / 100) +
                      ". Install `nvidia-cublas` (CUDA 13) or `nvidia-cublas-cu12` (CUDA 12)");
  }
}

abi::cublasLtHandle_t HandleOf(int device) {
  static std::mutex mutex;
  static auto* const handles = new std::map<int, abi::cublasLtHandle_t>();
  const Api& api = Opened<Api>();
  OnDevice on(device);
  std::lock_guard lock(mutex);
  if (const auto found = handles->find(device); found != handles->end()) return found->second;
  abi::cublasLtHandle_t handle;
  NVS_CHECK(api.cublasLtCreate(&handle));
  return (*handles)[device] = handle;
}

Operation::Operation(int device, const matmul::Spec& spec, matmul::Layout layout)
    : device_(device),
      handle_(HandleOf(device)),
      spec_(spec),
      layout_(std::move(layout)),
      a_(Created(layout_.a, layout_.problem[3])),
      b_(Created(layout_.b, layout_.problem[3])),
      c_(Created(layout_.c, layout_.problem[3])),
      d_(Created(layout_.d, layout_.problem[3])),
      held_(AllHeld()),
      alpha_(ScalarOf(spec_.alpha, spec_.scale_type)),
      beta_(BetaOf(spec_)) {
  // Queries read the values of some pointers for their alignment, and of others that they are
  // there.
  Pointers claimed;
  for (int i = 0; i < matmul::kAll; ++i) {
    const auto operand = static_cast<Operand>(i);
    if (!Has(spec_, operand)) continue;
    const int64_t alignment = AlignmentFor(operand);
    misaligned_[i] = static_cast<uintptr_t>(alignment - 1);
    claimed[operand] = reinterpret_cast<void*>(alignment);
  }
  asked_.desc = MadeDesc();
  Point(asked_, claimed, std::vector<int64_t>(layout_.loops.size(), 0));
}

std::vector<Operation::Held> Operation::AllHeld() const {
  std::vector<Held> held;
  const auto add = [&](Operand operand, abi::cublasLtMatmulDescAttributes_t attribute,
                       const matmul::Vector* vector = nullptr) {
    if (Has(spec_, operand)) held.push_back({operand, attribute, vector});
  };
  add(Operand::kBias, abi::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &layout_.bias);
  add(Operand::kGrad, abi::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &layout_.grad);
  add(Operand::kAuxIn, abi::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &layout_.aux);
  add(Operand::kAuxOut, abi::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &layout_.aux);
  add(Operand::kScaleB, abi::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER);
  add(Operand::kScaleA, abi::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER);
  add(Operand::kScaleC, abi::CUBLASLT_MATMUL_DESC_C_SCALE_POINTER);
  add(Operand::kScaleD, abi::CUBLASLT_MATMUL_DESC_D_SCALE_POINTER);
  add(Operand::kScaleAux, abi::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_SCALE_POINTER);
  add(Operand::kAmax, abi::CUBLASLT_MATMUL_DESC_AMAX_D_POINTER);
  add(Operand::kAuxAmax, abi::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_AMAX_POINTER);
  add(Operand::kDOutScale, abi::CUBLASLT_MATMUL_DESC_D_OUT_SCALE_POINTER);
  return held;
}

int64_t Operation::AlignmentFor(Operand operand) const {
  switch (operand) {
    case Operand::kA:
      return AlignmentOf(layout_.a.type, layout_.a.steps);
    case Operand::kB:
      return AlignmentOf(layout_.b.type, layout_.b.steps);
    case Operand::kC:
      return AlignmentOf(layout_.c.type, layout_.c.steps);
    case Operand::kD:
      return AlignmentOf(layout_.d.type, layout_.d.steps);
    case Operand::kBias:
      return AlignmentOf(layout_.bias.type, layout_.bias.steps);
    case Operand::kGrad:
      return AlignmentOf(layout_.grad.type, layout_.grad.steps);
    case Operand::kAuxIn:
    case Operand::kAuxOut:
      return AlignmentOf(layout_.aux.type, layout_.aux.steps);
    default:
      return 16;
  }
}

void Operation::CheckAlignment(const Pointers& pointers) const {
  uintptr_t wrong = 0;
  for (int i = 0; i < matmul::kAll; ++i) {
    wrong |= reinterpret_cast<uintptr_t>(pointers.at[i]) & misaligned_[i];
  }
  if (wrong == 0) return;
  for (int i = 0; i < matmul::kAll; ++i) {
    if ((reinterpret_cast<uintptr_t>(pointers.at[i]) & misaligned_[i]) == 0) continue;
    throw Failure(Code::kInvalidArgument, std::string("`") + OperandName(static_cast<Operand>(i)) +
                                              "` lies at an address that is no multiple of " +
                                              std::to_string(misaligned_[i] + 1) +
                                              " bytes, which its plan counts on; copy it");
  }
}

// All but its pointers.
Desc Operation::MadeDesc() const {
  const matmul::Spec& s = spec_;
  abi::cublasLtMatmulDesc_t made;
  NVS_CHECK(api_.cublasLtMatmulDescCreate(&made, s.compute, s.scale_type));
  Desc desc(made);
  const auto set = [&](abi::cublasLtMatmulDescAttributes_t attribute, auto value) {
    NVS_CHECK(api_.cublasLtMatmulDescSetAttribute(made, attribute, &value, sizeof(value)));
  };
  set(abi::CUBLASLT_MATMUL_DESC_TRANSA, static_cast<int32_t>(layout_.b.op));
  set(abi::CUBLASLT_MATMUL_DESC_TRANSB, static_cast<int32_t>(layout_.a.op));
  if (s.scalars) {
    set(abi::CUBLASLT_MATMUL_DESC_POINTER_MODE, int32_t{abi::CUBLASLT_POINTER_MODE_DEVICE});
  }
  if (s.sm_count != 0) {
    set(abi::CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, static_cast<int32_t>(s.sm_count));
  }
  if (s.fast_accumulation) set(abi::CUBLASLT_MATMUL_DESC_FAST_ACCUM, int8_t{1});

  if (s.epilog->value != abi::CUBLASLT_EPILOGUE_DEFAULT) {
    set(abi::CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(s.epilog->value));
  }
  const bool batched = layout_.problem[3] > 1;
  for (const Held& held : held_) {
    if (held.vector == nullptr) continue;
    const bool aux = held.attribute == abi::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER;
    if (aux) set(abi::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, held.vector->ld);
    if (batched) {
      set(aux ? abi::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE
              : abi::CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE,
          held.vector->batch_stride);
    }
    // D's type is the default, and the only type of older libraries; under a D of 8 bits the
    // default is another one.
    const bool is_default = held.vector->type == layout_.d.type && BitsOf(layout_.d.type) > 8;
    if (!is_default && !(aux && s.epilog->mask)) {
      set(aux ? abi::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE
              : abi::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE,
          static_cast<int32_t>(held.vector->type));
    }
  }

  if (s.scaling_a->block ||
      s.scaling_b->block) {  // else the attribute need not exist: it is 12.8's
    set(abi::CUBLASLT_MATMUL_DESC_A_SCALE_MODE, s.scaling_b->mode);
    set(abi::CUBLASLT_MATMUL_DESC_B_SCALE_MODE, s.scaling_a->mode);
    // cuBLASLt up to 12.8.3 forgets the modes where it keeps the heuristic's answers, and so mixes
    // those for tensor scales with those for blocks. This stride, which nothing reads here, tells
    // them apart; in later versions it does nothing.
    if (api_.version <= 120803) {
      set(abi::CUBLASLT_MATMUL_DESC_ALPHA_VECTOR_BATCH_STRIDE, int64_t{1});
    }
  }
  if (s.scaling_d_out->scales) {
    set(abi::CUBLASLT_MATMUL_DESC_D_OUT_SCALE_MODE, s.scaling_d_out->mode);
  }
  return desc;
}

Operation::Holder Operation::TakenHolder() const {
  {
    std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      Holder holder = std::move(idle_.back());
      idle_.pop_back();
      return holder;
    }
  }
  return {MadeDesc(), {}};
}

void Operation::Point(Holder& holder, const Pointers& pointers,
                      const std::vector<int64_t>& index) const {
  for (const Held& held : held_) {
    // Steps of a mask's are bytes, its batch stride is bits.
    const int64_t offset =
        held.vector == nullptr ? 0 : BytesFrom(held.vector->type, held.vector->steps, index);
    void* const pointer = static_cast<char*>(pointers[held.operand]) + offset;
    void*& told = holder.pointers[held.operand];
    if (told == pointer) continue;
    NVS_CHECK(api_.cublasLtMatmulDescSetAttribute(holder.desc.get(), held.attribute, &pointer,
                                                  sizeof(pointer)));
    told = pointer;
  }
}

void Operation::Launch(abi::CUstream stream, const Pointers& pointers, const Candidate& candidate,
                       bool first_only) const {
  const bool holds = !held_.empty();
  Holder taken = holds ? TakenHolder() : Holder{};  // after a failure nobody has it again
  abi::cublasLtMatmulDescStruct* const desc = holds ? taken.desc.get() : asked_.desc.get();
  const void* alpha_at = spec_.scalars ? pointers[Operand::kAlpha] : alpha_.bytes;
  const void* beta_at = spec_.scalars ? pointers[Operand::kBeta] : beta_.bytes;
  const auto at = [&](Operand operand, const matmul::Matrix& x, const auto& index) {
    return static_cast<char*>(pointers[operand]) + BytesFrom(x.type, x.steps, index);
  };
  std::vector<int64_t> index(layout_.loops.size(), 0);
  for (;;) {
    Point(taken, pointers, index);
    char* const d = at(Operand::kD, layout_.d, index);
    char* const b = at(Operand::kB, layout_.b, index);
    // Where there is no C beta is 0, and D stands for what is not read. D itself it can only be if
    // the types are one, else the library sees a product in place of two types. NULL is only for a
    // beta that it can see is 0.
    char* const none = layout_.c.type == layout_.d.type ? d : spec_.scalars ? b : nullptr;
    char* const c = spec_.has_c ? at(Operand::kC, layout_.c, index) : none;
    NVS_CHECK(api_.cublasLtMatmul(handle_, desc, alpha_at, b, b_.get(),
                                  at(Operand::kA, layout_.a, index), a_.get(), beta_at, c, c_.get(),
                                  d, d_.get(), &candidate.algo, pointers.work,
                                  static_cast<size_t>(candidate.workspace), stream));
    size_t loop = index.size();
    while (loop > 0 && ++index[loop - 1] == layout_.loops[loop - 1]) index[--loop] = 0;
    if (loop == 0 || first_only) break;
  }
  if (holds) {
    std::lock_guard lock(mutex_);
    idle_.push_back(std::move(taken));
  }
  ZeroPadding(stream, pointers);
}

void Operation::ZeroPadding(abi::CUstream stream, const Pointers& pointers) const {
  const int64_t n = layout_.problem[1], width = matmul::RoundedUp(n, 8);
  if (!spec_.epilog->aux_out || spec_.epilog->mask || width == n) return;
  // Batch and rows lie one after the other, whatever is a batch, a loop or a row to the library.
  const int64_t rows = layout_.problem[0] * layout_.problem[3] * layout_.calls();
  const int64_t bytes = BitsOf(layout_.aux.type) / 8;
  const auto first = reinterpret_cast<abi::CUdeviceptr>(pointers[Operand::kAuxOut]) +
                     static_cast<abi::CUdeviceptr>(n * bytes);
  NVS_CHECK(Opened<Driver>().cuMemsetD2D8Async(first, static_cast<size_t>(width * bytes), 0,
                                               static_cast<size_t>((width - n) * bytes),
                                               static_cast<size_t>(rows), stream));
}

}  // namespace cublaslt
}  // namespace nvstate
