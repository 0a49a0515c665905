"""Prevents wrong solutions of PARDISO with error 0, and a factor that answers for other values."""

import functools
import os
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as sla

from nvstate import _native, errors
from nvstate._native import solver
from nvstate.direct_solver import digest
from tests.native.pardiso_call import TYPES, Call

pytestmark = pytest.mark.skipif(
    _native.pardiso_missing() is not None, reason=str(_native.pardiso_missing())
)
REFUSED = (Exception, "INVALID_ARGUMENT|FAILED_PRECONDITION")


def dense(n, dtype, seed=0, density=0.3):
    """A sparse well-conditioned matrix as an array."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((n, n))
    if np.dtype(dtype).kind == "c":
        a = a + 1j * rng.standard_normal((n, n))
    a = np.where(rng.random((n, n)) < density, a, 0) + n * np.eye(n)
    return a.astype(dtype)


def stored(whole, view):
    """What the view stores of a matrix, as CSR; the triangle that is not read holds NaN."""
    kept = {"full": whole, "lower": np.tril(whole), "upper": np.triu(whole)}[view]
    return sp.csr_array(kept)


def typed(matrix_type, dtype, n=20):
    a = dense(n, dtype)
    if matrix_type == "general":
        return a
    mirrored = a.conj().T if matrix_type in ("hermitian", "hpd") else a.T
    a = (a + mirrored) / 2
    if matrix_type in ("symmetric", "hermitian"):
        a[n // 2, n // 2] = -3 * n  # indefinite
    return a


def splu(whole, b, transposed=False):
    """The oracle, in double precision."""
    a = whole.T if transposed else whole
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    return sla.splu(sp.csc_array(a.astype(wide))).solve(np.asarray(b, wide).T).T


KINDS = [
    (t, v, d)
    for t in ("general", "symmetric", "hermitian", "spd", "hpd")
    for v in (("full",) if t == "general" else ("full", "lower", "upper"))
    for d in TYPES
    if not (t == "spd" and d.startswith("complex"))
]


@pytest.mark.thinned
@pytest.mark.parametrize(("matrix_type", "view", "dtype"), KINDS)
def test_types(matrix_type, view, dtype):
    whole = typed(matrix_type, dtype)
    call = Call(stored(whole, view), matrix_type=matrix_type, view=view)
    if matrix_type != "general" and view == "full":  # the lower triangle is not read
        rows = np.repeat(np.arange(call.n), np.diff(call.indptr))
        call.values[rows > call.indices] = np.nan
    for k in (1, 2, 17):
        b = call.rhs(1, k)
        ticket, info = call.factorize()
        assert info[0, 0] == 0
        assert info[0, 5] > 0
        x = call.solve(ticket, b)
        np.testing.assert_allclose(x[0], splu(whole, b[0]), rtol=0, atol=TYPES[dtype])
        again, ticket, _ = call.factorize_solve(b)
        np.testing.assert_allclose(again, x, rtol=0, atol=TYPES[dtype])
        if matrix_type == "general":
            x = call.solve(ticket, b, transposed=1)
            np.testing.assert_allclose(x[0], splu(whole, b[0], True), rtol=0, atol=TYPES[dtype])


def test_a_missing_diagonal_is_zero():
    whole = np.array([[0, 2, 0], [2, 1, 3], [0, 3, 5.0]])
    for view in ("full", "lower", "upper"):
        call = Call(stored(whole, view), matrix_type="symmetric", view=view)
        ticket, info = call.factorize()
        b = call.rhs(1, 2)
        np.testing.assert_allclose(call.solve(ticket, b)[0], splu(whole, b[0]), atol=1e-12)
        assert list(info[0, 2:4]) == [
            (np.linalg.eigvalsh(whole) > 0).sum(),
            (np.linalg.eigvalsh(whole) < 0).sum(),
        ]


@pytest.mark.parametrize("wide", [("indptr",), ("indices",), ("indptr", "indices")])
def test_64_bit_indices(wide):
    call = Call(dense(20, "float64"))
    for name in wide:
        setattr(call, name, getattr(call, name).astype(np.int64))
    b = call.rhs(1, 1)
    x, _, _ = call.factorize_solve(b)
    np.testing.assert_allclose(x[0], splu(dense(20, "float64"), b[0]), atol=1e-12)


def test_batches():
    call = Call(dense(15, "float64"))
    values = np.stack([call.values * (i + 1) + 0.01 * i for i in range(3)])
    values[1, 3] = np.inf
    b = call.rhs(3, 2)
    ticket, info = call.factorize(values)
    assert list(info[:, 0]) == [0, 4, 0]
    assert list(ticket[:, 3]) == [0, 1, 2]
    assert len(set(map(tuple, ticket[:, 4:6]))) == 1
    x = call.solve(ticket, b, values)
    assert np.isnan(x[1]).all()
    for i in (0, 2):
        whole = call.with_values(values[i]).toarray()
        np.testing.assert_allclose(x[i], splu(whole, b[i]), atol=1e-12)
    before = _native.solver_counts()
    order = [2, 0, 2]  # rows of the ticket in another order, and one element alone
    y = call.solve(ticket[order], b[order], values[order])
    np.testing.assert_array_equal(y, x[order])
    np.testing.assert_array_equal(call.solve(ticket[2:], b[2:], values[2:]), x[2:])
    after = _native.solver_counts()
    assert after["factor_misses"] == before["factor_misses"]
    assert after["factor_hits"] == before["factor_hits"] + 4
    assert after["factorizations"] == before["factorizations"]


def misses(run):
    before = _native.solver_counts()["factor_misses"]
    out = run()
    return _native.solver_counts()["factor_misses"] - before, out


def test_edited_values_and_strange_tickets_miss():
    call = Call(dense(20, "float64"))
    b = call.rhs(1, 1)
    ticket, _ = call.factorize()
    edited = call.values.copy()
    edited[7] += 0.5
    right = splu(call.with_values(edited).toarray(), b[0])
    count, x = misses(lambda: call.solve(ticket, b, edited))
    np.testing.assert_allclose(x[0], right, atol=1e-12)
    assert count == 1
    assert misses(lambda: call.solve(ticket, b, edited))[0] == 0  # refilled for this ticket
    assert misses(lambda: call.solve(ticket, b))[0] == 0  # and the factor itself is still there
    rng = np.random.default_rng(0)
    for word in range(8):
        strange = ticket.copy()
        strange[0, word] = rng.integers(2**32)
        np.testing.assert_allclose(call.solve(strange, b, edited)[0], right, atol=1e-12)
    for strange in (np.zeros((1, 8), np.uint32), np.full((1, 8), 2**32 - 1, np.uint32)):
        np.testing.assert_allclose(call.solve(strange, b, edited)[0], right, atol=1e-12)


@pytest.mark.parametrize("slots", [1, 2])
def test_a_half_missed_batch_leaves_nothing_to_find(slots):
    """A slot where one element was factorized, and a ticket with its stamp for the other."""
    call = Call(dense(15, "float64"), slots=slots)
    values = np.stack([call.values, call.values * 2])
    b = call.rhs(2, 1)
    ticket, _ = call.factorize(values)
    edited = values * np.array([[1], [3]])
    x = call.solve(ticket, b, edited)
    for i in range(2):
        whole = call.with_values(edited[i]).toarray()
        np.testing.assert_allclose(x[i], splu(whole, b[i]), atol=1e-12)
    guess = ticket.copy()
    guess[:, 2] = slots - 1
    guess[:, 4] += 1  # the slot's stamp
    for _ in range(2):
        y = call.solve(guess, b, values)
        for i in range(2):
            whole = call.with_values(values[i]).toarray()
            np.testing.assert_allclose(y[i], splu(whole, b[i]), atol=1e-12)


@pytest.mark.parametrize("view", ["full", "lower", "upper"])
def test_a_hermitian_diagonal_is_real(view):
    whole = typed("hermitian", "complex128")
    odd = whole + 5j * np.diag(np.arange(20) % 3)
    call = Call(stored(odd, view), matrix_type="hermitian", view=view)
    b = call.rhs(1, 1)
    x, ticket, _ = call.factorize_solve(b)
    np.testing.assert_allclose(x[0], splu(whole, b[0]), atol=1e-12)
    assert misses(lambda: call.solve(ticket, b))[0] == 0


def test_a_miss_leaves_the_factor_of_its_own_program():
    _native.register_cpu()
    call = Call(dense(20, "float64"))
    b = call.rhs(1, 1)
    fixed = (call.indptr, call.indices, call.permutation, call.reference)
    one, old = call.batch(None), np.zeros((1, 8), np.uint32)

    def target(phase, results):
        types = [jax.ShapeDtypeStruct(*r) for r in results]
        made = jax.ffi.ffi_call("nvstate_pardiso_v1", types)
        return lambda *operands: made(*fixed, *operands, **call.said(phase))

    @jax.jit
    def run(values, b):
        ticket, _ = target("factorize", call.tickets(1))(values)
        [x] = target("solve", [(b.shape, b.dtype)])(values * 3, old, b + 0 * ticket[0, 0])
        return target("solve", [(b.shape, b.dtype)])(values, ticket, b + 0 * x)[0]

    with jax.enable_x64(True):
        count, x = misses(lambda: jax.block_until_ready(run(one, b)))
    assert count == 1
    np.testing.assert_allclose(x[0], splu(call.matrix.toarray(), b[0]), atol=1e-12)


@pytest.mark.parametrize("slots", [1, 2])
def test_evicted_factors_are_made_again(slots):
    call = Call(dense(20, "float64"), slots=slots, deterministic=1)
    b = call.rhs(1, 2)
    scales = [1.0, 2.0, 3.0]
    tickets = [call.factorize(call.values * s)[0] for s in scales]
    count, x = misses(
        lambda: [call.solve(t, b, call.values * s) for t, s in zip(tickets, scales, strict=True)]
    )
    assert count >= 3 - slots
    for scale, got in zip(scales, x, strict=True):
        alone = Call(call.matrix, deterministic=1)
        fresh = alone.solve(alone.factorize(call.values * scale)[0], b, call.values * scale)
        np.testing.assert_array_equal(got, fresh)  # bits do not depend on the ring's history


def test_freed_between_phases():
    call = Call(dense(20, "float64"), owner=12345)
    b = call.rhs(1, 1)
    ticket, _ = call.factorize()
    x = call.solve(ticket, b)
    held = _native.cache_info()["plans"]
    _native.cache_drop(12345)
    assert _native.cache_info()["plans"] == held - 1
    count, y = misses(lambda: call.solve(ticket, b))
    assert count == 1
    np.testing.assert_allclose(y, x, atol=1e-13)


def test_on_stale():
    call = Call(dense(20, "float64"), on_stale="raise")
    b = call.rhs(1, 1)
    ticket, _ = call.factorize()
    call.solve(ticket, b)
    with pytest.raises(Exception, match="values are not those that it was factorized from"):
        call.solve(ticket, b, call.values * 2)
    other = ticket.copy()
    other[0, 0] ^= 1
    with pytest.raises(Exception, match="another process"):
        call.solve(other, b)
    for _ in range(2):
        call.factorize(call.values * 3)
    with pytest.raises(Exception, match=r"replaced or freed; factorize again, raise `factor_slots"):
        call.solve(ticket, b)
    assert np.isnan(call.solve(ticket, b, on_stale="nan")).all()


SINGULAR = np.array([[1, 2, 3], [2, 4, 6], [1, 1, 1.0]])


def test_status():
    whole = dense(10, "float64")
    call = Call(whole)
    b = call.rhs(1, 1)
    for bad in (np.nan, np.inf, -np.inf):
        values = call.values.copy()
        values[5] = bad
        x, ticket, info = call.factorize_solve(b, values)
        assert info[0, 0] == 4
        assert np.isnan(x).all()
        assert np.isnan(call.solve(ticket, b, values)).all()
        assert np.isnan(call.diagonal(ticket, values)).all()
    call = Call(SINGULAR)
    x, ticket, info = call.factorize_solve(call.rhs(1, 2))
    assert info[0, 0] == 2
    assert info[0, 1] > 0
    assert np.isnan(x).all()
    spd = typed("spd", "float64")
    spd[7, 7] = -100
    call = Call(spd, matrix_type="spd")
    x, ticket, info = call.factorize_solve(call.rhs(1, 2))
    assert info[0, 0] == 3
    assert info[0, 4] == 7
    assert np.isnan(x).all()
    assert np.isnan(call.solve(ticket, call.rhs(1, 1))).all()
    good = spd + np.diag(np.where(np.arange(20) == 7, 200, 0))
    x, _, info = call.factorize_solve(call.rhs(1, 2), sp.csr_array(good).data)  # usable still
    np.testing.assert_allclose(x[0], splu(good, call.rhs(1, 2)[0]), atol=1e-12)
    assert info[0, 0] == 0


def perturbed(n=15):
    """A matrix of which PARDISO replaces pivots, harmlessly if it then refines."""
    line = sp.diags_array([-np.ones(n - 1), np.full(n, 2.0), -np.ones(n - 1)], offsets=[-1, 0, 1])
    a = (sp.kron(line, sp.eye_array(n)) + sp.kron(sp.eye_array(n), line)).tolil()
    a[0, 0] = 0
    a[5, 5] = 1e-14
    return a.tocsr()


def backward_error(a, x, b):
    r = np.abs(a @ x - b).max()
    return r / (np.abs(a).sum(axis=1).max() * np.abs(x).max() + np.abs(b).max())


@pytest.mark.parametrize("matrix_type", ["general", "symmetric"])
def test_refinement_and_epsilon(matrix_type):
    """PARDISO's steps are ours plus one, and "auto" takes four."""
    a = perturbed()
    view = "full" if matrix_type == "general" else "upper"
    found = {}
    for steps in (-1, 0, 1, 2, 4):
        call = Call(
            stored(a.toarray(), view),
            matrix_type=matrix_type,
            view=view,
            pivot_epsilon=1e-4,  # of the largest entry
            refinement_steps=steps,
        )
        b = call.rhs(1, 1)
        x, _, info = call.factorize_solve(b)
        assert info[0, 0] == 1
        assert info[0, 1] > 0
        found[steps] = backward_error(a, x[0, 0], b[0, 0])
    assert found[0] > 100 * found[1] > 10000 * found[2]  # each divides it by about 1 / epsilon
    assert found[4] < 1e-15
    assert found[-1] == found[4]
    _, _, info = Call(
        stored(a.toarray(), view), matrix_type=matrix_type, view=view, pivot_epsilon=1e-14
    ).factorize_solve(b)
    assert info[0, 1] <= 1


