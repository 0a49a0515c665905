// Digests of what a plan holds, and checks that a pattern and a permutation are such.

#include <cstring>
#include <string>
#include <vector>

#include "nvstate/error.h"
#include "nvstate/solver.h"

namespace nvstate::solver {
namespace {

constexpr std::array<uint64_t, 2> kLanes = {0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F};

uint64_t Mixed(uint64_t z) {
  z ^= z >> 30;
  z *= 0xBF58476D1CE4E5B9;
  z ^= z >> 27;
  z *= 0x94D049BB133111EB;
  return z ^ z >> 31;
}

[[noreturn]] void Invalid(const std::string& text) { throw Failure(Code::kInvalidArgument, text); }

}  // namespace

void Hasher::Add(uint64_t word) {
  ++count_;
  for (size_t lane = 0; lane < 2; ++lane) {
    digest_.lanes[lane] += Mixed(word + count_ * kLanes[lane]);
  }
}

Digest DigestOf(const Pattern& pattern) {
  Hasher hasher;
  hasher.Add(static_cast<uint64_t>(pattern.n));
  hasher.Add(static_cast<uint64_t>(pattern.nnz));
  for (int64_t i = 0; i <= pattern.n; ++i) hasher.Add(static_cast<uint64_t>(pattern.Offset(i)));
  for (int64_t i = 0; i < pattern.nnz; ++i) hasher.Add(static_cast<uint64_t>(pattern.Index(i)));
  return hasher.digest();
}

Digest PermutationDigest(const int32_t* permutation, int64_t n) {
  Hasher hasher;
  hasher.Add(static_cast<uint64_t>(n));
  for (int64_t i = 0; i < n; ++i) hasher.Add(static_cast<uint64_t>(int64_t{permutation[i]}));
  return hasher.digest();
}

Digest ReferenceDigest(Element element, const void* values, int64_t nnz) {
  Hasher hasher;
  hasher.Add(static_cast<uint64_t>(nnz));
  const char* at = static_cast<const char*>(values);
  const size_t step = element == Element::kF32 ? 4 : 8;
  for (const char* end = at + nnz * BytesOf(element); at != end; at += step) {
    uint64_t word = 0;
    std::memcpy(&word, at, step);  // the low bytes: all our machines are little-endian
    hasher.Add(word);
  }
  return hasher.digest();
}

void CheckDigest(const char* what, const Digest& expected, const Digest& found) {
  if (expected == found) return;
  Invalid(std::string("the plan's ") + what +
          " was edited after planning: it is not the one that the plan's spec has the digest of; "
          "plan again with the new one");
}

void CheckPattern(const Pattern& pattern) {
  const auto fail = [](int64_t row) {
    Invalid("no CSR pattern: offsets or indices of row " + std::to_string(row) +
            " are out of range, unsorted or repeated");
  };
  if (pattern.Offset(0) != 0 || pattern.Offset(pattern.n) != pattern.nnz) fail(0);
  for (int64_t row = 0; row < pattern.n; ++row) {
    const int64_t begin = pattern.Offset(row), end = pattern.Offset(row + 1);
    if (begin < 0 || begin > end || end > pattern.nnz) fail(row);
    int64_t last = -1;
    for (int64_t p = begin; p < end; ++p) {
      const int64_t column = pattern.Index(p);
      if (column <= last || column >= pattern.n) fail(row);
      last = column;
    }
  }
}

void CheckPermutation(const int32_t* permutation, int64_t n) {
  std::vector<bool> seen(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    const int64_t at = permutation[i];
    if (at < 0 || at >= n || seen[static_cast<size_t>(at)]) {
      Invalid("no permutation of " + std::to_string(n) + ": entry " + std::to_string(i) + " is " +
              std::to_string(at));
    }
    seen[static_cast<size_t>(at)] = true;
  }
}

}  // namespace nvstate::solver
