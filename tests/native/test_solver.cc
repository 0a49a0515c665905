// Tickets, the choice of slots, and rings that many threads use at once while others drop them.
// Built with -fsanitize=thread: any race ends the program with an error. Prints "ok".

#include <cmath>
#include <complex>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "nvstate/error.h"
#include "nvstate/solver_slots.h"

namespace nvstate::solver {
namespace {

#define EXPECT(condition)                                                        \
  if (!(condition)) {                                                            \
    std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
    std::exit(1);                                                                \
  }

bool Grows() { return true; }
bool NoMemory() { return false; }

int64_t Factorized(Slots& slots, int64_t run, bool (*can_grow)() = Grows) {
  const int64_t slot = slots.Choose(run, can_grow);
  const auto batch = static_cast<size_t>(slots.batch());
  slots.Fill(slot, run, std::vector<Numerics>(batch), {batch, {7, 8}});
  return slot;
}

bool Finds(const Slots& slots, const Ticket& ticket, int64_t slot, int64_t element) {
  const auto found = slots.Find(ticket);
  return found.size() == 1 && found[0].slot == slot && found[0].element == element;
}

void Tickets() {
  Slots slots(2, 3);
  const int64_t slot = Factorized(slots, 0);
  const Ticket ticket = slots.TicketOf(slot, 2);
  uint32_t words[8];
  ticket.Write(words);
  EXPECT(Ticket::Read(words) == ticket);
  EXPECT(ticket.nonce() == Nonce() && ticket.nonce() != 0 && ticket.stamp() == slots[slot].stamp);
  EXPECT(words[2] == 0 && words[3] == 2 && words[6] == 7 && words[7] == 8);
  EXPECT(Finds(slots, ticket, slot, 2));
  EXPECT(slots.SameFingerprint({slot, 2}, {7, 8}) && !slots.SameFingerprint({slot, 2}, {8, 7}));
  for (size_t word = 0; word < 6; ++word) {
    Ticket other = ticket;
    other.words[word] += word == 3 ? 1 : 5;  // element 3 of 3
    EXPECT(slots.Find(other).empty());
  }
  EXPECT(slots.Find(Ticket{}).empty());
}

void TheOldestGoesFirst() {
  Slots slots(3, 1);
  for (int64_t i = 0; i < 3; ++i) EXPECT(Factorized(slots, 0) == i);
  const Ticket first = slots.TicketOf(0, 0), second = slots.TicketOf(1, 0);
  slots.Hit(0);
  EXPECT(Factorized(slots, 0) == 1);
  EXPECT(Finds(slots, first, 0, 0) && slots.Find(second).empty());
  EXPECT(slots.Choose(0, NoMemory) == 2);  // and that factorization fails
  EXPECT(Factorized(slots, 0) == 2);       // an empty one before any other
  Slots small(3, 1);
  EXPECT(Factorized(small, 0, NoMemory) == 0 && Factorized(small, 0, NoMemory) == 0);
  EXPECT(Factorized(small, 0) == 1);
}

void AFailureLeavesNothing() {
  Slots slots(1, 1);
  Factorized(slots, 0);
  const Ticket ticket = slots.TicketOf(0, 0);
  slots.Alias(0, 0, Ticket::Of(9, 9, 9, {}));
  slots.Choose(0, Grows);  // and then the factorization throws
  EXPECT(slots.Find(ticket).empty() && slots.Find(Ticket::Of(9, 9, 9, {})).empty());
}

void ARunReusesItsSlot() {
  Slots slots(3, 1);
  const int64_t other = Factorized(slots, 5);
  const int64_t own = Factorized(slots, 6);
  EXPECT(other != own);
  const Ticket replaced = slots.TicketOf(own, 0);
  for (int i = 0; i < 10; ++i) EXPECT(Factorized(slots, 6) == own);
  EXPECT(slots.size() == 2 && Finds(slots, slots.TicketOf(other, 0), other, 0));
  slots.Missed(Ticket::Of(own, 0, slots[own].stamp + 1, {}));  // not one that this run replaced
  slots.Missed(Ticket::Of(other, 0, replaced.stamp(), {}));
  EXPECT(Factorized(slots, 6) == own);
  slots.Missed(replaced);
  EXPECT(Factorized(slots, 6) != own);  // a program that needs several at once has them from now on
  EXPECT(slots.size() == 3);
}

void AMissedTicketIsFoundAgain() {
  Slots slots(2, 2);
  const int64_t a = Factorized(slots, 0), b = Factorized(slots, 0);
  const Ticket edited = slots.TicketOf(a, 1);  // its values are not slot a's
  slots.Alias(b, 0, edited);
  const auto found = slots.Find(edited);
  EXPECT(found.size() == 2 && found[0].slot == a && found[1].slot == b && found[1].element == 0);
}

void TheSlotUsedLastIsGuessed() {
  Slots slots(3, 1);
  EXPECT(slots.Guess() == -1);
  const int64_t a = Factorized(slots, 0), b = Factorized(slots, 0);
  EXPECT(slots.Guess() == b);
  slots.Hit(b);
  EXPECT(slots.Guess() == b);
  slots.Hit(a);  // that guess was wrong: none is made until one would have been right
  EXPECT(slots.Guess() == -1);
  slots.Hit(b);
  EXPECT(slots.Guess() == -1);
  slots.Hit(b);
  EXPECT(slots.Guess() == b);
  slots.Misguessed();
  EXPECT(slots.Guess() == -1);
  slots.Hit(b);
  EXPECT(slots.Guess() == b);
}

void ASlotThatCannotBeMadeIsNotTriedAgain() {
  Slots slots(3, 1);
  const int64_t a = Factorized(slots, 0), b = Factorized(slots, 0);
  EXPECT(!slots.Withdraw(a) && slots.Withdraw(b) && slots.size() == 1);
  EXPECT(Factorized(slots, 0) == a && slots.limit() == 1);
  EXPECT(!slots.Withdraw(a));
}

void Words() {
  Numerics numerics;
  numerics.lu_nnz = (int64_t{3} << 32) + 4;
  int32_t words[8];
  numerics.Write(words);
  EXPECT(words[0] == 0 && words[2] == -1 && words[4] == -1 && words[5] == 4 && words[6] == 3);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  for (const double bad : {nan, -nan, infinity, -infinity}) {
    const double values[] = {1, 2, bad, 4};
    const std::complex<float> pairs[] = {1, {2, static_cast<float>(bad)}};
    EXPECT(!AllFinite(Element::kF64, values, 4) && AllFinite(Element::kF64, values, 2));
    EXPECT(!AllFinite(Element::kC64, pairs, 2) && AllFinite(Element::kC64, pairs, 1));
  }
  double x[3];
  FillNan(x, sizeof(x));
  EXPECT(std::isnan(x[0]) && std::isnan(x[2]));
  EXPECT(ProbeError(Element::kF64, x, 0, 3) == infinity);
  int64_t ones = 0;
  for (int64_t i = 0; i < 1000; ++i) ones += ProbeSign(i) == 1;
  EXPECT(ones > 450 && ones < 550);
}

void Probe() {
  using C = std::complex<double>;
  const int64_t indptr[] = {0, 2, 4, 5}, indices[] = {0, 1, 0, 1, 2};
  const Pattern pattern{3, 5, indptr, 8, indices, 8};
  const C values[] = {{1, 9}, {2, 1}, {100, 0}, 3, 4};
  const C e[] = {ProbeSign(0), ProbeSign(1), ProbeSign(2)};
  C y[3];
  Options options;
  ProbeProduct(options, pattern, Element::kC128, values, false, y);
  EXPECT(y[0] == values[0] * e[0] + values[1] * e[1] && y[2] == 4.0 * e[2]);
  ProbeProduct(options, pattern, Element::kC128, values, true, y);
  EXPECT(y[0] == values[0] * e[0] + values[2] * e[1]);
  options.matrix_type = MatrixType::kHermitian;  // the upper triangle is read, or the lower one
  ProbeProduct(options, pattern, Element::kC128, values, false, y);
  EXPECT(y[0] == 1.0 * e[0] + values[1] * e[1] && y[1] == C(2, -1) * e[0] + 3.0 * e[1]);
  options.view = View::kLower;
  ProbeProduct(options, pattern, Element::kC128, values, false, y);
  EXPECT(y[0] == 1.0 * e[0] + 100.0 * e[1] && y[1] == 100.0 * e[0] + 3.0 * e[1]);
}

void Refused() {
  const auto refused = [](int32_t offset, int32_t index) {
    const int32_t indptr[] = {0, 2, offset}, indices[] = {0, 1, index};
    try {
      CheckPattern({2, 3, indptr, 4, indices, 4});
      return false;
    } catch (const Failure& failure) {
      return failure.code() == Code::kInvalidArgument;
    }
  };
  EXPECT(!refused(3, 1) && refused(2, 1) && refused(4, 1) && refused(3, 2) && refused(3, -1));
}

struct Ring : NativePlan {
  explicit Ring(int64_t batch) : slots(2, batch) {}
  int64_t bytes() const override { return size; }
  std::mutex mutex;
  Slots slots;
  std::vector<int> held = {0, 0};  // stands for factors
  std::atomic<int64_t> size{10};
};

void ManyThreads() {
  std::vector<std::thread> threads;
  std::atomic<int64_t> hits{0};
  for (int seed = 1; seed <= 6; ++seed) {
    threads.emplace_back([&hits, seed] {
      Cache& cache = Cache::Global();
      for (int i = 0; i < 200; ++i) {
        const int64_t batch = 1 + i % 2;
        const auto ring = std::static_pointer_cast<Ring>(
            cache.Get(RingKey("test", 0, "ring", batch), seed,
                      [batch] { return std::make_unique<Ring>(batch); }));
        Ticket ticket;
        {
          std::lock_guard lock(ring->mutex);
          const int64_t slot = ring->slots.Choose(i % 3, Grows);
          ring->held[static_cast<size_t>(slot)] = seed;
          ring->slots.Fill(slot, i % 3, std::vector<Numerics>(2), {2, {0, 0}});
          ticket = ring->slots.TicketOf(slot, 0);
          ring->size += 5;
        }
        cache.Recount();
        for (const auto& other : RingsOf<Ring>("test", 0, "ring")) {
          std::lock_guard lock(other->mutex);
          const auto found = other->slots.Find(ticket);
          for (const auto& each : found) {
            EXPECT(other->held[static_cast<size_t>(each.slot)] == seed);
            ++hits;
          }
          found.empty() ? other->slots.Missed(ticket) : other->slots.Hit(found[0].slot);
        }
        if (i % 50 == 0) cache.Drop(seed);
        if (i % 70 == 0) cache.Clear();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT(hits > 0 && RingsOf<Ring>("test", 0, "rin").empty());
}

void RingsOfOnePlan() {
  Cache& cache = Cache::Global();
  cache.Clear();
  for (const int64_t batch : {1, 2}) {
    cache.Get(RingKey("test", 0, "a", batch), 3, [batch] { return std::make_unique<Ring>(batch); });
    cache.Get(RingKey("test", 1, "a", batch), 4, [batch] { return std::make_unique<Ring>(batch); });
  }
  const auto rings = RingsOf<Ring>("test", 0, "a");
  EXPECT(rings.size() == 2 && rings[1]->slots.batch() == 2);
  rings[0]->size = 1000;
  EXPECT(cache.Count().recent_bytes == 40 && cache.Count().bytes == 1030);
  cache.Recount();
  EXPECT(cache.Count().recent_bytes == 1030);
  cache.SetLimit(64, 500);  // the one unused longest goes: both of device 1, and then more
  EXPECT(cache.Count().recent_bytes <= 500);
  cache.SetLimit(64, std::numeric_limits<int64_t>::max());
  cache.Drop(3);
  EXPECT(RingsOf<Ring>("test", 0, "a").empty());
}

void Stamps() {
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::set<uint64_t> all;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      std::vector<uint64_t> own;
      for (int j = 0; j < 500; ++j) own.push_back(NextStamp());
      std::lock_guard lock(mutex);
      all.insert(own.begin(), own.end());
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT(all.size() == 2000 && all.count(0) == 0);
}

}  // namespace
}  // namespace nvstate::solver

int main() {
  using namespace nvstate::solver;
  Tickets();
  TheOldestGoesFirst();
  AFailureLeavesNothing();
  ARunReusesItsSlot();
  AMissedTicketIsFoundAgain();
  TheSlotUsedLastIsGuessed();
  ASlotThatCannotBeMadeIsNotTriedAgain();
  Words();
  Probe();
  Refused();
  RingsOfOnePlan();
  ManyThreads();
  Stamps();
  std::puts("ok");
}
