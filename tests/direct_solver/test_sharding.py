"""Batches and right-hand sides on the devices of a mesh: split without a collective, or refused."""

import copy
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

import nvstate as nvs
from tests.conformance.test_sharding import COLLECTIVES
from tests.direct_solver import engines, matrices, oracle
from tests.direct_solver.engines import Engine

solver = engines.solver
P = jax.P
AUTO, EXPLICIT = jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit
N = 16
A = matrices.of_type("general", "float64", n=N)


@pytest.fixture
def pardiso():
    """The engine of CPUs that can be divided."""
    return Engine.of("pardiso")


def plan_of(engine):
    """For any number of devices: of types, not of arrays that live on one."""
    pattern = (A.indptr, A.indices, jax.ShapeDtypeStruct((A.nnz,), "float64"))
    plan = solver.plan(pattern, **engine.options)
    assert plan.backend == engine.name
    nvs.free(plan)
    return plan


def mesh_of(*shape, kind=AUTO):
    return jax.make_mesh(shape, ("d", "e")[: len(shape)], axis_types=(kind,) * len(shape))


def values_of(count):
    rng, rows = np.random.default_rng(4), matrices.rows_of(A)
    return np.stack([matrices.mild(rng, rows, A.indices, "float64") for _ in range(count)])


def sides(*shape):
    return oracle.random(np.random.default_rng(7), shape, "float64")


def placed(mesh, x, *spec):
    return jax.device_put(x, jax.NamedSharding(mesh, P(*spec)))


def require(values, x, b, transpose="none"):
    a = sp.csr_array((values, A.indices, A.indptr), A.shape)
    oracle.require_solution(a, np.asarray(x), b, transpose)


def no_collectives(run, *operands):
    text = run.lower(*operands).compile().as_text()
    assert not re.search(COLLECTIVES, text), re.findall(COLLECTIVES, text)
    return text


def split_like(y, mesh, *spec):
    assert y.sharding.is_equivalent_to(jax.NamedSharding(mesh, P(*spec)), y.ndim)


@pytest.mark.parametrize("kind", [AUTO, EXPLICIT])
@pytest.mark.parametrize("phases", ["one", "two", "fused"])
def test_a_batch_is_split_by_its_members(pardiso, phases, kind):
    mesh, plan = mesh_of(4, kind=kind), plan_of(pardiso)
    vs, bs = values_of(8), sides(8, N)

    def one(plan, v, b):
        if phases == "fused":
            return plan(v, b), b
        if phases == "one":
            x, factor = solver.factorize_solve(plan, v, b)
            return x, factor.words
        factor = solver.factorize(plan, v)
        return solver.solve(factor, b), solver.solve(factor, b, transpose="transpose")

    with jax.set_mesh(mesh):
        v, b = placed(mesh, vs, "d"), placed(mesh, bs, "d")
        run = jax.jit(jax.vmap(one, in_axes=(None, 0, 0)))
        no_collectives(run, plan, v, b)
        jax.block_until_ready(run(plan, v, b))
        with engines.counted() as counts:
            xs, others = jax.block_until_ready(run(plan, v, b))
    split_like(xs, mesh, "d")
    split_like(others, mesh, "d")
    xs, others = np.asarray(xs), np.asarray(others)
    for i in range(8):
        require(vs[i], xs[i], bs[i])
        if phases == "two":
            require(vs[i], others[i], bs[i], "transpose")
    assert (counts["factorizations"], counts["factor_misses"]) == (8, 0)
    assert counts["factor_hits"] == (16 if phases == "two" else 0)


