"""The life of what is built natively: in which scopes it was built, and when it is dropped."""

from __future__ import annotations

import contextvars
import functools
import threading
import weakref
from collections.abc import Callable, Iterable
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
        self._plans: weakref.WeakSet[Plan] = weakref.WeakSet()
        self._latest: Callable[[], Plan | None] = lambda: None
        self._since = _native.cache_generation()
        self._lock = threading.Lock()  # a context may be copied into another thread

    def add(self, plan: Plan) -> None:
        """Note that a plan is about to be built in this scope."""
        with self._lock:
            self._plans.add(plan)
            self._latest = weakref.ref(plan)

    def _built(self) -> list[Plan]:
        with self._lock:
            return list(self._plans)

    def trim(self) -> None:
        """Drop what was used longest ago until the rest is within the limit, but for the latest."""
        if self.limit is None:
            return
        latest = self._latest()
        for row in _native.cache_rows(self._since)[:-1]:
            # Counted anew each time: an executable of somebody else's may hold what was dropped.
            if sum(r.nbytes for r in _native.cache_rows(self._since)) <= self.limit:
                return
            family = [p for p in self._built() if p.spec.family in row.owners]
            _drop((p for p in family if p is not latest), _native.cache_drop_made, row.made)
            log.debug("over the limit of a scope", f"{row.nbytes} bytes were dropped")

    def end(self) -> None:
        """Drop all of it."""
        start, before = log.now(), native_bytes()
        plans = self._built()
        _drop(plans, _native.cache_drop_since, self._since)
        log.info("end of a scope", f"{len(plans)} plans", start, before - native_bytes())


_keepers: list[Callable[[int | None], None]] = []

# Of this thread, or of whatever else has a context of its own.
current: contextvars.ContextVar[tuple[Scope, ...]] = contextvars.ContextVar(
    "nvstate_resources", default=()
)


@functools.lru_cache(maxsize=64)
def eager(operation: Callable[..., Any], spec: Any, choices: Any) -> Any:
    """What runs a primitive outside of any `jit`, where JAX evaluates derivatives and `vmap`."""
    return jax.jit(functools.partial(operation, spec, choices=choices))


def enter(plan: Plan) -> None:
    """Note in the open scopes that a plan is about to be built."""
    for scope in current.get():
        scope.add(plan)


def trim() -> None:
    """Keep the open scopes within their limits; called when native plans may have been made."""
    for scope in current.get():
        scope.trim()


def free(plan: Plan) -> None:
    """Drop what was built natively for a plan."""
    start, before = log.now(), native_bytes()
    _drop([plan], _native.cache_drop, plan.spec.family)
    log.info("freed", plan, start, before - native_bytes())


def _drop(plans: Iterable[Plan], drop: Callable[[int], None], native: int) -> None:
    """Drop compiled calls first, so that nothing holds the native plans."""
    for plan in plans:
        plan.drop()
        for keeper in _keepers:
            keeper(plan.spec.family)
    eager.cache_clear()
    drop(native)


def also(drop: Callable[[int | None], None]) -> None:
    """Have what an operation keeps in Python dropped too: that of an owner, or all of it."""
    _keepers.append(drop)


def clear() -> None:
    """Drop all that operations keep in Python."""
    for keeper in _keepers:
        keeper(None)


def native_bytes() -> int:
    """Device memory that native plans take now."""
    return _native.cache_info()["bytes"]
