"""Several devices: loops, shared values and single members, beside `test_sharding`."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvstate as nvs
from tests.conformance.test_sharding import COLLECTIVES
from tests.direct_solver import engines, matrices, oracle
from tests.direct_solver.engines import Engine, counted

solver = engines.solver
P = jax.P
A = matrices.convection(5)
N, MEMBERS = A.shape[0], 8
VALUES = np.stack([A.data * (1 + 0.1 * i) + 0.01 * i * np.cos(A.indices) for i in range(MEMBERS)])
SIDES = oracle.random(np.random.default_rng(7), (MEMBERS, N), "float64")
CPU_ENGINES = pytest.mark.parametrize("name", ["pardiso", "superlu"])


def member(i, scale=1.0):
    a = A.copy()
    a.data = scale * VALUES[i]
    return a


def plan_of(name, **options):
    """A plan for any device, whose pattern goes where its operands are."""
    engine = Engine.of(name)
    struct = jax.ShapeDtypeStruct(A.data.shape, "float64")
    return solver.plan((A.indptr, A.indices, struct), **engine.options, **options)


def mesh_of(*shape):
    kinds = (jax.sharding.AxisType.Auto,) * len(shape)
    return jax.make_mesh(shape, ("x", "y")[: len(shape)], axis_types=kinds)


def put(mesh, x, *spec):
    return jax.device_put(x, jax.NamedSharding(mesh, P(*spec)))


@pytest.mark.parametrize("devices", [2, 4])
def test_the_gradient_in_values_that_are_shared_is_one_sum(devices):
    """Right-hand sides are split, so its terms are: no other collective, and no gathering."""
    plan, mesh = plan_of("pardiso"), mesh_of(devices)

    def loss(values, b):
        factor = solver.factorize(plan, values)
        return jnp.sum(jnp.sin(jax.vmap(lambda b: solver.solve(factor, b))(b)))

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    want = gradient(jnp.asarray(A.data), jnp.asarray(SIDES))
    args = put(mesh, A.data), put(mesh, SIDES, "x")
    compiled = gradient.lower(*args).compile()
    assert set(re.findall(COLLECTIVES, compiled.as_text())) == {"all-reduce"}
    with counted() as counts:
        got = jax.block_until_ready(compiled(*args))
    assert (counts["factorizations"], counts["factor_misses"]) == (devices, 0)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-10, atol=1e-12)


@CPU_ENGINES
def test_one_member_of_a_divided_batch(name):
    """It is taken to the first device, whatever was factorized on another."""
    plan, mesh = plan_of(name), mesh_of(4)

    @jax.jit
    @jax.shard_map(mesh=mesh, in_specs=P("x"), out_specs=P("x"))
    def factorize(values):
        made = jax.vmap(lambda v: solver.factorize(plan, v))(values)
        return made.values, made.ticket, made.words

    arrays = factorize(put(mesh, VALUES, "x"))
    for i in (0, 7, 3):
        own = [jax.device_put(x[i], jax.devices()[0]) for x in arrays]
        x = solver.solve(solver.Factor(plan, *own), jnp.asarray(SIDES[i]))
        oracle.require_solution(member(i), x, SIDES[i])


@CPU_ENGINES
def test_a_plan_is_an_argument_of_shard_map(name):
    plan, mesh = plan_of(name), mesh_of(4)

    def run(plan, values, b):
        factors = jax.vmap(lambda v: solver.factorize(plan, v).words[0])(values)
        return jax.vmap(plan)(values, b), factors

    mapped = jax.shard_map(run, mesh=mesh, in_specs=(P(), P("x"), P("x")), out_specs=P("x"))
    x, status = jax.jit(mapped)(plan, put(mesh, VALUES, "x"), put(mesh, SIDES, "x"))
    assert (np.asarray(status) <= 1).all()
    for i in range(MEMBERS):
        oracle.require_solution(member(i), np.asarray(x)[i], SIDES[i])


@CPU_ENGINES
def test_a_newton_loop_on_each_device(name):
    """Four loops at once, each with other values in each step, and a slot each."""
    plan, mesh = plan_of(name, factor_slots=1), mesh_of(4)
    nvs.free(plan)

    @jax.jit
    @jax.shard_map(mesh=mesh, in_specs=(P("x"), P("x")), out_specs=P("x"))
    def run(values, b):
        def step(x, s):
            factor = solver.factorize(plan, (1 + s) * values[0])
            x = solver.solve(factor, b[0])
            return x, x

        return jax.lax.scan(step, b[0], jnp.arange(10.0))[1][None]

    with counted() as counts:
        xs = np.asarray(run(put(mesh, VALUES[:4], "x"), put(mesh, SIDES[:4], "x")))
    for i in range(4):
        for s in range(10):
            oracle.require_solution(member(i, 1 + s), xs[i, s], SIDES[i])
    if name == "pardiso":  # SuperLU's callbacks do not know their devices, and share a ring
        assert (counts["factorizations"], counts["factor_misses"]) == (40, 0)


@CPU_ENGINES
def test_a_mesh_that_is_partly_manual_is_refused(name):
    plan, mesh = plan_of(name), mesh_of(2, 2)
    mapped = jax.shard_map(
        lambda v, b: jax.vmap(plan)(v, b),
        mesh=mesh,
        in_specs=(P("x"), P("x")),
        out_specs=P("x"),
        axis_names={"x"},
    )
    with pytest.raises(nvs.errors.UnsupportedError, match="all axes of the mesh"):
        jax.jit(mapped)(put(mesh, VALUES, "x"), put(mesh, SIDES, "x"))


@CPU_ENGINES
@pytest.mark.parametrize("fused", [True, False])
def test_right_hand_sides_that_devices_share(name, fused):
    """What is solved with values of each device is each device's, and b's cotangents are added."""
    plan, mesh = plan_of(name), mesh_of(4)

    def solved(values, b):
        return plan(values, b) if fused else solver.solve(solver.factorize(plan, values), b)

    def local(values, b):
        x = solved(values[0], b)
        return jax.lax.psum(jnp.sum(jnp.sin(x)), "x"), x[None]

    total = jax.shard_map(local, mesh=mesh, in_specs=(P("x"), P()), out_specs=(P(), P("x")))
    args = put(mesh, VALUES[:4], "x"), put(mesh, SIDES[0])
    (loss, xs), found = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(*args)
    dense = [member(i).toarray() for i in range(4)]
    want = np.stack([np.linalg.solve(a, SIDES[0]) for a in dense])
    np.testing.assert_allclose(xs, want, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(loss, np.sin(want).sum(), rtol=1e-12)
    rights = np.stack([np.linalg.solve(a.T, np.cos(x)) for a, x in zip(dense, want, strict=True)])
    entries = -rights[:, matrices.rows_of(A)] * want[:, A.indices]
    np.testing.assert_allclose(found[0], entries, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found[1], rights.sum(0), rtol=1e-10, atol=1e-12)
