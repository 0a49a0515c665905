"""Values and right-hand sides against their plan: each refusal in its words."""

from __future__ import annotations

from typing import Any

import scipy.sparse
from jax.experimental import sparse as jax_sparse

from nvstate._core import aval
from nvstate.direct_solver.arguments import operand_error


def require_values(nnz: int, dtype: str, values: Any, before: int = 0) -> None:
    """Refuse values of another length or dtype than the plan's.

    Args:
        nnz: entries of A.
        dtype: of A.
        values: an array or a tracer.
        before: batch axes in front.
    """
    if isinstance(values, jax_sparse.JAXSparse) or scipy.sparse.issparse(values):
        raise operand_error(
            "a matrix in the place of its values",
            f"{dtype}[{nnz}], in the order of A's own",
            aval.named(values),
            "Pass `plan.values_of(A)`, which compares the pattern too, or `A.data`.",
        )
    if not aval.is_array(values):
        return  # which the core says
    got = aval.type_of(values)
    if got.shape[before:] != (nnz,) or len(got.shape) != before + 1:
        raise operand_error(
            "operand `values` does not match its plan",
            f"{dtype}[{nnz}], in the order of A's own",
            str(got),
            "Pass `plan.values_of(A)`, which compares the pattern too, or plan again for another "
            "pattern.",
        )
    _same_dtype("values", dtype, got)


def require_b(n: int, dtype: str, b: Any, name: str = "b") -> None:
    """Refuse a right-hand side, or a solution, that is neither [n] nor [n, k] of A's dtype."""
    if not aval.is_array(b):
        return
    got = aval.type_of(b)
    if len(got.shape) not in (1, 2) or got.shape[0] != n:
        turned = len(got.shape) == 2 and got.shape[1] == n
        raise operand_error(
            f"operand `{name}` does not match its plan",
            f"{dtype}[{n}] or {dtype}[{n},k]",
            str(got),
            f"Pass `{name}.T`: right-hand sides are columns."
            if turned
            else "Pass right-hand sides as columns; use `jax.vmap` over further axes.",
        )
    _same_dtype(name, dtype, got)


def _same_dtype(name: str, dtype: str, got: aval.OperandType) -> None:
    if got.dtype != dtype:
        raise operand_error(
            f"operand `{name}` does not match its plan",
            f"{dtype}, as A",
            str(got),
            f'Convert it with `{name}.astype("{dtype}")`, or plan from values of {got.dtype}.',
        )
