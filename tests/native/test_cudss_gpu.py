"""Prevents a wrong x from right calls: by a stale ticket, a stream, a graph, another element.

`pytest -m gpu -n 0 tests/native/test_cudss_gpu.py`; oracles are SciPy's SuperLU in float64.
"""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

from nvstate import _native
from tests.native.cudss_call import System

pytestmark = pytest.mark.gpu
OK, PERTURBED, BREAKDOWN, NOT_DEFINITE, NOT_FINITE = range(5)
BOUND = {"float32": 2e-3, "complex64": 2e-3, "float64": 1e-10, "complex128": 1e-10}


@pytest.fixture(autouse=True, scope="module")
def _registered():
    if not any(d.platform == "gpu" for d in jax.devices()):
        return  # each test is skipped
    _native.register()
    assert _native.cudss_version()[:2] == (1, 0)


def grid(side, dtype="float64", rng=None):
    """A 2-D Poisson matrix, made unsymmetric where `rng` is given."""
    line = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], (side, side))
    a = sp.kronsum(line, line).tocsr().astype(dtype)
    a.sort_indices()
    if rng is not None:
        a.data = a.data * (1 + 0.3 * rng.uniform(-1, 1, a.nnz))
        if np.issubdtype(a.dtype, np.complexfloating):
            a.data = a.data + 0.3j * rng.uniform(-1, 1, a.nnz)
    return a


def typed(kind, view, dtype, side=9, **options):
    """A system and one row of values for a type and view; the unread triangle is not stored."""
    rng = np.random.default_rng(3)
    is_complex = np.issubdtype(np.dtype(dtype), np.complexfloating)
    if kind == "general":
        a = grid(side, dtype, rng)
    else:
        lower = sp.tril(grid(side, dtype, rng), -1)
        transposed = lower.conj().T if kind in ("hermitian", "hpd") else lower.T
        diagonal = rng.uniform(8, 9, side * side)
        if kind in ("symmetric", "hermitian"):
            diagonal *= np.where(np.arange(side * side) % 3 == 0, -1, 1)
        if kind == "symmetric" and is_complex:
            diagonal = diagonal * (1 + 0.5j)
        a = (lower + transposed + sp.diags(diagonal)).astype(dtype)
        a = {"full": a, "lower": sp.tril(a), "upper": sp.triu(a)}[view]
    a = a.tocsr()
    a.sort_indices()
    return System(a, matrix_type=kind, view=view, **options), jnp.asarray(a.data)[None]


def rhs(system, batch=1, k=1, seed=0):
    rng = np.random.default_rng(seed)
    b = rng.normal(size=(batch, k, system.n))
    if np.issubdtype(system.dtype, np.complexfloating):
        b = b + 1j * rng.normal(size=b.shape)
    return jnp.asarray(b.astype(system.dtype))


def assert_solves(system, values, b, x, *, transposed=False):
    for one, right, left in zip(np.asarray(values), np.asarray(b), np.asarray(x), strict=True):
        expected = system.expected(one, right, transposed=transposed)
        error = np.abs(left - expected).max() / np.abs(expected).max()
        assert error < BOUND[np.dtype(system.dtype).name]


def counted(before):
    return {k: v - before[k] for k, v in _native.solver_counts().items()}


def statuses(info):
    return np.asarray(info)[:, 0].tolist()


TYPES = [
    (kind, view, dtype)
    for dtype in BOUND
    for kind in ("general", "symmetric", "hermitian", "spd", "hpd")
    for view in (("full",) if kind == "general" else ("full", "lower", "upper"))
    if (kind in ("hermitian", "hpd")) <= dtype.startswith("complex")
    if (kind == "spd") <= dtype.startswith("float")
]


