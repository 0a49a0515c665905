"""Trouble is a status and NaN, never an error and never finite garbage."""

import jax
import numpy as np
import pytest
import scipy.sparse as sp

from tests.direct_solver import engines, matrices, oracle

solver = engines.solver
OK, PERTURBED, BREAKDOWN, NOT_DEFINITE, NOT_FINITE = range(5)


def solved(engine, a, *, k=2, **options):
    """The factor of a matrix, b, and the x of both ways to it, which must agree on NaN."""
    b = oracle.random(np.random.default_rng(0), (a.shape[0], k), str(a.dtype))
    factor = engine.factored(a, **options)
    x = np.asarray(solver.solve(factor, engine.put(b)))
    other = np.asarray(factor.plan(factor.plan.values_of(engine.there(a)), engine.put(b)))
    assert np.isnan(x).all() == np.isnan(other).all()
    return factor, b, x


def require_trouble(engine, a, wanted, **options):
    """Fail unless the status is as it must be, with NaN, and good values are solved after it."""
    factor, b, x = solved(engine, a, **options)
    assert engines.status(factor) == wanted
    assert np.isnan(x).all()
    together, again = solver.factorize_solve(factor.plan, factor.values, engine.put(b))
    assert np.isnan(np.asarray(together)).all()
    assert engines.status(again) == wanted
    return factor


STRUCTURALLY = sp.csr_array(
    (np.array([1.0, 2.0, 3.0, 4.0, 5.0]), ([0, 1, 2, 2, 2], [0, 0, 0, 1, 2])), (3, 3)
)


def with_zero_row(n=30):
    a = matrices.of_type("general", "float64", n=n)
    a.data[a.indptr[7] : a.indptr[8]] = 0
    return a


def rank_less(n=25):
    """The Laplacian of a ring, whose rows add up to zero."""
    eye = sp.eye_array(n, format="csr")
    shift = sp.csr_array((np.ones(n), (np.arange(n), (np.arange(n) + 1) % n)), (n, n))
    return matrices.tidy(2 * eye - shift - shift.T)


@pytest.mark.parametrize("make", [lambda: STRUCTURALLY, with_zero_row, rank_less])
@pytest.mark.parametrize("dtype", ["float64", "complex128", "float32"])
def test_a_singular_matrix(engine, make, dtype):
    require_trouble(engine, make().astype(dtype), BREAKDOWN)


def test_a_singular_symmetric_matrix(engine):
    require_trouble(engine, rank_less(), BREAKDOWN, matrix_type="symmetric")


@pytest.mark.parametrize("matrix_type", ["general", "symmetric"])
def test_a_singular_matrix_that_has_a_backward_error_of_nothing(engine, matrix_type):
    """PARDISO says error 0 of it, and no digit of x is right."""
    a = matrices.pyamg("unit_square")
    require_trouble(engine, a, BREAKDOWN, matrix_type=matrix_type)


def test_a_weak_diagonal_with_matching(engine):
    a = matrices.weak_diagonal(500)
    factor, b, x = solved(engine, a)
    wanted = "none" if engine.name == "superlu" else "product"
    assert factor.plan.spec.matching == wanted
    assert engines.status(factor) <= PERTURBED
    oracle.require_solution(a, x, b)
    rows = np.random.default_rng(1).uniform(0.8, 1.25, a.nnz)
    other = sp.csr_array((a.data * rows, a.indices, a.indptr), a.shape)  # the matching is A's
    later = solver.factorize(factor.plan, factor.plan.values_of(engine.there(other)))
    assert engines.status(later) <= PERTURBED
    oracle.require_solution(other, solver.solve(later, engine.put(b)), b)


