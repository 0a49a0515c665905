"""Scales of narrow operands: their layouts, and quantisation in `jax.numpy`.

Everywhere x ≈ q · scale, and blocks run along the last axis, which is K: for `b` pass bᵀ [N, K].
"""

from __future__ import annotations

import functools
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from nvstate.matmul import arguments
from nvstate.matmul.arguments import Scaling
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

E8M0 = "float8_e8m0fnu"
_TILED = {"mxfp8": 32, "nvfp4": 16}  # elements of a block, whose scales come in tiles of 128×4
_DTYPES = {"nvfp4": E4M3, "mxfp8": E8M0}


def dtype_of(mode: str) -> str:
    """The dtype of a mode's scales."""
    return _DTYPES.get(mode, "float32")


def natural_shape(mode: str, rows: int, k: int) -> tuple[int, ...]:
    """Scales by block: one for each, [rows, blocks] where there are both."""
    return {
        "tensor": (),
        "outer": (rows,),
        "1x128": (rows, -(-k // 128)),
        "128x128": (-(-rows // 128), -(-k // 128)),
        "mxfp8": (rows, -(-k // 32)),
        "nvfp4": (rows, -(-k // 16)),
    }[mode]


def packed_shape(mode: str, rows: int, k: int) -> tuple[int, ...]:
    """Scales as the library reads them."""
    shape = natural_shape(mode, rows, k)
    if mode in ("tensor", "outer"):
        return shape
    if mode == "1x128":
        return shape[::-1]
    if mode == "128x128":
        return (shape[0], _up(shape[1], 4))
    return (_up(rows, 128) * _up(shape[1], 4),)


def pack_scales(scales: Any, mode: Scaling) -> jax.Array:
    """Bring scales [..., rows, blocks] into the layout that the library reads.

    Args:
        scales: one for each block: "1x128", "mxfp8", "nvfp4": [..., rows, blocks along K];
            "128x128": [..., blocks of rows, blocks along K]; "outer": [..., rows]; "tensor": [].
        mode: how the operand is scaled.

    Returns:
        What `plan` takes as `scale_a` or `scale_b`: "1x128" with rows innermost, "128x128" with
        blocks padded to a multiple of 4, "mxfp8" and "nvfp4" in tiles of 128×4, flat.

    Raises:
        SpecError: an unknown mode.

    Example:
        >>> nvs.matmul.scaling.pack_scales(jnp.ones((256, 3)), "1x128").shape
        (3, 256)
    """
    _known(mode)
    x = jnp.asarray(scales)
    if mode in ("tensor", "outer"):
        return x
    if mode == "1x128":
        return jnp.swapaxes(x, -1, -2)
    *batch, rows, blocks = x.shape
    if mode == "128x128":
        return _padded(x, rows, _up(blocks, 4))
    rows, blocks = _up(rows, 128), _up(blocks, 4)
    tiles = _padded(x, rows, blocks).reshape(*batch, rows // 128, 4, 32, blocks // 4, 4)
    return jnp.swapaxes(tiles, -4, -2).reshape(*batch, rows * blocks)


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
        SpecError: an unknown mode.

    Example:
        >>> packed = nvs.matmul.scaling.pack_scales(jnp.ones((256, 3)), "1x128")
        >>> nvs.matmul.scaling.unpack_scales(packed, "1x128", 256, 384).shape
        (256, 3)
    """
    _known(mode)
    x = jnp.asarray(scales)
    if mode in ("tensor", "outer"):
        return x
    if mode == "1x128":
        return jnp.swapaxes(x, -1, -2)
    own = natural_shape(mode, rows, k)
    if mode == "128x128":
        return x[..., : own[1]]
    *batch, _ = x.shape
    high, wide = _up(own[0], 128), _up(own[1], 4)
    tiles = jnp.swapaxes(x.reshape(*batch, high // 128, wide // 4, 32, 4, 4), -4, -2)
    return tiles.reshape(*batch, high, wide)[..., : own[0], : own[1]]


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
        SpecError: an unknown mode.

    Example:
        >>> nvs.matmul.scaling.scale_offset(33, 2, "mxfp8", 128, 256)
        22
    """
    _known(mode)
    if mode == "tensor":
        return 0
    if mode == "outer":
        return row
    if mode == "1x128":
        return block * rows + row
    wide = _up(natural_shape(mode, rows, k)[1], 4)
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
        value: of each scale.

    Returns:
        Scales as the library reads them.

    Raises:
        SpecError: an unknown mode.

    Example:
        >>> nvs.matmul.scaling.constant_scales("128x128", 256, 640).shape
        (2, 8)
    """
    _known(mode)
    return jnp.full(packed_shape(mode, rows, k), value, "float32").astype(dtype_of(mode))


def invert_scales(scales: Any) -> jax.Array:
    """Turn scales of dequantisation into those of quantisation, and back: 1/scale.

    Args:
        scales: of any layout and dtype; exact for "mxfp8", whose scales are powers of two.

    Returns:
        As many of the same dtype.

    Example:
        >>> nvs.matmul.scaling.invert_scales(jnp.full(2, 4, "float32"))
        Array([0.25, 0.25], dtype=float32)
    """
    x = jnp.asarray(scales)
    return (1 / x.astype("float32")).astype(x.dtype)


def quantize(x: Any, mode: Scaling = "tensor", dtype: Any = None) -> tuple[jax.Array, jax.Array]:
    """Round to a narrow dtype, with scales that use its range.

    Args:
        x: float [..., rows, K].
        mode: which elements share a scale.
        dtype: "float8_e4m3fn" (default) or "float8_e5m2"; "nvfp4": float4_e2m1fn.

    Returns:
        (q, scales): q of `dtype` in the shape of `x`; scales as the library reads them, with
        x ≈ q · scale: "tensor": float32 []; else as `pack_scales` makes them.

    Raises:
        SpecError: an unknown mode, or a dtype that it does not go with.

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
    return _quantized(jnp.asarray(x), mode, name)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _quantized(x: jax.Array, mode: Scaling, dtype: str) -> tuple[jax.Array, jax.Array]:
    wide = x.astype("float32")
    rows, k = wide.shape[-2:]
    greatest = float(jnp.finfo(dtype).max)
    scales = _scale(_amax(jnp.abs(wide), mode), greatest, mode)
    factor = _expanded(scales, mode, rows, k)
    return saturated(wide / factor, dtype), pack_scales(scales.astype(dtype_of(mode)), mode)


def dequantize(q: Any, scales: Any, mode: Scaling = "tensor") -> jax.Array:
    """Multiply by the scales.

    Args:
        q: narrow float [..., rows, K].
        scales: as `quantize` returns them.
        mode: how they are shared.

    Returns:
        float32 [..., rows, K].

    Raises:
        SpecError: an unknown mode.

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
    return _expanded(jnp.abs(own) if mode == "nvfp4" else own, mode, rows, k)


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


def _amax(x: jax.Array, mode: str) -> jax.Array:
    """The largest magnitude of each block."""
    if mode == "tensor":
        return jnp.max(x)
    if mode == "outer":
        return jnp.max(x, -1)
    *batch, rows, k = x.shape
    width = _TILED.get(mode, 128)
    x = _padded(x, rows, _up(k, width)).reshape(*batch, rows, -1, width).max(-1)
    if mode != "128x128":
        return x
    return _padded(x, _up(rows, 128), x.shape[-1]).reshape(*batch, -1, 128, x.shape[-1]).max(-2)


def _scale(amax: jax.Array, greatest: float, mode: str) -> jax.Array:
    """The scale of a block with this largest magnitude, in float32; 1 if it is zero."""
    if mode == "mxfp8":  # the power of two at or above amax / greatest: nothing overflows
        mantissa, exponent = jnp.frexp(amax / greatest)
        exponent = jnp.clip(exponent - (mantissa == 0.5), -127, 127)
        scale = jnp.ldexp(jnp.ones_like(amax), exponent)
    elif mode == "nvfp4":
        least = float(jnp.finfo(E4M3).smallest_subnormal)
        scale = jnp.maximum(saturated(amax / greatest, E4M3).astype("float32"), least)
    else:
        scale = amax / greatest
    return jnp.where(amax > 0, scale, 1)


def _expanded(scales: jax.Array, mode: str, rows: int, k: int) -> jax.Array:
    if mode == "tensor":
        return scales.reshape(())
    if mode == "outer":
        return scales[..., None]
    x = jnp.repeat(scales, _TILED.get(mode, 128), axis=-1)[..., :k]
    return jnp.repeat(x, 128, axis=-2)[..., :rows, :] if mode == "128x128" else x


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _padded(x: jax.Array, rows: int, columns: int) -> jax.Array:
    pad = [(0, 0)] * (x.ndim - 2) + [(0, rows - x.shape[-2]), (0, columns - x.shape[-1])]
    return jnp.pad(x, pad)
