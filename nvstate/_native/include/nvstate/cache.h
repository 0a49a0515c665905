// The process's native plans, of every library. A plan lives as long as someone refers to it:
// an executable's call sites, or the list of recently used ones kept here. Executables may have
// captured a plan's device addresses in CUDA graphs, so nothing here destroys a plan beneath them:
// drop and clear only give up this list's own references.

#ifndef NVSTATE_CACHE_H_
#define NVSTATE_CACHE_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace nvstate {

class NativePlan {
 public:
  virtual ~NativePlan() = default;
  // Memory taken, workspaces of XLA's not counted. It may change; any thread may ask.
  virtual int64_t bytes() const = 0;

  void Use() { used_ = ++clock_; }  // in every execution, by whoever holds the plan
  int64_t used() const { return used_; }

 private:
  inline static std::atomic<int64_t> clock_{0};
  std::atomic<int64_t> used_{++clock_};
};

class Cache {
 public:
  using Make = std::function<std::unique_ptr<NativePlan>()>;

  struct Counts {
    int64_t plans;   // alive
    int64_t recent;  // of these, in the list of recently used ones
    int64_t held;    // of these, referred to from elsewhere
    int64_t bytes;   // of plans, and of workspaces that XLA's were too small for
    int64_t hits;    // this and the next two since the process started
    int64_t made;
    int64_t destroyed;
    int64_t own_workspaces;
    int64_t limit;         // of recent
    int64_t bytes_limit;   // of recent
    int64_t recent_bytes;  // of the plans in that list
    int64_t unpinned;
  };

  struct Row {           // a plan that is alive
    int64_t generation;  // its own: no other has it
    int64_t used;
    int64_t bytes;
    std::vector<int64_t> owners;
  };

  static Cache& Global();

  // The plan of this key, made unless there is one. Two threads that ask at once wait for one
  // making, which runs without the lock; if it throws, nothing is left and the next one tries.
  std::shared_ptr<NativePlan> Get(const std::string& key, int64_t owner, const Make& make);

  // Those whose keys begin so and that are not dropped, in the order of their keys. They count as
  // used.
  std::vector<std::shared_ptr<NativePlan>> Find(const std::string& prefix);

  Counts Count();
  void SetLimit(int64_t plans, int64_t bytes);  // of the recently used ones
  std::vector<Row> Rows(int64_t generation);    // made after this, the one unused longest first
  void Drop(int64_t owner);            // of no use to this owner; kept for others who asked for it
  void DropSince(int64_t generation);  // those made after Generation() was this
  void DropMade(int64_t generation);   // the one of this Row
  void Clear();
  int64_t Generation();
  void Recount();  // after a plan's bytes have grown

  std::atomic<int64_t> own_workspaces{0};
  std::atomic<int64_t> unpinned{0};  // calls with algorithms pinned, but none for their problem
  std::atomic<int64_t> own_workspace_bytes{0};

 private:
  struct Entry {
    std::weak_ptr<NativePlan> plan;
    bool making = true;
    bool recent = false;
    std::list<std::pair<Entry*, std::shared_ptr<NativePlan>>>::iterator place;  // if recent
    std::set<int64_t> owners;
    int64_t generation = 0;
    int64_t counted = 0;  // of recent_bytes_
  };
  using Recent = std::list<std::pair<Entry*, std::shared_ptr<NativePlan>>>;
  using Entries = std::map<std::string, Entry>;  // its nodes do not move

  void CountBytes(Entry& entry, int64_t bytes);
  void Touch(Entry& entry, const std::shared_ptr<NativePlan>& plan, Recent& gone);
  void Forget(Entry& entry, Recent& gone);
  void Shrink(Recent& gone);
  void Died(const std::string& key);

  std::mutex mutex_;  // plans are never destroyed while it is held: they come back, into Died
  std::condition_variable made_one_;
  Entries entries_;
  Recent recent_;             // the latest first
  int64_t recent_bytes_ = 0;  // of these
  int64_t limit_ = 64;
  int64_t bytes_limit_ = std::numeric_limits<int64_t>::max();
  int64_t generation_ = 0;
  int64_t hits_ = 0;
  int64_t made_ = 0;
  int64_t destroyed_ = 0;
};

}  // namespace nvstate

#endif  // NVSTATE_CACHE_H_