def weak(n=300):
    rng = np.random.default_rng(3)
    a = sp.random_array((n, n), density=5 / n, rng=rng) + sp.diags_array(
        1e-3 * rng.standard_normal(n)
    )
    shuffled = sp.csr_array((rng.standard_normal(n), (np.arange(n), rng.permutation(n))), (n, n))
    return sp.csr_array(a + shuffled)


def test_matching_saves_a_weak_diagonal():
    a = weak()
    plain = Call(a)
    b = plain.rhs(1, 1)
    assert plain.factorize_solve(b)[2][0, 0] == 2
    call = Call(a, matching="product", reference=plain.values)
    x, ticket, info = call.factorize_solve(b)
    assert info[0, 0] == 0
    assert backward_error(a, x[0, 0], b[0, 0]) < 1e-15
    y = call.solve(ticket, b, transposed=1)
    assert backward_error(a.T, y[0, 0], b[0, 0]) < 1e-15
    for scale in (2.0, 3.0):  # other slots of one analysis
        x, _, info = call.factorize_solve(b, call.values * scale)
        assert info[0, 0] == 0
        assert backward_error(a * scale, x[0, 0], b[0, 0]) < 1e-15


def test_matching_of_symmetric_matrices():
    a = perturbed()
    for view in ("upper", "lower"):
        half = stored(a.toarray(), view)
        call = Call(
            half, matrix_type="symmetric", view=view, matching="product", reference=half.data
        )
        b = call.rhs(1, 1)
        x, _, info = call.factorize_solve(b)
        assert info[0, 0] <= 1
        assert backward_error(a, x[0, 0], b[0, 0]) < 1e-15


