// What the engines of sparse direct solvers share: a call's options, tickets, digests, the probe.
// No library is called here. Slots are in solver_slots.h.

#ifndef NVSTATE_SOLVER_H_
#define NVSTATE_SOLVER_H_

#include <array>
#include <atomic>
#include <cmath>
#include <complex>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "nvstate/attributes.h"

namespace nvstate::solver {

// 128 bits in two sums, the same that nvstate/direct_solver/digest.py computes. Zeros: of nothing.
struct Digest {
  std::array<uint64_t, 2> lanes{};
  bool none() const { return lanes[0] == 0 && lanes[1] == 0; }
  bool operator==(const Digest& other) const { return lanes == other.lanes; }
  bool operator!=(const Digest& other) const { return lanes != other.lanes; }
};

class Hasher {
 public:
  void Add(uint64_t word);
  const Digest& digest() const { return digest_; }

 private:
  Digest digest_;
  uint64_t count_ = 0;
};

enum class Element { kF32, kF64, kC64, kC128 };
Element ElementNamed(std::string_view name);  // "float32" ...; throws kInvalidArgument
const char* NameOf(Element element);
int64_t BytesOf(Element element);
bool IsComplex(Element element);
bool IsSingle(Element element);

// Runs `body` with a zero of the element's type.
template <typename Body>
auto WithType(Element element, const Body& body) {
  switch (element) {
    case Element::kF32:
      return body(float{});
    case Element::kF64:
      return body(double{});
    case Element::kC64:
      return body(std::complex<float>{});
    default:
      return body(std::complex<double>{});
  }
}

// A CSR pattern where it lies; 4 or 8 bytes for each offset and each index.
struct Pattern {
  int64_t n;
  int64_t nnz;
  const void* indptr;
  int offset_bytes;
  const void* indices;
  int index_bytes;

  int64_t Offset(int64_t row) const { return At(indptr, offset_bytes, row); }
  int64_t Index(int64_t entry) const { return At(indices, index_bytes, entry); }

  static int64_t At(const void* array, int bytes, int64_t i) {
    return bytes == 4 ? static_cast<const int32_t*>(array)[i]
                      : static_cast<const int64_t*>(array)[i];
  }
};

Digest DigestOf(const Pattern& pattern);
Digest PermutationDigest(const int32_t* permutation, int64_t n);
Digest ReferenceDigest(Element element, const void* values, int64_t nnz);

// Throws kInvalidArgument, "the plan's <what> was edited ...", unless they are equal.
void CheckDigest(const char* what, const Digest& expected, const Digest& found);
// Throws kInvalidArgument unless offsets grow from 0 to nnz, and indices are in range and grow in
// each row. A pattern with the right digest passed this in Python; one with another was refused.
void CheckPattern(const Pattern& pattern);
// Throws kInvalidArgument unless each of 0 ... n-1 occurs once.
void CheckPermutation(const int32_t* permutation, int64_t n);

enum class Phase { kFactorize, kSolve, kFactorizeSolve, kFused, kDiagonal };
enum class MatrixType { kGeneral, kSymmetric, kHermitian, kSpd, kHpd };
enum class View { kFull, kLower, kUpper };
enum class OnStale { kRefactorize, kRaise, kNan };

struct Call {  // what differs between the calls of one ring
  Phase phase = Phase::kFactorize;
  bool transposed = false;
  int64_t owner = 0;
  OnStale on_stale = OnStale::kRefactorize;
};

// What all calls of one ring agree on; the engine checks that with `==`.
struct Options {
  std::string ring;
  Digest pattern;
  Digest reference;    // none: no values are kept as reference
  Digest permutation;  // none: no permutation is given
  MatrixType matrix_type = MatrixType::kGeneral;
  View view = View::kFull;  // of the stored matrix
  std::string reordering;
  std::string matching;
  bool rematches = false;  // "auto": without, and where that fails with "product", by the values
  std::string pivoting;
  uint64_t pivot_threshold_bits = 0;  // as bits, so that NaN, the engine's own, equals itself
  uint64_t pivot_epsilon_bits = 0;
  int64_t refinement_steps = -1;  // -1: automatic
  bool reuse_pivots = false;
  bool deterministic = false;
  int64_t slots = 2;
  int64_t host_threads = 0;  // 0: the CPUs of this process
  std::string hybrid_memory;
  bool hybrid_execute = false;
  int64_t nd_levels = -1;
  int64_t nd_unbalance = -1;
  int64_t superpanels = -1;
  int64_t max_lu_nnz = -1;
  std::string factorization_algorithm;
  std::string solve_algorithm;
  std::string pivot_epsilon_algorithm;
  uint64_t refinement_tolerance_bits = 0;
  int64_t register_host_memory = -1;
  std::vector<int32_t> tree;  // of a stored analysis; empty: none

