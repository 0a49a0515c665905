"""matmul(), which is spec, plan and execution in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from nvstate._core import aval, log, oneshot
from nvstate._core.aval import Device, OperandType
from nvstate._core.compat import ArrayImpl
from nvstate._core.placement import Execution, Placement
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
    operands: dict[str, Any] = {"a": a, "b": b} if c is None else {"a": a, "b": b, "c": c}
    said: dict[str, Any] = {}
    for name, x in problem.items():
        if name not in ARRAYS:
            said[name] = x
        elif x is not None:
            operands[name] = _scale(a, x) if name.startswith("scale") else x
    options = {"preferences": preferences, "algorithm": algorithm, "execution": execution}
    for name, option in options.items():
        if option is not None:
            said[name] = option
    try:
        planned = _plan(*map(_key, operands, operands.values()), **said)
    except TypeError:  # an argument that cannot be a key, which `plan` refuses in its own words
        planned = plan(a, b, c, **options, **problem)  # pyright: ignore[reportArgumentType]
    if len(operands) == 2:
        return planned(a, b)
    return planned(*map(operands.__getitem__, planned.spec.names))


def _scale(a: Any, x: Any) -> Any:
    """A scale; a number as an array of the operands' package."""
    if isinstance(x, int | float | np.floating | np.integer) and not isinstance(x, bool):
        array = np.asarray(x, np.float32)
        return array if isinstance(a, np.ndarray) else jnp.asarray(array)
    return x


def _key(name: str, x: Any) -> tuple[Any, ...]:
    """What a plan depends on of an operand.

    Raises:
        TypeError: it is none.
    """
    if type(x) is ArrayImpl:
        return name, x.aval, x.sharding
    if isinstance(x, np.ndarray | jax.Array) and aval.is_array(x):
        return name, OperandType(x.shape, str(x.dtype)), oneshot.whereabouts(x)
    if isinstance(x, int | float | complex | np.number) and name in ("alpha", "beta"):
        return name, type(x), repr(x), x  # 0.0 is -0.0, and 1 is True
    raise TypeError(f"{name} is no operand")


@oneshot.remembered
def _plan(*operands: tuple[Any, ...], **said: Any) -> MatmulPlan:
    start = log.now()
    types: dict[str, Any] = {}
    places: dict[str, Placement | None] = {}
    for name, kind, where, *number in operands:
        if number:
            types[name] = typed(name, number[0])
        else:
            types[name] = OperandType(kind.shape, str(kind.dtype))
            places[name] = oneshot.placed(where)
    preferences, algorithm, execution = (
        said.pop(name, None) for name in ("preferences", "algorithm", "execution")
    )
    spec = specified(types, **said)
    own = tuple(types[n] for n in spec.names)
    return made(spec, own, places, preferences, algorithm, execution, start)
