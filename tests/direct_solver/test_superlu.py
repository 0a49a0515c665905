"""SciPy's SuperLU behind a callback: its ring, its knobs, and the processes it may run in."""

import concurrent.futures
import dataclasses
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg

import nvstate as nvs
from nvstate.direct_solver import superlu
from tests.direct_solver import engines, matrices, oracle
from tests.direct_solver.engines import Engine

solver = engines.solver
ENGINE = Engine("superlu")
A = matrices.convection(7)
N = A.shape[0]


def plan_of(a=A, **options):
    plan = solver.plan(ENGINE.there(a), **{"knobs": solver.SuperLU(), **options})
    nvs.free(plan)
    return plan


def rings(plan):
    """Those of a plan."""
    return [r for r in superlu._rings.values() if r.owner == plan.spec.family]


def test_a_ring_holds_so_many_factors():
    plan = plan_of(factor_slots=3)
    factors = [solver.factorize(plan, s * jnp.asarray(A.data)) for s in (1, 2, 3, 4)]
    jax.block_until_ready([f.ticket for f in factors])
    (ring,) = rings(plan)
    each_devices = 3 * jax.device_count("cpu") // jax.device_count("cpu")
    assert len(ring._slots) == each_devices
    stamps = [int(np.asarray(f.ticket)[4]) for f in factors]
    assert stamps == sorted(set(stamps))
    assert 0 not in stamps


@pytest.mark.parametrize(
    "drop",
    [nvs.free, lambda plan: nvs.cache.clear()],
    ids=["free", "clear"],
)
def test_dropped_factors_are_made_again(drop):
    plan = plan_of()
    factor = solver.factorize(plan, jnp.asarray(A.data))
    b = jnp.ones(N)
    jax.block_until_ready(factor.ticket)
    assert rings(plan)
    drop(plan)
    assert not rings(plan)
    with engines.counted() as counts:
        oracle.require_solution(A, solver.solve(factor, b), np.ones(N))
    assert (counts["factor_misses"], counts["factorizations"]) == (1, 1)


def test_a_block_of_resources_drops_its_rings():
    with nvs.resources():
        plan = plan_of(A * 1.0)
        jax.block_until_ready(solver.factorize(plan, jnp.asarray(A.data)).ticket)
        assert rings(plan)
    assert not rings(plan)


def test_rings_are_bounded(monkeypatch):
    monkeypatch.setattr(superlu, "KEPT", 3)
    nvs.cache.clear()
    for n in range(2, 8):
        a = matrices.poisson(n)
        plan = plan_of(a)
        oracle.require_solution(a, plan(jnp.asarray(a.data), jnp.ones(n)), np.ones(n))
    assert len(superlu._rings) == 3


def test_counters_are_those_of_the_phases():
    plan = plan_of()
    v, b = jnp.asarray(A.data), jnp.ones(N)
    with engines.counted() as counts:
        factor = solver.factorize(plan, v)
        for _ in range(3):
            jax.block_until_ready(solver.solve(factor, b))
        jax.block_until_ready(plan(2 * v, b))
    assert counts == {
        "analyses": 0,
        "factorizations": 2,
        "refactorizations": 0,
        "solves": 4,
        "factor_hits": 3,
        "factor_misses": 0,
    }


def test_a_miss_is_logged_once(caplog):
    plan = plan_of(factor_slots=1)
    factors = [solver.factorize(plan, s * jnp.asarray(A.data)) for s in (1.0, 2.0)]
    with caplog.at_level("WARNING", logger="nvstate"):
        for _ in range(3):
            for factor in factors:
                jax.block_until_ready(solver.solve(factor, jnp.ones(N)))
    said = [r.getMessage() for r in caplog.records if "factor_slots" in r.getMessage()]
    assert len(said) == 1


def test_values_are_compared_as_bytes():
    """A negative zero is another factorization, if one that makes the same x."""
    a = A.copy()
    off = np.flatnonzero(a.indices != matrices.rows_of(a))[3]
    a.data[off] = 0.0
    plan = plan_of(a)
    factor = solver.factorize(plan, jnp.asarray(a.data))
    other = a.data.copy()
    other[off] = -0.0
    edited = dataclasses.replace(factor, values=jnp.asarray(other))
    with engines.counted() as counts:
        oracle.require_solution(a, solver.solve(edited, jnp.ones(N)), np.ones(N))
    assert (counts["factor_hits"], counts["factor_misses"]) == (0, 1)


