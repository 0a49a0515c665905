#include "nvstate/solver.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <tuple>
#include <utility>

#include "nvstate/error.h"

namespace nvstate::solver {
namespace {

constexpr std::array<uint64_t, 2> kLanes = {0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F};

uint64_t Mixed(uint64_t z) {
  z ^= z >> 30;
  z *= 0xBF58476D1CE4E5B9;
  z ^= z >> 27;
  z *= 0x94D049BB133111EB;
  return z ^ z >> 31;
}

[[noreturn]] void Invalid(const std::string& text) { throw Failure(Code::kInvalidArgument, text); }

template <typename Value>
Value Named(const char* attribute, const std::string& name,
            std::initializer_list<std::pair<const char*, Value>> values) {
  for (const auto& [known, value] : values) {
    if (name == known) return value;
  }
  Invalid(std::string("attribute `") + attribute + "` is `" + name + "`, which is not known");
}

bool Flag(AttributeSource& source, const char* name) {
  const int64_t value = source.Int(name);
  if (value != 0 && value != 1) Invalid(std::string("attribute `") + name + "` is not 0 or 1");
  return value == 1;
}

Digest DigestOf(AttributeSource& source, const char* name) {
  const std::vector<uint64_t> words = source.Words(name);
  if (words.size() != 2) Invalid(std::string("attribute `") + name + "` is not two words");
  return {{words[0], words[1]}};
}

uint64_t BitsOf(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

double OfBits(uint64_t bits) {
  double value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

std::vector<int32_t> TreeOf(const std::vector<uint64_t>& words) {  // count, then two in a word
  if (words.empty()) return {};
  const uint64_t count = words[0];
  if (count > 2 * (words.size() - 1)) Invalid("attribute `tree` is shorter than it says");
  std::vector<int32_t> tree(count);
  if (count != 0) std::memcpy(tree.data(), words.data() + 1, count * sizeof(int32_t));
  return tree;
}

double Square(double x) { return x * x; }
template <typename T>
double Square(std::complex<T> x) {
  return Square(double{x.real()}) + Square(double{x.imag()});
}
template <typename T>
T Conj(T x) {
  return x;
}
template <typename T>
std::complex<T> Conj(std::complex<T> x) {
  return std::conj(x);
}
template <typename T>
T Real(T x) {
  return x;
}
template <typename T>
std::complex<T> Real(std::complex<T> x) {
  return x.real();
}

template <typename T>
std::vector<T> ProbeVector(int64_t n) {
  std::vector<T> e(static_cast<size_t>(n));
  for (size_t i = 0; i < e.size(); ++i) e[i] = T(ProbeSign(static_cast<int64_t>(i)));
  return e;
}

// Offsets and indices have their own types here: a look at their width for each entry would take
// longer than its product. `sizes`: sums of absolute values along the rows of what is multiplied
// with, or null.
template <typename T, typename Offset, typename Index>
void Product(const Options& options, int64_t n, const Offset* indptr, const Index* indices,
             const T* values, bool transposed, const T* x, T* out, double* sizes) {
  std::fill_n(out, n, T{});
  const bool hermitian = options.is_hermitian(), lower = options.view == View::kLower;
  const auto add = [&](int64_t to, int64_t from, T value) {
    out[to] += value * x[from];
    if (sizes != nullptr) sizes[to] += static_cast<double>(std::abs(value));
  };
  for (int64_t row = 0; row < n; ++row) {
    for (auto p = static_cast<int64_t>(indptr[row]); p < indptr[row + 1]; ++p) {
      const auto column = static_cast<int64_t>(indices[p]);
      if (options.is_general()) {
        transposed ? add(column, row, values[p]) : add(row, column, values[p]);
      } else if (column == row) {
        add(row, row, hermitian ? Real(values[p]) : values[p]);
      } else if (lower ? column < row : column > row) {
        add(row, column, values[p]);
        add(column, row, hermitian ? Conj(values[p]) : values[p]);
      }
    }
  }
}

// Calls `body` with the pattern's offsets and indices, of their own types.
template <typename Body>
void WithIntegers(const Pattern& pattern, const Body& body) {
  const auto typed = [](int bytes, const void* array, const auto& use) {
    bytes == 4 ? use(static_cast<const int32_t*>(array)) : use(static_cast<const int64_t*>(array));
  };
  typed(pattern.offset_bytes, pattern.indptr, [&](const auto* indptr) {
    typed(pattern.index_bytes, pattern.indices,
          [&](const auto* indices) { body(indptr, indices); });
  });
}

template <typename T>
double Largest(const T* x, int64_t n) {  // infinity if one is not finite
  double largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    const auto size = static_cast<double>(std::abs(x[i]));
    if (!std::isfinite(size)) return std::numeric_limits<double>::infinity();
    largest = std::max(largest, size);
  }
  return largest;
}

}  // namespace

void Hasher::Add(uint64_t word) {
  ++count_;
  for (size_t lane = 0; lane < 2; ++lane) {
    digest_.lanes[lane] += Mixed(word + count_ * kLanes[lane]);
  }
}

Element ElementNamed(std::string_view name) {
  for (const Element element : {Element::kF32, Element::kF64, Element::kC64, Element::kC128}) {
    if (name == NameOf(element)) return element;
  }
  Invalid("values are float32, float64, complex64 or complex128, got " + std::string(name));
}

const char* NameOf(Element element) {
  constexpr const char* names[] = {"float32", "float64", "complex64", "complex128"};
  return names[static_cast<int>(element)];
}

int64_t BytesOf(Element element) {
  constexpr int64_t bytes[] = {4, 8, 8, 16};
  return bytes[static_cast<int>(element)];
}

bool IsComplex(Element element) { return element == Element::kC64 || element == Element::kC128; }
bool IsSingle(Element element) { return element == Element::kF32 || element == Element::kC64; }

Digest DigestOf(const Pattern& pattern) {
  Hasher hasher;
  hasher.Add(static_cast<uint64_t>(pattern.n));
  hasher.Add(static_cast<uint64_t>(pattern.nnz));
  for (int64_t i = 0; i <= pattern.n; ++i) hasher.Add(static_cast<uint64_t>(pattern.Offset(i)));
  for (int64_t i = 0; i < pattern.nnz; ++i) hasher.Add(static_cast<uint64_t>(pattern.Index(i)));
  return hasher.digest();
}

Digest PermutationDigest(const int32_t* permutation, int64_t n) {
  Hasher hasher;
  hasher.Add(static_cast<uint64_t>(n));
  for (int64_t i = 0; i < n; ++i) hasher.Add(static_cast<uint64_t>(int64_t{permutation[i]}));
  return hasher.digest();
}

Digest ReferenceDigest(Element element, const void* values, int64_t nnz) {
  Hasher hasher;
  hasher.Add(static_cast<uint64_t>(nnz));
  const char* at = static_cast<const char*>(values);
  const size_t step = element == Element::kF32 ? 4 : 8;
  for (const char* end = at + nnz * BytesOf(element); at != end; at += step) {
    uint64_t word = 0;
    std::memcpy(&word, at, step);  // the low bytes: all our machines are little-endian
    hasher.Add(word);
  }
  return hasher.digest();
}

void CheckDigest(const char* what, const Digest& expected, const Digest& found) {
  if (expected == found) return;
  Invalid(std::string("the plan's ") + what +
          " was edited after planning: it is not the one that the plan's spec has the digest of; "
          "plan again with the new one");
}

void CheckPattern(const Pattern& pattern) {
  const auto fail = [](int64_t row) {
    Invalid("no CSR pattern: offsets or indices of row " + std::to_string(row) +
            " are out of range, unsorted or repeated");
  };
  if (pattern.Offset(0) != 0 || pattern.Offset(pattern.n) != pattern.nnz) fail(0);
  for (int64_t row = 0; row < pattern.n; ++row) {
    const int64_t begin = pattern.Offset(row), end = pattern.Offset(row + 1);
    if (begin < 0 || begin > end || end > pattern.nnz) fail(row);
    int64_t last = -1;
    for (int64_t p = begin; p < end; ++p) {
      const int64_t column = pattern.Index(p);
      if (column <= last || column >= pattern.n) fail(row);
      last = column;
    }
  }
}

void CheckPermutation(const int32_t* permutation, int64_t n) {
  std::vector<bool> seen(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    const int64_t at = permutation[i];
    if (at < 0 || at >= n || seen[static_cast<size_t>(at)]) {
      Invalid("no permutation of " + std::to_string(n) + ": entry " + std::to_string(i) + " is " +
              std::to_string(at));
    }
    seen[static_cast<size_t>(at)] = true;
  }
}

double Options::pivot_threshold() const { return OfBits(pivot_threshold_bits); }
double Options::pivot_epsilon() const { return OfBits(pivot_epsilon_bits); }
double Options::refinement_tolerance() const { return OfBits(refinement_tolerance_bits); }

bool Options::operator==(const Options& other) const {
  const auto tied = [](const Options& o) {
    return std::tie(o.ring, o.pattern, o.reference, o.permutation, o.matrix_type, o.view,
                    o.reordering, o.matching, o.rematches, o.pivoting, o.pivot_threshold_bits,
                    o.pivot_epsilon_bits, o.refinement_steps, o.reuse_pivots, o.deterministic,
                    o.slots, o.host_threads, o.hybrid_memory, o.hybrid_execute, o.nd_levels,
                    o.nd_unbalance, o.superpanels, o.max_lu_nnz, o.factorization_algorithm,
                    o.solve_algorithm, o.pivot_epsilon_algorithm, o.refinement_tolerance_bits,
                    o.register_host_memory, o.tree);
  };
  return tied(*this) == tied(other);
}

Request::Request(AttributeSource& source) {
  if (source.Int("v") != 1) Invalid("attributes of version 1 expected");
  call.phase = Named<Phase>("phase", source.String("phase"),
                            {{"factorize", Phase::kFactorize},
                             {"solve", Phase::kSolve},
                             {"factorize_solve", Phase::kFactorizeSolve},
                             {"fused", Phase::kFused},
                             {"diagonal", Phase::kDiagonal}});
  call.transposed = Flag(source, "transposed");
  call.owner = source.Int("owner");
  call.on_stale = Named<OnStale>(
      "on_stale", source.String("on_stale"),
      {{"refactorize", OnStale::kRefactorize}, {"raise", OnStale::kRaise}, {"nan", OnStale::kNan}});
  Options& o = options;
  o.ring = source.String("ring");
  o.pattern = DigestOf(source, "pattern");
  o.reference = DigestOf(source, "reference");
  o.permutation = DigestOf(source, "permutation");
  o.matrix_type = Named<MatrixType>("matrix_type", source.String("matrix_type"),
                                    {{"general", MatrixType::kGeneral},
                                     {"symmetric", MatrixType::kSymmetric},
                                     {"hermitian", MatrixType::kHermitian},
                                     {"spd", MatrixType::kSpd},
                                     {"hpd", MatrixType::kHpd}});
  o.view = Named<View>("view", source.String("view"),
                       {{"full", View::kFull}, {"lower", View::kLower}, {"upper", View::kUpper}});
  o.reordering = source.String("reordering");
  o.matching = source.String("matching");
  o.rematches = o.matching == "auto";
  if (o.rematches) o.matching = "none";
  o.pivoting = source.String("pivoting");
  o.pivot_threshold_bits = BitsOf(source.Double("pivot_threshold"));
  o.pivot_epsilon_bits = BitsOf(source.Double("pivot_epsilon"));
  o.refinement_steps = source.Int("refinement_steps");
  o.reuse_pivots = Flag(source, "reuse_pivots");
  o.deterministic = Flag(source, "deterministic");
  o.slots = source.Int("slots");
  o.host_threads = source.Int("host_threads");
  o.hybrid_memory = source.String("hybrid_memory");
  o.hybrid_execute = Flag(source, "hybrid_execute");
  o.nd_levels = source.Int("nd_levels");
  o.nd_unbalance = source.Int("nd_unbalance");
  o.superpanels = source.Int("superpanels");
  o.max_lu_nnz = source.Int("max_lu_nnz");
  o.factorization_algorithm = source.String("factorization_algorithm");
  o.solve_algorithm = source.String("solve_algorithm");
  o.pivot_epsilon_algorithm = source.String("pivot_epsilon_algorithm");
  o.refinement_tolerance_bits = BitsOf(source.Double("refinement_tolerance"));
  o.register_host_memory = source.Int("register_host_memory");
  o.tree = TreeOf(source.Words("tree"));
  if (o.slots < 1) Invalid("attribute `slots` is below 1");
  if (o.host_threads < 0) Invalid("attribute `host_threads` is negative");
  if (o.refinement_steps < -1) Invalid("attribute `refinement_steps` is below -1");
  if (o.is_general() && o.view != View::kFull) Invalid("a general matrix has the view `full`");
  if (!o.is_general() && call.transposed) Invalid("only a general matrix is solved transposed");
  if ((o.matching == "product" || o.reuse_pivots) && o.reference.none()) {
    Invalid("matching and `reuse_pivots` want reference values");
  }
}

int64_t CpuCount() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
  const int64_t online = sysconf(_SC_NPROCESSORS_ONLN);  // more CPUs than a cpu_set_t holds
  return online < 1 ? 1 : online;
}

void Numerics::Write(int32_t* words) const {
  const auto nnz = static_cast<uint64_t>(lu_nnz);
  const int32_t all[] = {status,
                         perturbed_pivots,
                         positive,
                         negative,
                         failing_pivot,
                         static_cast<int32_t>(nnz),
                         static_cast<int32_t>(nnz >> 32),
                         0};
  std::memcpy(words, all, sizeof(all));
}

Ticket Ticket::Of(int64_t slot, int64_t element, uint64_t stamp,
                  const std::array<uint32_t, 2>& fingerprint) {
  const auto low = [](uint64_t word) { return static_cast<uint32_t>(word); };
  const uint64_t nonce = Nonce();
  return {{low(nonce), low(nonce >> 32), low(static_cast<uint64_t>(slot)),
           low(static_cast<uint64_t>(element)), low(stamp), low(stamp >> 32), fingerprint[0],
           fingerprint[1]}};
}

Ticket Ticket::Read(const uint32_t* words) {
  Ticket ticket;
  std::memcpy(ticket.words.data(), words, sizeof(ticket.words));
  return ticket;
}

void Ticket::Write(uint32_t* out) const { std::memcpy(out, words.data(), sizeof(words)); }

uint64_t Nonce() {
  static const uint64_t random = [] {
    std::random_device device;
    return device() | uint64_t{device()} << 32;
  }();
  return Mixed(random + static_cast<uint64_t>(getpid())) | 1;
}

uint64_t NextStamp() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

// As XLA computes it in 32 bits (lowering.py): a multiple of the place, and MurmurHash3's
// finalizer.
double ProbeSign(int64_t i) {
  uint32_t z = (static_cast<uint32_t>(i) + 1) * 0x9E3779B1u;
  z = (z ^ (z >> 16)) * 0x85EBCA6Bu;
  z = (z ^ (z >> 13)) * 0xC2B2AE35u;
  return (z ^ (z >> 16)) & 1 ? 1 : -1;
}

void ProbeProduct(const Options& options, const Pattern& pattern, Element element,
                  const void* values, bool transposed, void* out) {
  WithType(element, [&](auto zero) {
    using T = decltype(zero);
    const std::vector<T> e = ProbeVector<T>(pattern.n);
    WithIntegers(pattern, [&](const auto* indptr, const auto* indices) {
      Product(options, pattern.n, indptr, indices, static_cast<const T*>(values), transposed,
              e.data(), static_cast<T*>(out), nullptr);
    });
  });
}

double BackwardError(const Options& options, const Pattern& pattern, Element element,
                     const void* values, bool transposed, const void* x, const void* b) {
  return WithType(element, [&](auto zero) {
    using T = decltype(zero);
    const auto size = static_cast<size_t>(pattern.n);
    std::vector<T> residual(size);
    std::vector<double> sizes(size);
    WithIntegers(pattern, [&](const auto* indptr, const auto* indices) {
      Product(options, pattern.n, indptr, indices, static_cast<const T*>(values), transposed,
              static_cast<const T*>(x), residual.data(), sizes.data());
    });
    for (size_t i = 0; i < size; ++i) residual[i] -= static_cast<const T*>(b)[i];
    const double off = Largest(residual.data(), pattern.n);
    if (off == 0 || !std::isfinite(off)) return off;
    return off / (*std::max_element(sizes.begin(), sizes.end()) *
                      Largest(static_cast<const T*>(x), pattern.n) +
                  Largest(static_cast<const T*>(b), pattern.n));
  });
}

double Roundoff(Element element) {
  return IsSingle(element) ? std::numeric_limits<float>::epsilon()
                           : std::numeric_limits<double>::epsilon();
}

double ProbeError(Element element, const void* x, int64_t first, int64_t count) {
  return WithType(element, [&](auto zero) {
    using T = decltype(zero);
    // In blocks and without a branch, so that the compiler vectorises it. Squares are added up
    // beside the largest: a NaN anywhere makes that sum NaN, which a maximum alone may lose.
    constexpr int64_t kBlock = 64;
    double largest[kBlock] = {}, sum[kBlock] = {};
    for (int64_t start = 0; start < count; start += kBlock) {
      double off[kBlock] = {};
      const int64_t size = std::min(kBlock, count - start);
      const T* const at = static_cast<const T*>(x) + start;
      for (int64_t i = 0; i < size; ++i) off[i] = Square(at[i] - T(ProbeSign(first + start + i)));
      for (int64_t i = 0; i < kBlock; ++i) largest[i] = off[i] > largest[i] ? off[i] : largest[i];
      for (int64_t i = 0; i < kBlock; ++i) sum[i] += off[i];
    }
    const double all = std::accumulate(std::begin(sum), std::end(sum), 0.0);
    return std::isfinite(all) ? std::sqrt(*std::max_element(std::begin(largest), std::end(largest)))
                              : std::numeric_limits<double>::infinity();
  });
}

bool AllFinite(Element element, const void* values, int64_t count) {
  if (IsComplex(element)) count *= 2;
  if (IsSingle(element)) {
    // Exponents of all ones; summed without a branch, so that the loop is vectorised.
    uint32_t bad = 0;
    for (int64_t i = 0; i < count; ++i) {
      uint32_t bits;
      std::memcpy(&bits, static_cast<const float*>(values) + i, sizeof(bits));
      bad |= (bits & 0x7F800000) == 0x7F800000;
    }
    return bad == 0;
  }
  uint64_t bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint64_t bits;
    std::memcpy(&bits, static_cast<const double*>(values) + i, sizeof(bits));
    bad |= (bits & 0x7FF0000000000000) == 0x7FF0000000000000;
  }
  return bad == 0;
}

void FillNan(void* out, int64_t bytes) { std::memset(out, 0xFF, static_cast<size_t>(bytes)); }

Counters& Counters::Global() {
  static auto* const counters = new Counters();
  return *counters;
}

}  // namespace nvstate::solver
