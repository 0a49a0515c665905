// One linear system as cuDSS holds it: a pattern on the device, and data objects, each with an
// analysis and what was factorized with it.

#ifndef NVSTATE_CUDSS_SYSTEM_H_
#define NVSTATE_CUDSS_SYSTEM_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "nvstate/cudss.h"
#include "nvstate/cudss_config.h"
#include "nvstate/solver.h"

namespace nvstate::cudss {

struct Shape {
  int64_t n;
  int64_t nnz;
  int64_t batch;
  solver::Element element;
  int offset_bytes;
  int index_bytes;

  int64_t value_bytes() const { return nnz * solver::BytesOf(element); }  // of one element
  int64_t vector_bytes() const { return n * solver::BytesOf(element); }
  bool operator==(const Shape& other) const;
};
std::string Describe(const Shape& shape);  // n, nnz, dtype and batch

// A pattern in host memory, with the permutation that goes with it.
struct HostPattern {
  // Copies, and throws kInvalidArgument unless digests are those of `options`. `permutation` may be
  // null.
  HostPattern(const solver::Options& options, const solver::Pattern& pattern,
              const int32_t* permutation);
  solver::Pattern view() const;

  int64_t n;
  int64_t nnz;
  int offset_bytes;
  int index_bytes;
  std::vector<char> indptr, indices;
  std::vector<int32_t> permutation;  // empty: none
};

class DevicePattern {
 public:
  DevicePattern(Context& context, const HostPattern& pattern);
  const void* indptr() const { return indptr_.data(); }
  const void* indices() const { return indices_.data(); }

 private:
  const Buffer indptr_, indices_;
};

// What lets an analysis be made again at a small part of its cost: the permutation and the
// partition tree, of the matrix's index type. Without a tree a factorization is slower (7 times,
// measured), so a permutation alone is only one that the user gave.
struct Order {
  std::vector<char> permutation, tree;
  static Order Given(const solver::Options& options, const HostPattern& pattern);
};

struct Outcome {  // of a factorization
  int64_t info;
  int64_t pivots;
  int64_t positive = -1, negative = -1;
};

class System {  // the device is current, and the context's lock is held, in all of it
 public:
  // Analyses. `values`: what matching goes by, or null. `config` stays its own.
  System(Context& context, const Shape& shape, const solver::Options& options,
         const DevicePattern& pattern, Config& config, const void* values, const Order& order);
  ~System();
  System(const System&) = delete;
  System& operator=(const System&) = delete;

  // Enqueues only. `again`: REFACTORIZATION.
  void Factorize(const void* values, bool again);
  void Solve(const void* b, void* x, int64_t k);
  void ResetInfo();  // else one failure is reported, and spoils results, for ever

  Outcome Result(bool with_inertia) const;                                             // waits
  int64_t Count(abi::cudssDataParam_t parameter, size_t at = 0, size_t of = 1) const;  // index type
  // An array's bytes; empty where the library has none.
  std::vector<char> Array(abi::cudssDataParam_t parameter, size_t bytes) const;
  int64_t NumberOr(abi::cudssDataParam_t parameter, size_t bytes, int64_t other) const;
  std::vector<char> Tree() const;
  Order Replay() const;
  bool Diagonal(void* to) const;  // false: the library has none for these options
  Config& config() const { return config_; }

  bool referenced = false;  // its pivots are those of the reference values

 private:
  void Execute(int phase, abi::cudssMatrix_t x, abi::cudssMatrix_t b);
  void MakeDense(int64_t k);
  void Destroy() noexcept;

  Context& context_;
  const Shape shape_;
  Config& config_;
  const void* const unread_b_;  // addresses where a phase does not read or write, but wants one
  const void* const unread_x_;
  abi::cudssData_t data_ = nullptr;
  abi::cudssMatrix_t matrix_ = nullptr;
  abi::cudssMatrix_t b_ = nullptr, x_ = nullptr;
  int64_t k_ = -1;  // columns of these
};

}  // namespace nvstate::cudss

#endif  // NVSTATE_CUDSS_SYSTEM_H_
