"""Factors and solves under `vmap`, control flow and `jit`: each member is SciPy's answer.

And that a batch is one call of the engine: of many right-hand sides one solve, of many values one
slot.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

from tests.direct_solver import engines, matrices, oracle

solver = engines.solver
N = 14
A = matrices.of_type("general", "float64", n=N)


@pytest.fixture
def plan(engine):
    """A plan of the pattern."""
    return engine.plan(A)


def random(engine, *shape, seed=1):
    return engine.put(oracle.random(np.random.default_rng(seed), shape, "float64"))


def values_of(engine, *shape):
    """Values of well-conditioned members, on the last axis."""
    rows = matrices.rows_of(A)
    rng = np.random.default_rng(5)
    members = [
        matrices.mild(rng, rows, A.indices, "float64")
        for _ in range(int(np.prod(shape, dtype=int)))
    ]
    return engine.put(np.reshape(members, (*shape, A.nnz)))


def require(values, x, b, transpose="none"):
    a = sp.csr_array((np.asarray(values), A.indices, A.indptr), (N, N))
    oracle.require_solution(a, np.asarray(x), np.asarray(b), transpose)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("columns", [None, 2])
def test_right_hand_sides_are_columns_of_one_solve(engine, plan, axis, columns):
    if columns is None and axis == 2:
        pytest.skip("there are two axes")
    factor = solver.factorize(plan, engine.put(A.data))
    shape = (N,) if columns is None else (N, columns)
    bs = random(engine, 3, *shape)
    run = jax.jit(jax.vmap(lambda b: solver.solve(factor, b), in_axes=axis, out_axes=axis))
    turned = jnp.moveaxis(bs, 0, axis)
    jax.block_until_ready(run(turned))
    with engines.counted() as counts:
        xs = np.moveaxis(np.asarray(run(turned)), axis, 0)
    assert (counts["solves"], counts["factor_hits"], counts["factor_misses"]) == (1, 1, 0)
    for b, x in zip(bs, xs, strict=True):
        require(A.data, x, b)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("transpose", ["none", "transpose"])
def test_values_are_one_batch(engine, plan, axis, transpose):
    vs, b = values_of(engine, 3), random(engine, N)

    def run(v, b):
        factor = solver.factorize(plan, v)
        return factor, solver.solve(factor, b, transpose=transpose)

    batched = jax.jit(jax.vmap(run, in_axes=(axis, None)))
    turned = jnp.moveaxis(vs, 0, axis)
    jax.block_until_ready(batched(turned, b))
    with engines.counted() as counts:
        factors, xs = jax.block_until_ready(batched(turned, b))
    assert (counts["factorizations"], counts["factor_hits"]) == (3, 3)
    assert (counts["factor_misses"], counts["solves"]) == (0, 1)
    assert factors.values.shape == (3, A.nnz)
    assert factors.ticket.shape == factors.words.shape == (3, 8)
    assert factors.info.status.shape == (3,)
    assert factors.info.inertia.shape == (3, 2)
    for v, x in zip(vs, xs, strict=True):
        require(v, x, b, transpose)


def test_values_and_right_hand_sides(engine, plan):
    vs, bs = values_of(engine, 3), random(engine, 3, N, 2)
    for run in (
        lambda v, b: solver.solve(solver.factorize(plan, v), b),
        lambda v, b: solver.factorize_solve(plan, v, b)[0],
        plan,
    ):
        for v, x, b in zip(vs, jax.jit(jax.vmap(run))(vs, bs), bs, strict=True):
            require(v, x, b)
        for v, x, b in zip(vs, jax.vmap(run, (0, 2))(vs, jnp.moveaxis(bs, 0, 2)), bs, strict=True):
            require(v, x, b)


def test_factors_along_a_batch(engine, plan):
    """Tickets go with their values: one right-hand side, one for each, several for each."""
    vs = values_of(engine, 3)
    factors = jax.vmap(lambda v: solver.factorize(plan, v))(vs)
    b, bs, many = random(engine, N), random(engine, 3, N), random(engine, 4, N)
    with engines.counted() as counts:
        xs = jax.block_until_ready(jax.vmap(solver.solve, (0, None))(factors, b))
        ys = jax.block_until_ready(jax.vmap(solver.solve, (0, 0))(factors, bs))
        inner = jax.vmap(solver.solve, (None, 0))
        zs = jax.block_until_ready(jax.vmap(inner, (0, None))(factors, many))
        outer = jax.vmap(jax.vmap(solver.solve, (0, None)), (None, 0))
        ws = jax.block_until_ready(outer(factors, many))
    assert (counts["factor_hits"], counts["factor_misses"]) == (12, 0)
    assert (counts["solves"], counts["factorizations"]) == (4, 0)
    for i, v in enumerate(vs):
        one = jax.tree.map(lambda x, i=i: x[i], factors)
        with engines.counted() as counts:
            require(v, solver.solve(one, b), b)
        assert (counts["factor_hits"], counts["factor_misses"]) == (1, 0)
        require(v, xs[i], b)
        require(v, ys[i], bs[i])
        for j in range(4):
            require(v, zs[i, j], many[j])
            require(v, ws[j, i], many[j])


def test_nested_batches(engine, plan):
    vs, bs = values_of(engine, 2, 3), random(engine, 2, 3, N)
    run = lambda v, b: solver.solve(solver.factorize(plan, v), b)  # noqa: E731
    xs = jax.jit(jax.vmap(jax.vmap(run)))(vs, bs)
    mixed = jax.jit(jax.vmap(jax.vmap(run, (0, None)), (0, None)))(vs, bs[0, 0])
    crossed = jax.jit(jax.vmap(jax.vmap(run, (None, 0)), (0, None)))(vs[0], bs[0])
    for i in range(2):
        for j in range(3):
            require(vs[i, j], xs[i, j], bs[i, j])
            require(vs[i, j], mixed[i, j], bs[0, 0])
    for i in range(3):
        for j in range(3):
            require(vs[0, i], crossed[i, j], bs[0, j])


def test_batches_of_one_and_of_none(engine, plan):
    run = jax.jit(jax.vmap(lambda v, b: solver.solve(solver.factorize(plan, v), b)))
    vs, bs = values_of(engine, 1), random(engine, 1, N)
    require(vs[0], run(vs, bs)[0], bs[0])
    assert run(vs[:0], bs[:0]).shape == (0, N)
    factor = solver.factorize(plan, vs[0])
    assert jax.vmap(lambda b: solver.solve(factor, b))(bs[:0]).shape == (0, N)
    with engines.counted() as counts:
        assert solver.solve(factor, random(engine, N, 0)).shape == (N, 0)
        x, other = solver.factorize_solve(plan, vs[0], random(engine, N, 0))
        assert x.shape == (N, 0)
        require(vs[0], solver.solve(other, bs[0]), bs[0])
    assert (counts["factorizations"], counts["factor_misses"]) == (1, 0)


def test_diagonals_and_errors_of_a_batch(engine, plan):
    vs, bs = values_of(engine, 3), random(engine, 3, N)

    def run(v, b):
        factor = solver.factorize(plan, v)
        x = solver.solve(factor, b)
        return solver.diagonal(factor), solver.backward_error(plan, v, x, b)

    diagonals, found = jax.jit(jax.vmap(run))(vs, bs)
    for v, d, e in zip(vs, np.asarray(diagonals), np.asarray(found), strict=True):
        a = sp.csr_array((np.asarray(v), A.indices, A.indptr), (N, N)).toarray()
        assert np.isclose(np.log(np.abs(d)).sum(), np.linalg.slogdet(a)[1], rtol=1e-10)
        assert e <= 1e-14


@pytest.mark.parametrize("storage", ["csc", "coo"])
def test_batches_of_other_formats(engine, storage):
    rows, columns = matrices.ordered(storage, matrices.rows_of(A), A.indices)
    dense = [A.toarray(), 2 * A.toarray()]
    vs = engine.put(np.stack([d[rows, columns] for d in dense]))
    plan = engine.plan(matrices.in_format(storage, N, rows, columns, vs[0]))
    bs = random(engine, 2, N)
    run = lambda v, b: solver.solve(solver.factorize(plan, v), b)  # noqa: E731
    for a, x, b in zip(dense, jax.jit(jax.vmap(run))(vs, bs), bs, strict=True):
        oracle.require_solution(sp.csr_array(a), x, np.asarray(b))


def test_a_hermitian_batch(engine):
    a = matrices.of_type("hermitian", "complex128", n=N)
    lower = matrices.seen(a, "lower")
    plan = engine.plan(lower, matrix_type="hermitian", view="lower")
    vs = engine.put(np.stack([lower.data, 3 * lower.data]))
    b = engine.put(oracle.random(np.random.default_rng(0), (N,), "complex128"))
    for t in ("none", "transpose", "adjoint"):
        run = lambda v, t=t: solver.solve(solver.factorize(plan, v), b, transpose=t)  # noqa: E731
        for scale, x in zip((1, 3), jax.jit(jax.vmap(run))(vs), strict=True):
            oracle.require_solution(scale * a, x, np.asarray(b), t)


def test_plans_are_arguments_and_constants(engine, plan):
    """Equal plans are compiled once, whether their leaves are the same arrays or not."""
    traces = []

    @jax.jit
    def run(plan, values, b):
        traces.append(1)
        return solver.solve(solver.factorize(plan, values), b)

    v, b = values_of(engine, 1)[0], random(engine, N)
    require(v, run(plan, v, b), b)
    again = engine.plan(A)
    leaves, tree = jax.tree.flatten(again)
    copied = jax.tree.unflatten(tree, [jnp.array(leaf) for leaf in leaves])
    for other in (again, copied):
        require(2 * v, run(other, 2 * v, b), b)
    assert len(traces) == 1
    require(v, jax.jit(lambda v: run(plan, v, b))(v), b)


def test_eager_calls_compile_once(engine, plan):
    """Under a plan's first call and any number of later ones."""
    factor = solver.factorize(plan, engine.put(A.data))
    b = random(engine, N)
    jax.block_until_ready(solver.solve(factor, b))
    jax.block_until_ready(solver.factorize_solve(plan, factor.values, b)[0])
    compiled = []
    listener = lambda name, *rest, **other: compiled.append(name)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        factor = solver.factorize(plan, factor.values)
        x, factor = solver.factorize_solve(plan, factor.values, b)
        jax.block_until_ready((x, solver.solve(factor, b)))
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert [name for name in compiled if "compile" in name or "trace" in name] == []


