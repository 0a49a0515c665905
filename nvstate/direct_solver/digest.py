"""Digests of patterns, permutations and values: 128 bits, in two sums that C++ computes alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

_LANES = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_BLOCK = 1 << 15  # words at a time, so that what is between stays in a core's cache


def pattern(n: int, indptr: np.ndarray[Any, Any], indices: np.ndarray[Any, Any]) -> str:
    """The digest of a CSR pattern."""
    head = np.array([n, len(indices)], np.uint64)
    return _digest([head, indptr, indices])


def permutation(order: np.ndarray[Any, Any]) -> str:
    """The digest of a permutation."""
    return _digest([np.array([len(order)], np.uint64), order])


def reference(values: np.ndarray[Any, Any]) -> str:
    """The digest of values, bit for bit."""
    values = np.ascontiguousarray(values)
    word = np.uint32 if values.dtype == np.float32 else np.uint64
    return _digest([np.array([len(values)], np.uint64), values.view(word)])


def lanes(text: str) -> tuple[int, int]:
    """The two sums of a digest as numbers; zeros for no digest."""
    return (int(text[:16], 16), int(text[16:], 16)) if text else (0, 0)


def _digest(parts: Iterable[np.ndarray[Any, Any]]) -> str:
    sums, start = [0, 0], 0
    for part in parts:
        for begin in range(0, len(part), _BLOCK):
            words = part[begin : begin + _BLOCK].astype(np.uint64)
            first = start + begin + 1
            places = np.arange(first, first + len(words), dtype=np.uint64)
            for lane, factor in enumerate(_LANES):
                sums[lane] += int(_mixed(words + places * factor).sum(dtype=np.uint64))
        start += len(part)
    return "".join(f"{total % 2**64:016x}" for total in sums)


def _mixed(z: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    z ^= z >> np.uint64(30)
    z *= _FIRST
    z ^= z >> np.uint64(27)
    z *= _SECOND
    z ^= z >> np.uint64(31)
    return z