def test_pivoting():
    """Pivots of one element are replaced where the diagonal is zero; those of two are not."""
    whole = np.triu(np.random.default_rng(0).standard_normal((8, 8)), 1)
    whole = whole + whole.T
    found = {}
    for pivoting in ("auto", "bunch_kaufman", "diagonal"):
        call = Call(whole, matrix_type="symmetric", pivoting=pivoting)
        found[pivoting] = call.factorize()[1][0, 1]
    assert found["auto"] == found["bunch_kaufman"] == 0 < found["diagonal"]


def grid(m):
    line = sp.diags_array([-np.ones(m - 1), np.full(m, 2.0), -np.ones(m - 1)], offsets=[-1, 0, 1])
    return sp.csr_array(sp.kron(line, sp.eye_array(m)) + sp.kron(sp.eye_array(m), line))


def fill(call):
    info = call.factorize()[1]
    return int(info[0, 5])


def test_reordering():
    a = grid(30)
    auto, amd = Call(a), Call(a, reordering="amd")
    assert fill(Call(a, reordering="nd")) == fill(auto) != fill(amd)
    order = _native.solver_array("pardiso", 0, auto.attributes["ring"], "row_permutation")
    assert order is not None
    assert sorted(order) == list(range(900))
    again = Call(a, reordering="user", permutation=order)
    assert fill(again) == fill(auto)
    backwards = Call(a, reordering="user", permutation=np.argsort(order))
    assert fill(backwards) > 2 * fill(auto)
    replayed = Call(a, permutation=order)  # a stored analysis; the reordering stays the plan's
    assert fill(replayed) == fill(auto)
    b = auto.rhs(1, 1)
    for call in (again, backwards, replayed, amd):
        x = call.factorize_solve(b)[0]
        assert backward_error(a, x[0, 0], b[0, 0]) < 1e-15
    for name in solver.ARRAYS[1:]:
        assert _native.solver_array("pardiso", 0, auto.attributes["ring"], name) is None
    assert _native.solver_array("pardiso", 0, "no such ring", "row_permutation") is None


