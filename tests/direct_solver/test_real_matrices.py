"""Matrices out of real problems, against SciPy; a package that has them may be missing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

from tests.direct_solver import engines, matrices, oracle

solver = engines.solver


def require_right(engine, a, matrix_type):
    """Solve with the matrix and its transposes as this type, and with its triangle."""
    b = oracle.random(np.random.default_rng(2), (a.shape[0], 2), str(a.dtype))
    wants = {t: oracle.superlu(a, b, t) for t in ("none", "adjoint")}
    cond = np.linalg.cond(a.toarray()) if a.shape[0] <= 700 else None
    views = {"general": ["full"]}.get(matrix_type, ["full", "lower", "upper"])
    for view in views:
        factor = engine.factored(matrices.seen(a, view), matrix_type=matrix_type, view=view)
        assert engines.status(factor) <= 1
        for transpose, want in wants.items():
            x = solver.solve(factor, engine.put(b), transpose=transpose)
            assert oracle.backward(a, x, b, transpose) <= 50 * 2.0**-52
            if cond is not None:
                assert oracle.forward(x, want) <= 10 * cond * 2.0**-52


@pytest.mark.thinned
@pytest.mark.parametrize("declared", ["general", "as it is"])
@pytest.mark.parametrize("name", matrices.PYAMG)
def test_finite_elements(engine, name, declared):
    known = matrices.PYAMG[name]
    if declared != "general" and known == "general":
        pytest.skip("it is general")
    a = matrices.pyamg(name)
    if declared == "general":
        require_right(engine, a, "general")
    else:
        require_right(engine, matrices.tidy((a + a.T) / 2), known)  # one is so but for rounding


@pytest.mark.parametrize("name", matrices.DEBIAN)
def test_classics(engine, name):
    require_right(engine, matrices.debian(name), matrices.DEBIAN[name])


@pytest.mark.parametrize("name", matrices.CASES)
def test_admittances(engine, name):
    require_right(engine, matrices.admittance(name), "symmetric")


@pytest.mark.parametrize("name", matrices.CASES)
def test_power_flow_in_one_program(engine, name):
    """Newton's Jacobians: one plan, one analysis, a factorization for each."""
    jacobians = matrices.power_flow(name)
    rights = oracle.random(np.random.default_rng(3), (4, jacobians[0].shape[0]), "float64")
    plan = engine.plan(jacobians[0])

    @jax.jit
    def run(plan, values, rights):
        def step(carry, operands):
            values, b = operands
            factor = solver.factorize(plan, values)
            return carry, (solver.solve(factor, b), factor.info.status)

        return jax.lax.scan(step, 0, (values, rights))[1]

    values = engine.put(np.stack([plan.values_of(j) for j in jacobians]))
    with engines.counted() as counts:
        xs, statuses = jax.block_until_ready(run(plan, values, engine.put(rights)))
    assert int(jnp.max(statuses)) <= 1
    for a, x, b in zip(jacobians, xs, rights, strict=True):
        oracle.require_solution(a, x, b)
        bound = 10 * np.linalg.cond(a.toarray()) * 2.0**-52
        assert oracle.forward(x, oracle.superlu(a, b)) <= bound
    assert counts["factorizations"] == len(jacobians)
    assert counts["factor_misses"] == 0
    assert counts["analyses"] <= (0 if engine.name == "pardiso" else 1)


def test_a_sequence_as_a_batch(engine):
    """The same, all members at once."""
    jacobians = matrices.power_flow("case57")
    plan = engine.plan(jacobians[0])
    values = engine.put(np.stack([plan.values_of(j) for j in jacobians]))
    b = oracle.random(np.random.default_rng(3), (jacobians[0].shape[0], 3), "float64")
    factors = jax.vmap(lambda v: solver.factorize(plan, v))(values)
    xs = jax.vmap(lambda f: solver.solve(f, engine.put(b), transpose="transpose"))(factors)
    for a, x in zip(jacobians, xs, strict=True):
        oracle.require_solution(a, x, b, "transpose")


def test_the_reader_of_harwell_boeing_files(tmp_path):
    """Fortran's exponents, several fields to a line, right-hand sides, one triangle."""
    a = sp.csc_array(np.array([[4.0, 0, -1.5e-3], [0, 250.0, 0], [-1.5e-3, 0, 7.0]]))
    lower = sp.csc_array(sp.tril(a))
    lines = [
        f"{'A title':72s}key     ",
        f"{4:14d}{1:14d}{1:14d}{2:14d}{1:14d}",
        f"RSA           {3:14d}{3:14d}{4:14d}{0:14d}",
        f"{'(4I4)':16s}{'(6I3)':16s}{'(2D20.12)':20s}{'(2D20.12)':20s}",
        "F                          1             0",
        "".join(f"{i + 1:4d}" for i in lower.indptr),
        "".join(f"{i + 1:3d}" for i in lower.indices),
        *["".join(f"{v:20.12E}".replace("E", "D") for v in lower.data[i : i + 2]) for i in (0, 2)],
        f"{1.0:20.12E}{1.0:20.12E}",
    ]
    path = tmp_path / "small.rsa"
    path.write_text("\n".join(lines) + "\n")
    np.testing.assert_array_equal(matrices.harwell_boeing(path).toarray(), a.toarray())
