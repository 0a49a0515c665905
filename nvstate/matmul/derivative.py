"""Derivatives of one product: a linear map of tangents, transposed as a whole.

ż = α (op(Ȧ) op(B) + op(A) op(Ḃ)) + ḃias + …, Ḋ = f′(z) ż. With g the cotangent of z,
that of op(A) is α g op(B)ᵀ, that of op(B) is α op(A)ᵀ g, and that of the bias is g, summed over M.
JAX transposes without conjugating.
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

FLAGS = ("transpose_a", "transpose_b", "conjugate_a", "conjugate_b")


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
    flags = {name: getattr(spec, name) for name in FLAGS}
    return plain(spec.m, spec.n, spec.k, spec.a_dtype, spec, spec.result_dtype, **flags)


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
    dd, dys = dz, {}
    if parts.function == "relu":
        dd = jnp.where(ys["d"] > 0, dz, 0)
    elif parts.function == "gelu":
        wide = reference.wide(spec)
        dd = epilogs.gelu_slope(ys["gelu_aux"][..., : spec.n].astype(wide)) * dz.astype(wide)
        dys["gelu_aux"] = epilogs.padded(dz).astype(run.aux_dtype)
    dys["d"] = dd.astype(spec.result_dtype)
    names = spec.result_names
    return [ys[name] for name in names], [dys.get(name) for name in names]


def _tangent_of_z(spec: MatmulSpec, primals: Any, tangents: Any, choices: Any) -> Any:
    """ż, wide where anything but the operands of the library's products moves.

    So that what is transposed of it, the sums over whole cotangents that are those of α and β, is
    wide too.
    """
    x = dict(zip(spec.names, primals, strict=True))
    dx = dict(zip(spec.names, tangents, strict=True))
    dx = {name: t for name, t in dx.items() if t is not None}
    wide = reference.wide(spec)
    shape = spec.result_shapes({name: array.shape for name, array in x.items()})["d"]
    terms: list[Any] = []
    moving = (dx.get("a"), dx.get("b"), dx.get("bias"))
    if any(t is not None for t in moving):
        alpha = [x["alpha"]] if "alpha" in x else []
        terms.append(tangent(spec, (x["a"], x["b"], *alpha), moving, choices))
    if "alpha" in dx:
        flags = {name: getattr(spec, name) for name in FLAGS}
        terms.append(dx["alpha"].astype(wide) * _product(spec, x["a"], x["b"], choices, **flags))
    if there := [name for name in ("c", "beta") if name in dx]:

        def along(*values: Any) -> Any:
            moved = {**x, **dict(zip(there, values, strict=True))}
            return reference.with_c(spec, moved, jnp.zeros((), wide))

        terms.append(jax.jvp(along, [x[n] for n in there], [dx[n] for n in there])[1])
    return jnp.broadcast_to(sum(terms[1:], terms[0]), shape)


def _product(spec: MatmulSpec, a: Any, b: Any, choices: Any, **flags: Any) -> Any:
    """op(A) op(B) alone, in the dtype in which XLA sums, whatever the compute type."""
    dtype, wide = str(a.dtype), reference.table_dtype(spec)
    compute: Any = spec.compute_type
    if wide not in table.result_types(dtype, dtype, compute, wide, None):
        compute = table.compute_types(dtype, dtype)[0]
    one = "1.0" if table.real(dtype) else "(1+0j)"
    like = dataclasses.replace(spec, alpha=one, compute_type=compute)
    made = plain(spec.m, spec.n, spec.k, dtype, like, wide, **flags)
    return primitive.matmul(made, a, b, choices=choices)[0]


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
        product = _product(spec, a, b, choices)
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
        if spec.transpose_b:
            made = plain(n, k, rows, dtype, spec,
                         transpose_a=True, transpose_b=spec.transpose_a,
                         conjugate_a=own, conjugate_b=other)  # fmt: skip
            (y,) = run(made, own, right, left)
        else:
            made = plain(k, n, rows, dtype, spec, transpose_a=not spec.transpose_a,
                         conjugate_a=other, conjugate_b=own)  # fmt: skip
            (y,) = run(made, own, left, right)
        ct_b = _summed(y, tb.shape).astype(tb.dtype)
    if tbias is not None:
        # By XLA: the epilogs `bgrada` and `bgradb` take longer than the sum alone.
        sums_over = jnp.sum(g, -2, dtype=reference.wide(spec))
        ct_bias = _summed(sums_over, tbias.shape).astype(tbias.dtype)
    return [ct_a, ct_b, ct_bias]


def _summed(y: Any, shape: tuple[int, ...]) -> Any:
    """Sum over the batch axes in which an operand of this shape was broadcast."""
    extra = y.ndim - len(shape)
    kept = [i for i, n in enumerate(shape) if n == 1 and y.shape[extra + i] != 1]
    axes = (*range(extra), *(extra + i for i in kept))
    return jnp.sum(y, axes).reshape(shape) if axes else y


tangent = define_tangent(
    "nvstate_matmul_tangent", result=_result, function=_along, transpose=transposed
)
