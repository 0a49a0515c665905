"""Wrong answers that others gave in silence."""

import dataclasses
import functools
import gc
import pickle
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

import nvstate as nvs
from nvstate.direct_solver import lowering
from nvstate.direct_solver.way import Way
from tests.direct_solver import engines, matrices, oracle

solver = engines.solver


def two_patterns(n=30):
    """As many entries, elsewhere."""
    ring = np.arange(n)
    made = []
    for shift in (1, 7):
        rows, columns = np.concatenate([ring, ring]), np.concatenate([ring, (ring + shift) % n])
        values = np.concatenate([np.full(n, 3.0), np.linspace(-1, 1.5, n)])
        made.append(matrices.tidy(sp.csr_array((values, (rows, columns)), (n, n))))
    assert made[0].nnz == made[1].nnz
    return made


def test_another_pattern_of_as_many_entries(engine):
    """The reset_operands of nvmath compares nnz and no more."""
    one, other = two_patterns()
    plan = engine.plan(one)
    with pytest.raises(nvs.errors.OperandError, match="row"):
        plan.values_of(engine.there(other))
    b = oracle.random(np.random.default_rng(0), 30, "float64")
    plans = [plan, engine.plan(other)]
    assert plans[0] != plans[1]
    for _ in range(2):
        for a, its in zip((one, other), plans, strict=True):
            oracle.require_solution(a, its(engine.put(a.data), engine.put(b)), b)
            x = solver.spsolve(engine.there(a), engine.put(b), **engine.options)
            oracle.require_solution(a, x, b)


def test_a_program_that_has_both(engine):
    """An analysis kept in the executable would serve the wrong one."""
    one, other = two_patterns()
    b = engine.put(np.ones(30))
    first, second = engine.plan(one), engine.plan(other)

    @jax.jit
    def run(first, second, v, w):
        return first(v, b), second(w, b), first(w, b)

    x, y, z = run(first, second, engine.put(one.data), engine.put(other.data))
    oracle.require_solution(one, x, np.ones(30))
    oracle.require_solution(other, y, np.ones(30))
    mixed = sp.csr_array((other.data, one.indices, one.indptr), one.shape)
    oracle.require_solution(mixed, z, np.ones(30))


def test_a_solve_after_new_values(engine):
    """After nvmath's reset_operands of a CPU matrix the old factors still solve."""
    a = matrices.of_type("general", "float64")
    plan = engine.plan(a)
    b = oracle.random(np.random.default_rng(0), 40, "float64")
    bound = nvs.bind(plan, values=engine.put(a.data), b=engine.put(b))
    oracle.require_solution(a, nvs.execute(bound), b)
    second = nvs.reset(bound, values=engine.put(3 * a.data))
    oracle.require_solution(3 * a, nvs.execute(second), b)
    oracle.require_solution(a, nvs.execute(bound), b)
    old = solver.factorize(plan, engine.put(a.data))
    new = solver.factorize(plan, engine.put(3 * a.data))
    for _ in range(2):
        oracle.require_solution(a, solver.solve(old, engine.put(b)), b)
        oracle.require_solution(3 * a, solver.solve(new, engine.put(b)), b)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [16, 200])
def test_random_matrices(engine, n, seed):
    """nvmath-python#56: no error and a wrong x. Here x is right, or it is NaN and says so."""
    rng = np.random.default_rng(seed)
    a = sp.random_array((n, n), density=0.1, rng=rng, format="csr")
    a = matrices.tidy(a + sp.csr_array((np.ones(n), (np.arange(n), rng.permutation(n))), (n, n)))
    b = oracle.random(rng, (n, 2), "float64")
    for dtype in ("float64", "float32"):
        given, right = a.astype(dtype), b.astype(dtype)
        factor = engine.factored(given)
        x = np.asarray(solver.solve(factor, engine.put(right)))
        if engines.status(factor) >= 2:
            assert np.isnan(x).all()
        else:
            oracle.require_solution(given, x, right)
    # In double precision it is right: matching or pivoting by rows is on by itself.
    assert engines.status(engine.factored(a)) <= 1


