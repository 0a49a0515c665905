"""The product as one call of the library: buffers by layout, and what it is told of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from nvstate._core import lower
from nvstate.matmul import arguments, padding, query, reference as references, table
from nvstate.matmul.algorithm import pins_of
from nvstate.matmul.arguments import WHERE
from nvstate.matmul.preferences import IMPLEMENTATIONS, SCHEMES, of as preferences_of
from nvstate.matmul.spec import OPERAND, MatmulSpec

TARGET = "nvstate_cublaslt_matmul_v1"
TUNER = "nvstate_cublaslt_autotune_v1"
_RESULTS = {"bgrada": "m", "relu_aux": "mj", "gelu_aux": "mj", "d": "mn"}


def cuda(spec: MatmulSpec, *rest: Any) -> Sequence[Any]:
    """The results by cuBLASLt."""
    *operands, choices = rest
    return run(spec, spec, operands, choices)


def run(
    given: MatmulSpec, spec: MatmulSpec, operands: Sequence[Any], choices: Any
) -> Sequence[Any]:
    """As `cuda`, of a part of the product that a plan was made for."""
    x = dict(zip(spec.names, operands, strict=True))
    shapes = spec.result_shapes({name: array.shape for name, array in x.items()})
    if 0 in (*shapes["d"], spec.k):  # nothing to multiply: the library takes no empty matrices
        return references.reference(spec, *operands)
    values, call = prepared(spec, x, choices, given)
    found = lower.call_several(values, call)
    made = called(_padded(spec, x, choices))
    ys: dict[str, Any] = {}
    # The library's order is that of `MatmulResult`.
    for name, y in zip(made.result_names, found, strict=True):
        lead = shapes[name][: len(shapes[name]) - len(spec.core(name))]
        ys[name] = padding.cut(spec, name, y.reshape(*lead, *made.core(name)))
    if len(ys) < len(spec.result_names):
        ys[str(spec.parts.sums)] = references.sums(spec, x)
    return [ys[name] for name in spec.result_names]


def _padded(spec: MatmulSpec, x: dict[str, Any], choices: Any) -> MatmulSpec:
    shapes = {name: array.shape for name, array in x.items()}
    return padding.padded(spec, shapes, preferences_of(choices[0] if choices else ()))


def called(spec: MatmulSpec) -> MatmulSpec:
    """The spec that the library is given, where XLA does a part of it.

    cuBLASLt sums the rows of an operand along its innermost axis only: `bgrada` of an `a` stored
    [K, M], `bgradb` of a `b` stored [K, N]. It conjugates only where it transposes in its own
    order: `a` stored [K, M], `b` stored [N, K].
    """
    sums = spec.parts.sums
    if (sums == "bgrada" and not spec.transpose_a) or (sums == "bgradb" and spec.transpose_b):
        spec = dataclasses.replace(spec, epilog=None)
    if (spec.conjugate_a and not spec.transpose_a) or (spec.conjugate_b and not spec.transpose_b):
        return dataclasses.replace(
            spec,
            conjugate_a=spec.conjugate_a and spec.transpose_a,
            conjugate_b=spec.conjugate_b and spec.transpose_b,
        )
    return spec


def prepared(
    spec: MatmulSpec, x: dict[str, Any], choices: Any, whole: MatmulSpec | None = None
) -> tuple[list[Any], lower.Several]:
    """The operands as the library takes them, and the call; `whole` is the spec of the choices.

    Of each, the axes of op(A) and op(B), not of what is stored: a transposition becomes a layout.
    Batch axes come first, of one element where an operand has none, then that of M, also in
    operands without M.
    """
    given, wide = spec, _padded(spec, x, choices)
    x = padding.filled(spec, wide, x)
    spec = called(wide)
    shapes = {name: array.shape for name, array in x.items()}
    batch = spec.batches(shapes)
    nb = len(batch)
    outer = tuple(range(nb))
    values: list[Any] = []
    layouts: list[tuple[int, ...]] = []
    factors: list[tuple[str, ...]] = []

    def add(name: str, value: Any, tail: str, own: tuple[int, ...]) -> None:
        """Tail: "m", "1" or another letter for each axis beyond the batch."""
        lead = own[: len(own) - len(tail.replace("1", ""))]
        dims = (*[1] * (nb - len(lead)), *lead)
        rest = iter(own[len(lead) :])
        dims = (*dims, *(1 if t == "1" else next(rest) for t in tail))
        values.append(value.reshape(dims))
        layouts.append(tuple(range(len(dims))))
        names = [f"b{i}" if dims[i] == batch[i] and batch[i] > 1 else f"{name}{i}" for i in outer]
        tails = [f"{name}one{i}" if t == "1" else t for i, t in enumerate(tail)]
        factors.append(tuple(n.replace("_", "") for n in (*names, *tails)))

    a = x["a"].mT if spec.transpose_a else x["a"]
    b = x["b"].mT if spec.transpose_b else x["b"]
    a = jnp.conj(a) if given.conjugate_a and not spec.conjugate_a else a
    b = jnp.conj(b) if given.conjugate_b and not spec.conjugate_b else b
    add("a", a, "mk", a.shape)
    add("b", b, "1kn", b.shape)
    if spec.transpose_a:
        layouts[0] = (*outer, nb + 1, nb)
    if spec.transpose_b:
        layouts[1] = (*outer, nb, nb + 2, nb + 1)
    if spec.c_dtype is not None:
        c = x["c"]
        rows = c.shape[-2] if c.ndim > 1 else 1
        full = (*c.shape[:-2], rows, spec.n)
        add("c", jnp.broadcast_to(c, full), "mn" if rows == spec.m else "1n",
            full if rows == spec.m else (*c.shape[:-2], spec.n))  # fmt: skip
    if spec.parts.bias:
        add("bias", x["bias"], "1n", x["bias"].shape)
    if spec.parts.takes:
        aux = x[spec.parts.takes]
        add("aux", aux, "mj", aux.shape)
    scalars = OPERAND in (spec.alpha, spec.beta)
    if scalars:
        for name in ("alpha", "beta"):
            value = (
                x[name] if name in x else jnp.asarray(_number(getattr(spec, name)), spec.scale_type)
            )
            add(name, value, "11", ())
    for name in ("scale_a", "scale_b", "scale_d", "scale_aux"):
        if name not in x:
            continue
        mode = getattr(spec, f"scaling_{name[-1]}", None)
        if mode == "outer" and name[-1] in "ab":
            add(name, x[name], "m1" if name == "scale_a" else "1n", x[name].shape)
        elif mode in (None, "tensor"):
            add(name, x[name], "11", ())
        else:
            flat = x[name].reshape(-1)
            add(name, flat, "1" + ("s" if name == "scale_a" else "t"), flat.shape)
    results, result_factors = _results(spec, x, batch)
    # An axis of one element must not stand for one that is split: XLA would fill it up with zeros.
    full = all(value.shape[:nb] == batch for value in values)
    count = nb if full and not (spec.result_amax or spec.aux_amax) else 0
    split = {f"b{i}" for i in range(count)}
    kept = {f for f in (*sum(factors, ()), *sum(result_factors, ())) if f not in split}
    c_place = 2 if spec.inplace else None
    call = lower.Several(
        target=TARGET,
        where=WHERE,
        attributes=tuple(attributes(whole or given, spec, layouts, nb, choices).items()),
        batch=count,
        layouts=tuple(layouts),
        factors=tuple(factors),
        results=tuple(results),
        result_factors=tuple(result_factors),
        whole=tuple(sorted(kept)),
        aliases=() if c_place is None else ((c_place, 0),),
        settle=query.settled,
        hints=choices[0] if choices else (),
    )
    return values, call


def _results(
    spec: MatmulSpec, x: dict[str, Any], batch: tuple[int, ...]
) -> tuple[list[tuple[tuple[int, ...], str]], list[tuple[str, ...]]]:
    nb = len(batch)
    full = tuple(f"b{i}" if n > 1 else f"d{i}" for i, n in enumerate(batch))
    results: list[tuple[tuple[int, ...], str]] = []
    factors: list[tuple[str, ...]] = []
    for name in spec.result_names:
        lead, names = batch, full
        if name in ("bgrada", "bgradb"):
            own = spec.batch(name[-1], x[name[-1]].shape)
            lead = (*[1] * (nb - len(own)), *own)
            names = tuple(
                f"b{i}" if lead[i] == batch[i] and batch[i] > 1 else f"{name}{i}" for i in range(nb)
            )
        if name.endswith("amax"):
            lead, tail, extents = (1,) * nb, (f"{name}m", f"{name}n"), (1, 1)
            names = tuple(f"{name}{i}" for i in range(nb))
        elif name == "d_out_scale":
            tail, extents = (f"{name}m", f"{name}n"), (1, spec.core(name)[0])
        elif name in _RESULTS:
            tail = tuple(_RESULTS[name])
            extents = spec.core("d" if name == "d" else name)
        else:
            tail, extents = (f"{name}one", "n"), (1, spec.n)
        results.append(((*lead, *extents), spec.dtype(name)))
        factors.append(tuple(f.replace("_", "") for f in (*names, *tail)))
    return results, factors


def _number(text: str | None) -> int | float | complex:
    return 0 if text is None else arguments.number(text)


def attributes(
    given: MatmulSpec,
    spec: MatmulSpec,
    layouts: Sequence[tuple[int, ...]],
    nb: int,
    choices: Any,
) -> dict[str, Any]:
    """What the library is told beside the buffers, of the spec that a plan has; no extents."""
    preferences = preferences_of(choices[0] if choices else ())
    pinned = pins_of(choices, given.digest)
    scalars = OPERAND in (spec.alpha, spec.beta)
    alpha, beta = (
        (1.0, 0.0) if scalars else _parts(_number(getattr(spec, name)))
        for name in ("alpha", "beta")
    )
    schemes, kinds = preferences.reduction_scheme_mask, preferences.numerical_impl_mask
    fp8_alone = spec.c_dtype is None and spec.result_dtype in table.NARROW
    return {
        "v": np.int64(1),
        "owner": np.int64(given.family),
        "batch": np.int64(nb),
        "layout_a": layouts[0],
        "layout_b": layouts[1],
        "layout_c": layouts[2] if spec.c_dtype is not None else (),
        "layout_d": tuple(range(nb + 2)),
        "conjugate_a": np.int64(spec.conjugate_a),
        "conjugate_b": np.int64(spec.conjugate_b),
        "compute_type": spec.compute_type,
        "scale_type": spec.scale_type,
        "epilog": spec.epilog or "none",
        "c": np.int64(spec.c_dtype is not None),
        "c_type": spec.bias_dtype if fp8_alone else "",
        "scalars": np.int64(scalars),
        "alpha": alpha,
        "beta": beta,
        "scaling_a": spec.scaling_a or "none",
        "scaling_b": spec.scaling_b or "none",
        "scaling_d_out": spec.scaling_d or "none",
        "scale_c": np.int64(0),
        "scale_d": np.int64(spec.scale_d),
        "scale_aux": np.int64(spec.scale_aux),
        "result_amax": np.int64(spec.result_amax),
        "aux_amax": np.int64(spec.aux_amax),
        "fast_accumulation": np.int64(preferences.fast_accumulation),
        "sm_count": np.int64(preferences.sm_count_target),
        "reduction_mask": np.int64(7 if schemes is None else sum(SCHEMES[s] for s in schemes)),
        "impl_mask": np.int64(-1 if kinds is None else sum(IMPLEMENTATIONS[i] for i in kinds)),
        "max_waves": float(preferences.max_waves_count),
        "algorithms": b"".join(p.data for p in pinned),
        "problems": tuple(n for p in pinned for n in p.problem),
    }


def _parts(number: int | float | complex) -> tuple[float, float]:
    return (float(number.real), float(number.imag))
