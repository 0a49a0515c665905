"""spsolve(), in one call: the plan of a pattern is kept between calls."""

from __future__ import annotations

from typing import Any

from nvstate._core import oneshot
from nvstate._core.aval import Device
from nvstate._core.placement import Execution
from nvstate.direct_solver import (
    choices as choices_,
    functions,
    operands,
    pattern as patterns,
    planning,
)
from nvstate.direct_solver.arguments import (
    Matching,
    MatrixType,
    OnStale,
    Pivoting,
    Reordering,
    Transpose,
    View,
    choice,
)
from nvstate.direct_solver.knobs import Knobs
from nvstate.direct_solver.plan import SolverPlan
from nvstate.direct_solver.specify import Problem


@oneshot.remembered
def _kept(plan: SolverPlan) -> SolverPlan:
    """The plan that is equal and was met first: it has what was compiled."""
    return plan


def spsolve(
    A: Any,
    b: Any,
    *,
    transpose: Transpose = "none",
    matrix_type: MatrixType = "general",
    view: View = "full",
    reordering: Reordering | Any = "auto",
    matching: Matching = "auto",
    pivoting: Pivoting = "auto",
    pivot_threshold: float | None = None,
    pivot_epsilon: float | None = None,
    refinement_steps: int | str = "auto",
    reuse_pivots: bool = False,
    deterministic: bool = False,
    factor_slots: int = 2,
    hybrid_memory: bool | int | str = False,
    hybrid_execute: bool = False,
    host_threads: int | None = None,
    on_stale: OnStale = "refactorize",
    knobs: Knobs | None = None,
    execution: Execution | Device | None = None,
) -> Any:
    """Solve A x = b for a sparse A in one call.

    Each call reads the pattern and compares its digest with those of the latest calls: a pattern
    that comes again is not analysed again. A plan spares that, and can be an argument of `jit`.

    Args:
        A: as in `plan`; its values may be tracers, its indices not.
        b: dtype [n], or [n, k].
        transpose: "none", A x = b; "transpose", Aᵀ x = b; "adjoint", Aᴴ x = b.
        matrix_type: this and what follows as in `plan`.
        view: which entries are stored.
        reordering: of rows and columns.
        matching: of large entries to the diagonal.
        pivoting: which kind.
        pivot_threshold: of pivoting.
        pivot_epsilon: what replaces smaller pivots; as `plan` says.
        refinement_steps: of iterative refinement.
        reuse_pivots: keep the pivots that these values give: of no use in one call.
        deterministic: equal bits in every run.
        factor_slots: how many factorizations the engine keeps.
        hybrid_memory: factors in host memory too.
        hybrid_execute: small work on the host.
        host_threads: of the engine.
        on_stale: as in `plan`.
        knobs: options of one engine.
        execution: where NumPy operands are computed with.

    Returns:
        X, dtype and shape of b, of b's package. NaN if A is singular, not definite, or not finite.

    Raises:
        SpecError, UnsupportedError, OperandError, LibraryError: as `plan`.
        JaxRuntimeError: the library failed.

    Example:
        >>> import scipy.sparse as sp
        >>> A = sp.diags_array([-1.0, 4.0, -1.0], offsets=[-1, 0, 1], shape=(5, 5)).tocsr()
        >>> bool(np.allclose(nvs.direct_solver.spsolve(A, A @ np.ones(5)), 1))
        True

    Source: as `plan`, `factorize` and `solve`.
    """
    choice("transpose", transpose, Transpose)
    problem = Problem(
        matrix_type=matrix_type,
        view=view,
        reordering=reordering,
        matching=matching,
        pivoting=pivoting,
        pivot_threshold=pivot_threshold,
        pivot_epsilon=pivot_epsilon,
        refinement_steps=refinement_steps,
        reuse_pivots=reuse_pivots,
        deterministic=deterministic,
    )
    choices = choices_.chosen(
        factor_slots=factor_slots,
        hybrid_memory=hybrid_memory,
        hybrid_execute=hybrid_execute,
        host_threads=host_threads,
        on_stale=on_stale,
        knobs=knobs,
    )
    pattern, values = patterns.read(A)
    operands.require_b(pattern.n, str(values.dtype), b)
    plan = _kept(planning.planned(pattern, values, b, problem, choices, execution))
    if transpose == "none":
        return plan(values, b)
    return functions.factorize_solve(plan, values, b, transpose=transpose)[0]