@pytest.mark.parametrize(("kind", "view", "dtype"), TYPES)
@pytest.mark.parametrize("k", [1, 17])
def test_types_and_views(kind, view, dtype, k):
    system, values = typed(kind, view, dtype)
    b = rhs(system, k=k)
    ticket, info = system.factorize(values)
    assert statuses(info) == [OK]
    assert_solves(system, values, b, system.solve(values, ticket, b))
    x, _, _ = system.factorize_solve(values, b)
    assert_solves(system, values, b, x)


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("k", [1, 2, 17])
def test_transposed_and_normal_in_turn(dtype, k):
    system, values = typed("general", "full", dtype)
    b = rhs(system, k=k)
    ticket, _ = system.factorize(values)
    before = _native.solver_counts()
    for transposed in (True, False, True):
        x = system.solve(values, ticket, b, transposed=int(transposed))
        assert_solves(system, values, b, x, transposed=transposed)
    assert counted(before)["factor_hits"] == 3


@pytest.mark.parametrize(
    ("index", "offset"), [("int32", "int32"), ("int32", "int64"), ("int64", "int64")]
)
def test_index_types(index, offset):
    a = grid(8, rng=np.random.default_rng(1))
    system = System(a, index=np.dtype(index), offset=np.dtype(offset))
    values, b = jnp.asarray(a.data)[None], rhs(system, k=2)
    ticket, info = system.factorize(values)
    assert statuses(info) == [OK]
    assert_solves(system, values, b, system.solve(values, ticket, b))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_small(n):
    a = sp.csr_matrix(np.tri(n) + n * np.eye(n))
    system = System(a)
    b = rhs(system, k=3)
    values = jnp.asarray(a.data)[None]
    x, _, info = system.factorize_solve(values, b)
    assert statuses(info) == [OK]
    assert_solves(system, values, b, x)


def test_empty_is_no_native_call():
    system, values = typed("general", "full", "float64")
    before = _native.solver_counts()
    ticket, info = system.factorize(values[:0])
    assert ticket.shape == (0, 8)
    assert info.shape == (0, 8)
    assert system.solve(values[:0], ticket, rhs(system)[:0]).shape == (0, 1, system.n)
    assert set(counted(before).values()) == {0}
    ticket, _ = system.factorize(values)
    assert system.solve(values, ticket, rhs(system)[:, :0]).shape == (1, 0, system.n)


# --- Tickets --------------------------------------------------------------------------------------


def test_hit_counts_and_analysis_is_the_plans():
    system, values = typed("general", "full", "float64")
    facts = system.analyze()
    assert facts["factor_nnz"] >= system.nnz
    assert facts["device_bytes"] > 0
    before = _native.solver_counts()
    ticket, info = system.factorize(values)
    assert int(info[0, 5]) == facts["factor_nnz"]
    for seed in range(3):
        b = rhs(system, seed=seed)
        assert_solves(system, values, b, system.solve(values, ticket, b))
    found = counted(before)
    assert (found["analyses"], found["factorizations"], found["factor_misses"]) == (0, 1, 0)
    assert (found["solves"], found["factor_hits"]) == (3, 3)


def test_more_factors_than_slots_interleaved():
    system, values = typed("general", "full", "float64", slots=2)
    many = [values * (1 + 0.1 * i) + 0.01 * i for i in range(5)]
    tickets = [system.factorize(v)[0] for v in many]
    before = _native.solver_counts()
    for seed in range(2):
        for v, ticket in zip(many, tickets, strict=True):
            b = rhs(system, seed=seed)
            assert_solves(system, v, b, system.solve(v, ticket, b))
    assert counted(before)["factor_misses"] > 0
    assert counted(before)["analyses"] <= 1  # of the second slot


def test_edited_values_are_not_solved_with_the_old_factors():
    system, values = typed("general", "full", "float64")
    ticket, _ = system.factorize(values)
    b = rhs(system)
    edited = values.at[0, 5].multiply(1.5)
    before = _native.solver_counts()
    assert_solves(system, edited, b, system.solve(edited, ticket, b))
    assert counted(before)["factor_misses"] == 1
    assert_solves(system, edited, b, system.solve(edited, ticket, b))  # the alias
    assert counted(before)["factor_misses"] == 1
    assert_solves(system, values, b, system.solve(values, ticket, b))
    assert counted(before)["factor_misses"] == 1


