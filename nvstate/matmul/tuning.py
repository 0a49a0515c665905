"""autotune(): every candidate timed by the library's side, in one call on XLA's stream."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nvstate import _native
from nvstate._core import aval, lower, placement
from nvstate._core.autotune import GAIN, measurable
from nvstate._core.aval import OperandType
from nvstate._core.plan import Plan
from nvstate._core.verbs import want
from nvstate.matmul import agreement, algorithm as algorithms, lowering, primitive, query
from nvstate.matmul.algorithm import Algorithm
from nvstate.matmul.arguments import error
from nvstate.matmul.plan import MatmulPlan
from nvstate.matmul.spec import MatmulSpec

SEED = 2026
Product = tuple[MatmulSpec, tuple[OperandType, ...]]


def autotune(
    plan: MatmulPlan,
    /,
    *args: Any,
    candidates: int | Sequence[Algorithm] | None = None,
    iterations: int = 10,
    prune: int | None = None,
    derivatives: bool = False,
    **operands: Any,
) -> MatmulPlan:
    """Measure which algorithm is the fastest on these operands, with a cold cache.

    One custom call times every candidate in a new random order in each iteration, after overwriting
    twice the L2 cache. Results go to scratch memory: no operand is written, also in place. The
    heuristic's first, which is timed in any case, as is what the plan has pinned, is replaced by
    one that is at least 2 % faster and agrees with it.

    Args:
        plan: on a CUDA device; on CPUs it is returned as it is.
        *args: its operands, by position.
        candidates: which are timed: as many as this of the heuristic's, or these; None:
            `plan.algorithms`.
        iterations: how often each is.
        prune: how many the returned plan lists in `algorithms`, the fastest first, among them the
            one that is pinned; None: all.
        derivatives: tune the products of its gradient too, on random operands, and keep them in the
            plan. Those of `chain` depend on the layer before: `autotune_chain` tunes them.
        **operands: its operands, by name.

    Returns:
        A plan of the same problem with its algorithm pinned.

    Raises:
        OperandError: an operand is not the plan's; a JAX transformation is under way.
        SpecError: a number that is not positive; `candidates` that are none.
        UnsupportedError: a candidate that cuBLASLt refuses for this problem.

    Example:
        >>> a, b = jnp.ones((8, 4)), jnp.ones((4, 2))
        >>> plan = nvs.matmul.plan(a, b)
        >>> nvs.matmul.autotune(plan, a, b) is plan
        True

    Source: cublasLtMatmul between two events.
    """
    want(plan, Plan, "autotune")
    given = candidates if isinstance(candidates, int) else None
    for name, value in (("iterations", iterations), ("prune", prune), ("candidates", given)):
        require_number(name, value)
    several = None
    if given is None and candidates is not None:
        several = algorithms.require_algorithms(candidates)
    values = measurable(plan, args, operands)
    here = located(plan, values)
    if here.backend == "xla":
        return plan
    listed = several and tuple(query.checked(here, one) for one in several)
    if given is not None:
        listed = query.algorithms(here, given, (here.choices[0], ()))
    made = tuned(plan, values, iterations=iterations, candidates=listed, prune=prune)
    if not derivatives:
        return made
    own = (here.matrix_spec(), here.matrices())
    products = [product for product in gradient_products(here) if product != own]
    return pinned_too(made, products, located(made, values).placement, iterations)


def require_number(name: str, value: Any) -> None:
    """Refuse what is neither None nor a positive integer."""
    if value is not None and (type(value) is not int or value < 1):
        raise error(f"`{name}` is a number", "1 or more", repr(value), "Pass an integer.")


def located(plan: MatmulPlan, values: tuple[Any, ...]) -> MatmulPlan:
    """The plan for these very operands: with their batch axes and place, where it has none."""
    is_open = any(t.open for t in plan.types)
    types = tuple(map(aval.type_of, values)) if is_open else plan.types
    where = plan.placement or placement.of(values[0])
    return MatmulPlan.of(plan.spec, types, where, plan.choices)


def tuned(
    plan: MatmulPlan,
    values: tuple[Any, ...],
    *,
    iterations: int,
    candidates: tuple[Algorithm, ...] | None = None,
    prune: int | None = None,
) -> MatmulPlan:
    """The plan with the fastest algorithm pinned, which lists all with their times."""
    here = located(plan, values)
    if here.is_empty:
        return plan
    first, *_ = here.proposed
    present = [here.algorithm] if here.pinned else []
    found = list(dict.fromkeys([first, *filter(None, present), *(candidates or here.algorithms)]))
    times = np.median(measured(here, values, found, iterations), axis=0)
    timed = [
        dataclasses.replace(one, time_us=float(t)) for one, t in zip(found, times, strict=True)
    ]
    first = best = timed[0]
    ranked = sorted(timed, key=_time)
    for one in ranked:
        if one is first or _time(one) >= GAIN * _time(first):
            break
        if _agrees(here, values, one, first):
            best = one
            break
        warnings.warn(
            f"nvstate.matmul: algorithm {one.data.hex()} is faster, but its result differs from "
            f"that of the heuristic's first by more than rounding; it is not used ({plan!r})",
            UserWarning,
            stacklevel=3,
        )
    made = plan.with_pins(here.pinning((best,)).choices[1])
    kept = ranked[:prune]
    made.__dict__["_measured"] = tuple(kept if best in kept else [*kept[:-1], best])
    return made


def _time(one: Algorithm) -> float:
    return one.time_us or 0.0


def measured(
    plan: MatmulPlan, values: tuple[Any, ...], found: Sequence[Algorithm], iterations: int
) -> np.ndarray[Any, Any]:
    """Microseconds of each candidate in each iteration, float32 [iterations, candidates]."""
    device = query.device_of(plan)
    assert device is not None, "a plan on CUDA has a device"
    l2 = _native.cublaslt_l2_bytes(device.local_hardware_id)
    spec = plan.matrix_spec()
    names = spec.names
    nbytes = max(one.workspace_bytes for one in found)

    def times(*operands: Any) -> Any:
        matrices = primitive.matrices_of(plan.spec, operands)
        x = dict(zip(names, matrices, strict=True))
        ready, call = lowering.prepared(spec, x, (plan.choices[0], ()))
        attributes = dict(call.attributes) | {
            "algorithms": b"".join(one.data for one in found),
            "problems": tuple(n for one in found for n in one.problem),
            "seed": np.int64(SEED),
        }
        scratch = ((nbytes + lower.ALIGNMENT,),) if nbytes else ()
        extra = [(shape, "uint8") for shape in (*scratch, (2 * l2,))]
        results = (((iterations, len(found)), "float32"), *call.results, *extra)
        alone = tuple(
            tuple(f"r{i}x{j}" for j in range(len(shape))) for i, (shape, _) in enumerate(results)
        )
        timer = dataclasses.replace(
            call,
            target=lowering.TUNER,
            attributes=tuple(attributes.items()),
            batch=0,
            results=results,
            result_factors=alone,
            whole=tuple({f for fs in (*call.factors, *alone) for f in fs}),
            aliases=(),
            settle=_as_given,
        )
        return lower.call_several(ready, timer)[0]

    return np.asarray(jax.jit(times)(*values))


def _as_given(
    call: lower.Several, operands: Any, results: Any, device: int | None
) -> lower.Settled:
    return 0, call.attributes


def _agrees(plan: MatmulPlan, values: Any, one: Algorithm, first: Algorithm) -> bool:
    runs = [plan.with_algorithm(algorithm).program for algorithm in (one, first)]
    a, b = (jax.tree.leaves(jax.jit(run)(*values))[0] for run in runs)
    return agreement.agree(plan.spec, values, (a, b))


def pinned_too(
    plan: MatmulPlan, products: Sequence[Product], where: Any, iterations: int
) -> MatmulPlan:
    """The plan with the fastest algorithms of other products pinned too, on random operands."""
    pins, key = plan.choices[1], jax.random.key(SEED)
    for spec, types in dict.fromkeys(products):
        one = MatmulPlan.of(spec, types, where, (plan.choices[0], ()))
        operands = tuple(
            _random(k, t) for k, t in zip(jax.random.split(key, len(types)), types, strict=True)
        )
        values = jax.device_put(operands, query.device_of(one))
        pins = algorithms.merged(pins, tuned(one, values, iterations=iterations).choices[1])
    made = plan.with_pins(pins)
    if measured_ones := plan.__dict__.get("_measured"):
        made.__dict__["_measured"] = measured_ones
    return made


def gradient_products(plan: MatmulPlan) -> list[Product]:
    """The products that a reverse derivative with respect to every operand makes."""
    structs = [jax.ShapeDtypeStruct(t.shape, t.dtype) for t in plan.types]
    moving = [i for i, s in enumerate(structs) if jnp.issubdtype(s.dtype, jnp.inexact)]

    def gradient(*operands: Any) -> Any:
        def along(*some: Any) -> Any:
            whole = list(operands)
            for i, value in zip(moving, some, strict=True):
                whole[i] = value
            return jax.tree.leaves(plan.program(*whole))[0]

        y, back = jax.vjp(along, *(operands[i] for i in moving))
        return back(y)

    return [product for product, _ in products_of(gradient, *structs)]


def products_of(f: Any, *structs: Any) -> list[tuple[Product, Any]]:
    """The products that a function is made of, each with the choices that it is given."""
    found: list[tuple[Product, Any]] = []
    for equation in jax.make_jaxpr(f)(*structs).jaxpr.eqns:
        if equation.primitive.name == "nvstate_matmul":
            types = tuple(OperandType(v.aval.shape, str(v.aval.dtype)) for v in equation.invars)
            found.append(((equation.params["spec"], types), equation.params["choices"]))
    return found


def _random(key: Any, t: OperandType) -> Any:
    if t.dtype == "uint8":
        return jax.random.bits(key, t.shape, "uint8")
    if t.dtype.startswith("complex"):
        return jax.random.normal(key, t.shape, t.dtype)
    return jax.random.normal(key, t.shape, "float32").astype(t.dtype)
