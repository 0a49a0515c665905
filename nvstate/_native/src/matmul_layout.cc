#include <algorithm>
#include <climits>
#include <functional>
#include <numeric>
#include <utility>

#include "nvstate/error.h"
#include "nvstate/matmul_problem.h"

namespace nvstate::matmul {
namespace {

using Grad = Epilog::Grad;

[[noreturn]] void Refuse(const std::string& text) { throw Failure(Code::kInvalidArgument, text); }

// The batch's axes from the outermost of D's inwards, those merged that are one axis for everyone.
void ReadAxes(Problem& p) {
  Ints order(p.batch.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t i, int64_t j) {
    return p.parties[kD].batch[i] > p.parties[kD].batch[j];
  });
  for (const int64_t i : order) {
    if (p.batch[i] == 1) continue;
    Axis axis{p.batch[i], {}};
    for (int j = 0; j < kParties; ++j) {
      if (p.parties[j].there) axis.steps[j] = p.parties[j].batch[i];
    }
    bool merges = !p.axes.empty();
    for (int j = 0; merges && j < kParties; ++j) {
      merges = p.axes.back().steps[j] == axis.steps[j] * axis.count;
    }
    if (merges) {
      p.axes.back() = {p.axes.back().count * axis.count, axis.steps};
    } else {
      p.axes.push_back(axis);
    }
  }
}

bool IsComplex(abi::cudaDataType type) {
  return type == abi::CUDA_C_32F || type == abi::CUDA_C_64F;
}

// Of a single row the step does not matter, so an axis may become the rows whatever its own step:
// if that can be the library's leading dimension, which is 0 for C only.
bool BecomesRows(const Spec& s, const Problem& p, const Axis& axis, int j) {
  const Party& party = p.parties[j];
  const int64_t step = axis.steps[j];
  if (j == kC) return true;
  if (step == 0) return false;
  if (j != kA) return true;
  // One of both must lie together, and rows must where the library transposes in its own order.
  const bool turned = (s.conjugate_a && IsComplex(party.type)) || s.epilog->grad == Grad::kA;
  return step == 1 || (!turned && (party.k == 1 || p.k == 1));
}

// Whether an axis's members follow one another as rows of one larger matrix.
bool Folds(const Spec& s, const Problem& p, const Axis& axis) {
  for (int j = 0; j < kParties; ++j) {
    const Party& party = p.parties[j];
    if (!party.there) continue;
    if (p.m == 1 && party.has_m && j != kGrad) {  // a bias's gradient always lies together
      if (!BecomesRows(s, p, axis, j)) return false;
    } else if (axis.steps[j] != (party.has_m ? p.m * party.m : 0)) {
      return false;
    }
  }
  return true;
}

void Fold(Problem& p, const Axis& axis) {
  for (int j = 0; j < kParties; ++j) {
    Party& party = p.parties[j];
    if (p.m == 1 && party.there && party.has_m) party.m = axis.steps[j];
  }
  p.m *= axis.count;
}

enum class Prefer { kNeither, kPlain, kTransposed };

// X, of rows by columns, as the library may be told of it, where one of both must lie together.
Matrix MatrixOf(const char* name, abi::cudaDataType type, int64_t rows, int64_t cols, int64_t row,
                int64_t col, bool conjugate, Prefer prefer) {
  const bool as_is = row == 1 || rows == 1, turned = col == 1 || cols == 1;
  if (!as_is && !turned) {
    Refuse(std::string("neither of the matrix dimensions of `") + name +
           "` is the innermost in memory");
  }
  // Of a vector both are true: then what lies together is the inner one, unless a use wants one.
  const bool inner_is_col = rows == 1 && cols > 1 && col == 1;
  if (conjugate) prefer = Prefer::kTransposed;
  const bool transposes =
      prefer == Prefer::kTransposed || (prefer == Prefer::kNeither && inner_is_col);
  const bool plain = as_is && !(turned && transposes);
  Matrix x;
  x.type = type;
  x.ld = plain ? (cols == 1 ? rows : col) : (rows == 1 ? cols : row);
  // A conjugate comes with a transposition only. Of what lies plainly that is row order, which the
  // library refuses, but it is right; all else is column-major, as gradients of biases must be.
  const bool transposed = conjugate || !plain;
  x.op = conjugate ? abi::CUBLAS_OP_C : transposed ? abi::CUBLAS_OP_T : abi::CUBLAS_OP_N;
  x.rows = transposed ? cols : rows;
  x.cols = transposed ? rows : cols;
  x.order = transposed == plain ? abi::CUBLASLT_ORDER_ROW : abi::CUBLASLT_ORDER_COL;
  return x;
}

// D, or C, which are column-major to the library: what its epilogs demand.
Matrix ResultOf(const char* name, const Problem& p, const Party& party) {
  if (p.n != 1 && party.n != 1) Refuse(std::string("N is not the innermost of `") + name + "`");
  Matrix x;
  x.type = party.type;
  x.rows = p.n;
  x.cols = p.m;
  x.ld = p.m == 1 ? p.n : party.m;
  return x;
}

std::string Json(const Ints& values) { return Dims(values); }

std::string Json(const Matrix& x) {
  return std::string("{\"type\": \"") + NameOf(x.type) + "\", \"rows\": " + std::to_string(x.rows) +
         ", \"cols\": " + std::to_string(x.cols) + ", \"ld\": " + std::to_string(x.ld) +
         ", \"order\": \"" + (x.order == abi::CUBLASLT_ORDER_ROW ? "row" : "col") +
         "\", \"op\": \"" + "NTC"[x.op] +
         "\", \"batch_stride\": " + std::to_string(x.batch_stride) +
         ", \"steps\": " + Json(x.steps) + "}";
}

std::string Json(const Vector& x) {
  return std::string("{\"type\": \"") + NameOf(x.type) + "\", \"ld\": " + std::to_string(x.ld) +
         ", \"batch_stride\": " + std::to_string(x.batch_stride) + ", \"steps\": " + Json(x.steps) +
         "}";
}

}  // namespace

