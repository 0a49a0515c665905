#include "nvstate/matmul.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "nvstate/error.h"

namespace nvstate::matmul {
namespace {

[[noreturn]] void Refuse(const std::string& text) { throw Failure(Code::kInvalidArgument, text); }

template <typename Table>
const auto& Find(const Table& table, std::string_view name, const char* what) {
  for (const auto& row : table) {
    if (name == row.name) return row;
  }
  std::string names;
  for (const auto& row : table) names += (names.empty() ? "" : ", ") + std::string(row.name);
  Refuse(std::string(what) + " `" + std::string(name) + "` is none of " + names);
}

using Grad = Epilog::Grad;

constexpr Epilog kEpilogs[] = {
    // name, value, bias, aux_in, aux_out, mask, grad
    {"none", abi::CUBLASLT_EPILOGUE_DEFAULT, false, false, false, false, Grad::kNone},
    {"relu", abi::CUBLASLT_EPILOGUE_RELU, false, false, false, false, Grad::kNone},
    {"gelu", abi::CUBLASLT_EPILOGUE_GELU, false, false, false, false, Grad::kNone},
    {"bias", abi::CUBLASLT_EPILOGUE_BIAS, true, false, false, false, Grad::kNone},
    {"relu_bias", abi::CUBLASLT_EPILOGUE_RELU_BIAS, true, false, false, false, Grad::kNone},
    {"gelu_bias", abi::CUBLASLT_EPILOGUE_GELU_BIAS, true, false, false, false, Grad::kNone},
    {"relu_aux", abi::CUBLASLT_EPILOGUE_RELU_AUX, false, false, true, true, Grad::kNone},
    {"relu_aux_bias", abi::CUBLASLT_EPILOGUE_RELU_AUX_BIAS, true, false, true, true, Grad::kNone},
    {"gelu_aux", abi::CUBLASLT_EPILOGUE_GELU_AUX, false, false, true, false, Grad::kNone},
    {"gelu_aux_bias", abi::CUBLASLT_EPILOGUE_GELU_AUX_BIAS, true, false, true, false, Grad::kNone},
    {"drelu", abi::CUBLASLT_EPILOGUE_DRELU, false, true, false, true, Grad::kNone},
    {"drelu_bgrad", abi::CUBLASLT_EPILOGUE_DRELU_BGRAD, false, true, false, true, Grad::kColumns},
    {"dgelu", abi::CUBLASLT_EPILOGUE_DGELU, false, true, false, false, Grad::kNone},
    {"dgelu_bgrad", abi::CUBLASLT_EPILOGUE_DGELU_BGRAD, false, true, false, false, Grad::kColumns},
    // The library's A is our b, so its gradient of a bias from A is ours from b.
    {"bgrada", abi::CUBLASLT_EPILOGUE_BGRADB, false, false, false, false, Grad::kA},
    {"bgradb", abi::CUBLASLT_EPILOGUE_BGRADA, false, false, false, false, Grad::kB},
};

constexpr Scaling kScalings[] = {
    {"none", 0, false, false},
    {"tensor", abi::CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F, true, false},
    {"outer", abi::CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F, true, true},
    {"1x128", abi::CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F, true, true},
    {"128x128", abi::CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F, true, true},
    {"mxfp8", abi::CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0, true, true},
    {"nvfp4", abi::CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3, true, true},
};

struct Compute {
  const char* name;
  abi::cublasComputeType_t value;
};

constexpr Compute kComputes[] = {
    {"float16", abi::CUBLAS_COMPUTE_16F},
    {"float16_pedantic", abi::CUBLAS_COMPUTE_16F_PEDANTIC},
    {"float32", abi::CUBLAS_COMPUTE_32F},
    {"float32_pedantic", abi::CUBLAS_COMPUTE_32F_PEDANTIC},
    {"tf32", abi::CUBLAS_COMPUTE_32F_FAST_TF32},
    {"float32_fast_float16", abi::CUBLAS_COMPUTE_32F_FAST_16F},
    {"float32_fast_bfloat16", abi::CUBLAS_COMPUTE_32F_FAST_16BF},
    {"float32_emulated_bf16x9", abi::CUBLAS_COMPUTE_32F_EMULATED_16BFX9},
    {"float64", abi::CUBLAS_COMPUTE_64F},
    {"float64_pedantic", abi::CUBLAS_COMPUTE_64F_PEDANTIC},
    {"float64_emulated_fixedpoint", abi::CUBLAS_COMPUTE_64F_EMULATED_FIXEDPOINT},
    {"int32", abi::CUBLAS_COMPUTE_32I},
    {"int32_pedantic", abi::CUBLAS_COMPUTE_32I_PEDANTIC},
};

constexpr const char* kOperandNames[] = {
    "a",       "b",       "c",         "bias", "aux", "alpha", "beta", "scale_a",  "scale_b",
    "scale_c", "scale_d", "scale_aux", "d",    "aux", "bgrad", "amax", "aux_amax", "d_out_scale"};
static_assert(std::size(kOperandNames) == kAll);

std::array<double, 2> Pair(AttributeSource& a, const char* name) {
  const std::vector<double> values = a.Doubles(name);
  if (values.size() != 2)
    Refuse(std::string("attribute `") + name +
           "` has a real and an "
           "imaginary part");
  return {values[0], values[1]};
}

void CheckPermutation(const Ints& layout, int64_t rank, const char* name) {
  Ints sorted = layout;
  std::sort(sorted.begin(), sorted.end());
  bool right = static_cast<int64_t>(layout.size()) == rank;
  for (size_t i = 0; right && i < sorted.size(); ++i) right = sorted[i] == static_cast<int64_t>(i);
  if (!right) {
    Refuse(std::string("attribute `layout_") + name + "` is not a permutation of " +
           std::to_string(rank) + " dimensions");
  }
}

// Rounds to nearest, ties to even; the library takes a host scalar in its own type.
uint16_t HalfOf(double value) {
  const auto number = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof(bits));
  const uint32_t sign = bits >> 16 & 0x8000u;
  const double magnitude = std::fabs(value);
  if (std::isnan(value)) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 65520.0) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude == 0) return static_cast<uint16_t>(sign);  // it has no exponent
  int exponent = 0;
  std::frexp(magnitude, &exponent);
  // Of 11 significant bits; below 2^-14 the spacing stays that of the smallest normal number.
  const int spacing = std::max(exponent - 11, -24);
  const auto steps = static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, -spacing)));
  // Steps carry into the exponent by themselves: 2^11 of one spacing are 2^10 of the next.
  const uint32_t half = static_cast<uint32_t>(spacing + 24) * 1024u + steps;
  return static_cast<uint16_t>(sign | half);
}

}  // namespace

