"""vmap over any axis is the plan on each member, without data moving: the spec's axes shift."""

import jax
import jax.numpy as jnp
import pytest

from tests.case import to_jax_each


def stacked(members, axis):
    """Operands by name, of all members, along a new axis."""
    members = [to_jax_each(m) for m in members]
    return jax.tree.map(lambda *xs: jnp.stack(xs, axis), *members)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("out_axis", [0, -1])
def test_vmap_equals_one_by_one(case, plan, axis, out_axis):
    members = [case.values(seed) for seed in range(3)]
    y = jax.vmap(lambda xs: plan(**xs), in_axes=axis, out_axes=out_axis)(stacked(members, axis))
    for i, operands in enumerate(members):
        got = jax.tree.map(lambda y, i=i: jnp.take(y, i, out_axis), y)
        assert case.error(got, operands) < case.bound


def test_vmap_twice(case, plan):
    members = [[case.values(3 * i + j) for j in range(2)] for i in range(2)]
    rows = [stacked(row, -1) for row in members]
    operands = jax.tree.map(lambda *xs: jnp.stack(xs), *rows)
    y = jax.jit(jax.vmap(jax.vmap(lambda xs: plan(**xs), in_axes=-1)))(operands)
    for i in range(2):
        for j in range(2):
            got = jax.tree.map(lambda y, i=i, j=j: y[i, j], y)
            assert case.error(got, members[i][j]) < case.bound


def test_vmap_with_a_plan_as_argument(case, plan):
    members = [case.values(seed) for seed in range(3)]
    run = jax.vmap(lambda plan, xs: plan(**xs), in_axes=(None, 0))
    y = run(plan, stacked(members, 0))
    for i, operands in enumerate(members):
        assert case.error(jax.tree.map(lambda y, i=i: y[i], y), operands) < case.bound


def test_vmap_of_each_operand_alone(case, plan, xs):
    for name in xs:
        members = [{**xs, name: to_jax_each(case.values(seed))[name]} for seed in range(2)]
        operands = {**xs, name: jnp.stack([m[name] for m in members], -1)}
        axes = dict.fromkeys(xs) | {name: -1}
        y = jax.vmap(lambda xs: plan(**xs), in_axes=(axes,))(operands)
        for i, member in enumerate(members):
            assert case.error(jax.tree.map(lambda y, i=i: y[i], y), member) < case.bound
