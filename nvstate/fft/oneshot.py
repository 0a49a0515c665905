"""NumPy's names: spec, plan and execution in one call."""

from __future__ import annotations

from typing import Any, TypedDict, Unpack

import jax
import numpy as np

from nvstate import errors
from nvstate._core import aval, dtypes, oneshot
from nvstate._core.aval import Device, OperandType
from nvstate._core.placement import Execution
from nvstate.fft.arguments import WHERE, Direction, Hermitian, Kind, Norm, Parity, integers
from nvstate.fft.plan import FFTPlan, plan, planned
from nvstate.fft.strategy import Strategy


class Options(TypedDict, total=False):
    """Keywords of `plan` that the one-shot forms pass on."""

    inplace: bool
    strategy: Strategy
    execution: Execution | Device | None


class RealOptions(TypedDict, total=False):
    """The same for results that are real."""

    last_axis_parity: Parity | None
    hermitian: Hermitian
    strategy: Strategy
    execution: Execution | Device | None


def fft(
    x: Any,
    n: int | None = None,
    axis: int = -1,
    norm: Norm | None = None,
    **options: Unpack[Options],
) -> Any:
    """Transform complex data along one axis: `numpy.fft.fft`, planned.

    Args:
        x: complex64|complex128 [..., m, ...]; real data take `rfft`, nothing is promoted.
        n: length along `axis`: crop, or pad with zeros, first; None: m.
        axis: which one.
        norm: "backward" or None: unscaled; "ortho": 1/√n; "forward": 1/n; "none": unscaled.
        **options: `inplace`, `strategy`, `execution`: as in `plan`.

    Returns:
        complex [..., n, ...], of the operand's package.

    Raises:
        SpecError: no such transform; a real operand.

    Example:
        >>> nvs.fft.fft(jnp.ones(4, "complex64"))
        Array([4.+0.j, 0.+0.j, 0.+0.j, 0.+0.j], dtype=complex64)

    Source: as `plan`.
    """
    return _one_axis("fft", x, "c2c", "forward", n, axis, norm, options)


def ifft(
    x: Any,
    n: int | None = None,
    axis: int = -1,
    norm: Norm | None = None,
    **options: Unpack[Options],
) -> Any:
    """Invert `fft` along one axis: `numpy.fft.ifft`, planned.

    Args:
        x: complex64|complex128 [..., m, ...].
        n: length along `axis`: crop, or pad with zeros, first; None: m.
        axis: which one.
        norm: "backward" or None: 1/n; "ortho": 1/√n; "forward" and "none": unscaled.
        **options: `inplace`, `strategy`, `execution`: as in `plan`.

    Returns:
        complex [..., n, ...], of the operand's package.

    Raises:
        SpecError: no such transform; a real operand.

    Example:
        >>> nvs.fft.ifft(jnp.ones(4, "complex64"))
        Array([1.+0.j, 0.+0.j, 0.+0.j, 0.+0.j], dtype=complex64)

    Source: as `plan`.
    """
    return _one_axis("ifft", x, "c2c", "inverse", n, axis, norm, options)


def rfft(
    x: Any,
    n: int | None = None,
    axis: int = -1,
    norm: Norm | None = None,
    **options: Unpack[Options],
) -> Any:
    """Transform real data along one axis: `numpy.fft.rfft`, planned.

    Args:
        x: float32|float64 [..., m, ...].
        n: length along `axis`: crop, or pad with zeros, first; None: m.
        axis: which one.
        norm: "backward" or None: unscaled; "ortho": 1/√n; "forward": 1/n; "none": unscaled.
        **options: `strategy`, `execution`: as in `plan`.

    Returns:
        complex [..., n//2 + 1, ...], of the operand's package.

    Raises:
        SpecError: no such transform; a complex operand.

    Example:
        >>> nvs.fft.rfft(jnp.ones(4, "float32"))
        Array([4.+0.j, 0.+0.j, 0.+0.j], dtype=complex64)

    Source: as `plan`.
    """
    return _one_axis("rfft", x, "r2c", "forward", n, axis, norm, options)


