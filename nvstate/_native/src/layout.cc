#include "nvstate/layout.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "nvstate/error.h"

namespace nvstate {
namespace {

[[noreturn]] void Refuse(const std::string& text) { throw Failure(Code::kInvalidArgument, text); }

Ints Strides(const Ints& dims, const Ints& layout) {
  Ints strides(dims.size());
  int64_t stride = 1;
  for (auto dim = layout.rbegin(); dim != layout.rend(); ++dim) {
    strides[*dim] = stride;
    stride *= dims[*dim];
  }
  return strides;
}

void CheckShapes(const Problem& p) {
  const size_t rank = p.layout.size(), axes = p.lengths.size();
  if (axes < 1 || axes > 3)
    Refuse("one to three transform lengths expected, got " + std::to_string(axes));
  Ints sorted = p.layout;
  std::sort(sorted.begin(), sorted.end());
  for (size_t i = 0; i < rank; ++i) {
    if (sorted[i] != static_cast<int64_t>(i)) Refuse("the layout is not a permutation");
  }
  if (p.x.size() != rank || p.y.size() != rank || rank < axes) {
    Refuse("operand, result and layout differ in rank, or have less than the transform's");
  }
  for (size_t i = 0; i < rank - axes; ++i) {
    if (p.x[i] != p.y[i] || p.x[i] < 0) Refuse("batch dimension " + std::to_string(i) + " differs");
  }
  for (size_t i = 0; i < axes; ++i) {
    const int64_t length = p.lengths[i], dim = rank - axes + i;
    const int64_t half = i + 1 == axes ? length / 2 + 1 : length;
    const int64_t needed = p.kind == Kind::kC2R ? half : length;
    const int64_t given = p.kind == Kind::kR2C ? half : length;
    if (length < 1) Refuse("a transform length must be positive, got " + std::to_string(length));
    if (p.x[dim] < needed || p.y[dim] != given) {
      Refuse("dimension " + std::to_string(dim) + " of a transform of length " +
             std::to_string(length) + ": at least " + std::to_string(needed) +
             " in the operand and " + std::to_string(given) + " in the result expected, got " +
             std::to_string(p.x[dim]) + " and " + std::to_string(p.y[dim]));
    }
  }
}

Side SideOf(const Ints& dims, Ints strides, const std::vector<size_t>& axes) {
  Side side;
  // Of an extent of 1 only index 0 is used: its axis may lie anywhere, with any stride.
  if (axes.size() > 1 && dims[axes.back()] == 1) strides[axes.back()] = strides[*(axes.end() - 2)];
  side.stride = strides[axes.back()];
  side.embed.push_back(dims[axes.front()]);  // cuFFT ignores it, and wants it large enough
  for (size_t i = 1; i < axes.size(); ++i) {
    if (strides[axes[i - 1]] % strides[axes[i]] != 0) Refuse("the strides of the axes do not nest");
    side.embed.push_back(strides[axes[i - 1]] / strides[axes[i]]);
  }
  side.dist = std::accumulate(dims.begin(), dims.end(), int64_t{1}, std::multiplies<>());
  return side;
}

// Batch dimensions that one (count, step) describes on both sides, from the outermost on.
std::vector<Loop> Runs(const Problem& p, const Ints& x_strides, const Ints& y_strides) {
  std::vector<Loop> runs;
  for (const int64_t dim : p.layout) {
    if (dim >= static_cast<int64_t>(p.layout.size() - p.lengths.size()) || p.x[dim] == 1) continue;
    const Loop inner{p.x[dim], x_strides[dim], y_strides[dim]};
    if (!runs.empty() && runs.back().x_step == inner.x_step * inner.count &&
        runs.back().y_step == inner.y_step * inner.count) {
      runs.back() = {runs.back().count * inner.count, inner.x_step, inner.y_step};
    } else {
      runs.push_back(inner);
    }
  }
  return runs;
}

std::string Json(const Ints& values) {
  std::string text;
  for (const int64_t value : values) text += (text.empty() ? "" : ", ") + std::to_string(value);
  return "[" + text + "]";
}

}  // namespace

Kind KindOf(std::string_view name) {
  for (const Kind kind : {Kind::kC2C, Kind::kR2C, Kind::kC2R}) {
    if (name == KindName(kind)) return kind;
  }
  Refuse("kind c2c, r2c or c2r expected, got " + std::string(name));
}

const char* KindName(Kind kind) {
  return kind == Kind::kC2C ? "c2c" : kind == Kind::kR2C ? "r2c" : "c2r";
}

Layout LayoutOf(const Problem& p) {
  CheckShapes(p);
  Layout layout;
  const size_t first = p.layout.size() - p.lengths.size();
  if (std::any_of(p.x.begin(), p.x.begin() + first, [](int64_t size) { return size == 0; })) {
    return {p.lengths, {p.lengths, 1, 1}, {p.lengths, 1, 1}, 0, {}};
  }
  // A length of 1 transforms nothing: its axis constrains no embedding and may lie anywhere. Only
  // the halved axis stays, because cuFFT halves the last one it is given.
  std::vector<size_t> axes;
  for (size_t dim = first; dim < p.layout.size(); ++dim) {
    const bool last = dim + 1 == p.layout.size();
    const bool stays = last && (p.kind != Kind::kC2C || axes.empty());
    if (p.lengths[dim - first] == 1 && !stays) continue;
    axes.push_back(dim);
    layout.n.push_back(p.lengths[dim - first]);
  }
  const auto place = [&](size_t dim) {
    return std::find(p.layout.begin(), p.layout.end(), static_cast<int64_t>(dim));
  };
  const bool free = p.x[axes.back()] == 1 && p.y[axes.back()] == 1;
  if (!std::is_sorted(axes.begin(), axes.end() - (free ? 1 : 0),
                      [&](auto a, auto b) { return place(a) < place(b); })) {
    Refuse("the transform axes do not lie outermost to innermost in memory");
  }
  const Ints x_strides = Strides(p.x, p.layout), y_strides = Strides(p.y, p.layout);
  layout.x = SideOf(p.x, x_strides, axes);
  layout.y = SideOf(p.y, y_strides, axes);

  layout.loops = Runs(p, x_strides, y_strides);
  const auto largest =
      std::max_element(layout.loops.begin(), layout.loops.end(),
                       [](const Loop& a, const Loop& b) { return a.count < b.count; });
  if (largest != layout.loops.end()) {
    layout.batch = largest->count;
    layout.x.dist = largest->x_step;
    layout.y.dist = largest->y_step;
    layout.loops.erase(largest);
  }
  return layout;
}

std::string Json(const Layout& layout) {
  std::string loops;
  for (const Loop& loop : layout.loops) {
    loops += (loops.empty() ? "" : ", ") + Json(Ints{loop.count, loop.x_step, loop.y_step});
  }
  const auto side = [](const Side& s) {
    return "{\"embed\": " + Json(s.embed) + ", \"stride\": " + std::to_string(s.stride) +
           ", \"dist\": " + std::to_string(s.dist) + "}";
  };
  return "{\"n\": " + Json(layout.n) + ", \"x\": " + side(layout.x) + ", \"y\": " + side(layout.y) +
         ", \"batch\": " + std::to_string(layout.batch) + ", \"loops\": [" + loops + "]}";
}

}  // namespace nvstate
