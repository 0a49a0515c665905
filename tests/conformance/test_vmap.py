"""vmap over any axis is the plan on each member, without data moving: the spec's axes shift."""

import jax
import numpy as np
import pytest

from tests.case import member, stacked


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("out_axis", [0, -1])
def test_vmap_equals_one_by_one(case, plan, axis, out_axis):
    members = [case.values(seed) for seed in range(3)]
    y = jax.vmap(lambda xs: plan(**xs), in_axes=axis, out_axes=out_axis)(stacked(members, axis))
    for i, operands in enumerate(members):
        assert case.error(member(y, i, out_axis), operands) < case.bound


def test_vmap_twice(case, plan):
    members = [[case.values(3 * i + j) for j in range(2)] for i in range(2)]
    rows = [stacked(row, -1) for row in members]
    operands = stacked([jax.tree.map(np.asarray, row) for row in rows])
    y = jax.jit(jax.vmap(jax.vmap(lambda xs: plan(**xs), in_axes=-1)))(operands)
    for i in range(2):
        for j in range(2):
            assert case.error(member(member(y, i), j), members[i][j]) < case.bound


def test_vmap_with_a_plan_as_argument(case, plan):
    members = [case.values(seed) for seed in range(3)]
    run = jax.vmap(lambda plan, xs: plan(**xs), in_axes=(None, 0))
    y = run(plan, stacked(members, 0))
    for i, operands in enumerate(members):
        assert case.error(member(y, i), operands) < case.bound


def test_vmap_of_each_operand_alone(case, plan, values, xs):
    for name in xs:
        members = [{**values, name: case.values(seed)[name]} for seed in range(2)]
        operands = {**xs, name: stacked(members, -1)[name]}
        axes = dict.fromkeys(xs) | {name: -1}
        y = jax.vmap(lambda xs: plan(**xs), in_axes=(axes,))(operands)
        for i, alone in enumerate(members):
            assert case.error(member(y, i), alone) < case.bound
