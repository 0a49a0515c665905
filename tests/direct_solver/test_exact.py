"""Five unknowns whose solution is 1, 2, 3, 4, 5, in small integers."""

import numpy as np
import pytest
import scipy.sparse as sp

from tests.direct_solver import engines, matrices, oracle

solver = engines.solver
X = np.arange(1.0, 6.0)

# Rows of all five columns.
SYSTEMS = {
    "spd": [[8, 0, 2, 0, 1], [0, 4, 0, 1, 0], [2, 0, 9, 0, 0], [0, 1, 0, 5, 2], [1, 0, 0, 2, 7]],
    "symmetric": [
        [2, 0, 4, 0, 1],
        [0, -4, 0, 1, 0],
        [4, 0, 1, 0, 0],
        [0, 1, 0, -5, 2],
        [1, 0, 0, 2, 7],
    ],
    "general": [
        [4, 0, 1, 0, 0],
        [0, 3, 0, -2, 0],
        [8, 0, 5, 0, 1],
        [0, 6, 0, 1, 0],
        [1, 0, 2, 0, 6],
    ],
    "hermitian": [
        [3, 1j, 0, 0, 2],
        [-1j, -6, 2 - 1j, 0, 0],
        [0, 2 + 1j, 4, 1, 0],
        [0, 0, 1, -7, 1j],
        [2, 0, 0, -1j, 5],
    ],
    "hpd": [
        [6, 1j, 0, 0, 2],
        [-1j, 6, 2 - 1j, 0, 0],
        [0, 2 + 1j, 8, 1, 0],
        [0, 0, 1, 7, 1j],
        [2, 0, 0, -1j, 5],
    ],
}


@pytest.mark.parametrize("view", ["full", "lower", "upper"])
@pytest.mark.parametrize("matrix_type", SYSTEMS)
def test_one_to_five(engine, matrix_type, view):
    whole = sp.csr_array(np.array(SYSTEMS[matrix_type]) * 1.0)
    if matrix_type == "general" and view != "full":
        whole = matrices.seen(whole, view)  # a triangle, of which all is stored
        view = "full"
    stored = matrices.seen(whole, view)
    plan = engine.plan(stored, matrix_type=matrix_type, view=view)
    factor = solver.factorize(plan, plan.values_of(engine.there(stored)))
    assert engines.status(factor) <= 1
    for transpose in ("none", "transpose", "adjoint"):
        b = oracle.op(whole, transpose) @ X.astype(whole.dtype)
        x = np.asarray(solver.solve(factor, engine.put(b), transpose=transpose))
        # A handful of divisions: within some units in the last place.
        np.testing.assert_allclose(x, X, rtol=16 * 2.0**-52, atol=16 * 2.0**-52)
    want = solver.solve(factor, engine.put(whole @ X.astype(whole.dtype)))
    got, again = solver.factorize_solve(
        plan, factor.values, engine.put(whole @ X.astype(whole.dtype))
    )
    np.testing.assert_allclose(got, want, rtol=1e-14)
    assert engines.status(again) == engines.status(factor)