def test_analysis():
    a = grid(60)
    call = Call(a, owner=77)
    analyses = _native.solver_counts()["analyses"]
    facts = _native.solver_analyze(
        "pardiso", 0, call.said("factorize"), call.indptr, call.indices, "float64"
    )
    assert facts["factor_nnz"] == fill(call) > a.nnz
    assert facts["flops"] > 0
    assert facts["peak_host_bytes"] >= facts["host_bytes"] > 0 == facts["device_bytes"]
    assert _native.solver_counts()["analyses"] == analyses + 1  # the call found it
    other = Call(dense(5, "float64"), pattern=call.attributes["pattern"])
    with pytest.raises(ValueError, match="pattern was edited"):
        _native.solver_analyze(
            "pardiso", 0, other.said("factorize"), other.indptr, other.indices, "float64"
        )
    _native.cache_drop(77)


def test_bytes_grow():
    call = Call(grid(60), owner=78)
    call.factorize()
    one = _native.cache_info()
    call.factorize(call.values * 2)
    two = _native.cache_info()
    assert two["bytes"] > one["bytes"] + 8 * call.nnz
    assert two["bytes"] - one["bytes"] == two["recent_bytes"] - one["recent_bytes"]
    _native.cache_drop(78)
    assert _native.cache_info()["bytes"] < one["bytes"]


