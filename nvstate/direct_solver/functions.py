"""factorize(), solve() and their kin: the phases of a direct solver, as functions of arrays."""

from __future__ import annotations

from typing import Any

from nvstate._core import aval, dtypes, host, operands as core_operands, placement, scopes
from nvstate._core.aval import OperandType
from nvstate.direct_solver import edge, misses, operands, primitive, support
from nvstate.direct_solver.arguments import Transpose, choice, operand_error
from nvstate.direct_solver.factor import Factor
from nvstate.direct_solver.phases import jitted
from nvstate.direct_solver.plan import SolverPlan
from nvstate.direct_solver.spec import Leaves, SolverSpec
from nvstate.direct_solver.way import WORDS


def factorize(plan: SolverPlan, values: Any) -> Factor:
    """Factorize the matrix with these values, on the pattern that was planned.

    Args:
        plan: from `plan`.
        values: dtype [nnz], in the order of A's own: `A.data`, or `plan.values_of(A)`.

    Returns:
        A `Factor`, for `solve`: a pytree, legal under `jit`, `scan` and `vmap`, and differentiable
        in the values. Its `info` says what the pivots were.

    Raises:
        OperandError: values of another length, dtype or place.
        JaxRuntimeError: the library failed; the text names the call and the sizes.

    Example:
        >>> import scipy.sparse as sp
        >>> A = sp.diags_array([-1.0, 4.0, -1.0], offsets=[-1, 0, 1], shape=(5, 5)).tocsr()
        >>> plan = nvs.direct_solver.plan(A)
        >>> factor = nvs.direct_solver.factorize(plan, A.data)
        >>> int(factor.info.status)
        0

    Source: cudssExecute with CUDSS_PHASE_FACTORIZATION; pardiso, phase 22; SciPy's splu.
    """
    require(plan, values=values)
    ordered, ticket, words = jitted(plan, _factorized)(values)
    return Factor(plan, ordered, ticket, words)


def solve(factor: Factor, b: Any, *, transpose: Transpose = "none") -> Any:
    """Solve with a factorization that is there, or make it again from the factor's values.

    Args:
        factor: from `factorize` or `factorize_solve`.
        b: dtype [n], or [n, k] with any k.
        transpose: "none", A x = b; "transpose", Aᵀ x = b; "adjoint", Aᴴ x = b.

    Returns:
        X, dtype and shape of b. NaN where the factorization's status is 2 or more.

    Raises:
        OperandError: b of another length, dtype or place.
        UnsupportedError: a transposed solve where a COLAMD reordering excludes it.
        JaxRuntimeError: the library failed, or the factorization is gone and the plan says
            `on_stale="raise"`.

    Example:
        >>> import scipy.sparse as sp
        >>> A = sp.diags_array([-1.0, 4.0, -1.0], offsets=[-1, 0, 1], shape=(5, 5)).tocsr()
        >>> factor = nvs.direct_solver.factorize(nvs.direct_solver.plan(A), A.data)
        >>> x = nvs.direct_solver.solve(factor, A.T @ np.ones(5), transpose="transpose")
        >>> bool(np.allclose(x, 1))
        True

    Source: cudssExecute with CUDSS_PHASE_SOLVE and CUDSS_CONFIG_SOLVE_MODE; pardiso, phase 33;
    SciPy's SuperLU.solve.
    """
    _require_factor("solve", factor)
    choice("transpose", transpose, Transpose)
    plan = factor.plan
    require(plan, b=b)
    solved = jitted(plan, _solved, transpose=transpose)
    return returned(plan, lambda b: solved(factor.values, factor.ticket, b), b)


def factorize_solve(
    plan: SolverPlan, values: Any, b: Any, *, transpose: Transpose = "none"
) -> tuple[Any, Factor]:
    """Factorize and solve in one call.

    Args:
        plan: from `plan`.
        values: dtype [nnz], in the order of A's own.
        b: dtype [n], or [n, k] with any k.
        transpose: as in `solve`.

    Returns:
        (x, factor). `plan(values, b)` is x alone, in a call that needs not wait for the device.

    Raises:
        OperandError, UnsupportedError, JaxRuntimeError: as `factorize` and `solve`.

    Example:
        >>> import scipy.sparse as sp
        >>> A = sp.diags_array([-1.0, 4.0, -1.0], offsets=[-1, 0, 1], shape=(5, 5)).tocsr()
        >>> plan = nvs.direct_solver.plan(A)
        >>> x, factor = nvs.direct_solver.factorize_solve(plan, A.data, A @ np.ones(5))
        >>> bool(np.allclose(x, 1))
        True

    Source: as `factorize` and `solve`.
    """
    choice("transpose", transpose, Transpose)
    require(plan, values=values, b=b)
    kept: list[Any] = []

    def run(values: Any, b: Any) -> Any:
        x, *rest = jitted(plan, _both, transpose=transpose)(values, b)
        kept.extend(rest)
        return x

    x = returned(plan, run, values, b)
    return x, Factor(plan, *kept)


