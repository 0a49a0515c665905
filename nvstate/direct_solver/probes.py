"""The vector of ±1 that a factorization must give back: the same in XLA, NumPy and C++."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def ups(n: int, arange: Callable[..., Any]) -> Any:
    """Where it is +1, bool [n]: a bit of MurmurHash3's finalizer, of a multiple of the place.

    Args:
        n: rows.
        arange: NumPy's or JAX's.
    """
    z = (arange(n, dtype=np.uint32) + np.uint32(1)) * np.uint32(0x9E3779B1)
    z = (z ^ (z >> 16)) * np.uint32(0x85EBCA6B)
    z = (z ^ (z >> 13)) * np.uint32(0xC2B2AE35)
    return ((z ^ (z >> 16)) & 1) == 1