@pytest.mark.parametrize("n", [200, 500, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_weak_diagonal_without_matching(engine, n):
    """Either the digits are right, or it says so: PARDISO perturbs no pivot of the smaller ones."""
    a = matrices.weak_diagonal(n)
    factor, b, x = solved(engine, a, matching="none")
    status = int(engines.status(factor))
    assert status <= (PERTURBED if engine.name == "superlu" else BREAKDOWN)  # it pivots by rows
    if status == BREAKDOWN:
        assert np.isnan(x).all()
    else:
        oracle.require_solution(a, x, b)


@pytest.mark.parametrize("view", ["full", "lower", "upper"])
@pytest.mark.parametrize(("matrix_type", "kind"), [("spd", "symmetric"), ("hpd", "hermitian")])
def test_an_indefinite_matrix_that_was_called_definite(engine, matrix_type, kind, view):
    dtype = "complex128" if matrix_type == "hpd" else "float64"
    a = matrices.of_type(kind, dtype)
    assert np.linalg.eigvalsh(a.toarray()).min() < -0.1
    factor = require_trouble(
        engine, matrices.seen(a, view), NOT_DEFINITE, matrix_type=matrix_type, view=view
    )
    assert 0 <= int(factor.info.failing_pivot) < a.shape[0]
    good = matrices.of_type(matrix_type, dtype)  # of the same pattern
    assert (good.indices == a.indices).all()
    plan = factor.plan
    later = solver.factorize(plan, plan.values_of(engine.there(matrices.seen(good, view))))
    assert engines.status(later) == OK
    assert int(later.info.failing_pivot) == -1
    b = oracle.random(np.random.default_rng(0), (40,), dtype)
    oracle.require_solution(good, solver.solve(later, engine.put(b)), b)
    assert np.isnan(np.asarray(solver.solve(factor, engine.put(b)))).all()  # as it was


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("matrix_type", ["general", "symmetric", "spd"])
def test_values_that_are_not_finite(engine, matrix_type, bad):
    good = matrices.of_type(matrix_type, "float64")
    plan = engine.plan(good, matrix_type=matrix_type)
    values = good.data.copy()
    values[np.flatnonzero(good.indices == matrices.rows_of(good))[5]] = bad
    with engines.counted() as counts:
        factor = solver.factorize(plan, engine.put(values))
        assert engines.status(factor) == NOT_FINITE
    assert counts["factorizations"] == 0
    b = oracle.random(np.random.default_rng(0), (40, 2), "float64")
    assert np.isnan(np.asarray(solver.solve(factor, engine.put(b)))).all()
    assert np.isnan(np.asarray(plan(engine.put(values), engine.put(b)))).all()
    later = solver.factorize(plan, plan.values_of(engine.there(good)))
    assert engines.status(later) == OK
    oracle.require_solution(good, solver.solve(later, engine.put(b)), b)


def test_complex_values_that_are_not_finite(engine):
    good = matrices.of_type("general", "complex128")
    plan = engine.plan(good)
    for bad in (complex(0, np.nan), complex(1, np.inf)):
        values = good.data.copy()
        values[3] = bad
        factor = solver.factorize(plan, engine.put(values))
        assert engines.status(factor) == NOT_FINITE
        assert np.isnan(np.asarray(solver.solve(factor, engine.put(np.ones(40, complex))))).all()


def bad_member(matrix_type, trouble):
    """Values of one pattern, of which those of the second member are in trouble."""
    members = [matrices.of_type(matrix_type, "float64", seed=s) for s in (0, 0, 0, 0)]
    rng = np.random.default_rng(2)
    scales = rng.uniform(0.8, 1.2, 4)
    values = np.stack([m.data * s for m, s in zip(members, scales, strict=True)])
    a, rows = members[0], matrices.rows_of(members[0])
    if trouble == NOT_FINITE:
        values[1, 11] = np.nan
    elif trouble == NOT_DEFINITE:
        values[1, rows == a.indices] *= np.where(np.arange(40) == 17, -1, 1)
    else:
        values[1, (rows == 7) | (a.indices == 7)] = 0
    return a, values


@pytest.mark.parametrize(
    ("matrix_type", "trouble"),
    [
        ("general", BREAKDOWN),
        ("general", NOT_FINITE),
        ("symmetric", BREAKDOWN),
        ("spd", NOT_DEFINITE),
        ("spd", NOT_FINITE),
    ],
)
def test_one_bad_member_of_a_batch(engine, matrix_type, trouble):
    a, values = bad_member(matrix_type, trouble)
    plan = engine.plan(a, matrix_type=matrix_type)
    b = oracle.random(np.random.default_rng(0), (40, 2), "float64")

    def both(values):
        factor = solver.factorize(plan, values)
        x, other = solver.factorize_solve(plan, values, engine.put(b))
        return factor, solver.solve(factor, engine.put(b)), x, other.info.status

    factors, xs, ys, statuses = jax.vmap(both)(engine.put(values))
    fused = jax.vmap(lambda v: plan(v, engine.put(b)))(engine.put(values))
    assert engines.status(factors).tolist() == [OK, trouble, OK, OK]
    assert np.asarray(statuses).tolist() == [OK, trouble, OK, OK]
    for results in (xs, ys, fused):
        results = np.asarray(results)
        assert np.isnan(results[1]).all()
        for i in (0, 2, 3):
            member = sp.csr_array((values[i], a.indices, a.indptr), a.shape)
            oracle.require_solution(member, results[i], b)


def test_inertia(engine):
    for matrix_type, dtype in (("symmetric", "float64"), ("hermitian", "complex128")):
        a = matrices.of_type(matrix_type, dtype)
        found = np.asarray(engine.factored(a, matrix_type=matrix_type).info.inertia).tolist()
        signs = np.linalg.eigvalsh(a.toarray()) > 0
        wanted = [int(signs.sum()), int((~signs).sum())]
        told = engine.name == "cudss" or (engine.name == "pardiso" and dtype == "float64")
        assert found == (wanted if told else [-1, -1])


def test_entries_of_the_factors(engine):
    a = matrices.poisson(12, 12)
    found = int(engine.factored(a).info.lu_nnz)
    assert found >= a.nnz


def test_the_status_is_a_value_inside_of_jit(engine):
    """Trouble may choose a branch."""
    a, values = bad_member("general", BREAKDOWN)
    plan = engine.plan(a)
    b = engine.put(np.ones(40))

    @jax.jit
    def run(plan, values):
        factor = solver.factorize(plan, values)
        return jax.lax.cond(factor.info.status >= 2, lambda: 0 * b, lambda: solver.solve(factor, b))

    assert (np.asarray(run(plan, engine.put(values[1]))) == 0).all()
    member = sp.csr_array((values[2], a.indices, a.indptr), a.shape)
    oracle.require_solution(member, run(plan, engine.put(values[2])), np.ones(40))


def test_gradients_of_trouble_are_nan_too(engine):
    a, values = bad_member("general", BREAKDOWN)
    plan = engine.plan(a)
    b = engine.put(np.ones(40))
    gradient = jax.grad(lambda v: (plan(v, b) ** 2).sum())
    assert np.isnan(np.asarray(gradient(engine.put(values[1])))).all()
    assert np.isfinite(np.asarray(gradient(engine.put(values[0])))).all()