def test_dtypes_in_turn(engine):
    """A cuDSS handle may answer wrong after another dtype (CUDSS-1019)."""
    systems = []
    for dtype in ("float32", "complex128", "float64", "complex64"):
        a = matrices.of_type("general", dtype)
        b = oracle.random(np.random.default_rng(0), 40, dtype)
        plan = engine.plan(a)
        systems.append((a, b, solver.factorize(plan, engine.put(a.data))))
    for _ in range(3):
        for a, b, factor in systems:
            oracle.require_solution(a, solver.solve(factor, engine.put(b)), b)
            fresh = solver.factorize(factor.plan, factor.values)
            x = solver.solve(fresh, engine.put(b), transpose="adjoint")
            oracle.require_solution(a, x, b, "adjoint")


def test_refinement_reads_its_own_values(engine):
    """PARDISO refined with other values: a residual of 5e5 with error 0."""
    if engine.name == "superlu":
        options = {"refinement_steps": 2}
    else:
        options = {"refinement_steps": 2, "matching": "product"}
    a = matrices.weak_diagonal(150)
    other = a.copy()
    other.data = a.data * np.random.default_rng(3).uniform(0.2, 5, a.nnz)
    plan = engine.plan(a, factor_slots=2, **options)
    b = oracle.random(np.random.default_rng(0), (150, 2), "float64")

    def phases(values, later):
        factor = solver.factorize(plan, values)
        return factor, solver.factorize(plan, later)

    one, two = phases(engine.put(a.data), engine.put(other.data))
    for _ in range(2):
        for matrix, factor in ((a, one), (other, two)):
            oracle.require_solution(matrix, solver.solve(factor, engine.put(b)), b)


def test_donated_values(engine):
    """The buffer of a factor's values may be another array's by the time of the solve."""
    a = matrices.of_type("general", "float64")
    plan = engine.plan(a, refinement_steps=1)
    b = oracle.random(np.random.default_rng(0), 40, "float64")

    @jax.jit
    def factorize(values):
        return solver.factorize(plan, values)

    def spoiled(values):
        return values * 0 + 7

    spoil = jax.jit(spoiled, donate_argnums=0)
    factor = factorize(engine.put(a.data))
    copy = jnp.array(factor.values, copy=True)
    kept = solver.Factor(factor.plan, copy, factor.ticket, factor.words)
    spoil(factor.values).block_until_ready()
    oracle.require_solution(a, solver.solve(kept, engine.put(b)), b)


def test_x_is_no_alias_of_b(engine):
    """CUDSS.jl#81: refinement in place."""
    a = matrices.of_type("general", "float64")
    factor = engine.factored(a, refinement_steps=2)
    b = oracle.random(np.random.default_rng(0), 40, "float64")
    run = jax.jit(lambda f, b: solver.solve(f, b), donate_argnums=1)
    given = engine.put(b)
    oracle.require_solution(a, run(factor, given), b)


def test_edited_patterns(engine):
    """A plan is an argument: its leaves may be anything. No edit makes it another problem's."""
    one, other = two_patterns()
    plan = engine.plan(one)
    indices = engine.put(other.indices.astype(np.int32))

    def edited(plan, indices):
        return plan.with_leaves(plan.leaves._replace(indices=indices))

    assert edited(plan, indices) is plan
    nvs.free(plan)
    run = jax.jit(lambda plan, indices, v, b: edited(plan, indices)(v, b))
    with pytest.raises(engines.FAILURES, match="edited"):
        jax.block_until_ready(run(plan, indices, engine.put(one.data), engine.put(np.ones(30))))


