"""A factor is its values: in loops, branches, threads and files, x is right."""

import contextlib
import dataclasses
import gc
import logging
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvstate as nvs
from tests import fresh
from tests.core.test_threads import together
from tests.direct_solver import engines, matrices, oracle
from tests.direct_solver.engines import Engine, counted

solver = engines.solver
A = matrices.convection(6)
N = A.shape[0]
B = oracle.random(np.random.default_rng(3), N, "float64")


def scaled(scale):
    """A matrix of the pattern; not a multiple of another, and linear in the scale."""
    a = A.copy()
    a.data = a.data * scale + 0.01 * np.arange(A.nnz) * (scale - 1) / A.nnz
    return a


def values_of(engine, scale):
    return engine.put(scaled(scale).data)


def require(x, scale=1.0, b=B, transpose="none"):
    """Fail unless x solves the system of this scale."""
    oracle.require_solution(scaled(scale), x, b, transpose)


@pytest.fixture
def plan(engine):
    """A plan whose ring is empty."""
    made = engine.plan(A)
    nvs.free(made)
    return made


# Loops and branches


@pytest.mark.parametrize("level", ["0", "2"])
def test_phases_are_calls_that_xla_may_move(engine, plan, level):
    """No side effect holds them, and XLA:CPU runs at once what does not depend on each other."""

    def run(plan, v, b):
        factors = [solver.factorize(plan, s * v) for s in (1.0, 2.0, 3.0, 4.0)]
        return [solver.solve(f, b, transpose=t) for f in factors for t in ("none", "transpose")]

    args = plan, values_of(engine, 1), engine.put(B)
    options = {"xla_backend_optimization_level": level}
    compiled = jax.jit(run).lower(*args).compile(compiler_options=options)
    assert "custom_call_has_side_effect=true" not in compiled.as_text()
    for _ in range(3):
        for i, x in enumerate(compiled(*args)):
            a = A.copy()
            a.data = (1.0 + i // 2) * A.data
            oracle.require_solution(a, x, B, ("none", "transpose")[i % 2])


def test_newton_steps_in_a_while_loop(engine):
    """The condition is the residual's; each step has its own factor, and the last one stays."""
    laplacian = matrices.poisson(5, 5)
    plan = engine.plan(laplacian, matrix_type="spd")
    jax.block_until_ready(solver.factorize(plan, engine.put(laplacian.data)))
    own = engine.put(matrices.rows_of(laplacian) == laplacian.indices)
    rows, columns = engine.put(matrices.rows_of(laplacian)), engine.put(laplacian.indices)
    base = engine.put(laplacian.data)

    def residual(u):
        return jnp.zeros_like(u).at[rows].add(base * u[columns]) + u**3 - 1

    @jax.jit
    def run(plan, u):
        def step(state):
            u, count, _ = state
            values = base + jnp.where(own, 3 * u[rows] ** 2, 0.0)
            factor = solver.factorize(plan, values)
            return u - solver.solve(factor, residual(u)), count + 1, factor

        start = u, 0, solver.factorize(plan, base)
        return jax.lax.while_loop(lambda s: jnp.abs(residual(s[0])).max() > 1e-10, step, start)

    with counted() as counts:
        u, count, factor = jax.block_until_ready(run(plan, engine.put(np.zeros(25))))
    found, count = np.asarray(u), int(count)
    assert 2 < count < 12
    assert np.abs(laplacian @ found + found**3 - 1).max() < 1e-10
    assert counts["factorizations"] == count + 1
    assert (counts["analyses"], counts["factor_hits"], counts["factor_misses"]) == (0, count, 0)
    with counted() as counts:
        jax.block_until_ready(solver.solve(factor, u))
    assert (counts["factor_hits"], counts["factor_misses"]) == (1, 0)


def test_a_branch_that_factorizes(engine, plan):
    """`cond` takes one way, `select` under `vmap` takes both."""
    made = jax.jit(solver.factorize)(plan, values_of(engine, 2))

    def run(factor, again, b):
        kept = jax.lax.cond(
            again, lambda: solver.factorize(factor.plan, 2 * factor.values), lambda: factor
        )
        return solver.solve(kept, b)

    b = engine.put(B)
    twice = scaled(2)
    twice.data = 2 * twice.data
    for again, a, factorizations in ((False, scaled(2), 0), (True, twice, 1)):
        with counted() as counts:
            x = jax.block_until_ready(jax.jit(run)(made, again, b))
        oracle.require_solution(a, x, B)
        assert (counts["factorizations"], counts["factor_misses"]) == (factorizations, 0)
    both = jax.jit(jax.vmap(run, in_axes=(None, 0, None)))(made, jnp.array([False, True]), b)
    for x, a in zip(both, (scaled(2), twice), strict=True):
        oracle.require_solution(a, x, B)


def test_factors_are_carried_and_swapped(engine, plan):
    """Each step makes a factor and solves with that of two steps ago."""

    @jax.jit
    def run(plan, v, b):
        def step(carry, s):
            old, newer = carry
            return (newer, solver.factorize(plan, s * v)), solver.solve(old, b)

        first = solver.factorize(plan, v)
        return jax.lax.scan(step, (first, first), jnp.arange(2.0, 8.0))[1]

    xs = run(plan, values_of(engine, 1), engine.put(B))
    for x, s in zip(xs, (1, 1, 2, 3, 4, 5), strict=True):
        a = A.copy()
        a.data = s * A.data
        oracle.require_solution(a, x, B)


# Leaves that were computed with


def test_arithmetic_on_a_factors_leaves(engine):
    """Values decide, not tickets."""
    plan = engine.plan(A, factor_slots=4)
    one, two = (solver.factorize(plan, values_of(engine, s)) for s in (1.0, 3.0))
    middle = dataclasses.replace(one, values=(one.values + two.values) / 2)
    with counted() as counts:
        require(solver.solve(middle, engine.put(B)), 2.0)
    assert (counts["factor_misses"], counts["factor_hits"]) == (1, 0)
    crossed = dataclasses.replace(one, ticket=two.ticket)
    require(solver.solve(crossed, engine.put(B)), 1.0)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), one, two)
    chosen = jax.tree.map(lambda x: jnp.where(jnp.array(True), x[1], x[0]), stacked)
    with counted() as counts:
        require(solver.solve(chosen, engine.put(B)), 3.0)
    assert (counts["factor_misses"], counts["factor_hits"]) == (0, 1)
    both = jax.vmap(solver.solve, in_axes=(0, None))(stacked, engine.put(B))
    for x, s in zip(both, (1.0, 3.0), strict=True):
        require(x, s)