def test_a_factor_that_is_split_is_used_by_another_program(pardiso):
    """Each device finds its own members' factorizations, and none is gathered."""
    mesh, plan = mesh_of(4), plan_of(pardiso)
    vs, bs = values_of(4), sides(4, N, 3)
    factors = jax.jit(jax.vmap(lambda v: solver.factorize(plan, v)))(placed(mesh, vs, "d"))
    arrays = (factors.values, factors.ticket, factors.words)
    for x in arrays:
        split_like(x, mesh, "d")

    @jax.jit
    def run(plan, arrays, b):
        return jax.vmap(lambda own, b: solver.solve(solver.Factor(plan, *own), b))(arrays, b)

    b = placed(mesh, bs, "d")
    no_collectives(run, plan, arrays, b)
    with engines.counted() as counts:
        xs = jax.block_until_ready(run(plan, arrays, b))
    assert (counts["factor_hits"], counts["factor_misses"]) == (4, 0)
    split_like(xs, mesh, "d")
    for i in range(4):
        require(vs[i], xs[i], bs[i])


def test_columns_are_split_and_values_whole(pardiso):
    """Each device has the matrix: it factorizes once, and solves its own right-hand sides."""
    mesh, plan = mesh_of(4), plan_of(pardiso)
    (values,) = values_of(1)
    v, b = placed(mesh, values), placed(mesh, sides(N, 8), None, "d")

    @jax.jit
    def run(plan, v, b):
        factor = solver.factorize(plan, v)
        return solver.solve(factor, b), solver.solve(factor, 2 * b)

    no_collectives(run, plan, v, b)
    jax.block_until_ready(run(plan, v, b))
    with engines.counted() as counts:
        x, y = jax.block_until_ready(run(plan, v, b))
    assert (counts["factorizations"], counts["factor_misses"]) == (4, 0)
    for z, scale in ((x, 1), (y, 2)):
        split_like(z, mesh, None, "d")
        require(values, z, scale * np.asarray(b))
    under = jax.jit(jax.vmap(lambda b: plan(v, b)))
    bs = placed(mesh, sides(8, N), "d")
    no_collectives(under, bs)
    split_like(under(bs), mesh, "d")
    for x, b in zip(under(bs), np.asarray(bs), strict=True):
        require(values, x, b)


def test_members_and_columns_over_two_axes(pardiso):
    mesh, plan = mesh_of(2, 2), plan_of(pardiso)
    vs, bs = values_of(4), sides(4, N, 6)
    run = jax.jit(jax.vmap(lambda v, b: plan(v, b)))
    v, b = placed(mesh, vs, "d"), placed(mesh, bs, "d", None, "e")
    no_collectives(run, v, b)
    xs = run(v, b)
    split_like(xs, mesh, "d", None, "e")
    for i in range(4):
        require(vs[i], xs[i], bs[i])


@pytest.mark.parametrize(("shape", "count"), [((1,), 3), ((4, 1), 4), ((1, 4), 4), ((4,), 4)])
def test_axes_and_parts_of_one(pardiso, shape, count):
    """Where shapes alone cannot say what is a batch."""
    mesh, plan = mesh_of(*shape), plan_of(pardiso)
    vs, bs = values_of(count), sides(count, N)
    axes = ("d", "e")[: len(shape)]
    v, b = placed(mesh, vs, axes), placed(mesh, bs, axes)
    xs = jax.jit(jax.vmap(lambda v, b: solver.solve(solver.factorize(plan, v), b)))(v, b)
    for i in range(count):
        require(vs[i], xs[i], bs[i])


def test_what_no_device_may_have_a_part_of_is_gathered(pardiso):
    """Entries and rows that are split: slow, and right."""
    mesh, plan = mesh_of(2), plan_of(pardiso)
    (values,), b = values_of(1), sides(N, 2)
    assert A.nnz % 2 == 0
    x = jax.jit(lambda v, b: plan(v, b))(placed(mesh, values, "d"), placed(mesh, b, "d"))
    require(values, x, b)


