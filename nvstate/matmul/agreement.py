"""Whether two algorithms' results differ by no more than both may be wrong."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nvstate.matmul import primitive, table
from nvstate.matmul.spec import MatmulSpec

_ROUNDOFF = {"float16": 2.0**-11, "float64": 2.0**-53}  # of the compute type; else float32's


def agree(spec: MatmulSpec, values: tuple[Any, ...], ys: tuple[Any, Any]) -> bool:
    """Whether two D of the same operands differ by at most twice the bound, or are both NaN."""
    return bool(np.all(np.asarray(jax.jit(_within)(ys, bound(spec, values)))))


def _within(ys: tuple[Any, Any], allowed: Any) -> Any:
    kind: Any = allowed.dtype
    if jnp.issubdtype(ys[0].dtype, jnp.integer):
        kind = "int32"
    elif jnp.iscomplexobj(ys[0]):
        kind = jnp.result_type(kind, "complex64")
    a, b = (jnp.asarray(y, kind) for y in ys)
    return (a == b) | (jnp.isnan(a) & jnp.isnan(b)) | (jnp.abs(a - b) <= 2 * allowed)


def bound(spec: MatmulSpec, values: tuple[Any, ...]) -> Any:
    """2 (K + 2) u (|α||A||B| + |β||C| + |bias|) + u_D |D|, with |A||B| by norms of rows: larger."""
    matrices = primitive.matrices_of(spec, values)
    x = dict(zip(spec.names, matrices, strict=True))
    made = dataclasses.replace(spec, vectors="")
    wide = "float64" if spec.result_dtype in ("float64", "complex128") else "float32"
    size = _size(made, {n: _absolute(v, wide) for n, v in x.items() if n != "relu_aux"}, wide)
    if spec.compute_type.startswith("int32"):  # exact; an int8 result is rounded from float32
        allowed = jnp.full(size.shape, 0.5 if spec.result_dtype == "int8" else 0.0, wide)
    else:
        u, u_d = _roundoffs(spec)
        allowed = (2 * (spec.k + 2) * u + u_d) * size
    axes = tuple(axis for axis, name in ((-2, "a"), (-1, "b")) if name in spec.vectors)
    return jnp.squeeze(allowed, axes)


def _roundoffs(spec: MatmulSpec) -> tuple[float, float]:
    """Of the sum and of the result."""
    u = _ROUNDOFF.get(spec.compute_type.split("_")[0], 2.0**-24)
    if spec.a_dtype in table.NARROW:
        u = 2.0**-13
    elif spec.compute_type in ("tf32", "float32_fast_float16", "float32_fast_bfloat16"):
        u = 2.0**-8
    u_d = {"bfloat16": 2.0**-8, "float16": 2.0**-11}.get(spec.result_dtype, u)
    return u, 0.25 if spec.result_dtype in table.NARROW else u_d


def _absolute(x: Any, wide: str) -> Any:
    x = jnp.asarray(x)
    if jnp.iscomplexobj(x):
        return jnp.abs(x).astype(wide)
    return jnp.abs(x.astype(wide))  # |-128| is no int8


def _size(spec: MatmulSpec, x: dict[str, Any], wide: str) -> Any:
    """|α||A||B| + |β||C| + |bias|, scaled as D is; the largest slope of an activation with it."""
    a = x["a"].mT if spec.transpose_a else x["a"]
    b = x["b"].mT if spec.transpose_b else x["b"]
    rows, columns = _norm(a, -1), _norm(b, -2)
    size = rows * columns
    for name in ("scale_a", "scale_b"):
        if name in x:
            size = size * jnp.max(x[name])
    size = size * x.get("alpha", jnp.asarray(_number(spec.alpha), wide))
    if "c" in x:
        size = size + x.get("beta", jnp.asarray(_number(spec.beta), wide)) * x["c"]
    if "bias" in x:
        size = size + x["bias"][..., None, :]
    if "gelu" in (spec.epilog or ""):
        size = 1.2 * size  # the most that |gelu′| is
    return size * jnp.reshape(x.get("scale_d", jnp.asarray(1, wide)), ())


def _norm(x: Any, axis: int) -> Any:
    """Of rows or columns of any size: squares alone would overflow, or be zero."""
    largest = jnp.max(x, axis, keepdims=True, initial=0)
    ratio = x / jnp.where(largest == 0, 1, largest)
    return largest * jnp.sqrt(jnp.sum(ratio**2, axis, keepdims=True))


def _number(text: str | None) -> float:
    return 1.0 if text in (None, "operand") else abs(complex(text))
