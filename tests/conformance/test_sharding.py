"""Batches split over a mesh without a collective; nothing splits the transform itself."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.case import relative_l2, to_jax

COLLECTIVES = r"all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter"


@pytest.fixture
def mesh():
    """Four fake devices in a row."""
    return jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))


@pytest.mark.parametrize("axis", [0, -1])
def test_batches_split_without_collectives(case, mesh, axis):
    values = [case.value(seed) for seed in range(4)]
    stacked = jnp.stack([to_jax(v) for v in values], axis)
    spec = [None] * stacked.ndim
    spec[axis] = "d"
    sharded = jax.device_put(stacked, jax.NamedSharding(mesh, jax.P(*spec)))
    plan = case.plan(to_jax(values[0]))
    run = jax.jit(jax.vmap(lambda x: plan(x), in_axes=axis, out_axes=axis))
    text = run.lower(sharded).compile().as_text()
    assert not re.search(COLLECTIVES, text)
    y = run(sharded)
    assert y.sharding.is_equivalent_to(sharded.sharding, y.ndim)
    for i, value in enumerate(values):
        assert relative_l2(jnp.take(y, i, axis), case.oracle(value)) < case.bound


def test_gradients_split_without_collectives(case, mesh):
    stacked = jnp.stack([to_jax(case.value(seed)) for seed in range(4)])
    sharded = jax.device_put(stacked, jax.NamedSharding(mesh, jax.P("d")))
    plan = case.plan(stacked[0])

    @jax.jit
    def gradient(xs):
        return jax.vmap(jax.grad(lambda x: jnp.sum(jnp.abs(plan(x)) ** 2)))(xs)

    assert not re.search(COLLECTIVES, gradient.lower(sharded).compile().as_text())
    assert relative_l2(gradient(sharded), np.asarray(gradient(stacked))) < 8 * case.bound


def test_split_transform_axes_are_right_if_slow(case, value, x, plan, mesh):
    for axis in plan.spec.positions(x.ndim):
        if x.shape[axis] % 4:
            continue
        spec = [None] * x.ndim
        spec[axis] = "d"
        sharded = jax.device_put(x, jax.NamedSharding(mesh, jax.P(*spec)))
        assert relative_l2(jax.jit(lambda x: plan(x))(sharded), case.oracle(value)) < case.bound


def test_shard_map_and_its_gradient(case, mesh):
    values = [case.value(seed) for seed in range(4)]
    stacked = jnp.stack([to_jax(v) for v in values])
    plan = case.plan(jax.ShapeDtypeStruct(stacked.shape[1:], stacked.dtype))
    local = jax.shard_map(
        lambda x: plan(x[0])[None], mesh=mesh, in_specs=jax.P("d"), out_specs=jax.P("d")
    )
    y = jax.jit(local)(stacked)
    for got, value in zip(y, values, strict=True):
        assert relative_l2(got, case.oracle(value)) < case.bound

    def loss(x):
        return jnp.sum(jnp.abs(local(x)) ** 2)

    want = jax.vmap(jax.grad(lambda x: jnp.sum(jnp.abs(plan(x)) ** 2)))(stacked)
    assert relative_l2(jax.jit(jax.grad(loss))(stacked), np.asarray(want)) < 8 * case.bound


def test_replicated_operand_in_shard_map_sums_its_gradient(case, x, plan, mesh):
    plan = case.plan(jax.ShapeDtypeStruct(x.shape, x.dtype))
    weights = jnp.arange(1.0, 5.0, dtype=x.real.dtype)

    @jax.jit
    def loss(x):
        def local(x, w):
            return jax.lax.psum(w[0] * jnp.sum(jnp.abs(plan(x)) ** 2), "d")

        return jax.shard_map(local, mesh=mesh, in_specs=(jax.P(), jax.P("d")), out_specs=jax.P())(
            x, weights
        )

    want = 10 * jax.grad(lambda x: jnp.sum(jnp.abs(plan(x)) ** 2))(x)
    assert relative_l2(jax.grad(loss)(x), np.asarray(want)) < 8 * case.bound
