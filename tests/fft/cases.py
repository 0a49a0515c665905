"""The FFT's conformance rows. The oracle is NumPy in long double or SciPy, never our reference."""

import math

import numpy as np
import scipy.fft

import nvstate as nvs
from tests.case import Case

EPS = {"complex64": 1.2e-7, "float32": 1.2e-7, "complex128": 2.2e-16, "float64": 2.2e-16}


def bound(dtype: str, *lengths: int) -> float:
    """Bound of §9: eps · (1 + a √log2 N), a = 3 for lengths of the primes 2, 3, 5, 7, else 12."""
    size = math.prod(lengths)
    smooth = all(_remainder(n) == 1 for n in lengths)
    return EPS[dtype] * (1 + (3 if smooth else 12) * math.sqrt(math.log2(max(size, 2))))


def _remainder(n: int) -> int:
    for p in (2, 3, 5, 7):
        while n % p == 0:
            n //= p
    return n


def random(shape, dtype):
    """A standard normal operand."""

    def operand(rng):
        x = rng.standard_normal(shape)
        if dtype.startswith("complex"):
            x = x + 1j * rng.standard_normal(shape)
        return x.astype(dtype)

    return operand


def wide(x: np.ndarray) -> np.ndarray:
    """A wider precision: float64 for 32-bit operands, long double for 64-bit ones."""
    return x.astype(
        {"f": np.float64, "F": np.complex128, "d": np.longdouble, "D": np.clongdouble}[x.dtype.char]
    )


def oracle(function, **problem):
    """SciPy's transform, which computes in the precision of its operand; `norm="none"` undone."""

    def apply(x):
        arguments = dict(problem)
        if arguments.get("norm") == "none":
            arguments["norm"] = "forward" if function.startswith("i") else "backward"
        return getattr(scipy.fft, function)(wide(x), **arguments)

    return apply


def case(name, shape, dtype, function, *, s=None, axes=None, norm=None, **options):
    """A row: plan the problem that SciPy's `function` names, and compare with it."""
    kind = {"fftn": "c2c", "ifftn": "c2c", "rfftn": "r2c", "irfftn": "c2r"}[function]
    direction = "inverse" if function.startswith("i") else "forward"
    problem = {"axes": axes, "s": s, "norm": norm}
    rows = axes if axes is not None else range(-(len(s) if s else len(shape)), 0)
    lengths = list(s) if s else [shape[a] for a in rows]
    if function == "irfftn" and not s:
        odd = options.get("last_axis_parity") == "odd"
        lengths[-1] = 2 * lengths[-1] - 1 if odd else 2 * (lengths[-1] - 1)
        problem["s"] = tuple(lengths)
    planned = {"axes": axes, "s": s, "norm": norm, **options}
    return Case(
        id=name,
        operand=random(shape, dtype),
        plan=lambda x: nvs.fft.plan(x, kind=kind, direction=direction, **planned),
        oracle=oracle(function, **problem),
        bound=bound(dtype, *lengths),
    )


CASES = [
    case("c2c-64", (64,), "complex64", "fftn"),
    case("c2c-batch-right", (16, 3), "complex64", "fftn", axes=(0,)),
    case("c2c-inverse-ortho", (4, 12), "complex128", "ifftn", axes=(1,), norm="ortho"),
    case("c2c-forward-norm", (2, 3, 8), "complex64", "fftn", axes=(1, 2), norm="forward"),
    case("c2c-no-norm-inverse", (6, 10), "complex128", "ifftn", norm="none"),
    case("c2c-axes-apart", (3, 4, 5), "complex64", "fftn", axes=(0, 2)),
    case("c2c-axes-in-disorder", (17, 31, 5), "complex64", "ifftn", axes=(2, 1, 0)),
    case("c2c-middle-axis", (3, 8, 5), "complex128", "fftn", axes=(1,)),
    case("c2c-five-axes", (2, 3, 4, 3, 2), "complex64", "fftn"),
    case("c2c-four-of-five", (2, 3, 4, 3, 2), "complex128", "ifftn", axes=(0, 1, 3, 4)),
    case("c2c-ones-between", (4, 1, 8, 1, 6), "complex64", "fftn", axes=(0, 1, 2)),
    case("c2c-single-elements", (7, 1), "complex64", "fftn", axes=(1,)),
    case("c2c-prime", (2, 31), "complex128", "fftn", axes=(1,)),
    case("c2c-crop-and-pad", (6, 3, 9), "complex64", "ifftn", s=(4, 12), axes=(0, 2)),
    case("r2c-even", (3, 16), "float32", "rfftn", axes=(1,)),
    case("r2c-odd", (3, 15), "float64", "rfftn", axes=(1,), norm="ortho"),
    case("r2c-halves-first-axis", (6, 4, 5), "float64", "rfftn", axes=(1, 0)),
    case("r2c-odd-axes-apart", (3, 4, 5), "float32", "rfftn", axes=(0, 2)),
    case("r2c-four-axes", (2, 3, 4, 5), "float64", "rfftn"),
    case("r2c-pad", (4, 5), "float32", "rfftn", s=(8,), axes=(0,)),
    case("r2c-one-point", (5, 1), "float64", "rfftn", axes=(1,)),
    case("c2r-even", (3, 9), "complex64", "irfftn", axes=(1,)),
    case("c2r-odd", (3, 9), "complex128", "irfftn", axes=(1,), last_axis_parity="odd"),
    case("c2r-one-point", (3, 1), "complex64", "irfftn", axes=(1,), last_axis_parity="odd"),
    case("c2r-two-axes-not-hermitian", (6, 5), "complex128", "irfftn", norm="forward"),
    case("c2r-three-axes-not-hermitian", (4, 3, 6), "complex64", "irfftn", norm="none"),
    case("c2r-halves-first-axis", (5, 4, 2), "complex128", "irfftn", axes=(1, 0), s=(4, 9)),
    case("c2r-four-axes", (2, 3, 4, 3), "complex128", "irfftn"),
    case("c2r-crop-and-pad", (6, 4, 9), "complex64", "irfftn", axes=(0, 2), s=(8, 10)),
    case("c2r-zero-pad-last", (4, 3), "complex128", "irfftn", axes=(1,), s=(11,)),
]