def test_donated_values_are_the_factors_own(engine, plan):
    """What held the donated values may hold the next ones at once."""
    step = jax.jit(
        lambda plan, v, b: (2 * v, solver.solve(solver.factorize(plan, v), b)), donate_argnums=1
    )
    keep = jax.jit(lambda plan, v: (solver.factorize(plan, v), v + 1), donate_argnums=1)
    v, b = engine.put(A.data.copy()), engine.put(B)
    for s in (1, 2, 4, 8):
        v, x = step(plan, v, b)
        a = A.copy()
        a.data = s * A.data
        oracle.require_solution(a, x, B)
    factor, _ = keep(plan, engine.put(A.data.copy()))
    for _ in range(4):
        jax.block_until_ready(engine.put(np.full(A.nnz, np.nan)))
        require(solver.solve(factor, b))


# Files and processes


def test_pickled_factors(engine, plan):
    factor = solver.factorize(plan, values_of(engine, 2))
    there = pickle.loads(pickle.dumps(factor))
    assert there.plan == plan
    with counted() as counts:
        require(solver.solve(there, engine.put(B)), 2)
    assert (counts["factor_hits"], counts["factor_misses"]) == (1, 0)
    nvs.free(plan)
    with counted() as counts:
        require(solver.solve(there, engine.put(B)), 2)
        require(solver.solve(there, engine.put(B)), 2)
    assert (counts["factor_misses"], counts["factor_hits"]) == (1, 1)


SCRIPT = """
import pickle
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
import nvstate as nvs
from tests.direct_solver import matrices, oracle
from tests.direct_solver.engines import Engine, solver
E = Engine("{name}")
A = matrices.convection(6)
plan = E.plan(A)
"""


@pytest.mark.parametrize("name", ["pardiso", "superlu"])
def test_a_ticket_of_another_process(tmp_path, name):
    """Its slot and stamp are those of a factorization that is here; the nonce is not."""
    Engine.of(name)
    path = str(tmp_path / "factor")
    done = fresh.run(
        SCRIPT.format(name=name) + "factor = solver.factorize(plan, E.put(2 * A.data))\n"
        f"pickle.dump(factor, open({path!r}, 'wb'))\n"
        "print(*np.asarray(factor.ticket))\n"
    )
    assert done.returncode == 0, done.stderr
    theirs = np.array(done.stdout.split()[-8:], np.int64)
    done = fresh.run(
        SCRIPT.format(name=name) + "own = solver.factorize(plan, E.put(2 * A.data))\n"
        f"factor = pickle.load(open({path!r}, 'rb'))\n"
        "x = solver.solve(factor, E.put(np.ones(36)))\n"
        "a = A.copy(); a.data = 2 * A.data\n"
        "oracle.require_solution(a, x, np.ones(36))\n"
        "found = nvs.cache.info()\n"
        "print(*np.asarray(own.ticket), found.factor_misses, found.factor_hits)\n"
    )
    assert done.returncode == 0, done.stderr
    *ours, misses, hits = np.array(done.stdout.split()[-10:], np.int64)
    assert (ours[2:6] == theirs[2:6]).all()
    assert (ours[:2] != theirs[:2]).any()
    assert (misses, hits) == (1, 0)


