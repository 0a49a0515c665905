"""What is SuperLU's alone: a ring in Python behind a callback, with rules like the native ones."""

import logging
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg

import nvstate as nvs
from nvstate import _native
from nvstate.direct_solver import engine, superlu
from tests.core.test_threads import together
from tests.direct_solver import engines, matrices, oracle
from tests.direct_solver.engines import Engine, counted

solver = engines.solver
SUPERLU = Engine.of("superlu")
A = matrices.convection(7)
N = A.shape[0]
B = oracle.random(np.random.default_rng(3), (2, N), "float64")


def ring_of(plan):
    """A new ring of a plan, as the callback would make one, that nobody else has."""
    return superlu.Ring(plan.spec, plan.choices, *map(np.asarray, plan.leaves[:2]))


@pytest.fixture
def spied(monkeypatch):
    """The keywords of every call of SciPy's `splu`, which runs as ever."""
    seen, splu = [], scipy.sparse.linalg.splu

    def watching(*args, **keywords):
        seen.append(keywords)
        return splu(*args, **keywords)

    monkeypatch.setattr(scipy.sparse.linalg, "splu", watching)
    return seen


# Choice and options


@pytest.mark.parametrize(
    ("missing", "knobs", "want"),
    [
        ("no mkl here", None, "superlu"),
        ("no mkl here", solver.SuperLU(), "superlu"),
        (None, solver.SuperLU(), "superlu"),
        (None, None, "pardiso"),
    ],
)
def test_which_engine_a_cpu_has(monkeypatch, missing, knobs, want):
    monkeypatch.setattr(_native, "pardiso_missing", lambda: missing)
    choices = solver.plan(A, knobs=knobs).choices
    assert engine.backend("cpu", choices) == want
    assert engine.backend("cuda", choices) == "cudss"


@pytest.mark.parametrize(
    ("knobs", "options", "want"),
    [
        ({}, {}, {"permc_spec": "MMD_AT_PLUS_A", "options": {"SymmetricMode": True}}),
        ({}, {"matrix_type": "symmetric"}, {"permc_spec": "MMD_AT_PLUS_A"}),
        ({}, {"matrix_type": "spd"}, {"diag_pivot_thresh": 0.0}),
        ({}, {"reordering": "amd"}, {"permc_spec": "MMD_AT_PLUS_A"}),
        ({}, {"reordering": "colamd"}, {"permc_spec": "COLAMD"}),
        ({}, {"reordering": "none"}, {"permc_spec": "NATURAL"}),
        ({}, {"pivot_threshold": 0.25}, {"diag_pivot_thresh": 0.25}),
        ({"permc_spec": "MMD_ATA"}, {}, {"permc_spec": "MMD_ATA"}),
        ({"relax": 3}, {}, {"relax": 3}),
        ({"panel_size": 5}, {}, {"panel_size": 5}),
        ({"equilibrate": False}, {"reordering": "colamd"}, {"options": {"Equil": False}}),
        ({"equilibrate": True}, {"reordering": "colamd"}, {"options": {"Equil": True}}),
    ],
)
def test_options_reach_superlu(spied, knobs, options, want):
    a = matrices.poisson(6, 8)
    plan = solver.plan(a, knobs=solver.SuperLU(**knobs), **options)
    x = plan(a.data, np.ones(48))
    oracle.require_solution(a, x, np.ones(48))
    (said,) = spied
    assert {name: said.get(name) for name in want} == want
    usual = {"permc_spec", "options", *want}
    assert set(said) <= usual | {"diag_pivot_thresh"}


def test_orders_have_an_effect():
    a = matrices.poisson(20, 20)
    sizes = {}
    for name in ("NATURAL", "COLAMD", "MMD_AT_PLUS_A"):
        plan = solver.plan(a, knobs=solver.SuperLU(permc_spec=name))
        sizes[name] = int(solver.factorize(plan, a.data).info.lu_nnz)
        mode = {"SymmetricMode": True} if name == "MMD_AT_PLUS_A" else {}
        want = scipy.sparse.linalg.splu(sp.csc_array(a.T), permc_spec=name, options=mode).nnz
        assert sizes[name] == want
    assert sizes["MMD_AT_PLUS_A"] < sizes["COLAMD"] < sizes["NATURAL"]


def test_a_symmetric_pattern_has_an_order_of_its_own(spied):
    """Whatever the values are: that of SciPy's default leaves more entries."""
    a = matrices.convection(9)
    other = a.tolil()
    other[0, 40] = 0.5
    for matrix, want in ((a, "MMD_AT_PLUS_A"), (matrices.tidy(sp.csr_array(other)), "COLAMD")):
        x = SUPERLU.plan(matrix)(SUPERLU.put(matrix.data), SUPERLU.put(np.ones(81)))
        oracle.require_solution(matrix, x, np.ones(81))
        said = spied.pop()
        assert said["permc_spec"] == want
        assert said["options"].get("SymmetricMode", False) == (matrix is a)