const Epilog& Epilog::Named(std::string_view name) { return Find(kEpilogs, name, "epilog"); }
const Scaling& Scaling::Named(std::string_view name) { return Find(kScalings, name, "scaling"); }

const char* OperandName(Operand operand) { return kOperandNames[static_cast<int>(operand)]; }

Spec::Spec(AttributeSource& a)
    : owner(a.Int("owner")),
      batch(a.Int("batch")),
      layout_a(a.Ints("layout_a")),
      layout_b(a.Ints("layout_b")),
      layout_c(a.Ints("layout_c")),
      layout_d(a.Ints("layout_d")),
      conjugate_a(a.Int("conjugate_a") != 0),
      conjugate_b(a.Int("conjugate_b") != 0),
      compute_name(a.String("compute_type")),
      compute(Find(kComputes, compute_name, "compute type").value),
      scale_type(TypeNamed(a.String("scale_type"))),
      epilog(&Epilog::Named(a.String("epilog"))),
      has_c(a.Int("c") != 0),
      c_type(a.String("c_type")),
      scalars(a.Int("scalars") != 0),
      alpha(Pair(a, "alpha")),
      beta(Pair(a, "beta")),
      scaling_a(&Scaling::Named(a.String("scaling_a"))),
      scaling_b(&Scaling::Named(a.String("scaling_b"))),
      scaling_d_out(&Scaling::Named(a.String("scaling_d_out"))),
      scale_c(a.Int("scale_c") != 0),
      scale_d(a.Int("scale_d") != 0),
      scale_aux(a.Int("scale_aux") != 0),
      result_amax(a.Int("result_amax") != 0),
      aux_amax(a.Int("aux_amax") != 0),
      fast_accumulation(a.Int("fast_accumulation") != 0),
      sm_count(a.Int("sm_count")),
      reduction_mask(a.Int("reduction_mask")),
      impl_mask(a.Int("impl_mask")),
      max_waves(a.Double("max_waves")) {
  if (batch < 0) Refuse("attribute `batch` is a number of dimensions");
  CheckPermutation(layout_a, batch + 2, "a");
  CheckPermutation(layout_b, batch + 3, "b");
  CheckPermutation(layout_c, has_c ? batch + 2 : 0, "c");
  CheckPermutation(layout_d, batch + 2, "d");
  if (!c_type.empty()) TypeNamed(c_type);
  ScalarOf(alpha, scale_type);  // they throw, here and not in an execution
  ScalarOf(beta, scale_type);
  if (reduction_mask < 0 || reduction_mask > 7) Refuse("attribute `reduction_mask` has three bits");
  if (scale_aux && (!epilog->aux() || epilog->mask)) Refuse("a mask or no aux has no `scale_aux`");
  if (aux_amax && (!epilog->aux_out || epilog->mask)) Refuse("a mask or no aux has no `aux_amax`");
  const std::vector<uint64_t> words = a.Words("algorithms");
  const Ints numbers = a.Ints("problems");
  if (words.size() % 8 != 0 || numbers.size() % 4 != 0 || words.size() != 2 * numbers.size()) {
    Refuse("`algorithms` has 8 words and `problems` 4 numbers for each");
  }
  for (size_t i = 0; i < words.size() / 8; ++i) {
    std::copy_n(&words[8 * i], 8, algorithms.emplace_back().data);
    std::copy_n(&numbers[4 * i], 4, problems.emplace_back().begin());
  }
}