def recorded(monkeypatch):
    """Keywords of each call of `splu`."""
    calls, splu = [], scipy.sparse.linalg.splu
    monkeypatch.setattr(
        scipy.sparse.linalg, "splu", lambda a, **said: calls.append(said) or splu(a, **said)
    )
    return calls


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, {"permc_spec": "COLAMD", "options": {}}),
        ({"reordering": "amd"}, {"permc_spec": "MMD_AT_PLUS_A"}),
        ({"reordering": "none"}, {"permc_spec": "NATURAL"}),
        ({"knobs": solver.SuperLU(permc_spec="MMD_ATA")}, {"permc_spec": "MMD_ATA"}),
        ({"knobs": solver.SuperLU(relax=5)}, {"relax": 5}),
        ({"knobs": solver.SuperLU(panel_size=3)}, {"panel_size": 3}),
        ({"knobs": solver.SuperLU(equilibrate=False)}, {"options": {"Equil": False}}),
        ({"pivot_threshold": 0.25}, {"diag_pivot_thresh": 0.25}),
        (
            {"matrix_type": "symmetric"},
            {"permc_spec": "MMD_AT_PLUS_A", "options": {"SymmetricMode": True}},
        ),
        ({"matrix_type": "spd"}, {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.0}),
    ],
)
def test_every_knob_reaches_splu(monkeypatch, options, wanted):
    calls = recorded(monkeypatch)
    a = matrices.poisson(6, 6) if "matrix_type" in options else A
    plan = plan_of(a, **options)
    x = plan(jnp.asarray(a.data), jnp.ones(a.shape[0]))
    oracle.require_solution(a, x, np.ones(a.shape[0]))
    assert len(calls) == 1
    for name, value in wanted.items():
        assert calls[0][name] == value, name


def test_reorderings_differ_in_their_fill():
    a = matrices.poisson(12, 12)
    found = {
        name: int(solver.factorize(plan_of(a, reordering=name), jnp.asarray(a.data)).info.lu_nnz)
        for name in ("amd", "colamd", "none")
    }
    assert found["amd"] < found["colamd"] < found["none"]
    splu = scipy.sparse.linalg.splu(sp.csc_array(a), permc_spec="NATURAL")
    assert found["none"] == splu.nnz


def test_refinement_is_of_this_matrix():
    """Asked for, it lowers the error that a weak threshold leaves."""
    a = matrices.weak_diagonal(300, diagonal=1e-4)
    b = oracle.random(np.random.default_rng(0), (300,), "float64")
    errors = {}
    for steps in (0, 3):
        plan = plan_of(a, pivot_threshold=1e-3, refinement_steps=steps)
        v = plan.values_of(ENGINE.there(a))
        for t in ("none", "transpose"):
            x = solver.solve(solver.factorize(plan, v), jnp.asarray(b), transpose=t)
            errors[steps, t] = oracle.backward(a, x, b, t)
    for t in ("none", "transpose"):
        assert errors[3, t] <= 1e-15
        assert errors[3, t] < errors[0, t]


def test_the_diagonal_is_that_of_u():
    factor = solver.factorize(plan_of(), jnp.asarray(A.data))
    splu = scipy.sparse.linalg.splu(sp.csc_array(A.T))
    np.testing.assert_allclose(solver.diagonal(factor), splu.U.diagonal(), rtol=1e-13)


def test_sixteen_threads_at_once():
    """Callbacks on XLA's threads, of one ring and of several, each from its own Python thread."""
    plans = [plan_of(), plan_of(knobs=solver.SuperLU(relax=3))]
    solve = jax.jit(lambda plan, v, b: plan(v, b))
    b, v = jnp.ones(N), jnp.asarray(A.data)

    def work(i):
        plan = plans[i % 2]
        found = []
        for j in range(4):
            scale = 1.0 + i + 16 * j
            factor = solver.factorize(plan, scale * v)
            found.append((scale, solver.solve(factor, b), solve(plan, scale * v, b)))
        return found

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(work, i) for i in range(16)]
        for future in futures:
            for scale, x, y in future.result(timeout=120):
                oracle.require_solution(scale * A, x, np.ones(N))
                oracle.require_solution(scale * A, y, np.ones(N))