def irfft(
    x: Any,
    n: int | None = None,
    axis: int = -1,
    norm: Norm | None = None,
    **options: Unpack[RealOptions],
) -> Any:
    """Invert `rfft` along one axis: `numpy.fft.irfft`, planned.

    Args:
        x: complex64|complex128 [..., m, ...], a half spectrum.
        n: length of the result along `axis`; None: 2(m - 1), or 2m - 1 if `last_axis_parity` is
            "odd".
        axis: which one.
        norm: "backward" or None: 1/n; "ortho": 1/√n; "forward" and "none": unscaled.
        **options: `last_axis_parity`, `hermitian`, `strategy`, `execution`: as in
            `plan`.

    Returns:
        float [..., n, ...], of the operand's package.

    Raises:
        SpecError: no such transform; a real operand; a result of length 0.

    Example:
        >>> nvs.fft.irfft(jnp.ones(3, "complex64"))
        Array([1., 0., 0., 0.], dtype=float32)

    Source: as `plan`.
    """
    return _one_axis("irfft", x, "c2r", "inverse", n, axis, norm, options)


def fftn(
    x: Any,
    s: tuple[int, ...] | None = None,
    axes: tuple[int, ...] | None = None,
    norm: Norm | None = None,
    **options: Unpack[Options],
) -> Any:
    """Transform complex data along several axes: `numpy.fft.fftn`, planned.

    Args:
        x: complex64|complex128 [...]; real data take `rfftn`.
        s: lengths along `axes`: crop, or pad with zeros, first.
        axes: which ones; None: all, or the last `len(s)`.
        norm: "backward" or None: unscaled; "ortho": 1/√N; "forward": 1/N; "none": unscaled.
        **options: `inplace`, `strategy`, `execution`: as in `plan`.

    Returns:
        complex [...], `s` along `axes`, of the operand's package.

    Raises:
        SpecError: no such transform; a real operand.

    Example:
        >>> nvs.fft.fftn(jnp.ones((2, 2), "complex64"))[0, 0]
        Array(4.+0.j, dtype=complex64)

    Source: as `plan`.
    """
    return _many_axes("fftn", x, "c2c", "forward", s, axes, norm, options)


def ifftn(
    x: Any,
    s: tuple[int, ...] | None = None,
    axes: tuple[int, ...] | None = None,
    norm: Norm | None = None,
    **options: Unpack[Options],
) -> Any:
    """Invert `fftn` along several axes: `numpy.fft.ifftn`, planned.

    Args:
        x: complex64|complex128 [...].
        s: lengths along `axes`: crop, or pad with zeros, first.
        axes: which ones; None: all, or the last `len(s)`.
        norm: "backward" or None: 1/N; "ortho": 1/√N; "forward" and "none": unscaled.
        **options: `inplace`, `strategy`, `execution`: as in `plan`.

    Returns:
        complex [...], `s` along `axes`, of the operand's package.

    Raises:
        SpecError: no such transform; a real operand.

    Example:
        >>> nvs.fft.ifftn(jnp.ones((2, 2), "complex64"))[0, 0]
        Array(1.+0.j, dtype=complex64)

    Source: as `plan`.
    """
    return _many_axes("ifftn", x, "c2c", "inverse", s, axes, norm, options)


def rfftn(
    x: Any,
    s: tuple[int, ...] | None = None,
    axes: tuple[int, ...] | None = None,
    norm: Norm | None = None,
    **options: Unpack[Options],
) -> Any:
    """Transform real data along several axes: `numpy.fft.rfftn`, planned.

    Args:
        x: float32|float64 [...].
        s: lengths along `axes`: crop, or pad with zeros, first.
        axes: which ones, the last of them halved; None: all, or the last `len(s)`.
        norm: "backward" or None: unscaled; "ortho": 1/√N; "forward": 1/N; "none": unscaled.
        **options: `strategy`, `execution`: as in `plan`.

    Returns:
        complex [...], `s` along `axes`, the last one s//2 + 1; of the operand's package.

    Raises:
        SpecError: no such transform; a complex operand.

    Example:
        >>> nvs.fft.rfftn(jnp.ones((2, 2), "float32"))[0, 0]
        Array(4.+0.j, dtype=complex64)

    Source: as `plan`.
    """
    return _many_axes("rfftn", x, "r2c", "forward", s, axes, norm, options)