@pytest.mark.parametrize("what", ["zeros", "nonce", "stamp", "slot", "float"])
def test_nonsense_tickets_miss(what):
    system, values = typed("general", "full", "float64")
    ticket, _ = system.factorize(values)
    nonsense = {
        "zeros": jnp.zeros_like(ticket),
        "nonce": ticket.at[0, 0].add(1),
        "stamp": ticket.at[0, 4].add(1000),
        "slot": ticket.at[0, 2].set(77),
        "float": (ticket // 2 + ticket // 3),
    }[what]
    b = rhs(system)
    assert_solves(system, values, b, system.solve(values, nonsense, b))


def test_freed_ring_is_made_again():
    system, values = typed("general", "full", "float64")
    ticket, _ = system.factorize(values)
    _native.cache_drop(system.attributes["owner"])
    b = rhs(system)
    assert_solves(system, values, b, system.solve(values, ticket, b))


@pytest.mark.parametrize("free", [False, True])
def test_raise(free):
    system, values = typed("general", "full", "float64", on_stale="raise", slots=1)
    ticket, _ = system.factorize(values)
    b = rhs(system)
    assert_solves(system, values, b, system.solve(values, ticket, b))
    if free:
        _native.cache_drop(system.attributes["owner"])
    else:
        system.factorize(2 * values)[0].block_until_ready()
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"FAILED_PRECONDITION: nvstate\.direct_"):
        system.solve(values, ticket, b).block_until_ready()


def test_nan_path():
    system, values = typed("general", "full", "float64", on_stale="nan", slots=1)
    first, _ = system.factorize(values)
    b = rhs(system, k=2)
    assert_solves(system, values, b, system.solve_or_nan(values, first, b))
    assert np.isnan(system.solve_or_nan(2 * values, first, b)).all()  # edited
    second, _ = system.factorize(2 * values)
    assert np.isnan(system.solve_or_nan(values, first, b)).all()  # replaced
    assert_solves(system, 2 * values, b, system.solve_or_nan(2 * values, second, b))
    _native.cache_drop(system.attributes["owner"])
    assert np.isnan(system.solve_or_nan(2 * values, second, b)).all()


def test_edited_pattern_is_an_error():
    system, values = typed("general", "full", "float64")
    system.indices = system.indices.copy()
    system.indices[0] += 1
    with pytest.raises(jax.errors.JaxRuntimeError, match="pattern was edited") as raised:
        system.factorize(values)[0].block_until_ready()
    assert f"float64[1,{system.nnz}]" in str(raised.value)


# --- Batches --------------------------------------------------------------------------------------


def batched(kind="general", dtype="float64", batch=4, **options):
    system, values = typed(kind, "full", dtype, **options)
    scale = jnp.arange(1, batch + 1, dtype=values.real.dtype)[:, None]
    return system, values * (1 + scale / 7)


@pytest.mark.parametrize("kind", ["general", "symmetric", "spd"])
@pytest.mark.parametrize("k", [1, 3])
def test_batch_and_its_elements(kind, k):
    system, values = batched(kind)
    b = rhs(system, batch=4, k=k)
    ticket, info = system.factorize(values)
    assert statuses(info) == [OK] * 4
    before = _native.solver_counts()
    assert_solves(system, values, b, system.solve(values, ticket, b))
    for i in (2, 0, 3):
        one = slice(i, i + 1)
        assert_solves(system, values[one], b[one], system.solve(values[one], ticket[one], b[one]))
    order = np.array([3, 1, 0, 2])
    x = system.solve(values[order], ticket[order], b[order])
    assert_solves(system, values[order], b[order], x)
    assert counted(before)["factor_misses"] == 0
    assert counted(before)["factorizations"] == 0
    single = system.factorize(values[:1])[1]
    assert int(single[0, 5]) == int(info[0, 5])  # lu_nnz is an element's, not the sum