def test_refinement_has_an_effect():
    """With hardly any pivoting each step wins digits."""
    a = matrices.weak_diagonal(60)
    errors = []
    for steps in (0, 3):
        plan = SUPERLU.plan(a, refinement_steps=steps, pivot_threshold=1e-4)
        for transpose in ("none", "transpose"):
            factor = solver.factorize(plan, SUPERLU.put(a.data))
            x = solver.solve(factor, SUPERLU.put(np.ones(60)), transpose=transpose)
            errors.append(oracle.backward(a, x, np.ones(60), transpose))
    assert min(errors[:2]) > 1e-12
    assert max(errors[2:]) < 1e-15


def test_a_program_that_leaves_says_what_to_install():
    plan = SUPERLU.plan(A)
    with pytest.raises(nvs.errors.UnsupportedError, match="pip install mkl"):
        jax.export.export(jax.jit(solver.factorize))(plan, jnp.asarray(A.data))


# Matrices


def test_hermitian_triangles_without_a_diagonal():
    """Entries of the diagonal that are not stored are zeros, and no cause of warnings."""
    rng = np.random.default_rng(2)
    n = 12
    for view in ("lower", "upper"):
        dense = np.zeros((n, n), complex)
        for i in range(n):  # pairs of rows that only meet each other
            dense[i, i ^ 1] = (2 + i) * (1 + 0.3j if i % 2 else 1 - 0.3j)
        dense = dense + dense.conj().T
        a = matrices.tidy(sp.csr_array(dense))
        stored = matrices.seen(a, view)
        plan = SUPERLU.plan(stored, matrix_type="hermitian", view=view)
        b = oracle.random(rng, n, "complex128")
        for transpose in ("none", "transpose", "adjoint"):
            factor = solver.factorize(plan, plan.values_of(SUPERLU.there(stored)))
            x = solver.solve(factor, jnp.asarray(b), transpose=transpose)
            oracle.require_solution(a, x, b, transpose)


@pytest.mark.parametrize("order", ["NATURAL", "COLAMD", "MMD_AT_PLUS_A"])
def test_the_failing_pivot_is_a_row_of_the_matrix(order):
    a = sp.lil_array(matrices.poisson(5, 6))
    a[17, 17] = -2
    a = matrices.tidy(a)
    plan = solver.plan(a, matrix_type="spd", knobs=solver.SuperLU(permc_spec=order))
    factor = solver.factorize(plan, a.data)
    assert (int(factor.info.status), int(factor.info.failing_pivot)) == (3, 17)


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
def test_nan_is_in_both_parts(dtype):
    a = sp.csr_array(np.ones((3, 3), dtype))
    plan = SUPERLU.plan(a)
    x = np.asarray(plan(plan.values_of(SUPERLU.there(a)), jnp.ones(3, dtype)))
    assert np.isnan(x.real).all()
    assert np.isnan(x.imag).all() or dtype == "float32"


# The ring itself


def test_a_ring_owns_what_it_reads():
    """XLA's arrays are gone, or have other contents, when the callback has returned."""
    for steps in (0, 2):
        plan = SUPERLU.plan(A, refinement_steps=steps)
        indptr, indices = (np.array(x) for x in plan.leaves[:2])
        values = np.array(A.data)[None]
        own = superlu.Ring(plan.spec, plan.choices, indptr.copy(), indices.copy())
        tickets, words = superlu.factorize(own, values, 2)
        kept = values.copy()
        values[:] = 7
        x = superlu.solve(own, kept, tickets, B[:, None][:1], 2, False, "raise")
        oracle.require_solution(A, x[0, 0], B[0])
        assert words[0, 0] == superlu.OK


def test_a_ring_by_name_copies_the_pattern():
    plan = SUPERLU.plan(A)
    indptr, indices = (np.array(x) for x in plan.leaves[:2])
    own = superlu.ring(plan.spec, plan.choices, "of this test", indptr, indices)
    indptr[:], indices[:] = 0, 0
    x, _, _ = superlu.factorize_solve(own, A.data[None], B[:1, None], 2, False)
    oracle.require_solution(A, x[0, 0], B[0])
    superlu.drop(plan.spec.family)
    again = superlu.ring(plan.spec, plan.choices, "of this test", *map(np.asarray, plan.leaves[:2]))
    assert again is not own
    superlu.drop(plan.spec.family)


