"""Factorizations that were gone when a solve wanted them: a warning, once for each plan."""

from __future__ import annotations

from nvstate import _native
from nvstate._core import log
from nvstate.direct_solver import attributes
from nvstate.direct_solver.choices import Choices
from nvstate.direct_solver.spec import SolverSpec

_warned: set[str] = set()  # names of rings
_seen = 0


def look(spec: SolverSpec, choices: Choices) -> None:
    """Say it of the plan that was just used, if there were misses since the last look.

    Native code cannot say it, so that those of a jitted function are told by the next eager solve.
    """
    global _seen
    misses = _native.solver_counts()["factor_misses"]
    if misses == _seen:
        return
    _seen = misses
    name = attributes.ring(spec, choices)
    if name not in _warned:
        _warned.add(name)
        log.logger.warning(
            "nvstate.direct_solver: a factorization was gone when a solve wanted it: raise "
            "`factor_slots`. %s",
            spec,
        )
