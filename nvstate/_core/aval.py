"""Types of operands: what is compared, printed and stored, and how arrays are told apart."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.core
import numpy as np

Package = Literal["numpy", "jax"]
Aval = Any  # jax.core.ShapedArray; its module moves, its `update` does not
Device = Any  # jax.Device, in which type checkers see a variable


@dataclasses.dataclass(frozen=True, slots=True)
class OperandType:
    """A dtype and a shape; with `open`, any number of batch axes may stand before `shape`."""

    shape: tuple[int, ...]
    dtype: str
    open: bool = False

    def __str__(self) -> str:
        """As JAX prints types, for example `complex64[4,8]`."""
        dims = ["..."] * self.open + [str(n) for n in self.shape]
        return f"{self.dtype}[{','.join(dims)}]"

    @property
    def size(self) -> int:
        """Number of elements, without open batch axes."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes, without open batch axes."""
        return self.size * np.dtype(self.dtype).itemsize


def is_traced(x: object) -> bool:
    """Whether `x` stands for an array inside a JAX transformation."""
    return isinstance(x, jax.core.Tracer)


def is_array(x: object) -> bool:
    """Whether `x` is an array or a type that nvstate reads: NumPy's, JAX's or abstract."""
    if isinstance(x, np.ma.MaskedArray):
        return False  # a transform has no use for a mask, and must not drop it in silence
    return isinstance(x, np.ndarray | jax.Array | jax.ShapeDtypeStruct)


def type_of(x: Any) -> OperandType:
    """The type of an array, a tracer or a `jax.ShapeDtypeStruct`."""
    # Integers of NumPy's are as good as Python's, but are no plain data; symbolic ones stay.
    shape = tuple(int(n) if isinstance(n, np.integer) else n for n in x.shape)
    return OperandType(shape, str(x.dtype))


def package_of(x: object) -> Package | None:
    """Whose array `x` is; None for abstract operands, which fix no package."""
    if isinstance(x, np.ndarray):
        return "numpy"
    return "jax" if isinstance(x, jax.Array) and not is_traced(x) else None


def named(x: object) -> str:
    """What a thing is, for messages: the name of its type."""
    return f"{type(x).__module__}.{type(x).__qualname__}".removeprefix("builtins.")


def without_a_copy(x: object, package: Package = "jax") -> str | None:
    """The sentence that says how to convert another package's array, if it speaks DLPack."""
    if not hasattr(x, "__dlpack__") or isinstance(x, np.ndarray | jax.Array):
        return None
    convert = {"numpy": "numpy.from_dlpack(x)", "jax": "jax.dlpack.from_dlpack(x)"}[package]
    return f"Convert it without a copy by `{convert}`."


def foreign(x: object) -> str:
    """The name of a thing that is no operand; for DLPack's arrays, also what converts them."""
    cure = without_a_copy(x)
    return named(x) + (f"; {cure[0].lower()}{cure[1:-1]}" if cure else "")
