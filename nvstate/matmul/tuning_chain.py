"""autotune_chain(): the products of a chain and of its derivative, each pinned in its layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from nvstate._core import placement
from nvstate._core.autotune import require_time
from nvstate._core.aval import OperandType
from nvstate.matmul import tuning
from nvstate.matmul.arguments import WHERE
from nvstate.matmul.chain import chain
from nvstate.matmul.plan import MatmulPlan
from nvstate.matmul.tuning import Product


def autotune_chain(
    plans: Sequence[MatmulPlan],
    x: Any,
    weights: Sequence[Any],
    biases: Sequence[Any],
    *,
    iterations: int = 10,
) -> list[MatmulPlan]:
    """Measure the algorithms of every product of `chain`, forward and backward, and pin them.

    Which products a layer makes depends on the one before, whose derivative is fused into them, and
    on how many rows `x` has: so a chain is tuned as a whole. Pinned are the products of
    `chain(plans, x, weights, biases)` and of its gradient with respect to all of these.

    Args:
        plans: as in `chain`, of a CUDA device; on CPUs they are returned as they are.
        x: [*batch, M, K] of the first. Only types and the device are read, here and below: what is
            multiplied is random.
        weights: [K, N] of each.
        biases: [N] of each; None where its epilog has no bias.
        iterations: how often each candidate runs.

    Returns:
        Plans of the same layers, for `chain`.

    Raises:
        OperandError: a JAX transformation is under way.
        SpecError: as `chain`; a number that is not positive.
        UnsupportedError: cuBLASLt has no algorithm for one of the products.

    Example:
        >>> layer = nvs.matmul.plan(jnp.ones((8, 4)), jnp.ones((4, 4)), epilog="gelu")
        >>> x, w = jnp.ones((8, 4)), jnp.ones((4, 4))
        >>> plans = nvs.matmul.autotune_chain([layer, layer], x, [w, w], [None, None])
        >>> plans == [layer, layer]
        True

    Source: as `autotune`.
    """
    tuning.require_number("iterations", iterations)
    require_time(WHERE)
    products = chain_products(plans, x, weights, biases)
    made: list[MatmulPlan] = []
    for plan, own in zip(plans, products, strict=True):
        where = plan.placement or placement.of(x)
        here = MatmulPlan.of(plan.spec, plan.types, where, plan.choices)
        xla = here.backend == "xla"
        made.append(plan if xla else tuning.pinned_too(plan, own, where, iterations))
    return made


def chain_products(
    plans: Sequence[MatmulPlan], x: Any, weights: Sequence[Any], biases: Sequence[Any]
) -> list[list[Product]]:
    """The products of each layer: forward alone, and of the whole gradient."""
    # What is bound says its choices: a mark in place of them tells whose product it is.
    marked = [
        MatmulPlan.of(p.spec, p.types, p.placement, (p.choices[0], ("layer", i)))
        for i, p in enumerate(plans)
    ]
    operands = (x, list(weights), list(biases))
    structs = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), operands)

    def gradient(*operands: Any) -> Any:
        y, back = jax.vjp(lambda *given: chain(marked, *given), *operands)
        return back(y)

    found = [[product] for product in _forward(marked, *structs)]
    for product, choices in tuning.products_of(gradient, *structs):
        found[choices[1][1]].append(product)
    return found


def _forward(plans: Sequence[MatmulPlan], *structs: Any) -> list[Product]:
    """The products of `chain` where nothing is differentiated, with the rows that it makes."""
    found: list[Product] = []
    whole = jax.make_jaxpr(lambda *given: chain(plans, *given))(*structs).jaxpr
    (bound,) = [e for e in whole.eqns if e.primitive.name == "nvstate_matmul_chain"]
    types = [OperandType(v.aval.shape, str(v.aval.dtype)) for v in bound.invars]
    x = types.pop(0)
    for spec in bound.params["spec"]:
        own = (x, *(types.pop(0) for _ in spec.names[1:]))
        found.append((spec, own))
        x = spec.result_types(own)["d"]
    return found