# Programs that are kept


def test_equal_plans_do_not_retrace(engine):
    traces = []

    @jax.jit
    def run(plan, v, b):
        traces.append(1)
        return solver.solve(solver.factorize(plan, v), b)

    for scale in (1.0, 2.0):
        again = engine.plan(scaled(scale))  # of other values, and of arrays of its own
        require(run(again, values_of(engine, scale), engine.put(B)), scale)
    nvs.free(again)
    require(run(engine.plan(A), values_of(engine, 3), engine.put(B)), 3)
    assert len(traces) == 1
    slots = engine.plan(A, factor_slots=5)
    require(run(slots, values_of(engine, 1), engine.put(B)))
    assert len(traces) == 2


@contextlib.contextmanager
def logged(name):
    """What a logger says meanwhile."""
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logging.getLogger(name).addHandler(handler)
    try:
        yield records
    finally:
        logging.getLogger(name).removeHandler(handler)


def test_eager_phases_are_compiled_once(engine, plan):
    b = engine.put(B)
    operands = [(engine.plan(scaled(s)), values_of(engine, s)) for s in (1.0, 2.0, 3.0)]
    compiled = []
    for again, v in operands:
        with jax.log_compiles(), logged("jax") as records:
            jax.block_until_ready(solver.solve(solver.factorize(again, v), b))
        compiled.append(sum("Compiling" in r for r in records))
    assert compiled[1:] == [0, 0]


# At once


@pytest.mark.parametrize("devices", [1, 4])
def test_sixteen_threads_solve_at_once(engine, devices):
    """More threads than XLA's pool has, more factors than slots: right, and an end."""
    places = jax.devices(engine.device.platform)[:devices]
    if len(places) < devices:
        pytest.skip("fewer devices")
    plan = solver.plan(
        (A.indptr, A.indices, jax.ShapeDtypeStruct(A.data.shape, "float64")), **engine.options
    )

    @jax.jit
    def run(plan, v, b):
        factor = solver.factorize(plan, v)
        return solver.solve(factor, b), solver.solve(factor, b, transpose="transpose"), plan(v, b)

    def work(i):
        v, b = (jax.device_put(x, places[i % devices]) for x in (scaled(1 + i).data, B))
        for _ in range(3):
            x, y, z = run(plan, v, b)
            require(x, 1 + i)
            require(y, 1 + i, transpose="transpose")
            require(z, 1 + i)

    together(work, threads=16)


def test_one_factor_in_sixteen_threads(engine, plan):
    factor = solver.factorize(plan, values_of(engine, 1))
    rng = np.random.default_rng(5)
    sides = [oracle.random(rng, (N, 1 + i % 3), "float64") for i in range(16)]

    def work(i):
        for _ in range(4):
            require(solver.solve(factor, engine.put(sides[i])), b=sides[i])

    with counted() as counts:
        together(work, threads=16)
    assert (counts["factor_hits"], counts["factor_misses"]) == (64, 0)


@pytest.mark.slow
def test_memory_stays_flat(engine):
    """A thousand factorizations under `jit`."""

    @jax.jit
    def some(plan, v, b):
        def step(total, s):
            factor = solver.factorize(plan, v * s)
            return total + solver.solve(factor, b), factor.info.status

        return jax.lax.scan(step, jnp.zeros_like(b), 1 + jnp.arange(50.0) / 50)

    big = matrices.convection(40)
    plan = engine.plan(big)
    v, b = engine.put(big.data), engine.put(np.ones(1600))
    for _ in range(4):
        jax.block_until_ready(some(plan, v, b))
    gc.collect()
    before, kept = resident(), nvs.cache.info()
    with counted() as counts:
        for _ in range(20):
            jax.block_until_ready(some(plan, v, b))
    assert counts["factorizations"] == 1000
    assert counts["analyses"] == counts["factor_misses"] == 0
    gc.collect()
    after = nvs.cache.info()
    assert (after.native, after.bytes) == (kept.native, kept.bytes)
    # A factorization here takes 0.5 MB: even one in a hundred that stayed would be seen.
    assert resident() - before < 4 << 20


def resident():
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096