def test_arithmetic_on_all_of_a_factor(engine):
    """Its values count; the pattern is put back; what cannot be is refused."""
    a = two_patterns()[0]
    factor = engine.factored(a)
    b = np.arange(1.0, 31.0)
    twice = jax.tree.map(lambda x: 2 * x, factor)
    assert twice.plan is factor.plan
    changed = jax.grad(
        lambda v: jnp.sum(solver.solve(dataclasses.replace(twice, values=v), engine.put(b)))
    )(twice.values)
    x = np.linalg.solve(2 * a.toarray(), b)
    oracle.require_solution(2 * a, solver.solve(twice, engine.put(b)), b)
    turned = np.linalg.solve(2 * a.toarray().T, np.ones(30))
    rows = np.repeat(np.arange(30), np.diff(a.indptr))
    np.testing.assert_allclose(changed, -turned[rows] * x[a.indices], rtol=1e-9)
    mean = jax.tree.map(lambda x, y: (x + y) / 2, factor, twice)
    with pytest.raises(nvs.errors.OperandError, match="computed with"):
        solver.solve(mean, engine.put(b))


def test_donated_factors_leave_the_plan_as_it_is(engine):
    """A factor carries its plan's arrays: a program that may overwrite it deletes them."""
    a = two_patterns()[0]
    plan = engine.plan(a)
    factor = solver.factorize(plan, engine.put(a.data))
    b = np.arange(1.0, 31.0)

    def step(factor, b):
        return solver.factorize(factor.plan, 2 * factor.values), solver.solve(factor, b)

    donating = jax.jit(step, donate_argnums=0)
    for scale in (1, 2, 4):
        factor, x = donating(factor, engine.put(b))
        oracle.require_solution(scale * a, x, b)
    oracle.require_solution(a, plan(engine.put(a.data), engine.put(b)), b)
    again = solver.factorize(engine.plan(a), engine.put(a.data))
    oracle.require_solution(a, solver.solve(again, engine.put(b)), b)


def test_batched_factors_outside_of_vmap(engine):
    a = two_patterns()[0]
    plan = engine.plan(a)
    values = engine.put(np.stack([a.data, 3 * a.data]))
    factors = jax.vmap(functools.partial(solver.factorize, plan))(values)
    b = engine.put(np.arange(1.0, 31.0))
    with pytest.raises(nvs.errors.OperandError, match=r"takes one factor[\s\S]*batch[\s\S]*vmap"):
        solver.solve(factors, b)
    with pytest.raises(nvs.errors.OperandError, match=r"batch \[2\]"):
        factors.plan(values[0], b)
    with pytest.raises(nvs.errors.OperandError, match=r"batch \[2\]"):
        factors.plan.values_of(a)
    plan(values[0], b)  # compiled, so that the next one would not look at anything
    with pytest.raises(nvs.errors.OperandError, match=r"batch \[2\]"):
        factors.plan(values[0], b)
    second = jax.tree.map(lambda x: x[1], factors)
    assert second.plan is plan
    oracle.require_solution(3 * a, solver.solve(second, b), np.asarray(b))
    there = pickle.loads(pickle.dumps(factors))
    both = jax.vmap(solver.solve, in_axes=(0, None))(there, b)
    for scale, x in zip((1, 3), both, strict=True):
        oracle.require_solution(scale * a, x, np.asarray(b))


def test_a_user_permutation_is_of_rows_and_columns(engine):
    if engine.name == "superlu":
        pytest.skip("SuperLU takes none")
    a = matrices.convection(9)
    b = oracle.random(np.random.default_rng(0), (81, 2), "float64")
    for order in (np.arange(81)[::-1], np.random.default_rng(1).permutation(81)):
        factor = engine.factored(a, reordering=order.astype(np.int32))
        for transpose in ("none", "transpose"):
            oracle.require_solution(
                a, solver.solve(factor, engine.put(b), transpose=transpose), b, transpose
            )


HARD = np.array(  # of condition 5, its diagonal zero: static pivots do not do
    [
        [0, 3, 0, 0, 0, 0],
        [0, 0, 3, 0, 0, -1],
        [0, 0, 0, 0, -2, 2],
        [0, 0, 0, 0, 2, 0],
        [3, -2, 0, 0, 0, -2],
        [0, 0, 0, 3, 0, -2.0],
    ]
)


