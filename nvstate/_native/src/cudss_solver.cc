// The FFI target nvstate_cudss_v1: the phases of a sparse direct solver that wait for the device,
// so that it is never captured. Shapes have one batch dimension B, and k right-hand sides as rows.
//
// After indptr, indices, permutation, reference, values:
//   prints, probe    -> ticket, info       factorize
//   prints, probe, b -> x, ticket, info    factorize_solve
//   check, b         -> x                  solve
//   check            -> d                  diagonal
//   b                -> x                  fused: of one member; nothing is kept, said or waited
//   for
//
// prints: uint32 [B, 4], the fingerprint of the values, and whether they are not finite. check:
// uint32 [B, 12], a ticket and then prints. probe: [B, n], M e for e of ±1, or [B, 0] where the
// library itself finds what cannot be factorized. With on_stale="nan" solve does not wait: it
// solves with slot 0, whose stamp and fingerprint are a second result, uint32 [B, 4].

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "nvstate/cudss_call.h"
#include "nvstate/cudss_ring.h"

namespace nvstate::cudss {
namespace {

using solver::Phase;
using solver::Ticket;

[[noreturn]] void Invalid(const std::string& text) { throw Failure(Code::kInvalidArgument, text); }

// Of a fused call nobody asks what happened. One that is not definite would spoil all later ones:
// the library's error indicator stays until it is reset, which waits.
void RequireFused(const solver::Options& o) {
  const auto refuse = [](const char* what) {
    Invalid(std::string(what) + " cannot be factorized and solved without being asked about");
  };
  if (o.is_definite()) refuse("an spd or hpd matrix");
  if (o.matching != "none" || !o.reference.none()) refuse("a matrix with reference values");
  if (o.deterministic) refuse("a deterministic plan");
  if (!o.hybrid_memory.empty() || o.hybrid_execute) refuse("a plan with a hybrid mode");
}

struct Spec {
  static constexpr const char* kOperation = "direct_solver";
  static constexpr int64_t kVersion = 1;
  explicit Spec(Attributes& a) : request(a) {
    if (request.call.transposed && IsColamd(request.options)) {
      throw Failure(Code::kInvalidArgument,
                    "cuDSS does not solve transposed systems with "
                    "reordering `" +
                        request.options.reordering + "`");
    }
    if (request.call.phase == Phase::kFused) RequireFused(request.options);
  }
  solver::Request request;
};

struct Nothing {};
using Site = SiteOf<Spec, Nothing>;

struct Row {  // of a batch: what is known of its values
  Ticket ticket;
  Print print;
  bool done = false;
  bool edited = false;  // the slot is there, of other values
  // It is there, of a data object of all elements, where the library tells no element's diagonal.
  bool uniform = false;
};

class Run {  // one execution
 public:
  Run(const Spec& spec, abi::CUstream stream, int device, int64_t run, const Buffers& buffers)
      : request_(spec.request), stream_(stream), device_(device), run_(run), buffers_(buffers) {}

  void Factorize() {
    const std::shared_ptr<Ring> ring = OwnRing();
    std::lock_guard lock(ring->mutex());
    const std::vector<Row> rows = Rows(ring->context());
    Branch branch(ring->context(), stream_);
    const int64_t slot = ring->Factorize(run_, buffers_.values(), Prints(rows), buffers_.probe());
    Tell(*ring, slot);
    if (request_.call.phase == Phase::kFactorizeSolve && buffers_.k() != 0) {
      ring->SolveAll(slot, request_.call.transposed, buffers_.b(0), buffers_.x(0), buffers_.k());
      ++solver::Counters::Global().solves;
    }
  }

  void Fused() {
    const std::shared_ptr<Ring> ring = OwnRing();
    std::lock_guard lock(ring->mutex());
    Branch branch(ring->context(), stream_);
    ring->FactorizeAndSolve(request_.call.transposed, buffers_.values(), buffers_.b(0),
                            buffers_.x(0), buffers_.k());
    ++solver::Counters::Global().solves;
  }

