"""What compilers may do to a call that has no effect: remove, merge, repeat, move, export it."""

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

import nvstate as nvs
from tests.direct_solver import engines, matrices, oracle

solver = engines.solver
N = 20
A = matrices.of_type("general", "float64", n=N)
B = oracle.random(np.random.default_rng(1), (N,), "float64")


@pytest.fixture
def plan(engine):
    """A plan of a ring that holds nothing."""
    made = engine.plan(A)
    nvs.free(made)
    return made


def counted(run, *operands):
    """What a second run of a jitted function counts, and its results."""
    jax.block_until_ready(run(*operands))
    with engines.counted() as counts:
        found = jax.block_until_ready(run(*operands))
    return counts, found


def test_an_unused_factorization_is_removed(engine, plan):
    @jax.jit
    def run(plan, v, b):
        solver.factorize(plan, 2 * v)
        factor = solver.factorize(plan, v)
        solver.solve(factor, 3 * b)
        return solver.solve(factor, b)

    counts, x = counted(run, plan, engine.put(A.data), engine.put(B))
    assert (counts["factorizations"], counts["solves"]) == (1, 1)
    oracle.require_solution(A, x, B)


def test_solutions_alone_leave_no_words(engine, plan):
    """Of factorize_solve only x is used, then only the factor."""
    v, b = engine.put(A.data), engine.put(B)
    oracle.require_solution(A, jax.jit(lambda: solver.factorize_solve(plan, v, b)[0])(), B)
    factor = jax.jit(lambda: solver.factorize_solve(plan, v, b)[1])()
    with engines.counted() as counts:
        oracle.require_solution(A, solver.solve(factor, b), B)
    assert counts["factor_misses"] == 0


def test_equal_factorizations_may_be_one(engine, plan):
    """One slot or two: each solution is of its own values, also where they become equal."""

    @jax.jit
    def run(plan, v, w, b):
        one, two, three = (solver.factorize(plan, x) for x in (v, v, w))
        return [solver.solve(f, b) for f in (one, two, three, one)]

    for scale in (2.0, 1.0):
        counts, xs = counted(
            run, plan, engine.put(A.data), engine.put(scale * A.data), engine.put(B)
        )
        for s, x in zip((1, 1, scale, 1), xs, strict=True):
            oracle.require_solution(s * A, x, B)
        assert counts["factorizations"] in (2, 3)


@pytest.mark.parametrize("policy", [None, "everything", "nothing"])
def test_remat_repeats_a_factorization_and_changes_nothing(engine, plan, policy):
    said = {
        None: lambda f: f,
        "everything": lambda f: jax.checkpoint(
            f, policy=jax.checkpoint_policies.everything_saveable
        ),
        "nothing": lambda f: jax.checkpoint(f, policy=jax.checkpoint_policies.nothing_saveable),
    }[policy]

    @jax.jit
    def run(plan, v, b):
        def loss(v, b):
            x = said(lambda v, b: solver.solve(solver.factorize(plan, jnp.sin(v)), b))(v, b)
            return (x**2).sum()

        return jax.value_and_grad(loss, argnums=(0, 1))(v, b)

    v, b = engine.put(np.arcsin(A.data / 2)), engine.put(B)
    counts, (value, (gv, gb)) = counted(run, plan, v, b)
    assert counts["factorizations"] <= (2 if policy == "nothing" else 1)
    assert counts["factor_misses"] == 0
    x = np.linalg.solve(A.toarray() / 2, B)
    right = np.linalg.solve(A.toarray().T / 2, 2 * x)
    rows = matrices.rows_of(A)
    np.testing.assert_allclose(value, x @ x, rtol=1e-12)
    np.testing.assert_allclose(gb, right, rtol=1e-11)
    np.testing.assert_allclose(
        gv, -right[rows] * x[A.indices] * np.cos(np.arcsin(A.data / 2)), rtol=1e-10, atol=1e-13
    )


def test_hoisted_out_of_a_loop(engine, plan):
    """A factorization whose values do not change may run once, or in every step."""

    @jax.jit
    def run(plan, v, b):
        def step(b, _):
            x = solver.solve(solver.factorize(plan, v), b)
            return x / jnp.abs(x).max(), None

        return jax.lax.scan(step, b, length=6)[0]

    counts, x = counted(run, plan, engine.put(A.data), engine.put(B))
    assert counts["factorizations"] in (1, 6)
    assert counts["factor_misses"] == 0
    want = B
    for _ in range(6):
        want = oracle.superlu(A, want)
        want = want / np.abs(want).max()
    np.testing.assert_allclose(x, want, rtol=1e-11)


def test_more_live_factors_than_slots_in_one_program(engine):
    """Reverse mode through five factorizations solves with all five: misses, and right."""
    plan = engine.plan(A, factor_slots=1)
    nvs.free(plan)
    scales = engine.put(np.linspace(1, 2, 5))

    def loss(plan, v, b):
        def step(b, s):
            return solver.solve(solver.factorize(plan, s * v), b), None

        return jax.lax.scan(step, b, scales)[0].sum()

    run = jax.jit(jax.value_and_grad(loss, argnums=(1, 2)))
    counts, (value, (gv, gb)) = counted(run, plan, engine.put(A.data), engine.put(B))
    inverse = np.linalg.inv(A.toarray())
    power = np.linalg.matrix_power(inverse, 5) / np.prod(np.asarray(scales))
    np.testing.assert_allclose(value, (power @ B).sum(), rtol=1e-11)
    np.testing.assert_allclose(gb, power.sum(0), rtol=1e-11)
    # Of x = (s₁ … s₅)⁻¹ A⁻⁵ b along A itself, dx = -5 x.
    np.testing.assert_allclose(np.asarray(gv) @ A.data, -5 * value, rtol=1e-11)
    assert counts["factorizations"] >= 5
    assert counts["factor_misses"] >= 1


