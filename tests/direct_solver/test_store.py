"""Plans in files: with their pattern, and the reordering that spares the next process a search."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

import nvstate as nvs
from nvstate import direct_solver as solver
from nvstate._core import stored
from nvstate.direct_solver import arrays, digest
from tests.direct_solver.engines import Engine

N = 30
ONE = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(N, N))
A = (sp.kron(ONE, sp.eye_array(N)) + sp.kron(sp.eye_array(N), ONE)).tocsr()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "plans.json"


def test_a_plan_of_superlu_is_loaded_as_it_was(path):
    plan = solver.plan(A, knobs=solver.SuperLU(permc_spec="NATURAL"), factor_slots=3)
    nvs.store.save({"A": plan}, path)
    assert nvs.store.load(path)["A"] is plan


def test_every_array_is_kept(path):
    coo = sp.coo_array(A)
    order = np.random.default_rng(5).permutation(coo.nnz)
    values = jnp.asarray(coo.data[order], "complex64")
    shuffled = sp.coo_array((np.asarray(values), (coo.row[order], coo.col[order])), shape=A.shape)
    plan = solver.plan(shuffled, knobs=solver.SuperLU())
    text = plan.to_json()
    again = solver.SolverPlan.from_json(text)
    assert again is plan
    for one, other in zip(again.host, plan.host, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(text) < 4 * A.nnz  # differences, compressed


def test_the_reordering_is_stored_and_used(path, monkeypatch):
    engine = Engine.of("pardiso")
    plan = engine.plan(A)
    order = plan.info.row_permutation
    nvs.store.save({"A": plan}, path)
    loaded = nvs.store.load(path)["A"]
    assert loaded.spec == plan.spec
    np.testing.assert_array_equal(loaded.leaves.permutation, order)
    np.testing.assert_array_equal(loaded.info.row_permutation, order)
    nvs.store.save({"A": loaded}, path)  # again, as it is
    assert nvs.store.load(path)["A"] is loaded
    monkeypatch.setenv(stored.VARIABLE, str(path))
    assert engine.plan(A) is loaded
    with_slots = engine.plan(A, factor_slots=1)
    assert dict(with_slots.choices).keys() == {"factor_slots", "stored_permutation"}
    assert engine.plan(A, reordering=np.arange(N * N)[::-1].copy()).spec != plan.spec
    b = engine.put(np.ones(N * N))
    x = loaded(engine.put(A.data), b)
    np.testing.assert_allclose(A @ np.asarray(x), b, atol=1e-12)


def test_results_never_come_from_a_file(path, monkeypatch):
    plan = solver.plan(A, knobs=solver.SuperLU(relax=3), on_stale="raise", factor_slots=7)
    nvs.store.save({"A": plan}, path)
    monkeypatch.setenv(stored.VARIABLE, str(path))
    made = solver.plan(A)
    assert not {"on_stale", "factor_slots", "relax"} & dict(made.choices).keys()


def test_another_environment_drops_the_reordering(path):
    engine = Engine.of("pardiso")
    plan = engine.plan(A)
    nvs.store.save({"A": plan}, path)
    whole = json.loads(path.read_text())
    whole["plans"]["A"]["environment"]["mkl"] = "1.0"
    path.write_text(json.dumps(whole))
    with pytest.warns(UserWarning, match=r"'mkl': '1\.0'"):
        loaded = nvs.store.load(path)["A"]
    assert loaded is plan
    assert len(loaded.leaves.permutation) == 0


@pytest.mark.parametrize("array", ["indptr", "indices"])
def test_an_edited_pattern_is_refused(path, array):
    plan = solver.plan(A, knobs=solver.SuperLU())
    nvs.store.save({"A": plan}, path)
    whole = json.loads(path.read_text())
    other = solver.plan(sp.csr_array(np.tril(np.ones((3, 3)))), knobs=solver.SuperLU())
    whole["plans"]["A"]["arrays"][array] = other.fields()["arrays"][array]
    path.write_text(json.dumps(whole))
    with pytest.raises(nvs.errors.StoreError, match=f"`{array}` has not the"):
        nvs.store.load(path)


def test_another_entry_is_refused():
    plan = solver.plan(A, knobs=solver.SuperLU())
    fields = plan.fields()
    other = plan.host.indices.copy()
    other[2] += 1
    fields["arrays"] = arrays.written(plan.spec, plan.host._replace(indices=other))
    with pytest.raises(nvs.errors.StoreError, match="another pattern"):
        solver.SolverPlan.from_json(json.dumps(fields))


@pytest.mark.parametrize(
    ("entry", "index", "said"),
    [(0, N * N, "out of range"), (0, 1, "duplicate"), (2, 0, "unsorted")],
    ids=["outside", "duplicate", "unsorted"],
)
def test_a_pattern_that_would_be_read_out_of_bounds_is_refused(entry, index, said):
    plan = solver.plan(A, knobs=solver.SuperLU())
    wrong = plan.host.indices.copy()
    wrong[entry] = index
    fields = plan.fields()
    fields["arrays"] = arrays.written(plan.spec, plan.host._replace(indices=wrong))
    fields["spec"]["pattern"] = digest.pattern(plan.spec.n, plan.host.indptr, wrong)
    with pytest.raises(nvs.errors.StoreError, match=said):
        solver.SolverPlan.from_json(json.dumps(fields))


@pytest.mark.parametrize(
    "choices",
    [
        [["factor_slots", 2]],
        [["factor_slots", 0]],
        [["on_stale", "nan"]],
        [["unknown", 1]],
        [["stored_permutation", "AAAAAA=="]],
        ["factor_slots"],
    ],
    ids=str,
)
def test_choices_of_no_plan_are_refused(choices):
    fields = solver.plan(A, knobs=solver.SuperLU()).fields()
    with pytest.raises(nvs.errors.StoreError):
        solver.SolverPlan.from_json(json.dumps({**fields, "choices": choices}))
