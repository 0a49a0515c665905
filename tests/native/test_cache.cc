// The cache's promises, with plans that only count themselves. Built with -fsanitize=thread: any
// race ends the program with an error. Prints "ok".

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "nvstate/cache.h"

namespace nvstate {
namespace {

#define EXPECT(condition)                                                        \
  if (!(condition)) {                                                            \
    std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
    std::exit(1);                                                                \
  }

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();
std::atomic<int> alive{0};

class Counted : public NativePlan {
 public:
  Counted() { ++alive; }
  ~Counted() override { --alive; }
  int64_t bytes() const override { return 10; }
};

std::unique_ptr<NativePlan> Make() { return std::make_unique<Counted>(); }

void HitsAndOwners() {
  Cache cache;
  auto a = cache.Get("a", 1, Make);
  EXPECT(cache.Get("a", 2, Make) == a);
  EXPECT(cache.Count().hits == 1 && cache.Count().made == 1 && cache.Count().held == 1);
  a.reset();
  EXPECT(cache.Count().held == 0 && cache.Count().recent == 1 && cache.Count().bytes == 10);
  cache.Drop(1);  // owner 2 still wants it
  EXPECT(alive == 1);
  cache.Drop(2);
  EXPECT(alive == 0 && cache.Count().plans == 0 && cache.Count().destroyed == 1);
}

void ExecutablesKeepTheirs() {
  Cache cache;
  auto held = cache.Get("a", 1, Make);
  cache.Drop(1);
  cache.Clear();
  EXPECT(alive == 1 && cache.Count().plans == 1 && cache.Count().recent == 0);
  EXPECT(cache.Get("a", 1, Make) == held);  // found again, and recent again
  EXPECT(cache.Count().recent == 1);
  held.reset();
  EXPECT(alive == 1);
  cache.Clear();
  EXPECT(alive == 0);
}

void TheLeastRecentGoesFirst() {
  Cache cache;
  cache.SetLimit(2, kUnlimited);
  cache.Get("a", 1, Make);
  cache.Get("b", 1, Make);
  cache.Get("a", 1, Make);
  cache.Get("c", 1, Make);  // b goes
  EXPECT(alive == 2 && cache.Count().made == 3);
  cache.Get("a", 1, Make);
  EXPECT(cache.Count().made == 3);
  cache.SetLimit(0, kUnlimited);
  EXPECT(alive == 0);
  cache.Get("a", 1, Make);
  EXPECT(alive == 0 && cache.Count().plans == 0);
}

void BytesAreLimitedToo() {
  Cache cache;
  cache.SetLimit(64, 25);  // two plans of 10 bytes
  cache.Get("a", 1, Make);
  cache.Get("b", 1, Make);
  cache.Get("a", 1, Make);
  auto held = cache.Get("c", 1, Make);  // b goes
  EXPECT(alive == 2 && cache.Count().recent_bytes == 20 && cache.Count().bytes_limit == 25);
  cache.SetLimit(64, 10);
  EXPECT(alive == 1 && cache.Count().recent == 1 && cache.Count().recent_bytes == 10);
  cache.SetLimit(64, 0);  // c is off the list, and alive: it is held
  EXPECT(alive == 1 && cache.Count().recent == 0 && cache.Count().bytes == 10);
  held.reset();
  EXPECT(alive == 0 && cache.Count().recent_bytes == 0);
}

void RowsAreInTheOrderOfUse() {
  Cache cache;
  cache.Get("before", 9, Make);
  const int64_t since = cache.Generation();
  auto a = cache.Get("a", 1, Make);
  auto b = cache.Get("b", 2, Make);
  cache.Get("b", 3, Make);
  auto rows = cache.Rows(since);
  EXPECT(rows.size() == 2 && rows[0].owners == std::vector<int64_t>({1}) && rows[0].bytes == 10);
  EXPECT(rows[1].owners == std::vector<int64_t>({2, 3}));
  a->Use();  // an execution
  rows = cache.Rows(since);
  EXPECT(rows[1].owners == std::vector<int64_t>({1}) && rows[0].used < rows[1].used);
  cache.Clear();  // still held here, so still alive
  EXPECT(cache.Rows(since).size() == 2);
  a.reset();
  b.reset();
  EXPECT(cache.Rows(since).empty());
}

void Generations() {
  Cache cache;
  cache.Get("a", 1, Make);
  const int64_t before = cache.Generation();
  cache.Get("b", 1, Make);
  cache.DropSince(before);
  EXPECT(alive == 1);
  cache.Get("a", 1, Make);
  EXPECT(cache.Count().hits == 1);
  cache.Clear();
}

// Listing plans must never be what destroys one: the destroyed one comes back into the cache.
void RowsOutliveTheLastReference() {
  Cache cache;
  cache.SetLimit(0, kUnlimited);
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&cache, t] {
      for (int i = 0; i < 20000; ++i) cache.Get(std::to_string(t), 1, Make);
    });
  }
  threads.emplace_back([&cache] {
    for (int i = 0; i < 20000; ++i) {
      EXPECT(cache.Rows(int64_t{1} << 60).empty());
      EXPECT(cache.Rows(0).size() <= 2);
    }
  });
  for (std::thread& thread : threads) thread.join();
  EXPECT(alive == 0);
}

