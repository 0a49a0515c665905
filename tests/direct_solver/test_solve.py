"""factorize, solve and their kin as eager functions: what they take, return and refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

import nvstate as nvs
from tests.direct_solver import engines, matrices, oracle

solver = engines.solver
N = 18
A = matrices.of_type("general", "float64", n=N)
RNG = np.random.default_rng(3)
B = {shape: oracle.random(RNG, shape, "float64") for shape in ((N,), (N, 1), (N, 3), (N, 0))}
TRANSPOSES = ("none", "transpose", "adjoint")


@pytest.fixture
def plan(engine):
    """A plan of arrays on the engine's device."""
    return engine.plan(A)


@pytest.mark.parametrize("shape", B)
def test_phases_and_their_sum_are_equal(engine, plan, shape):
    v, b = engine.put(A.data), engine.put(B[shape])
    factor = solver.factorize(plan, v)
    for t in TRANSPOSES:
        x = solver.solve(factor, b, transpose=t)
        y, other = solver.factorize_solve(plan, v, b, transpose=t)
        for found in (x, y):
            assert isinstance(found, jax.Array)
            assert (found.shape, found.dtype) == (shape, "float64")
            assert found.devices() == {engine.device}
            oracle.require_solution(A, found, B[shape], t)
        np.testing.assert_array_equal(other.words, factor.words)
        np.testing.assert_array_equal(other.values, factor.values)
    oracle.require_solution(A, plan(v, b), B[shape])


def test_numpys_arrays_come_back_as_numpys():
    """A plan of SciPy's arrays: x can be written to, a factor stays on the device."""
    plan = solver.plan(A)
    factor = solver.factorize(plan, A.data)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(factor))
    for b in B.values():
        kept = b.copy()
        x = solver.solve(factor, b)
        y, other = solver.factorize_solve(plan, A.data, b, transpose="transpose")
        for found, t in ((x, "none"), (y, "transpose")):
            assert type(found) is np.ndarray
            oracle.require_solution(A, found, b, t)
            found[:] = 7
        np.testing.assert_array_equal(b, kept)
        oracle.require_solution(A, solver.solve(other, b), b)
    pivots = solver.diagonal(factor)
    assert type(pivots) is np.ndarray
    assert (pivots.shape, pivots.dtype) == ((N,), "float64")


def test_values_are_the_factors_own():
    """What the caller does to its array later is not the factor's."""
    plan = solver.plan(A)
    values = A.data.copy()
    factor = solver.factorize(plan, values)
    values[:] = 0
    oracle.require_solution(A, solver.solve(factor, B[N,]), B[N,])
    np.testing.assert_array_equal(factor.values, A.data)


@pytest.mark.parametrize("order", ["C", "F", "steps"])
def test_right_hand_sides_of_any_strides(order):
    plan = solver.plan(A)
    b = np.asarray(B[N, 3], order="F" if order == "F" else "C")
    if order == "steps":
        wide = np.zeros((2 * N, 9))
        wide[::2, 1:7:2] = B[N, 3]
        b = wide[::2, 1:7:2]
    oracle.require_solution(A, solver.solve(solver.factorize(plan, A.data), b), B[N, 3])
    oracle.require_solution(A, plan(A.data, b), B[N, 3])


def test_a_matrix_of_one_row(engine):
    a = sp.csr_array(np.array([[4.0]]))
    for matrix_type in ("general", "spd"):
        factor = engine.factored(a, matrix_type=matrix_type)
        assert float(solver.solve(factor, engine.put(np.array([2.0])))[0]) == 0.5
        assert float(solver.diagonal(factor)[0]) in (4.0, 2.0, 1.0)  # of U, or of a square root


def refused(call, *lines):
    with pytest.raises(nvs.errors.OperandError) as raised:
        call()
    for line in lines:
        assert line in str(raised.value)


def test_refusals_of_right_hand_sides(plan, engine):
    factor = solver.factorize(plan, engine.put(A.data))
    for run in (
        lambda b: solver.solve(factor, b),
        lambda b: solver.factorize_solve(plan, engine.put(A.data), b),
        lambda b: jax.jit(solver.solve)(factor, b),
    ):
        refused(lambda run=run: run(jnp.ones((3, N))), "Pass `b.T`", f"float64[3,{N}]")
        refused(lambda run=run: run(jnp.ones(N + 1)), f"float64[{N}]", f"float64[{N + 1}]")
        refused(lambda run=run: run(jnp.ones((N, 2, 2))), "jax.vmap")
        refused(lambda run=run: run(jnp.ones(N, "float32")), 'b.astype("float64")')
    for bad in (np.ones(N), [1.0] * N):
        refused(lambda bad=bad: solver.solve(factor, bad), "operand `b`", "jax.numpy.asarray")


def test_refusals_of_values(plan):
    for run in (
        lambda v: solver.factorize(plan, v),
        lambda v: solver.factorize_solve(plan, v, jnp.ones(N)),
        lambda v: jax.vmap(lambda v: solver.factorize(plan, v))(v[None]),
    ):
        refused(lambda run=run: run(jnp.ones(A.nnz + 2)), "operand `values`", "values_of")
        refused(lambda run=run: run(jnp.ones(A.nnz, "float32")), "operand `values`", "float32")
    refused(lambda: solver.factorize(plan, A.data), "jax.Array", "jax.numpy.asarray")
    refused(lambda: solver.factorize(solver.plan(A), jnp.asarray(A.data)), "numpy.asarray")
    refused(lambda: solver.factorize(plan, A), "plan.values_of(A)")


