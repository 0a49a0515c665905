"""The product's definition in `jax.numpy`: what CPUs run, and the yardstick of GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from nvstate.matmul import arguments, epilog as epilogs, scaling, table
from nvstate.matmul.spec import OPERAND, MatmulSpec

Operands = Mapping[str, Any]


def reference(spec: MatmulSpec, *operands: Any) -> list[Any]:
    """D and what the epilog gives beside it, computed by XLA's dot in at least float32."""
    x = dict(zip(spec.names, operands, strict=True))
    a, b = matrices(spec, x)
    if spec.a_dtype == "bfloat16" and spec.transpose_a and b.ndim > 2:
        # XLA's CPUs fail at run time on a bfloat16 dot over the first axis of the left side if the
        # right one has batch axes of its own ("Unsupported element type for DotThunk", 0.10.2).
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        a = jnp.broadcast_to(a, (*batch, *a.shape[-2:]))
    # A bfloat16 result would make XLA:CPU's dot four to six times slower than a float32 one.
    product = jnp.matmul(
        a, b, precision=jax.lax.Precision.HIGHEST, preferred_element_type=wide(spec)
    )
    return finished(spec, x, scaled(spec, x, product))


def wide(spec: MatmulSpec) -> str:
    """The dtype in which XLA sums, and in which the epilog is computed."""
    if spec.a_dtype == "int8":
        return "int32"
    return "float32" if spec.a_dtype in table.HALF | table.NARROW else spec.a_dtype


def matrices(spec: MatmulSpec, x: Operands) -> tuple[Any, Any]:
    """op(A) and op(B), with the scales of blocks; those of whole operands come later."""
    a = x["a"].mT if spec.transpose_a else x["a"]
    b = x["b"].mT if spec.transpose_b else x["b"]
    a = jnp.conj(a) if spec.conjugate_a else a
    b = jnp.conj(b) if spec.conjugate_b else b
    if spec.scaling_a is None or spec.scaling_b is None:
        return a, b
    a, b = a.astype("float32"), b.astype("float32")
    if spec.scaling_a != "tensor":
        a = a * scaling.factors(x["scale_a"], spec.scaling_a, spec.m, spec.k)
        b = b * scaling.factors(x["scale_b"], spec.scaling_b, spec.n, spec.k).mT
    return a, b


def scaled(spec: MatmulSpec, x: Operands, product: Any) -> Any:
    """α s_a s_b times a product."""
    if spec.scale_type != "int32":
        product = product.astype(table_dtype(spec))
    if spec.alpha == OPERAND:
        product = product * x["alpha"].astype(product.dtype)
    elif arguments.number(spec.alpha) != 1:
        product = product * jnp.asarray(arguments.number(spec.alpha), product.dtype)
    if spec.scaling_a == "tensor":
        product = product * (x["scale_a"].reshape(()) * x["scale_b"].reshape(()))
    return product


def table_dtype(spec: MatmulSpec) -> str:
    """The dtype of z."""
    return "float32" if spec.a_dtype == "int8" else wide(spec)


def with_c(spec: MatmulSpec, x: Operands, z: Any) -> Any:
    """Z + β C; where β is zero, C is not read, whatever it holds."""
    if spec.beta is None:
        return z
    c = x["c"].astype(z.dtype)
    if spec.beta == OPERAND:
        return z + _times(x["beta"].astype(z.dtype), c)
    beta = arguments.number(spec.beta)
    if beta == 0:
        return z
    return z + (c if beta == 1 else jnp.asarray(beta, z.dtype) * c)


@jax.custom_jvp
def _times(beta: Any, c: Any) -> Any:
    """β C without C where β is zero, with the derivatives of a product there too."""
    return jnp.where(beta == 0, 0, beta * c)


def _times_along(primals: Any, tangents: Any) -> tuple[Any, Any]:
    (beta, c), (dbeta, dc) = primals, tangents
    # A zero times what C holds may be NaN: only symbolic zeros, which have no product, are none.
    terms = [jnp.zeros_like(c)]
    terms += [] if isinstance(dbeta, SymbolicZero) else [dbeta * c]
    terms += [] if isinstance(dc, SymbolicZero) else [beta * dc]
    return _times(beta, c), sum(terms[1:], terms[0])


_times.defjvp(_times_along, symbolic_zeros=True)


def finished(spec: MatmulSpec, x: Operands, product: Any) -> list[Any]:
    """The results, from the product that is already scaled."""
    z, parts = with_c(spec, x, product), spec.parts
    if parts.bias:
        z = z + x["bias"][..., None, :].astype(z.dtype)
    found: dict[str, Any] = {}
    if parts.gives == "relu_aux":
        found["relu_aux"] = epilogs.mask(z)
    elif parts.gives == "gelu_aux":
        found["gelu_aux"] = _stored(spec, x, epilogs.padded(z))
    if spec.aux_amax:
        found["gelu_aux_amax"] = jax.lax.stop_gradient(jnp.max(jnp.abs(z), initial=0))
    value = epilogs.applied(parts.function, z)
    if parts.takes:
        value = value * epilogs.slope(parts.takes, x[parts.takes], spec.n, z.dtype)
    # An operand may have batch axes that the product has not.
    shape = spec.result_shapes({name: array.shape for name, array in x.items()})["d"]
    value = jnp.broadcast_to(value, shape)
    if parts.sums in ("drelu_bgrad", "dgelu_bgrad"):
        found[parts.sums] = jnp.sum(value, -2).astype(spec.result_dtype)
    elif parts.sums is not None:
        found[parts.sums] = sums(spec, x)
    if spec.result_amax:
        found["result_amax"] = jax.lax.stop_gradient(jnp.max(jnp.abs(value), initial=0))
    if spec.scaling_d is not None:
        found["d"], found["d_out_scale"] = scaling.quantized(
            value, spec.scaling_d, spec.result_dtype
        )
    else:
        found["d"] = _rounded(spec, x, value)
    for name in ("relu_aux", "gelu_aux"):
        if name in found:
            found[name] = jnp.broadcast_to(found[name], (*shape[:-2], *spec.core(name)))
    return [found[name] for name in spec.result_names]


def sums(spec: MatmulSpec, x: Operands) -> Any:
    """Σ_k op(A) of `bgrada`, Σ_k op(B) of `bgradb`."""
    a, b = matrices(spec, x)
    dtype = table_dtype(spec)
    total = jnp.sum(a, -1, dtype) if spec.parts.sums == "bgrada" else jnp.sum(b, -2, dtype)
    return total.astype(spec.result_dtype)


def _stored(spec: MatmulSpec, x: Operands, z: Any) -> Any:
    if spec.scale_aux:
        return scaling.saturated(z * x["scale_aux"].reshape(()), spec.aux_dtype)
    return z.astype(spec.aux_dtype)


def _rounded(spec: MatmulSpec, x: Operands, value: Any) -> Any:
    if spec.result_dtype == "int8":
        return jnp.clip(jnp.round(value), -128, 127).astype("int8")
    if spec.scale_d:
        value = value * x["scale_d"].reshape(())
    if spec.result_dtype in table.NARROW:
        return scaling.saturated(value, spec.result_dtype)
    return value.astype(spec.result_dtype)