def test_a_chosen_and_a_mixed_factor(engine, plan):
    """`where` takes a ticket whole, values in part: that is another factor, and misses."""
    one, two = (solver.factorize(plan, engine.put(s * A.data)) for s in (1.0, 2.0))
    b = engine.put(B)

    @jax.jit
    def choose(first, one, two, b):
        chosen = jax.tree.map(lambda x, y: jnp.where(first, x, y), one, two)
        return solver.solve(chosen, b)

    for first, scale in ((True, 1), (False, 2)):
        with engines.counted() as counts:
            oracle.require_solution(scale * A, choose(first, one, two, b), B)
        assert (counts["factor_hits"], counts["factor_misses"]) == (1, 0)
    half = np.arange(A.nnz) % 2 == 0
    mixed = solver.Factor(plan, jnp.where(half, one.values, two.values), one.ticket, one.words)
    with engines.counted() as counts:
        x = solver.solve(mixed, b)
    assert (counts["factor_hits"], counts["factor_misses"]) == (0, 1)
    a = sp.csr_array((np.where(half, A.data, 2 * A.data), A.indices, A.indptr), A.shape)
    oracle.require_solution(a, x, B)


def test_a_step_of_an_optimizer_on_a_factor(engine, plan):
    """A factor is a pytree of parameters: its values move, its ticket then names nothing."""
    b = engine.put(B)
    factor = solver.factorize(plan, engine.put(A.data))
    gradient = jax.grad(lambda f: (solver.solve(f, b) ** 2).sum(), allow_int=True)(factor)
    moved = jax.tree.map(
        lambda x, g: x - 1e-3 * g if jnp.issubdtype(x.dtype, jnp.floating) else x, factor, gradient
    )
    with engines.counted() as counts:
        x = solver.solve(moved, b)
    assert counts["factor_misses"] == 1
    a = sp.csr_array((np.asarray(moved.values), A.indices, A.indptr), A.shape)
    oracle.require_solution(a, x, B)
    assert not np.array_equal(moved.values, factor.values)


def test_jit_of_the_disabled_and_of_nans_that_are_looked_for(engine, plan):
    v, b = engine.put(A.data), engine.put(B)
    with jax.disable_jit():
        factor = solver.factorize(plan, v)
        oracle.require_solution(A, solver.solve(factor, b), B)
        oracle.require_solution(A, plan(v, b), B)
    with jax.debug_nans(True):
        oracle.require_solution(A, plan(v, b), B)


@pytest.fixture
def exported(tmp_path):
    """A factor and programs of factorize, solve and a plan, as bytes."""
    if solver.plan(sp.eye_array(2, format="csr")).backend != "pardiso":
        pytest.skip("SuperLU does not leave the process")
    plan = solver.plan((A.indptr, A.indices, jnp.asarray(A.data)))
    factor = solver.factorize(plan, jnp.asarray(A.data))
    programs = {
        "factorize": (solver.factorize, (plan, factor.values)),
        "solve": (solver.solve, (factor, jnp.asarray(B))),
        "fused": (lambda plan, v, b: plan(v, b), (plan, factor.values, jnp.asarray(B))),
        "gradient": (
            jax.grad(lambda v, b: plan(v, b).sum()),
            (factor.values, jnp.asarray(B)),
        ),
    }
    for name, (function, operands) in programs.items():
        made = jax.export.export(jax.jit(function), disabled_checks=nvs.disabled_checks())(
            *operands
        )
        (tmp_path / name).write_bytes(made.serialize())
    np.savez(tmp_path / "factor.npz", *map(np.asarray, jax.tree.leaves(factor)), b=B)
    return tmp_path, factor


def test_exported_programs_in_this_process(exported):
    path, factor = exported
    plan, b = factor.plan, jnp.asarray(B)
    programs = {
        name: jax.export.deserialize((path / name).read_bytes())
        for name in ("factorize", "solve", "fused", "gradient")
    }
    again = programs["factorize"].call(plan, 2 * factor.values)
    oracle.require_solution(2 * A, programs["solve"].call(again, b), B)
    oracle.require_solution(A, programs["solve"].call(factor, b), B)
    oracle.require_solution(A, programs["fused"].call(plan, factor.values, b), B)
    want = jax.grad(lambda v: plan(v, b).sum())(factor.values)
    np.testing.assert_allclose(programs["gradient"].call(factor.values, b), want, rtol=1e-12)


def test_a_factor_of_a_process_that_ended(exported):
    """Its nonce is another's: a miss, and the answer."""
    path, _ = exported
    code = f"""
        import numpy as np, jax
        jax.config.update("jax_enable_x64", True)
        import nvstate as nvs
        from nvstate import direct_solver
        stored = np.load({str(path / "factor.npz")!r})
        leaves = [stored[f"arr_{{i}}"] for i in range(len(stored.files) - 1)]
        b = stored["b"]
        solve = jax.export.deserialize(open({str(path / "solve")!r}, "rb").read())
        nvs.register()
        factor = jax.tree.unflatten(solve.in_tree.children()[0].children()[0], leaves)
        x = solve.call(factor, b)
        y = direct_solver.solve(jax.tree.map(jax.numpy.asarray, factor), jax.numpy.asarray(b))
        assert np.array_equal(x, y)
        info = nvs.cache.info()
        print(info.factor_misses, info.factor_hits, info.factorizations)
        np.save({str(path / "x.npy")!r}, x)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "1", "1"]
    oracle.require_solution(A, np.load(path / "x.npy"), B)