  void Solve() {
    if (request_.call.on_stale == solver::OnStale::kNan) {
      SolveUnchecked();
    } else {
      Find([&](Ring& ring, int64_t slot, int64_t at, int64_t row) {
        if (at == kAll) {
          ring.SolveAll(slot, request_.call.transposed, buffers_.b(0), buffers_.x(0), buffers_.k());
        } else {
          ring.Solve(slot, at, request_.call.transposed, buffers_.b(row), buffers_.x(row),
                     buffers_.k());
        }
      });
    }
    ++solver::Counters::Global().solves;
  }

  void Diagonal() {
    Find([&](Ring& ring, int64_t slot, int64_t at, int64_t row) {
      const int64_t first = at == kAll ? 0 : at, last = at == kAll ? ring.shape().batch : at + 1;
      for (int64_t i = first; i < last; ++i) {
        ring.Diagonal(slot, i, buffers_.diagonal(at == kAll ? i : row));
      }
    });
  }

 private:
  static constexpr int64_t kAll = -1;

  std::vector<char> OnHost(size_t i) const {  // an operand
    std::vector<char> bytes(buffers_.arg(i).size_bytes());
    if (bytes.empty()) return bytes;
    NVS_CHECK(Opened<StreamDriver>().cuMemcpyDtoHAsync_v2(
        bytes.data(), Address(buffers_.arg(i).untyped_data()), bytes.size(), stream_));
    NVS_CHECK(Opened<Driver>().cuStreamSynchronize(stream_));
    return bytes;
  }

  std::shared_ptr<Ring> OwnRing() {
    const Shape& shape = buffers_.shape();
    return RingFor(device_, request_, shape, [&] {
      const std::vector<char> indptr = OnHost(0), indices = OnHost(1), order = OnHost(2),
                              values = OnHost(3);
      const auto* const permutation =
          order.empty() ? nullptr : reinterpret_cast<const int32_t*>(order.data());
      const HostPattern pattern(request_.options,
                                {shape.n, shape.nnz, indptr.data(), shape.offset_bytes,
                                 indices.data(), shape.index_bytes},
                                permutation);
      return std::make_unique<Ring>(device_, request_.options, shape, pattern,
                                    values.empty() ? nullptr : values.data());
    });
  }

  // Reads tickets, if any, and prints: one copy, and the wait.
  std::vector<Row> Rows(const Context& context) {
    const ffi::AnyBuffer words = buffers_.arg(5);
    std::vector<uint32_t> host(words.element_count());
    context.Read(host.data(), words.untyped_data(), words.size_bytes(), stream_);
    return RowsIn(host.data());
  }

  // The same, and solves meanwhile with the slot that they probably name, which is returned; else
  // -1. So the device is not idle while the host reads and then enqueues. If another slot is named,
  // that one solves after it.
  int64_t RowsAhead(Ring& ring, std::vector<Row>& rows) {
    const ffi::AnyBuffer words = buffers_.arg(5);
    const int64_t guess = ring.Guess();
    if (request_.call.phase != Phase::kSolve || guess < 0 ||
        ring.shape().batch != buffers_.shape().batch || words.size_bytes() > Context::kFewBytes) {
      rows = Rows(ring.context());
      return -1;
    }
    Context::Reading reading(ring.context(), words.untyped_data(), words.size_bytes(), stream_);
    {
      Branch branch(ring.context(), stream_);
      ring.SolveAll(guess, request_.call.transposed, buffers_.b(0), buffers_.x(0), buffers_.k());
    }
    rows = RowsIn(static_cast<const uint32_t*>(reading.Wait()));
    return guess;
  }

  std::vector<Row> RowsIn(const uint32_t* host) {
    const auto width = static_cast<size_t>(buffers_.arg(5).dimensions()[1]);
    std::vector<Row> rows(buffers_.arg(5).element_count() / width);
    for (size_t i = 0; i < rows.size(); ++i) {
      const uint32_t* const row = host + i * width;
      if (width == 12) rows[i].ticket = Ticket::Read(row);
      std::copy_n(row + width - 4, 4, rows[i].print.begin());
    }
    prints_ = Prints(rows);
    return rows;
  }

  static std::vector<Print> Prints(const std::vector<Row>& rows) {
    std::vector<Print> prints;
    for (const Row& row : rows) prints.push_back(row.print);
    return prints;
  }

