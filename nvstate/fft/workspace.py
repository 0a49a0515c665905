"""Bytes of cuFFT's work area, which XLA allocates beside operands and results."""

from __future__ import annotations

from typing import Any

import numpy as np

from nvstate import _native
from nvstate._core import lower


def needed(call: lower.Call, operand: Any, result: Any, device: int | None) -> int:
    """Exact bytes for a program of one GPU that is here, else a bound.

    Making the native plan to know them is no loss: the first execution finds it in the cache. A
    partitioned program transforms fewer batches on each device than are known here.
    """
    if device is None or 0 in operand.shape:
        return bound(call, operand, result)
    attributes = dict(call.attributes)
    return _native.cufft_plan(
        device, owner=int(attributes["owner"]), **arguments(call, operand, result)
    )


def bound(call: lower.Call, operand: Any, result: Any) -> int:
    """The larger of operand and result; more where a length has a prime above 127.

    There cuFFT convolves, twice over, at a length without such primes of at least 2n - 1.
    """
    size = max(a.size * a.dtype.itemsize for a in (operand, result))
    for n in dict(call.attributes)["lengths"]:
        if _has_large_prime(n):
            size = -(-size * 2 * (1 << (2 * n - 2).bit_length()) // n)
    return size


def estimated(call: lower.Call, operand: Any, result: Any, technique: str, device: int) -> int:
    """What cuFFT says without ("default") or with ("refined") looking at the device."""
    return _native.cufft_estimate(device, technique=technique, **arguments(call, operand, result))


def arguments(call: lower.Call, operand: Any, result: Any) -> dict[str, Any]:
    """A call as the native library's functions take it."""
    attributes = dict(call.attributes)
    return {
        "kind": attributes["kind"],
        "dtype": np.result_type(operand.dtype, np.complex64).name,
        "x_dims": operand.shape,
        "y_dims": result.shape,
        "lengths": attributes["lengths"],
        "layout": attributes["layout"],
    }


def _has_large_prime(n: int) -> bool:
    for factor in range(2, 128):
        while n % factor == 0:
            n //= factor
    return n > 1