std::string Spec::Key() const {
  std::string key = compute_name + " " + std::to_string(scale_type) + " " + epilog->name + " " +
                    c_type + " " + scaling_a->name + " " + scaling_b->name + " " +
                    scaling_d_out->name;
  for (const int64_t value :
       {int64_t{conjugate_a}, int64_t{conjugate_b}, int64_t{has_c}, int64_t{scalars},
        int64_t{scale_c}, int64_t{scale_d}, int64_t{scale_aux}, int64_t{result_amax},
        int64_t{aux_amax}, int64_t{fast_accumulation}, sm_count, reduction_mask, impl_mask}) {
    key += " " + std::to_string(value);
  }
  for (const double value : {alpha[0], alpha[1], beta[0], beta[1], max_waves}) {
    uint64_t bits;  // all of them: -0.0 and NaN too
    std::memcpy(&bits, &value, sizeof(bits));
    key += " " + std::to_string(bits);
  }
  return key;
}

bool Has(const Spec& s, Operand operand) {
  switch (operand) {
    case Operand::kC:
      return s.has_c;
    case Operand::kBias:
      return s.epilog->bias;
    case Operand::kAuxIn:
      return s.epilog->aux_in;
    case Operand::kAlpha:
    case Operand::kBeta:
      return s.scalars;
    case Operand::kScaleA:
      return s.scaling_a->scales;
    case Operand::kScaleB:
      return s.scaling_b->scales;
    case Operand::kScaleC:
      return s.scale_c;
    case Operand::kScaleD:
      return s.scale_d;
    case Operand::kScaleAux:
      return s.scale_aux;
    case Operand::kAuxOut:
      return s.epilog->aux_out;
    case Operand::kGrad:
      return s.epilog->grad != Grad::kNone;
    case Operand::kAmax:
      return s.result_amax;
    case Operand::kAuxAmax:
      return s.aux_amax;
    case Operand::kDOutScale:
      return s.scaling_d_out->scales;
    default:
      return true;
  }
}

Scalar ScalarOf(const std::array<double, 2>& value, abi::cudaDataType type) {
  Scalar scalar{};
  const auto put = [&](auto number, size_t at) {
    std::memcpy(scalar.bytes + at * sizeof(number), &number, sizeof(number));
  };
  const bool complex = type == abi::CUDA_C_32F || type == abi::CUDA_C_64F;
  if (!complex && value[1] != 0) Refuse("alpha and beta are real for this scale type");
  switch (type) {
    case abi::CUDA_R_16F:
      put(HalfOf(value[0]), 0);
      break;
    case abi::CUDA_R_32I:
      if (value[0] != std::nearbyint(value[0])) Refuse("alpha and beta are integers here");
      put(static_cast<int32_t>(value[0]), 0);
      break;
    case abi::CUDA_R_32F:
    case abi::CUDA_C_32F:
      put(static_cast<float>(value[0]), 0);
      if (complex) put(static_cast<float>(value[1]), 1);
      break;
    case abi::CUDA_R_64F:
    case abi::CUDA_C_64F:
      put(value[0], 0);
      if (complex) put(value[1], 1);
      break;
    default:
      Refuse(std::string("scale type ") + NameOf(type) + " is none of cuBLASLt's");
  }
  return scalar;
}

}  // namespace nvstate::matmul