  void Tell(Ring& ring, int64_t slot) {
    std::vector<uint32_t> tickets;
    std::vector<int32_t> infos;
    for (int64_t i = 0; i < buffers_.shape().batch; ++i) {
      tickets.resize(tickets.size() + 8);
      ring.slots().TicketOf(slot, i).Write(tickets.data() + tickets.size() - 8);
      infos.resize(infos.size() + 8);
      ring.slots()[slot].numerics[static_cast<size_t>(i)].Write(infos.data() + infos.size() - 8);
    }
    Context& context = ring.context();
    context.Write(buffers_.ticket().untyped_data(), tickets.data(), tickets.size() * 4);
    context.Write(buffers_.info().untyped_data(), infos.data(), infos.size() * 4);
  }

  std::vector<std::shared_ptr<Ring>> Rings() const {  // this batch's first
    auto rings = solver::RingsOf<Ring>(Ring::kEngine, device_, request_.options.ring);
    std::stable_partition(rings.begin(), rings.end(), [&](const auto& ring) {
      return ring->shape().batch == buffers_.shape().batch;
    });
    return rings;
  }

  // Calls `use` with the ring, slot and element that hold each row's factors, or with all at once.
  template <typename Use>
  void Find(const Use& use) {
    std::vector<Row> rows;
    for (const std::shared_ptr<Ring>& ring : Rings()) {
      std::lock_guard lock(ring->mutex());
      const int64_t solved = rows.empty() ? RowsAhead(*ring, rows) : -1;
      if (Hits(*ring, rows, solved, use)) return;
    }
    if (rows.empty()) {  // there is no ring
      rows = RowsIn(reinterpret_cast<const uint32_t*>(OnHost(5).data()));
    }
    for (const std::shared_ptr<Ring>& ring : Rings()) {
      std::lock_guard lock(ring->mutex());
      for (const Row& row : rows) {
        if (!row.done && !row.uniform) ring->slots().Missed(row.ticket);
      }
    }
    if (request_.call.on_stale == solver::OnStale::kRaise) {
      const auto row = std::find_if(rows.begin(), rows.end(),
                                    [](const Row& r) { return !r.done && !r.uniform; });
      if (row != rows.end()) {
        throw Failure(Code::kFailedPrecondition, solver::WhyStale(row->ticket, row->edited));
      }
    }
    const std::shared_ptr<Ring> ring = OwnRing();
    std::lock_guard lock(ring->mutex());
    if (request_.call.phase == Phase::kDiagonal) ring->OnlySingles();
    Branch branch(ring->context(), stream_);
    // Not the slot that this run has filled last: that may be another factor of this program.
    const int64_t slot = ring->Factorize(0, buffers_.values(), prints_, nullptr);
    const bool none_done =
        std::none_of(rows.begin(), rows.end(), [](const Row& row) { return row.done; });
    if (none_done) use(*ring, slot, kAll, 0);
    for (size_t i = 0; i < rows.size(); ++i) {
      const auto at = static_cast<int64_t>(i);
      // All, so that the next solve finds them in one place, and no two drive each other out.
      ring->slots().Alias(slot, at, rows[i].ticket);
      if (rows[i].done) continue;
      if (!none_done) use(*ring, slot, at, at);
      if (!rows[i].uniform) ++solver::Counters::Global().factor_misses;
    }
  }

