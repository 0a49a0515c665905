// Which of a ring's slots a factorization goes to, and which one a ticket names. An engine keeps
// what a slot holds in arrays of its own, by the slot's number. The ring's mutex is the caller's,
// held for a whole phase.

#ifndef NVSTATE_SOLVER_SLOTS_H_
#define NVSTATE_SOLVER_SLOTS_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "nvstate/cache.h"
#include "nvstate/solver.h"

namespace nvstate::solver {

struct Slot {
  uint64_t stamp = 0;                                 // 0: it holds nothing
  std::vector<Numerics> numerics;                     // by element of the batch, as the next two
  std::vector<std::array<uint32_t, 2>> fingerprints;  // zeros on CPU
  std::vector<Ticket> aliases;  // tickets that missed and for whose values this was factorized
  int64_t run = 0;              // that factorized it last; 0: none that can be told
  uint64_t first_of_run = 0;    // stamp of what that run put here first
  uint64_t used = 0;            // on the ring's clock
};

class Slots {
 public:
  Slots(int64_t limit, int64_t batch) : limit_(limit), batch_(batch) {}

  // Where to factorize next; the slot there holds nothing from now on, so that a failure leaves no
  // stale ticket valid. A run has its own last slot again, until a ticket misses that was replaced
  // so; else an empty one; a further one while there are fewer than the limit and `can_grow()` (not
  // asked for the first); else the one unused longest. `run` 0 is no run.
  int64_t Choose(int64_t run, const std::function<bool()>& can_grow);

  // Says that the slot holds a factorization now. Fingerprints are zeros on CPU.
  void Fill(int64_t slot, int64_t run, std::vector<Numerics> numerics,
            std::vector<std::array<uint32_t, 2>> fingerprints);
  // A ticket that missed names what the slot holds from now on: later solves find it.
  void Alias(int64_t slot, int64_t element, const Ticket& ticket);
  // The last slot could not be made: there is one less from here on, but for the first. False: it
  // was not the last, or the only one.
  bool Withdraw(int64_t slot);
  void Empty(int64_t slot);  // it holds nothing, and no ticket names it
  void Clear();

  Ticket TicketOf(int64_t slot, int64_t element) const;

  struct Found {
    int64_t slot;
    int64_t element;
  };
  // What the ticket may mean: the slot with its nonce and stamp, then those it is an alias of. The
  // caller takes the first whose values agree and calls Hit, or Missed if there is none.
  std::vector<Found> Find(const Ticket& ticket) const;
  bool SameFingerprint(const Found& found, const std::array<uint32_t, 2>& fingerprint) const;
  void Hit(int64_t slot);
  // The slot that the next ticket probably names: the one used last, as long as tickets name that;
  // else, and where there is none, -1.
  int64_t Guess() const { return guesses_ ? Latest() : -1; }
  void Misguessed() { guesses_ = false; }
  void Missed(const Ticket& ticket);  // that no ring has

  int64_t size() const { return static_cast<int64_t>(slots_.size()); }
  int64_t limit() const { return limit_; }
  int64_t batch() const { return batch_; }
  const Slot& operator[](int64_t slot) const { return slots_[static_cast<size_t>(slot)]; }

 private:
  int64_t Latest() const;
  Slot& At(int64_t slot) { return slots_[static_cast<size_t>(slot)]; }

  int64_t limit_;
  const int64_t batch_;
  bool runs_reuse_ = true;
  bool guesses_ = true;
  uint64_t clock_ = 0;
  std::vector<Slot> slots_;
};

// Why a solve with on_stale="raise" is refused: a sentence with a way out.
std::string WhyStale(const Ticket& ticket, bool found);

// A ring's place in the process-wide cache. Those of one plan and device differ in their batch.
std::string RingsPrefix(const char* engine, int64_t device, const std::string& ring);
std::string RingKey(const char* engine, int64_t device, const std::string& ring, int64_t batch);
// The rings of this plan and device that there are, of any batch. The cast is safe where only the
// engine's own class is cached under its name.
template <typename Ring>
std::vector<std::shared_ptr<Ring>> RingsOf(const char* engine, int64_t device,
                                           const std::string& ring) {
  std::vector<std::shared_ptr<Ring>> rings;
  for (auto& plan : Cache::Global().Find(RingsPrefix(engine, device, ring))) {
    rings.push_back(std::static_pointer_cast<Ring>(std::move(plan)));
  }
  return rings;
}

}  // namespace nvstate::solver

#endif  // NVSTATE_SOLVER_SLOTS_H_
