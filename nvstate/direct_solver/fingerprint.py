"""Fingerprints of values: 64 bits and a flag, in one pass of XLA's over them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Of two lanes: what places are multiplied with, and the two multipliers of a finalizer that
# spreads each bit of a word over all of them (those of MurmurHash3, and of its successor's search).
_LANES = (
    (0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35),
    (0x27D4EB2F, 0x7FEB352D, 0x846CA68B),
)


def fingerprint(values: Any) -> Any:
    """What tells values of one factorization from others'.

    The lanes are sums, modulo 2³², of mixed words, each of which depends on its place: XLA may add
    them in any order.

    Args:
        values: dtype [B, nnz].

    Returns:
        uint32 [B, 4]: two lanes; 1 where a value is NaN or infinite; 0.
    """
    words = _words(values)
    place = jax.lax.broadcasted_iota(np.uint32, values.shape, 1) * np.uint32(len(words))
    lanes: list[Any] = [
        sum(_mixed(word, place + np.uint32(part), *lane) for part, word in enumerate(words))
        for lane in _LANES
    ]
    wild = (~jnp.isfinite(values)).astype(np.uint32)
    zero = np.uint32(0)

    def added(left: Any, right: Any) -> Any:
        return left[0] + right[0], left[1] + right[1], left[2] | right[2]

    sums = jax.lax.reduce((*lanes, wild), (zero, zero, zero), added, (1,))
    return jnp.stack([*sums, jnp.zeros_like(sums[0])], axis=-1)


def _words(values: Any) -> list[Any]:
    """The 32-bit words of each value, uint32 [B, nnz] one by one: so XLA writes none of them."""
    if jnp.iscomplexobj(values):
        return [*_words(jnp.real(values)), *_words(jnp.imag(values))]
    if values.dtype == np.float32:
        return [jax.lax.bitcast_convert_type(values, np.uint32)]
    whole = jax.lax.bitcast_convert_type(values, np.uint64)
    return [whole.astype(np.uint32), (whole >> np.uint64(32)).astype(np.uint32)]


def _mixed(words: Any, place: Any, spread: int, first: int, second: int) -> Any:
    z = words ^ (place * np.uint32(spread) + np.uint32(1))
    z = (z ^ (z >> 16)) * np.uint32(first)
    z = (z ^ (z >> 13)) * np.uint32(second)
    return z ^ (z >> 16)
