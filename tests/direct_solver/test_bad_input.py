"""What `plan` refuses, word for word; and that a wrong answer is not given instead."""

# ruff: noqa: E501  (messages stand here as they are)

import dataclasses
from inspect import cleandoc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from jax.experimental import sparse

import nvstate as nvs
from nvstate import direct_solver as solver
from nvstate.direct_solver import checks, choices, support


def csr(dense):
    return sp.csr_array(np.array(dense))


def raw(indptr, indices):
    return np.array(indptr), np.array(indices), np.ones(len(indices))


A = sp.diags_array([-1.0, 4.0, -1.0], offsets=[-1, 0, 1], shape=(4, 4)).tocsr()
G = csr([[1.0, 2, 0], [0, 3, 4], [5, 0, 6]])
S = csr([[4.0, 1, 0], [1, 4, 1], [0, 1, 4]])


class Lazy:
    """A plan that is made when a test needs it."""

    def __getattr__(self, name):
        return getattr(solver.plan(A), name)

    def __call__(self, *args):
        return solver.plan(A)(*args)


P = Lazy()

REFUSED = {
    "rectangular": (
        lambda: solver.plan(csr(np.ones((2, 3)))),
        "SpecError",
        """
        A is not square
          expected: a shape [n, n] with n of at least 1
          got:      [2, 3]
        Pass a square matrix; for least squares there is `scipy.sparse.linalg.lsqr`.
        """,
    ),
    "empty": (
        lambda: solver.plan(sp.csr_array((0, 0))),
        "SpecError",
        """
        A is empty
          expected: a shape [n, n] with n of at least 1
          got:      [0, 0]
        Pass a square matrix; for least squares there is `scipy.sparse.linalg.lsqr`.
        """,
    ),
    "dense": (
        lambda: solver.plan(np.eye(3)),
        "SpecError",
        """
        A is dense
          expected: a sparse matrix
          got:      float64[3,3]
        Convert it with `jax.experimental.sparse.BCSR.fromdense(A)`, or solve with `jax.numpy.linalg.solve`.
        """,
    ),
    "no-matrix": (
        lambda: solver.plan("A"),
        "SpecError",
        """
        A is no sparse matrix
          expected: scipy.sparse CSR, CSC or COO, a BCSR, a BCOO, or (indptr, indices, values)
          got:      str
        Pass one of these.
        """,
    ),
    "bsr": (
        lambda: solver.plan(A.tobsr()),
        "SpecError",
        """
        A in a format that is not read
          expected: CSR, CSC or COO
          got:      scipy.sparse._bsr.bsr_array
        Convert it with `A.tocsr()`.
        """,
    ),
    "batched": (
        lambda: solver.plan(sparse.BCSR.fromdense(jnp.ones((2, 3, 3)), n_batch=1)),
        "SpecError",
        """
        BCSR with batch dimensions
          expected: one matrix [n, n]
          got:      a shape of [2, 3, 3], 1 of it batch and 0 dense
        Plan from one of its members, and use `jax.vmap` over the values.
        """,
    ),
    "dense-dimensions": (
        lambda: solver.plan(sparse.BCOO.fromdense(jnp.ones((3, 3, 2)), n_dense=1)),
        "SpecError",
        """
        BCOO with dense dimensions
          expected: one matrix [n, n]
          got:      a shape of [3, 3, 2], 0 of it batch and 1 dense
        Plan from one of its members, and use `jax.vmap` over the values.
        """,
    ),
    "integers": (
        lambda: solver.plan(csr(np.eye(2, dtype=int))),
        "SpecError",
        """
        A of int64
          expected: one of float32, float64, complex64, complex128
          got:      int64[2]
        Convert it first: `A.astype("float64")`.
        """,
    ),
    "float16": (
        lambda: solver.plan((A.indptr, A.indices, A.data.astype("float16"))),
        "SpecError",
        """
        A of float16
          expected: one of float32, float64, complex64, complex128
          got:      float16[10]
        Convert it first: `A.astype("float64")`.
        """,
    ),
    "values-too-few": (
        lambda: solver.plan((A.indptr, A.indices, A.data[1:])),
        "OperandError",
        """
        as many values as indices
          expected: float64[10]
          got:      float64[9]
        Pass the three arrays of one matrix: indptr [n + 1], indices [nnz], values [nnz].
        """,
    ),
    "unsorted": (
        lambda: solver.plan(raw([0, 2, 3], [1, 0, 1])),
        "SpecError",
        """
        unsorted indices
          expected: indices that ascend within each row
          got:      row 0, entry 1: 0 after 1
        Sort them with `A.sort_indices()`, and the values with them.
        """,
    ),
    "duplicate": (
        lambda: solver.plan(raw([0, 2, 3], [0, 0, 1])),
        "SpecError",
        """
        duplicate indices
          expected: each entry of A once
          got:      row 0, entry 1: 0 again
        Add them up with `A.sum_duplicates()`; BCOO's needs `nse=None` and no `jit`.
        """,
    ),
    "duplicate-coo": (
        lambda: solver.plan(sp.coo_array((np.ones(3), ([0, 1, 0], [0, 1, 0])), shape=(2, 2))),
        "SpecError",
        """
        duplicate indices
          expected: each entry of A once
          got:      entries 0 and 2, both at [0, 0]
        Add them up with `A.sum_duplicates()`; BCOO's needs `nse=None` and no `jit`.
        """,
    ),
    "unsorted-csc": (
        lambda: solver.plan(
            sp.csc_array((np.ones(3), np.array([1, 0, 1]), np.array([0, 2, 3])), shape=(2, 2))
        ),
        "SpecError",
        """
        unsorted indices
          expected: indices that ascend within each row
          got:      column 0, entry 1: 0 after 1
        Sort them with `A.sort_indices()`, and the values with them.
        """,
    ),
    "bcoo-padding": (
        lambda: solver.plan(
            sparse.BCOO((jnp.ones(3), jnp.array([[0, 0], [1, 1], [2, 2]])), shape=(2, 2))
        ),
        "SpecError",
        """
        BCOO with padding
          expected: 3 entries inside of [2, 2]
          got:      entry 2 at [2, 2], where nothing is
        Remove it, outside of `jit`, with `A.sum_duplicates(nse=None)`.
        """,
    ),
    "index-too-large": (
        lambda: solver.plan(raw([0, 1, 2], [0, 2])),
        "SpecError",
        """
        an index out of range
          expected: from 0 to 1
          got:      row 1, entry 1: 2
        Pass the indices of an [n, n] matrix.
        """,
    ),
    "index-negative": (
        lambda: solver.plan(raw([0, 1, 2], [0, -1])),
        "SpecError",
        """
        an index out of range
          expected: from 0 to 1
          got:      row 1, entry 1: -1
        Pass the indices of an [n, n] matrix.
        """,
    ),
    "index-too-large-coo": (
        lambda: solver.plan(sparse.BCOO((jnp.ones(2), jnp.array([[0, 0], [1, 2]])), shape=(2, 2))),
        "SpecError",
        """
        an index out of range
          expected: from 0 to 1
          got:      entry 1: column 2
        Pass the indices of an [n, n] matrix.
        """,
    ),
    "indptr-start": (
        lambda: solver.plan(raw([1, 1, 2], [0, 1])),
        "SpecError",
        """
        `indptr` does not fit
          expected: 3 offsets from 0 to 2, ascending
          got:      `indptr[0]` is 1
        Pass the arrays of one CSR matrix; `scipy.sparse` makes them with `A.tocsr()`.
        """,
    ),
    "indptr-falls": (
        lambda: solver.plan(raw([0, 2, 1], [0])),
        "SpecError",
        """
        `indptr` does not fit
          expected: 3 offsets from 0 to 1, ascending
          got:      row 1 from 2 to 1
        Pass the arrays of one CSR matrix; `scipy.sparse` makes them with `A.tocsr()`.
        """,
    ),
    "indptr-end": (
        lambda: solver.plan(raw([0, 1, 2], [0, 1, 1])),
        "SpecError",
        """
        `indptr` does not fit
          expected: 3 offsets from 0 to 3, ascending
          got:      `indptr[2]` is 2
        Pass the arrays of one CSR matrix; `scipy.sparse` makes them with `A.tocsr()`.
        """,
    ),
    "indptr-two-axes": (
        lambda: solver.plan(raw([[0, 1]], [0])),
        "SpecError",
        """
        `indptr` of 2 axes
          expected: one axis
          got:      int64[1,2]
        Pass the three arrays of one matrix: indptr [n + 1], indices [nnz], values [nnz].
        """,
    ),
    "indptr-floats": (
        lambda: solver.plan(raw([0.0, 1.0], [0])),
        "SpecError",
        """
        `indptr` of float64
          expected: integers
          got:      float64[2]
        If they are whole, convert them with `.astype("int32")`.
        """,
    ),
    "too-many-rows": (
        lambda: solver.plan(
            (np.broadcast_to(np.int32(0), 2**31 + 1), np.zeros(1, "int32"), np.ones(1))
        ),
        "UnsupportedError",
        """
        A is too large
          expected: at most 2147483647 rows
          got:      2147483648
        Split the problem.
        """,
    ),
    "empty-row": (
        lambda: solver.plan(csr([[1.0, 0], [0, 0]])),
        "SpecError",
        """
        row 1 is empty: A is singular
          expected: an entry in each row and column
          got:      row 1 without one
        Look for an unknown that no equation has, or an equation without unknowns.
        """,
    ),
    "empty-column": (
        lambda: solver.plan(csr([[1.0, 0], [1, 0]])),
        "SpecError",
        """
        column 1 is empty: A is singular
          expected: an entry in each row and column
          got:      column 1 without one
        Look for an unknown that no equation has, or an equation without unknowns.
        """,
    ),
    "empty-column-csc": (
        lambda: solver.plan(sp.csc_array(np.array([[1.0, 0], [1, 0]]))),
        "SpecError",
        """
        column 1 is empty: A is singular
          expected: an entry in each row and column
          got:      column 1 without one
        Look for an unknown that no equation has, or an equation without unknowns.
        """,
    ),
    "spd-without-diagonal": (
        lambda: solver.plan(csr([[1.0, 1], [1, 0]]), matrix_type="spd"),
        "SpecError",
        """
        no diagonal entry in row 1: A is not "spd"
          expected: all n diagonal entries, which are positive
          got:      [1, 1] is not stored
        Pass `matrix_type="symmetric"`.
        """,
    ),
    "asymmetric-pattern": (
        lambda: solver.plan(G, matrix_type="symmetric"),
        "SpecError",
        """
        A is not "symmetric"
          expected: A equal to its transpose
          got:      [0, 1] is stored, [1, 0] is not
        Pass `matrix_type="general"`, or store one triangle and say which: `view="lower"`.
        """,
    ),
    "asymmetric-values": (
        lambda: solver.plan(csr([[1.0, 2], [3, 1]]), matrix_type="symmetric"),
        "SpecError",
        """
        A is not "symmetric"
          expected: A equal to its transpose
          got:      2.0 at [0, 1], 3.0 at [1, 0]
        Pass `matrix_type="general"`, or store one triangle and say which: `view="lower"`.
        """,
    ),
    "hermitian-complex-diagonal": (
        lambda: solver.plan(csr([[1j, 2], [2, 1]]), matrix_type="hermitian"),
        "SpecError",
        """
        A is not "hermitian"
          expected: A equal to its conjugate transpose
          got:      1j at [0, 0], 1j at [0, 0]
        Pass `matrix_type="general"`, or store one triangle and say which: `view="lower"`.
        """,
    ),
    "upper-entry-in-lower": (
        lambda: solver.plan(S, matrix_type="spd", view="lower"),
        "SpecError",
        """
        an entry in the other triangle than "lower"
          expected: row >= column
          got:      row 0, column 1
        Pass `scipy.sparse.tril(A)`, or `view="full"`.
        """,
    ),
    "lower-entry-in-upper-csc": (
        lambda: solver.plan(sp.csc_array(S), matrix_type="spd", view="upper"),
        "SpecError",
        """
        an entry in the other triangle than "upper"
          expected: row <= column
          got:      row 1, column 0
        Pass `scipy.sparse.triu(A)`, or `view="full"`.
        """,
    ),
    "lower-of-general": (
        lambda: solver.plan(S, view="lower"),
        "SpecError",
        """
        `view="lower"` of a general matrix
          expected: `matrix_type` one of "symmetric", "hermitian", "spd", "hpd"
          got:      `matrix_type="general"`
        Say which type it is, or pass all entries.
        """,
    ),
    "spd-of-complex": (
        lambda: solver.plan(S.astype(complex), matrix_type="spd"),
        "SpecError",
        """
        "spd" of complex128
          expected: for complex128 one of "general", "symmetric", "hermitian", "hpd"
          got:      `matrix_type="spd"`
        Pass `matrix_type="hpd"` if A equals its conjugate transpose.
        """,
    ),
    "traced-indices": (
        lambda: jax.jit(lambda i: solver.plan((i, jnp.asarray(A.indices), jnp.asarray(A.data))))(
            A.indptr
        ),
        "SpecError",
        """
        `indptr` without values
          expected: concrete indices, which the analysis reads
          got:      a tracer, int32[5]
        Plan outside of `jit` and pass `A.data` in.
        """,
    ),
    "indices-without-values": (
        lambda: solver.plan((jax.ShapeDtypeStruct((5,), "int32"), A.indices, A.data)),
        "SpecError",
        """
        `indptr` without values
          expected: concrete indices, which the analysis reads
          got:      a type, int32[5]
        Plan outside of `jit` and pass `A.data` in.
        """,
    ),
    "permutation-twice": (
        lambda: solver.plan(A, reordering=[0, 1, 2, 2]),
        "SpecError",
        """
        `reordering` is no permutation
          expected: each of 0 to 3 once, int32[4]; or a name
          got:      2, 2 times
        Pass one of "auto", "nd", "amd", "colamd", "btf_colamd", "none", or a permutation of the rows.
        """,
    ),
    "permutation-too-short": (
        lambda: solver.plan(A, reordering=np.arange(3)),
        "SpecError",
        """
        `reordering` is no permutation
          expected: each of 0 to 3 once, int32[4]; or a name
          got:      int64[3]
        Pass one of "auto", "nd", "amd", "colamd", "btf_colamd", "none", or a permutation of the rows.
        """,
    ),
    "permutation-outside": (
        lambda: solver.plan(A, reordering=[0, 1, 2, 4]),
        "SpecError",
        """
        `reordering` is no permutation
          expected: each of 0 to 3 once, int32[4]; or a name
          got:      4
        Pass one of "auto", "nd", "amd", "colamd", "btf_colamd", "none", or a permutation of the rows.
        """,
    ),
    "unknown-reordering": (
        lambda: solver.plan(A, reordering="metis"),
        "SpecError",
        """
        unknown `reordering`
          expected: one of "auto", "nd", "amd", "colamd", "btf_colamd", "none"
          got:      'metis'
        Pass one of them.
        """,
    ),
    "nan-with-two-slots": (
        lambda: solver.plan(A, on_stale="nan"),
        "SpecError",
        """
        `on_stale="nan"` with several slots
          expected: `factor_slots=1`, whose only slot is compared with the ticket
          got:      `factor_slots=2`
        Pass `factor_slots=1`, or `on_stale="raise"`.
        """,
    ),
    "no-threads": (
        lambda: solver.plan(A, host_threads=0),
        "SpecError",
        """
        `host_threads` is a number
          expected: an integer from 1 to 4096
          got:      0
        Pass one, or leave it out.
        """,
    ),
    "memory-percent": (
        lambda: solver.plan(A, hybrid_memory="101%"),
        "SpecError",
        """
        `hybrid_memory` is no amount of memory
          expected: True, False, bytes, "8 GiB", or a part of the device's memory from "1%" to "100%"
          got:      '101%'
        Pass one of these.
        """,
    ),
    "threshold": (
        lambda: solver.plan(A, pivot_threshold=2),
        "SpecError",
        """
        `pivot_threshold` is a number
          expected: a float, from 0 to 1
          got:      2
        Pass one, or None for the engine's own.
        """,
    ),
    "no-knobs": (
        lambda: solver.plan(A, knobs=3),
        "SpecError",
        """
        no `knobs`
          expected: `CuDSS(…)`, `SuperLU(…)` or None
          got:      3
        Pass one of nvstate.direct_solver's, or leave it out.
        """,
    ),
    "two-reorderings": (
        lambda: solver.plan(A, reordering="amd", knobs=solver.SuperLU(permc_spec="COLAMD")),
        "SpecError",
        """
        `permc_spec` and `reordering` exclude each other
          expected: one of them, or other values
          got:      `permc_spec="COLAMD"` and `reordering="amd"`
        Leave `permc_spec` out, or change `reordering`.
        """,
    ),
    "superlu-matching": (
        lambda: solver.plan(A, matching="product", knobs=solver.SuperLU()),
        "UnsupportedError",
        """
        SuperLU has no matching "product"
          expected: one of "auto", "none"
          got:      `matching="product"`
        Pass one of them.
        """,
    ),
    "spd-matching": (
        lambda: solver.plan(A, matching="product", matrix_type="spd"),
        "SpecError",
        """
        `matching` and `matrix_type` exclude each other
          expected: one of them, or other values
          got:      `matching="product"` and `matrix_type="spd"`
        Leave `matching` out, or change `matrix_type`.
        """,
    ),
    "matching-without-values": (
        lambda: solver.plan(
            (A.indptr, A.indices, jax.ShapeDtypeStruct((10,), "float64")), matching="product"
        ),
        "SpecError",
        """
        `matching="product"` without values
          expected: an A whose values are concrete: the analysis reads them
          got:      a type, float64[10]
        Plan outside of `jit` from typical values, and pass the values of each call in.
        """,
    ),
    "superlu-permutation": (
        lambda: solver.plan(A, reordering=np.arange(4), knobs=solver.SuperLU()),
        "UnsupportedError",
        """
        SuperLU has no permutation of the user's
          expected: one of "auto", "amd", "colamd", "none"
          got:      a permutation
        Pass one of them.
        """,
    ),
    "b-transposed": (
        lambda: solver.plan(A, np.ones((2, 4))),
        "OperandError",
        """
        operand `b` does not match its plan
          expected: float64[4] or float64[4,k]
          got:      float64[2,4]
        Pass `b.T`: right-hand sides are columns.
        """,
    ),
    "b-too-short": (
        lambda: solver.plan(A, np.ones(3)),
        "OperandError",
        """
        operand `b` does not match its plan
          expected: float64[4] or float64[4,k]
          got:      float64[3]
        Pass right-hand sides as columns; use `jax.vmap` over further axes.
        """,
    ),
    "b-dtype": (
        lambda: solver.plan(A, np.ones(4, "float32")),
        "OperandError",
        """
        operand `b` does not match its plan
          expected: float64, as A
          got:      float32[4]
        Convert it with `b.astype("float64")`, or plan from values of float32.
        """,
    ),
    "b-of-another-package": (
        lambda: solver.plan(A, jnp.ones(4)),
        "OperandError",
        """
        operands of two packages
          expected: values of A and `b` both of NumPy, or both of JAX
          got:      `values` on cpu (numpy), `b` on cpu:0
        Pass `(A.indptr, A.indices, jax.numpy.asarray(A.data))`, or `numpy.asarray(b)`.
        """,
    ),
    "call-b-transposed": (
        lambda: P(A.data, np.ones((2, 4))),
        "OperandError",
        """
        operand `b` does not match its plan
          expected: float64[4] or float64[4,k]
          got:      float64[2,4]
        Pass `b.T`: right-hand sides are columns.
        """,
    ),
    "call-values-too-few": (
        lambda: P(A.data[1:], np.ones(4)),
        "OperandError",
        """
        operand `values` does not match its plan
          expected: float64[10], in the order of A's own
          got:      float64[9]
        Pass `plan.values_of(A)`, which compares the pattern too, or plan again for another pattern.
        """,
    ),
    "call-values-dtype": (
        lambda: P(A.data.astype("float32"), np.ones(4)),
        "OperandError",
        """
        operand `values` does not match its plan
          expected: float64, as A
          got:      float32[10]
        Convert it with `values.astype("float64")`, or plan from values of float32.
        """,
    ),
    "another-pattern": (
        lambda: P.values_of(csr(np.eye(4))),
        "OperandError",
        """
        another pattern than the plan's
          expected: row 0 with columns 0, 1
          got:      row 0 with columns 0
        Plan again from this matrix: `nvstate.direct_solver.plan(A)`.
        """,
    ),
    "another-pattern-of-equal-size": (
        lambda: P.values_of(
            sp.csr_array(
                (
                    np.ones(10),
                    A.indices[::-1].copy() * 0 + np.array([0, 1, 0, 1, 2, 1, 2, 3, 1, 3]),
                    A.indptr,
                ),
                shape=(4, 4),
            )
        ),
        "OperandError",
        """
        another pattern than the plan's
          expected: row 3 with columns 2, 3
          got:      row 3 with columns 1, 3
        Plan again from this matrix: `nvstate.direct_solver.plan(A)`.
        """,
    ),
    "another-size": (
        lambda: P.values_of(csr(np.eye(3))),
        "OperandError",
        """
        another size than the plan's
          expected: [4, 4]
          got:      [3, 3]
        Plan again from this matrix: `nvstate.direct_solver.plan(A)`.
        """,
    ),
    "another-format": (
        lambda: P.values_of(A.tocsc()),
        "OperandError",
        """
        A in CSC, but its plan was made from CSR
          expected: the format of the plan, CSR
          got:      CSC
        Pass `A.tocsr()`, or plan again from A.
        """,
    ),
    "spec-and-keywords": (
        lambda: solver.plan(P.spec, A, matrix_type="spd"),
        "SpecError",
        """
        a spec and what it says already
          expected: `plan(spec, A)`, and options that are not the problem's
          got:      `matrix_type`
        Leave these out, or plan from the matrix: `plan(A, b, …)`.
        """,
    ),
    "spec-alone": (
        lambda: solver.plan(P.spec),
        "SpecError",
        """
        a spec without its matrix
          expected: `plan(spec, A)`: a spec holds the digest of a pattern, not the pattern
          got:      `plan(spec)`
        Pass a matrix with that pattern too.
        """,
    ),
    "spec-of-another": (
        lambda: solver.plan(P.spec, csr(np.eye(4))),
        "SpecError",
        """
        a matrix that is not the spec's
          expected: nnz 10, pattern 36e9d9251c4e2ea83ea4c19664dd0e90
          got:      nnz 4, pattern 2570e5f8a1870efe34b9f67c330c1342
        Pass a matrix with the spec's pattern and dtype.
        """,
    ),
    "reset-a-matrix": (
        lambda: nvs.reset(nvs.bind(solver.plan(A), values=A.data, b=np.ones(4)), A=A),
        "OperandError",
        """
        this plan has no operand `A`
          expected: `values`: float64[10], `b`: float64[4]
          got:      `A`
        Pass `values=plan.values_of(A)`.
        """,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_these_words(name):
    call, kind, text = REFUSED[name]
    with pytest.raises(getattr(nvs.errors, kind)) as raised:
        call()
    assert str(raised.value) == "nvstate.direct_solver: " + cleandoc(text)


def test_wide_values_need_x64():
    with jax.enable_x64(False), pytest.raises(nvs.errors.SpecError, match="jax_enable_x64"):
        solver.plan(A.astype("complex128"))


def test_entries_beyond_32_bits():
    with jax.enable_x64(False), pytest.raises(nvs.errors.UnsupportedError) as raised:
        checks.limits(5, 2**31)
    assert str(raised.value) == (
        "nvstate.direct_solver: A has too many entries for 32-bit offsets\n"
        "  expected: at most 2147483647 entries, or 64-bit types on\n"
        "  got:      2147483648 with jax_enable_x64=False\n"
        'Call `jax.config.update("jax_enable_x64", True)` first.'
    )
    checks.limits(5, 2**31)  # with x64


def test_entries_beyond_matching():
    checks.limits(5, 2**30, "product")
    with pytest.raises(nvs.errors.UnsupportedError) as raised:
        checks.limits(5, 2**30 + 1, "product")
    assert str(raised.value) == (
        "nvstate.direct_solver: A has too many entries for matching\n"
        '  expected: at most 1073741824 entries, or `matching="none"`\n'
        '  got:      1073741825 and `matching="product"`\n'
        'Pass `matching="none"`.'
    )


def test_a_spec_in_another_form_is_refused():
    with pytest.raises(nvs.errors.SpecError, match="not in canonical form"):
        dataclasses.replace(solver.spec(A), n=-1)
    with pytest.raises(nvs.errors.SpecError, match="not in canonical form"):
        dataclasses.replace(solver.spec(A), view="lower")


def made(**fields):
    """A spec with these fields, whatever engine is here."""
    fields.setdefault("reference", "0" * 32 if fields.get("matching", "none") != "none" else "")
    return dataclasses.replace(solver.spec(A), **fields)


ENGINES = {
    "pardiso-colamd": ("pardiso", {"reordering": "colamd"}, {}, 'no reordering "colamd"'),
    "pardiso-natural": ("pardiso", {"reordering": "none"}, {}, 'A permutation 0, 1, … is "none".'),
    "pardiso-matching": ("pardiso", {"matching": "count"}, {}, 'no matching "count"'),
    "pardiso-pivoting": ("pardiso", {"pivoting": "local"}, {}, 'no pivoting "local" for "general"'),
    "pardiso-threshold": ("pardiso", {"pivot_threshold": "0x1.0000000000000p-1"}, {}, "cuDSS and"),
    "pardiso-reuse": ("pardiso", {"reuse_pivots": True, "reference": "0" * 32}, {}, "cuDSS\n"),
    "pardiso-hybrid": ("pardiso", {}, {"hybrid_memory": True}, "`hybrid_memory` on PARDISO"),
    "pardiso-execute": ("pardiso", {}, {"hybrid_execute": True}, "`hybrid_execute` on PARDISO"),
    "pardiso-knobs": ("pardiso", {}, {"knobs": solver.CuDSS(nd_levels=3)}, "knobs of cuDSS"),
    "pardiso-epsilon": ("pardiso", {"pivot_epsilon": (0.5).hex()}, {}, "a power of ten"),
    "pardiso-epsilon-spd": (
        "pardiso",
        {"pivot_epsilon": (0.1).hex(), "matrix_type": "spd"},
        {},
        '`pivot_epsilon=0.1` and `matrix_type="spd"`',
    ),
    "superlu-nd": ("superlu", {"reordering": "nd"}, {}, 'no reordering "nd"'),
    "superlu-epsilon": (
        "superlu",
        {"pivot_epsilon": "0x1.0000000000000p-1"},
        {},
        "`pivot_epsilon`",
    ),
    "superlu-threads": ("superlu", {}, {"host_threads": 2}, "`host_threads` on SuperLU"),
    "cudss-knobs": ("cudss", {}, {"knobs": solver.SuperLU(relax=3)}, "knobs of SuperLU"),
    "cudss-global-pivots": ("cudss", {"pivoting": "global_row"}, {}, "`pivoting` and `reordering`"),
    "cudss-local-pivots": (
        "cudss",
        {"pivoting": "local", "reordering": "colamd"},
        {},
        '`pivoting="local"` and `reordering="colamd"`',
    ),
    "cudss-refinement": (
        "cudss",
        {"deterministic": True, "refinement_steps": 2},
        {},
        "`deterministic=True` and `refinement_steps=2`",
    ),
    "cudss-hybrid": (
        "cudss",
        {"deterministic": True, "refinement_steps": 0},
        {"hybrid_memory": "8 GiB"},
        '`deterministic=True` and `hybrid_memory="8589934592"`',
    ),
    "cudss-both-hybrids": (
        "cudss",
        {},
        {"hybrid_memory": True, "hybrid_execute": True},
        "`hybrid_memory` and `hybrid_execute` exclude each other",
    ),
    "cudss-registered": (
        "cudss",
        {},
        {"knobs": solver.CuDSS(register_host_memory=True)},
        "`register_host_memory` and `hybrid_memory` exclude each other",
    ),
    "cudss-nonzeros": (
        "cudss",
        {},
        {"knobs": solver.CuDSS(max_lu_nnz=10)},
        "`max_lu_nnz` and `reordering` exclude each other",
    ),
}


@pytest.mark.parametrize("name", ENGINES)
def test_what_an_engine_has_not(name):
    engine, fields, chosen, said = ENGINES[name]
    spec, chosen = made(**fields), choices.chosen(**chosen)

    def require():
        support.require(spec, engine)
        support.require_choices(spec, chosen, engine)

    with pytest.raises((nvs.errors.UnsupportedError, nvs.errors.SpecError)) as raised:
        require()
    assert said in str(raised.value)


def test_what_an_engine_has():
    support.require(made(reordering="colamd", pivoting="global_row"), "cudss")
    knobs = solver.CuDSS(superpanels=False, register_host_memory=False)
    support.require_choices(made(), choices.chosen(knobs=knobs, hybrid_memory="50%"), "cudss")
    support.require(made(matching="product", pivot_epsilon=(1e-9).hex()), "pardiso")


def test_no_transpose_of_colamd():
    spec = made(reordering="colamd")
    with pytest.raises(nvs.errors.UnsupportedError, match='under `reordering="colamd"`'):
        support.require_transpose(spec, (), "adjoint")
    support.require_transpose(made(), (), "adjoint")
