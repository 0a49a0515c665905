// What tells whether a factorization solves: products on the host, backward errors, the probe.

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstring>
#include <limits>
#include <numeric>
#include <type_traits>
#include <vector>

#include "nvstate/solver.h"

namespace nvstate::solver {
namespace {

double Square(double x) { return x * x; }
template <typename T>
double Square(std::complex<T> x) {
  return Square(double{x.real()}) + Square(double{x.imag()});
}
template <typename T>
T Conj(T x) {
  return x;
}
template <typename T>
std::complex<T> Conj(std::complex<T> x) {
  return std::conj(x);
}
template <typename T>
T Real(T x) {
  return x;
}
template <typename T>
std::complex<T> Real(std::complex<T> x) {
  return x.real();
}

template <typename T>
std::vector<T> ProbeVector(int64_t n) {
  std::vector<T> e(static_cast<size_t>(n));
  for (size_t i = 0; i < e.size(); ++i) e[i] = T(ProbeSign(static_cast<int64_t>(i)));
  return e;
}

// Offsets and indices have their own types here: a look at their width for each entry would take
// longer than its product. `sizes`: sums of absolute values along the rows of what is multiplied
// with, or null.
template <typename T, typename Offset, typename Index>
void Product(const Options& options, int64_t n, const Offset* indptr, const Index* indices,
             const T* values, bool transposed, const T* x, T* out, double* sizes) {
  std::fill_n(out, n, T{});
  const bool hermitian = options.is_hermitian(), lower = options.view == View::kLower;
  const auto add = [&](int64_t to, int64_t from, T value) {
    out[to] += value * x[from];
    if (sizes != nullptr) sizes[to] += static_cast<double>(std::abs(value));
  };
  for (int64_t row = 0; row < n; ++row) {
    for (auto p = static_cast<int64_t>(indptr[row]); p < indptr[row + 1]; ++p) {
      const auto column = static_cast<int64_t>(indices[p]);
      if (options.is_general()) {
        transposed ? add(column, row, values[p]) : add(row, column, values[p]);
      } else if (column == row) {
        add(row, row, hermitian ? Real(values[p]) : values[p]);
      } else if (lower ? column < row : column > row) {
        add(row, column, values[p]);
        add(column, row, hermitian ? Conj(values[p]) : values[p]);
      }
    }
  }
}

// Calls `body` with the pattern's offsets and indices, of their own types.
template <typename Body>
void WithIntegers(const Pattern& pattern, const Body& body) {
  const auto typed = [](int bytes, const void* array, const auto& use) {
    bytes == 4 ? use(static_cast<const int32_t*>(array)) : use(static_cast<const int64_t*>(array));
  };
  typed(pattern.offset_bytes, pattern.indptr, [&](const auto* indptr) {
    typed(pattern.index_bytes, pattern.indices,
          [&](const auto* indices) { body(indptr, indices); });
  });
}

template <typename T>
double Largest(const T* x, int64_t n) {  // infinity if one is not finite
  double largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    const auto size = static_cast<double>(std::abs(x[i]));
    if (!std::isfinite(size)) return std::numeric_limits<double>::infinity();
    largest = std::max(largest, size);
  }
  return largest;
}

}  // namespace

// As XLA computes it in 32 bits (lowering.py): a multiple of the place, and MurmurHash3's
// finalizer.
double ProbeSign(int64_t i) {
  uint32_t z = (static_cast<uint32_t>(i) + 1) * 0x9E3779B1u;
  z = (z ^ (z >> 16)) * 0x85EBCA6Bu;
  z = (z ^ (z >> 13)) * 0xC2B2AE35u;
  return (z ^ (z >> 16)) & 1 ? 1 : -1;
}

void ProbeProduct(const Options& options, const Pattern& pattern, Element element,
                  const void* values, bool transposed, void* out) {
  WithType(element, [&](auto zero) {
    using T = decltype(zero);
    const std::vector<T> e = ProbeVector<T>(pattern.n);
    WithIntegers(pattern, [&](const auto* indptr, const auto* indices) {
      Product(options, pattern.n, indptr, indices, static_cast<const T*>(values), transposed,
              e.data(), static_cast<T*>(out), nullptr);
    });
  });
}

