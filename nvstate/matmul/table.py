"""Which types go together: operands, compute type, scale type, result. One table, from cuBLASLt."""

from __future__ import annotations

from nvstate.matmul import arguments

E4M3, E5M2, E2M1 = "float8_e4m3fn", "float8_e5m2", "float4_e2m1fn"
FP8 = frozenset({E4M3, E5M2})
NARROW = FP8 | {E2M1}
HALF = frozenset({"float16", "bfloat16"})
_WIDE = ("float32", "float32_pedantic")
_FAST = (*_WIDE, "tf32", "float32_fast_float16", "float32_fast_bfloat16", "float32_emulated_bf16x9")
_DOUBLE = ("float64", "float64_pedantic", "float64_emulated_fixedpoint")
COMPUTE: dict[str, tuple[str, ...]] = {  # of the operands' dtype, the default first
    "float16": (*_WIDE, "float16", "float16_pedantic"),
    "bfloat16": _WIDE,
    "float32": _FAST,
    "complex64": _FAST,
    "float64": _DOUBLE,
    "complex128": _DOUBLE,
    E4M3: _WIDE,
    E5M2: _WIDE,
    E2M1: ("float32",),
    "int8": ("int32", "int32_pedantic"),
}


def require_pair(a: str, b: str) -> None:
    """Refuse operands that are not multiplied with each other."""
    if a not in COMPUTE or b not in COMPUTE:
        wrong = a if a not in COMPUTE else b
        raise arguments.error(
            f"no product of {wrong}",
            f"one of {', '.join(COMPUTE)}",
            f"a of {a}, b of {b}",
            'Convert the operand, for example with `x.astype("float32")`.',
        )
    if a == b == E5M2:
        raise arguments.error(
            f"no product of {E5M2} and {E5M2}",
            f"{E4M3}×{E4M3}, {E4M3}×{E5M2} or {E5M2}×{E4M3}",
            f"a of {a}, b of {b}",
            f'Convert one of them with `x.astype("{E4M3}")`.',
        )
    if a != b and not {a, b} <= FP8:
        raise arguments.error(
            f"no product of {a} and {b}",
            f"two operands of one dtype, or of {E4M3} and {E5M2}",
            f"a of {a}, b of {b}",
            f'Convert one of them, for example with `b.astype("{a}")`.',
        )


def compute_types(a: str, b: str) -> tuple[str, ...]:
    """Those that a pair can have, the default first."""
    if a in FP8 and (a, b) != (E4M3, E4M3):
        return ("float32",)
    return COMPUTE[a]


def scale_types(a: str, compute: str) -> tuple[str, ...]:
    """Those of a compute type, the default first."""
    if a == "int8":
        return ("int32", "float32")
    if compute.startswith("float16"):
        return ("float16",)
    return ("float32",) if a in HALF | NARROW else (a,)


def result_types(a: str, b: str, compute: str, scale: str, c: str | None) -> tuple[str, ...]:
    """What the result's dtype can be, given C's."""
    if a == "int8":
        return ("int32",) if scale == "int32" else ("int8",)
    if a not in NARROW:
        own = (a, "float32") if a in HALF and not compute.startswith("float16") else (a,)
        return own if c is None else tuple(t for t in own if t == c)
    narrow = {E2M1: (E2M1,)}.get(a, (E4M3,) if (a, b) == (E4M3, E4M3) else (E4M3, E5M2))
    if c is None:
        return ("bfloat16", "float16", "float32", *narrow)
    return (c,) if c == "float32" else (c, *narrow)


def c_types(a: str) -> tuple[str, ...]:
    """What C's dtype can be."""
    if a in NARROW:
        return ("bfloat16", "float16", "float32")
    if a == "int8":
        return ("int32", "int8")
    return (a, "float32") if a in HALF else (a,)


def default_result(a: str, scale: str, c: str | None) -> str:
    """C's dtype, else the operands'; of narrow ones bfloat16, of int8 int32."""
    if c is not None:
        return c
    if a in NARROW:
        return "bfloat16"
    if a == "int8":
        return "int32" if scale == "int32" else "int8"
    return a


def bias_type(result: str, c: str | None, operands: str) -> str:
    """The dtype of a bias: the result's; of narrow operands bfloat16 or float16."""
    if operands not in NARROW:
        return result
    if result in NARROW:
        return c if c is not None and c in HALF else "bfloat16"
    return "bfloat16" if result == "float32" else result


def real(scale: str) -> bool:
    """Whether α and β of this scale type are real."""
    return not scale.startswith("complex")