  double pivot_threshold() const;  // NaN: the engine's own, as the next two
  double pivot_epsilon() const;
  double refinement_tolerance() const;
  bool is_general() const { return matrix_type == MatrixType::kGeneral; }
  bool is_definite() const {
    return matrix_type == MatrixType::kSpd || matrix_type == MatrixType::kHpd;
  }
  bool has_inertia() const { return !is_general() && !is_definite(); }
  bool is_hermitian() const {  // with conjugates: so spd, on real types, is not
    return matrix_type == MatrixType::kHermitian || matrix_type == MatrixType::kHpd;
  }
  bool operator==(const Options& other) const;
  bool operator!=(const Options& other) const { return !(*this == other); }
};

// All attributes of a call, "v" too. Throws kInvalidArgument for a missing or impossible one; the
// caller then asks source.Done().
struct Request {
  explicit Request(AttributeSource& source);
  Call call;
  Options options;
};

int64_t CpuCount();  // that this process may run on

enum Status : int32_t {
  kOk = 0,
  kPerturbed = 1,
  kBreakdown = 2,
  kNotDefinite = 3,
  kNotFinite = 4,
};

struct Numerics {  // the `info` words of one element of a batch
  int32_t status = kOk;
  int32_t perturbed_pivots = 0;
  int32_t positive = -1;  // inertia; -1 where the engine has none
  int32_t negative = -1;
  int32_t failing_pivot = -1;
  int64_t lu_nnz = 0;

  bool refine = false;  // not told: a probe came back with few digits, as if pivots were perturbed

  bool failed() const { return status >= kBreakdown; }  // then x is NaN
  void Write(int32_t* words) const;                     // 8 of them
};

// Words of a ticket: 0-1 nonce, 2 slot, 3 element, 4-5 stamp, 6-7 fingerprint.
struct Ticket {
  static constexpr int64_t kWords = 8;
  std::array<uint32_t, kWords> words{};

  static Ticket Of(int64_t slot, int64_t element, uint64_t stamp,
                   const std::array<uint32_t, 2>& fingerprint);
  static Ticket Read(const uint32_t* words);
  void Write(uint32_t* out) const;
  uint64_t nonce() const { return Joined(0); }
  int64_t slot() const { return words[2]; }
  int64_t element() const { return words[3]; }
  uint64_t stamp() const { return Joined(4); }
  bool operator==(const Ticket& other) const { return words == other.words; }

 private:
  uint64_t Joined(size_t at) const { return words[at] | uint64_t{words[at + 1]} << 32; }
};

uint64_t Nonce();      // of this process; random, never 0. A forked child has another.
uint64_t NextStamp();  // never 0, never twice in a process

// The fixed vector e of the probe: 1 or -1.
double ProbeSign(int64_t i);
// M e, or its transpose's, for the stored matrix M that `options` say how to complete, on the host.
// `out` has n elements.
void ProbeProduct(const Options& options, const Pattern& pattern, Element element,
                  const void* values, bool transposed, void* out);
// max |b - M x| / (max row sum of |M| · max |x| + max |b|), or with M's transpose; infinity if x is
// not finite.
double BackwardError(const Options& options, const Pattern& pattern, Element element,
                     const void* values, bool transposed, const void* x, const void* b);
double Roundoff(Element element);
// max |x - e| over `count` entries of e from `first` on; infinity if x is not finite. Above
// kProbeLimit no digit of x is right.
double ProbeError(Element element, const void* x, int64_t first, int64_t count);
// Between 5e-11, the largest on 13 real matrices, and 0.9, the smallest where factors were garbage
// (design page, section 1): one digit.
constexpr double kProbeLimit = 0.1;
// Refinement steps of "auto" once pivots were perturbed: two left a backward error of 9e-12 of a
// saddle point matrix with cuDSS, three 9e-16.
constexpr int64_t kAutoSteps = 4;
// Backward errors, in roundoffs. One or two are usual; beyond the first a solve is refined. Pivots
// that were replaced may keep refinement from converging, and for some right-hand sides only: with
// less than half of the digits a solution is NaN.
constexpr double kPoor = 50;
inline double HopelessError(Element element) { return std::sqrt(Roundoff(element)); }

// Engines replace pivots below a number, whatever the matrix's entries are: of a matrix in small
// units all, of one in large units none (measured: PARDISO's, and cuDSS's of symmetric matrices).
// So what they get is multiplied with this power of two, which is exact, and the largest entry is
// from 1 to 2.
double Scale(Element element, const void* values, int64_t count);
void Multiply(Element element, void* values, int64_t count, double scale);
template <typename T>
T Times(T value, double scale) {
  return static_cast<T>(value * scale);
}
template <typename T>
std::complex<T> Times(std::complex<T> value, double scale) {
  return {Times(value.real(), scale), Times(value.imag(), scale)};
}

bool AllFinite(Element element, const void* values, int64_t count);
void FillNan(void* out, int64_t bytes);  // every byte 0xFF

struct Counters {
  std::atomic<int64_t> analyses{0};
  std::atomic<int64_t> factorizations{0};  // of batch elements, as the next
  std::atomic<int64_t> refactorizations{0};
  std::atomic<int64_t> solves{0};  // calls, whatever their right-hand sides
  std::atomic<int64_t> factor_hits{0};
  std::atomic<int64_t> factor_misses{0};
  static Counters& Global();
};

}  // namespace nvstate::solver

#endif  // NVSTATE_SOLVER_H_
