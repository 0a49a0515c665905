"""Scales of narrow operands: their layouts, and quantisation in `jax.numpy`.

Everywhere x ≈ q · scale, and blocks run along the last axis, which is K: for `b` pass bᵀ [N, K].
"""

from __future__ import annotations

import functools
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from nvstate._core.aval import type_of
from nvstate.matmul import arguments, blocks
from nvstate.matmul.arguments import Scaling
from nvstate.matmul.blocks import E8M0, dtype_of, natural_shape, packed_shape
from nvstate.matmul.table import E2M1, E4M3, E5M2

__all__ = [
    "constant_scales",
    "dequantize",
    "invert_scales",
    "pack_scales",
    "quantize",
    "scale_offset",
    "unpack_scales",
]


def pack_scales(scales: Any, mode: Scaling) -> jax.Array:
    """Bring scales [..., rows, blocks] into the layout that the library reads.

    Args:
        scales: one for each block: "1x128", "mxfp8", "nvfp4": [..., rows, blocks along K];
            "128x128": [..., blocks of rows, blocks along K]; "outer": [..., rows]; "tensor": [].
        mode: how the operand is scaled.

    Returns:
        What `plan` takes as `scale_a` or `scale_b`, rounded to the mode's dtype: "1x128" with rows
        innermost, "128x128" with blocks padded to a multiple of 4, "mxfp8" and "nvfp4" in tiles of
        128×4, flat.

    Raises:
        SpecError: an unknown mode, or scales without rows and blocks.

    Example:
        >>> nvs.matmul.scaling.pack_scales(jnp.ones((256, 3)), "1x128").shape
        (3, 256)
    """
    _known(mode)
    x, axes = jnp.asarray(scales), len(natural_shape(mode, 1, 1))
    if x.ndim < axes:
        raise arguments.error(
            f'scales that are not "{mode}"',
            "[..., rows, blocks]" if axes == 2 else "[..., rows]",
            str(type_of(x)),
            "Pass one for each block.",
        )
    return blocks.packed(x.astype(dtype_of(mode)), mode)


def unpack_scales(scales: Any, mode: Scaling, rows: int, k: int) -> jax.Array:
    """Undo `pack_scales`.

    Args:
        scales: as the library has them.
        mode: how the operand is scaled.
        rows: M of `a`, N of `b`.
        k: K.

    Returns:
        Scales by block, without padding.

    Raises:
        SpecError: an unknown mode, or scales that are not packed for it.

    Example:
        >>> packed = nvs.matmul.scaling.pack_scales(jnp.ones((256, 3)), "1x128")
        >>> nvs.matmul.scaling.unpack_scales(packed, "1x128", 256, 384).shape
        (256, 3)
    """
    _known(mode)
    x, shape = jnp.asarray(scales), packed_shape(mode, rows, k)
    fits = x.size == 1 if mode == "tensor" else x.shape[max(x.ndim - len(shape), 0) :] == shape
    if not fits:
        wanted = f"[..., {', '.join(map(str, shape))}]" if shape else "one element"
        raise arguments.error(
            f'scales that are not "{mode}"',
            f"{wanted} for rows={rows}, k={k}",
            str(type_of(x)),
            f"Make them with `nvstate.matmul.scaling.pack_scales(scales, {mode!r})`.",
        )
    return blocks.unpacked(x, mode, rows, k)


def scale_offset(row: int, block: int, mode: Scaling, rows: int, k: int) -> int:
    """Say where the scale of one block is in the flat layout of the library.

    Args:
        row: of the operand; of "128x128", the block of rows.
        block: along K.
        mode: how the operand is scaled.
        rows: M of `a`, N of `b`.
        k: K.

    Returns:
        The offset in elements.

    Raises:
        SpecError: an unknown mode, or a block that the operand has not.

    Example:
        >>> nvs.matmul.scaling.scale_offset(33, 2, "mxfp8", 128, 256)
        22
    """
    _known(mode)
    shape = natural_shape(mode, rows, k)
    for what, at, count in zip(("row", "block"), (row, block), shape, strict=False):
        if not 0 <= at < count:
            raise arguments.error(
                f'{what} {at} of "{mode}" scales', f"0 to {count - 1}", str(at), "Count from 0."
            )
    if mode == "tensor":
        return 0
    if mode == "outer":
        return row
    if mode == "1x128":
        return block * rows + row
    wide = blocks.up(shape[1], 4)
    if mode == "128x128":
        return row * wide + block
    tile = row // 128 * (wide // 4) + block // 4
    return 512 * tile + row % 32 * 16 + row % 128 // 32 * 4 + block % 4


