// MKL's PARDISO: a matrix as it takes one, a handle, and a ring of factorizations.

#ifndef NVSTATE_PARDISO_H_
#define NVSTATE_PARDISO_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <vector>

#include "nvstate/cache.h"
#include "nvstate/mkl.h"
#include "nvstate/solver.h"
#include "nvstate/solver_engine.h"
#include "nvstate/solver_slots.h"

namespace nvstate::pardiso {

using solver::Element;
using solver::Multiply;
using solver::Numerics;
using solver::Options;
using solver::Pattern;
using solver::Scale;
using solver::Times;

struct Problem {
  Options options;
  Element element;
  int64_t n;
  int64_t nnz;
  bool operator==(const Problem& other) const {
    return element == other.element && n == other.n && nnz == other.nnz && options == other.options;
  }
};

// Aligned as vector instructions like it: with one thread, then, equal inputs give equal bits.
class Buffer {
 public:
  explicit Buffer(int64_t bytes = 0)
      : data_(bytes == 0 ? nullptr : ::operator new(static_cast<size_t>(bytes), kAlignment)),
        bytes_(bytes) {}
  void* data() const { return data_.get(); }
  int64_t bytes() const { return bytes_; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(void* data) const { ::operator delete(data, kAlignment); }
  };
  std::unique_ptr<void, Free> data_;
  int64_t bytes_;
};

class Indices {  // of 32 or 64 bits
 public:
  explicit Indices(bool wide) : wide_(wide) {}
  void Add(int64_t index);
  int64_t operator[](int64_t i) const { return Pattern::At(data(), bytes_each(), i); }
  int64_t size() const;
  int bytes_each() const { return wide_ ? 8 : 4; }
  const void* data() const;
  void* data() { return const_cast<void*>(std::as_const(*this).data()); }

 private:
  bool wide_;
  std::vector<int32_t> narrow_items_;
  std::vector<int64_t> wide_items_;
};

// A pattern as PARDISO takes it: whole for general matrices, else the upper triangle with a full
// diagonal; and which of the plan's values go where.
class Matrix {
 public:
  Matrix(const Problem& problem, const Pattern& pattern, bool wide);
  Pattern pattern() const;
  const Indices& rows() const { return rows_; }
  const Indices& columns() const { return columns_; }
  int64_t bytes() const { return columns_.size() * BytesOf(element_); }  // of values
  int64_t own_bytes() const;
  void Gather(const void* values, void* out) const;
  // Whether `gathered`, which was multiplied with `scale`, is of these values.
  bool Same(const void* values, const void* gathered, double scale) const;

 private:
  template <typename T>
  T At(const T* values, int64_t entry) const;

  Element element_;
  bool hermitian_;
  bool lower_;
  Indices rows_;
  Indices columns_;
  std::vector<int64_t> from_;   // -1: a zero. Empty: all, as they are
  std::vector<bool> diagonal_;  // of hermitian matrices
};

using Iparm = std::array<int64_t, 65>;  // by Intel's numbers, from 1

void CheckOptions(const Options& options);  // throws kInvalidArgument for those PARDISO lacks
int TypeOf(const Problem& problem);         // `mtype`
// Whether the entries of PARDISO's matrix, and the zeros of its diagonal, are too many for `int`.
bool Wide(const mkl::Api& api, const Problem& problem);
Iparm IparmOf(const Problem& problem, bool matching);

// MKL's number of threads for this thread and scope.
class Threads {
 public:
  explicit Threads(const Options& options);
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  const int before_;
};

// One analysis, and up to `maxfct` factorizations of its pattern. Not thread-safe; different ones
// may work at once.
class Handle {
 public:
  Handle(const Matrix& matrix, int mtype, bool wide, int64_t maxfct);
  ~Handle();
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  // Returns PARDISO's error: 0, or -4 for a pivot that is zero or not positive. Others throw.
  int64_t Run(int64_t phase, int64_t mnum, const void* values, Iparm& iparm,
              void* permutation = nullptr, int64_t columns = 0, const void* b = nullptr,
              void* x = nullptr);
  void Diagonal(int64_t mnum, void* of_factor, void* of_matrix);

