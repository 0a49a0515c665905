// PARDISO for XLA on CPUs: factorize, solve, both, and the diagonal. Stateless: rings are found in
// the process-wide cache at every call.

#include "nvstate/pardiso.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "nvstate/ffi.h"

namespace nvstate::pardiso {
namespace {

using solver::Counters;
using solver::OnStale;
using solver::Phase;
using solver::Request;
using solver::Slots;
using solver::Ticket;

std::string NameOf(ffi::DataType type) {
  switch (type) {
    case ffi::F32:
      return "float32";
    case ffi::F64:
      return "float64";
    case ffi::C64:
      return "complex64";
    case ffi::C128:
      return "complex128";
    case ffi::S32:
      return "int32";
    case ffi::S64:
      return "int64";
    case ffi::U32:
      return "uint32";
    default:
      return "another type";
  }
}

std::string Named(const ffi::AnyBuffer& buffer) {
  std::string text;
  for (const int64_t size : buffer.dimensions()) {
    text += (text.empty() ? "" : ",") + std::to_string(size);
  }
  return NameOf(buffer.element_type()) + "[" + text + "]";
}

std::string Describe(const ffi::RemainingArgs& args) {
  std::string text = "of";
  for (size_t i = 0; i < args.size(); ++i) {
    const auto buffer = args.get<ffi::AnyBuffer>(i);
    text += " " + (buffer.has_value() ? Named(*buffer) : std::string("a token"));
  }
  return text;
}

void Expect(const ffi::AnyBuffer& buffer, const char* what, ffi::DataType type,
            const std::vector<int64_t>& dims) {
  const auto found = buffer.dimensions();
  if (buffer.element_type() == type &&
      std::equal(found.begin(), found.end(), dims.begin(), dims.end())) {
    return;
  }
  std::string text;
  for (const int64_t size : dims) text += (text.empty() ? "" : ",") + std::to_string(size);
  throw Failure(Code::kInvalidArgument,
                std::string(what) + " is " + NameOf(type) + "[" + text + "], got " + Named(buffer));
}

int IntegerBytes(const ffi::AnyBuffer& buffer, const char* what) {
  const ffi::DataType type = buffer.element_type();
  if (buffer.dimensions().size() != 1 || (type != ffi::S32 && type != ffi::S64)) {
    throw Failure(Code::kInvalidArgument,
                  std::string(what) + " is int32 or int64 [...], got " + Named(buffer));
  }
  return type == ffi::S32 ? 4 : 8;
}

// A call's buffers, checked against each other and its attributes.
class Buffers {
 public:
  Buffers(const Request& request, ffi::RemainingArgs args, ffi::RemainingRets rets)
      : args_(args), rets_(rets) {
    const Phase phase = request.call.phase;
    const bool has_ticket = phase == Phase::kSolve || phase == Phase::kDiagonal;
    const bool has_b = phase == Phase::kSolve || phase == Phase::kFactorizeSolve;
    Count(args_.size(), 5 + (has_ticket ? 1 : 0) + (has_b ? 1 : 0), "operands");
    Count(rets_.size(),
          phase == Phase::kFactorizeSolve ? 3
          : phase == Phase::kFactorize    ? 2
                                          : 1,
          "results");
    const ffi::AnyBuffer indptr = Arg(0), indices = Arg(1), values = Arg(4);
    const int offset_bytes = IntegerBytes(indptr, "indptr");
    const int index_bytes = IntegerBytes(indices, "indices");
    const auto dims = values.dimensions();
    n = indptr.dimensions()[0] - 1;
    nnz = indices.dimensions()[0];
    if (n < 1 || dims.size() != 2) {
      throw Failure(Code::kInvalidArgument, "values are [B, nnz], got " + Named(values));
    }
    batch = dims[0];
    type = values.element_type();
    element = solver::ElementNamed(NameOf(type));
    Expect(values, "values", type, {batch, nnz});
    Expect(Arg(2), "the permutation", ffi::S32, {request.options.permutation.none() ? 0 : n});
    Expect(Arg(3), "the reference", type, {request.options.reference.none() ? 0 : nnz});
    pattern = {n, nnz, indptr.untyped_data(), offset_bytes, indices.untyped_data(), index_bytes};
    permutation = static_cast<const int32_t*>(Arg(2).untyped_data());
    reference = Arg(3).untyped_data();
    this->values = static_cast<const char*>(values.untyped_data());
    if (has_ticket) {
      Expect(Arg(5), "the ticket", ffi::U32, {batch, Ticket::kWords});
      tickets_in = static_cast<const uint32_t*>(Arg(5).untyped_data());
    }
    if (has_b) {
      const ffi::AnyBuffer right = Arg(args_.size() - 1);
      columns = right.dimensions().size() == 3 ? right.dimensions()[1] : 0;
      Expect(right, "b", type, {batch, columns, n});
      b = static_cast<const char*>(right.untyped_data());
    }
    if (phase == Phase::kDiagonal) {
      Expect(Ret(0), "the diagonal", type, {batch, n});
    } else if (has_b) {
      Expect(Ret(0), "x", type, {batch, columns, n});
    }
    if (has_b || phase == Phase::kDiagonal) out = static_cast<char*>(Ret(0).untyped_data());
    if (!has_ticket) {
      const size_t first = rets_.size() - 2;
      Expect(Ret(first), "the ticket", ffi::U32, {batch, Ticket::kWords});
      Expect(Ret(first + 1), "info", ffi::S32, {batch, 8});
      tickets_out = static_cast<uint32_t*>(Ret(first).untyped_data());
      info = static_cast<int32_t*>(Ret(first + 1).untyped_data());
    }
  }

