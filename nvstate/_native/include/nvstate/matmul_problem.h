// A product's buffers, checked and read as steps along its directions: what a layout is made from.

#ifndef NVSTATE_MATMUL_PROBLEM_H_
#define NVSTATE_MATMUL_PROBLEM_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "nvstate/matmul.h"

namespace nvstate::matmul {

// A buffer as the problem's directions see it: elements from one index to the next, 0 where every
// index finds the same.
struct Party {
  bool there = false;
  bool result = false;
  bool has_m = false;
  abi::cudaDataType type{};
  int64_t m = 0, n = 0, k = 0;
  Ints batch;
};

enum { kA, kB, kC, kD, kBias, kAux, kGrad, kParties };

struct Axis {  // of the batch
  int64_t count;
  std::array<int64_t, kParties> steps;
};

struct Problem {
  int64_t m, n, k;
  Ints batch;
  std::array<Party, kParties> parties;
  std::vector<Axis> axes;
};

int64_t RoundedUp(int64_t value, int64_t to);
std::string Dims(const Ints& dims);  // [2,3]

// Throws kInvalidArgument if buffers do not fit one another. Its axes are still to be read.
Problem ProblemOf(const Spec& spec, const std::vector<Typed>& buffers);

}  // namespace nvstate::matmul

#endif  // NVSTATE_MATMUL_PROBLEM_H_
