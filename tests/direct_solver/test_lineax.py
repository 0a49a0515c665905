"""Our solver by lineax's conventions, against lineax's own LU of the dense matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

import nvstate as nvs
from tests.direct_solver import engines, matrices, oracle

lx = pytest.importorskip("lineax")
eqx = pytest.importorskip("equinox")
adapter = pytest.importorskip("nvstate.direct_solver.lineax")

solver = engines.solver
DirectSolver, SparseLinearOperator = adapter.DirectSolver, adapter.SparseLinearOperator
N = 12
ROWS = [
    ("general", "full", "float64", "csr"),
    ("general", "full", "complex128", "csc"),
    ("symmetric", "upper", "complex128", "coo"),
    ("hermitian", "lower", "complex128", "csc"),
    ("spd", "lower", "float64", "csr"),
    ("hpd", "full", "complex128", "csr"),
]
ids = ["-".join(row) for row in ROWS]


def made(engine, matrix_type="general", view="full", dtype="float64", storage="csr"):
    """An operator, and the dense matrix that it is."""
    whole = matrices.of_type(matrix_type, dtype, n=N)
    a = engines.formats(matrices.seen(whole, view), engine)[storage]
    plan = engine.plan(a, matrix_type=matrix_type, view=view)
    return SparseLinearOperator(plan, plan.values_of(a)), whole.toarray()


def vector(engine, dtype="float64", seed=2):
    return engine.put(oracle.random(np.random.default_rng(seed), (N,), dtype))


@pytest.mark.thinned
@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_the_operator_is_the_matrix(engine, row):
    operator, dense = made(engine, *row)
    x = vector(engine, row[2])
    for op, want in (
        (operator, dense),
        (operator.T, dense.T),
        (operator.T.T, dense),
        (lx.conj(operator), dense.conj()),
        (lx.conj(operator).T, dense.conj().T),
        (lx.linearise(operator), dense),
        (lx.materialise(operator), dense),
    ):
        np.testing.assert_allclose(op.as_matrix(), want, rtol=1e-14, atol=1e-15)
        np.testing.assert_allclose(op.mv(x), want @ np.asarray(x), rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(lx.diagonal(op), np.diag(want), atol=1e-15)
        for got, offset in zip(lx.tridiagonal(op), (0, -1, 1), strict=True):
            np.testing.assert_allclose(got, np.diag(want, offset), atol=1e-15)
        assert op.in_structure() == jax.ShapeDtypeStruct((N,), row[2])
    assert lx.is_symmetric(operator) == (row[0] in ("symmetric", "spd"))
    assert lx.is_positive_semidefinite(operator) == (row[0] in ("spd", "hpd"))
    for check in (lx.is_diagonal, lx.is_tridiagonal, lx.is_lower_triangular):
        assert not check(operator)


@pytest.mark.thinned
@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_linear_solve_of_all_four(engine, row):
    """A, its transpose, its conjugate and both, by states made of each other and anew."""
    operator, dense = made(engine, *row)
    b = vector(engine, row[2])
    direct = DirectSolver()
    state = direct.init(operator, {})
    turned, _ = direct.transpose(state, {})
    conj, _ = direct.conj(state, {})
    adjoint, _ = direct.transpose(conj, {})
    other, _ = direct.conj(turned, {})
    for op, kept, want in (
        (operator, state, dense),
        (operator.T, turned, dense.T),
        (lx.conj(operator), conj, dense.conj()),
        (lx.conj(operator).T, adjoint, dense.conj().T),
        (lx.conj(operator.T), other, dense.conj().T),
    ):
        x = np.linalg.solve(want, np.asarray(b))
        for solution in (
            lx.linear_solve(op, b, direct),
            lx.linear_solve(op, b, direct, state=kept),
        ):
            assert oracle.forward(solution.value, x) <= 1e-12
            assert (solution.result == lx.RESULTS.successful).item()


def test_a_state_is_used_again(engine):
    operator, dense = made(engine)
    direct = DirectSolver()
    state = jax.block_until_ready(direct.init(operator, {}))
    with engines.counted() as counts:
        for seed in range(3):
            b = vector(engine, seed=seed)
            x = lx.linear_solve(operator, b, direct, state=state).value
            assert oracle.forward(x, np.linalg.solve(dense, np.asarray(b))) <= 1e-12
        transposed, _ = direct.transpose(state, {})
        jax.block_until_ready(lx.linear_solve(operator.T, b, direct, state=transposed).value)
    assert (counts["factorizations"], counts["factor_misses"]) == (0, 0)
    assert counts["solves"] == 4


def test_derivatives_are_those_of_lineaxs_lu(engine):
    operator, _ = made(engine)
    plan, b = operator.plan, vector(engine)
    rows, columns = plan.leaves.rows, plan.leaves.indices
    values = operator.values

    def ours(values, b):
        return lx.linear_solve(SparseLinearOperator(plan, values), b, DirectSolver()).value

    def theirs(values, b):
        a = jnp.zeros((N, N), values.dtype).at[rows, columns].set(values)
        return lx.linear_solve(lx.MatrixLinearOperator(a), b, lx.LU()).value

    tangents = (vector(engine, seed=5)[jnp.arange(values.size) % N], vector(engine, seed=6))
    x, dx = jax.jvp(ours, (values, b), tangents)
    y, dy = jax.jvp(theirs, (values, b), tangents)
    np.testing.assert_allclose(x, y, rtol=1e-12)
    np.testing.assert_allclose(dx, dy, rtol=1e-11)
    for argnums in (0, 1):
        got = jax.grad(lambda *o: (ours(*o) ** 2).sum(), argnums)(values, b)
        want = jax.grad(lambda *o: (theirs(*o) ** 2).sum(), argnums)(values, b)
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)
    loss = lambda f: lambda v: (f(v, b) ** 2).sum()  # noqa: E731
    direction = tangents[0]
    got = jax.jvp(jax.grad(loss(ours)), (values,), (direction,))[1]
    want = jax.jvp(jax.grad(loss(theirs)), (values,), (direction,))[1]
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-11)


def test_a_gradient_factorizes_once(engine):
    operator, _ = made(engine)
    plan, b = operator.plan, vector(engine)

    @jax.jit
    def gradient(values, b):
        def loss(values, b):
            op = SparseLinearOperator(plan, values)
            return (lx.linear_solve(op, b, DirectSolver(), throw=False).value ** 2).sum()

        return jax.grad(loss, argnums=(0, 1))(values, b)

    jax.block_until_ready(gradient(operator.values, b))
    with engines.counted() as counts:
        jax.block_until_ready(gradient(operator.values, b))
    assert (counts["factorizations"], counts["factor_misses"]) == (1, 0)
    assert counts["solves"] == 2


def test_vmap(engine):
    operator, dense = made(engine)
    plan, values = operator.plan, operator.values
    bs = jnp.stack([vector(engine, seed=s) for s in range(3)])
    direct = DirectSolver()
    state = direct.init(operator, {})
    xs = jax.vmap(lambda b: lx.linear_solve(operator, b, direct, state=state).value)(bs)
    for b, x in zip(np.asarray(bs), np.asarray(xs), strict=True):
        assert oracle.forward(x, np.linalg.solve(dense, b)) <= 1e-12
    many = jnp.stack([values, 2 * values, -values])
    run = lambda v, b: lx.linear_solve(SparseLinearOperator(plan, v), b, direct).value  # noqa: E731
    gradient = jax.vmap(jax.grad(lambda v, b: run(v, b).sum()))
    for scale, b, x in zip((1, 2, -1), np.asarray(bs), jax.vmap(run)(many, bs), strict=True):
        assert oracle.forward(x, np.linalg.solve(scale * dense, b)) <= 1e-12
    for v, b, got in zip(many, bs, gradient(many, bs), strict=True):
        want = jax.grad(lambda v, b=b: run(v, b).sum())(v)
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-13)
    operators = eqx.filter_vmap(lambda v: SparseLinearOperator(plan, v))(many)
    assert operators.values.shape == (3, values.size)


@pytest.mark.parametrize("trouble", ["singular", "indefinite", "not finite"])
def test_trouble_is_a_result(engine, trouble):
    matrix_type = "spd" if trouble == "indefinite" else "general"
    operator, _ = made(engine, matrix_type)
    factor = {"singular": 0.0, "indefinite": -1.0, "not finite": np.nan}[trouble]
    bad = SparseLinearOperator(operator.plan, operator.values * factor)
    b = vector(engine)
    solution = lx.linear_solve(bad, b, DirectSolver(), throw=False)
    wanted = lx.RESULTS.nonfinite_input if trouble == "not finite" else lx.RESULTS.singular
    assert (solution.result == wanted).item()
    assert np.isnan(np.asarray(solution.value)).all()
    status = {"singular": 2, "indefinite": 3, "not finite": 4}[trouble]
    assert int(solution.stats["status"]) == status
    with pytest.raises(eqx.EquinoxRuntimeError):
        jax.block_until_ready(lx.linear_solve(bad, b, DirectSolver()).value)


def test_tags_may_be_around_it(engine):
    operator, dense = made(engine, "spd")
    b = vector(engine)
    tagged = lx.TaggedLinearOperator(operator, lx.positive_semidefinite_tag)
    x = lx.linear_solve(tagged, b, DirectSolver()).value
    assert oracle.forward(x, np.linalg.solve(dense, np.asarray(b))) <= 1e-12


def test_iterative_solvers_take_the_operator(engine):
    operator, dense = made(engine, "spd")
    b = vector(engine)
    x = lx.linear_solve(operator, b, lx.CG(rtol=1e-12, atol=1e-12)).value
    assert oracle.forward(x, np.linalg.solve(dense, np.asarray(b))) <= 1e-9


def test_refusals():
    a = matrices.poisson(3, 3)
    with pytest.raises(nvs.errors.SpecError, match=r"jax\.numpy\.asarray\(A\.data\)"):
        SparseLinearOperator(solver.plan(sp.csr_array(a)), a.data)
    plan = solver.plan((a.indptr, a.indices, jnp.asarray(a.data)))
    with pytest.raises(nvs.errors.OperandError, match="values_of"):
        SparseLinearOperator(plan, jnp.ones(3))
    dense = lx.MatrixLinearOperator(jnp.eye(9))
    with pytest.raises(nvs.errors.SpecError, match=r"SparseLinearOperator\(plan, values\)"):
        lx.linear_solve(dense, jnp.ones(9), DirectSolver())
    operator = SparseLinearOperator(plan, jnp.asarray(a.data))
    with pytest.raises(ValueError, match="structures do not match"):
        lx.linear_solve(operator, jnp.ones(4), DirectSolver())