@pytest.mark.parametrize("matrix_type", ["general", "spd", "symmetric"])
def test_deterministic(matrix_type):
    """Bits are equal from run to run, in other rings and slots, whatever is solved beside."""
    a = grid(60)
    found = set()
    for threads in (1, 2):
        for _ in range(2):
            call = Call(a, matrix_type=matrix_type, deterministic=1, host_threads=threads, slots=3)
            b = call.rhs(1, 3)
            for _ in range(2):
                x, ticket, _ = call.factorize_solve(b)
                found.add(x.tobytes())
                found.add(call.solve(ticket, b).tobytes())
                alone = [call.solve(ticket, b[:, i : i + 1]) for i in range(3)]
                found.add(np.concatenate(alone, axis=1).tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("dtype", TYPES)
def test_diagonal(dtype):
    whole = dense(12, dtype)
    call = Call(whole)
    ticket, _ = call.factorize()
    d = call.diagonal(ticket)[0].astype(complex)
    sign, log = np.linalg.slogdet(whole.astype(complex))
    assert abs(abs(np.log(np.abs(d)).sum()) - log) < 1e-3
    ratio = np.prod(d / np.abs(d)) / sign
    assert min(abs(ratio - 1), abs(ratio + 1)) < 1e-3  # up to the sign of a permutation
    spd = typed("spd" if dtype.startswith("f") else "hpd", dtype)
    call = Call(spd, matrix_type="spd" if dtype.startswith("f") else "hpd")
    ticket, _ = call.factorize()
    d = call.diagonal(ticket)[0]
    assert abs(np.log(np.abs(d)).sum() - np.linalg.slogdet(spd.astype(complex))[1]) < 1e-3


def test_empty():
    call = Call(dense(5, "float64"))
    ticket, _ = call.factorize()
    before = _native.solver_counts()
    assert call.solve(ticket, np.zeros((1, 0, 5))).shape == (1, 0, 5)
    assert call.factorize(np.zeros((0, call.nnz)))[0].shape == (0, 8)
    assert _native.solver_counts() == before


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"v": 2}, "version 1"),
        ({"phase": "explode"}, "`phase` is `explode`"),
        ({"matrix_type": "odd"}, "`matrix_type`"),
        ({"view": "lower"}, "a general matrix has the view"),
        ({"matrix_type": "spd", "transposed": 1}, "only a general matrix is solved transposed"),
        ({"transposed": 2}, "not 0 or 1"),
        ({"slots": 0}, "`slots`"),
        ({"host_threads": -1}, "`host_threads`"),
        ({"refinement_steps": -2}, "`refinement_steps`"),
        ({"reordering": "colamd"}, 'no reordering \\\\?"colamd'),
        ({"reordering": "user"}, "wants a permutation"),
        ({"matching": "sum"}, "no matching"),
        ({"matching": "product"}, "want reference values"),
        ({"pivoting": "local"}, "no pivoting"),
        ({"pivoting": "diagonal"}, "no pivoting for general"),
        ({"pivot_threshold": 0.5}, "no pivot threshold"),
        ({"pivot_epsilon": 2e-8}, "a power of ten"),
        ({"pivot_epsilon": 0.0}, "a power of ten"),
        ({"pivot_epsilon": -1.0}, "a power of ten"),
        ({"matrix_type": "spd", "pivot_epsilon": 1e-8}, "no pivot epsilon for definite"),
        ({"hybrid_memory": "on"}, "no hybrid memory"),
        ({"hybrid_execute": 1}, "no hybrid execution"),
        ({"nd_levels": 3}, "no number of levels"),
        ({"superpanels": 1}, "no superpanels"),
        ({"max_lu_nnz": 5}, "no limit"),
        ({"register_host_memory": 1}, "no registered memory"),
        ({"refinement_tolerance": 1e-9}, "no refinement tolerance"),
        ({"factorization_algorithm": "1"}, "no factorization algorithm"),
        ({"tree": np.array([2, 1], np.uint64)}, "no partition"),
        ({"tree": np.array([3, 1], np.uint64)}, "shorter than it says"),
        ({"pattern": np.array([1, 2], np.uint64)}, "the plan's pattern was edited"),
        ({"pattern": np.array([1], np.uint64)}, "not two words"),
        ({"unknown": 1}, "unknown attribute `unknown`"),
    ],
)
def test_bad_attributes(changed, words):
    call = Call(dense(5, "float64"), **changed)
    phase = changed.get("phase", "factorize")
    with pytest.raises(REFUSED[0], match=words):
        call.run(phase, call.tickets(1), call.batch(None))