def test_tickets_name_process_slot_element_and_stamp():
    own = ring_of(SUPERLU.plan(A))
    values = np.stack([A.data, 2 * A.data, 3 * A.data])
    first, _ = superlu.factorize(own, values, 2)
    second, _ = superlu.factorize(own, values[:1], 2)
    assert (first[:, :2] == second[0, :2]).all()
    assert first[:, 3].tolist() == [0, 1, 2]
    assert (first[:, 4] == first[0, 4]).all()
    assert second[0, 4] != first[0, 4]
    assert (first[:, 4:6] != 0).any()
    other = ring_of(SUPERLU.plan(A))
    third, _ = superlu.factorize(other, values[:1], 2)
    assert third[0, 4] not in (first[0, 4], second[0, 4])


def test_no_ring_answers_for_anothers_ticket():
    plan = SUPERLU.plan(A)
    one, two = ring_of(plan), ring_of(plan)
    tickets, _ = superlu.factorize(one, A.data[None], 2)
    superlu.factorize(two, 2 * A.data[None], 2)
    with pytest.raises(RuntimeError, match="factor_slots"):
        superlu.solve(two, A.data[None], tickets, B[:1, None], 2, False, "raise")


def test_rings_are_bounded():
    """Those that were used longest ago go, and come back when they are asked for."""
    plans = [SUPERLU.plan(sp.eye_array(n, format="csr")) for n in range(2, superlu.KEPT + 5)]
    for plan in plans:
        n = plan.spec.n
        superlu.ring(plan.spec, plan.choices, f"bounded {n}", np.arange(n + 1), np.arange(n))
    assert len(superlu._rings) == superlu.KEPT
    assert "bounded 2" not in superlu._rings
    for plan in plans:
        superlu.drop(plan.spec.family)
    assert not any(name.startswith("bounded") for name in superlu._rings)


def test_a_miss_is_logged_once_per_ring(caplog):
    plan = solver.plan(A, knobs=solver.SuperLU(), factor_slots=1)
    nvs.free(plan)
    slots = 2 * jax.device_count("cpu")  # at most: programs for several devices share the ring
    stale = solver.factorize(plan, A.data)
    with caplog.at_level(logging.WARNING, logger="nvstate"):
        for scale in range(2, slots + 4):
            solver.factorize(plan, scale * A.data)
        for _ in range(2):
            oracle.require_solution(A, solver.solve(stale, B[0]), B[0])
            for scale in range(2, slots + 4):
                solver.factorize(plan, scale * A.data)
    said = [r for r in caplog.records if "factor_slots" in r.getMessage()]
    assert len(said) == 1
    assert "raise `factor_slots`" in said[0].getMessage()


def test_members_of_a_batch_are_used_one_by_one():
    plan = SUPERLU.plan(A)
    values = jnp.stack([s * jnp.asarray(A.data) for s in (1.0, 2.0, 3.0)])
    batch = jax.vmap(solver.factorize, in_axes=(None, 0))(plan, values)
    with counted() as counts:
        for i in (2, 0):
            one = solver.Factor(plan, batch.values[i], batch.ticket[i], batch.words[i])
            oracle.require_solution((i + 1) * A, solver.solve(one, SUPERLU.put(B[0])), B[0])
    assert (counts["factor_hits"], counts["factor_misses"]) == (2, 0)


def test_one_factor_is_solved_with_by_many_threads():
    """SuperLU's objects are read by all of them at once."""
    own = ring_of(SUPERLU.plan(A))
    tickets, _ = superlu.factorize(own, A.data[None], 1)
    rng = np.random.default_rng(0)
    sides = oracle.random(rng, (16, 1, 3, N), "float64")
    gate = threading.Barrier(16)

    def work(i):
        gate.wait(60)
        for _ in range(20):
            x = superlu.solve(own, A.data[None], tickets, sides[i], 1, i % 2 == 1, "raise")
            transpose = "transpose" if i % 2 else "none"
            oracle.require_solution(A, x[0].T, sides[i, 0].T, transpose)

    together(work, threads=16)


def test_callbacks_hold_no_lock_of_jaxs():
    """Sixteen programs at once, each with callbacks, and more threads than XLA's pool has."""
    plan = SUPERLU.plan(A, factor_slots=4)
    program = jax.jit(
        lambda plan, v, b: (plan(v, b), solver.solve(solver.factorize(plan, v), b), plan(2 * v, b))
    )

    def work(i):
        scale = 1.0 + i
        for _ in range(5):
            for x, s in zip(program(plan, scale * A.data, B[0]), (1, 1, 2), strict=True):
                oracle.require_solution(s * scale * A, x, B[0])

    together(work, threads=16)


