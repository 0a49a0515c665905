"""Native factorizations are a cache: what is in it changes counters, and never a result."""

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvstate as nvs
from tests.core.test_threads import together
from tests.direct_solver import engines, matrices, oracle
from tests.direct_solver.engines import counted

solver = engines.solver
N = 60
B = oracle.random(np.random.default_rng(1), N, "float64")


def values_of(seed):
    """Other values of one pattern."""
    a = matrices.of_type("general", "float64", n=N)
    rows = matrices.rows_of(a)
    a.data = matrices.mild(np.random.default_rng(seed), rows, a.indices, "float64")
    return a


@pytest.fixture
def plan(engine):
    """A plan of a ring that no other test uses, and that is empty."""
    made = engine.plan(values_of(0), deterministic=True)
    nvs.free(made)
    return made


def factor_of(engine, plan, seed):
    """A factor that is there: programs that do not need one another's results may overtake."""
    factor = solver.factorize(plan, plan.values_of(engine.there(values_of(seed))))
    return jax.block_until_ready(factor)


def bits(x):
    """An array's bytes, when it has been computed."""
    return np.asarray(x).tobytes()


def test_more_factors_than_slots(engine, plan):
    b = engine.put(B)
    with counted() as counts:
        first, second, third = (factor_of(engine, plan, seed) for seed in range(3))
        wants = [bits(plan(f.values, b)) for f in (first, second, third)]
    assert counts["factor_misses"] == 0
    for seed, (factor, want) in enumerate(zip((first, second, third), wants, strict=True)):
        oracle.require_solution(values_of(seed), np.frombuffer(want), B)
        assert bits(solver.solve(factor, b)) == want
    # plan(values, b) takes slots too, so the order of use starts anew here.
    first, second, third = (factor_of(engine, plan, seed) for seed in range(3))
    steps = [
        (third, 1, 0),  # slots: second, third
        (first, 0, 1),  # takes the second's
        (first, 1, 0),
        (third, 1, 0),
        (second, 0, 1),  # takes the first's, which was used before the third's
        (third, 1, 0),
        (second, 1, 0),
        (first, 0, 1),
    ]
    of = {id(f): want for f, want in zip((first, second, third), wants, strict=True)}
    for factor, hits, misses in steps:
        with counted() as counts:
            assert bits(solver.solve(factor, b)) == of[id(factor)]
        assert (counts["factor_hits"], counts["factor_misses"]) == (hits, misses)
        assert counts["factorizations"] == misses
        assert counts["solves"] == 1


def test_one_analysis_serves_all_factors(engine):
    plan = engine.plan(matrices.poisson(9, 11))
    nvs.free(plan)
    with counted() as counts:
        for scale in (1.0, 2.0, 3.0):
            factor = solver.factorize(plan, engine.put(scale * matrices.poisson(9, 11).data))
            x = solver.solve(factor, engine.put(np.ones(99)))
            oracle.require_solution(scale * matrices.poisson(9, 11), x, np.ones(99))
    assert counts["factorizations"] == 3
    assert counts["refactorizations"] == 0
    assert counts["factor_misses"] == 0
    assert counts["analyses"] == (0 if engine.name == "superlu" else 1)


def test_eviction_before_every_call(engine):
    plan = engine.plan(values_of(0), deterministic=True, factor_slots=1)
    b = engine.put(B)
    factors = [factor_of(engine, plan, seed) for seed in range(3)]
    kept = []
    for factor in factors:
        again = solver.factorize(plan, factor.values)
        with counted() as counts:
            kept.append([bits(solver.solve(again, b, transpose=t)) for t in ("none", "transpose")])
        assert counts["factor_hits"] == 2
    for _ in range(2):
        for factor, want in zip(factors, kept, strict=True):
            for t, x in zip(("none", "transpose"), want, strict=True):
                nvs.free(plan)
                with counted() as counts:
                    assert bits(solver.solve(factor, b, transpose=t)) == x
                assert counts["factor_misses"] == 1
    for factor, want in zip(factors, kept, strict=True):
        with counted() as counts:
            assert bits(solver.solve(factor, b)) == want[0]
        assert counts["factor_misses"] == 1 or factor is factors[-1]


