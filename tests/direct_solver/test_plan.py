"""SolverPlan: one object for equal plans, leaves that are arguments, and its whole life."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
from jax.experimental import sparse as jax_sparse
from jax.sharding import NamedSharding

import nvstate as nvs
from nvstate import direct_solver as solver
from tests.direct_solver import matrices
from tests.direct_solver.engines import Engine

DENSE = np.diag(np.full(6, 4.0)) - np.diag(np.ones(5), 1) - np.diag(np.full(5, 0.5), -1)
A = sp.csr_array(DENSE)
B = DENSE @ np.arange(6.0)
VALUES = jnp.asarray(A.data)


def arrays(values=VALUES):
    return A.indptr, A.indices, values


@pytest.fixture
def plan():
    return solver.plan(arrays())


def test_equal_plans_are_one_object(plan):
    assert solver.plan(arrays(2 * VALUES), jnp.asarray(B)) is plan
    assert solver.plan(arrays(), jnp.ones((6, 3))) is plan
    assert solver.plan(plan.spec, arrays()) is plan
    assert solver.plan(A) is not plan  # NumPy's
    assert solver.plan(arrays(), factor_slots=3) is not plan


def test_the_same_object_comes_back(plan):
    leaves, structure = jax.tree.flatten(plan)
    assert len(leaves) == 6
    assert jax.tree.unflatten(structure, leaves) is plan
    assert pickle.loads(pickle.dumps(plan)) is plan
    assert copy.deepcopy(plan) is plan
    assert solver.SolverPlan.from_json(plan.to_json()) is plan
    assert nvs.release(nvs.bind(plan, values=VALUES, b=jnp.asarray(B))) is plan


def test_static_text_has_no_pattern(plan):
    bare = solver.SolverPlan.from_static(plan.to_static())
    assert bare is plan.static[1]
    assert bare.with_leaves(tuple(plan.leaves)) is plan
    assert "arrays" not in plan.to_static()


@pytest.mark.parametrize("b", [B, np.stack([B, 2 * B, -B], 1)], ids=["one", "three"])
def test_executed_on_either_package(plan, b):
    wanted = np.linalg.solve(DENSE, b)
    theirs = solver.plan(A)(A.data, b)
    assert type(theirs) is np.ndarray
    np.testing.assert_allclose(theirs, wanted, atol=1e-13)
    np.testing.assert_allclose(plan(VALUES, jnp.asarray(b)), wanted, atol=1e-13)
    bound = nvs.bind(plan, values=VALUES, b=jnp.asarray(B))
    x = nvs.execute(nvs.reset(bound, values=2 * VALUES, b=jnp.asarray(b)))
    np.testing.assert_allclose(x, wanted / 2, atol=1e-13)


def test_an_argument_is_no_retrace(plan):
    traces = 0

    @jax.jit
    def solve(plan, values, b):
        nonlocal traces
        traces += 1
        return plan(values, b)

    solve(plan, VALUES, jnp.asarray(B))
    solve(solver.plan(arrays()), VALUES, jnp.asarray(B))
    solve(jax.tree.map(lambda x: x + 0, plan), VALUES, jnp.asarray(B))
    assert traces == 1


def test_leaves_are_arguments_of_a_jitted_function_and_of_eager_calls(plan):
    text = jax.jit(lambda plan, v, b: plan(v, b)).lower(plan, VALUES, B).as_text()
    assert "dense<[0, 1, 0, 1, 2" not in text  # indices
    closed = jax.jit(lambda v, b: plan(v, b)).lower(VALUES, B).as_text()
    assert "dense<[0, 1, 0, 1, 2" in closed
    plan(VALUES, jnp.asarray(B))
    lowered = plan._compiled.call.lower(*plan.leaves, VALUES, jnp.asarray(B)).as_text()
    assert "dense<[0, 1, 0, 1, 2" not in lowered


def test_a_plan_comes_out_of_jit_and_runs(plan):
    out = jax.jit(lambda plan: plan)(plan)
    assert out == plan
    assert hash(out) == hash(plan)
    assert out != solver.plan(arrays(), refinement_steps=1)
    assert out.to_json() == plan.to_json()
    plan(VALUES, jnp.asarray(B))
    np.testing.assert_array_equal(out(VALUES, jnp.asarray(B)), plan(VALUES, jnp.asarray(B)))
    assert out._compiled is plan._compiled is not None


def test_planned_inside_of_jit(plan):
    @jax.jit
    def solve(values, b):
        inside = solver.plan((A.indptr, A.indices, values), b)
        assert not isinstance(inside.leaves.indptr, jax.core.Tracer)
        return inside(values, b)

    np.testing.assert_allclose(solve(VALUES, jnp.asarray(B)), np.arange(6.0), atol=1e-13)
    abstract = solver.plan((A.indptr, A.indices, jax.ShapeDtypeStruct((A.nnz,), "float64")))
    assert abstract.placement is None
    np.testing.assert_allclose(abstract(VALUES, jnp.asarray(B)), np.arange(6.0), atol=1e-13)


def test_traced_leaves_and_concrete_operands(plan):
    x = jax.jit(lambda plan: plan(VALUES, jnp.asarray(B)))(plan)
    np.testing.assert_allclose(x, np.arange(6.0), atol=1e-13)
    x = jax.jit(lambda plan: plan(A.data, B))(solver.plan(A))
    np.testing.assert_allclose(x, np.arange(6.0), atol=1e-13)


def test_a_bound_plan_is_a_tree_with_the_plans_leaves(plan):
    bound = nvs.bind(plan, values=VALUES, b=jnp.asarray(B))
    assert len(jax.tree.leaves(bound)) == 8
    x = jax.jit(nvs.execute)(bound)
    np.testing.assert_allclose(x, np.arange(6.0), atol=1e-13)
    again = jax.tree.map(lambda x: x, bound)
    assert nvs.release(again) is plan


def test_leaves_go_to_every_device_of_the_operands():
    mesh = jax.make_mesh((2,), ("k",), devices=jax.devices()[1:3])
    b = jax.device_put(jnp.ones((6, 2)), NamedSharding(mesh, jax.P(None, "k")))
    values = jax.device_put(VALUES, NamedSharding(mesh, jax.P()))
    plan = solver.plan(arrays(values), b)
    assert plan.placement.devices == ("cpu:1", "cpu:2")
    for leaf in plan.leaves:
        assert leaf.sharding.is_fully_replicated
        assert leaf.sharding.device_set == set(jax.devices()[1:3])


def test_a_plan_lives_on_its_operands_device():
    there = jax.device_put(VALUES, jax.devices()[2])
    plan = solver.plan(arrays(there))
    assert plan.leaves.indptr.devices() == {jax.devices()[2]}
    with pytest.raises(nvs.errors.OperandError, match="cpu:2"):
        plan(VALUES, jnp.asarray(B))
    x = plan(there, jax.device_put(B, jax.devices()[2]))
    assert x.devices() == {jax.devices()[2]}


def test_a_plan_is_an_argument_of_an_exported_program():
    engine = Engine.of("pardiso")
    plan = engine.plan(A)
    solve = jax.jit(lambda plan, v, b: plan(v, b))
    exported = jax.export.export(solve, disabled_checks=nvs.disabled_checks())(plan, VALUES, B)
    again = jax.export.deserialize(exported.serialize())
    np.testing.assert_allclose(again.call(plan, VALUES, B), np.arange(6.0), atol=1e-13)


def test_free_drops_what_was_compiled_and_analysed(plan):
    plan(VALUES, jnp.asarray(B))
    nvs.free(plan)
    assert plan._compiled is None
    np.testing.assert_allclose(plan(VALUES, jnp.asarray(B)), np.arange(6.0), atol=1e-13)


def test_the_analysis_is_paid_once():
    engine = Engine.of("pardiso")
    nvs.free(engine.plan(A, refinement_steps=1))
    before = nvs.cache.info().analyses
    plan = engine.plan(A, refinement_steps=1)
    assert nvs.cache.info().analyses == before + 1
    assert engine.plan(A, refinement_steps=1) is plan
    assert plan.info.factor_nnz >= A.nnz
    assert sorted(plan.info.row_permutation) == list(range(6))
    plan(VALUES, jnp.asarray(B))
    assert nvs.cache.info().analyses == before + 1


def test_superlu_only_validates():
    plan = Engine.of("superlu").plan(A)
    assert plan.backend == "superlu"
    assert plan.info.seconds is None
    assert "pip install mkl" not in plan.describe()  # its knobs asked for it


def test_describe_names_copies():
    coo = sp.coo_array(A)
    coo = sp.coo_array((coo.data[::-1], (coo.row[::-1], coo.col[::-1])), shape=A.shape)
    assert "gathered" in solver.plan(coo).describe()
    assert "gathered" not in solver.plan(A).describe()
    assert "[k, n]" in solver.plan(A).describe()


def test_repr_says_what_is_not_usual():
    plan = solver.plan(A, refinement_steps=2, factor_slots=1)
    assert repr(plan) == (
        "SolverPlan(A float64[6,6] with 16 entries, general, csr, full view, on cpu (numpy); "
        "refinement_steps=2, factor_slots=1)"
    )
    assert "<table>" in plan._repr_html_()


def test_autotune_keeps_the_spec(plan):
    tuned = nvs.autotune(plan, VALUES, jnp.asarray(B), rounds=1)
    assert tuned.spec == plan.spec
    assert {c.spec for c in plan.candidates("cpu")} == {plan.spec}
    assert len({c.choices for c in plan.candidates("cpu")}) == len(plan.candidates("cpu")) > 1


def test_a_factor_says_what_it_is(plan):
    words = jnp.array([2, 3, 5, 1, -1, -2, 1, 0], "int32")
    factor = solver.Factor(plan, VALUES, jnp.zeros(8, "uint32"), words)
    info = factor.info
    assert (int(info.status), int(info.perturbed_pivots), int(info.failing_pivot)) == (2, 3, -1)
    assert info.inertia.tolist() == [5, 1]
    assert int(info.lu_nnz) == 2**33 - 2
    assert repr(factor) == "Factor(float64[6,6] with 16 entries, general, breakdown)"
    with jax.enable_x64(False):
        assert int(factor.info.lu_nnz) == 2**31 - 1


def test_rows_of_far_sizes_are_matched():
    """Static pivots of small rows would be taken for zeros."""
    rng = np.random.default_rng(3)
    a = matrices.poisson(12, 12)
    a = sp.csr_array(sp.diags_array(10.0 ** rng.uniform(-20, 20, 144)) @ a)
    a.sort_indices()
    plan = solver.plan(a)
    assert plan.spec.matching == ("none" if plan.backend == "superlu" else "product")
    x = plan(a.data, a @ np.ones(144))
    np.testing.assert_allclose(x, 1, rtol=1e-8)


@pytest.mark.parametrize("convert", [sp.csr_array, jax_sparse.BCSR.from_scipy_sparse])
def test_a_matrix_in_the_place_of_its_values(convert):
    a = matrices.poisson(3, 3)
    plan = solver.plan(a)
    with pytest.raises(nvs.errors.OperandError, match=r"Pass `plan.values_of\(A\)`"):
        plan(convert(a), np.ones(9))
    with pytest.raises(nvs.errors.OperandError, match="a matrix in the place of its values"):
        solver.factorize(plan, convert(a))


def test_values_of_inside_a_jit_that_takes_the_plan():
    a = matrices.poisson(3, 3)
    plan = solver.plan((a.indptr, a.indices, jnp.asarray(a.data)))
    with pytest.raises(nvs.errors.OperandError, match=r"Call `plan.values_of\(A\)` outside"):
        jax.jit(lambda plan: plan.values_of(a))(plan)