Layout LayoutOf(const Spec& s, const std::vector<Typed>& buffers) {
  Problem p = ProblemOf(s, buffers);
  ReadAxes(p);
  Layout layout;
  const int64_t m = p.m;
  // From the inside: a fold makes the next axis the rows' neighbour.
  for (size_t i = p.axes.size(); i-- > 0;) {
    if (s.block_scaled() || !Folds(s, p, p.axes[i])) continue;
    Fold(p, p.axes[i]);
    p.axes.erase(p.axes.begin() + static_cast<int64_t>(i));
    i = p.axes.size();
  }
  layout.folded = m == 0 ? 1 : p.m / m;

  // The library's own batch is the largest axis; the others are loops of calls. A result that stays
  // in place is written by one call after the other, never by members of one at once.
  size_t largest = p.axes.size();
  for (size_t i = 0; i < p.axes.size(); ++i) {
    bool writes_once = p.axes[i].count <= INT_MAX;
    for (int j = 0; j < kParties; ++j) {
      if (p.parties[j].there && p.parties[j].result && p.axes[i].steps[j] == 0) writes_once = false;
    }
    if (writes_once && (largest == p.axes.size() || p.axes[i].count > p.axes[largest].count)) {
      largest = i;
    }
  }
  Axis batch{1, {}};
  if (largest < p.axes.size()) {
    batch = p.axes[largest];
    p.axes.erase(p.axes.begin() + static_cast<int64_t>(largest));
  }
  for (const Axis& axis : p.axes) layout.loops.push_back(axis.count);
  layout.problem = {p.m, p.n, p.k, batch.count};
  if (layout.calls() > 1 && (s.result_amax || s.aux_amax || s.block_scaled())) {
    Refuse("an amax or scales by blocks belong to one native call, and this batch needs " +
           std::to_string(layout.calls()));
  }

  const auto steps_of = [&](auto& x, int party, int64_t unit = 1) {
    x.batch_stride = batch.steps[party] * unit;
    for (const Axis& axis : p.axes) x.steps.push_back(axis.steps[party]);
  };
  const Party &a = p.parties[kA], &b = p.parties[kB], &c = p.parties[kC], &d = p.parties[kD];
  // Gradients of biases want the library's A as it is, and its B transposed.
  layout.a = MatrixOf("a", a.type, p.k, p.m, a.k, a.m, s.conjugate_a && IsComplex(a.type),
                      s.epilog->grad == Grad::kA ? Prefer::kTransposed : Prefer::kNeither);
  layout.b = MatrixOf("b", b.type, p.n, p.k, b.n, b.k, s.conjugate_b && IsComplex(b.type),
                      s.epilog->grad == Grad::kB ? Prefer::kPlain : Prefer::kNeither);
  layout.d = ResultOf("d", p, d);
  layout.c = c.there ? ResultOf("c", p, c) : layout.d;
  if (!c.there && !s.c_type.empty()) layout.c.type = TypeNamed(s.c_type);
  steps_of(layout.a, kA), steps_of(layout.b, kB), steps_of(layout.d, kD);
  steps_of(layout.c, c.there ? kC : kD);
  if (p.parties[kBias].there) {
    layout.bias.type = p.parties[kBias].type;
    steps_of(layout.bias, kBias);
  }
  if (p.parties[kAux].there) {
    const int64_t unit = s.epilog->mask ? 8 : 1;  // the library counts a mask's bits
    layout.aux.type = p.parties[kAux].type;
    layout.aux.ld = p.m == 1 ? RoundedUp(p.n, s.epilog->mask ? 128 : 8) : p.parties[kAux].m * unit;
    steps_of(layout.aux, kAux, unit);
  }
  if (p.parties[kGrad].there) {
    layout.grad.type = p.parties[kGrad].type;
    steps_of(layout.grad, kGrad);
  }
  return layout;
}

int64_t Layout::calls() const {
  return std::accumulate(loops.begin(), loops.end(), int64_t{1}, std::multiplies<>());
}

int64_t AlignmentOf(abi::cudaDataType type, const Ints& steps) {
  int64_t alignment = 16;
  for (const int64_t step : steps) {
    while (step * BitsOf(type) % (alignment * 8) != 0 && alignment > 1) alignment /= 2;
  }
  return alignment;
}

std::string Json(const Layout& x) {
  return "{\"problem\": " + Json(Ints(x.problem.begin(), x.problem.end())) +
         ", \"folded\": " + std::to_string(x.folded) + ", \"loops\": " + Json(x.loops) +
         ", \"calls\": " + std::to_string(x.calls()) + ", \"a\": " + Json(x.a) +
         ", \"b\": " + Json(x.b) + ", \"c\": " + Json(x.c) + ", \"d\": " + Json(x.d) +
         ", \"bias\": " + Json(x.bias) + ", \"aux\": " + Json(x.aux) +
         ", \"bgrad\": " + Json(x.grad) + "}";
}

}  // namespace nvstate::matmul