def test_refusals_of_other_devices():
    here, there = jax.devices("cpu")[:2]
    a = (A.indptr, A.indices, jax.device_put(A.data, here))
    plan = solver.plan(a)
    elsewhere = jax.device_put(A.data, there)
    refused(lambda: solver.factorize(plan, elsewhere), "cpu:1", "cpu:0")
    factor = solver.factorize(plan, a[2])
    refused(lambda: solver.solve(factor, elsewhere[:N]), "cpu:1", "cpu:0")


def test_refusals_of_what_is_no_plan_and_no_factor(plan):
    refused(lambda: solver.factorize(A, A.data), "a plan comes first")
    refused(lambda: solver.solve(plan, jnp.ones(N)), "`solve` takes a factor")
    refused(lambda: solver.diagonal(plan), "`diagonal` takes a factor")
    factor = solver.factorize(solver.plan(A), A.data)
    for call in (
        lambda: solver.solve(factor, B[N,], transpose="T"),
        lambda: solver.factorize_solve(factor.plan, A.data, B[N,], transpose=True),
        lambda: solver.spsolve(A, B[N,], transpose="T"),
        lambda: solver.backward_error(factor.plan, A.data, B[N,], B[N,], transpose="H"),
    ):
        with pytest.raises(nvs.errors.SpecError, match='one of "none", "transpose", "adjoint"'):
            call()


ERRORS = [
    ("general", "full", "float64", "csr"),
    ("general", "full", "complex128", "csc"),
    ("general", "full", "float32", "coo"),
    ("symmetric", "lower", "complex64", "csr"),
    ("hermitian", "upper", "complex128", "csc"),
    ("spd", "lower", "float64", "coo"),
]


@pytest.mark.thinned
@pytest.mark.parametrize("row", ERRORS, ids=["-".join(r) for r in ERRORS])
@pytest.mark.parametrize("columns", [(), (3,)])
def test_backward_errors_are_those_of_the_whole_matrix(engine, row, columns):
    """Of anything that is called x, and not of solutions alone."""
    matrix_type, view, dtype, storage = row
    whole = matrices.of_type(matrix_type, dtype, n=N)
    a = engines.formats(matrices.seen(whole, view), engine)[storage]
    plan = engine.plan(a, matrix_type=matrix_type, view=view)
    x, b = (oracle.random(np.random.default_rng(i), (N, *columns), dtype) for i in (1, 2))
    for t in TRANSPOSES:
        found = solver.backward_error(
            plan, plan.values_of(a), engine.put(x), engine.put(b), transpose=t
        )
        assert found.shape == ()
        assert found.dtype == np.zeros(0, dtype).real.dtype
        assert np.isclose(float(found), oracle.backward(whole, x, b, t), rtol=1e-5)


def test_backward_errors_at_their_ends(engine, plan):
    v, b = engine.put(A.data), engine.put(B[N, 3])
    error = lambda x, b: float(solver.backward_error(plan, v, x, b))  # noqa: E731
    assert error(plan(v, b), b) <= 1e-15
    assert error(0 * b, b) == 1
    assert error(0 * b, 0 * b) == 0
    assert np.isnan(error(np.nan * b, b))
    assert np.isnan(error(b.at[3, 1].set(np.nan), b))
    assert error(b[:, :0], b[:, :0]) == 0
    for x in (b[:5], b[:, :2], b[:, 0], b[:, :1], b.astype("float32")):
        refused(lambda x=x: solver.backward_error(plan, v, x, b), "operand `x`")


def test_a_backward_error_says_nothing_of_singularity():
    """X of a singular matrix has one of nothing: so there is a status."""
    a = matrices.tidy(sp.csr_array(np.array([[1.0, 1.0], [1.0, 1.0]])))
    plan = solver.plan(a, matching="none")
    x = np.array([0.5, 0.5])
    assert solver.backward_error(plan, a.data, x, np.ones(2)) <= 1e-15
    assert int(solver.factorize(plan, a.data).info.status) == 2


def test_one_shots_share_a_plan(engine):
    a = engine.there(matrices.poisson(7, 6))
    b = engine.put(np.ones(42))
    first = solver.spsolve(a, b, **engine.options)
    oracle.require_solution(matrices.poisson(7, 6), first, np.ones(42))
    with engines.counted() as counts:
        for scale in (2.0, 3.0):
            other = a.copy()
            other.data = scale * a.data
            x = solver.spsolve(other, b, **engine.options)
            oracle.require_solution(scale * matrices.poisson(7, 6), x, np.ones(42))
            y = solver.spsolve(other, b, transpose="transpose", **engine.options)
            oracle.require_solution(scale * matrices.poisson(7, 6), y, np.ones(42), "transpose")
    assert counts["analyses"] == 0


def test_a_one_shot_has_a_plans_options():
    a = matrices.of_type("hermitian", "complex128", n=N)
    b = oracle.random(np.random.default_rng(0), (N, 2), "complex128")
    stored = matrices.seen(a, "lower")
    for t in TRANSPOSES:
        x = solver.spsolve(stored, b, transpose=t, matrix_type="hermitian", view="lower")
        assert type(x) is np.ndarray
        oracle.require_solution(a, x, b, t)
    with pytest.raises(nvs.errors.OperandError, match=r"`b\.T`"):
        solver.spsolve(stored, b.T, matrix_type="hermitian", view="lower")


def test_one_shots_inside_of_jit():
    """The values are tracers, the pattern is not."""
    run = jax.jit(lambda v, b: solver.spsolve((A.indptr, A.indices, v), b))
    for scale in (1.0, 2.0):
        x = run(jnp.asarray(scale * A.data), jnp.asarray(B[N,]))
        oracle.require_solution(scale * A, x, B[N,])
