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
from nvstate._core import lower
from nvstate._core.autotune import GAIN, measurable
from nvstate._core.aval import OperandType
from nvstate._core.plan import Plan
from nvstate._core.verbs import want
from nvstate.matmul import algorithm as algorithms, lowering, primitive, query, table
from nvstate.matmul.algorithm import Algorithm
from nvstate.matmul.arguments import error
from nvstate.matmul.plan import MatmulPlan
from nvstate.matmul.spec import MatmulSpec

SEED = 2026
_ROUNDOFF = {"float16": 2.0**-11, "float64": 2.0**-53}  # of the compute type; else float32's


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
    heuristic's first is replaced by one that is at least 2 % faster and agrees with it.

    Args:
        plan: on a CUDA device; on CPUs it is returned as it is.
        *args: its operands, by position.
        candidates: which are timed: as many as this of the heuristic's, or these; None:
            `plan.algorithms`.
        iterations: how often each is.
        prune: how many the returned plan lists in `algorithms`, the fastest first; None: all.
        derivatives: tune the products of its gradient too, and keep them in the plan.
        **operands: its operands, by name.

    Returns:
        A plan of the same problem with its algorithm pinned.

    Raises:
        OperandError: an operand is not the plan's; a JAX transformation is under way.
        SpecError: a number that is not positive.
        UnsupportedError: a candidate that cuBLASLt refuses for this problem.

    Example:
        >>> a, b = jnp.ones((8, 4)), jnp.ones((4, 2))
        >>> plan = nvs.matmul.plan(a, b)
        >>> nvs.matmul.autotune(plan, a, b) is plan
        True

    Source: cublasLtMatmul between two events.
    """
    want(plan, Plan, "autotune")
    for name, value in (("iterations", iterations), ("prune", prune)):
        if value is not None and (type(value) is not int or value < 1):
            raise error(f"`{name}` is a number", "1 or more", repr(value), "Pass an integer.")
    values = measurable(plan, args, operands)
    if plan.backend == "xla":
        return plan
    if isinstance(candidates, int):
        listed = query.algorithms(plan, candidates, (plan.choices[0], ()))
    elif candidates is not None:
        several = algorithms.require_algorithms(candidates)
        listed = tuple(query.checked(plan, one) for one in several)
    else:
        listed = None
    made = tuned(plan, values, iterations=iterations, candidates=listed, prune=prune)
    return _with_derivatives(made, values, iterations) if derivatives else made


def tuned(
    plan: MatmulPlan,
    values: tuple[Any, ...],
    *,
    iterations: int,
    candidates: tuple[Algorithm, ...] | None = None,
    prune: int | None = None,
) -> MatmulPlan:
    """The plan with the fastest algorithm pinned, which lists all with their times."""
    if 0 in (*plan.result.shape, plan.spec.k):
        return plan
    found = candidates or plan.algorithms
    times = np.median(measured(plan, values, found, iterations), axis=0)
    timed = [
        dataclasses.replace(one, time_us=float(t)) for one, t in zip(found, times, strict=True)
    ]
    first = timed[0]
    ranked = sorted(timed, key=lambda one: one.time_us or 0.0)
    best = first
    for one in ranked:
        if one is first or (one.time_us or 0.0) >= GAIN * (first.time_us or 0.0):
            break
        if _agrees(plan, values, one, first):
            best = one
            break
        warnings.warn(
            f"nvstate.matmul: algorithm {one.data.hex()} is faster, but its result differs from "
            f"that of the heuristic's first by more than rounding; it is not used ({plan!r})",
            UserWarning,
            stacklevel=3,
        )
    made = plan.pinning((best,))
    made.__dict__["_measured"] = tuple(ranked[:prune])
    return made


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
    """Whether two algorithms' D differ by no more than both may be wrong."""
    runs = [plan.with_algorithm(algorithm).program for algorithm in (one, first)]
    ys = [jax.tree.leaves(jax.jit(run)(*values))[0] for run in runs]
    return bool(np.all(np.asarray(jax.jit(_within)(ys, bound(plan.spec, values)))))