def irfftn(
    x: Any,
    s: tuple[int, ...] | None = None,
    axes: tuple[int, ...] | None = None,
    norm: Norm | None = None,
    **options: Unpack[RealOptions],
) -> Any:
    """Invert `rfftn` along several axes: `numpy.fft.irfftn`, planned.

    Args:
        x: complex64|complex128 [...], halved along the last of `axes`; need not be Hermitian.
        s: lengths of the result along `axes`; None: as stored, the last one 2(m - 1), or 2m - 1
            if `last_axis_parity` is "odd".
        axes: which ones; None: all, or the last `len(s)`.
        norm: "backward" or None: 1/N; "ortho": 1/√N; "forward" and "none": unscaled.
        **options: `last_axis_parity`, `hermitian`, `strategy`, `execution`: as in
            `plan`.

    Returns:
        float [...], `s` along `axes`, of the operand's package.

    Raises:
        SpecError: no such transform; a real operand; a result of length 0.

    Example:
        >>> nvs.fft.irfftn(jnp.ones((2, 2), "complex64"))[0, 0]
        Array(1., dtype=float32)

    Source: as `plan`.
    """
    return _many_axes("irfftn", x, "c2r", "inverse", s, axes, norm, options)


def fft2(
    x: Any,
    s: tuple[int, ...] | None = None,
    axes: tuple[int, ...] = (-2, -1),
    norm: Norm | None = None,
    **options: Unpack[Options],
) -> Any:
    """Transform complex data along two axes: `numpy.fft.fft2`, planned.

    Args:
        x: as `fftn`.
        s: as `fftn`.
        axes: which two.
        norm: as `fftn`.
        **options: as `fftn`.

    Returns:
        As `fftn`.

    Raises:
        SpecError: as `fftn`.

    Example:
        >>> nvs.fft.fft2(jnp.ones((3, 2, 2), "complex64")).shape
        (3, 2, 2)

    Source: as `plan`.
    """
    return fftn(x, s, axes, norm, **options)


def ifft2(
    x: Any,
    s: tuple[int, ...] | None = None,
    axes: tuple[int, ...] = (-2, -1),
    norm: Norm | None = None,
    **options: Unpack[Options],
) -> Any:
    """Invert `fft2` along two axes: `numpy.fft.ifft2`, planned.

    Args:
        x: as `ifftn`.
        s: as `ifftn`.
        axes: which two.
        norm: as `ifftn`.
        **options: as `ifftn`.

    Returns:
        As `ifftn`.

    Raises:
        SpecError: as `ifftn`.

    Example:
        >>> nvs.fft.ifft2(jnp.ones((3, 2, 2), "complex64")).shape
        (3, 2, 2)

    Source: as `plan`.
    """
    return ifftn(x, s, axes, norm, **options)


def rfft2(
    x: Any,
    s: tuple[int, ...] | None = None,
    axes: tuple[int, ...] = (-2, -1),
    norm: Norm | None = None,
    **options: Unpack[Options],
) -> Any:
    """Transform real data along two axes: `numpy.fft.rfft2`, planned.

    Args:
        x: as `rfftn`.
        s: as `rfftn`.
        axes: which two.
        norm: as `rfftn`.
        **options: as `rfftn`.

    Returns:
        As `rfftn`.

    Raises:
        SpecError: as `rfftn`.

    Example:
        >>> nvs.fft.rfft2(jnp.ones((3, 2, 2), "float32")).shape
        (3, 2, 2)

    Source: as `plan`.
    """
    return rfftn(x, s, axes, norm, **options)


