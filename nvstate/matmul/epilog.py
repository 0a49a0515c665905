"""Epilogs: what each takes and gives, and what it does in `jax.numpy`."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

Aux = Literal["relu_aux", "gelu_aux"]


@dataclasses.dataclass(frozen=True)
class Parts:
    """What an epilog is made of.

    Attributes:
        bias: whether it adds a bias.
        function: "relu" or "gelu" of the sum; None: the sum itself.
        gives: the auxiliary result for the backward pass.
        takes: the auxiliary operand from the forward pass, whose derivative it multiplies with.
        sums: the result that is a sum over one axis: of D, or of an operand.
    """

    bias: bool = False
    function: Literal["relu", "gelu"] | None = None
    gives: Aux | None = None
    takes: Aux | None = None
    sums: Literal["drelu_bgrad", "dgelu_bgrad", "bgrada", "bgradb"] | None = None


def parts(epilog: str | None) -> Parts:
    """An epilog's parts, by its name."""
    if epilog is None:
        return Parts()
    if epilog in ("bgrada", "bgradb"):
        return Parts(sums=epilog)
    words = epilog.split("_")
    if words[0] in ("drelu", "dgelu"):
        takes = "relu_aux" if words[0] == "drelu" else "gelu_aux"
        return Parts(takes=takes, sums=epilog if "bgrad" in words else None)  # pyright: ignore[reportArgumentType]
    function = words[0] if words[0] != "bias" else None
    gives = f"{function}_aux" if "aux" in words else None
    return Parts(bias="bias" in words, function=function, gives=gives)  # pyright: ignore[reportArgumentType]


def named(*, function: str | None, bias: bool, aux: bool) -> str | None:
    """The name of a forward epilog."""
    words = [word for word in (function, "aux" * aux, "bias" * bias) if word]
    return "_".join(words) or None


def aux_length(aux: Aux, n: int) -> int:
    """Extent of an auxiliary array's last axis: bytes of a mask, or elements."""
    return 16 * -(-n // 128) if aux == "relu_aux" else 8 * -(-n // 8)


def gelu(z: jax.Array) -> jax.Array:
    """Return z (1 + tanh(√(2/π) (z + 0.044715 z³))) / 2, as `jax.nn.gelu(approximate=True)`."""
    return jax.nn.gelu(z, approximate=True)


def gelu_slope(z: jax.Array) -> jax.Array:
    """gelu′(z)."""
    c, d = float(np.sqrt(2 / np.pi)), 0.044715
    t = jnp.tanh(c * (z + d * z * z * z))
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * c * (1 + 3 * d * z * z)


def mask(z: jax.Array) -> jax.Array:
    """relu_aux: bit n of each row, the lowest of a byte first, is z > 0; zeros beyond N."""
    n = z.shape[-1]
    bits = jnp.pad(z > 0, [(0, 0)] * (z.ndim - 1) + [(0, 8 * aux_length("relu_aux", n) - n)])
    return jnp.packbits(bits, axis=-1, bitorder="little")


def unmask(aux: jax.Array, n: int) -> jax.Array:
    """The n booleans of a relu_aux."""
    bits = aux[..., None] >> jnp.arange(8, dtype="uint8") & 1  # jnp.unpackbits refuses no rows
    return bits.reshape(*aux.shape[:-1], 8 * aux.shape[-1])[..., :n].astype(bool)


def padded(z: jax.Array) -> jax.Array:
    """gelu_aux: z, with zeros beyond N."""
    n = z.shape[-1]
    return jnp.pad(z, [(0, 0)] * (z.ndim - 1) + [(0, aux_length("gelu_aux", n) - n)])


def slope(takes: Aux, aux: jax.Array, n: int, dtype: Any) -> jax.Array:
    """What D of a gradient epilog is multiplied with."""
    if takes == "relu_aux":
        return unmask(aux, n).astype(dtype)
    return gelu_slope(aux[..., :n].astype(dtype))


def applied(function: str | None, z: jax.Array) -> jax.Array:
    """f(z)."""
    if function is None:
        return z
    return jax.nn.relu(z) if function == "relu" else gelu(z)
