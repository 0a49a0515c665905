"""How a transform becomes calls of cuFFT: which axes a call takes, and where data must move.

cuFFT's layout has nested transform axes and one batch stride. Neighbouring batch axes act as one,
a *run*. The choice depends on shapes alone, so a program compiled elsewhere makes the same one.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, get_args

import numpy as np

from nvstate import errors
from nvstate.fft.arguments import WHERE
from nvstate.fft.spec import FFTSpec

Strategy = Literal["auto", "contiguous", "strided", "loop", "transpose", "composed"]

# Measured on an H100, cuFFT 12, 2026-11-22: `docs/explanation/fft-strategies.md` has the table.
STRIDED_LENGTH = 4096  # most points of a complex axis that cuFFT transforms in one strided pass …
STRIDED_LENGTH_BYTES = 4096  # … and bytes of a real one
STRIDED_SMALL = 2 << 20  # bytes of a complex operand that caches hold: transposes cost more
LOOP_LAUNCHES = 16  # most launches of a loop …
LOOP_BYTES = 4 << 20  # … each of at least so many bytes


def choose(spec: FFTSpec, shape: tuple[int, ...], pinned: Strategy = "auto") -> Strategy:
    """The strategy of a transform of an operand of `shape`.

    Raises:
        UnsupportedError: `pinned` names one that this layout cannot have.
    """
    possible = candidates(spec, shape)
    if pinned != "auto" and pinned not in possible:
        raise errors.UnsupportedError(
            errors.message(
                WHERE,
                f'strategy "{pinned}" cannot transform axes {spec.axes} of shape {shape}',
                expected="one of " + ", ".join(f'"{name}"' for name in possible),
                got=f'"{pinned}"',
                do='Leave `strategy` out, or pass "auto".',
            )
        )
    return preferred(spec, shape, pinned)


def preferred(spec: FFTSpec, shape: tuple[int, ...], pinned: Strategy) -> Strategy:
    """The pinned strategy where the layout, which `vmap` may have changed, can have it; or ours."""
    possible = candidates(spec, shape)
    if pinned in possible:
        return pinned
    shape = _fitted(spec, shape)
    return next(name for name in possible if _pays(name, spec, shape))


def padded(spec: FFTSpec) -> FFTSpec:
    """The spec once its operand is padded: a crop is the library's, a padding is not."""
    extents = tuple(max(have, need) for have, need in zip(spec.extents, spec.needed, strict=True))
    return dataclasses.replace(spec, extents=extents)


def _fitted(spec: FFTSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    dims = list(shape)
    for axis, extent in zip(spec.axes, padded(spec).extents, strict=True):
        dims[axis] = extent
    return tuple(dims)


def candidates(spec: FFTSpec, shape: tuple[int, ...]) -> list[Strategy]:
    """What is possible, in the order of the rule."""
    if len(spec.axes) > 3:
        return ["composed"]
    shape = _fitted(spec, shape)
    positions = spec.positions(len(shape))
    if positions == tuple(range(len(shape) - len(positions), len(shape))):
        return ["contiguous", "transpose"]
    # In one call the transform axes are nested as they lie, with the halved one innermost.
    if positions != tuple(sorted(positions)):
        return ["transpose"]
    if len(runs(spec, shape)) <= 1:
        return ["strided", "transpose"]
    return ["loop", "transpose"] if _aligned(spec, shape) else ["transpose"]


def _aligned(spec: FFTSpec, shape: tuple[int, ...]) -> bool:
    """Whether every launch of a loop finds the real side aligned to a complex number.

    cuFFT refuses another address. The loops go over all runs but the largest.
    """
    if spec.kind == "c2c":
        return True
    real = shape if spec.kind == "r2c" else spec.result_shape(shape)
    batches = runs(spec, real)
    batches.remove(max(batches, key=lambda run: run.size))
    return all(math.prod(real[run.last + 1 :]) % 2 == 0 for run in batches)


def _pays(name: Strategy, spec: FFTSpec, shape: tuple[int, ...]) -> bool:
    """Whether a strategy without transposes is faster than transposing."""
    if name not in {"strided", "loop"}:
        return True
    nbytes = math.prod(shape) * np.dtype(spec.operand_dtype).itemsize
    batches = runs(spec, shape)
    if not nbytes:
        return True  # nothing will run
    if name == "loop":
        each = max(run.size for run in batches)
        launches = math.prod(run.size for run in batches) // each
        return _in_one_pass(spec) and launches <= LOOP_LAUNCHES and nbytes >= launches * LOOP_BYTES
    if not batches or batches[-1].last != len(shape) - 1:
        return True  # the innermost axis is transformed: its elements lie side by side
    return _in_one_pass(spec) or (spec.kind == "c2c" and nbytes <= STRIDED_SMALL)


def _in_one_pass(spec: FFTSpec) -> bool:
    if spec.kind == "c2c":
        return len(spec.lengths) == 1 and spec.lengths[0] <= STRIDED_LENGTH
    nbytes = spec.lengths[0] * np.dtype(spec.dtype).itemsize // 2
    return len(spec.lengths) == 1 and nbytes <= STRIDED_LENGTH_BYTES


@dataclasses.dataclass(frozen=True)
class Run:
    """Neighbouring batch axes that act as one: how many elements, and which axis ends it."""

    size: int
    last: int


def runs(spec: FFTSpec, shape: tuple[int, ...]) -> list[Run]:
    """Maximal groups of batch axes with no transform axis between, without axes of size 1."""
    transformed = set(spec.positions(len(shape)))
    found: list[Run] = []
    joined = False
    for axis, n in enumerate(shape):
        if axis in transformed:
            joined = joined and n == 1  # an axis of one element separates nothing
        elif n != 1:
            size = found.pop().size * n if joined else n
            found.append(Run(size, axis))
            joined = True
    return found


def stages(spec: FFTSpec) -> list[FFTSpec]:
    """Transforms of at most three axes, to be applied in turn, without any scale.

    The trailing group is first, so that the others find its result; for "c2r" it is last, since
    only then is the result real.
    """
    plain = dataclasses.replace(spec, norm="none", inplace=False)
    if len(spec.axes) <= 3:
        return [dataclasses.replace(plain, inplace=spec.inplace)]
    rows = list(zip(spec.axes, spec.lengths, spec.extents, strict=True))
    groups = [rows[-3:]]
    while rest := rows[: len(rows) - sum(map(len, groups))]:
        groups.append(rest[-3:])
    parts: list[FFTSpec] = []
    for group in groups:
        axes, lengths, extents = (tuple(column) for column in zip(*group, strict=True))
        parts.append(dataclasses.replace(plain, axes=axes, lengths=lengths, extents=extents))
    halved, *rest = parts
    rest = [dataclasses.replace(part, kind="c2c", hermitian="numpy") for part in rest]
    parts = [*rest, halved] if spec.kind == "c2r" else [halved, *rest]
    # What a stage has made, the next may overwrite.
    return [
        dataclasses.replace(
            part, inplace=overwrites and part.needed == part.produced == part.extents
        )
        for part, overwrites in zip(parts, [spec.inplace, *[True] * len(rest)], strict=True)
    ]


def names() -> tuple[str, ...]:
    """Every strategy that can be pinned."""
    return get_args(Strategy)
