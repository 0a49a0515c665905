"""A sparse matrix as an operator of lineax, and a solver of lineax for it."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx

from nvstate.direct_solver import edge, operands, product
from nvstate.direct_solver.arguments import Transpose, error
from nvstate.direct_solver.factor import Factor
from nvstate.direct_solver.functions import factorize, solve
from nvstate.direct_solver.plan import SolverPlan

__all__ = ["DirectSolver", "SparseLinearOperator"]


class SparseLinearOperator(lx.AbstractLinearOperator):
    """A square sparse matrix on a planned pattern.

    Symmetric for lineax if the plan's matrix type is "symmetric" or "spd", positive semidefinite if
    it is "spd" or "hpd".

    Args:
        plan: from `nvstate.direct_solver.plan`, with JAX's arrays or a `jax.ShapeDtypeStruct` for
            the values.
        values: dtype [nnz], in the order of the matrix's own: `plan.values_of(A)`.

    Raises:
        OperandError: values of another length or dtype.
        SpecError: a plan for NumPy's arrays.

    Example:
        >>> import lineax as lx
        >>> from nvstate.direct_solver.lineax import DirectSolver, SparseLinearOperator
        >>> values = jnp.ones(3, "float32")
        >>> plan = nvs.direct_solver.plan((np.arange(4), np.arange(3), values))
        >>> operator = SparseLinearOperator(plan, 2 * values)
        >>> lx.linear_solve(operator, values, DirectSolver()).value
        Array([0.5, 0.5, 0.5], dtype=float32)

    Source: gathers and sums of XLA's.
    """

    plan: SolverPlan
    values: jax.Array
    transposed: bool = eqx.field(static=True)

    def __init__(self, plan: SolverPlan, values: Any, *, transposed: bool = False) -> None:
        if plan.placement is not None and plan.placement.package == "numpy":
            raise error(
                "a linear operator takes a plan for JAX's arrays",
                "a plan of a jax.Array, or of a jax.ShapeDtypeStruct",
                "a plan for NumPy's arrays",
                "Plan from a matrix whose values are `jax.numpy.asarray(A.data)`.",
            )
        operands.require_values(plan.spec.nnz, plan.spec.dtype, values)
        self.plan, self.values, self.transposed = plan, values, transposed

    def mv(self, vector: Any) -> Any:
        """A x, or Aᵀ x."""
        return self._times(vector[None, None])[0, 0]

    def as_matrix(self) -> Any:
        """The dense matrix [n, n]."""
        return self._times(jnp.eye(self.plan.spec.n, dtype=self.values.dtype)[None])[0].T

    def transpose(self) -> Any:
        """Aᵀ, of the same values."""
        return SparseLinearOperator(self.plan, self.values, transposed=not self.transposed)

    def in_structure(self) -> Any:
        """Dtype [n]."""
        return jax.ShapeDtypeStruct((self.plan.spec.n,), self.values.dtype)

    def out_structure(self) -> Any:
        """Dtype [n]."""
        return self.in_structure()

    def _times(self, columns: Any) -> Any:
        spec, leaves = self.plan.spec, self.plan.leaves
        stored = edge.in_order(leaves, self.values)[None]
        transposed = self.transposed != (spec.storage == "csc")
        return product.product(
            spec, leaves.rows, leaves.indices, stored, columns, transposed=transposed
        )


class State(eqx.Module):
    """What `DirectSolver` keeps: a factorization, and of which of four matrices it solves."""

    factor: Factor
    transposed: bool = eqx.field(static=True)
    conjugated: bool = eqx.field(static=True)


class DirectSolver(lx.AbstractLinearSolver[State]):
    """Factorize and solve by the engine of the operator's plan, a solver for `lineax.linear_solve`.

    It takes a `SparseLinearOperator`, also one in a `lineax.TaggedLinearOperator`. Its state holds
    the factorization, which serves derivatives, transposes and conjugates too. `result` is
    `RESULTS.singular` for the statuses breakdown and not definite, `RESULTS.nonfinite_input` for
    not finite; `stats` are the fields of `Factor.info`.

    Example:
        >>> import lineax as lx
        >>> from nvstate.direct_solver.lineax import DirectSolver, SparseLinearOperator
        >>> values = jnp.ones(3, "float32")
        >>> plan = nvs.direct_solver.plan((np.arange(4), np.arange(3), values))
        >>> operator = SparseLinearOperator(plan, 2 * values)
        >>> state = DirectSolver().init(operator, {})
        >>> lx.linear_solve(operator, values, DirectSolver(), state=state).value
        Array([0.5, 0.5, 0.5], dtype=float32)

    Source: as `nvstate.direct_solver.factorize` and `nvstate.direct_solver.solve`.
    """

    def init(self, operator: Any, options: dict[str, Any]) -> State:
        """Factorize."""
        del options
        while isinstance(operator, lx.TaggedLinearOperator):
            operator = operator.operator
        if not isinstance(operator, SparseLinearOperator):
            raise error(
                "`DirectSolver` takes a sparse operator",
                "a SparseLinearOperator, tagged or not",
                type(operator).__name__,
                "Plan the pattern and wrap its values: `SparseLinearOperator(plan, values)`.",
            )
        factor = factorize(operator.plan, operator.values)
        return State(factor, operator.transposed, conjugated=False)

    def compute(
        self, state: State, vector: Any, options: dict[str, Any]
    ) -> tuple[Any, lx.RESULTS, dict[str, Any]]:
        """Solve with what `init` made."""
        del options
        turned = state.conjugated and not state.transposed  # conj(A) x = b is A conj(x) = conj(b)
        way = _WAYS[state.transposed, state.conjugated]
        x = solve(state.factor, jnp.conj(vector) if turned else vector, transpose=way)
        info = state.factor.info
        result = lx.RESULTS.where(info.status >= 2, lx.RESULTS.singular, lx.RESULTS.successful)
        result = lx.RESULTS.where(info.status == 4, lx.RESULTS.nonfinite_input, result)
        return jnp.conj(x) if turned else x, result, info._asdict()

    def transpose(self, state: State, options: dict[str, Any]) -> tuple[State, dict[str, Any]]:
        """The state of Aᵀ."""
        return State(state.factor, not state.transposed, state.conjugated), options

    def conj(self, state: State, options: dict[str, Any]) -> tuple[State, dict[str, Any]]:
        """The state of the conjugate."""
        return State(state.factor, state.transposed, not state.conjugated), options

    def assume_full_rank(self) -> bool:
        """Yes."""
        return True


_WAYS: dict[tuple[bool, bool], Transpose] = {
    (False, False): "none",
    (False, True): "none",
    (True, False): "transpose",
    (True, True): "adjoint",
}


# What lineax asks of operators


def _band(operator: SparseLinearOperator, offset: int) -> Any:
    """The entries whose column is so many places behind their row [n - |offset|]."""
    spec, leaves = operator.plan.spec, operator.plan.leaves
    rows, columns = leaves.rows, leaves.indices
    if operator.transposed != (spec.storage == "csc"):
        rows, columns = columns, rows
    values = edge.in_order(leaves, operator.values)
    band = jnp.zeros(spec.n - abs(offset), values.dtype)
    band = band.at[jnp.minimum(rows, columns)].add(
        jnp.where(columns - rows == offset, values, 0), mode="drop"
    )
    if spec.stored_view == "full":
        return band
    hermitian = spec.matrix_type in ("hermitian", "hpd")
    if offset == 0:
        return jnp.real(band).astype(band.dtype) if hermitian else band
    across = jnp.where(rows - columns == offset, jnp.conj(values) if hermitian else values, 0)
    return band.at[jnp.minimum(rows, columns)].add(across, mode="drop")


@lx.linearise.register(SparseLinearOperator)
@lx.materialise.register(SparseLinearOperator)
def _same(operator: SparseLinearOperator) -> SparseLinearOperator:
    return operator


@lx.conj.register(SparseLinearOperator)
def _conj(operator: SparseLinearOperator) -> SparseLinearOperator:
    return SparseLinearOperator(
        operator.plan, jnp.conj(operator.values), transposed=operator.transposed
    )


@lx.diagonal.register(SparseLinearOperator)
def _diagonal(operator: SparseLinearOperator) -> Any:
    return _band(operator, 0)


@lx.tridiagonal.register(SparseLinearOperator)
def _tridiagonal(operator: SparseLinearOperator) -> Any:
    return _band(operator, 0), _band(operator, -1), _band(operator, 1)


@lx.is_symmetric.register(SparseLinearOperator)
def _is_symmetric(operator: SparseLinearOperator) -> bool:
    return operator.plan.spec.matrix_type in ("symmetric", "spd")


@lx.is_positive_semidefinite.register(SparseLinearOperator)
def _is_positive(operator: SparseLinearOperator) -> bool:
    return operator.plan.spec.matrix_type in ("spd", "hpd")


def _is_not(operator: SparseLinearOperator) -> bool:
    del operator
    return False


for _check in (
    lx.is_diagonal,
    lx.is_tridiagonal,
    lx.has_unit_diagonal,
    lx.is_lower_triangular,
    lx.is_upper_triangular,
    lx.is_negative_semidefinite,
):
    _check.register(SparseLinearOperator)(_is_not)
