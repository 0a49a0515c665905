#include "nvstate/solver.h"

#include <sched.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <random>
#include <tuple>
#include <utility>

#include "nvstate/error.h"

namespace nvstate::solver {
namespace {

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

}  // namespace

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
  Hasher hasher;
  hasher.Add(random + static_cast<uint64_t>(getpid()));
  return hasher.digest().lanes[0] | 1;
}

uint64_t NextStamp() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

Counters& Counters::Global() {
  static auto* const counters = new Counters();
  return *counters;
}

}  // namespace nvstate::solver