def test_reuse_pivots_is_refused():
    plain = Call(dense(5, "float64"))
    with pytest.raises(REFUSED[0], match="keeps pivots"):
        Call(dense(5, "float64"), reference=plain.values, reuse_pivots=1).factorize()


def test_spd_on_complex_numbers_is_refused():
    with pytest.raises(REFUSED[0], match="no matrix type on complex"):
        Call(dense(5, "complex64"), matrix_type="spd").factorize()


def test_bad_operands():
    call = Call(dense(5, "float64"))
    ticket, _ = call.factorize()
    one = call.batch(None)
    results = [((1, 1, 5), np.float64)]
    b = call.rhs(1, 1)
    for operands in (
        (one, ticket),
        (one, ticket, b[0]),
        (one[0], ticket, b),
        (one[:, 1:], ticket, b),
        (one, ticket[:, 1:], b),
        (one, ticket.astype(np.int32), b),
        (one, ticket, b.astype(np.float32)),
        (one.astype(np.int32), ticket, b),
        (one, ticket, b[:, :, 1:]),
    ):
        with pytest.raises(REFUSED[0], match=r"INVALID_ARGUMENT.*PARDISO, of int32"):
            call.run("solve", results, *operands)
    with pytest.raises(REFUSED[0], match="x is float64"):
        call.run("solve", [((1, 1, 4), np.float64)], one, ticket, b)
    with pytest.raises(REFUSED[0], match="the permutation is int32"):
        Call(dense(5, "float64"), permutation=np.arange(4)).factorize()