def diagonal(factor: Factor) -> Any:
    """Return the pivots of a factorization.

    Args:
        factor: from `factorize` or `factorize_solve`.

    Returns:
        dtype [n], of U, or of D for symmetric and hermitian matrices, in the engine's own order.
        Not differentiable.

    Raises:
        JaxRuntimeError: the library failed, or has none for this plan.

    Example:
        >>> import scipy.sparse as sp
        >>> A = sp.diags_array([1.0, 2.0, 4.0]).tocsr()
        >>> factor = nvs.direct_solver.factorize(nvs.direct_solver.plan(A), A.data)
        >>> float(np.prod(np.abs(nvs.direct_solver.diagonal(factor))))
        8.0

    Source: cudssDataGet with CUDSS_DATA_DIAG; pardiso_getdiag; SciPy's SuperLU.U.
    """
    _require_factor("diagonal", factor)
    require(factor.plan)
    pivots = jitted(factor.plan, _pivots)
    return returned(factor.plan, lambda: pivots(factor.values, factor.ticket))


# What runs, of a plan's spec, choices and leaves


def _factorized(spec: SolverSpec, choices: Any, leaves: Leaves, values: Any) -> Any:
    ordered = edge.in_order(leaves, values)
    ticket, words = primitive.factorize(spec, leaves, ordered[None], choices)
    return ordered, ticket[0], words[0]


def _solved(
    spec: SolverSpec,
    choices: Any,
    leaves: Leaves,
    ordered: Any,
    ticket: Any,
    b: Any,
    transpose: Transpose,
) -> Any:
    transposed, conjugate = _way(spec, choices, transpose)

    def run(columns: Any) -> Any:
        values, named = ordered[None], ticket[None]
        return primitive.solve(spec, leaves, values, named, columns, choices, transposed)

    return edge.through(run, b, conjugate)


def _both(
    spec: SolverSpec, choices: Any, leaves: Leaves, values: Any, b: Any, transpose: Transpose
) -> Any:
    transposed, conjugate = _way(spec, choices, transpose)
    ordered, kept = edge.in_order(leaves, values), []

    def run(columns: Any) -> Any:
        x, *rest = primitive.factorize_solve(
            spec, leaves, ordered[None], columns, choices, transposed
        )
        kept.extend(rest)
        return x

    x = edge.through(run, b, conjugate)
    ticket, words = kept
    return x, ordered, ticket[0], words[0]


def _pivots(spec: SolverSpec, choices: Any, leaves: Leaves, ordered: Any, ticket: Any) -> Any:
    return primitive.diagonal(spec, leaves, ordered[None], ticket[None], choices)[0]


def _way(spec: SolverSpec, choices: Any, transpose: Transpose) -> tuple[bool, bool]:
    transposed, conjugate = edge.way(spec, transpose)
    if transposed:
        support.require_transpose(spec, choices, transpose)
    return transposed, conjugate


# Operands, and what comes back


def require(plan: Any, **given: Any) -> None:
    """Refuse operands that are not the plan's, and note in the open scopes that it will run."""
    if not isinstance(plan, SolverPlan):
        raise operand_error(
            "a plan comes first",
            "a SolverPlan, from `plan(A)`",
            aval.named(plan),
            "Plan first: `factorize(plan(A), A.data)`.",
        )
    for name, x in given.items():
        if name == "values":
            operands.require_values(plan.spec.nnz, plan.spec.dtype, x)
        else:
            operands.require_b(plan.spec.n, plan.spec.dtype, x, name)  # `x` is like `b`
        core_operands.alone(plan, plan.places["values" if name == "values" else "b"], x)
    plan.require_leaves()
    dtypes.require(plan.where, plan.spec.dtype)
    scopes.enter(plan.static[1])


def _require_factor(name: str, factor: Any) -> None:
    if not isinstance(factor, Factor):
        raise operand_error(
            f"`{name}` takes a factor",
            "a Factor, from `factorize(plan, values)`",
            aval.named(factor),
            "Factorize first: `factorize(plan, values)`.",
        )
    ticket = aval.type_of(factor.ticket)
    if ticket == OperandType((WORDS,), "uint32"):
        return
    if ticket.dtype == "uint32":
        raise operand_error(
            f"`{name}` takes one factor",
            f"`factor.ticket` uint32[{WORDS}]",
            f"{ticket}: a batch, as what comes out of `vmap`",
            f"Map it: `jax.vmap(nvs.direct_solver.{name})(factors, …)`, or index it: "
            "`jax.tree.map(lambda x: x[i], factors)`.",
        )
    raise operand_error(
        "this factor was computed with",
        f"`factor.ticket` uint32[{WORDS}]",
        str(ticket),
        "Compute with its values alone: `dataclasses.replace(factor, values=values)`.",
    )


def returned(plan: SolverPlan, run: Any, *arrays: Any) -> Any:
    """What `run` makes of arrays: of a plan of NumPy's, NumPy's arrays."""
    traced = any(map(aval.is_traced, (*arrays, *plan.leaves)))
    if plan.placement is None or plan.placement.package != "numpy" or traced:
        found = run(*arrays)
    else:
        device = placement.device(plan.where, plan.placement)
        found = host.through(lambda values, _: run(*values), device, arrays)
    if not traced:
        misses.look(plan.spec, plan.choices)
    scopes.trim()
    return found
