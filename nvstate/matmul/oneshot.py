"""matmul(), which is spec, plan and execution in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from nvstate._core import aval, log, oneshot
from nvstate._core.aval import Device, OperandType
from nvstate._core.placement import Execution
from nvstate.matmul.algorithm import Algorithm
from nvstate.matmul.plan import MatmulPlan, made, plan
from nvstate.matmul.preferences import Preferences
from nvstate.matmul.specify import ARRAYS, Problem, specified, typed


def matmul(
    a: Any,
    b: Any,
    c: Any = None,
    /,
    *,
    preferences: Preferences | None = None,
    algorithm: Algorithm | Sequence[Algorithm] | None = None,
    execution: Execution | Device | None = None,
    **problem: Unpack[Problem],
) -> Any:
    """Multiply matrices: spec, plan and execution in one call. A loop of equal calls plans once.

    Args:
        a: [*batch, M, K] or [K].
        b: [*batch, K, N] or [K].
        c: whatever broadcasts to D; goes with `beta`.
        preferences: as in `plan`.
        algorithm: as in `plan`.
        execution: as in `plan`.
        **problem: as in `spec`: `alpha`, `beta`, `bias`, `epilog`, `transpose_a`, … A number as a
            scale is one of float32.

    Returns:
        D [*batch, M, N]; a `MatmulResult` if the epilog gives more. Of the operands' package.

    Raises:
        SpecError: no such product.
        UnsupportedError: a fair one, but not of this library, version or device.
        OperandError: operands that live in different places.

    Example:
        >>> r = nvs.matmul.matmul(jnp.ones((8, 4)), jnp.ones((4, 2)), epilog="gelu_aux")
        >>> r.d.shape, r.gelu_aux.shape
        ((8, 2), (8, 8))

    Source: as `plan`.
    """
    rest: dict[str, Any] = dict(problem)
    given = {"a": a, "b": b, "c": c} | {n: rest.pop(n) for n in list(rest) if n in ARRAYS}
    numbers = (int, float, np.floating, np.integer)
    for name, x in given.items():
        if name.startswith("scale") and isinstance(x, numbers) and not isinstance(x, bool):
            array = np.asarray(x, np.float32)
            given[name] = array if isinstance(a, np.ndarray) else jnp.asarray(array)
    operands = {name: x for name, x in given.items() if isinstance(x, np.ndarray | jax.Array)}
    others = {n: x for n, x in given.items() if n not in operands and (x is not None or n in "ab")}
    options = {"preferences": preferences, "algorithm": algorithm, "execution": execution}
    key = tuple((name, x.shape, x.dtype, oneshot.whereabouts(x)) for name, x in operands.items())
    try:
        known = aval.is_array(a) and aval.is_array(b)
        planned = _plan(key, *others.items(), *rest.items(), *options.items()) if known else None
    except TypeError:  # an argument that cannot be a key, which `plan` refuses in its own words
        planned = None
    if planned is None:
        planned = plan(a, b, c, **options, **problem)  # pyright: ignore[reportArgumentType]
    return planned(*(given[name] for name in planned.spec.names))


@oneshot.remembered
def _plan(key: Any, *rest: tuple[str, Any]) -> MatmulPlan:
    start, said = log.now(), dict(rest)
    preferences, algorithm, execution = (
        said.pop(name) for name in ("preferences", "algorithm", "execution")
    )
    types: dict[str, Any] = {name: OperandType(shape, str(d)) for name, shape, d, _ in key}
    places = {name: oneshot.placed(where) for name, _, _, where in key}
    for name in ARRAYS:
        if name in said:
            types[name] = typed(name, said.pop(name))
    spec = specified(types, **said)
    operands = tuple(types[n] for n in spec.names)
    return made(spec, operands, places, preferences, algorithm, execution, start)
