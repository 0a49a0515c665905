"""vmap over any axis is the plan on each member, without data moving: the spec's axes shift."""

import jax
import jax.numpy as jnp
import pytest

from tests.case import relative_l2, to_jax


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("out_axis", [0, -1])
def test_vmap_equals_one_by_one(case, plan, axis, out_axis):
    values = [case.value(seed) for seed in range(3)]
    members = jnp.stack([to_jax(v) for v in values], axis)
    y = jax.vmap(plan, in_axes=axis, out_axes=out_axis)(members)
    for got, value in zip(jnp.moveaxis(y, out_axis, 0), values, strict=True):
        assert relative_l2(got, case.oracle(value)) < case.bound


def test_vmap_twice(case, plan):
    values = [[case.value(3 * i + j) for j in range(2)] for i in range(2)]
    members = jnp.stack([jnp.stack([to_jax(v) for v in row], -1) for row in values])
    y = jax.jit(jax.vmap(jax.vmap(plan, in_axes=-1)))(members)
    for i in range(2):
        for j in range(2):
            assert relative_l2(y[i, j], case.oracle(values[i][j])) < case.bound


def test_vmap_with_a_plan_as_argument(case, plan):
    values = [case.value(seed) for seed in range(3)]
    members = jnp.stack([to_jax(v) for v in values])
    y = jax.vmap(lambda plan, x: plan(x), in_axes=(None, 0))(plan, members)
    for got, value in zip(y, values, strict=True):
        assert relative_l2(got, case.oracle(value)) < case.bound