def constant_scales(mode: Scaling, rows: int, k: int, value: float = 1.0) -> jax.Array:
    """Make equal scales for a whole operand.

    Args:
        mode: how the operand is scaled.
        rows: M of `a`, N of `b`.
        k: K.
        value: of each scale, rounded to the mode's dtype.

    Returns:
        Scales as the library reads them.

    Raises:
        SpecError: an unknown mode, or a value that its dtype does not reach.

    Example:
        >>> nvs.matmul.scaling.constant_scales("128x128", 256, 640).shape
        (2, 8)
    """
    _known(mode)
    dtype = np.dtype(dtype_of(mode))
    one = np.asarray(value, "float32").astype(dtype)
    if not np.isfinite(one.astype("float32")):
        raise arguments.error(
            f"no scale of {dtype.name}",
            f"a number{' above 0,' if dtype.name == E8M0 else ''} of at most "
            f"{float(jnp.finfo(dtype).max):g}",
            repr(value),
            "Pass one.",
        )
    return jnp.full(packed_shape(mode, rows, k), one)


def invert_scales(scales: Any) -> jax.Array:
    """Turn scales of dequantisation into those of quantisation, and back: 1/scale.

    Args:
        scales: of any layout and dtype; exact for "mxfp8", whose scales are powers of two.

    Returns:
        As many of the same dtype, none beyond its largest. Zeros, which fill a layout up, stay.

    Example:
        >>> nvs.matmul.scaling.invert_scales(jnp.full(2, 4, "float32"))
        Array([0.25, 0.25], dtype=float32)
    """
    x = jnp.asarray(scales)
    if x.dtype == E8M0:  # by exponents: 2⁻¹²⁷ is too small for arithmetic that flushes to zero
        codes = x.view("uint8")
        return jnp.where(codes == 255, codes, 254 - codes).view(E8M0)
    wide = x.astype("float32")
    return saturated(jnp.where(wide == 0, wide, 1 / wide), x.dtype)


def quantize(x: Any, mode: Scaling = "tensor", dtype: Any = None) -> tuple[jax.Array, jax.Array]:
    """Round to a narrow dtype, with scales that use its range.

    A scale is the largest magnitude of its block over the largest of `dtype`, and 1 for a block of
    zeros; for "mxfp8" the next power of two, for "nvfp4" the nearest of at most 448, beyond which
    elements saturate. With a NaN or an infinity in its block it is NaN, and so is all that it is
    the scale of. As of rounding, the derivative is zero; for a straight-through one write
    `x + stop_gradient(dequantize(*quantize(x)) - x)`.

    Args:
        x: float [..., rows, K].
        mode: which elements share a scale.
        dtype: "float8_e4m3fn" (default) or "float8_e5m2"; "nvfp4": float4_e2m1fn.

    Returns:
        (q, scales): q of `dtype` in the shape of `x`; scales as the library reads them, with
        x ≈ q · scale: "tensor": float32 []; else as `pack_scales` makes them.

    Raises:
        SpecError: an unknown mode, a dtype that it does not go with, or an `x` that is no real
            matrix.

    Example:
        >>> q, scale = nvs.matmul.scaling.quantize(jnp.array([[1.0, 448.0]]))
        >>> float(scale), q.dtype.name
        (1.0, 'float8_e4m3fn')
    """
    _known(mode)
    name = np.dtype(dtype or (E2M1 if mode == "nvfp4" else E4M3)).name
    if name not in ((E2M1,) if mode == "nvfp4" else (E4M3, E5M2)):
        raise arguments.error(
            f'`mode="{mode}"` of {name}',
            E2M1 if mode == "nvfp4" else f"{E4M3} or {E5M2}",
            name,
            "Leave `dtype` out.",
        )
    x = jnp.asarray(x)
    if x.ndim < 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise arguments.error(
            "nothing to quantise", "real floats [..., rows, K]", str(type_of(x)), "Pass a matrix."
        )
    return quantized(jax.lax.stop_gradient(x), mode, name)


