"""The compiled phases of plans: a bounded number, which outlive plans that are made again."""

from __future__ import annotations

import collections
import functools
import threading
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from nvstate.direct_solver.spec import Leaves

if TYPE_CHECKING:
    from nvstate.direct_solver.plan import SolverPlan
    from nvstate.direct_solver.spec import SolverSpec

KEPT = 128
_MEMORY = "_phases"  # of a plan: its own, found without a hash of the spec
_lock = threading.Lock()
_recent: collections.OrderedDict[Any, Any] = collections.OrderedDict()  # the latest last


def jitted(plan: SolverPlan, function: Any, **static: Any) -> Any:
    """A function of the spec, the choices, the leaves and arrays, compiled for this plan's.

    It does not hold the plan: a jitted function of plans would keep every one for ever.
    """
    own = plan.memory.setdefault(_MEMORY, {})
    name = (function, *static.values())
    found = own.get(name)
    if found is None:
        key = (plan.spec, plan.choices, name)
        with _lock:
            found = _recent.pop(key, None)
            if found is None:
                found = jax.jit(_given(function, plan.spec, plan.choices, static))
            own[name] = _recent[key] = found
            if len(_recent) > KEPT:
                _recent.popitem(last=False)
    # None of those without elements: see `way.pattern`.
    return functools.partial(found, Leaves(*(x if x.size else None for x in plan.leaves)))


def _given(function: Any, spec: SolverSpec, choices: Any, static: dict[str, Any]) -> Any:
    types = {"reference": spec.dtype}

    @functools.wraps(function)
    def run(leaves: Leaves, *arrays: Any) -> Any:
        whole = {
            name: jnp.zeros(0, types.get(name, "int32")) if x is None else x
            for name, x in leaves._asdict().items()
        }
        return function(spec, choices, Leaves(**whole), *arrays, **static)

    return run


def drop(plan: SolverPlan) -> None:
    """Drop what was compiled for plans of this spec with these choices."""
    plan.memory.pop(_MEMORY, None)
    with _lock:
        for key in [k for k in _recent if k[:2] == (plan.spec, plan.choices)]:
            _recent.pop(key).clear_cache()