def _within(ys: list[Any], allowed: Any) -> Any:
    a, b = (jnp.asarray(y, allowed.dtype) for y in ys)
    return (a == b) | (jnp.abs(a - b) <= 2 * allowed)


def bound(spec: MatmulSpec, values: tuple[Any, ...]) -> Any:
    """2 (K + 2) u (|α||A||B| + |β||C| + |bias|) + u_D |D|, with |A||B| by norms of rows: larger."""
    x = dict(zip(spec.names, values, strict=True))
    wide = "float64" if spec.result_dtype in ("float64", "complex128") else "float32"
    u = _ROUNDOFF.get(spec.compute_type.split("_")[0], 2.0**-24)
    if spec.a_dtype in table.NARROW:
        u = 2.0**-13
    elif spec.compute_type in ("tf32", "float32_fast_float16", "float32_fast_bfloat16"):
        u = 2.0**-8
    u_d = {"bfloat16": 2.0**-8, "float16": 2.0**-11}.get(spec.result_dtype, u)
    if spec.result_dtype in table.NARROW:
        u_d = 0.25
    absolute = {n: jnp.abs(jnp.asarray(v)).astype(wide) for n, v in x.items() if n != "relu_aux"}
    k_of_a = -1 if "a" in spec.vectors or not spec.transpose_a else -2
    k_of_b = -1 if "b" in spec.vectors or spec.transpose_b else -2
    rows = jnp.sqrt(jnp.sum(absolute["a"] ** 2, k_of_a, keepdims="a" not in spec.vectors))
    columns = jnp.sqrt(jnp.sum(absolute["b"] ** 2, k_of_b, keepdims="b" not in spec.vectors))
    rows = rows.mT if rows.ndim > 1 and spec.transpose_a else rows
    columns = columns.mT if columns.ndim > 1 and spec.transpose_b else columns
    size = rows * columns
    for name in ("scale_a", "scale_b"):
        if name in absolute:
            size = size * jnp.max(absolute[name])
    size = size * absolute.get("alpha", jnp.asarray(_abs(spec.alpha), wide))
    if "c" in absolute:
        size = size + absolute.get("beta", jnp.asarray(_abs(spec.beta), wide)) * absolute["c"]
    if "bias" in absolute:
        size = size + absolute["bias"][..., None, :]
    if spec.parts.takes == "gelu_aux":
        size = 1.2 * size  # the most that |gelu′| is
    return (2 * (spec.k + 2) * u + u_d) * size * absolute.get("scale_d", jnp.asarray(1, wide))


def _abs(text: str | None) -> float:
    return 1.0 if text in (None, "operand") else abs(complex(text))


def _with_derivatives(plan: MatmulPlan, values: tuple[Any, ...], iterations: int) -> MatmulPlan:
    pins = list(plan.choices[1])
    key = jax.random.key(SEED)
    for spec, types in gradient_products(plan):
        digest = str(spec.digest)
        if any(p[0] == digest for p in pins):
            continue
        one = MatmulPlan.of(spec, types, plan.placement, (plan.choices[0], ()))
        operands = tuple(_random(key, t) for t in types)
        device = query.device_of(plan)
        winner = tuned(one, jax.device_put(operands, device), iterations=iterations)
        pins += winner.choices[1]
    made = MatmulPlan.of(plan.spec, plan.types, plan.placement, (plan.choices[0], tuple(pins)))
    made.__dict__["_measured"] = plan.algorithms
    return made


def gradient_products(plan: MatmulPlan) -> list[tuple[MatmulSpec, tuple[OperandType, ...]]]:
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

    found: list[tuple[MatmulSpec, tuple[OperandType, ...]]] = []
    for equation in jax.make_jaxpr(gradient)(*structs).jaxpr.eqns:
        if equation.primitive.name == "nvstate_matmul":
            types = tuple(OperandType(v.aval.shape, str(v.aval.dtype)) for v in equation.invars)
            found.append((equation.params["spec"], types))
    return found


def _random(key: Any, t: OperandType) -> Any:
    if t.dtype == "uint8":
        return jax.random.bits(key, t.shape, "uint8")
    return jax.random.normal(key, t.shape, "float32").astype(t.dtype)