void OneRowIsDropped() {
  Cache cache;
  cache.Get("a", 1, Make);
  cache.Get("b", 1, Make);  // of the same owner
  cache.DropMade(cache.Rows(0).front().generation);
  EXPECT(alive == 1 && cache.Count().recent == 1);
  cache.Get("b", 1, Make);
  EXPECT(cache.Count().hits == 1);
  cache.Clear();
}

void AFailureLeavesNothing() {
  Cache cache;
  for (int i = 0; i < 2; ++i) {
    bool threw = false;
    try {
      cache.Get("a", 1, []() -> std::unique_ptr<NativePlan> { throw std::runtime_error("no"); });
    } catch (const std::runtime_error&) {
      threw = true;
    }
    EXPECT(threw && cache.Count().plans == 0 && cache.Count().made == 0);
  }
  EXPECT(cache.Get("a", 1, Make) != nullptr);
  cache.Clear();
}

void OneKeyIsMadeOnce() {
  Cache cache;
  std::atomic<int> made{0};
  std::atomic<bool> others_ran{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      cache.Get("slow", 1, [&] {
        ++made;
        // Planning must not hold the lock: another key is made while this one waits for it.
        while (!others_ran) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return Make();
      });
    });
  }
  threads.emplace_back([&] {
    cache.Get("other", 1, Make);
    others_ran = true;
  });
  for (std::thread& thread : threads) thread.join();
  EXPECT(made == 1 && cache.Count().made == 2 && cache.Count().hits == 7);
  cache.Clear();
}

void EverythingAtOnce() {
  Cache cache;
  cache.SetLimit(3, kUnlimited);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&cache, t] {
      unsigned state = 17u + t;
      for (int i = 0; i < 4000; ++i) {
        state = state * 1664525u + 1013904223u;
        const int key = (state >> 16) % 6, owner = (state >> 24) % 3;
        try {
          auto plan = cache.Get(std::to_string(key), owner, [&]() -> std::unique_ptr<NativePlan> {
            if (state % 11 == 0) throw std::runtime_error("no");
            return Make();
          });
          EXPECT(plan != nullptr && plan->bytes() == 10);
        } catch (const std::runtime_error&) {
        }
        if (i % 7 == 0) cache.Drop(owner);
        if (i % 31 == 0) cache.DropSince(cache.Generation() - 2);
        if (i % 101 == 0) cache.Clear();
        if (i % 13 == 0) EXPECT(cache.Count().recent <= 3);
        if (i % 17 == 0) EXPECT(cache.Rows(i % 2 == 0 ? 0 : cache.Generation()).size() <= 6);
        if (i % 19 == 0) cache.DropMade(cache.Generation());
        if (i % 500 == 0) cache.SetLimit(3, i % 1000 == 0 ? 20 : kUnlimited);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  cache.Clear();
  const Cache::Counts counts = cache.Count();
  EXPECT(alive == 0 && counts.plans == 0 && counts.made == counts.destroyed && counts.made > 0);
}

}  // namespace
}  // namespace nvstate

int main() {
  nvstate::HitsAndOwners();
  nvstate::ExecutablesKeepTheirs();
  nvstate::TheLeastRecentGoesFirst();
  nvstate::BytesAreLimitedToo();
  nvstate::RowsAreInTheOrderOfUse();
  nvstate::RowsOutliveTheLastReference();
  nvstate::OneRowIsDropped();
  nvstate::Generations();
  nvstate::AFailureLeavesNothing();
  nvstate::OneKeyIsMadeOnce();
  nvstate::EverythingAtOnce();
  std::puts("ok");
}
