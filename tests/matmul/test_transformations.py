"""What the conformance rows do not reach: mapped scalars and maxima, explicit meshes, batches."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvstate as nvs
from nvstate.matmul import table
from tests.conformance.test_sharding import COLLECTIVES
from tests.matmul import oracle


def struct(*shape, dtype="float64"):
    """A type."""
    return jax.ShapeDtypeStruct(shape, dtype)


def test_mapped_scalars_and_maxima_run_one_by_one(rng):
    a, b, c = (jnp.asarray(oracle.random(rng, s, "float64")) for s in ((4, 6), (6, 5), (4, 5)))
    scalar = struct()
    plan = nvs.matmul.plan(struct(4, 6), struct(6, 5), struct(4, 5), alpha=scalar, beta=scalar)
    alphas = jnp.asarray([1.0, -2.0, 0.5])
    got = jax.vmap(plan, (None, None, None, 0, None))(a, b, c, alphas, jnp.asarray(2.0))
    assert np.allclose(got, alphas[:, None, None] * (a @ b) + 2 * c)
    x = jnp.asarray(oracle.random(rng, (3, 16, 32), table.E4M3))
    w, one = jnp.asarray(oracle.random(rng, (48, 32), table.E4M3)), jnp.float32(1)
    types = [struct(*s.shape, dtype=s.dtype) for s in (x[0], w)]
    plan = nvs.matmul.plan(
        *types, scale_a=struct(dtype="float32"), scale_b=struct(dtype="float32"),
        scale_d=struct(dtype="float32"), transpose_b=True, result_dtype=table.E4M3,
        result_amax=True,
    )  # fmt: skip
    r = jax.vmap(lambda x: plan(x, w, one, one, one))(x)
    want = np.abs(oracle.product(x, w, transpose_b=True)).max((1, 2))
    assert np.allclose(r.result_amax, want, rtol=1e-5)
    assert r.d.shape == (3, 16, 48)


def test_gradients_of_alpha_and_beta(rng):
    a, b, c = (jnp.asarray(oracle.random(rng, s, "float64")) for s in ((4, 6), (6, 5), (4, 5)))
    plan = nvs.matmul.plan(
        struct(4, 6), struct(6, 5), struct(4, 5), alpha=struct(), beta=struct(), epilog="gelu"
    )

    def ours(c, alpha, beta):
        return jnp.sum(plan(a, b, c, alpha=alpha, beta=beta) ** 2)

    def wanted(c, alpha, beta):
        return jnp.sum(jax.nn.gelu(alpha * (a @ b) + beta * c) ** 2)

    at = (c, jnp.asarray(0.3), jnp.asarray(-0.7))
    for got, want in zip(*(jax.grad(f, (0, 1, 2))(*at) for f in (ours, wanted)), strict=True):
        assert np.allclose(got, want)


@pytest.mark.parametrize("ta", [False, True])
@pytest.mark.parametrize("tb", [False, True])
@pytest.mark.parametrize("conjugated", [(), ("a",), ("b",), ("a", "b")])
def test_cotangents_of_every_layout(rng, ta, tb, conjugated):
    a = jnp.asarray(oracle.random(rng, (2, 5, 4) if ta else (2, 4, 5), "complex128"))
    b = jnp.asarray(oracle.random(rng, (3, 5) if tb else (5, 3), "complex128"))
    flags = {"transpose_a": ta, "transpose_b": tb, "alpha": 0.5 - 1j}
    flags |= {f"conjugate_{name}": True for name in conjugated}

    def wanted(a, b):
        left, right = (x.mT if t else x for x, t in ((a, ta), (b, tb)))
        left = jnp.conj(left) if "a" in conjugated else left
        return (0.5 - 1j) * left @ (jnp.conj(right) if "b" in conjugated else right)

    plan = nvs.matmul.plan(*(struct(*x.shape, dtype=x.dtype) for x in (a, b)), **flags)
    ct = jnp.asarray(oracle.random(rng, (2, 4, 3), "complex128"))
    for got, want in zip(*(jax.vjp(f, a, b)[1](ct) for f in (plan, wanted)), strict=True):
        assert np.allclose(got, want)


def test_mixed_precision_has_the_operands_cotangents(rng):
    a, b = (jnp.asarray(oracle.random(rng, s, "bfloat16")) for s in ((8, 16), (16, 4)))
    plan = nvs.matmul.plan(a, b, result_dtype="float32")
    y, back = jax.vjp(lambda a, b: plan(a, b), *(a, b))
    ct = jnp.asarray(oracle.random(rng, (8, 4), "float32"))
    ct_a, ct_b = back(ct)
    assert (y.dtype, ct_a.dtype, ct_b.dtype) == ("float32", "bfloat16", "bfloat16")
    assert np.allclose(oracle.wide(ct_a), oracle.wide(ct) @ oracle.wide(b).T, rtol=1e-2, atol=1e-2)
    assert np.allclose(oracle.wide(ct_b), oracle.wide(a).T @ oracle.wide(ct), rtol=1e-2, atol=1e-2)


SPLITS = {
    "batch": (jax.P("d"), jax.P(), jax.P()),
    "M": (jax.P(None, "d"), jax.P(), jax.P()),
    "N": (jax.P(), jax.P(None, "d"), jax.P("d")),
}


@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
@pytest.mark.parametrize("split", SPLITS)
def test_batch_m_and_n_split_without_collectives(rng, split, kind):
    mesh = jax.make_mesh((4,), ("d",), axis_types=(kind,))
    arrays = [oracle.random(rng, s, "float64") for s in ((8, 16, 12), (12, 20), (20,))]
    a, b, bias = arrays
    types = [struct(*x.shape) for x in arrays]
    plan = nvs.matmul.plan(*types[:2], bias=types[2], epilog="gelu_bias")
    with jax.set_mesh(mesh):
        split_ = [
            jax.device_put(x, jax.NamedSharding(mesh, s))
            for x, s in zip(arrays, SPLITS[split], strict=True)
        ]
        run = jax.jit(lambda *x: plan(*x))
        assert not re.search(COLLECTIVES, run.lower(*split_).compile().as_text())
        y = run(*split_)
    at = {"batch": 0, "M": 1, "N": 2}[split]
    wanted = jax.NamedSharding(mesh, jax.P(*["d" if i == at else None for i in range(3)]))
    assert y.sharding.is_equivalent_to(wanted, 3)
    assert np.allclose(y, oracle.gelu(a @ b + bias))


def test_explicit_meshes_refuse_what_would_need_a_collective(rng):
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    a, b = oracle.random(rng, (8, 16), "float64"), oracle.random(rng, (16, 8), "float64")
    with jax.set_mesh(mesh):
        split = jax.device_put(a, jax.NamedSharding(mesh, jax.P(None, "d")))
        with pytest.raises(nvs.errors.OperandError, match="K is sharded over `d`"):
            jax.jit(lambda a, b: nvs.matmul.matmul(a, b))(split, b)
        rows = jax.device_put(a, jax.NamedSharding(mesh, jax.P("d")))
        aux = jnp.zeros((8, 8))
        with pytest.raises(nvs.errors.OperandError, match="sums over it"):
            jax.jit(lambda a, b: nvs.matmul.matmul(a, b, gelu_aux=aux, epilog="dgelu_bgrad"))(
                rows, b
            )


def test_n_splits_in_a_shard_map(rng):
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    a, b = oracle.random(rng, (8, 16), "float64"), oracle.random(rng, (16, 8), "float64")

    def local(a, b):
        return nvs.matmul.matmul(a, b)

    specs = (jax.P(), jax.P(None, "d"))
    run = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=jax.P(None, "d")))
    assert not re.search(COLLECTIVES, run.lower(a, b).compile().as_text())
    assert np.allclose(run(a, b), a @ b)
    gradient = jax.jit(jax.grad(lambda a, b: jnp.sum(run(a, b) ** 2), (0, 1)))
    for got, want in zip(gradient(a, b), (2 * (a @ b) @ b.T, 2 * a.T @ (a @ b)), strict=True):
        assert np.allclose(got, want)


def test_in_place_in_scan(rng):
    a, b, c = (jnp.asarray(oracle.random(rng, s, "float64")) for s in ((4, 4), (4, 4), (4, 4)))
    plan = nvs.matmul.plan(struct(4, 4), struct(4, 4), struct(4, 4), beta=0.5, inplace=True)
    y, _ = jax.lax.scan(lambda c, _: (plan(a, b, c), None), c, length=3)
    want = c
    for _ in range(3):
        want = a @ b + 0.5 * want
    assert np.allclose(y, want)
