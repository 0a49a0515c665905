"""Derivatives of one product: a linear map of tangents, transposed as a whole.

ż = α (op(Ȧ) op(B) + op(A) op(Ḃ)) + ḃias + …, Ḋ = f′(z) ż. With g the cotangent of z,
that of op(A) is α g op(B)ᵀ and that of op(B) is α op(A)ᵀ g, whose epilog sums g over M: the
cotangent of the bias. JAX transposes without conjugating.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nvstate._core.aval import Aval
from nvstate._core.several import define_tangent
from nvstate.matmul import arguments, epilog as epilogs, primitive, reference, table
from nvstate.matmul.spec import OPERAND, MatmulSpec


def plain(
    m: int, n: int, k: int, dtype: str, like: MatmulSpec, result: str | None = None, **fields: Any
) -> MatmulSpec:
    """The spec of α op(A) op(B) alone, with the compute type of another one where it can be."""
    allowed: Any = table.compute_types(dtype, dtype)
    compute = like.compute_type if like.compute_type in allowed else allowed[0]
    scale: Any = table.scale_types(dtype, compute)[0]
    return MatmulSpec(
        m, n, k, dtype, dtype, None, result or dtype, compute, scale, alpha=like.alpha, **fields
    )


def bare(spec: MatmulSpec) -> MatmulSpec:
    """A spec without C and epilog."""
    return plain(
        spec.m,
        spec.n,
        spec.k,
        spec.a_dtype,
        spec,
        spec.result_dtype,
        transpose_a=spec.transpose_a,
        transpose_b=spec.transpose_b,
        conjugate_a=spec.conjugate_a,
        conjugate_b=spec.conjugate_b,
    )


def jvp(spec: MatmulSpec, primals: Any, tangents: Any, choices: Any) -> tuple[list[Any], list[Any]]:
    """The results and their tangents."""
    parts = spec.parts
    if spec.a_dtype in table.NARROW | {"int8"} or parts.takes or parts.sums:
        return _by_parts(spec, primals, tangents, choices)
    run = spec
    if parts.function == "gelu" and parts.gives is None:
        name: Any = epilogs.named(function="gelu", bias=parts.bias, aux=True)
        run = dataclasses.replace(spec, epilog=name, aux_dtype=spec.result_dtype)
    ys = dict(zip(run.result_names, primitive.matmul(run, *primals, choices=choices), strict=True))
    dz = _tangent_of_z(spec, primals, tangents, choices)
    dys: dict[str, Any] = {"d": dz}
    if parts.function == "relu":
        dys["d"] = jnp.where(ys["d"] > 0, dz, 0)
    elif parts.function == "gelu":
        wide = reference.wide(spec)
        slope = epilogs.gelu_slope(ys["gelu_aux"][..., : spec.n].astype(wide))
        dys["d"] = (slope * dz.astype(wide)).astype(spec.result_dtype)
        dys["gelu_aux"] = epilogs.padded(dz).astype(run.aux_dtype)
    names = spec.result_names
    return [ys[name] for name in names], [dys.get(name) for name in names]


def _tangent_of_z(spec: MatmulSpec, primals: Any, tangents: Any, choices: Any) -> Any:
    x = dict(zip(spec.names, primals, strict=True))
    dx = dict(zip(spec.names, tangents, strict=True))
    dtype = spec.result_dtype
    shape = spec.result_shapes({name: array.shape for name, array in x.items()})["d"]
    terms: list[Any] = []
    moving = (dx["a"], dx["b"], dx.get("bias"))
    alpha = [x["alpha"]] if "alpha" in x else []
    if any(t is not None for t in moving):
        terms.append(tangent(spec, (x["a"], x["b"], *alpha), moving, choices))
    if dx.get("alpha") is not None:
        alone = dataclasses.replace(
            bare(spec), alpha="1.0" if table.real(spec.scale_type) else "(1+0j)"
        )
        terms.append(
            dx["alpha"].astype(dtype) * primitive.matmul(alone, x["a"], x["b"], choices=choices)[0]
        )
    if dx.get("c") is not None:
        only = {"c": dx["c"], "beta": x.get("beta")}
        terms.append(
            reference.with_c(spec, only, jnp.zeros((), reference.wide(spec))).astype(dtype)
        )
    if dx.get("beta") is not None:
        terms.append(dx["beta"].astype(dtype) * x["c"].astype(dtype))
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return jnp.broadcast_to(total, shape)


def _by_parts(spec: MatmulSpec, primals: Any, tangents: Any, choices: Any) -> Any:
    """Of the epilogs that are derivatives themselves, and of narrow operands: a plain product.

    Right at every order, if slower than a library's epilog.
    """
    there = [i for i, t in enumerate(tangents) if t is not None]
    ys = primitive.matmul(spec, *primals, choices=choices)

    def along(*moving: Any) -> list[Any]:
        operands = list(primals)
        for i, value in zip(there, moving, strict=True):
            operands[i] = value
        x = dict(zip(spec.names, operands, strict=True))
        a, b = reference.matrices(spec, x)
        if spec.a_dtype == "int8":
            a, b = a.astype("float32"), b.astype("float32")
        wide = reference.table_dtype(spec)
        same = str(a.dtype)
        result = (
            wide if wide in table.result_types(same, same, spec.compute_type, wide, None) else same
        )
        number = "(1+0j)" if same.startswith("complex") else "1.0"
        alone = dataclasses.replace(plain(spec.m, spec.n, spec.k, same, spec, result), alpha=number)
        product = primitive.matmul(alone, a, b, choices=choices)[0].astype(wide)
        return reference.finished(spec, x, reference.scaled(spec, x, product))

    _, dys = jax.jvp(along, [primals[i] for i in there], [tangents[i] for i in there])
    return ys, [
        dy if jnp.issubdtype(y.dtype, jnp.inexact) else None for y, dy in zip(ys, dys, strict=True)
    ]


def _result(spec: MatmulSpec, residuals: Any, tangents: Any) -> Aval:
    a, b, *alpha = residuals
    d = primitive.results(bare(spec), a, b, *alpha)[0]
    dbias = tangents[2]
    if dbias is None:
        return d
    batch = np.broadcast_shapes(d.shape[:-2], dbias.shape[:-1])
    entries = [None] * (len(batch) + 2 - d.ndim) + list(d.sharding.spec)
    sharding = d.sharding.update(spec=jax.P(*entries))
    return d.update(shape=(*batch, *d.shape[-2:]), sharding=sharding)


def _along(spec: MatmulSpec, residuals: Any, tangents: Any, choices: Any) -> Any:
    a, b, *alpha = residuals
    da, db, dbias = tangents
    one, terms = bare(spec), []
    if da is not None:
        terms.append(primitive.matmul(one, da, b, *alpha, choices=choices)[0])
    if db is not None:
        terms.append(primitive.matmul(one, a, db, *alpha, choices=choices)[0])
    if dbias is not None:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2], dbias.shape[:-1])
        rows = dbias[..., None, :].astype(spec.result_dtype)
        terms.append(jnp.broadcast_to(rows, (*batch, spec.m, spec.n)))
    return terms[0] if len(terms) == 1 else sum(terms[1:], terms[0])


def transposed(spec: MatmulSpec, residuals: Any, types: Any, g: Any, choices: Any) -> list[Any]:
    """Cotangents of op(A), op(B) and bias, from that of z; None for those whose type is None."""
    ta, tb, tbias = types
    alpha: list[Any] = list(residuals[2:])
    dtype = str(jnp.promote_types(spec.result_dtype, spec.a_dtype))
    wide: Any = g.astype(dtype)
    a: Any = residuals[0] if residuals[0] is None else residuals[0].astype(dtype)
    b: Any = residuals[1].astype(dtype)
    m, n, k = spec.m, spec.n, spec.k
    conjugate = spec.conjugate_a or spec.conjugate_b
    ct_a = ct_b = ct_bias = None

    def run(made: MatmulSpec, conjugated: bool, *pair: Any) -> Any:
        scalars = [jnp.conj(s) for s in alpha] if conjugated else alpha
        if conjugated and made.alpha != OPERAND:
            value = complex(arguments.number(made.alpha)).conjugate()
            made = dataclasses.replace(made, alpha=repr(value))
        return primitive.matmul(made, *pair, *scalars, choices=choices)

    if ta is not None:
        # conj(op(A)) is conj(A): its cotangent is conjugated, by flags, when it leaves.
        own, other = spec.conjugate_a, spec.conjugate_b != spec.conjugate_a
        if spec.transpose_a:
            made = plain(k, m, n, dtype, spec, transpose_a=spec.transpose_b, transpose_b=True,
                         conjugate_a=other, conjugate_b=own)  # fmt: skip
            (y,) = run(made, own, b, wide)
        else:
            made = plain(m, k, n, dtype, spec, transpose_b=not spec.transpose_b,
                         conjugate_a=own, conjugate_b=other)  # fmt: skip
            (y,) = run(made, own, wide, b)
        ct_a = _summed(y, ta.shape).astype(ta.dtype)
    if tb is not None:
        own, other = spec.conjugate_b, spec.conjugate_a != spec.conjugate_b
        rows, left, right = m, a, wide
        if tb.ndim == 2 and g.ndim > 2 and not spec.transpose_a and a.shape[:-2] == g.shape[:-2]:
            # One product over batch and M, instead of a sum of products.
            rows = m * math.prod(g.shape[:-2])
            left, right = a.reshape(rows, k), wide.reshape(rows, n)
        sums = not conjugate and tbias is not None and _sums(right, tbias)
        if spec.transpose_b:
            made = plain(n, k, rows, dtype, spec, epilog="bgrada" if sums else None,
                         transpose_a=True, transpose_b=spec.transpose_a,
                         conjugate_a=own, conjugate_b=other)  # fmt: skip
            ys = run(made, own, right, left)
        else:
            made = plain(k, n, rows, dtype, spec, epilog="bgradb" if sums else None,
                         transpose_a=not spec.transpose_a,
                         conjugate_a=other, conjugate_b=own)  # fmt: skip
            ys = run(made, own, left, right)
        ct_b = _summed(ys[0], tb.shape).astype(tb.dtype)
        if tbias is not None and sums:
            ct_bias = ys[1].astype(tbias.dtype)
    if tbias is not None and ct_bias is None:
        sums_over = jnp.sum(g, -2, dtype=reference.wide(spec))
        ct_bias = _summed(sums_over, tbias.shape).astype(tbias.dtype)
    return [ct_a, ct_b, ct_bias]


def _sums(g: Any, bias: Aval) -> bool:
    """Whether the sum of g over M is the bias's cotangent, with nothing left to be summed."""
    return g.dtype == bias.dtype and (*g.shape[:-2], g.shape[-1]) == bias.shape


def _summed(y: Any, shape: tuple[int, ...]) -> Any:
    """Sum over the batch axes in which an operand of this shape was broadcast."""
    extra = y.ndim - len(shape)
    kept = [i for i, n in enumerate(shape) if n == 1 and y.shape[extra + i] != 1]
    axes = (*range(extra), *(extra + i for i in kept))
    return jnp.sum(y, axes).reshape(shape) if axes else y


tangent = define_tangent(
    "nvstate_matmul_tangent", result=_result, function=_along, transpose=transposed
)