double BackwardError(const Options& options, const Pattern& pattern, Element element,
                     const void* values, bool transposed, const void* x, const void* b) {
  return WithType(element, [&](auto zero) {
    using T = decltype(zero);
    const auto size = static_cast<size_t>(pattern.n);
    std::vector<T> residual(size);
    std::vector<double> sizes(size);
    WithIntegers(pattern, [&](const auto* indptr, const auto* indices) {
      Product(options, pattern.n, indptr, indices, static_cast<const T*>(values), transposed,
              static_cast<const T*>(x), residual.data(), sizes.data());
    });
    for (size_t i = 0; i < size; ++i) residual[i] -= static_cast<const T*>(b)[i];
    const double off = Largest(residual.data(), pattern.n);
    if (off == 0 || !std::isfinite(off)) return off;
    return off / (*std::max_element(sizes.begin(), sizes.end()) *
                      Largest(static_cast<const T*>(x), pattern.n) +
                  Largest(static_cast<const T*>(b), pattern.n));
  });
}

double Roundoff(Element element) {
  return IsSingle(element) ? std::numeric_limits<float>::epsilon()
                           : std::numeric_limits<double>::epsilon();
}

double ProbeError(Element element, const void* x, int64_t first, int64_t count) {
  return WithType(element, [&](auto zero) {
    using T = decltype(zero);
    // In blocks and without a branch, so that the compiler vectorises it. Squares are added up
    // beside the largest: a NaN anywhere makes that sum NaN, which a maximum alone may lose.
    constexpr int64_t kBlock = 64;
    double largest[kBlock] = {}, sum[kBlock] = {};
    for (int64_t start = 0; start < count; start += kBlock) {
      double off[kBlock] = {};
      const int64_t size = std::min(kBlock, count - start);
      const T* const at = static_cast<const T*>(x) + start;
      for (int64_t i = 0; i < size; ++i) off[i] = Square(at[i] - T(ProbeSign(first + start + i)));
      for (int64_t i = 0; i < kBlock; ++i) largest[i] = off[i] > largest[i] ? off[i] : largest[i];
      for (int64_t i = 0; i < kBlock; ++i) sum[i] += off[i];
    }
    const double all = std::accumulate(std::begin(sum), std::end(sum), 0.0);
    return std::isfinite(all) ? std::sqrt(*std::max_element(std::begin(largest), std::end(largest)))
                              : std::numeric_limits<double>::infinity();
  });
}

double Scale(Element element, const void* values, int64_t count) {
  const double largest = WithType(element, [&](auto zero) {
    using T = decltype(zero);
    double found = 0;
    for (int64_t i = 0; i < count; ++i) {
      const T value = static_cast<const T*>(values)[i];
      if constexpr (std::is_floating_point_v<T>) {
        found = std::max(found, std::abs(double{value}));
      } else {
        found = std::max(found,
                         std::max(std::abs(double{value.real()}), std::abs(double{value.imag()})));
      }
    }
    return found;
  });
  if (largest == 0) return 1;
  const int most = IsSingle(element) ? 120 : 1000;
  return std::ldexp(1.0, -std::clamp(std::ilogb(largest), -most, most));
}

void Multiply(Element element, void* values, int64_t count, double scale) {
  if (scale == 1) return;
  WithType(element, [&](auto zero) {
    using T = decltype(zero);
    for (int64_t i = 0; i < count; ++i) {
      T& value = static_cast<T*>(values)[i];
      value = Times(value, scale);
    }
  });
}

bool AllFinite(Element element, const void* values, int64_t count) {
  if (IsComplex(element)) count *= 2;
  if (IsSingle(element)) {
    // Exponents of all ones; summed without a branch, so that the loop is vectorised.
    uint32_t bad = 0;
    for (int64_t i = 0; i < count; ++i) {
      uint32_t bits;
      std::memcpy(&bits, static_cast<const float*>(values) + i, sizeof(bits));
      bad |= (bits & 0x7F800000) == 0x7F800000;
    }
    return bad == 0;
  }
  uint64_t bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint64_t bits;
    std::memcpy(&bits, static_cast<const double*>(values) + i, sizeof(bits));
    bad |= (bits & 0x7FF0000000000000) == 0x7FF0000000000000;
  }
  return bad == 0;
}

void FillNan(void* out, int64_t bytes) { std::memset(out, 0xFF, static_cast<size_t>(bytes)); }

}  // namespace nvstate::solver
