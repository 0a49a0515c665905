"""Blocks of elements that share a scale: how many, how they are laid out, and where they reach.

Natural scales are [..., rows, blocks along K]; packed ones are as the library reads them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from nvstate.matmul.table import E4M3

E8M0 = "float8_e8m0fnu"
TILED = {"mxfp8": 32, "nvfp4": 16}  # elements of a block, whose scales come in tiles of 128×4
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
        return (shape[0], up(shape[1], 4))
    return (up(rows, 128) * up(shape[1], 4),)


def packed(x: jax.Array, mode: str) -> jax.Array:
    """Natural scales in the library's layout, filled up with zeros; E8M0 has none: its least."""
    if mode in ("tensor", "outer"):
        return x
    if mode == "1x128":
        return jnp.swapaxes(x, -1, -2)
    *batch, rows, blocks = x.shape
    if mode == "128x128":
        return padded(x, rows, up(blocks, 4))
    rows, blocks = up(rows, 128), up(blocks, 4)
    tiles = padded(x.view("uint8"), rows, blocks)
    tiles = tiles.reshape(*batch, rows // 128, 4, 32, blocks // 4, 4)
    return jnp.swapaxes(tiles, -4, -2).reshape(*batch, rows * blocks).view(x.dtype)


def unpacked(x: jax.Array, mode: str, rows: int, k: int) -> jax.Array:
    """Natural scales from packed ones."""
    if mode in ("tensor", "outer"):
        return x
    if mode == "1x128":
        return jnp.swapaxes(x, -1, -2)
    own = natural_shape(mode, rows, k)
    if mode == "128x128":
        return x[..., : own[1]]
    *batch, _ = x.shape
    high, wide = up(own[0], 128), up(own[1], 4)
    tiles = jnp.swapaxes(x.reshape(*batch, high // 128, wide // 4, 32, 4, 4), -4, -2)
    return tiles.reshape(*batch, high, wide)[..., : own[0], : own[1]]


def amax(x: jax.Array, mode: str) -> jax.Array:
    """The largest magnitude of each block: of nothing, zero; infinite where there is a NaN.

    XLA's CPUs drop NaNs from some maxima (jaxlib 0.10.2: those that become YNNPACK's).
    """
    x = jnp.where(jnp.isnan(x), jnp.inf, jnp.abs(x))
    if mode == "tensor":
        return jnp.max(x, initial=0)
    if mode == "outer":
        return jnp.max(x, -1, initial=0)
    *batch, rows, k = x.shape
    width = TILED.get(mode, 128)
    blocks = -(-k // width)
    x = padded(x, rows, blocks * width).reshape(*batch, rows, blocks, width).max(-1)
    if mode != "128x128":
        return x
    high = -(-rows // 128)
    return padded(x, 128 * high, blocks).reshape(*batch, high, 128, blocks).max(-2)


def expanded(scales: jax.Array, mode: str, rows: int, k: int) -> jax.Array:
    """Natural scales, of each element: [..., rows, K] or what broadcasts to it."""
    if mode == "tensor":
        return scales.reshape(())
    if mode == "outer":
        return scales[..., None]
    x = jnp.repeat(scales, TILED.get(mode, 128), axis=-1)[..., :k]
    return jnp.repeat(x, 128, axis=-2)[..., :rows, :] if mode == "128x128" else x


def up(n: int, multiple: int) -> int:
    """The next multiple."""
    return -(-n // multiple) * multiple


def padded(x: jax.Array, rows: int, columns: int) -> jax.Array:
    """Zeros below and to the right."""
    pad = [(0, 0)] * (x.ndim - 2) + [(0, rows - x.shape[-2]), (0, columns - x.shape[-1])]
    return jnp.pad(x, pad)