def test_values_that_are_not_known_when_planned(engine):
    """PARDISO refined to garbage, status 1: the known vector came back, others did not."""
    a = sp.csr_array(HARD)
    b = np.array([0.56, -0.51, -0.024, -0.25, 0.1, 1.5e-4])
    x = np.linalg.solve(HARD, b)
    indices = (a.indptr, a.indices)
    values, rhs = engine.put(a.data), engine.put(b)

    def solved(v, b):
        return solver.spsolve((*indices, v), b, **engine.options)

    np.testing.assert_allclose(jax.jit(solved)(values, rhs), x, rtol=1e-12)
    value, slope = jax.value_and_grad(lambda v: solved(v, rhs).sum())(values)
    np.testing.assert_allclose(value, x.sum(), rtol=1e-12)
    turned = np.linalg.solve(HARD.T, np.ones(6))
    rows = np.repeat(np.arange(6), np.diff(a.indptr))
    np.testing.assert_allclose(slope, -turned[rows] * x[a.indices], rtol=1e-12, atol=1e-13)
    if engine.name == "superlu":
        return
    plain = engine.factored(a, matching="none")
    found = np.asarray(solver.solve(plain, rhs))
    assert np.isnan(found).all() or np.allclose(found, x, rtol=1e-7)


@pytest.mark.parametrize("scale", [1e-14, 1e-9, 1.0, 1e12])
@pytest.mark.parametrize("matrix_type", ["general", "symmetric", "spd"])
def test_units_of_a_matrix(engine, matrix_type, scale):
    """Engines replace pivots below a number, whatever the entries are: here those of all."""
    a = matrices.of_type(matrix_type, "float64")
    a = sp.csr_array((a.data * scale, a.indices, a.indptr), a.shape)
    b = oracle.random(np.random.default_rng(0), a.shape[0], "float64")
    factor = engine.factored(a, matrix_type=matrix_type)
    assert engines.status(factor) <= 1
    oracle.require_solution(a, solver.solve(factor, engine.put(b)), b)
    oracle.require_solution(a, factor.plan(factor.values, engine.put(b)), b)


@pytest.mark.parametrize("scale", [1e-14, 1e12])
@pytest.mark.parametrize("option", ["matching", "reuse_pivots"])
def test_units_of_reference_values(engine, option, scale):
    """Those that the plan keeps have the units of those that come."""
    if engine.name == "superlu" or (engine.name, option) == ("pardiso", "reuse_pivots"):
        pytest.skip("it has no such option")
    a = matrices.of_type("symmetric", "float64")
    a = sp.csr_array((a.data * scale, a.indices, a.indptr), a.shape)
    b = oracle.random(np.random.default_rng(0), a.shape[0], "float64")
    options = {"matching": "product"} if option == "matching" else {"reuse_pivots": True}
    factor = engine.factored(a, matrix_type="symmetric", **options)
    assert engines.status(factor) <= 1
    for other in (factor.values, 1.25 * factor.values):
        factor = solver.factorize(factor.plan, other)
        whole = sp.csr_array((np.asarray(other), a.indices, a.indptr), a.shape)
        oracle.require_solution(whole, solver.solve(factor, engine.put(b)), b)


def test_values_that_are_constants_are_the_same(engine):
    """XLA computes with them on the host; what tells values apart must not see that."""
    a = matrices.of_type("symmetric", "float64")
    b = oracle.random(np.random.default_rng(0), a.shape[0], "float64")
    plan = engine.plan(a, matrix_type="symmetric", on_stale="raise")
    for scale in (1.0, 7.0, 40.0, 1e3, 1e5, 1e-3, 1e-7):
        factor = solver.factorize(plan, engine.put(a.data * scale))
        x = jax.jit(lambda b, factor=factor: solver.solve(factor, b))(engine.put(b))
        whole = sp.csr_array((a.data * scale, a.indices, a.indptr), a.shape)
        oracle.require_solution(whole, x, b)