  // True if all are done. `solved`: the slot that all were solved with already, or -1.
  template <typename Use>
  bool Hits(Ring& ring, std::vector<Row>& rows, int64_t solved, const Use& use) {
    std::vector<solver::Slots::Found> found(rows.size(), {-1, 0});
    bool any = false, in_order = static_cast<size_t>(ring.shape().batch) == rows.size();
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].done) continue;
      const std::array<uint32_t, 2> print{rows[i].print[0], rows[i].print[1]};
      const std::vector<solver::Slots::Found> named = ring.slots().Find(rows[i].ticket);
      const auto same = std::find_if(named.begin(), named.end(), [&](const auto& one) {
        return ring.slots().SameFingerprint(one, print);
      });
      if (same == named.end()) {
        rows[i].edited |= !named.empty();
      } else if (request_.call.phase == Phase::kDiagonal && ring.IsUniform(same->slot)) {
        rows[i].uniform = true;
      } else {
        found[i] = *same;
      }
      any |= found[i].slot >= 0;
    }
    for (size_t i = 0; i < rows.size(); ++i) {
      in_order &= found[i].slot >= 0 && found[i].slot == found[0].slot &&
                  found[i].element == static_cast<int64_t>(i);
    }
    if (solved >= 0 && (!in_order || found[0].slot != solved)) ring.slots().Misguessed();
    if (!any) return false;
    std::optional<Branch> branch;
    if (!in_order || found[0].slot != solved) branch.emplace(ring.context(), stream_);
    if (in_order && branch) use(ring, found[0].slot, kAll, 0);
    for (size_t i = 0; i < rows.size(); ++i) {
      if (found[i].slot < 0) continue;
      if (!in_order) use(ring, found[i].slot, found[i].element, static_cast<int64_t>(i));
      ring.slots().Hit(found[i].slot);
      rows[i].done = true;
      ++solver::Counters::Global().factor_hits;
    }
    return std::all_of(rows.begin(), rows.end(), [](const Row& row) { return row.done; });
  }

  void SolveUnchecked() {
    auto* const hidden = static_cast<uint32_t*>(buffers_.ret(1).untyped_data());
    for (const std::shared_ptr<Ring>& ring : Rings()) {
      if (ring->shape().batch != buffers_.shape().batch) continue;
      std::lock_guard lock(ring->mutex());
      if (ring->slots().size() == 0 || ring->slots()[0].stamp == 0) break;
      Branch branch(ring->context(), stream_);
      ring->SolveAll(0, request_.call.transposed, buffers_.b(0), buffers_.x(0), buffers_.k());
      for (int64_t i = 0; i < buffers_.shape().batch; ++i) {
        const Ticket ticket = ring->slots().TicketOf(0, i);
        for (int64_t word = 0; word < 4; ++word) {  // no copy from the host: that may wait
          FillWord(hidden + 4 * i + word, ticket.words[static_cast<size_t>(4 + word)],
                   ring->context().stream());
        }
      }
      return;
    }
    FillNan(buffers_.x(0), buffers_.ret(0).size_bytes(), stream_);
    for (int64_t i = 0; i < 4 * buffers_.shape().batch; ++i) FillWord(hidden + i, 0, stream_);
  }

  const solver::Request& request_;
  const abi::CUstream stream_;
  const int device_;
  const int64_t run_;
  const Buffers& buffers_;
  std::vector<Print> prints_;
};

std::string Describe(ffi::RemainingArgs args) {
  std::string text = "cuDSS";
  for (size_t i = 0; i < args.size(); ++i) {
    const char* const names[] = {"indptr", "indices", "", "", "values", "", "b"};
    const auto buffer = args.get<ffi::AnyBuffer>(i);
    if (i >= std::size(names) || names[i][0] == '\0' || !buffer.has_value()) continue;
    text += std::string(", ") + names[i] + " " + nvstate::TypeOf(*buffer);
  }
  return text;
}

ffi::Error Execute(abi::CUstream stream, int32_t device, Site* site, ffi::RunId run,
                   ffi::RemainingArgs args, ffi::RemainingRets rets) {
  return Guard(
      "direct_solver", [&] { return Describe(args); },
      [&] {
        const Buffers buffers(site->spec().request, args, rets);
        if (buffers.shape().batch == 0) return;
        OnDevice on(device);
        Run one(site->spec(), stream, device, run.run_id, buffers);
        const Phase phase = site->spec().request.call.phase;
        if (phase == Phase::kDiagonal) {
          one.Diagonal();
        } else if (phase != Phase::kSolve && phase != Phase::kFused) {
          one.Factorize();
        } else if (buffers.k() != 0) {
          phase == Phase::kSolve ? one.Solve() : one.Fused();
        }
        Cache::Global().Recount();
      });
}

const auto buffers = [](auto binding) {
  return std::move(binding).template Ctx<ffi::RunId>().RemainingArgs().RemainingRets();
};

}  // namespace

NVS_TARGET_WAITING(nvstate_cudss_v1, Site, Execute, buffers);

}  // namespace nvstate::cudss