@pytest.mark.parametrize("drop", [nvs.free, lambda plan: nvs.cache.clear()], ids=["free", "clear"])
def test_dropped_between_phases(engine, plan, drop):
    b = engine.put(B)
    factor = factor_of(engine, plan, 4)
    want = bits(solver.solve(factor, b))
    drop(plan)
    with counted() as counts:
        assert bits(solver.solve(factor, b)) == want
    assert counts["factor_misses"] == 1
    drop(plan)
    assert bits(plan(factor.values, b)) == want
    oracle.require_solution(values_of(4), np.frombuffer(want), B)


def test_a_stale_factor_misses_once(engine, plan):
    b = engine.put(np.stack([B, 2 * B, 3 * B]))
    stale = factor_of(engine, plan, 1)
    for seed in (2, 3):
        factor_of(engine, plan, seed)

    @jax.jit
    def run(factor, b):
        return jax.lax.scan(lambda c, b: (c, solver.solve(factor, b)), 0, b)[1]

    with counted() as counts:
        xs = np.asarray(run(stale, b))
    assert (counts["factor_misses"], counts["factor_hits"]) == (1, 2)
    for scale, x in zip((1, 2, 3), xs, strict=True):
        oracle.require_solution(values_of(1), x, scale * B)


def test_edited_values_are_another_factor(engine, plan):
    b = engine.put(B)
    factor = factor_of(engine, plan, 1)
    want = np.asarray(solver.solve(factor, b))
    for scale in (2, 3):
        edited = dataclasses.replace(factor, values=scale * factor.values)
        with counted() as counts:
            x = np.asarray(solver.solve(edited, b))
        assert counts["factor_misses"] == 1
        np.testing.assert_allclose(scale * x, want, rtol=1e-12)
    with counted() as counts:  # one bit of one value
        values = np.asarray(factor.values).copy()
        values[5] = np.nextafter(values[5], np.inf)
        bent = dataclasses.replace(factor, values=engine.put(values))
        jax.block_until_ready(solver.solve(bent, b))
    assert counts["factor_misses"] == 1


def test_tickets_of_nobody(engine, plan):
    """Random words, and zeros, are a miss."""
    factor = factor_of(engine, plan, 1)
    b = engine.put(B)
    rng = np.random.default_rng(0)
    for words in (np.zeros(8), rng.integers(0, 2**32, 8), [0, 0, 2**32 - 1, 2**32 - 1, 1, 0, 0, 0]):
        forged = dataclasses.replace(factor, ticket=engine.put(np.array(words, np.uint32)))
        oracle.require_solution(values_of(1), solver.solve(forged, b), B)
    ticket = np.asarray(factor.ticket).copy()
    for word in (2, 3):  # a slot or an element that does not exist
        bent = ticket.copy()
        bent[word] = 12345
        forged = dataclasses.replace(factor, ticket=engine.put(bent))
        oracle.require_solution(values_of(1), solver.solve(forged, b), B)


def test_pickled_and_moved_factors(engine, plan):
    b = engine.put(B)
    factor = factor_of(engine, plan, 1)
    want = bits(solver.solve(factor, b))
    leaves, tree = jax.tree.flatten(factor)
    arrays = pickle.loads(pickle.dumps([np.asarray(leaf) for leaf in leaves]))
    there = jax.tree.unflatten(tree, [engine.put(x) for x in arrays])
    assert bits(solver.solve(there, b)) == want
    nvs.free(plan)
    assert bits(solver.solve(there, b)) == want


def test_indexed_permuted_and_averaged_factors(engine):
    plan = engine.plan(values_of(0))
    b = engine.put(B)
    values = engine.put(np.stack([values_of(s).data for s in range(4)]))
    factors = jax.vmap(lambda v: solver.factorize(plan, v))(values)

    def some(pick):
        """A factor whose arrays are picked; those of the plan have no batch."""
        arrays = factors.values, factors.ticket, factors.words
        return solver.Factor(plan, *map(pick, arrays))

    for i in (0, 3, 1):
        with counted() as counts:
            x = np.asarray(solver.solve(some(lambda x, i=i: x[i]), b))
        assert (counts["factor_hits"], counts["factor_misses"]) == (1, 0)
        oracle.require_solution(values_of(i), x, B)
    turned = some(lambda x: x[jnp.array([2, 0, 3, 1])])
    in_axes = (jax.tree.unflatten(jax.tree.structure(turned), _axes(turned)), None)
    xs = np.asarray(jax.vmap(solver.solve, in_axes=in_axes)(turned, b))
    for i, x in zip((2, 0, 3, 1), xs, strict=True):
        oracle.require_solution(values_of(i), x, B)
    mean = solver.Factor(
        plan,
        (factors.values[0] + factors.values[1]) / 2,
        factors.ticket[0],
        factors.words[0],
    )
    a = values_of(0)
    a.data = (values_of(0).data + values_of(1).data) / 2
    oracle.require_solution(a, solver.solve(mean, b), B)


