"""The solver's conformance rows: the pattern is closed over, values and b are operands."""

import numpy as np

import nvstate as nvs
from tests.case import Case
from tests.direct_solver import matrices, oracle

BOUND = {"float32": 3e-6, "complex64": 3e-6, "float64": 1e-14, "complex128": 1e-14}


def case(
    name, dtype, *, n=8, k=None, matrix_type="general", view="full", storage="csr", superlu=False
):
    """A row: a well-conditioned system, and what NumPy makes of the dense one."""
    rows, columns = matrices.ordered(storage, *matrices.entries(n, view))

    def operand(rng):
        b = oracle.random(rng, (n,) if k is None else (n, k), dtype)
        return {"values": matrices.mild(rng, rows, columns, dtype, matrix_type), "b": b}

    def plan(values, b):
        a = matrices.in_format(storage, n, rows, columns, values)
        knobs = nvs.direct_solver.SuperLU() if superlu else None
        return nvs.direct_solver.plan(a, b, matrix_type=matrix_type, view=view, knobs=knobs)

    def wanted(values, b):
        a = np.zeros((n, n), np.promote_types(values.dtype, np.float64))
        a[rows, columns] = values
        return oracle.dense(oracle.whole(a, matrix_type, view), b)

    bound = BOUND[dtype]
    return Case(
        f"solver-{name}", operand, plan, wanted, bound, False, lambda _, xs: xs["b"], not superlu
    )


CASES = [
    case("general", "float64"),
    case("general-columns-of-a", "complex128", k=2, storage="csc"),
    case("general-unsorted", "float32", n=7, storage="coo"),
    case("general-superlu", "complex64", superlu=True),
    case("symmetric-upper", "complex128", n=9, matrix_type="symmetric", view="upper"),
    case("hermitian-columns-of-a", "complex128", matrix_type="hermitian", view="lower",
         storage="csc"),
    case("spd-upper", "float64", k=3, matrix_type="spd", view="upper"),
    case("hpd-unsorted-superlu", "complex64", matrix_type="hpd", view="lower", storage="coo",
         superlu=True),
]  # fmt: skip