def test_batch_transposed():
    system, values = batched()
    b = rhs(system, batch=4, k=2)
    ticket, _ = system.factorize(values)
    x = system.solve(values, ticket, b, transposed=1)
    assert_solves(system, values, b, x, transposed=True)


def test_half_of_a_batch_missed():
    system, values = batched()
    ticket, _ = system.factorize(values)
    edited = values.at[1].multiply(2).at[3].multiply(3)
    b = rhs(system, batch=4)
    before = _native.solver_counts()
    assert_solves(system, edited, b, system.solve(edited, ticket, b))
    assert counted(before)["factor_hits"] == 2
    assert counted(before)["factor_misses"] == 2


@pytest.mark.parametrize("bad", ["nan", "inf", "indefinite"])
def test_one_bad_member(bad):
    system, values = batched("spd")
    broken = {"nan": jnp.nan, "inf": jnp.inf, "indefinite": None}[bad]
    values = values.at[1].multiply(-1) if broken is None else values.at[1, 3].set(broken)
    b = rhs(system, batch=4)
    x, ticket, info = system.factorize_solve(values, b)
    status = NOT_DEFINITE if broken is None else NOT_FINITE
    assert statuses(info) == [OK, status, OK, OK]
    good = np.array([0, 2, 3])
    assert np.isnan(x[1]).all()
    assert_solves(system, values[good], b[good], x[good])
    x = system.solve(values, ticket, b)
    assert np.isnan(x[1]).all()
    assert_solves(system, values[good], b[good], x[good])


def test_inertia_of_each_element():
    system, values = typed("symmetric", "full", "float64")
    _, info = system.factorize(jnp.concatenate([values, -values]))
    eigenvalues = np.linalg.eigvalsh(system.matrix(values[0]).toarray())
    positive, negative = int((eigenvalues > 0).sum()), int((eigenvalues < 0).sum())
    assert info[:, 2:4].tolist() == [[positive, negative], [negative, positive]]


# --- Status ---------------------------------------------------------------------------------------


def test_not_definite_then_good_again():
    """The library's error indicator stays, and spoils what comes later, unless it is reset."""
    system, values = typed("spd", "full", "float64")
    b = rhs(system)
    for sign, status in ((1, OK), (-1, NOT_DEFINITE), (1, OK), (-1, NOT_DEFINITE), (1, OK)):
        x, _, info = system.factorize_solve(sign * values, b)
        assert statuses(info) == [status]
        if status == OK:
            assert_solves(system, values, b, x)
        else:
            assert np.isnan(x).all()
            assert int(info[0, 4]) >= 0


def test_singular_is_a_breakdown():
    side = 10
    ring = sp.diags([2.0] * side) - sp.eye(side, k=1) - sp.eye(side, k=-1)
    ring = (ring - sp.eye(side, k=side - 1) - sp.eye(side, k=1 - side)).tocsr()  # rows sum to 0
    ring.sort_indices()
    system = System(ring)
    values = jnp.asarray(ring.data)[None]
    x, ticket, info = system.factorize_solve(values, rhs(system))
    assert statuses(info) == [BREAKDOWN]
    assert np.isnan(x).all()
    assert np.isnan(system.solve(values, ticket, rhs(system))).all()