 private:
  const mkl::Api& api_;
  const Matrix& matrix_;
  const int mtype_;
  const bool wide_;
  const int64_t maxfct_;
  std::array<void*, 64> pt_{};
};

class Ring : public NativePlan {
 public:
  Ring(Problem problem, int64_t batch);  // throws kInvalidArgument for options PARDISO lacks
  int64_t bytes() const override { return bytes_; }
  std::mutex& mutex() { return mutex_; }  // held for a phase, by whoever calls what follows

  solver::Slots& slots() { return slots_; }
  bool analyzed() const { return handle_ != nullptr; }
  const solver::Facts& facts() const { return facts_; }
  // Unless done: checks and hashes what it reads.
  void Analyze(const Pattern& pattern, const int32_t* permutation, const void* reference);
  std::vector<int32_t> Permutation() const;

  // Factorizes the whole batch into one slot, which it returns.
  int64_t Factorize(int64_t run, const char* values);
  bool Same(const solver::Slots::Found& found, const void* values) const;
  void Solve(const solver::Slots::Found& found, bool transposed, int64_t columns, const char* b,
             char* x);
  void Diagonal(const solver::Slots::Found& found, void* out);

  const Problem& problem() const { return problem_; }

 private:
  struct Values {  // by slot and element
    Buffer values;
    double scale = 1;                 // that they were multiplied with
    std::unique_ptr<Handle> matched;  // where they are factorized with matching, after all
  };
  struct At {  // a factorization, and what it is of
    Handle* handle;
    int64_t mnum;
    const void* values;
    double scale;
  };

  int64_t Mnum(int64_t slot, int64_t element) const { return slot * slots_.batch() + element + 1; }
  Values& Held(int64_t slot, int64_t element);
  const Values& Held(int64_t slot, int64_t element) const;
  At Where(int64_t slot, int64_t element) const;
  void AnalyzeIn(Handle& handle, const void* values, Iparm& iparm, Indices& permutation) const;
  // Calls `body`. If it throws, all that the ring has is dropped.
  void OrDropped(const std::function<void()>& body);
  int64_t Run(int64_t phase, const At& at, Iparm& iparm, int64_t columns = 0,
              const void* b = nullptr, void* x = nullptr);
  Numerics FactorizeOne(int64_t slot, int64_t element, const void* values);
  Numerics FactorizeAt(const At& at, Iparm iparm);
  void Probe(const At& at, Numerics& numerics);
  int64_t StepsOf(const Numerics& numerics) const;
  Options StoredOptions() const;  // with the view of what is held
  void SolveAt(const At& at, int64_t steps, bool transposed, int64_t columns, const void* b,
               void* x);
  void CountBytes();

  const Problem problem_;
  const mkl::Api& api_;
  const bool wide_;
  const int mtype_;
  Iparm iparm_{};
  std::mutex mutex_;
  solver::Slots slots_;
  std::unique_ptr<Matrix> matrix_;
  std::unique_ptr<Handle> handle_;
  Indices permutation_;
  Buffer reference_;
  std::vector<Values> held_;
  int64_t analysis_bytes_ = 0;
  int64_t factor_bytes_ = 0;  // of all: measured, phase 22 answers with their sum
  solver::Facts facts_;
  std::atomic<int64_t> bytes_{0};
};

// The process's ring of a problem and batch size, not necessarily analysed.
std::shared_ptr<Ring> RingFor(int64_t device, const Problem& problem, int64_t batch, int64_t owner);
// Those of this plan that there are, of any batch.
std::vector<std::shared_ptr<Ring>> RingsFor(int64_t device, const Problem& problem);

}  // namespace nvstate::pardiso

#endif  // NVSTATE_PARDISO_H_
