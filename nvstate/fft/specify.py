"""spec(), which brings the arguments of a transform into canonical form."""

from __future__ import annotations

from typing import Any, TypedDict

from nvstate import errors
from nvstate._core import aval, dtypes, log
from nvstate._core.aval import OperandType
from nvstate.fft import arguments
from nvstate.fft.arguments import Direction, Hermitian, Kind, Norm, Parity
from nvstate.fft.spec import FFTSpec


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
    if not all(type(n) is int for n in (*extents, *lengths)):
        raise errors.UnsupportedError(
            errors.message(
                arguments.WHERE,
                "a transformed axis of unknown extent",
                expected="integers along the transformed axes; batch axes may be symbolic",
                got=f"{operand}, axes {axes}",
                do="Export once for each length.",
            )
        )
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


def typed(spec: FFTSpec, operand: Any) -> OperandType:
    """The type that a plan of this spec is made for; of an open batch if there is no operand."""
    if operand is not None and not aval.is_array(operand):
        raise errors.OperandError(
            errors.message(
                arguments.WHERE,
                "no operand",
                expected="an array or a jax.ShapeDtypeStruct",
                got=aval.foreign(operand),
                do="Pass `jax.numpy.asarray(x)` or `numpy.asarray(x)`.",
            )
        )
    if operand is not None:
        got = aval.type_of(operand)
        # Its own type has the batch of anything; what is left to accept is dtype and extents.
        if spec.accepts((OperandType((), spec.operand_dtype, open=True),), (got,)):
            return got
        raise errors.OperandError(
            errors.message(
                arguments.WHERE,
                "the operand does not fit the spec",
                expected=f"{spec.operand_dtype} with extents {spec.extents} along axes {spec.axes}",
                got=str(got),
                do="Make the spec from this operand, or pass the spec alone.",
            )
        )
    count = len(spec.axes)
    if sorted(spec.axes) != list(range(-count, 0)):
        raise arguments.error(
            "a spec alone says nothing of the axes between",
            "transform axes that are the last ones",
            f"axes {spec.axes}",
            "Pass an operand or its type beside it: `plan(spec, x)`.",
        )
    shape = dict(zip(spec.axes, spec.extents, strict=True))
    return OperandType(tuple(shape[a] for a in range(-count, 0)), spec.operand_dtype, open=True)
