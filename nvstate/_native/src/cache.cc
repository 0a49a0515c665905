#include "nvstate/cache.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace nvstate {

Cache& Cache::Global() {
  static auto* const cache = new Cache();  // never destroyed: at exit the driver goes first
  return *cache;
}

std::shared_ptr<NativePlan> Cache::Get(const std::string& key, int64_t owner, const Make& make) {
  std::shared_ptr<NativePlan> plan;  // declared before the lock, so that it is released after it
  Recent gone;
  std::unique_lock lock(mutex_);
  Entry* entry;
  for (;;) {
    const auto [found, is_new] = entries_.try_emplace(key);
    entry = &found->second;
    if (is_new) break;
    if (!entry->making) {
      plan = entry->plan.lock();
      if (plan == nullptr) break;  // its last user is just destroying it: make another
      ++hits_;
      entry->owners.insert(owner);
      Touch(*entry, plan, gone);
      return plan;
    }
    made_one_.wait(lock);
  }
  entry->making = true;  // from here on nobody else changes or erases the entry
  lock.unlock();
  try {
    plan = std::shared_ptr<NativePlan>(make().release(), [this, key](NativePlan* dying) {
      delete dying;
      Died(key);
    });
  } catch (...) {
    lock.lock();
    entries_.erase(key);
    made_one_.notify_all();
    throw;
  }
  lock.lock();
  entry->plan = plan;
  entry->making = false;
  entry->owners = {owner};
  entry->generation = ++generation_;
  ++made_;
  Touch(*entry, plan, gone);
  made_one_.notify_all();
  return plan;
}

std::vector<std::shared_ptr<NativePlan>> Cache::Find(const std::string& prefix) {
  std::vector<std::shared_ptr<NativePlan>> found;
  std::lock_guard lock(mutex_);
  for (auto at = entries_.lower_bound(prefix); at != entries_.end(); ++at) {
    if (at->first.compare(0, prefix.size(), prefix) != 0) break;
    Entry& entry = at->second;
    if (entry.making || !entry.recent) continue;
    found.push_back(entry.place->second);
    found.back()->Use();
    recent_.splice(recent_.begin(), recent_, entry.place);
  }
  return found;
}

void Cache::Died(const std::string& key) {
  std::lock_guard lock(mutex_);
  ++destroyed_;
  const auto found = entries_.find(key);
  if (found == entries_.end()) return;
  // Meanwhile the key may have been asked for again: then the entry is another plan's.
  if (!found->second.making && found->second.plan.expired()) entries_.erase(found);
}

void Cache::CountBytes(Entry& entry, int64_t bytes) {
  recent_bytes_ += bytes - entry.counted;
  entry.counted = bytes;
}

void Cache::Touch(Entry& entry, const std::shared_ptr<NativePlan>& plan, Recent& gone) {
  plan->Use();
  if (entry.recent) {
    recent_.splice(recent_.begin(), recent_, entry.place);
  } else {
    recent_.emplace_front(&entry, plan);
    entry.recent = true;
  }
  CountBytes(entry, plan->bytes());
  entry.place = recent_.begin();
  Shrink(gone);
}

void Cache::Forget(Entry& entry, Recent& gone) {
  if (!entry.recent) return;
  CountBytes(entry, 0);
  gone.splice(gone.end(), recent_, entry.place);
  entry.recent = false;
}

void Cache::Shrink(Recent& gone) {
  while (static_cast<int64_t>(recent_.size()) > limit_ || recent_bytes_ > bytes_limit_) {
    Forget(*recent_.back().first, gone);
  }
}

void Cache::Recount() {
  Recent gone;
  std::lock_guard lock(mutex_);
  for (const auto& [entry, plan] : recent_) CountBytes(*entry, plan->bytes());
  Shrink(gone);
}

void Cache::SetLimit(int64_t plans, int64_t bytes) {
  Recent gone;
  std::lock_guard lock(mutex_);
  limit_ = std::max<int64_t>(plans, 0);
  bytes_limit_ = std::max<int64_t>(bytes, 0);
  Shrink(gone);
}

std::vector<Cache::Row> Cache::Rows(int64_t generation) {
  std::vector<std::shared_ptr<NativePlan>> plans;  // released after the lock
  std::vector<Row> rows;
  std::lock_guard lock(mutex_);
  for (auto& [key, entry] : entries_) {
    if (entry.making || entry.generation <= generation) continue;
    std::shared_ptr<NativePlan> plan = entry.plan.lock();
    if (plan == nullptr) continue;
    rows.push_back({entry.generation,
                    plan->used(),
                    plan->bytes(),
                    {entry.owners.begin(), entry.owners.end()}});
    plans.push_back(std::move(plan));  // it may be the last reference
  }
  std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.used < b.used; });
  return rows;
}

void Cache::Drop(int64_t owner) {
  Recent gone;
  std::lock_guard lock(mutex_);
  for (auto& [key, entry] : entries_) {
    if (entry.owners.erase(owner) != 0 && entry.owners.empty()) Forget(entry, gone);
  }
}

void Cache::DropSince(int64_t generation) {
  Recent gone;
  std::lock_guard lock(mutex_);
  for (auto& [key, entry] : entries_) {
    if (entry.generation > generation) Forget(entry, gone);
  }
}

void Cache::DropMade(int64_t generation) {
  Recent gone;
  std::lock_guard lock(mutex_);
  for (auto& [key, entry] : entries_) {
    if (entry.generation == generation) Forget(entry, gone);
  }
}

void Cache::Clear() { DropSince(-1); }

int64_t Cache::Generation() {
  std::lock_guard lock(mutex_);
  return generation_;
}

Cache::Counts Cache::Count() {
  std::vector<std::shared_ptr<NativePlan>> plans;
  std::lock_guard lock(mutex_);
  Counts counts{};
  for (auto& [key, entry] : entries_) {
    const int64_t elsewhere = entry.plan.use_count() - (entry.recent ? 1 : 0);
    std::shared_ptr<NativePlan> plan = entry.plan.lock();
    if (plan == nullptr) continue;
    ++counts.plans;
    counts.held += elsewhere > 0 ? 1 : 0;
    counts.bytes += plan->bytes();
    plans.push_back(std::move(plan));
  }
  counts.recent = static_cast<int64_t>(recent_.size());
  counts.bytes += own_workspace_bytes;
  counts.hits = hits_;
  counts.made = made_;
  counts.destroyed = destroyed_;
  counts.own_workspaces = own_workspaces;
  counts.limit = limit_;
  counts.bytes_limit = bytes_limit_;
  counts.recent_bytes = recent_bytes_;
  counts.unpinned = unpinned;
  return counts;
}

}  // namespace nvstate
