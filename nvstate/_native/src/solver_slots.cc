#include "nvstate/solver_slots.h"

#include <algorithm>
#include <utility>

namespace nvstate::solver {

int64_t Slots::Choose(int64_t run, const std::function<bool()>& can_grow) {
  int64_t chosen = -1;
  uint64_t latest = 0;
  if (run != 0 && runs_reuse_) {
    for (int64_t i = 0; i < size(); ++i) {
      if (At(i).run == run && At(i).stamp > latest) {
        chosen = i;
        latest = At(i).stamp;
      }
    }
  }
  for (int64_t i = 0; chosen < 0 && i < size(); ++i) {
    if (At(i).stamp == 0) chosen = i;
  }
  if (chosen < 0 && size() < limit_ && (size() == 0 || can_grow())) {
    slots_.emplace_back();
    chosen = size() - 1;
  }
  if (chosen < 0) {
    const auto oldest = std::min_element(
        slots_.begin(), slots_.end(), [](const Slot& a, const Slot& b) { return a.used < b.used; });
    chosen = oldest - slots_.begin();
  }
  Slot& slot = At(chosen);
  const uint64_t first = latest != 0 ? slot.first_of_run : 0;
  slot = Slot{};
  slot.first_of_run = first;
  return chosen;
}

void Slots::Fill(int64_t at, int64_t run, std::vector<Numerics> numerics,
                 std::vector<std::array<uint32_t, 2>> fingerprints) {
  Slot& slot = At(at);
  slot.stamp = NextStamp();
  if (slot.first_of_run == 0) slot.first_of_run = slot.stamp;
  slot.run = run;
  slot.numerics = std::move(numerics);
  slot.fingerprints = std::move(fingerprints);
  slot.aliases.assign(static_cast<size_t>(batch_), Ticket{});
  slot.used = ++clock_;
}

void Slots::Alias(int64_t slot, int64_t element, const Ticket& ticket) {
  At(slot).aliases[static_cast<size_t>(element)] = ticket;
}

bool Slots::Withdraw(int64_t slot) {
  if (size() < 2 || slot != size() - 1) return false;
  slots_.pop_back();
  limit_ = size();
  return true;
}

void Slots::Empty(int64_t slot) { At(slot) = Slot{}; }

void Slots::Clear() { slots_.clear(); }

Ticket Slots::TicketOf(int64_t slot, int64_t element) const {
  const Slot& held = (*this)[slot];
  return Ticket::Of(slot, element, held.stamp, held.fingerprints[static_cast<size_t>(element)]);
}

std::vector<Slots::Found> Slots::Find(const Ticket& ticket) const {
  std::vector<Found> found;
  if (ticket.nonce() == Nonce() && ticket.slot() < size() && ticket.element() < batch_) {
    const Slot& named = (*this)[ticket.slot()];
    if (named.stamp != 0 && named.stamp == ticket.stamp()) {
      found.push_back({ticket.slot(), ticket.element()});
    }
  }
  if (ticket == Ticket{}) return found;  // as elements without an alias have
  for (int64_t i = 0; i < size(); ++i) {
    const auto& aliases = (*this)[i].aliases;
    for (size_t element = 0; element < aliases.size(); ++element) {
      if (aliases[element] == ticket) found.push_back({i, static_cast<int64_t>(element)});
    }
  }
  return found;
}

bool Slots::SameFingerprint(const Found& found, const std::array<uint32_t, 2>& fingerprint) const {
  return (*this)[found.slot].fingerprints[static_cast<size_t>(found.element)] == fingerprint;
}

void Slots::Hit(int64_t slot) {
  guesses_ = slot == Latest();
  At(slot).used = ++clock_;
}

int64_t Slots::Latest() const {
  int64_t latest = -1;
  uint64_t used = 0;
  for (int64_t i = 0; i < size(); ++i) {
    const Slot& slot = (*this)[i];
    if (slot.stamp == 0 || slot.used <= used) continue;
    latest = i;
    used = slot.used;
  }
  return latest;
}

void Slots::Missed(const Ticket& ticket) {
  if (ticket.nonce() != Nonce() || ticket.slot() >= size()) return;
  const Slot& named = (*this)[ticket.slot()];
  if (ticket.stamp() >= named.first_of_run && ticket.stamp() < named.stamp) runs_reuse_ = false;
}

std::string WhyStale(const Ticket& ticket, bool found) {
  std::string why;
  if (found) {
    why = "the factor's values are not those that it was factorized from";
  } else if (ticket.nonce() != Nonce()) {
    why = "the factor was made in another process, or its ticket was computed with";
  } else {
    why = "the factor's native factorization was replaced or freed";
  }
  return why + "; factorize again, raise `factor_slots`, or plan with `on_stale=\"refactorize\"`";
}

std::string RingsPrefix(const char* engine, int64_t device, const std::string& ring) {
  return std::string("direct_solver\t") + engine + "\t" + std::to_string(device) + "\t" + ring +
         "\t";
}

std::string RingKey(const char* engine, int64_t device, const std::string& ring, int64_t batch) {
  return RingsPrefix(engine, device, ring) + std::to_string(batch);
}

}  // namespace nvstate::solver
