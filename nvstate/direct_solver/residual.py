"""backward_error(): how good a solution is, from the matrix alone."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from nvstate._core import aval
from nvstate.direct_solver import edge, lowering
from nvstate.direct_solver.arguments import Transpose, choice, operand_error
from nvstate.direct_solver.functions import require, returned
from nvstate.direct_solver.phases import jitted
from nvstate.direct_solver.plan import SolverPlan
from nvstate.direct_solver.spec import Leaves, SolverSpec
from nvstate.direct_solver.way import Way


def backward_error(
    plan: SolverPlan, values: Any, x: Any, b: Any, *, transpose: Transpose = "none"
) -> Any:
    """Compute how far the matrix would have to be moved for x to solve the system exactly.

    max|b - A x| / (‖A‖∞ max|x| + max|b|), the largest of all columns. A few roundoffs are all that
    can be had: 1e-16 in float64. A singular matrix has it too, so look at `factor.info.status`.

    Args:
        plan: from `plan`.
        values: dtype [nnz], in the order of A's own.
        x: dtype [n] or [n, k].
        b: dtype [n] or [n, k], as x.
        transpose: as in `solve`.

    Returns:
        Real [], NaN if x is NaN; 0 without columns.

    Raises:
        OperandError: operands of another length, dtype or place.

    Example:
        >>> import scipy.sparse as sp
        >>> A = sp.eye_array(3, format="csr")
        >>> plan = nvs.direct_solver.plan(A)
        >>> float(nvs.direct_solver.backward_error(plan, A.data, np.ones(3), np.ones(3)))
        0.0

    Source: Rigal and Gaches, 1967.
    """
    choice("transpose", transpose, Transpose)
    require(plan, values=values, x=x, b=b)
    if x.shape != b.shape:
        expected, got = (str(aval.type_of(y)) for y in (b, x))
        do = "Pass an x for each right-hand side."
        raise operand_error("operand `x` does not match `b`", expected, got, do)
    return returned(plan, jitted(plan, _error, transpose=transpose), values, x, b)


def _error(
    spec: SolverSpec,
    choices: Any,
    leaves: Leaves,
    values: Any,
    x: Any,
    b: Any,
    transpose: Transpose,
) -> Any:
    del choices  # no engine runs
    transposed, conjugate = edge.way(spec, transpose)
    ordered = edge.in_order(leaves, values)[None]

    def columns(y: Any) -> Any:
        turned = (y[None] if y.ndim == 1 else y.T)[None]
        return jnp.conj(turned) if conjugate else turned

    way = Way(spec, transposed)
    errors = lowering.backward_error(
        way, leaves.rows, leaves.indices, ordered, columns(x), columns(b)
    )
    return errors.max(initial=0)
