// A plan's factorizations on one device, for one size of batch: a few slots that the calls of a
// program factorize into and solve with, as tickets say.

#ifndef NVSTATE_CUDSS_RING_H_
#define NVSTATE_CUDSS_RING_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "nvstate/cache.h"
#include "nvstate/cudss_system.h"
#include "nvstate/solver_engine.h"
#include "nvstate/solver_slots.h"

namespace nvstate::cudss {

using Print = std::array<uint32_t, 4>;  // two lanes, whether values are not finite, 0

// What comes from XLA's stream into the ring's, and back, whatever happens in between: buffers must
// not be given to others while the ring's stream still uses them.
class Branch {
 public:
  Branch(Context& context, abi::CUstream xla) : context_(context), xla_(xla) {
    context_.Fork(xla_);
  }
  ~Branch();
  Branch(const Branch&) = delete;
  Branch& operator=(const Branch&) = delete;

 private:
  Context& context_;
  const abi::CUstream xla_;
};

// All but what is const want the device current and, but for the constructor, `mutex()` held.
class Ring : public NativePlan {
 public:
  static constexpr const char* kEngine = "cudss";

  // Analyses. `reference` are host values, or null.
  Ring(int device, const solver::Options& options, const Shape& shape, const HostPattern& pattern,
       const void* reference);
  ~Ring() override;

  int64_t bytes() const override { return context_.memory().bytes(); }
  std::mutex& mutex() { return mutex_; }
  Context& context() { return context_; }
  const Shape& shape() const { return shape_; }
  const solver::Options& options() const { return options_; }
  solver::Slots& slots() { return slots_; }
  // The slot to solve with before the ticket is known, or -1. Hybrid execution waits in each solve.
  int64_t Guess() const { return options_.hybrid_execute ? -1 : slots_.Guess(); }

  // The slot that holds a factorization of these values, [batch, nnz] on the device, from now on.
  // `probe`: M e of each element, [batch, n] on the device; null: it is computed here. Waits.
  int64_t Factorize(int64_t run, const void* values, const std::vector<Print>& prints,
                    const void* probe);
  // Factorizes and solves in a data object of its own, and keeps and says nothing. Enqueues only.
  void FactorizeAndSolve(bool transposed, const void* values, const void* b, void* x, int64_t k);
  // Solves the element's system with a slot; the NaN of a failed one too.
  void Solve(int64_t slot, int64_t element, bool transposed, const void* b, void* x, int64_t k);
  // The same of all elements, [batch, k, n].
  void SolveAll(int64_t slot, bool transposed, const void* b, void* x, int64_t k);
  void Diagonal(int64_t slot, int64_t element, void* to);
  void OnlySingles() { uniform_ = false; }  // from the next factorization on
  bool IsUniform(int64_t slot) const { return held_[static_cast<size_t>(slot)].all != nullptr; }

  const solver::Facts& facts() const { return facts_; }
  // An array of the analysis as the library has it; empty: none.
  std::vector<char> Array(abi::cudssDataParam_t parameter, size_t bytes);

 private:
  struct Held {                   // by a slot: a data object of all elements, or
    std::unique_ptr<System> all;  // one for each
    std::vector<std::unique_ptr<System>> singles;
    std::vector<std::unique_ptr<System>>
        matched;    // where one is factorized with matching after all
    Buffer values;  // [batch, nnz], if the library reads them after the factorization
  };

  std::unique_ptr<System> Analyzed(Config& config);
  Held& Prepared(int64_t slot);
  bool CanGrow() const;
  void FactorizeOne(System& system, const void* values);
  std::vector<solver::Numerics> Attempt(int64_t slot, const void* values,
                                        const std::vector<Print>& prints, const void* probe);
  std::vector<solver::Numerics> FactorizeAll(Held& held, const void* values,
                                             const std::vector<Print>& prints, bool* again);
  std::vector<solver::Numerics> FactorizeSingles(Held& held, const void* values,
                                                 const std::vector<Print>& prints, bool* again);
  solver::Numerics NumericsOf(System& system, const Outcome& outcome);
  // Marks as broken down what does not solve M e, of those elements.
  void Probe(Held& held, const void* values, const void* probe,
             std::vector<solver::Numerics>& numerics, const std::vector<bool>& which);
  // Factorizes with matching what static pivots did not do for. False: there is none such.
  bool Rematch(Held& held, const void* values, const void* probe,
               std::vector<solver::Numerics>& numerics);
  System& SystemOf(Held& held, int64_t element) const;
  // Makes NaN of what refinement did not bring to half of the digits.
  void Refuse(const void* values, bool transposed, const void* b, void* x, int64_t k);
  void WriteProbes(const void* values, const Buffer& b);
  int64_t StepsOf(const solver::Numerics& numerics) const;
  void SolveWith(System& system, bool transposed, int64_t steps, const void* b, void* x,
                 int64_t columns);
  System& Any();           // one that is analysed
  void Settle() noexcept;  // waits for what a failure has left under way
  // Calls `body`; a failure there leaves the slot empty.
  void OrEmptied(int64_t slot, const std::function<void()>& body);
  solver::Facts FactsOf(const System& system, double seconds) const;
  const char* At(const void* values, int64_t element) const;

  std::mutex mutex_;
  const solver::Options options_;
  const Shape shape_;
  mutable Context context_;
  std::optional<DevicePattern> pattern_;
  Buffer reference_;   // [nnz], or nothing
  const Order given_;  // by the user, or nothing
  Order order_;
  Config single_;
  std::optional<Config> matching_;
  std::optional<Config> batched_;
  bool uniform_;
  bool keeps_values_;  // the library reads them in refinement, by the address that it was given
  solver::Facts facts_;
  Buffer column_;  // two vectors, where the library wants arrays that stay
  std::vector<Held> held_;
  std::unique_ptr<System> passing_;  // whose factors nobody keeps
  solver::Slots slots_;
};

// The ring of this plan, device and batch, made unless there is one. The device is current.
std::shared_ptr<Ring> RingFor(int device, const solver::Request& request, const Shape& shape,
                              const std::function<std::unique_ptr<Ring>()>& make);

}  // namespace nvstate::cudss

#endif  // NVSTATE_CUDSS_RING_H_
