"""The words of a transform's arguments, and the checks that bring them into canonical form."""

from __future__ import annotations

import operator
from typing import Any, Literal, get_args

import numpy as np

from nvstate import errors
from nvstate._core import dtypes
from nvstate._core.aval import OperandType

Kind = Literal["c2c", "r2c", "c2r"]
Direction = Literal["forward", "inverse"]
Norm = Literal["backward", "ortho", "forward", "none"]
Parity = Literal["even", "odd"]
Hermitian = Literal["numpy", "assume"]

WHERE = "nvstate.fft"


def error(what: str, expected: str, got: str, do: str) -> errors.SpecError:
    """A `SpecError` in the template."""
    return errors.SpecError(errors.message(WHERE, what, expected=expected, got=got, do=do))


def flag(name: str, value: Any) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, bool):
        raise error(f"`{name}` is a choice", "True or False", repr(value), "Pass one of them.")


def integers(name: str, values: Any) -> tuple[int, ...]:
    """One integer or several, as a tuple."""
    listed = tuple(values) if isinstance(values, tuple | list | np.ndarray | range) else (values,)
    try:
        if not any(isinstance(value, bool | np.bool_) for value in listed):
            return tuple(operator.index(value) for value in listed)
    except TypeError:  # Python's word for what is no integer
        pass
    expected = "an integer" if name == "n" else "integers"
    raise error(f"`{name}` needs {expected}", expected, repr(values), f"Pass `{name}` as such.")


def choice(name: str, value: Any, choices: Any, *, optional: bool = True) -> None:
    """Refuse what is not one of the literals."""
    names = get_args(choices)
    if not (value in names or (optional and value is None)):
        listed = ", ".join(f'"{choice}"' for choice in names)
        raise error(f"unknown `{name}`", f"one of {listed}", repr(value), "Pass one of them.")


def _cast(dtype: str) -> str:
    try:
        kind = np.dtype(dtype).kind
    except TypeError:  # JAX's own types, such as keys
        kind = ""
    if kind == "c":
        return f'Convert the operand with `x.astype("complex{128 if dtype[-1] != "8" else 64}")`.'
    return 'Convert the operand with `x.astype("float32")` or `x.astype("complex64")`.'


def kind_of(dtype: str, kind: Kind | None) -> Kind:
    """The kind that a dtype and the argument make; both must agree."""
    if dtype in {"float16", "bfloat16"}:
        raise errors.UnsupportedError(
            errors.message(
                WHERE,
                f"{dtype} is not supported",
                expected="float32, float64, complex64 or complex128",
                got=dtype,
                do='Convert the operand with `x.astype("float32")`.',
            )
        )
    real = dtype in dtypes.COMPLEX
    if not real and dtype not in dtypes.REAL:
        raise error(
            f"no transform of {dtype}",
            "float32, float64, complex64 or complex128",
            dtype,
            _cast(dtype),
        )
    dtypes.require(WHERE, dtype)
    if kind is None:
        return "r2c" if real else "c2c"
    if real != (kind == "r2c"):
        wanted, do = (
            ("complex", f'Use `kind="r2c"`, or `x.astype("{dtypes.COMPLEX[dtype]}")`.')
            if real
            else ("real", 'Use `kind="c2c"`, or `kind="c2r"` for a half spectrum.')
        )
        raise error(f'`kind="{kind}"` of {dtype}', f"a {wanted} operand", dtype, do)
    return kind


def direction_of(kind: Kind, direction: Direction | None) -> Direction:
    """The direction: the real kinds have one."""
    only: dict[Kind, Direction] = {"r2c": "forward", "c2r": "inverse"}
    if direction is not None and direction != only.get(kind, direction):
        other = "c2r" if kind == "r2c" else "r2c"
        raise error(
            f'`kind="{kind}"` runs {only[kind]} only',
            f'`direction="{only[kind]}"`',
            f'`direction="{direction}"`',
            f'Leave `direction` out, or use `kind="{other}"`.',
        )
    return direction or only.get(kind, "forward")


def axes_of(
    operand: OperandType, axes: tuple[int, ...] | None, s: tuple[int, ...] | None
) -> tuple[int, ...]:
    """The axes, counted from the end, in the order given."""
    rank = len(operand.shape)
    if axes is None:
        axes = tuple(range(-(rank if s is None else len(s)), 0))
    axes = integers("axes", axes)
    if not axes or not rank:
        raise error(
            "no axes to transform",
            "an operand with axes, and at least one of them",
            f"axes={axes} of {operand}",
            "Name an axis of the operand.",
        )
    if any(not -rank <= axis < rank for axis in axes):
        raise error(
            "axis out of range",
            f"axes between {-rank} and {rank - 1}",
            f"axes={axes} of {operand}",
            "Name axes that the operand has.",
        )
    canonical = tuple(axis - rank if axis >= 0 else axis for axis in axes)
    if len(set(canonical)) < len(canonical):
        raise error("repeated axis", "distinct axes", f"axes={axes}", "Name each axis once.")
    if s is not None and len(s) != len(axes):
        raise error(
            "`s` and `axes` differ in number",
            f"{len(axes)} lengths for axes={axes}",
            f"s={s}",
            "Give one length for each axis.",
        )
    return canonical


def real_length(stored: int, given: int | None, parity: Parity | None) -> int:
    """Length of the real side: from `n` or `s`, else from the number of stored frequencies."""
    if given is not None:
        if parity is not None and given % 2 != (parity == "odd"):
            raise error(
                "length and parity contradict each other",
                f"an {parity} length",
                f'{given} with `last_axis_parity="{parity}"`',
                "Leave one of the two out.",
            )
        return given
    length = 2 * stored - 1 if parity == "odd" else 2 * (stored - 1)
    if length == 0:
        raise error(
            "result length 0",
            "at least 2 stored frequencies for an even length",
            "1",
            'Pass `n=1` or `last_axis_parity="odd"`.',
        )
    return length