@pytest.mark.parametrize("drop", [nvs.free, lambda plan: nvs.cache.clear()], ids=["free", "clear"])
def test_freed_plans_have_no_rings(drop):
    plan = solver.plan(A, knobs=solver.SuperLU())
    solver.factorize(plan, A.data)
    assert any(ring.owner == plan.spec.family for ring in superlu._rings.values())
    drop(plan)
    assert not any(ring.owner == plan.spec.family for ring in superlu._rings.values())


def test_a_block_of_resources_drops_its_rings():
    with nvs.resources():
        plan = solver.plan(sp.eye_array(11, format="csr"), knobs=solver.SuperLU())
        solver.factorize(plan, np.ones(11))
        assert any(ring.owner == plan.spec.family for ring in superlu._rings.values())
    assert not any(ring.owner == plan.spec.family for ring in superlu._rings.values())


class Failing:
    """SciPy's `splu`, of whose calls, and solves, the one of this number finds no memory."""

    def __init__(self, call):
        self.left, self.splu = call, scipy.sparse.linalg.splu

    def count(self):
        self.left -= 1
        if self.left == 0:
            raise MemoryError("no memory is left")

    def __call__(self, *args, **keywords):
        self.count()
        return Watched(self, self.splu(*args, **keywords))


class Watched:
    """Factors."""

    def __init__(self, failing, factors):
        self.failing, self.factors = failing, factors

    def solve(self, *args, **keywords):
        self.failing.count()
        return self.factors.solve(*args, **keywords)

    def __getattr__(self, name):
        return getattr(self.factors, name)


def test_each_call_of_scipy_may_fail(monkeypatch):
    """It is told, and the factors that were there stay right."""
    plan = SUPERLU.plan(A, factor_slots=2)
    v, b = jnp.asarray(A.data), jnp.asarray(B[0])
    both = jnp.stack([v, 5 * v])

    def scenario():
        """What calls said that failed; what the others gave is right."""
        told = []

        def tried(function, *args):
            try:
                return jax.block_until_ready(function(*args))
            except engines.FAILURES as error:
                told.append(str(error))
                return None

        one = tried(solver.factorize, plan, v)
        two = tried(solver.factorize, plan, 2 * v)
        for factor, scale in ((one, 1), (two, 2), (one, 1)):
            x = None if factor is None else tried(solver.solve, factor, b)
            if x is not None:
                oracle.require_solution(scale * A, x, B[0])
        x = tried(plan, 3 * v, b)
        if x is not None:
            oracle.require_solution(3 * A, x, B[0])
        x = tried(jax.vmap(plan, in_axes=(0, None)), both, b)
        if x is not None:
            oracle.require_solution(A, x[0], B[0])
            oracle.require_solution(5 * A, x[1], B[0])
        return told

    for call in range(1, 100):
        nvs.cache.clear()
        with monkeypatch.context() as patch:
            failing = Failing(call)
            patch.setattr(scipy.sparse.linalg, "splu", failing)
            told = scenario()
            if failing.left > 0:
                break
            assert ["no memory is left" in each for each in told] == [True]
        assert scenario() == []
    assert told == []
    assert call > 15


def test_definiteness_is_the_signs_of_pivots():
    """Of a positive diagonal that is indefinite, and of a definite matrix of scales far apart."""
    a = matrices.tidy(sp.csr_array(np.array([[1.0, 2, 0], [2, 1, 0], [0, 0, 3]])))
    good = matrices.tidy(sp.csr_array(np.array([[2.0, 1, 0], [1, 2, 1], [0, 1, 2]])))
    scale = sp.diags_array(10.0 ** np.arange(-6, 7, 6))
    good = matrices.tidy(scale @ good @ scale)
    for matrix, want in ((a, 3), (matrices.tidy(-a), 3), (good, 0), (matrices.tidy(-good), 3)):
        for view in ("full", "lower", "upper"):
            seen = matrices.seen(matrix, view)
            factor = SUPERLU.factored(seen, matrix_type="spd", view=view)
            assert int(factor.info.status) == want


def test_sixteen_solves_of_one_program():
    """Independent callbacks, which XLA may start at once on fewer threads."""
    plan = SUPERLU.plan(A, factor_slots=16)

    @jax.jit
    def run(plan, v, sides):
        factors = [solver.factorize(plan, (i + 1.0) * v) for i in range(16)]
        return [solver.solve(f, b) for f, b in zip(factors, sides, strict=True)]

    sides = oracle.random(np.random.default_rng(2), (16, N), "float64")
    xs = run(plan, jnp.asarray(A.data), list(map(jnp.asarray, sides)))
    for i, (x, b) in enumerate(zip(xs, sides, strict=True)):
        oracle.require_solution((i + 1.0) * A, x, b)
