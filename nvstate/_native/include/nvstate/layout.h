// From the dimensions of two dense buffers to what cuFFT's advanced layout says of them. No CUDA.

#ifndef NVSTATE_LAYOUT_H_
#define NVSTATE_LAYOUT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nvstate {

using Ints = std::vector<int64_t>;

enum class Kind { kC2C, kR2C, kC2R };
Kind KindOf(std::string_view name);  // throws kInvalidArgument
const char* KindName(Kind kind);

struct Problem {
  Kind kind;
  Ints x, y;     // dimensions: batch ones, then the transform's, the halved one last
  Ints lengths;  // of the transform, where it is not halved
  Ints layout;   // dimensions of x and y from major to minor: the labels may be in any order
};

// Element (x0, x1, x2) of batch member b lies at b·dist + ((x0·embed[1] + x1)·embed[2] +
// x2)·stride.
struct Side {
  Ints embed;
  int64_t stride = 1;
  int64_t dist = 1;

  bool operator==(const Side& other) const {
    return embed == other.embed && stride == other.stride && dist == other.dist;
  }
};

struct Loop {  // one launch for each index, from pointers that many elements further
  int64_t count, x_step, y_step;
};

struct Layout {
  Ints n;
  Side x, y;
  int64_t batch = 1;  // 0: there is nothing to transform
  std::vector<Loop> loops;
};

// Throws kInvalidArgument if dimensions do not fit the transform or its axes are out of order.
Layout LayoutOf(const Problem& problem);

std::string Json(const Layout& layout);

// Calls `launch(x_offset, y_offset)`, in elements, for every index of the loops.
template <typename Launch>
void ForEach(const std::vector<Loop>& loops, const Launch& launch, size_t level = 0,
             int64_t x_offset = 0, int64_t y_offset = 0) {
  if (level == loops.size()) {
    launch(x_offset, y_offset);
    return;
  }
  const Loop& loop = loops[level];
  for (int64_t i = 0; i < loop.count; ++i) {
    ForEach(loops, launch, level + 1, x_offset + i * loop.x_step, y_offset + i * loop.y_step);
  }
}

}  // namespace nvstate

#endif  // NVSTATE_LAYOUT_H_
