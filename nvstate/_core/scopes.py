"""The life of what is built natively: in which scopes it was built, and when it is dropped."""

from __future__ import annotations

import contextvars
import functools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax

from nvstate import _native
from nvstate._core import log

if TYPE_CHECKING:
    from nvstate._core.plan import Plan


class Scope:
    """What one `resources()` block has built, and the most bytes of it that are kept."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.plans: weakref.WeakSet[Plan] = weakref.WeakSet()
        self._since = _native.cache_generation()

    def trim(self) -> None:
        """Drop what was used longest ago until the rest is within the limit, but for the latest."""
        if self.limit is None:
            return
        rows = _native.cache_rows(self._since)
        for owners, nbytes in rows[:-1]:
            if sum(n for _, n in rows) <= self.limit:
                return
            rows = rows[1:]
            for plan in [p for p in self.plans if p.spec.family in owners]:
                plan.drop()
            eager.cache_clear()
            for owner in owners:
                _native.cache_drop(owner)
            log.debug("over the limit of a scope", f"{nbytes} bytes dropped")

    def end(self) -> None:
        """Drop all of it."""
        start, before = log.now(), native_bytes()
        plans = list(self.plans)
        for plan in plans:
            plan.drop()
        eager.cache_clear()
        _native.cache_drop_since(self._since)
        log.info("end of a scope", f"{len(plans)} plans", start, before - native_bytes())


# Of this thread, or of whatever else has a context of its own.
current: contextvars.ContextVar[tuple[Scope, ...]] = contextvars.ContextVar(
    "nvstate_resources", default=()
)


@functools.lru_cache(maxsize=64)
def eager(operation: Callable[..., Any], spec: Any, choices: Any) -> Any:
    """What runs a primitive outside of any `jit`, where JAX evaluates derivatives and `vmap`."""
    return jax.jit(functools.partial(operation, spec, choices=choices))


def trim() -> None:
    """Keep the open scopes within their limits; called where native plans are made."""
    for scope in current.get():
        scope.trim()


def free(plan: Plan) -> None:
    """Drop what was built natively for a plan."""
    start, before = log.now(), native_bytes()
    plan.drop()
    eager.cache_clear()
    _native.cache_drop(plan.spec.family)
    log.info("freed", plan, start, before - native_bytes())


def native_bytes() -> int:
    """Device memory that native plans take now."""
    return _native.cache_info()["bytes"]
