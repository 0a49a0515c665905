"""FFTSpec, the transform as data."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from nvstate._core import dtypes
from nvstate._core.aval import Aval, OperandType
from nvstate._core.spec import Spec, digest
from nvstate.fft import arguments
from nvstate.fft.arguments import Direction, Hermitian, Kind, Norm

_SCALED: dict[Direction, Norm] = {"inverse": "backward", "forward": "forward"}  # by 1/N
_CHOICES = {"kind": Kind, "direction": Direction, "norm": Norm, "hermitian": Hermitian}
TURNED: dict[Norm, Norm] = {
    "backward": "forward",
    "forward": "backward",
    "ortho": "ortho",
    "none": "none",
}


@dataclasses.dataclass(frozen=True)
class FFTSpec(Spec):
    """A transform over `axes`; an operand's other axes are batch, of any number and size.

    Attributes:
        kind: "c2c", "r2c" or "c2r".
        direction: "forward", exp(-2πi…), or "inverse", exp(+2πi…).
        norm: which direction is scaled; see `scale`.
        axes: negative; ascending, but for the last, which "r2c" and "c2r" halve.
        lengths: of the transform along `axes`, on the side that is not halved.
        extents: of the operand along `axes`; where they differ from what `lengths` need, the
            operand is cropped or padded with zeros.
        dtype: of the complex side.
        hermitian: whether a c2r operand is taken as NumPy does, or assumed Hermitian.
        inplace: whether the result takes the operand's memory.
    """

    kind: Kind
    direction: Direction
    norm: Norm
    axes: tuple[int, ...]
    lengths: tuple[int, ...]
    extents: tuple[int, ...]
    dtype: str
    hermitian: Hermitian = "numpy"
    inplace: bool = False

    def __post_init__(self) -> None:
        """Refuse what `spec` would not make, as `dataclasses.replace` can."""
        for name, choices in _CHOICES.items():
            arguments.choice(name, getattr(self, name), choices, optional=False)
        arguments.flag("inplace", self.inplace)
        for name in ("axes", "lengths", "extents"):
            if getattr(self, name) != arguments.integers(name, getattr(self, name)):
                raise arguments.error(
                    f"`{name}` needs a tuple",
                    "a tuple",
                    repr(getattr(self, name)),
                    "Make specs with `nvstate.fft.spec`.",
                )
        counts = {len(self.axes), len(self.lengths), len(self.extents)}
        if (
            len(counts) > 1
            or len({a for a in self.axes if a < 0}) != len(self.axes)
            or not self.axes
            or list(ordered := self.axes[: -1 if self.kind != "c2c" else None]) != sorted(ordered)
        ):
            raise arguments.error(
                "not in canonical form",
                "distinct negative axes in order, and a length and an extent for each",
                f"axes={self.axes}, lengths={self.lengths}, extents={self.extents}",
                "Make specs with `nvstate.fft.spec`.",
            )
        if (
            self.dtype not in dtypes.REAL
            or not all(0 < n < 2**63 for n in (*self.lengths, *self.extents))
            or (self.inplace and (self.kind != "c2c" or self.lengths != self.extents))
            or (self.hermitian != "numpy" and self.kind != "c2r")
            or self.direction != arguments.direction_of(self.kind, self.direction)
        ):
            raise arguments.error(
                "no transform",
                "a complex dtype, positive lengths, in place only what keeps its type, and "
                '`hermitian` of "c2r"',
                f"{self.kind} {self.direction}, {self.dtype}, lengths {self.lengths}, "
                f"extents {self.extents}, inplace={self.inplace}, hermitian={self.hermitian}",
                "Make specs with `nvstate.fft.spec`.",
            )

    @property
    def family(self) -> int:
        """Shared by a transform, its inverse, its derivative and its batches."""
        return digest("fft", sorted(self.lengths), self.dtype)

    @property
    def operand_dtype(self) -> str:
        """Dtype of the operand."""
        return dtypes.REAL[self.dtype] if self.kind == "r2c" else self.dtype

    @property
    def result_dtype(self) -> str:
        """Dtype of the result."""
        return dtypes.REAL[self.dtype] if self.kind == "c2r" else self.dtype

    @property
    def halved(self) -> tuple[int, ...]:
        """`lengths`, with the last one as a half spectrum stores it."""
        return (*self.lengths[:-1], self.lengths[-1] // 2 + 1)

    @property
    def needed(self) -> tuple[int, ...]:
        """Extents of an operand that is neither cropped nor padded."""
        return self.halved if self.kind == "c2r" else self.lengths

    @property
    def produced(self) -> tuple[int, ...]:
        """Extents of the result along `axes`."""
        return self.halved if self.kind == "r2c" else self.lengths

    @property
    def scale(self) -> float:
        """The factor c: 1, 1/N or 1/√N, from the exact integer N = Π lengths."""
        size = math.prod(self.lengths)
        if self.norm == "ortho":
            return 1 / math.sqrt(size)
        return 1 / size if self.norm == _SCALED[self.direction] else 1.0

    @property
    def scale_over_numpys(self) -> float:
        """The factor c over what NumPy's "backward" has: exactly 1 where they are one."""
        size, inverse = math.prod(self.lengths), self.direction == "inverse"
        if self.norm == "ortho":
            return math.sqrt(size) if inverse else 1 / math.sqrt(size)
        if (self.norm == _SCALED[self.direction]) == inverse:
            return 1.0
        return float(size) if inverse else 1 / size

    def result_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the result for an operand of `shape`."""
        dims = list(shape)
        for axis, n in zip(self.axes, self.produced, strict=True):
            dims[axis] = n
        return tuple(dims)

    def results(self, x: Aval) -> Aval:
        """Type of the result: an update, since a type made anew would lose its sharding."""
        self.require_countable(x.shape)
        return x.update(
            shape=self.result_shape(x.shape), dtype=np.dtype(self.result_dtype), weak_type=False
        )

    def require_countable(self, shape: tuple[int, ...]) -> None:
        """Refuse more bytes than 64 bits count, in which XLA ends the process.

        Of operand, result and what is padded between them. Symbolic extents are never so many.
        """
        dims = list(shape)
        for axis, *extents in zip(self.axes, self.extents, self.lengths, strict=True):
            dims[axis] = max(extents)
        if math.prod(n for n in dims if type(n) is int and n) >= 2**59:  # of 16 bytes
            raise arguments.error(
                "a transform of more bytes than any library counts",
                "fewer than 2^59 elements",
                f"extents {tuple(dims)}, padded",
                "Pass a shorter `n` or `s`.",
            )

    def accepts(self, planned: tuple[OperandType, ...], got: tuple[OperandType, ...]) -> bool:
        """The same extents along `axes`, and the same number of transforms in any batch axes."""
        return planned == got or self._accepts(*planned, *got)

    def _accepts(self, planned: OperandType, got: OperandType) -> bool:
        if got.dtype != planned.dtype or len(got.shape) < -min(self.axes):
            return False
        extents = tuple(got.shape[axis] for axis in self.axes)
        return extents == self.extents and (planned.open or got.size == planned.size)

    def transposed(self) -> FFTSpec:
        """The spec of the transposed linear map, up to the weights of a half spectrum."""
        turned: dict[str, Any] = {"extents": self.produced, "inplace": False}
        if self.kind != "c2c":
            kind, direction = ("c2r", "inverse") if self.kind == "r2c" else ("r2c", "forward")
            turned |= {"kind": kind, "direction": direction, "norm": TURNED[self.norm]}
        return dataclasses.replace(self, **turned, hermitian="numpy")

    def inverse(self, hermitian: Hermitian = "numpy") -> FFTSpec:
        """The spec that undoes this transform on its result."""
        if hermitian != "numpy" and self.kind != "r2c":
            raise arguments.error(
                '`hermitian` is about the inverse of "r2c"',
                '`kind="r2c"`',
                f'`kind="{self.kind}"` with `hermitian="{hermitian}"`',
                "Leave `hermitian` out.",
            )
        arguments.choice("hermitian", hermitian, Hermitian, optional=False)
        kind = {"c2c": "c2c", "r2c": "c2r", "c2r": "r2c"}[self.kind]
        direction = "forward" if self.direction == "inverse" else "inverse"
        return dataclasses.replace(
            self, kind=kind, direction=direction, extents=self.produced, hermitian=hermitian
        )

    def shifted(self, dim: int, rank: int) -> FFTSpec:
        """The spec of an operand that `vmap` gave a batch axis at `dim` and so `rank` axes."""
        return dataclasses.replace(self, axes=tuple(a - (a + rank <= dim) for a in self.axes))

    def positions(self, rank: int) -> tuple[int, ...]:
        """`axes`, counted from the front."""
        return tuple(axis + rank for axis in self.axes)
