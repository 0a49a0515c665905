"""nvmath-python's direct solver, which plans anew for each matrix."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nvstate.bench.libraries import arrays_on, module
from nvstate.bench.solver_cases import NVMATH
from nvstate.bench.timing import Candidate

if TYPE_CHECKING:
    from nvstate.bench.solver_candidates import Problem

ADVANCED = "nvmath.sparse.advanced"


def candidates(problem: Problem, platform: str) -> list[Candidate]:
    """Reset both operands of one object, plan, factorize, solve: its way to a new matrix."""
    advanced, cupyx = module(ADVANCED), module("cupyx.scipy.sparse")
    arrays = arrays_on(problem.device)
    if platform != "cuda" or advanced is None or cupyx is None or arrays is None:
        return []

    def make() -> Callable[[], Any]:
        indptr, indices = (
            arrays.copied(getattr(problem.plan.leaves, n)) for n in ("indptr", "indices")
        )
        matrices = [
            cupyx.csr_matrix((arrays.copied(problem.values[i]), indices, indptr)) for i in range(2)
        ]
        b = arrays.copied(problem.b)
        solver = advanced.DirectSolver(matrices[0], b)
        turn = 0

        def call() -> Any:
            nonlocal turn
            turn ^= 1
            solver.reset_operands(a=matrices[turn], b=b)
            solver.plan()
            solver.factorize()
            return solver.solve()

        weakref.finalize(call, solver.free)
        return call

    return [Candidate(NVMATH, make, arrays.wait, foreign=True)]