@pytest.mark.parametrize("kind", [AUTO, EXPLICIT])
def test_gradients_of_a_split_batch_need_no_collective(pardiso, kind):
    mesh, plan = mesh_of(4, kind=kind), plan_of(pardiso)
    vs, bs = values_of(4), sides(4, N)
    loss = lambda v, b: (solver.solve(solver.factorize(plan, v), b) ** 2).sum()  # noqa: E731
    run = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1))))
    with jax.set_mesh(mesh):
        operands = placed(mesh, vs, "d"), placed(mesh, bs, "d")
        no_collectives(run, *operands)
        jax.block_until_ready(run(*operands))
        with engines.counted() as counts:
            got = jax.block_until_ready(run(*operands))
    got = [np.asarray(g) for g in got]
    assert (counts["factorizations"], counts["factor_misses"]) == (4, 0)
    for i in range(4):
        want = jax.grad(loss, argnums=(0, 1))(jnp.asarray(vs[i]), jnp.asarray(bs[i]))
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(g[i], w, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", ["pardiso", "superlu"])
def test_shard_map_over_batches(name):
    engine = Engine.of(name)
    mesh, plan = mesh_of(4), plan_of(engine)
    vs, bs = values_of(8), sides(8, N)

    @jax.jit
    def run(v, b):
        def local(v, b):
            return jax.vmap(lambda v, b: solver.solve(solver.factorize(plan, v), b))(v, b)

        return jax.shard_map(local, mesh=mesh, in_specs=P("d"), out_specs=P("d"))(v, b)

    v, b = placed(mesh, vs, "d"), placed(mesh, bs, "d")
    no_collectives(run, v, b)
    jax.block_until_ready(run(v, b))
    with engines.counted() as counts:
        xs = jax.block_until_ready(run(v, b))
    for i in range(8):
        require(vs[i], xs[i], bs[i])
    assert (counts["factorizations"], counts["factor_misses"]) == (8, 0)


@pytest.mark.parametrize("way", ["solve", "plan"])
@pytest.mark.parametrize("name", ["pardiso", "superlu"])
def test_gradients_in_values_that_devices_share_are_summed(name, way):
    """Replicated values, right-hand sides of each device: the cotangents of all are added."""
    engine = Engine.of(name)
    mesh, plan = mesh_of(4), plan_of(engine)
    (values,), bs = values_of(1), sides(4, N)

    def one(v, b):
        x = plan(v, b) if way == "plan" else solver.solve(solver.factorize(plan, v), b)
        return (x**2).sum()

    @jax.jit
    def inside(v, b):
        """Of the sum over devices, differentiated from without."""

        def local(v, b):
            return jax.lax.psum(one(v, b[0]), "d")

        return jax.shard_map(local, mesh=mesh, in_specs=(P(), P("d")), out_specs=P())(v, b)

    @jax.jit
    def gradients(v, b):
        """Differentiated on each device: what does not vary has a cotangent that does not."""

        def local(v, b):
            gv, gb = jax.grad(lambda v, b: jax.lax.psum(one(v, b[0]), "d"), (0, 1))(v, b)
            return gv, gb

        specs = (P(), P("d"))
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=specs)(v, b)

    a = sp.csr_array((values, A.indices, A.indptr), A.shape).toarray()
    xs = np.linalg.solve(a, bs.T).T
    rights = np.linalg.solve(a.T, 2 * xs.T).T
    want = -sum(r[matrices.rows_of(A)] * x[A.indices] for r, x in zip(rights, xs, strict=True))
    v, b = placed(mesh, values), placed(mesh, bs, "d")
    np.testing.assert_allclose(inside(v, b), (xs**2).sum(), rtol=1e-12)
    for found in (jax.jit(jax.grad(inside, argnums=(0, 1)))(v, b), gradients(v, b)):
        np.testing.assert_allclose(found[0], want, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(found[1], rights, rtol=1e-10, atol=1e-12)


def test_replicated_factors_in_shard_map(pardiso):
    """A factor from outside, whose ticket names one device's slot: others miss, all are right."""
    mesh, plan = mesh_of(4), plan_of(pardiso)
    (values,), bs = values_of(1), sides(4, N)
    factor = solver.factorize(plan, jnp.asarray(values))

    @jax.jit
    def run(factor, b):
        local = lambda f, b: solver.solve(f, b[0])[None]  # noqa: E731
        return jax.shard_map(local, mesh=mesh, in_specs=(P(), P("d")), out_specs=P("d"))(factor, b)

    there = jax.device_put(factor, jax.NamedSharding(mesh, P()))
    xs = run(there, placed(mesh, bs, "d"))
    for x, b in zip(xs, bs, strict=True):
        require(values, x, b)
    for g in jax.jit(jax.grad(lambda f: run(f, bs).sum(), allow_int=True))(there).values[None]:
        a = sp.csr_array((values, A.indices, A.indptr), A.shape).toarray()
        right = np.linalg.solve(a.T, np.ones(N))
        total = np.linalg.solve(a, bs.sum(0))
        np.testing.assert_allclose(g, -right[matrices.rows_of(A)] * total[A.indices], rtol=1e-10)


def test_superlu_is_not_divided():
    """Its callback would have to run in a part of a program: refused, not gathered."""
    mesh, plan = mesh_of(4), plan_of(Engine.of("superlu"))
    v, b = placed(mesh, values_of(4), "d"), placed(mesh, sides(4, N), "d")
    for run in (
        lambda v, b: solver.solve(solver.factorize(plan, v), b),
        lambda v, b: plan(v, b),
    ):
        with pytest.raises(nvs.errors.UnsupportedError, match="shard_map"):
            jax.jit(jax.vmap(run))(v, b)


def test_a_factor_that_moves_to_another_device(pardiso):
    """A miss there, or the same process's ring: the answer is right on each."""
    (values,), (b,) = values_of(1), sides(1, N)
    plan = plan_of(pardiso)
    factor = solver.factorize(plan, jnp.asarray(values))
    for device in jax.devices()[:3]:
        moved = jax.device_put(factor, device)
        x = solver.solve(moved, jax.device_put(b, device))
        assert x.devices() == {device}
        require(values, x, b)
        require(values, solver.solve(moved, jax.device_put(b, device)), b)


@pytest.mark.parametrize("kind", [AUTO, EXPLICIT], ids=["auto", "explicit"])
def test_a_plan_of_arrays_goes_along(pardiso, kind):
    """An argument that lives on the default device, beside others that several have."""
    plan, mesh = pardiso.plan(A), mesh_of(4, kind=kind)
    values, b = values_of(4), sides(4, N)
    split = placed(mesh, values, "d"), placed(mesh, b, "d")
    run = jax.jit(lambda plan, v, b: jax.vmap(plan)(v, b))
    x = np.asarray(run(plan, *split))
    for i in range(4):
        require(values[i], x[i], b[i])
    one = jnp.asarray(values[0]), jnp.asarray(b[0])
    with jax.set_mesh(mesh):  # of which these know nothing
        require(values[0], plan(*one), b[0])
        require(values[0], jax.jit(lambda plan, v, b: plan(v, b))(plan, *one), b[0])
        require(values[0], solver.solve(solver.factorize(plan, one[0]), one[1]), b[0])
    there = jax.devices("cpu")[2]
    moved = copy.copy(A)
    moved.data = jax.device_put(values[0], there)
    own = solver.plan(moved)
    assert {x.device for x in own.leaves} == {there}
    with pytest.raises(ValueError, match="incompatible devices"):
        run(own, *split)
    with jax.default_device(there):  # where its leaves are first asked for does not matter
        first = pardiso.plan(2 * A)
        assert {x.device for x in first.leaves} == {jax.devices("cpu")[0]}


def test_two_devices_have_two_rings(pardiso):
    """As many live factors on each as the plan has slots."""
    plan = plan_of(pardiso)
    vs, (b,) = values_of(4), sides(1, N)
    made = []
    for i, v in enumerate(vs):
        device = jax.devices()[i % 2]
        there = jax.device_put((plan, v), device)
        made.append((v, device, solver.factorize(*there)))
    with engines.counted() as counts:
        for v, device, factor in made:
            require(v, solver.solve(factor, jax.device_put(b, device)), b)
    assert (counts["factor_hits"], counts["factor_misses"]) == (4, 0)
