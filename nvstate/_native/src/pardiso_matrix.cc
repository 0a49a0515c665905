// A matrix as PARDISO takes it.

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstring>
#include <type_traits>
#include <utility>

#include "nvstate/pardiso.h"

namespace nvstate::pardiso {

using solver::View;

void Indices::Add(int64_t index) {
  if (wide_) {
    wide_items_.push_back(index);
  } else {
    narrow_items_.push_back(static_cast<int32_t>(index));
  }
}

int64_t Indices::size() const {
  return static_cast<int64_t>(wide_ ? wide_items_.size() : narrow_items_.size());
}

const void* Indices::data() const {
  return wide_ ? static_cast<const void*>(wide_items_.data()) : narrow_items_.data();
}

Matrix::Matrix(const Problem& problem, const Pattern& pattern, bool wide)
    : element_(problem.element),
      hermitian_(problem.options.is_hermitian()),
      lower_(problem.options.view == View::kLower),
      rows_(wide),
      columns_(wide) {
  const int64_t n = problem.n;
  if (problem.options.is_general()) {
    for (int64_t i = 0; i <= n; ++i) rows_.Add(pattern.Offset(i));
    for (int64_t p = 0; p < problem.nnz; ++p) columns_.Add(pattern.Index(p));
    return;
  }
  // Where each entry of the upper triangle comes from, by row. Entries of a lower triangle arrive
  // by columns, in order, the diagonal first: rows stay sorted either way.
  struct Entry {
    int64_t column;
    int64_t from;
  };
  std::vector<int64_t> start(static_cast<size_t>(n) + 1);  // then one past each row's last entry
  const auto each = [&](const auto& visit) {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t p = pattern.Offset(i); p < pattern.Offset(i + 1); ++p) {
        const int64_t j = pattern.Index(p);
        if (lower_ ? j < i : j > i) visit(std::min(i, j), std::max(i, j), p);
      }
    }
  };
  each([&](int64_t row, int64_t, int64_t) { ++start[static_cast<size_t>(row) + 1]; });
  for (size_t i = 0; i < static_cast<size_t>(n); ++i) start[i + 1] += start[i];
  std::vector<Entry> entries(static_cast<size_t>(start.back()));
  std::vector<int64_t> next(start.begin(), start.end() - 1);
  each([&](int64_t row, int64_t column, int64_t p) {
    entries[static_cast<size_t>(next[static_cast<size_t>(row)]++)] = {column, p};
  });
  std::vector<int64_t> diagonal(static_cast<size_t>(n), -1);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t p = pattern.Offset(i); p < pattern.Offset(i + 1); ++p) {
      if (pattern.Index(p) == i) diagonal[static_cast<size_t>(i)] = p;
    }
  }
  for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
    rows_.Add(columns_.size());
    columns_.Add(static_cast<int64_t>(i));
    from_.push_back(diagonal[i]);
    for (int64_t p = start[i]; p < start[i + 1]; ++p) {
      columns_.Add(entries[static_cast<size_t>(p)].column);
      from_.push_back(entries[static_cast<size_t>(p)].from);
    }
  }
  rows_.Add(columns_.size());
  if (hermitian_) {
    diagonal_.resize(from_.size());
    for (int64_t i = 0; i < n; ++i) diagonal_[static_cast<size_t>(rows_[i])] = true;
  }
}

Pattern Matrix::pattern() const {
  return {rows_.size() - 1,   columns_.size(), rows_.data(),
          rows_.bytes_each(), columns_.data(), columns_.bytes_each()};
}

int64_t Matrix::own_bytes() const {
  return (rows_.size() + columns_.size()) * rows_.bytes_each() +
         static_cast<int64_t>(from_.size() * sizeof(int64_t) + diagonal_.size() / 8);
}

template <typename T>
T Matrix::At(const T* values, int64_t entry) const {
  const auto at = static_cast<size_t>(entry);
  if (from_[at] < 0) return T{};
  const T value = values[from_[at]];
  if constexpr (!std::is_floating_point_v<T>) {
    if (hermitian_ && diagonal_[at]) return T(value.real());
    if (hermitian_ && lower_) return std::conj(value);
  }
  return value;
}

void Matrix::Gather(const void* values, void* out) const {
  if (from_.empty()) {
    std::memcpy(out, values, static_cast<size_t>(bytes()));
    return;
  }
  WithType(element_, [&](auto zero) {
    using T = decltype(zero);
    for (int64_t p = 0; p < columns_.size(); ++p) {
      static_cast<T*>(out)[p] = At(static_cast<const T*>(values), p);
    }
  });
}

bool Matrix::Same(const void* values, const void* gathered, double scale) const {
  if (from_.empty() && scale == 1) {
    return std::memcmp(values, gathered, static_cast<size_t>(bytes())) == 0;
  }
  return WithType(element_, [&](auto zero) {
    using T = decltype(zero);
    const auto whole = static_cast<const T*>(values);
    for (int64_t p = 0; p < columns_.size(); ++p) {
      const T value = Times(from_.empty() ? whole[p] : At(whole, p), scale);
      if (std::memcmp(&value, static_cast<const T*>(gathered) + p, sizeof(T)) != 0) return false;
    }
    return true;
  });
}

}  // namespace nvstate::pardiso
