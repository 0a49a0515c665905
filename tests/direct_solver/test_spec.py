"""SolverSpec: equal problems are equal specs, and what differs in numbers differs in specs."""

import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

import nvstate as nvs
from nvstate import direct_solver as solver
from nvstate.direct_solver import specify, support

A = sp.diags_array([-1.0, 4.0, -1.0], offsets=[-1, 0, 1], shape=(6, 6)).tocsr()


def weak(entry=1e-3):
    dense = A.toarray()
    dense[2, 2] = entry
    return sp.csr_array(dense)


def specified(a, engine, **problem):
    """As `spec`, for an engine that need not be here."""
    from nvstate.direct_solver import pattern

    return specify.specified(*pattern.read(a), engine, **problem).spec


def test_real_hermitian_is_symmetric():
    assert solver.spec(A, matrix_type="hermitian") == solver.spec(A, matrix_type="symmetric")
    assert solver.spec(A, matrix_type="hpd") == solver.spec(A, matrix_type="spd")
    assert solver.spec(A.astype(complex), matrix_type="hpd").matrix_type == "hpd"


def test_values_columns_and_package_are_not_the_problem():
    base = solver.spec(A)
    assert solver.spec(3 * A) == base
    assert solver.spec(A, np.ones((6, 3))) == base
    assert solver.spec((A.indptr, A.indices, jnp.asarray(A.data))) == base
    abstract = jax.ShapeDtypeStruct((A.nnz,), "float64")
    assert solver.spec((A.indptr, A.indices, abstract)) == base


@pytest.mark.parametrize(
    "problem",
    [
        {"matrix_type": "spd"},
        {"reordering": "amd"},
        {"refinement_steps": 3},
        {"deterministic": True},
    ],
    ids=str,
)
def test_options_are_the_problem(problem):
    assert solver.spec(A, **problem) != solver.spec(A)


def test_a_spec_survives_pickle_and_keywords():
    made = solver.spec(A, matrix_type="symmetric", refinement_steps=1)
    assert pickle.loads(pickle.dumps(made)) == made
    assert specified(A, "superlu", **specify.keywords(made)) == made


def test_columns_are_the_transposes_rows():
    lower = sp.csc_array(sp.tril(A))
    made = solver.spec(lower, matrix_type="spd", view="lower")
    assert (made.storage, made.view, made.stored_view) == ("csc", "lower", "upper")


@pytest.mark.parametrize(
    ("a", "engine", "problem", "matching"),
    [
        (A, "cudss", {}, "auto"),
        (weak(), "cudss", {}, "product"),
        (weak(), "pardiso", {}, "product"),
        (weak(), "superlu", {}, "none"),
        (weak(0.05), "cudss", {}, "auto"),
        (weak(), "cudss", {"matching": "none"}, "none"),
        (weak(), "cudss", {"matrix_type": "symmetric"}, "none"),
        ((A.indptr, A.indices, jax.ShapeDtypeStruct((A.nnz,), "float64")), "cudss", {}, "auto"),
        (A, "cudss", {"reordering": "colamd"}, "none"),
        (weak(), "cudss", {"reuse_pivots": True}, "product"),
    ],
    ids=[
        "strong",
        "weak",
        "weak-pardiso",
        "weak-superlu",
        "enough",
        "asked-for-none",
        "symmetric",
        "abstract",
        "colamd",
        "kept-pivots",
    ],
)
def test_matching_where_the_diagonal_is_weak(a, engine, problem, matching):
    made = specified(a, engine, **problem)
    assert made.matching == matching
    assert bool(made.reference) == (matching == "product")


def test_a_reference_is_the_problem():
    assert specified(weak(), "cudss") != specified(2 * weak(), "cudss")


def test_deterministic_mode_of_cudss_does_not_refine():
    assert specified(A, "cudss", deterministic=True).refinement_steps == 0
    assert specified(A, "superlu", deterministic=True).refinement_steps == -1


def test_a_permutation_is_known_by_its_digest():
    one = specified(A, "pardiso", reordering=np.arange(6))
    other = specified(A, "pardiso", reordering=np.arange(6)[::-1])
    assert one.reordering == other.reordering == "user"
    assert one != other
    assert specified(A, "pardiso", reordering=list(range(6))) == one


def test_every_word_is_of_some_engine():
    words = {*sum(support.REORDERINGS.values(), ())} - {"user"}
    assert words == {"auto", "nd", "amd", "colamd", "btf_colamd", "none"}


def test_a_field_of_another_version_is_refused():
    made = solver.spec(A)
    with pytest.raises(nvs.errors.SpecError, match="canonical"):
        dataclasses.replace(made, pattern="")