@pytest.mark.parametrize("edit", ["indptr", "indices", "permutation", "reference"])
def test_edited_leaves_are_an_error(edit):
    plain = Call(dense(9, "float64"))
    order = np.random.default_rng(0).permutation(9)
    call = Call(
        plain.matrix,
        reordering="user",
        permutation=order,
        matching="product",
        reference=plain.values,
    )
    array = getattr(call, edit).copy()
    array[3] += 1
    setattr(call, edit, array)
    with pytest.raises(REFUSED[0], match=r"was edited|no CSR pattern|no permutation"):
        call.factorize()


def test_a_pattern_out_of_range_is_refused_though_its_digest_fits():
    call = Call(dense(9, "float64"))
    call.indices = call.indices.copy()
    call.indices[-1] = 10**6
    call.attributes["pattern"] = np.array(
        digest.lanes(digest.pattern(call.n, call.indptr, call.indices)), np.uint64
    )
    with pytest.raises(REFUSED[0], match="out of range"):
        call.factorize()


def test_a_ring_of_other_attributes_is_refused():
    call = Call(dense(5, "float64"))
    call.factorize()
    with pytest.raises(REFUSED[0], match="`ring` is that of calls with other attributes"):
        call.factorize(refinement_steps=3)


def test_threads():
    """Many threads in one ring and in their own: factors are replaced beneath each other."""
    shared = Call(grid(12), slots=2)
    failures = []

    def work(seed):
        own = Call(grid(10 + seed), host_threads=1 + seed % 2)
        for i in range(8):
            for call in (shared, own):
                values = call.values * (1 + seed + i)
                b = call.rhs(1, 2, seed=seed)
                ticket, _ = call.factorize(values)
                x = call.solve(ticket, b, values)
                if backward_error(call.with_values(values), x[0, 0], b[0, 0]) > 1e-14:
                    failures.append((seed, i))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_digests_are_those_of_numpy():
    import ctypes

    rng = np.random.default_rng(0)
    for offset, index in ((np.int32, np.int32), (np.int64, np.int32), (np.int64, np.int64)):
        a = sp.random_array((70, 70), density=0.1, rng=rng, format="csr")
        indptr, indices = a.indptr.astype(offset), a.indices.astype(index)
        lanes = (ctypes.c_uint64 * 2)()
        arrays = (x for a in (indptr, indices) for x in (a.ctypes.data, a.itemsize))
        assert _native.load().nvstate_solver_digest(70, len(indices), *arrays, lanes) == 0
        assert tuple(lanes) == digest.lanes(digest.pattern(70, indptr, indices))
    for dtype in TYPES:  # by way of an analysis that checks them
        plain = Call(dense(9, dtype))
        order = np.random.default_rng(0).permutation(9)
        Call(
            plain.matrix,
            reordering="user",
            permutation=order,
            matching="product",
            reference=plain.values,
        ).factorize()


