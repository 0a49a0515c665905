"""A plan is data: equal plans are one, hash alike, pickle, and do not retrace."""

import copy
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp

import nvstate as nvs


def test_equal_problems_make_equal_plans(case, xs, plan):
    again = case.planned(xs)
    assert again == plan
    assert hash(again) == hash(plan)
    assert again.spec == plan.spec
    types = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in xs.items()}
    assert case.planned(types).spec == plan.spec


def test_pickle_returns_the_same_plan(plan):
    assert pickle.loads(pickle.dumps(plan)) is plan
    assert pickle.loads(pickle.dumps(plan.spec)) == plan.spec
    assert copy.deepcopy(plan) is plan


def test_json_returns_the_same_plan(plan):
    assert type(plan).from_json(plan.to_json()) is plan


def test_equal_plans_do_not_retrace(case, xs, plan):
    traces = []

    @jax.jit
    def apply(plan, xs):
        traces.append(1)
        return plan(**xs)

    apply(plan, xs)
    apply(case.planned(xs), xs)
    apply(pickle.loads(pickle.dumps(plan)), xs)
    assert len(traces) == 1


def test_a_plan_has_no_leaves_but_its_arrays_and_survives_tree_maps(plan, xs):
    own = jax.tree.leaves(plan)
    assert all(leaf is mine for leaf, mine in zip(own, plan.leaves, strict=True))
    assert jax.tree.map(lambda leaf: leaf, plan) is plan
    bound = nvs.bind(plan, **xs)
    leaves = jax.tree.leaves(bound)
    assert all(leaf is x for leaf, x in zip(leaves, (*own, *xs.values()), strict=True))
    emptied = jax.tree.map(jnp.zeros_like, bound).plan
    assert emptied == plan
    assert own or emptied is plan


def test_digests_are_the_same_in_every_process():
    script = (
        "import jax, nvstate as nvs; x = jax.ShapeDtypeStruct((2, 8), 'complex64');"
        "plan = nvs.fft.plan(x, axes=(1,)); print(plan.digest, plan.spec.digest)"
    )
    there = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    here = nvs.fft.plan(jax.ShapeDtypeStruct((2, 8), "complex64"), axes=(1,))
    assert there.stdout == f"{here.digest} {here.spec.digest}\n"
    assert here.digest != here.spec.digest