def _axes(factor):
    count = len(jax.tree.leaves(factor.plan))
    return [None] * count + [0] * (len(jax.tree.leaves(factor)) - count)


@pytest.mark.parametrize("slots", [1, 2])
def test_two_threads(engine, slots):
    """Each has its own values; both use one ring at once."""
    plan = engine.plan(values_of(0), factor_slots=slots)
    b = engine.put(B)

    def work(seed):
        for i in range(8):
            mine = seed + 2 * i
            factor = factor_of(engine, plan, mine)
            for transpose in ("none", "transpose"):
                x = solver.solve(factor, b, transpose=transpose)
                oracle.require_solution(values_of(mine), x, B, transpose)
            oracle.require_solution(values_of(mine), plan(factor.values, b), B)

    together(work, threads=2)


def test_factors_that_are_carried_and_chosen(engine, plan):
    """`cond` and `scan` take tickets along with their values."""
    b = engine.put(B)
    one, two = (factor_of(engine, plan, seed) for seed in (1, 2))

    @jax.jit
    def run(one, two, first, b):
        chosen = jax.lax.cond(first, lambda: one, lambda: two)
        kept, xs = jax.lax.scan(lambda f, _: (f, solver.solve(f, b)), chosen, length=3)
        return solver.solve(kept, b), xs

    for first, seed in ((True, 1), (False, 2)):
        x, xs = run(one, two, first, b)
        for found in (x, *xs):
            oracle.require_solution(values_of(seed), found, B)


def test_a_newton_loop_needs_one_slot(engine):
    """A hundred factorizations in one program: no miss, no analysis but the plan's."""
    a = matrices.newton(6, 1)[0]
    plan = engine.plan(a, matrix_type="spd", factor_slots=1)
    jax.block_until_ready(plan(plan.values_of(engine.there(a)), engine.put(np.ones(36))))
    laplacian = plan.values_of(engine.there(a))
    own = jnp.asarray(matrices.rows_of(a) == a.indices)

    @jax.jit
    def run(plan, u):
        def step(u, _):
            values = jnp.where(own, 4 + 3 * u[plan.leaves.rows] ** 2, laplacian)
            factor = solver.factorize(plan, values)
            return solver.solve(factor, u), factor.info.status

        return jax.lax.scan(step, u, length=100)

    with counted() as counts:
        _, statuses = jax.block_until_ready(run(plan, engine.put(np.ones(36))))
    assert (np.asarray(statuses) <= 1).all()
    assert counts["factorizations"] == counts["solves"] == counts["factor_hits"] == 100
    assert counts["factor_misses"] == counts["analyses"] == 0


def test_a_stale_factor_may_be_an_error(engine):
    plan = engine.plan(values_of(0), factor_slots=1, on_stale="raise")
    b = engine.put(B)
    factor = factor_of(engine, plan, 1)
    oracle.require_solution(values_of(1), solver.solve(factor, b), B)
    other = factor_of(engine, plan, 2)
    with pytest.raises(engines.FAILURES, match="factor_slots"):
        jax.block_until_ready(solver.solve(factor, b))
    oracle.require_solution(values_of(2), solver.solve(other, b), B)


def test_a_stale_factor_may_be_nan(engine):
    plan = engine.plan(values_of(0), factor_slots=1, on_stale="nan")
    b = engine.put(B)
    factor = factor_of(engine, plan, 1)
    oracle.require_solution(values_of(1), solver.solve(factor, b), B)
    other = factor_of(engine, plan, 2)
    assert np.isnan(np.asarray(solver.solve(factor, b))).all()
    oracle.require_solution(values_of(2), solver.solve(other, b), B)
    edited = dataclasses.replace(other, values=2 * other.values)
    assert np.isnan(np.asarray(solver.solve(edited, b))).all()
