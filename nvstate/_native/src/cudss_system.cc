#include "nvstate/cudss_system.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace nvstate::cudss {
namespace {

abi::cudaDataType ValueType(solver::Element element) {
  switch (element) {
    case solver::Element::kF32:
      return abi::CUDA_R_32F;
    case solver::Element::kF64:
      return abi::CUDA_R_64F;
    case solver::Element::kC64:
      return abi::CUDA_C_32F;
    default:
      return abi::CUDA_C_64F;
  }
}

abi::cudaDataType IntegerType(int bytes) { return bytes == 4 ? abi::CUDA_R_32I : abi::CUDA_R_64I; }

std::vector<char> Copied(const void* from, int64_t bytes) {
  const char* const begin = static_cast<const char*>(from);
  return {begin, begin + bytes};
}

std::vector<char> Widened(const std::vector<int32_t>& numbers, int bytes) {
  std::vector<char> result(numbers.size() * static_cast<size_t>(bytes));
  for (size_t i = 0; i < numbers.size(); ++i) {
    const int64_t wide = numbers[i];  // the low bytes come first
    std::memcpy(result.data() + i * static_cast<size_t>(bytes), &wide, static_cast<size_t>(bytes));
  }
  return result;
}

}  // namespace

bool Shape::operator==(const Shape& o) const {
  return n == o.n && nnz == o.nnz && batch == o.batch && element == o.element &&
         offset_bytes == o.offset_bytes && index_bytes == o.index_bytes;
}

std::string Describe(const Shape& shape) {
  return "n = " + std::to_string(shape.n) + ", nnz = " + std::to_string(shape.nnz) + ", " +
         solver::NameOf(shape.element) + ", batch " + std::to_string(shape.batch);
}

HostPattern::HostPattern(const solver::Options& options, const solver::Pattern& pattern,
                         const int32_t* order)
    : n(pattern.n),
      nnz(pattern.nnz),
      offset_bytes(pattern.offset_bytes),
      index_bytes(pattern.index_bytes),
      indptr(Copied(pattern.indptr, (n + 1) * offset_bytes)),
      indices(Copied(pattern.indices, nnz * index_bytes)) {
  solver::CheckDigest("pattern", options.pattern, solver::DigestOf(view()));
  solver::CheckPattern(view());
  if (order != nullptr) permutation.assign(order, order + n);
  const solver::Digest found =
      order == nullptr ? solver::Digest{} : solver::PermutationDigest(permutation.data(), n);
  solver::CheckDigest("permutation", options.permutation, found);
  if (order != nullptr) solver::CheckPermutation(permutation.data(), n);
}

solver::Pattern HostPattern::view() const {
  return {n, nnz, indptr.data(), offset_bytes, indices.data(), index_bytes};
}

DevicePattern::DevicePattern(Context& context, const HostPattern& pattern)
    : indptr_(context, pattern.indptr.data(), pattern.indptr.size()),
      indices_(context, pattern.indices.data(), pattern.indices.size()) {}

Order Order::Given(const solver::Options& options, const HostPattern& pattern) {
  return {Widened(pattern.permutation, pattern.index_bytes),
          Widened(options.tree, pattern.index_bytes)};
}

System::System(Context& context, const Shape& shape, const solver::Options& options,
               const DevicePattern& pattern, Config& config, const void* values, const Order& order)
    : context_(context),
      shape_(shape),
      config_(config),
      unread_b_(pattern.indptr()),
      unread_x_(pattern.indices()) {
  try {
    NVS_CUDSS(context_, cudssDataCreate, context_.handle(), &data_);
    const void* const address = values != nullptr ? values : unread_b_;
    NVS_CUDSS(context_, cudssMatrixCreateCsr, &matrix_, shape.n, shape.n, shape.nnz,
              pattern.indptr(), nullptr, pattern.indices(), address,
              IntegerType(shape.offset_bytes), IntegerType(shape.index_bytes),
              ValueType(shape.element), MatrixTypeOf(options.matrix_type),
              MatrixViewOf(options.view), abi::CUDSS_BASE_ZERO);
    if (!order.permutation.empty()) {
      NVS_CUDSS(context_, cudssDataSet, context_.handle(), data_, abi::CUDSS_DATA_USER_PERM,
                order.permutation.data(), order.permutation.size());
    }
    if (!order.tree.empty()) {
      NVS_CUDSS(context_, cudssDataSet, context_.handle(), data_,
                abi::CUDSS_DATA_USER_ND_PARTITION_TREE, order.tree.data(), order.tree.size());
    }
    MakeDense(1);
    Execute(abi::CUDSS_PHASE_ANALYSIS, x_, b_);
    context_.Wait();
    if (order.tree.empty()) ++solver::Counters::Global().analyses;  // else it was replayed
  } catch (...) {
    Destroy();
    throw;
  }
}

System::~System() { Destroy(); }

void System::Destroy() noexcept {
  const Api& api = context_.api();
  if (b_ != nullptr) api.cudssMatrixDestroy(b_);
  if (x_ != nullptr) api.cudssMatrixDestroy(x_);
  if (matrix_ != nullptr) api.cudssMatrixDestroy(matrix_);
  if (data_ != nullptr) api.cudssDataDestroy(context_.handle(), data_);
}

