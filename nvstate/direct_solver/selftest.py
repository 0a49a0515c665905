"""What `python -m nvstate` solves to see whether sparse solves work."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

from nvstate._core.selftest import Sample
from nvstate.direct_solver.functions import factorize, solve
from nvstate.direct_solver.planning import plan

BOUND = 1e-4  # of single precision, times the condition number, which is about 100


def samples() -> list[Sample]:
    """A general system, and a transposed solve with factors that are kept."""
    line = np.diag(np.full(9, 2.5)) - 1.2 * np.eye(9, k=-1) - 0.8 * np.eye(9, k=1)
    one = np.eye(9)
    matrix: Any = scipy.sparse.csr_array(
        (np.kron(line, one) + np.kron(one, line)).astype("float32")
    )
    b = np.random.default_rng(0).standard_normal((81, 2)).astype("float32")
    dense = matrix.toarray().astype("float64")

    def planned(values: Any, b: Any) -> Any:
        return plan((matrix.indptr, matrix.indices, values), b)

    def transposed(values: Any, b: Any) -> Any:
        return solve(factorize(planned(values, b), values), b, transpose="transpose")

    return [
        Sample(
            name="general float32[81,81], 2 columns",
            operands=(matrix.data, b),
            run=lambda values, b: planned(values, b)(values, b),
            oracle=lambda values, b: np.linalg.solve(dense, b.astype("float64")),
            bound=BOUND,
        ),
        Sample(
            name="general float32[81,81], transposed",
            operands=(matrix.data, b),
            run=transposed,
            oracle=lambda values, b: np.linalg.solve(dense.T, b.astype("float64")),
            bound=BOUND,
        ),
    ]
