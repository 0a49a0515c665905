"""The words of a product's arguments, and how they are refused."""

from __future__ import annotations

from typing import Any, Literal, NoReturn, get_args

from nvstate import errors

Epilog = Literal[
    "relu",
    "gelu",
    "bias",
    "relu_bias",
    "gelu_bias",
    "relu_aux",
    "relu_aux_bias",
    "gelu_aux",
    "gelu_aux_bias",
    "drelu",
    "dgelu",
    "drelu_bgrad",
    "dgelu_bgrad",
    "bgrada",
    "bgradb",
]
ComputeType = Literal[
    "float16",
    "float16_pedantic",
    "float32",
    "float32_pedantic",
    "tf32",
    "float32_fast_float16",
    "float32_fast_bfloat16",
    "float32_emulated_bf16x9",
    "float64",
    "float64_pedantic",
    "float64_emulated_fixedpoint",
    "int32",
    "int32_pedantic",
]
ScaleType = Literal["float16", "float32", "float64", "complex64", "complex128", "int32"]
Scaling = Literal["tensor", "outer", "1x128", "128x128", "mxfp8", "nvfp4"]

WHERE = "nvstate.matmul"


def error(what: str, expected: str, got: str, do: str) -> errors.SpecError:
    """A `SpecError` in the template."""
    return errors.SpecError(errors.message(WHERE, what, expected=expected, got=got, do=do))


def unsupported(what: str, expected: str, got: str, do: str) -> errors.UnsupportedError:
    """An `UnsupportedError` in the template."""
    return errors.UnsupportedError(errors.message(WHERE, what, expected=expected, got=got, do=do))


def listed(values: Any) -> str:
    """Words in quotes, as they are typed."""
    return ", ".join(f'"{value}"' for value in values)


def choice(name: str, value: Any, choices: Any) -> None:
    """Refuse what is neither None nor one of the literals."""
    names = get_args(choices)
    if value is not None and not (isinstance(value, str) and value in names):
        raise error(
            f"unknown `{name}`", f"one of {listed(names)}", repr(value), "Pass one of them."
        )


def flag(name: str, value: Any) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, bool):
        raise error(f"`{name}` is a choice", "True or False", repr(value), "Pass one of them.")


def canonical(got: object) -> NoReturn:
    """Refuse a spec that `spec` would not make, as `dataclasses.replace` can."""
    raise error(
        "not in canonical form",
        "what `nvstate.matmul.spec` makes",
        str(got),
        "Make specs with `nvstate.matmul.spec`.",
    )


def number(text: str) -> int | float | complex:
    """The number that a spec has as text."""
    value = complex(text)
    if value.imag or "j" in text:
        return value
    return float(text) if any(c in text for c in ".en") else int(text)
