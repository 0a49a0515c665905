// A product of matrices as XLA has it, and as cuBLASLt takes it. Arithmetic only: no CUDA.
//
// XLA's buffers are row-major. A row-major D is D transposed and column-major, and that is op(B)
// transposed times op(A) transposed: so the library's A is our b, its B our a, its rows of D are
// our columns, and what its epilogs do along rows they do along our N.

#ifndef NVSTATE_MATMUL_H_
#define NVSTATE_MATMUL_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "nvstate/abi/cublaslt.h"
#include "nvstate/attributes.h"
#include "nvstate/dtypes.h"

namespace nvstate::matmul {

using Ints = std::vector<int64_t>;

struct Epilog {
  enum class Grad { kNone, kColumns, kA, kB };  // Σ over rows of D, or over K of op(A), op(B)

  const char* name;
  abi::cublasLtEpilogue_t value;
  bool bias;
  bool aux_in;
  bool aux_out;
  bool mask;  // the aux is relu's, a bit for each element
  Grad grad;

  bool aux() const { return aux_in || aux_out; }
  static const Epilog& Named(std::string_view name);  // throws kInvalidArgument
};

struct Scaling {
  const char* name;
  int32_t mode;  // of cublasLtMatmulMatrixScale_t, where `scales`
  bool scales;
  bool block;                                          // not one number for a whole matrix
  static const Scaling& Named(std::string_view name);  // throws kInvalidArgument
};

// The attributes of a call. They hold no extents.
struct Spec {
  explicit Spec(AttributeSource& a);

  int64_t owner;                                // which plan of Python's this is for
  int64_t batch;                                // dimensions
  Ints layout_a, layout_b, layout_c, layout_d;  // dimensions from major to minor
  bool conjugate_a, conjugate_b;
  std::string compute_name;
  abi::cublasComputeType_t compute;
  abi::cudaDataType scale_type;
  const Epilog* epilog;
  bool has_c;
  std::string c_type;  // the library wants one even where there is no C; empty: D's
  bool scalars;        // alpha and beta are operands
  std::array<double, 2> alpha, beta;
  const Scaling *scaling_a, *scaling_b, *scaling_d_out;
  bool scale_c, scale_d, scale_aux;
  bool result_amax, aux_amax;
  bool fast_accumulation;
  int64_t sm_count;
  int64_t reduction_mask;
  int64_t impl_mask;
  double max_waves;
  std::vector<abi::cublasLtMatmulAlgo_t> algorithms;
  std::vector<std::array<int64_t, 4>> problems;

  bool block_scaled() const { return scaling_a->block || scaling_b->block; }
  std::string Key() const;  // of all that changes a native plan: neither owner nor algorithms
};

// Operands and results in the order of a call; each is there only if `Has`.
enum class Operand : int {
  kA,
  kB,
  kC,
  kBias,
  kAuxIn,
  kAlpha,
  kBeta,
  kScaleA,
  kScaleB,
  kScaleC,
  kScaleD,
  kScaleAux,
  kD,
  kAuxOut,
  kGrad,
  kAmax,
  kAuxAmax,
  kDOutScale,
};
constexpr int kOperands = 12;  // then come the results
constexpr int kAll = 18;
const char* OperandName(Operand operand);
bool Has(const Spec& spec, Operand operand);

struct Matrix {  // as the library is told
  abi::cudaDataType type{};
  int64_t rows = 0, cols = 0, ld = 0;
  abi::cublasLtOrder_t order = abi::CUBLASLT_ORDER_COL;
  abi::cublasOperation_t op = abi::CUBLAS_OP_N;
  int64_t batch_stride = 0;  // elements
  Ints steps;                // elements, of each loop
};

struct Vector {  // a bias, its gradient, or an aux
  abi::cudaDataType type{};
  int64_t ld = 0;  // of an aux: elements, or bits of a mask
  int64_t batch_stride = 0;
  Ints steps;  // elements of the buffer
};

struct Layout {
  std::array<int64_t, 4> problem{};  // m, n, k, batch count of one native call, in our words
  int64_t folded = 1;                // batch members that became rows
  Matrix a, b, c, d;                 // b is the library's A
  Vector bias, aux, grad;
  Ints loops;  // the native calls are an index of these each

  int64_t calls() const;
};

// Throws kInvalidArgument if buffers do not fit, one another or the library. `buffers` are all that
// Has says, operands and then results.
Layout LayoutOf(const Spec& spec, const std::vector<Typed>& buffers);

// Of the pointers that a launch gives the library, at least: 16 bytes is XLA's promise for a
// buffer, and a loop's steps may say less.
int64_t AlignmentOf(abi::cudaDataType type, const Ints& steps);

std::string Json(const Layout& layout);

// Bytes that a number has in the library's scale type.
struct Scalar {
  alignas(16) unsigned char bytes[16];
};
Scalar ScalarOf(const std::array<double, 2>& value, abi::cudaDataType type);

}  // namespace nvstate::matmul

#endif  // NVSTATE_MATMUL_H_