  int64_t n, nnz, batch, columns = 0;
  ffi::DataType type;
  solver::Element element;
  Pattern pattern;
  const int32_t* permutation;
  const void* reference;
  const char* values;
  const char* b = nullptr;
  const uint32_t* tickets_in = nullptr;
  char* out = nullptr;
  uint32_t* tickets_out = nullptr;
  int32_t* info = nullptr;

  const char* ValuesOf(int64_t i) const { return values + i * nnz * BytesOf(element); }
  int64_t Step() const { return columns * n * BytesOf(element); }  // of b and x, in the batch

 private:
  static void Count(size_t found, size_t expected, const char* what) {
    if (found == expected) return;
    throw Failure(Code::kInvalidArgument, std::to_string(expected) + " " + what +
                                              " expected, got " + std::to_string(found));
  }
  ffi::AnyBuffer Arg(size_t i) const {
    const auto buffer = args_.get<ffi::AnyBuffer>(i);
    if (buffer.has_value()) return *buffer;
    throw Failure(Code::kInvalidArgument, "operand " + std::to_string(i) + " is no buffer");
  }
  ffi::AnyBuffer Ret(size_t i) const {
    auto buffer = rets_.get<ffi::AnyBuffer>(i);
    if (buffer.has_value()) return **buffer;
    throw Failure(Code::kInvalidArgument, "result " + std::to_string(i) + " is no buffer");
  }
  const ffi::RemainingArgs args_;
  const ffi::RemainingRets rets_;
};

class Execution {
 public:
  Execution(const Request& request, const Buffers& buffers, int64_t run, int64_t device)
      : request_(request),
        buffers_(buffers),
        run_(run),
        device_(device),
        problem_{request.options, buffers.element, buffers.n, buffers.nnz} {}

  void Run() {
    if (buffers_.batch == 0) return;
    const bool solves =
        request_.call.phase == Phase::kSolve || request_.call.phase == Phase::kFactorizeSolve;
    if (solves && buffers_.columns > 0) ++Counters::Global().solves;
    if (buffers_.tickets_in == nullptr) {
      Factorize(solves);
    } else if (!solves || buffers_.columns > 0) {
      UseFactors();
    }
    Cache::Global().Recount();
  }

 private:
  void Factorize(bool solves) {
    const auto ring = RingFor(device_, problem_, buffers_.batch, request_.call.owner);
    std::lock_guard lock(ring->mutex());
    ring->Analyze(buffers_.pattern, buffers_.permutation, buffers_.reference);
    const int64_t slot = ring->Factorize(run_, buffers_.values);
    for (int64_t i = 0; i < buffers_.batch; ++i) {
      ring->slots().TicketOf(slot, i).Write(buffers_.tickets_out + i * Ticket::kWords);
      ring->slots()[slot].numerics[static_cast<size_t>(i)].Write(buffers_.info + i * 8);
      if (solves && buffers_.columns > 0) Finish(*ring, {slot, i}, i);
    }
  }

