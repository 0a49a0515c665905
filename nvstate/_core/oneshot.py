"""Plans of the latest one-shot calls, of every operation: a loop of them plans once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from nvstate._core import aval, placement
from nvstate._core.compat import ArrayImpl
from nvstate._core.placement import Placement

KEPT = 64  # for each operation
_TRACED = "traced"

_caches: list[Any] = []


def remembered(make: Callable[..., Any]) -> Callable[..., Any]:
    """A function of hashable arguments that makes plans, and remembers the latest of them.

    Arguments that are equal but differ in type, as 1, 1.0 and True are, are different arguments;
    not so inside of a tuple.
    """
    cached = functools.lru_cache(maxsize=KEPT, typed=True)(make)
    _caches.append(cached)
    return cached


def whereabouts(x: Any) -> Any:
    """Where an operand lives, as the array has it: to derive a placement costs more than a call."""
    if type(x) is ArrayImpl:
        return x.sharding
    if aval.is_traced(x):
        return _TRACED
    return x.sharding if isinstance(x, jax.Array) else None


def placed(whereabouts: Any) -> Placement | None:
    """The placement that goes with it."""
    return None if whereabouts is _TRACED else placement.on(whereabouts)


def info() -> dict[str, int]:
    """Calls that found their plan, calls that made it, and plans kept."""
    counts = [cache.cache_info() for cache in _caches]
    return {
        "hits": sum(c.hits for c in counts),
        "misses": sum(c.misses for c in counts),
        "oneshots": sum(c.currsize for c in counts),
    }


def clear() -> None:
    """Forget them all."""
    for cache in _caches:
        cache.cache_clear()
