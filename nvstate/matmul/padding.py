"""Rows that are no multiple of 16 bytes, copied into longer ones where that is faster.

cuBLASLt's fast kernels load 16 bytes at once. Without them a large product takes four to six times
as long, so XLA first writes the operands out with zeros behind each row, and cuts D afterwards.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from nvstate.matmul.preferences import Preferences
from nvstate.matmul.spec import MatmulSpec

Shapes = Mapping[str, tuple[int, ...]]

ROW = 16  # bytes
# Of an H100 with cuBLASLt 13.1, fitted to 13 shapes from 257³ up: seconds …
GAINED = 6e-15  # … that a multiplication or addition is faster,
COPIED = 6e-13  # … to copy a byte, and
STARTED = 7e-7  # … to start a copy.


def padded(spec: MatmulSpec, shapes: Shapes, preferences: Preferences) -> MatmulSpec:
    """The spec with M, N and K rounded up, or as it is where that gains nothing."""
    if not preferences.align_operands or spec.inplace or not _has_fast_kernels(spec):
        return spec
    step = ROW // jnp.dtype(spec.a_dtype).itemsize
    rounded = {"n": spec.n}
    if spec.transpose_a:
        rounded["m"] = spec.m
    if spec.transpose_b or not spec.transpose_a:
        rounded["k"] = spec.k
    rounded = {name: math.ceil(extent / step) * step for name, extent in rounded.items()}
    made = dataclasses.replace(spec, **rounded)
    if made == spec or (_sums_rows_of_c(spec) and made.m != spec.m):
        return spec
    return made if _gains(spec, made, shapes) else spec


def _has_fast_kernels(spec: MatmulSpec) -> bool:
    return spec.a_dtype in ("float16", "bfloat16") or spec.compute_type == "tf32"


def _sums_rows_of_c(spec: MatmulSpec) -> bool:
    """Whether rows that are added would be summed with the others, and may not be zero."""
    return spec.c_dtype is not None and spec.parts.sums in ("drelu_bgrad", "dgelu_bgrad")


def _gains(spec: MatmulSpec, made: MatmulSpec, shapes: Shapes) -> bool:
    copies = copied(spec, made, shapes)
    operations = 2 * math.prod(spec.batches(dict(shapes))) * spec.m * spec.n * spec.k
    return GAINED * operations > COPIED * sum(copies.values()) + STARTED * len(copies)


def copied(spec: MatmulSpec, made: MatmulSpec, shapes: Shapes) -> dict[str, int]:
    """Bytes of each operand and result that XLA copies, by name."""
    every = dict(shapes) | spec.result_shapes(dict(shapes))
    return {
        name: math.prod(shape) * jnp.dtype(spec.dtype(name)).itemsize
        for name, shape in every.items()
        if len(shape) > 1 and _widths(spec, made, name, shape) != [0] * len(shape)
    }


def filled(spec: MatmulSpec, made: MatmulSpec, x: Mapping[str, Any]) -> dict[str, Any]:
    """The operands with zeros behind their rows, and rows of them."""
    if made == spec:
        return dict(x)
    found: dict[str, Any] = {}
    for name, value in x.items():
        if name == "c" and value.shape[-1:] != (spec.n,):
            # One column stands for all, but not for those that are added.
            value = jnp.broadcast_to(value, (*value.shape[:-1], spec.n))
        widths = _widths(spec, made, name, value.shape)
        found[name] = jnp.pad(value, [(0, more) for more in widths]) if any(widths) else value
    return found


def cut(spec: MatmulSpec, name: str, y: Any) -> Any:
    """A result without what the zeros gave."""
    core = spec.core(name)
    return y[(..., *map(slice, core))] if core else y


def _widths(spec: MatmulSpec, made: MatmulSpec, name: str, shape: tuple[int, ...]) -> list[int]:
    """How much longer each axis becomes; not one of C that is broadcast."""
    own, wanted = spec.core(name), made.core(name)
    rank = min(len(own), len(shape))
    more = [
        there - here if extent == here else 0
        for extent, here, there in zip(
            shape[len(shape) - rank :],
            own[len(own) - rank :],
            wanted[len(wanted) - rank :],
            strict=True,
        )
    ]
    return [0] * (len(shape) - rank) + more