  void UseFactors() {
    std::vector<bool> missed(static_cast<size_t>(buffers_.batch));
    auto rings = RingsFor(device_, problem_);
    std::stable_sort(rings.begin(), rings.end(), [&](const auto& a, const auto& b) {
      return (a->slots().batch() == buffers_.batch) > (b->slots().batch() == buffers_.batch);
    });
    bool any = false;
    for (int64_t i = 0; i < buffers_.batch; ++i) {
      bool other_values = false;
      const bool hit = std::any_of(rings.begin(), rings.end(),
                                   [&](const auto& ring) { return Hit(*ring, i, &other_values); });
      missed[static_cast<size_t>(i)] = !hit;
      any = any || !hit;
      ++(hit ? Counters::Global().factor_hits : Counters::Global().factor_misses);
      if (hit) continue;
      for (const auto& ring : rings) {
        std::lock_guard lock(ring->mutex());
        ring->slots().Missed(TicketOf(i));
      }
      if (request_.call.on_stale == OnStale::kRaise) {
        throw Failure(Code::kFailedPrecondition, WhyStale(TicketOf(i), other_values));
      }
    }
    if (!any) return;
    if (request_.call.on_stale == OnStale::kNan) {
      for (int64_t i = 0; i < buffers_.batch; ++i) {
        if (missed[static_cast<size_t>(i)]) solver::FillNan(OutOf(i), OutBytes());
      }
      return;
    }
    const auto ring = RingFor(device_, problem_, buffers_.batch, request_.call.owner);
    std::lock_guard lock(ring->mutex());
    ring->Analyze(buffers_.pattern, buffers_.permutation, buffers_.reference);
    // Not the slot that this run has filled last: that may be another factor of this program. All
    // members, so that the next solve finds them in one place, and no two of them drive each other
    // out.
    const int64_t slot = ring->Factorize(0, buffers_.values);
    for (int64_t i = 0; i < buffers_.batch; ++i) {
      ring->slots().Alias(slot, i, TicketOf(i));
      if (missed[static_cast<size_t>(i)]) Finish(*ring, {slot, i}, i);
    }
  }

  bool Hit(Ring& ring, int64_t i, bool* other_values) {
    std::lock_guard lock(ring.mutex());
    const Ticket ticket = TicketOf(i);
    const std::vector<Slots::Found> candidates = ring.slots().Find(ticket);
    for (const Slots::Found& found : candidates) {
      if (!ring.Same(found, buffers_.ValuesOf(i))) continue;
      ring.slots().Hit(found.slot);
      Finish(ring, found, i);
      return true;
    }
    *other_values = *other_values || !candidates.empty();
    return false;
  }

  void Finish(Ring& ring, const Slots::Found& found, int64_t i) {
    if (request_.call.phase == Phase::kDiagonal) {
      ring.Diagonal(found, OutOf(i));
    } else {
      ring.Solve(found, request_.call.transposed, buffers_.columns,
                 buffers_.b + i * buffers_.Step(), OutOf(i));
    }
  }

  int64_t OutBytes() const {
    return request_.call.phase == Phase::kDiagonal ? buffers_.n * BytesOf(buffers_.element)
                                                   : buffers_.Step();
  }
  char* OutOf(int64_t i) const { return buffers_.out + i * OutBytes(); }
  Ticket TicketOf(int64_t i) const {
    return Ticket::Read(buffers_.tickets_in + i * Ticket::kWords);
  }

  const Request& request_;
  const Buffers& buffers_;
  const int64_t run_;
  const int64_t device_;
  const Problem problem_;
};

ffi::Error Execute(ffi::RunId run, int32_t device, ffi::RemainingArgs args, ffi::RemainingRets rets,
                   ffi::Dictionary dictionary) {
  return Guard(
      "direct_solver", [&] { return "PARDISO, " + Describe(args); },
      [&] {
        Attributes attributes(dictionary);
        const Request request(attributes);
        attributes.Done();
        if (request.call.phase == Phase::kFused) {
          throw Failure(Code::kInvalidArgument, "PARDISO has no phase `fused`");
        }
        const Buffers buffers(request, args, rets);
        Execution(request, buffers, run.run_id, device).Run();
      });
}

class Pardiso : public solver::Engine {
 public:
  solver::Facts Analyze(int64_t device, const Request& request, Element element,
                        const Pattern& pattern, const int32_t* permutation,
                        const void* reference) const override {
    if ((permutation == nullptr) != request.options.permutation.none() ||
        (reference == nullptr) != request.options.reference.none()) {
      throw Failure(Code::kInvalidArgument,
                    "a permutation or a reference goes with its digest in the attributes");
    }
    const Problem problem{request.options, element, pattern.n, pattern.nnz};
    const auto ring = RingFor(device, problem, 1, request.call.owner);
    solver::Facts facts;
    {
      std::lock_guard lock(ring->mutex());
      ring->Analyze(pattern, permutation, reference);
      facts = ring->facts();
    }
    Cache::Global().Recount();
    return facts;
  }

  std::optional<solver::Array> Find(int64_t device, const std::string& name,
                                    std::string_view array) const override {
    if (array != "row_permutation") return std::nullopt;
    for (const auto& ring : solver::RingsOf<Ring>("pardiso", device, name)) {
      std::lock_guard lock(ring->mutex());
      if (ring->analyzed()) return ring->Permutation();
    }
    return std::nullopt;
  }
};

const bool known = solver::AddEngine("pardiso", new Pardiso());

}  // namespace

extern "C" NVS_EXPORT XLA_FFI_Error* nvstate_pardiso_v1(XLA_FFI_CallFrame*);
XLA_FFI_DEFINE_HANDLER_SYMBOL(nvstate_pardiso_v1, Execute,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::RunId>()
                                  .Ctx<ffi::DeviceOrdinal>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attrs());

}  // namespace nvstate::pardiso
