"""FFTSpec, the transform as data, and spec(), which brings arguments into that form."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypedDict

import numpy as np

from nvstate._core import aval, dtypes, log
from nvstate._core.aval import Aval, OperandType
from nvstate._core.spec import Spec, digest
from nvstate.fft import arguments
from nvstate.fft.arguments import Direction, Hermitian, Kind, Norm, Parity

_SCALED: dict[Direction, Norm] = {"inverse": "backward", "forward": "forward"}  # by 1/N
_CHOICES = {"kind": Kind, "direction": Direction, "norm": Norm, "hermitian": Hermitian}
TURNED: dict[Norm, Norm] = {
    "backward": "forward",
    "forward": "backward",
    "ortho": "ortho",
    "none": "none",
}


class Problem(TypedDict, total=False):
    """The keywords of `spec`, for every function that passes them on."""

    axes: tuple[int, ...] | None
    n: int | None
    s: tuple[int, ...] | None
    kind: Kind | None
    direction: Direction | None
    norm: Norm | None
    last_axis_parity: Parity | None
    hermitian: Hermitian
    inplace: bool


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


def spec(
    x: Any,
    /,
    *,
    axes: tuple[int, ...] | None = None,
    n: int | None = None,
    s: tuple[int, ...] | None = None,
    kind: Kind | None = None,
    direction: Direction | None = None,
    norm: Norm | None = "backward",
    last_axis_parity: Parity | None = None,
    hermitian: Hermitian = "numpy",
    inplace: bool = False,
) -> FFTSpec:
    """Specify a discrete Fourier transform. Validates; touches no device.

    y[k] = c Σₙ x[n] exp(∓2πi Σⱼ kⱼ nⱼ / Nⱼ), - forward and + inverse; N = Π Nⱼ.

    Args:
        x: complex64|complex128 [...], float32|float64 [...] for "r2c". Only its type is read: an
            array, a tracer or a `jax.ShapeDtypeStruct`.
        axes: distinct axes of `x`, in any order; None: all, or the last `len(s)`. "r2c" and "c2r"
            halve the last one named. Up to three run as one transform, more by composition.
        n: length of the last axis, for "c2r" of the real side: crop, or pad with zeros, first.
        s: the same for all `axes`.
        kind: "c2c", "r2c" or "c2r"; None: "r2c" if `x` is real, else "c2c".
        direction: "forward" or "inverse"; None: "inverse" for "c2r", else "forward".
        norm: c forward and inverse: "backward" or None: 1, 1/N; "ortho": 1/√N, 1/√N;
            "forward": 1/N, 1; "none": 1, 1, so that a round trip gives N·x.
        last_axis_parity: "c2r" alone: whether m stored frequencies become 2(m-1) points ("even",
            the default) or 2m-1 ("odd").
        hermitian: "c2r" alone: "numpy" gives what `numpy.fft.irfftn` does for any operand;
            "assume" skips that pass: the operand's symmetry is your promise, else the result of
            several axes is undefined on CUDA.
        inplace: "c2c" alone: the result takes the operand's memory, and an eager call consumes
            the operand. Under `jit`, donate it.

    Returns:
        The spec: equal problems are equal, hash alike and pickle.

    Raises:
        SpecError: no such transform.
        UnsupportedError: float16 and bfloat16.

    Example:
        >>> nvs.fft.spec(jnp.ones((2, 8), "complex64"), axes=(1,)).lengths
        (8,)
    """
    if not aval.is_array(x):
        raise arguments.error(
            "no operand",
            "an array or a jax.ShapeDtypeStruct",
            aval.foreign(x),
            "Pass `jax.numpy.asarray(x)` or `numpy.asarray(x)`.",
        )
    start = log.now()
    made = specified(
        aval.type_of(x),
        axes=axes,
        n=n,
        s=s,
        kind=kind,
        direction=direction,
        norm=norm,
        last_axis_parity=last_axis_parity,
        hermitian=hermitian,
        inplace=inplace,
    )
    log.info("specified", made, start)
    return made


def specified(
    operand: OperandType,
    *,
    axes: tuple[int, ...] | None = None,
    n: int | None = None,
    s: tuple[int, ...] | None = None,
    kind: Kind | None = None,
    direction: Direction | None = None,
    norm: Norm | None = "backward",
    last_axis_parity: Parity | None = None,
    hermitian: Hermitian = "numpy",
    inplace: bool = False,
) -> FFTSpec:
    """As `spec`, of an operand of which the type is known."""
    arguments.choice("kind", kind, Kind)
    arguments.choice("direction", direction, Direction)
    arguments.choice("norm", norm, Norm)
    arguments.choice("last_axis_parity", last_axis_parity, Parity)
    arguments.choice("hermitian", hermitian, Hermitian, optional=False)
    kind = arguments.kind_of(operand.dtype, kind)
    direction = arguments.direction_of(kind, direction)
    if kind != "c2r":
        for name, value, default in (
            ("last_axis_parity", last_axis_parity, None),
            ("hermitian", hermitian, "numpy"),
        ):
            if value != default:
                raise arguments.error(
                    f"`{name}` is about complex operands with a real result",
                    '`kind="c2r"`',
                    f'`kind="{kind}"` with `{name}="{value}"`',
                    f"Leave `{name}` out.",
                )
    s = None if s is None else arguments.integers("s", s)
    arguments.flag("inplace", inplace)
    axes = arguments.axes_of(operand, axes, s)
    if n is not None and s is not None:
        raise arguments.error("both `n` and `s`", "one of them", f"n={n}, s={s}", "Leave `n` out.")
    extents = tuple(operand.shape[axis] for axis in axes)
    lengths = list(extents if s is None else s)
    if n is not None:
        (lengths[-1],) = arguments.integers("n", n)
    if kind == "c2r":
        given = lengths[-1] if n is not None or s is not None else None
        lengths[-1] = arguments.real_length(extents[-1], given, last_axis_parity)
    for axis, extent, length in zip(axes, extents, lengths, strict=True):
        if length >= 2**63:
            raise arguments.error(
                "a length that no library counts to",
                "below 2^63",
                str(length),
                "Pass a shorter one.",
            )
        if extent < 1 or length < 1:
            raise arguments.error(
                f"transform length must be positive; axis {axis} has {min(extent, length)}",
                "extents and lengths of at least 1",
                f"{operand}, lengths {tuple(lengths)}",
                "Leave that axis out of `axes`, or pass a positive `n` or `s`.",
            )
    if inplace and (kind != "c2c" or tuple(lengths) != extents):
        raise arguments.error(
            "in place, but operand and result differ in type",
            '`kind="c2c"` with neither crop nor padding',
            f'`kind="{kind}"`, extents {extents}, lengths {tuple(lengths)}',
            "Leave `inplace` out.",
        )
    rows = list(zip(axes, lengths, extents, strict=True))
    if kind == "c2c":
        rows.sort()
    else:
        rows[:-1] = sorted(rows[:-1])
    axes, lengths, extents = (tuple(column) for column in zip(*rows, strict=True))
    dtype = dtypes.COMPLEX.get(operand.dtype, operand.dtype)
    return FFTSpec(
        kind, direction, norm or "backward", axes, lengths, extents, dtype, hermitian, inplace
    )