@functools.partial(jax.jit, static_argnums=(1, 2))
def quantized(x: jax.Array, mode: Scaling, dtype: str) -> tuple[jax.Array, jax.Array]:
    """As `quantize`, with the derivative of a division by constant scales."""
    wide = x.astype("float32")
    amax = jax.lax.stop_gradient(blocks.amax(wide, mode))
    scales = _scale(amax, float(jnp.finfo(dtype).max), mode)
    factor = blocks.expanded(scales, mode, *wide.shape[-2:])
    return saturated(wide / factor, dtype), pack_scales(scales, mode)


def dequantize(q: Any, scales: Any, mode: Scaling = "tensor") -> jax.Array:
    """Multiply by the scales.

    Args:
        q: narrow float [..., rows, K].
        scales: as `quantize` returns them.
        mode: how they are shared.

    Returns:
        float32 [..., rows, K].

    Raises:
        SpecError: an unknown mode, or scales that are not packed for it.

    Example:
        >>> q, scale = nvs.matmul.scaling.quantize(jnp.array([[1.0, 448.0]]))
        >>> nvs.matmul.scaling.dequantize(q, scale)
        Array([[  1., 448.]], dtype=float32)
    """
    _known(mode)
    return _dequantized(jnp.asarray(q), jnp.asarray(scales), mode)


@functools.partial(jax.jit, static_argnums=2)
def _dequantized(q: jax.Array, scales: jax.Array, mode: Scaling) -> jax.Array:
    return q.astype("float32") * factors(scales, mode, *q.shape[-2:])


def factors(scales: Any, mode: str, rows: int, k: int) -> jax.Array:
    """What each element is multiplied with, [..., rows, K] or what broadcasts to it."""
    own = unpack_scales(scales, mode, rows, k).astype("float32")  # pyright: ignore[reportArgumentType]
    # The sign bit of an nvfp4 scale is not read.
    return blocks.expanded(jnp.abs(own) if mode == "nvfp4" else own, mode, rows, k)


def saturated(x: jax.Array, dtype: Any) -> jax.Array:
    """Round, to the largest finite value where that overflows: a cast makes NaN or ∞ of those."""
    greatest = float(jnp.finfo(dtype).max)
    return jnp.clip(x, -greatest, greatest).astype(dtype)


def _known(mode: Any) -> None:
    if mode not in get_args(Scaling):
        raise arguments.error(
            "unknown scaling mode",
            f"one of {arguments.listed(get_args(Scaling))}",
            repr(mode),
            "Pass one of them.",
        )


def _scale(amax: jax.Array, greatest: float, mode: str) -> jax.Array:
    """The scale of a block with this largest magnitude, as float32.

    None is below the least normal number: quotients would be zero where arithmetic flushes to it.
    """
    if mode == "mxfp8":  # the least power of two with greatest · scale ≥ amax
        (mantissa, exponent), (of, at) = jnp.frexp(amax), np.frexp(greatest)
        exponent = jnp.clip(exponent - at + (mantissa > of), -126, 127)
        scale = jnp.ldexp(jnp.ones_like(amax), exponent)
    elif mode == "nvfp4":
        least = float(jnp.finfo(E4M3).smallest_subnormal)
        scale = jnp.maximum(saturated(amax / greatest, E4M3).astype("float32"), least)
    else:
        scale = jnp.maximum(amax / greatest, jnp.finfo("float32").tiny)
    return jnp.where(jnp.isfinite(amax), jnp.where(amax == 0, 1, scale), jnp.nan)