@pytest.mark.gpu
def test_units_are_exact_on_a_gpu():
    """Of every exponent."""
    spec = solver.spec(sp.eye_array(1, format="csr"), matrix_type="symmetric")
    exponents = np.arange(-1021, 1023)
    values = jax.device_put(np.ldexp(1.5, exponents)[:, None], jax.devices("cuda")[0])
    held, units, inverses = jax.jit(lambda v: lowering._in_units(Way(spec), v, True))(values)
    assert (np.frexp(units)[0] == 0.5).all()
    assert (np.asarray(units * inverses) == 1).all()
    assert (np.asarray(held)[:, 0] == 1.5).all()


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_units_are_exact(dtype):
    """What cuDSS gets of symmetric matrices: nothing is rounded, and nothing overflows."""
    eye = sp.eye_array(3, format="csr", dtype=dtype)
    spec = solver.spec(eye, matrix_type="symmetric")
    least, most = np.finfo(dtype).tiny, np.finfo(dtype).max
    rows = [[1e-14, -3e-14, 0], [5, 7, 1], [most / 4, 1, -most / 4], [1e-30, 2e-30, 1e-31]]
    rows += [[0, 0, 0], [least, 0, 0], [np.nan, 1, 2], [np.inf, 1, 2], [most, 0, 0]]
    values = np.array(rows, dtype)
    if values.dtype.kind == "c":
        values[0] *= 1j
    made = jax.jit(lambda v: lowering._in_units(Way(spec), v, True))(jnp.asarray(values))
    held, units, inverses = map(np.asarray, made)
    assert held.dtype == dtype
    assert (np.frexp(units)[0] == 0.5).all()
    assert (units * inverses == 1).all()
    usual = held[:4]
    largest = np.abs(np.stack([usual.real, usual.imag])).max((0, 2))
    assert ((largest >= 1) & (largest < 2)).all()
    assert (usual / units[:4, None] == values[:4]).all()
    assert (held[4] == 0).all()
    assert 0 < held[5, 0].real < 2
    assert np.isnan(held[6, 0])
    assert not np.isfinite(held[7, 0])
    assert 1 < held[8, 0].real <= 4
    for way, on_cuda in ((Way(spec), False), (Way(solver.spec(eye)), True)):
        same, *none = lowering._in_units(way, values, on_cuda)
        assert same is values
        assert none == [None, None]


def test_one_triangle_is_read(engine):
    """Of a full view the upper one, by every engine."""
    a = matrices.of_type("symmetric", "float64").toarray()
    bent = np.triu(a) + 0.5 * np.tril(a, -1)
    pattern, entries = sp.csr_array(a), sp.csr_array(bent)
    plan = engine.plan(pattern, matrix_type="symmetric")
    b = oracle.random(np.random.default_rng(0), a.shape[0], "float64")
    x = solver.solve(solver.factorize(plan, engine.put(entries.data)), engine.put(b))
    oracle.require_solution(pattern, x, b)


def test_plans_are_not_kept_by_what_ran(engine):
    """A jitted function of a module keeps every plan that it was ever called with."""
    kept = []
    for shift in range(3):
        a = two_patterns(31 + shift)[0]
        factor = engine.factored(a)
        x = solver.solve(factor, engine.put(np.ones(31 + shift)))
        solver.backward_error(factor.plan, factor.values, x, engine.put(np.ones(31 + shift)))
        kept.append(weakref.ref(factor.plan.static[1]))
    del factor, x
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3


def test_a_miss_is_logged_once_for_each_plan(engine, caplog):
    a = two_patterns(37)[1]
    plan = engine.plan(a, factor_slots=1)
    b = engine.put(np.ones(37))
    for _ in range(3):
        one, two = (solver.factorize(plan, engine.put(s * a.data)) for s in (1.0, 2.0))
        solver.solve(one, b)
        solver.solve(two, b)
    jax.effects_barrier()
    said = [r for r in caplog.records if "factor_slots" in r.getMessage()]
    assert len(said) == 1
