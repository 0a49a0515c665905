"""The words of a solver's arguments, and how they are refused."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from nvstate import errors

MatrixType = Literal["general", "symmetric", "hermitian", "spd", "hpd"]
View = Literal["full", "lower", "upper"]
Reordering = Literal["auto", "nd", "amd", "colamd", "btf_colamd", "none"]
Matching = Literal["auto", "none", "count", "min", "min_alt", "sum", "product"]
Pivoting = Literal[
    "auto", "none", "diagonal", "local", "bunch_kaufman", "global_row", "global_column"
]
OnStale = Literal["refactorize", "raise", "nan"]
Transpose = Literal["none", "transpose", "adjoint"]

WHERE = "nvstate.direct_solver"
DTYPES = ("float32", "float64", "complex64", "complex128")


def error(what: str, expected: str, got: str, do: str) -> errors.SpecError:
    """A `SpecError` in the template."""
    return errors.SpecError(errors.message(WHERE, what, expected=expected, got=got, do=do))


def unsupported(what: str, expected: str, got: str, do: str) -> errors.UnsupportedError:
    """An `UnsupportedError` in the template."""
    return errors.UnsupportedError(errors.message(WHERE, what, expected=expected, got=got, do=do))


def operand_error(what: str, expected: str, got: str, do: str) -> errors.OperandError:
    """An `OperandError` in the template."""
    return errors.OperandError(errors.message(WHERE, what, expected=expected, got=got, do=do))


def listed(values: Any) -> str:
    """Words in quotes, as they are typed."""
    return ", ".join(f'"{value}"' for value in values)


def choice(name: str, value: Any, choices: Any) -> None:
    """Refuse what is none of the literals."""
    names = get_args(choices)
    if not (isinstance(value, str) and value in names):
        raise error(
            f"unknown `{name}`", f"one of {listed(names)}", repr(value), "Pass one of them."
        )


def flag(name: str, value: Any) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, bool):
        raise error(f"`{name}` is a choice", "True or False", repr(value), "Pass one of them.")


def integer(name: str, value: Any, least: int, most: int = 2**31 - 1) -> int:
    """Refuse what is no integer in these bounds."""
    if type(value) is not int or not least <= value <= most:
        raise error(
            f"`{name}` is a number",
            f"an integer from {least} to {most}",
            repr(value),
            "Pass one, or leave it out.",
        )
    return value


def real(name: str, value: Any, most: float = math.inf) -> str:
    """A finite number from 0 to `most` as hexadecimal text, which is exact; "" for None."""
    if value is None:
        return ""
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    if not fits or not math.isfinite(value) or not 0 <= value <= most:
        bounds = "finite, 0 or more" if most == math.inf else f"from 0 to {most:g}"
        raise error(
            f"`{name}` is a number",
            f"a float, {bounds}",
            repr(value),
            "Pass one, or None for the engine's own.",
        )
    return float(value).hex()