void System::MakeDense(int64_t k) {
  if (k == k_) return;
  k_ = -1;  // until both are there
  const Api& api = context_.api();
  for (abi::cudssMatrix_t* const dense : {&b_, &x_}) {
    if (*dense != nullptr) api.cudssMatrixDestroy(std::exchange(*dense, nullptr));
    NVS_CUDSS(context_, cudssMatrixCreateDn, dense, shape_.n, k, shape_.n,
              dense == &b_ ? unread_b_ : unread_x_, ValueType(shape_.element),
              abi::CUDSS_LAYOUT_COL_MAJOR);
  }
  k_ = k;
}

void System::Execute(int phase, abi::cudssMatrix_t x, abi::cudssMatrix_t b) {
  const abi::cudssStatus_t status =
      context_.api().cudssExecute(context_.handle(), phase, config_, data_, matrix_, x, b);
  const char* const name = phase == abi::CUDSS_PHASE_ANALYSIS        ? "cudssExecute(ANALYSIS)"
                           : phase == abi::CUDSS_PHASE_FACTORIZATION ? "cudssExecute(FACTORIZATION)"
                           : phase == abi::CUDSS_PHASE_SOLVE ? "cudssExecute(SOLVE)"
                                                             : "cudssExecute(REFACTORIZATION)";
  CheckCall(context_, status, name);
}

void System::Factorize(const void* values, bool again) {
  NVS_CUDSS(context_, cudssMatrixSetValues, matrix_, values);
  Execute(again ? abi::CUDSS_PHASE_REFACTORIZATION : abi::CUDSS_PHASE_FACTORIZATION, x_, b_);
}

void System::Solve(const void* b, void* x, int64_t k) {
  MakeDense(k);
  NVS_CUDSS(context_, cudssMatrixSetValues, b_, b);
  NVS_CUDSS(context_, cudssMatrixSetValues, x_, x);
  Execute(abi::CUDSS_PHASE_SOLVE, x_, b_);
}

void System::ResetInfo() {
  const int32_t zero = 0;
  NVS_CUDSS(context_, cudssDataSet, context_.handle(), data_, abi::CUDSS_DATA_INFO, &zero,
            sizeof(zero));
}

int64_t System::Count(abi::cudssDataParam_t parameter, size_t at, size_t of) const {
  int64_t numbers[2] = {};
  size_t written = 0;
  NVS_CUDSS(context_, cudssDataGet, context_.handle(), data_, parameter, numbers,
            of * static_cast<size_t>(shape_.index_bytes), &written);
  return solver::Pattern::At(numbers, shape_.index_bytes, static_cast<int64_t>(at));
}

Outcome System::Result(bool with_inertia) const {
  int32_t info = 0;
  size_t written = 0;
  NVS_CUDSS(context_, cudssDataGet, context_.handle(), data_, abi::CUDSS_DATA_INFO, &info,
            sizeof(info), &written);
  Outcome outcome{info, Count(abi::CUDSS_DATA_NPIVOTS)};
  if (with_inertia && info == 0) {
    outcome.positive = Count(abi::CUDSS_DATA_INERTIA, 0, 2);
    outcome.negative = Count(abi::CUDSS_DATA_INERTIA, 1, 2);
  }
  return outcome;
}

std::vector<char> System::Array(abi::cudssDataParam_t parameter, size_t bytes) const {
  std::vector<char> array(bytes);
  size_t written = 0;
  const abi::cudssStatus_t status = context_.api().cudssDataGet(
      context_.handle(), data_, parameter, array.data(), array.size(), &written);
  if (status == abi::CUDSS_STATUS_ALLOC_FAILED) ThrowExhausted(context_, "cudssDataGet");
  // Options that give no such array are told by one status or another. A device that failed is
  // told by the next call too.
  if (status != abi::CUDSS_STATUS_SUCCESS) return {};
  array.resize(written < bytes ? written : bytes);
  return array;
}

int64_t System::NumberOr(abi::cudssDataParam_t parameter, size_t bytes, int64_t other) const {
  const std::vector<char> found = Array(parameter, bytes);
  if (found.empty()) return other;
  int64_t number = 0;
  std::memcpy(&number, found.data(), std::min(found.size(), sizeof(number)));
  return number;
}

std::vector<char> System::Tree() const {
  size_t bytes = 0;
  const abi::cudssStatus_t status = context_.api().cudssDataGet(
      context_.handle(), data_, abi::CUDSS_DATA_ND_PARTITION_TREE, nullptr, 0, &bytes);
  if (status != abi::CUDSS_STATUS_SUCCESS || bytes == 0) return {};
  return Array(abi::CUDSS_DATA_ND_PARTITION_TREE, bytes);
}

Order System::Replay() const {
  std::vector<char> tree = Tree();
  if (tree.empty()) return {};
  std::vector<char> permutation =
      Array(abi::CUDSS_DATA_PERM_REORDER_ROW, static_cast<size_t>(shape_.n * shape_.index_bytes));
  if (permutation.empty()) return {};
  return {std::move(permutation), std::move(tree)};
}

bool System::Diagonal(void* to) const {
  size_t written = 0;
  const abi::cudssStatus_t status =
      context_.api().cudssDataGet(context_.handle(), data_, abi::CUDSS_DATA_DIAG, to,
                                  static_cast<size_t>(shape_.vector_bytes()), &written);
  if (status == abi::CUDSS_STATUS_NOT_SUPPORTED) return false;
  CheckCall(context_, status, "cudssDataGet(DIAG)");
  return true;
}

}  // namespace nvstate::cudss