def test_sixteen_solves_in_one_program():
    """Independent callbacks, which XLA may start at once on its few threads."""
    plan = plan_of(factor_slots=16)

    @jax.jit
    def run(plan, v, bs):
        factors = [solver.factorize(plan, (i + 1.0) * v) for i in range(16)]
        return [solver.solve(f, b) for f, b in zip(factors, bs, strict=True)]

    bs = list(oracle.random(np.random.default_rng(2), (16, N), "float64"))
    xs = run(plan, jnp.asarray(A.data), [jnp.asarray(b) for b in bs])
    for i, (x, b) in enumerate(zip(xs, bs, strict=True)):
        oracle.require_solution((i + 1.0) * A, x, b)


def test_it_does_not_leave_the_process():
    plan = plan_of()
    types = [jax.ShapeDtypeStruct((A.nnz,), "float64"), jax.ShapeDtypeStruct((N,), "float64")]
    with pytest.raises(nvs.errors.UnsupportedError, match="pip install mkl"):
        jax.export.export(jax.jit(lambda v, b: plan(v, b)))(*types)
    gradient = jax.grad(lambda v, b: solver.solve(solver.factorize(plan, v), b).sum())
    with pytest.raises(nvs.errors.UnsupportedError, match="pip install mkl"):
        jax.export.export(jax.jit(gradient))(*types)


def test_a_failure_inside_is_told():
    """What SciPy raises, but for a singular matrix, is not swallowed."""
    plan = plan_of()
    jax.block_until_ready(plan(jnp.asarray(A.data), jnp.ones(N)))
    ring = rings(plan)[0]
    ring._options["panel_size"] = "wide"
    with pytest.raises(engines.FAILURES, match="int"):
        jax.block_until_ready(plan(2 * jnp.asarray(A.data), jnp.ones(N)))
    nvs.free(plan)
    oracle.require_solution(A, plan(jnp.asarray(A.data), jnp.ones(N)), np.ones(N))


def test_definite_or_not_by_signs_of_pivots():
    """An indefinite matrix with a positive diagonal, and one that is definite but badly scaled."""
    a = matrices.tidy(sp.csr_array(np.array([[1.0, 2, 0], [2, 1, 0], [0, 0, 3]])))
    scale = sp.diags_array(10.0 ** np.arange(-6, 7, 4))
    good = matrices.tidy(sp.csr_array(np.array([[2.0, 1, 0], [1, 2, 1], [0, 1, 2]])))
    good = matrices.tidy(scale @ good @ scale)
    for matrix, wanted in ((a, 3), (-a, 3), (good, 0), (-good, 3)):
        for view in ("full", "lower", "upper"):
            seen = matrices.seen(matrix, view)
            if view == "full" and matrix is not good:
                seen = matrix
            plan = plan_of(seen, matrix_type="spd", view=view)
            factor = solver.factorize(plan, jnp.asarray(seen.data))
            assert int(factor.info.status) == wanted
            assert (int(factor.info.failing_pivot) >= 0) == (wanted == 3)


def test_it_runs_where_mkl_is_not(tmp_path):
    """In a process that cannot import `mkl` it is the default, and says how to get the other."""
    code = """
        import sys
        sys.modules["mkl"] = None
        import importlib.metadata as metadata
        find = metadata.distribution
        def distribution(name):
            if name == "mkl":
                raise metadata.PackageNotFoundError(name)
            return find(name)
        metadata.distribution = distribution
        import numpy as np, scipy.sparse as sp, nvstate as nvs
        A = sp.diags_array([-1.0, 4.0, -1.0], offsets=[-1, 0, 1], shape=(5, 5)).tocsr()
        plan = nvs.direct_solver.plan(A.astype("float32"))
        print(plan.backend, "pip install mkl" in plan.describe())
    """
    del tmp_path, code, subprocess, sys, textwrap
