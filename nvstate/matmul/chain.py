"""chain(), layers in a row: each layer's derivative is fused into the next layer's product."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nvstate._core.aval import Aval, OperandType
from nvstate._core.several import define_several, define_tangent
from nvstate.matmul import derivative, epilog as epilogs, primitive, reference, table
from nvstate.matmul.arguments import error
from nvstate.matmul.plan import MatmulPlan
from nvstate.matmul.spec import MatmulSpec

Layers = tuple[MatmulSpec, ...]


def chain(
    plans: Sequence[MatmulPlan], x: Any, weights: Sequence[Any], biases: Sequence[Any]
) -> Any:
    """Apply layers in turn, with a backward pass that fuses each activation into a product.

    Equal to `x = plan(x, w, bias=b)` for each plan. Differentiated, the forward products keep their
    `*_aux`, and the backward ones apply it: dgelu or drelu of the layer before.

    Args:
        plans: of layers [M, K] by [K, N], each with the epilog "bias", "relu_bias", "gelu_bias",
            "relu", "gelu" or none. Their algorithms, if pinned, are used for the forward pass.
        x: [*batch, M, K] of the first; batch and M are one axis to the library.
        weights: [K, N] of each.
        biases: [N] of each; None where its epilog has no bias.

    Returns:
        The last layer's D, [*batch, M, N].

    Raises:
        SpecError: another epilog; α, C, transpositions or scales; layers that do not fit.

    Example:
        >>> layer = nvs.matmul.plan(jnp.ones((8, 4)), jnp.ones((4, 4)), epilog="gelu")
        >>> x, w = jnp.ones((8, 4)), jnp.ones((4, 4))
        >>> nvs.matmul.chain([layer, layer], x, [w, w], [None, None]).shape
        (8, 4)
    """
    given: Any = plans
    if not isinstance(given, Sequence) or not all(isinstance(p, MatmulPlan) for p in given):  # pyright: ignore[reportUnknownVariableType]
        raise error("no layers", "a list of plans", repr(plans), "Pass `[plan, …]`, also of one.")
    specs = tuple(_layer(plan) for plan in plans)
    choices = tuple(plan.choices for plan in plans)
    if not specs or not len(specs) == len(weights) == len(biases):
        raise error(
            "layers differ in number",
            "as many plans, weights and biases, and at least one",
            f"{len(specs)} plans, {len(weights)} weights, {len(biases)} biases",
            "Pass None for a bias that a layer has not.",
        )
    rows, x = x.shape[:-1], jnp.asarray(x).reshape(math.prod(x.shape[:-1]), x.shape[-1])
    k, dtype = x.shape[-1], str(x.dtype)
    operands: list[Any] = [x]
    made: list[MatmulSpec] = []
    for i, (spec, w, bias) in enumerate(zip(specs, weights, biases, strict=True)):
        matrices = w.shape == (spec.k, spec.n) and (k, dtype) == (spec.k, spec.a_dtype)
        given = None if bias is None else OperandType(bias.shape, str(bias.dtype))
        wanted = OperandType((spec.n,), spec.bias_dtype) if spec.parts.bias else None
        if not matrices or given != wanted or str(w.dtype) != dtype:
            raise error(
                f"layer {i} does not fit its plan",
                f"x [*, {spec.k}] and w [{spec.k}, {spec.n}] of {spec.a_dtype}"
                + (f", a bias {wanted}" if wanted else ""),
                f"x {dtype}[*, {k}], w {w.dtype}{list(w.shape)}, "
                + (f"a bias {given}" if given else "no bias"),
                "Plan each layer for what the one before makes.",
            )
        operands += [w] if bias is None else [w, bias]
        made.append(dataclasses.replace(spec, m=x.shape[0]))
        k, dtype = spec.n, spec.result_dtype
    (y,) = _chain(tuple(made), *operands, choices=choices)
    return y.reshape(*rows, k)


def _layer(plan: MatmulPlan) -> MatmulSpec:
    spec = plan.spec
    allowed = (None, "bias", "relu", "gelu", "relu_bias", "gelu_bias")
    usual = dataclasses.replace(derivative.bare(spec), epilog=spec.epilog)
    if spec.epilog not in allowed or usual != spec or spec.alpha not in ("1.0", "(1+0j)"):
        raise error(
            "a plan that is no layer",
            "a product with at most a bias and an activation",
            repr(plan),
            "Apply it by itself.",
        )
    turned = any(getattr(spec, flag) for flag in derivative.FLAGS)
    if turned or spec.a_dtype in table.NARROW | {"int8"}:
        raise error(
            "a plan that is no layer",
            "operands [M, K] and [K, N] of 16 bits or more, neither transposed nor conjugated",
            repr(plan),
            "Apply it by itself.",
        )
    return spec


def _parted(specs: Layers, operands: Sequence[Any]) -> tuple[Any, list[Any], list[Any]]:
    """x, the weights and the biases, None where there is none."""
    x, *rest = operands
    weights: list[Any] = []
    biases: list[Any] = []
    for spec in specs:
        weights.append(rest.pop(0))
        biases.append(rest.pop(0) if spec.parts.bias else None)
    return x, weights, biases


def _run(spec: MatmulSpec, x: Any, w: Any, bias: Any, choices: Any) -> list[Any]:
    return primitive.matmul(spec, x, w, *([] if bias is None else [bias]), choices=choices)


def _in_turn(specs: Layers, *rest: Any) -> list[Any]:
    *operands, choices = rest
    x, weights, biases = _parted(specs, operands)
    for spec, w, bias, chosen in zip(specs, weights, biases, choices, strict=True):
        (x,) = _run(spec, x, w, bias, chosen)
    return [x]


def _by_reference(specs: Layers, *operands: Any) -> list[Any]:
    return _in_turn(specs, *operands, (None,) * len(specs))


def _results(specs: Layers, *avals: Aval) -> list[Aval]:
    x, weights, biases = _parted(specs, avals)
    for spec, w, bias in zip(specs, weights, biases, strict=True):
        (x,) = primitive.results(spec, x, w, *([] if bias is None else [bias]))
    return [x]


def _with_aux(spec: MatmulSpec) -> MatmulSpec:
    """The forward pass whose derivative will be taken."""
    parts = spec.parts
    if parts.function is None:
        return spec
    name: Any = epilogs.named(function=parts.function, bias=parts.bias, aux=True)
    aux = spec.result_dtype if parts.function == "gelu" else None
    return dataclasses.replace(spec, epilog=name, aux_dtype=aux)


def _jvp(specs: Layers, primals: Any, tangents: Any, choices: Any) -> tuple[list[Any], list[Any]]:
    x, weights, biases = _parted(specs, primals)
    inputs: list[Any] = []
    auxes: list[Any] = []
    for spec, w, bias, chosen in zip(specs, weights, biases, choices, strict=True):
        inputs.append(x)
        x, *aux = _run(_with_aux(spec), x, w, bias, chosen)
        auxes += aux
    return [x], [_tangent(specs, (*inputs, *weights, *auxes), tangents, choices)]


def _residuals(specs: Layers, residuals: Any) -> tuple[list[Any], list[Any], list[Any]]:
    n, rest = len(specs), list(residuals)
    inputs, weights, auxes = rest[:n], rest[n : 2 * n], rest[2 * n :]
    return inputs, weights, [auxes.pop(0) if s.parts.function else None for s in specs]


def _tangent_type(specs: Layers, residuals: Any, tangents: Any) -> Aval:
    inputs, weights, _ = _residuals(specs, residuals)
    return primitive.results(derivative.bare(specs[-1]), inputs[-1], weights[-1])[0]


def _along(specs: Layers, residuals: Any, tangents: Any, choices: Any) -> Any:
    inputs, weights, auxes = _residuals(specs, residuals)
    dx, dweights, dbiases = _parted(specs, tangents)
    layers = zip(specs, inputs, weights, auxes, dweights, dbiases, choices, strict=True)
    for spec, x, w, aux, dw, dbias, chosen in layers:
        moving = (dx, dw, dbias)
        if all(t is None for t in moving):
            continue
        dx = derivative.tangent(derivative.bare(spec), (x, w), moving, chosen)
        dx = _activated(spec, aux, dx)
    return dx


def _activated(spec: MatmulSpec, aux: Any, g: Any) -> Any:
    """f′(z) times a tangent or a cotangent, elementwise."""
    function = spec.parts.function
    if function is None:
        return g
    wide = reference.wide(spec)
    slope = epilogs.slope("relu_aux" if function == "relu" else "gelu_aux", aux, spec.n, wide)
    return (slope * g.astype(wide)).astype(spec.result_dtype)


def _transposed(specs: Layers, residuals: Any, types: Any, g: Any, choices: Any) -> list[Any]:
    """From the last layer to the first.

    g Wᵀ of layer i, with the epilog d`f` on what layer i - 1 kept, is the cotangent of z of layer
    i - 1. xᵀ g is the cotangent of W, and XLA sums g, which is that of the bias.
    """
    inputs, weights, auxes = _residuals(specs, residuals)
    tx, tweights, tbiases = _parted(specs, types)
    cts: list[Any] = []
    g = _activated(specs[-1], auxes[-1], g)
    for i in reversed(range(len(specs))):
        spec, x, w, chosen = specs[i], inputs[i], weights[i], choices[i]
        wanted = (None if i else tx, tweights[i], tbiases[i])
        ct_x, ct_w, ct_bias = derivative.transposed(spec, (x, w), wanted, g, chosen)
        cts += [ct_bias, ct_w] if spec.parts.bias else [ct_w]
        if i:
            g = _backward(spec, specs[i - 1], g, w, auxes[i - 1], chosen)
        else:
            cts.append(ct_x)
    return cts[::-1]


def backward(spec: MatmulSpec, previous: MatmulSpec) -> MatmulSpec:
    """The spec of g Wᵀ, times f′ of the layer before.

    Not summed too: `drelu_bgrad` and `dgelu_bgrad` take longer than the product and XLA's sum.
    """
    function = previous.parts.function
    made = derivative.plain(
        spec.m, spec.k, spec.n, spec.result_dtype, spec, spec.a_dtype, transpose_b=True
    )
    if function is None or spec.n == 1 or spec.result_dtype != spec.a_dtype:
        return made
    if function == "relu":
        return dataclasses.replace(made, epilog="drelu")
    return dataclasses.replace(made, epilog="dgelu", aux_dtype=previous.result_dtype)


def _backward(
    spec: MatmulSpec, previous: MatmulSpec, g: Any, w: Any, aux: Any, choices: Any
) -> Any:
    made = backward(spec, previous)
    if made.epilog is not None:
        return primitive.matmul(made, g, w, aux, choices=choices)[0]
    rows = jax.ShapeDtypeStruct((spec.m, spec.k), np.dtype(spec.a_dtype))
    g, _, _ = derivative.transposed(spec, (None, w), (rows, None, None), g, choices)
    return _activated(previous, aux, g)


_chain = define_several(
    "nvstate_matmul_chain",
    results=_results,
    reference=_by_reference,
    jvp=_jvp,
    batch=None,
    cuda=_in_turn,
)
_tangent = define_tangent(
    "nvstate_matmul_chain_tangent", result=_tangent_type, function=_along, transpose=_transposed
)