def test_while_and_cond(engine, plan):
    b = random(engine, N)

    @jax.jit
    def run(plan, v, b):
        """Doubles the matrix until x is small."""

        def smaller(carry):
            factor, _ = carry
            other = solver.factorize(plan, 2 * factor.values)
            return other, solver.solve(other, b)

        start = solver.factorize(plan, v)
        factor, x = jax.lax.while_loop(
            lambda carry: jnp.abs(carry[1]).max() > 0.1, smaller, (start, solver.solve(start, b))
        )
        return jax.lax.cond(
            x[0] > 0,
            lambda: (factor.values, x),
            lambda: (factor.values, solver.solve(factor, b)),
        )

    v = engine.put(A.data)
    values, x = run(plan, v, b)
    assert 0 < np.abs(x).max() <= 0.1
    require(values, x, b)


def test_scan_over_values(engine, plan):
    vs, b = values_of(engine, 5), random(engine, N)

    @jax.jit
    def run(plan, vs, b):
        return jax.lax.scan(lambda x, v: (plan(v, x), plan(v, x)), b, vs)

    last, xs = run(plan, vs, b)
    for v, x in zip(vs, xs, strict=True):
        require(v, x, b)
        b = x
    np.testing.assert_array_equal(last, xs[-1])


def test_donated_operands(engine, plan):
    v, b = values_of(engine, 1)[0], random(engine, N)
    kept = np.asarray(b).copy()
    run = jax.jit(lambda v, b: solver.factorize_solve(plan, v, b), donate_argnums=1)
    x, factor = run(v, b)
    require(v, x, kept)
    require(v, solver.solve(factor, engine.put(kept)), kept)
