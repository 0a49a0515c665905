"""The pattern of A, read from every format: another one solves another system without an error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from jax.experimental import sparse

import nvstate as nvs
from nvstate import direct_solver as solver
from nvstate.direct_solver import digest, pattern

MASK = (2**64) - 1


def unsymmetric(rng, n=7):
    dense = rng.standard_normal((n, n)) * (rng.random((n, n)) < 0.4) + 4 * np.eye(n)
    return sp.csr_array(dense)


def shuffled(a, rng):
    """The same matrix in COO, its entries in any order."""
    coo = sp.coo_array(a)
    order = rng.permutation(coo.nnz)
    return sp.coo_array((coo.data[order], (coo.row[order], coo.col[order])), shape=coo.shape)


def formats(a, rng):
    coo = shuffled(a, rng)
    pairs = jnp.stack([jnp.asarray(coo.row), jnp.asarray(coo.col)], 1)
    return {
        "csr": a,
        "csr_matrix": sp.csr_matrix(a),
        "csc": a.tocsc(),
        "coo": coo,
        "coo-sorted": sp.coo_array(a),
        "bcsr": sparse.BCSR.fromdense(jnp.asarray(a.toarray())),
        "bcoo": sparse.BCOO((jnp.asarray(coo.data), pairs), shape=a.shape),
        "arrays": (a.indptr, a.indices, a.data),
        "wide-arrays": (a.indptr.astype("int64"), jnp.asarray(a.indices, "int64"), a.data),
    }


def dense_of(found, values):
    dense = np.zeros((found.n, found.n), np.asarray(values).dtype)
    dense[found.rows, found.indices] = found.in_order(np.asarray(values))
    return dense.T if found.storage == "csc" else dense


@pytest.mark.parametrize("name", list(formats(sp.eye_array(2, format="csr"), np.random)))
def test_every_format_is_the_same_matrix(rng, name):
    a = unsymmetric(rng)
    found, values = pattern.read(formats(a, rng)[name])
    assert found.indptr.dtype == found.indices.dtype == np.int32
    np.testing.assert_array_equal(dense_of(found, values), a.toarray())


def test_sorted_coo_needs_no_gather(rng):
    a = unsymmetric(rng)
    assert solver.spec(sp.coo_array(a)) == solver.spec(a)
    assert solver.spec(shuffled(a, rng)) != solver.spec(a)


def test_values_of_any_order(rng):
    a, other = unsymmetric(rng), unsymmetric(rng)
    other = sp.csr_array((rng.standard_normal(a.nnz), a.indices, a.indptr), shape=a.shape)
    planned, given = shuffled(a, rng), shuffled(other, rng)
    for plan, had in ((solver.plan(a), a), (solver.plan(planned), planned)):
        for b in (other, given):
            found, _ = pattern.read(had)
            values = plan.values_of(b)
            np.testing.assert_array_equal(dense_of(found, values), other.toarray())
    assert solver.plan(a).values_of(other) is other.data


def test_values_of_traced_values(rng):
    a = unsymmetric(rng)
    plan = solver.plan((a.indptr, a.indices, jnp.asarray(a.data)))
    twice = jax.jit(lambda v: plan.values_of((a.indptr, a.indices, 2 * v)))(a.data)
    np.testing.assert_array_equal(twice, 2 * a.data)


def test_the_callers_arrays_are_not_the_plans(rng):
    a = unsymmetric(rng)
    plan = solver.plan(a)
    kept = np.array(plan.leaves.indices), np.array(plan.leaves.indptr)
    a.indices[:] = 0
    a.indptr[:] = 0
    np.testing.assert_array_equal(plan.leaves.indices, kept[0])
    np.testing.assert_array_equal(plan.leaves.indptr, kept[1])


def lane(words, key):
    """The contract's sum, one word at a time in Python's integers."""
    total = 0
    for i, w in enumerate(words):
        z = (w + (i + 1) * key) & MASK
        z ^= z >> 30
        z = (z * 0xBF58476D1CE4E5B9) & MASK
        z ^= z >> 27
        z = (z * 0x94D049BB133111EB) & MASK
        total += z ^ (z >> 31)
    return total & MASK


def test_digest_is_the_formula(rng, monkeypatch):
    monkeypatch.setattr(digest, "_BLOCK", 5)  # several blocks, and a last one that is not full
    a = unsymmetric(rng)
    words = [7, a.nnz, *a.indptr.tolist(), *a.indices.tolist()]
    keys = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)
    assert digest.lanes(digest.pattern(7, a.indptr, a.indices)) == tuple(
        lane(words, key) for key in keys
    )
    singles = a.data.astype("float32")
    words = [a.nnz, *singles.view("uint32").tolist()]
    assert digest.lanes(digest.reference(singles)) == tuple(lane(words, key) for key in keys)


def test_equal_sizes_are_not_equal_patterns():
    one = sp.csr_array(np.array([[1.0, 1, 0], [0, 1, 0], [0, 0, 1]]))
    other = sp.csr_array(np.array([[1.0, 0, 1], [0, 1, 0], [0, 0, 1]]))
    assert one.nnz == other.nnz
    assert solver.spec(one) != solver.spec(other)
    with pytest.raises(nvs.errors.OperandError, match=r"row 0 with columns 0, 1\n.*columns 0, 2"):
        solver.plan(one).values_of(other)


def test_rounding_is_symmetric_enough(rng):
    dense = rng.standard_normal((6, 6))
    dense = dense + dense.T
    off = np.triu(np.full((6, 6), 4 * np.finfo(float).eps), 1) * np.abs(dense).max()
    solver.spec(sp.csr_array(dense + off), matrix_type="symmetric")
    with pytest.raises(nvs.errors.SpecError, match='A is not "symmetric"'):
        solver.spec(sp.csr_array(dense + 1e6 * off), matrix_type="symmetric")


def test_nan_is_no_asymmetry():
    dense = np.array([[np.nan, 1.0], [1.0, 2.0]])
    solver.spec(sp.csr_array(dense), matrix_type="symmetric")
