"""The product in NumPy, in float64, complex128 or exact integers, and the bound on its error."""

import math

import jax
import ml_dtypes
import numpy as np

U = {"float16": 2.0**-11, "float64": 2.0**-53, "int32": 0.0}  # of the compute type
ROUNDOFF = {  # of the result's type
    "bfloat16": 2.0**-8,
    "float16": 2.0**-11,
    "float32": 2.0**-24,
    "complex64": 2.0**-24,
    "float64": 2.0**-53,
    "complex128": 2.0**-53,
    "float8_e4m3fn": 2.0**-4,
    "float8_e5m2": 2.0**-3,
    "float4_e2m1fn": 2.0**-2,
    "int32": 0.0,
    "int8": 0.0,
}


def wide(x):
    """A wider precision."""
    x = np.asarray(x)
    if x.dtype.kind in "iu":
        return x.astype(np.int64)
    return x.astype(np.complex128 if x.dtype.kind == "c" else np.float64)


def op(x, transpose, conjugate):
    """The matrix as its flags say."""
    x = wide(x)
    x = np.swapaxes(x, -1, -2) if transpose and x.ndim > 1 else x
    return np.conj(x) if conjugate else x


def gelu(z):
    """The tanh form."""
    return z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))) / 2


def gelu_slope(z):
    """gelu′ by its formula."""
    t = np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))
    return (1 + t) / 2 + z / 2 * (1 - t**2) * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * z**2)


def product(
    a, b, c=None, *, alpha=1.0, beta=None, bias=None, epilog=None, transpose_a=False,
    transpose_b=False, conjugate_a=False, conjugate_b=False, scale=1.0, absolute=False, **_
):  # fmt: skip
    """Z, without what an epilog does to it; or the sum of magnitudes that its error goes with."""
    a, b = op(a, transpose_a, conjugate_a), op(b, transpose_b, conjugate_b)
    magnitude = np.abs if absolute else np.asarray
    z = magnitude(alpha) * scale * np.matmul(magnitude(a), magnitude(b))
    if c is not None and beta != 0:
        z = z + magnitude(wide(c)) * magnitude(beta)
    if bias is not None:
        rows = magnitude(wide(bias))
        z = z + (rows if np.ndim(rows) == 1 else rows[..., None, :])
    return z


def applied(z, epilog):
    """f(z)."""
    if epilog and epilog.startswith("relu"):
        return np.maximum(z, 0)
    return gelu(z) if epilog and epilog.startswith("gelu") else z


def mask(z):
    """relu_aux, bit by bit."""
    n = z.shape[-1]
    out = np.zeros((*z.shape[:-1], 16 * math.ceil(n / 128)), np.uint8)
    for i in range(n):
        out[..., i // 8] |= (z[..., i] > 0).astype(np.uint8) << (i % 8)
    return out


def bits(aux, n):
    """The n booleans of a relu_aux."""
    return np.stack([np.asarray(aux)[..., i // 8] >> (i % 8) & 1 for i in range(n)], -1).astype(
        bool
    )


def bound(got, k, magnitude, exact, compute="float32", gpu=False):
    """2 (K + 2) u (|α||A||B| + |β||C| + |bias|) + u_D |D|, per element."""
    u = next((v for name, v in U.items() if compute.startswith(name)), 2.0**-24)
    u = 2.0**-24 if compute == "float16" and not gpu else u
    loose = 2 * 2.0**-11 * magnitude if compute == "tf32" and gpu else 0
    if compute in ("float32_fast_float16", "float32_fast_bfloat16") and gpu:
        loose = 2 * 2.0**-8 * magnitude
    return 2 * (k + 2) * u * magnitude + loose + ROUNDOFF[str(got.dtype)] * np.abs(exact) + 1e-40


def near(got, exact, magnitude, k, compute="float32", gpu=False, extra=0.0):
    """Whether each element is within the bound."""
    assert got.shape == exact.shape, f"{got.shape} instead of {exact.shape}"
    difference = np.abs(wide(got) - exact)
    allowed = bound(got, k, magnitude, exact, compute, gpu) + extra
    worst = (difference / allowed).max(initial=0)
    return bool((difference <= allowed).all()), f"{worst:.2g} of what is allowed"


def rounded(x, dtype):
    """As the library stores it: FP8 saturates."""
    info = ml_dtypes.finfo(dtype)
    return np.clip(x, -float(info.max), float(info.max)).astype(dtype)


def random(rng, shape, dtype, kind="normal"):
    """An operand: normal, with scales apart by rows and columns, adverse, or small integers."""
    if dtype in ("int8", "int32"):
        return rng.integers(-9, 10, shape).astype(dtype)
    x = rng.standard_normal(shape)
    if dtype.startswith("complex"):
        x = x + 1j * rng.standard_normal(shape)
    if kind == "scaled" and len(shape) > 1:
        most = 1 if dtype == "float16" else 3  # which overflows soon
        x = x * 10.0 ** rng.integers(-most, most + 1, (*shape[:-1], 1))
    if kind == "adverse":  # large terms that cancel
        x = 1 + x * 1e-3
        x[..., ::2] *= -1
    if kind == "integers":
        x = rng.integers(-2, 3, shape) + (
            1j * rng.integers(-2, 3, shape) if "c" in dtype[:1] else 0
        )
    return np.asarray(x).astype(jax.numpy.dtype(dtype))