def irfft2(
    x: Any,
    s: tuple[int, ...] | None = None,
    axes: tuple[int, ...] = (-2, -1),
    norm: Norm | None = None,
    **options: Unpack[RealOptions],
) -> Any:
    """Invert `rfft2` along two axes: `numpy.fft.irfft2`, planned.

    Args:
        x: as `irfftn`.
        s: as `irfftn`.
        axes: which two.
        norm: as `irfftn`.
        **options: as `irfftn`.

    Returns:
        As `irfftn`.

    Raises:
        SpecError: as `irfftn`.

    Example:
        >>> nvs.fft.irfft2(jnp.ones((3, 2, 2), "complex64")).shape
        (3, 2, 2)

    Source: as `plan`.
    """
    return irfftn(x, s, axes, norm, **options)


def _one_axis(
    name: str,
    x: Any,
    kind: Kind,
    direction: Direction,
    n: int | None,
    axis: int,
    norm: Norm | None,
    options: Any,
) -> Any:
    if type(axis) is not int or (n is not None and type(n) is not int):  # 8.0 would be found as 8
        axes, n = integers("axes", axis), None if n is None else integers("n", n)[0]
        if len(axes) != 1:
            raise _error(name, "one axis", f"axis={axis}", f"Use `nvstate.fft.{name}n(x, axes=…)`.")
        axis = axes[0]
    return _execute(name, x, kind, direction, n, None, (axis,), norm, options)


def _many_axes(
    name: str,
    x: Any,
    kind: Kind,
    direction: Direction,
    s: tuple[int, ...] | None,
    axes: tuple[int, ...] | None,
    norm: Norm | None,
    options: Any,
) -> Any:
    s = None if s is None else integers("s", s)
    axes = None if axes is None else integers("axes", axes)
    return _execute(name, x, kind, direction, None, s, axes, norm, options)


def _execute(name: str, x: Any, *problem: Any) -> Any:
    if not isinstance(x, np.ndarray | jax.Array):
        raise _error(name, "an array", aval.foreign(x), "Pass a numpy.ndarray or a jax.Array.")
    *arguments, options = problem
    if unknown := options.keys() - (Options.__annotations__ | RealOptions.__annotations__).keys():
        raise TypeError(f"{name}() got an unexpected keyword argument {min(unknown)!r}")
    where = oneshot.whereabouts(x)
    try:
        made = _plan(name, x.shape, x.dtype, where, *arguments, **options)
    except TypeError:  # an argument that cannot be a key, which `plan` refuses in its own words
        made = plan(x, **dict(zip(_ARGUMENTS, arguments, strict=True)), **options)
    return made(x)


_ARGUMENTS = ("kind", "direction", "n", "s", "axes", "norm")


@oneshot.remembered
def _plan(
    name: str,
    shape: tuple[int, ...],
    dtype: Any,
    whereabouts: Any,
    kind: Kind,
    direction: Direction,
    n: int | None,
    s: tuple[int, ...] | None,
    axes: tuple[int, ...] | None,
    norm: Norm | None,
    **options: Any,
) -> FFTPlan:
    operand = OperandType(shape, str(dtype))
    real = kind == "r2c"
    narrowed = not dtypes.is_enabled(operand.dtype)  # which `plan` refuses, with a better cast
    if not narrowed and operand.dtype in (dtypes.REAL if real else dtypes.COMPLEX):
        others = {"fft": "rfft", "fft2": "rfft2", "fftn": "rfftn"}
        others |= {real: complex_ for complex_, real in others.items()}
        other = f"Use `nvstate.fft.{others[name]}`, or " if name in others else "Convert it with "
        cast = "pass `x.real`" if real else f'`x.astype("{dtypes.COMPLEX[operand.dtype]}")`'
        raise _error(
            name,
            f"a {'real' if real else 'complex'} operand",
            f"{operand}; nothing is promoted",
            f"{other}{cast}.",
        )
    problem = {"kind": kind, "direction": direction, "n": n, "s": s, "axes": axes, "norm": norm}
    return planned(operand, oneshot.placed(whereabouts), **problem, **options)


def _error(name: str, expected: str, got: str, do: str) -> errors.SpecError:
    what = f"`{name}` cannot take this operand"
    return errors.SpecError(errors.message(WHERE, what, expected=expected, got=got, do=do))
