"""The native library's functions for cuFFT."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from typing import Any, TypedDict

from nvstate._native import library, locate


class Side(TypedDict):
    """Where one side's elements lie: cuFFT's embedding, stride and distance, in elements."""

    embed: list[int]
    stride: int
    dist: int


class Layout(TypedDict):
    """A transform as cuFFT takes it; `loops` has a (count, x step, y step) per launch loop."""

    n: list[int]
    x: Side
    y: Side
    batch: int
    loops: list[list[int]]


def cufft_version() -> int:
    """The version of the cuFFT in use, 12500 being 12.5.0.

    Raises:
        LibraryError: it was not found, or is too old.
    """
    locate.open_library("cufft")
    version = ctypes.c_int()
    library.check(library.load().nvstate_cufft_version(ctypes.byref(version)))
    return version.value


def cufft_plan(
    device: int,
    *,
    kind: str,
    dtype: str,
    x_dims: Sequence[int],
    y_dims: Sequence[int],
    lengths: Sequence[int],
    layout: Sequence[int],
    owner: int,
) -> int:
    """Make a native plan in the cache, where the first execution will find it.

    Args:
        device: CUDA ordinal.
        kind: "c2c", "r2c" or "c2r".
        dtype: of the complex side, "complex64" or "complex128".
        x_dims: of the operand: batch dimensions, then those of `lengths`.
        y_dims: of the result.
        lengths: of the transform, where it is not halved.
        layout: the dimensions of both from major to minor.
        owner: for whom; `cache_drop` takes the same.

    Returns:
        Bytes of its work area.

    Raises:
        LibraryError: no cuFFT or no driver was found, or too old a one.
        ValueError: dimensions that do not fit, or axes not outermost to innermost.
        MemoryError: the device has too little memory left.
        RuntimeError: any other status of cuFFT's or CUDA's, named.
    """
    locate.open_library("cufft")
    work = ctypes.c_int64()
    dims = _dims(x_dims, y_dims, lengths, layout)
    library.check(
        library.load().nvstate_cufft_plan(
            device, kind.encode(), dtype.encode(), *dims, owner, ctypes.byref(work)
        ),
        _described(kind, dtype, x_dims, y_dims, lengths),
    )
    return work.value


def cufft_estimate(
    device: int,
    *,
    kind: str,
    dtype: str,
    x_dims: Sequence[int],
    y_dims: Sequence[int],
    lengths: Sequence[int],
    layout: Sequence[int],
    technique: str,
) -> int:
    """Bytes of work area that cuFFT says it needs, without a plan that stays.

    Args:
        device: CUDA ordinal.
        kind: as `cufft_plan`, like what follows.
        dtype: of the complex side.
        x_dims: of the operand.
        y_dims: of the result.
        lengths: of the transform.
        layout: from major to minor.
        technique: "default", a formula for sizes below 2³¹, or "refined".

    Raises:
        LibraryError, ValueError, MemoryError, RuntimeError: as `cufft_plan`.
    """
    locate.open_library("cufft")
    work = ctypes.c_int64()
    dims = _dims(x_dims, y_dims, lengths, layout)
    library.check(
        library.load().nvstate_cufft_estimate(
            device, kind.encode(), dtype.encode(), *dims, technique.encode(), ctypes.byref(work)
        ),
        _described(kind, dtype, x_dims, y_dims, lengths),
    )
    return work.value


def cufft_layout(
    *,
    kind: str,
    x_dims: Sequence[int],
    y_dims: Sequence[int],
    lengths: Sequence[int],
    layout: Sequence[int],
) -> Layout:
    """What cuFFT is told of two buffers, as `cufft_plan` would; it needs neither GPU nor cuFFT.

    Raises:
        ValueError: as `cufft_plan`.
    """
    text = ctypes.create_string_buffer(4096)
    dims = _dims(x_dims, y_dims, lengths, layout)
    library.check(library.load().nvstate_cufft_layout(kind.encode(), *dims, text, len(text)))
    return json.loads(text.value)


def _described(
    kind: str, dtype: str, x: Sequence[int], y: Sequence[int], lengths: Sequence[int]
) -> str:
    return f"{kind} in {dtype} of {tuple(x)} to {tuple(y)}, lengths {tuple(lengths)}"


def _dims(
    x: Sequence[int], y: Sequence[int], lengths: Sequence[int], layout: Sequence[int]
) -> tuple[Any, ...]:
    if not len(x) == len(y) == len(layout):  # C++ sees one rank: more must not be read there
        raise ValueError(f"nvstate: ranks differ: {len(x)}, {len(y)}, layout {len(layout)}")
    return _array(x), _array(y), len(x), _array(lengths), len(lengths), _array(layout)


def _array(values: Sequence[int]) -> Any:
    return (ctypes.c_int64 * len(values))(*values)
