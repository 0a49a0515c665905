"""Batches split over a mesh without a collective; nothing splits the transform itself."""

import re
from operator import attrgetter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvstate as nvs
from tests.case import member, portable_cases, relative_l2, stacked

PORTABLE, OTHERS = (
    pytest.mark.parametrize("case", portable_cases(p), ids=attrgetter("id"), indirect=True)
    for p in (True, False)
)
COLLECTIVES = r"all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter"


@pytest.fixture
def mesh():
    """Four fake devices in a row."""
    return jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))


def four(case, axis=0):
    """Four members along a new axis, one by one and together."""
    members = [case.values(seed) for seed in range(4)]
    return members, stacked(members, axis)


def loss_of(plan, names):
    """A function of an operation's operands that have derivatives, to differentiate."""

    def loss(moved, still):
        y = jax.tree.leaves(plan(**{n: (moved | still)[n] for n in names}))[0]
        return jnp.sum(jnp.abs(y) ** 2)

    return loss


def parted(xs):
    """The operands that have derivatives, and the others."""
    moved = {n: x for n, x in xs.items() if jnp.issubdtype(x.dtype, jnp.inexact)}
    return moved, {n: x for n, x in xs.items() if n not in moved}


@PORTABLE
@pytest.mark.parametrize("axis", [0, -1])
def test_batches_split_without_collectives(case, mesh, plan, axis):
    members, operands = four(case, axis)
    split = {}
    for name, x in operands.items():
        spec = [None] * x.ndim
        spec[axis] = "d"
        split[name] = jax.device_put(x, jax.NamedSharding(mesh, jax.P(*spec)))
    run = jax.jit(jax.vmap(lambda xs: plan(**xs), in_axes=axis, out_axes=axis))
    text = run.lower(split).compile().as_text()
    assert not re.search(COLLECTIVES, text)
    y = run(split)
    for part in jax.tree.leaves(y):
        spec = [None] * part.ndim
        spec[axis] = "d"
        wanted = jax.NamedSharding(mesh, jax.P(*spec))
        assert part.sharding.is_equivalent_to(wanted, part.ndim)
    for i, values in enumerate(members):
        assert case.error(member(y, i, axis), values) < case.bound


@PORTABLE
def test_gradients_split_without_collectives(case, mesh, plan):
    _, operands = four(case)
    split = jax.device_put(operands, jax.NamedSharding(mesh, jax.P("d")))
    gradient = jax.jit(jax.vmap(jax.grad(loss_of(plan, operands))))
    assert not re.search(COLLECTIVES, gradient.lower(*parted(split)).compile().as_text())
    got, want = gradient(*parted(split)), gradient(*parted(operands))
    for name, g in got.items():
        assert relative_l2(g, np.asarray(want[name])) < 8 * case.bound


@PORTABLE
def test_split_transform_axes_are_right_if_slow(case, values, xs, plan, mesh):
    for name, x in xs.items():
        for axis in range(x.ndim):
            if x.shape[axis] % 4:
                continue
            spec = [None] * x.ndim
            spec[axis] = "d"
            split = {**xs, name: jax.device_put(x, jax.NamedSharding(mesh, jax.P(*spec)))}
            assert case.error(jax.jit(lambda xs: plan(**xs))(split), values) < case.bound


@OTHERS
def test_what_cannot_be_split_says_so(case, mesh, plan):
    _, operands = four(case)
    split = jax.device_put(operands, jax.NamedSharding(mesh, jax.P("d")))
    with pytest.raises(nvs.errors.UnsupportedError, match="shard_map"):
        jax.jit(jax.vmap(lambda xs: plan(**xs)))(split)


def test_shard_map_and_its_gradient(case, xs, mesh):
    members, operands = four(case)
    plan = case.planned({n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in xs.items()})

    def one(xs):
        y = plan(**{name: x[0] for name, x in xs.items()})
        return jax.tree.map(lambda y: y[None], y)

    local = jax.shard_map(one, mesh=mesh, in_specs=jax.P("d"), out_specs=jax.P("d"))
    y = jax.jit(local)(operands)
    for i, values in enumerate(members):
        assert case.error(member(y, i), values) < case.bound

    def loss(moved, still):
        return jnp.sum(jnp.abs(jax.tree.leaves(local(moved | still))[0]) ** 2)

    got = jax.jit(jax.grad(loss))(*parted(operands))
    want = jax.jit(jax.vmap(jax.grad(loss_of(plan, xs))))(*parted(operands))
    for name, g in got.items():
        assert relative_l2(g, np.asarray(want[name])) < 8 * case.bound


def test_replicated_operand_in_shard_map_sums_its_gradient(case, xs, mesh):
    plan = case.planned({n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in xs.items()})
    weights = jnp.arange(1.0, 5.0, dtype=jax.tree.leaves(parted(xs)[0])[0].real.dtype)
    of_one = loss_of(plan, xs)

    @jax.jit
    def loss(moved, still):
        def local(moved, w):
            return jax.lax.psum(w[0] * of_one(moved, still), "d")

        specs = (jax.P(), jax.P("d"))
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=jax.P())(moved, weights)

    got, want = (jax.jit(jax.grad(f))(*parted(xs)) for f in (loss, of_one))
    for name, g in got.items():
        assert relative_l2(g, 10 * np.asarray(want[name])) < 8 * case.bound