@pytest.mark.parametrize("kind", ["general", "symmetric"])
def test_perturbed_pivots_are_refined_from_values_that_stay(kind):
    """The pivots below a large epsilon are replaced; refinement reads the values, later too."""
    rng = np.random.default_rng(5)
    diagonal = np.where(np.arange(81) % 9 == 0, 1e-4, rng.uniform(1, 2, 81))
    a = (sp.diags(diagonal) + 1e-6 * grid(9)).tocsr()
    a.sort_indices()
    system = System(a, matrix_type=kind, pivot_epsilon=1e-3, pivot_epsilon_algorithm="static")
    values, b = jnp.asarray(a.data)[None], rhs(system, k=2)
    ticket, info = system.factorize(values)
    assert int(info[0, 1]) > 0
    assert statuses(info)[0] in (PERTURBED, BREAKDOWN)
    x = np.asarray(system.solve(values, ticket, b))
    more = [jnp.full_like(values, i) for i in range(50)]  # what XLA had freed is others' now
    again = np.asarray(system.solve(values, ticket, b))
    assert len(more) == 50
    assert np.allclose(x, again, rtol=1e-9, equal_nan=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(value):
    system, values = typed("general", "full", "float64")
    before = _native.solver_counts()
    x, _, info = system.factorize_solve(values.at[0, 7].set(value), rhs(system))
    assert statuses(info) == [NOT_FINITE]
    assert np.isnan(x).all()
    assert counted(before)["factorizations"] == 0
    b = rhs(system)
    x, _, info = system.factorize_solve(values, b)
    assert_solves(system, values, b, x)


# --- Options --------------------------------------------------------------------------------------

OPTIONS = {
    "amd": {"reordering": "amd"},
    "nd": {"reordering": "nd"},
    "colamd": {"reordering": "colamd"},
    "btf_colamd": {"reordering": "btf_colamd"},
    "none": {"reordering": "none"},
    "superpanels-off": {"superpanels": 0},
    "nd-levels": {"nd_levels": 4},
    "pivot-none": {"pivoting": "none"},
    "pivot-local": {"pivoting": "local"},
    "refined": {"refinement_steps": 2},
    "deterministic": {"deterministic": 1, "refinement_steps": 0},
    "hybrid-memory": {"hybrid_memory": "on"},
    "hybrid-execute": {"hybrid_execute": 1},
    "one-thread": {"host_threads": 1},
    "solve-general": {"solve_algorithm": "general"},
    "static-epsilon": {"pivot_epsilon_algorithm": "static", "pivot_epsilon": 1e-12},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("batch", [1, 3])
def test_options(options, batch):
    system, values = batched(batch=batch, **options)
    b = rhs(system, batch=batch, k=2)
    ticket, info = system.factorize(values)
    assert statuses(info) == [OK] * batch
    assert_solves(system, values, b, system.solve(values, ticket, b))
    if "colamd" not in options.get("reordering", ""):
        x = system.solve(values, ticket, b, transposed=1)
        assert_solves(system, values, b, x, transposed=True)


def test_deterministic_bits():
    system, values = typed("general", "full", "float64", 30, deterministic=1, refinement_steps=0)
    b = rhs(system, k=3)
    first = np.asarray(system.factorize_solve(values, b)[0])
    for _ in range(5):
        _native.cache_drop(system.attributes["owner"])
        assert np.array_equal(first, system.factorize_solve(values, b)[0])


def test_transposed_colamd_is_refused():
    system, values = typed("general", "full", "float64", reordering="colamd")
    ticket, _ = system.factorize(values)
    with pytest.raises(jax.errors.JaxRuntimeError, match="transposed systems with reordering"):
        system.solve(values, ticket, rhs(system), transposed=1)


def test_permutation_is_used_and_second_slot_replays():
    a = grid(9, rng=np.random.default_rng(1))
    order = np.random.default_rng(2).permutation(81).astype(np.int32)
    system = System(a, reordering="user", permutation=order)
    facts = system.analyze()
    found = _native.solver_array("cudss", 0, system.attributes["ring"], "row_permutation")
    assert sorted(found) == list(range(81))
    plain = System(a)
    assert plain.analyze()["factor_nnz"] < facts["factor_nnz"]
    values = jnp.asarray(a.data)[None]
    for v in (values, 2 * values, 3 * values):
        ticket, info = system.factorize(v)
        assert statuses(info) == [OK]
        assert_solves(system, v, rhs(system), system.solve(v, ticket, rhs(system)))


def test_stored_analysis():
    a = grid(40, rng=np.random.default_rng(1))
    cold = System(a)
    facts = cold.analyze()
    ring = cold.attributes["ring"]
    order = _native.solver_array("cudss", 0, ring, "row_permutation")
    tree = _native.solver_array("cudss", 0, ring, "partition_tree")
    words = np.zeros(1 + (len(tree) + 1) // 2, np.uint64)
    words[0] = len(tree)
    words[1:].view(np.int32)[: len(tree)] = tree
    warm = System(a, permutation=order, tree=words)
    again = warm.analyze()
    assert again["factor_nnz"] == facts["factor_nnz"]
    values = jnp.asarray(a.data)[None]
    x, _, _ = warm.factorize_solve(values, rhs(warm))
    assert_solves(warm, values, rhs(warm), x)


@pytest.mark.parametrize("batch", [1, 3])
def test_reuse_pivots(batch):
    system, values = typed("general", "full", "float64")
    one = np.asarray(values[0])
    reusing = System(system.matrix(one).tocsr(), reference=one, reuse_pivots=1)
    many = jnp.stack([values[0] * (1 + 0.1 * i) for i in range(batch)])
    b = rhs(reusing, batch=batch)
    before = _native.solver_counts()
    for _ in range(2):
        x, _, info = reusing.factorize_solve(many, b)
        assert statuses(info) == [OK] * batch
        assert_solves(reusing, many, b, x)
    assert counted(before)["refactorizations"] == 2 * batch


def test_matching_saves_a_weak_diagonal():
    rng = np.random.default_rng(0)
    n = 300
    a = sp.random(n, n, 0.02, format="csr", rng=rng)
    shift = sp.csr_matrix((rng.uniform(1, 2, n), (np.arange(n), (np.arange(n) + 1) % n)))
    a = (a * 0.05 + shift + 1e-3 * sp.eye(n)).tocsr()
    a.sort_indices()
    system = System(a, matching="product", reference=a.data)
    values = jnp.asarray(a.data)[None]
    x, _, info = system.factorize_solve(values, rhs(system))
    assert statuses(info)[0] in (OK, PERTURBED)
    assert_solves(system, values, rhs(system), x)
    ring = system.attributes["ring"]
    assert sorted(_native.solver_array("cudss", 0, ring, "matching")) == list(range(n))
    assert (_native.solver_array("cudss", 0, ring, "row_scale") > 0).all()


def test_diagonal():
    system, values = batched(batch=2, reordering="colamd")
    ticket, _ = system.factorize(values)
    d = np.asarray(system.diagonal(values, ticket))
    for one, found in zip(values, d, strict=True):
        logs = np.linalg.slogdet(system.matrix(one).toarray())[1]
        assert abs(np.log(np.abs(found)).sum() - logs) < 1e-9 * abs(logs)


# --- Under jit ------------------------------------------------------------------------------------


def test_newton_like_scan_is_one_analysis_without_a_miss():
    system, values = typed("general", "full", "float64")
    b = rhs(system)
    system.analyze()

    @jax.jit
    def steps(v, b):
        def step(carry, i):
            v, b = carry
            ticket, _ = system.factorize(v)
            x = system.solve(v, ticket, b)
            y = system.solve(v, ticket, b, transposed=1)
            return (v * 1.01, b), (x, y)

        return jax.lax.scan(step, (v, b), jnp.arange(20))[1]

    before = _native.solver_counts()
    x, y = steps(values, b)
    found = counted(before)
    assert (found["analyses"], found["factor_misses"], found["factorizations"]) == (0, 0, 20)
    for i in (0, 7, 19):
        assert_solves(system, values * 1.01**i, b, x[i])
        assert_solves(system, values * 1.01**i, b, y[i], transposed=True)


def test_two_threads_two_plans():
    plans = [typed("general", "full", dtype) for dtype in ("float64", "float32")]
    failures = []

    def work(seed):
        try:
            for i in range(10):
                for system, values in plans:
                    v = values * (1 + 0.1 * seed + 0.01 * i)
                    b = rhs(system, seed=seed)
                    ticket, _ = system.factorize(v)
                    assert_solves(system, v, b, system.solve(v, ticket, b))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_memory_is_flat():
    system, values = typed("general", "full", "float64", 30)
    b = rhs(system)
    function = jax.jit(lambda v: system.factorize_solve(v, b)[0])
    taken = []
    for i in range(1000):
        function(values * (1 + 1e-4 * i)).block_until_ready()
        if i in (10, 999):
            taken.append(_native.cache_info()["bytes"])
    assert taken[0] == taken[1] > 0


GRAPHS = {"xla_gpu_graph_min_graph_size": 1}
NO_GRAPHS = {"xla_gpu_enable_command_buffer": ""}


@pytest.mark.parametrize("options", [GRAPHS, NO_GRAPHS], ids=["graphs", "no-graphs"])
@pytest.mark.parametrize("kind", ["general", "symmetric"])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("changes", [{}, {"refinement_steps": 2}, {"transposed": 1}])
def test_fused_with_changing_values_and_addresses(options, kind, k, changes):
    system, values = typed(kind, "full", "float64", 20)
    if changes.get("transposed") and kind != "general":
        pytest.skip("only a general matrix is solved transposed")
    function = jax.jit(lambda v, b: system.fused(v, b, **changes) + 0, compiler_options=options)
    keep = []
    for i in range(12):
        v, b = values * (1 + 0.2 * i), rhs(system, k=k, seed=i)
        x = function(v, b)
        keep.append((v, b, x, jnp.ones(1000 * (i + 1))))  # so that addresses differ
    for v, b, x, _ in keep:
        assert_solves(system, v, b, x, transposed=bool(changes.get("transposed")))


@pytest.mark.parametrize("options", [GRAPHS, NO_GRAPHS], ids=["graphs", "no-graphs"])
def test_fused_in_a_chain_and_a_scan(options):
    system, values = typed("general", "full", "float64", 20)

    def step(carry, i):
        v, b = carry
        x = system.fused(v, b)
        x = system.fused(v * 2, x)
        return (v * 1.1, b + 1), x

    function = jax.jit(
        lambda v, b: jax.lax.scan(step, (v, b), jnp.arange(10))[1], compiler_options=options
    )
    for seed in range(3):
        b = rhs(system, seed=seed)
        found = function(values, b)
        v = np.asarray(values)
        for i in range(10):
            first = system.expected(v[0] * 1.1**i, np.asarray(b[0]) + i)
            expected = system.expected(v[0] * 1.1**i * 2, first)
            error = np.abs(found[i, 0] - expected).max() / np.abs(expected).max()
            assert error < 1e-10


def test_fused_recovers_from_nan_and_from_singular_values():
    system, values = typed("general", "full", "float64", 20)
    function = jax.jit(system.fused, compiler_options=GRAPHS)
    b = rhs(system)
    for _ in range(3):
        assert_solves(system, values, b, function(values, b))
        assert not np.isfinite(np.asarray(function(values.at[0, 3].set(jnp.nan), b))).all()
        function(jnp.zeros_like(values), b).block_until_ready()


def test_fused_beside_the_waiting_target():
    system, values = typed("general", "full", "float64", 20)

    @jax.jit
    def both(v, b):
        ticket, _ = system.factorize(v)
        return system.fused(v, b), system.solve(v, ticket, b)

    b = rhs(system)
    for i in range(5):
        for x in both(values * (1 + i), b):
            assert_solves(system, values * (1 + i), b, x)


def test_fused_refuses_definite_types():
    system, values = typed("spd", "full", "float64")
    with pytest.raises(jax.errors.JaxRuntimeError, match="an spd or hpd matrix cannot be"):
        jax.jit(system.fused)(values, rhs(system))