@functools.cache
def in_process(code, **environment):
    """What a fresh process prints last."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**{k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}, **environment},
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.strip().splitlines()[-1]


SOLVES = """
import numpy as np
from tests.native.pardiso_call import Call
from nvstate import _native
a = np.diag([2.0, 3, 4]) + np.diag([1.0, 1], 1)
call = Call(a)
x = call.factorize_solve(np.ones((1, 1, 3)))[0]
print(np.allclose(a @ x[0, 0], 1), _native.pardiso_version().split("; ")[1])
"""


def test_importing_loads_nothing():
    code = "import nvstate, os; print('mkl' in open('/proc/self/maps').read())"
    assert in_process(code) == "False"


def test_a_fresh_process():
    assert in_process(SOLVES) == "True intel threads"


def test_another_package_has_chosen_64_bit_integers():
    path = next(p for n, p in (_native.solver.mkl.files("mkl") or {}).items() if "mkl_rt" in n)
    code = f"import ctypes; ctypes.CDLL({str(path)!r}).MKL_Set_Interface_Layer(1)\n" + SOLVES
    assert in_process(code) == "True intel threads"


def test_without_the_package():
    code = (
        "from nvstate._native import mkl, solver\n"
        "import importlib.metadata as m\n"
        "def files(name): raise m.PackageNotFoundError(name)\n"
        "m.files = files\n"
        "print(solver.pardiso_missing())"
    )
    assert in_process(code) == "the package `mkl` is not installed: `pip install mkl`"


def test_a_call_without_mkl_is_an_error():
    call = SOLVES.replace("call = Call(a)", "_native.targets.mkl.missing = bool; call = Call(a)")
    code = "\n".join(f"    {line}" for line in call.splitlines())
    code = f"try:\n{code}\nexcept Exception as e:\n    print('MKL is not open' in str(e))"
    assert in_process(code) == "True"


@pytest.mark.parametrize("lost", ["libmkl_core", "libmkl_def", "libmkl_intel_thread", "libmkl_rt"])
def test_missing_files_are_a_line(lost, tmp_path):
    """MKL itself would end the process."""
    there = _native.solver.mkl.files("mkl") or {}
    names = [n for n in there if n.startswith("libmkl_") and not n.startswith(lost)]
    for name in names:
        (tmp_path / name).symlink_to(there[name])
    code = (
        "from nvstate._native import mkl, solver\n"
        "import pathlib\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "real = mkl.files\n"
        "mkl.files = lambda n: {f: folder / f for f in real(n)} if n == 'mkl' else real(n)\n"
        "print(solver.pardiso_missing())"
    )
    assert in_process(code) == f"files of the package `mkl` are missing in {tmp_path}: reinstall it"


def test_a_second_openmp_runtime_is_not_loaded(tmp_path):
    """Two copies of Intel's end the process ("OMP: Error #15")."""
    (tmp_path / "libiomp5.so").write_bytes(
        (_native.solver.mkl.files("intel-openmp") or {})["libiomp5.so"].read_bytes()
    )
    code = (
        f"import ctypes; o = ctypes.CDLL({str(tmp_path / 'libiomp5.so')!r})\n"
        "o.omp_get_max_threads()\n" + SOLVES
    )
    assert in_process(code) == "True sequential"


def test_no_openmp_runtime(tmp_path):
    there = _native.solver.mkl.files("mkl") or {}
    for name in there:
        if name.startswith("libmkl_"):
            os.link(there[name], tmp_path / name)
    code = (
        "from nvstate._native import mkl\n"
        "import pathlib\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "real = mkl.files\n"
        "mkl.files = lambda n: {f: folder / f for f in real(n)} if n == 'mkl' else None\n" + SOLVES
    )
    assert in_process(code) == "True sequential"


def test_library_error(monkeypatch):
    monkeypatch.setattr(_native.solver.mkl, "missing", lambda: "no reason")
    with pytest.raises(errors.LibraryError, match="pip install mkl"):
        _native.pardiso_version()
