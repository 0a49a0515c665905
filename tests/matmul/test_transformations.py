"""What the conformance rows do not reach: mapped scalars and maxima, explicit meshes, batches."""

import re

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

import nvstate as nvs
from nvstate.matmul import lowering, table
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


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("epilog", [None, "gelu", "dgelu"])
def test_derivatives_of_alpha_and_beta_are_summed_wide(rng, dtype, epilog):
    # The sum over all elements is beyond what 16 bits can add up, and float16 can hold.
    a, b, c, g = (jnp.asarray(oracle.random(rng, (300, 300), dtype)) + 0.5 for _ in range(4))
    aux = {"gelu_aux": jnp.pad(c, ((0, 0), (0, 4)))} if epilog == "dgelu" else {}
    scalar = struct(dtype="float32")
    plan = nvs.matmul.plan(a, b, c, alpha=scalar, beta=scalar, epilog=epilog, **aux)

    def run(alpha, beta):
        return plan(a, b, c, alpha=alpha, beta=beta, **aux)

    at = (jnp.float32(2.0**-6), jnp.float32(0.5))
    wide_c, product = oracle.wide(c), oracle.product(a, b)
    slope = {
        None: 1.0,
        "gelu": oracle.gelu_slope(product / 64 + wide_c / 2),
        "dgelu": oracle.gelu_slope(wide_c),
    }[epilog]
    parts = [slope * product, slope * wide_c]
    y, back = jax.vjp(run, *at)
    for got, part in zip(back(g), parts, strict=True):
        terms = oracle.wide(g) * part
        assert abs(got - terms.sum()) < 1e-4 * np.abs(terms).sum()
    v = (jnp.float32(0.25), jnp.float32(-0.5))
    _, dy = jax.jvp(run, at, v)
    want = 0.25 * parts[0] - 0.5 * parts[1]
    size = np.abs(product) / 4 + np.abs(wide_c) / 2
    unit = oracle.ROUNDOFF[dtype]  # of D, and of the z that gelu has kept
    allowed = 1.01 * unit * np.abs(want) + (1e-5 + unit * (epilog == "gelu")) * size
    assert dy.dtype == y.dtype == dtype
    assert (np.abs(oracle.wide(dy) - want) <= allowed).all()
    wide = jax.grad(lambda *at: jnp.sum(run(*at).astype("float32")), (0, 1))(*at)
    for got, part in zip(wide, parts, strict=True):
        assert abs(got - part.sum()) < 1e-4 * np.abs(part).sum()


def with_beta(rng, epilog, dtype="float64"):
    """A product with a traced β, the same in `jax.numpy`, and its a, b and c."""
    a, b, c = (jnp.asarray(oracle.random(rng, s, dtype)) for s in ((4, 6), (6, 8), (4, 8)))
    z = oracle.random(rng, (4, 8), dtype)
    aux = {"relu_aux": jnp.asarray(oracle.mask(z))} if epilog and "drelu" in epilog else {}
    aux = {"gelu_aux": jnp.asarray(z)} if epilog and "dgelu" in epilog else aux
    slope = oracle.gelu_slope(z) if "gelu_aux" in aux else z > 0 if aux else 1.0
    plan = nvs.matmul.plan(a, b, c, beta=struct(dtype=dtype), epilog=epilog, **aux)

    def ours(a, b, c, beta):
        return plan(a, b, c, beta=beta, **aux)

    def wanted(a, b, c, beta):
        z = a @ b + beta * c
        z = jax.nn.gelu(z) if epilog == "gelu" else jax.nn.relu(z) if epilog == "relu" else z
        z = z * slope
        return (z, jnp.sum(z, -2)) if epilog and "bgrad" in epilog else z

    return ours, wanted, (a, b, c)


def leaves_near(got, want):
    """Whether trees are equal but for rounding."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return all(np.allclose(g, w, rtol=1e-10, atol=1e-10) for g, w in pairs)


@pytest.mark.parametrize("epilog", [None, "gelu", "relu", "dgelu", "drelu_bgrad"])
def test_beta_has_a_derivative_where_it_is_zero(rng, epilog):
    ours, wanted, (a, b, c) = with_beta(rng, epilog)
    at = (a, b, c, jnp.asarray(0.0))
    v = jax.tree.map(lambda x: jnp.cos(x + 1), at)

    def everything(f):
        def loss(*at):
            return sum(jnp.sum(jnp.sin(y)) for y in jax.tree.leaves(f(*at)))

        gradient = jax.grad(loss, (0, 1, 2, 3))
        slope = jax.grad(loss, 3)
        betas = jnp.asarray([0.0, 0.5])
        return {
            "jvp": jax.jvp(f, at, v)[1],
            "grad": gradient(*at),
            "forward over reverse": jax.jvp(gradient, at, v)[1],
            "mixed": jax.grad(slope, (0, 1, 2, 3))(*at),
            "forward over forward": jax.jvp(lambda *at: jax.jvp(f, at, v)[1], at, v)[1],
            "vmap": jax.vmap(slope, (None, None, None, 0))(*at[:3], betas),
            "both mapped": jax.vmap(slope, (None, None, 0, 0))(a, b, jnp.stack([c, 2 * c]), betas),
        }

    got, want = (jax.jit(lambda f=f: everything(f))() for f in (ours, wanted))
    for name, one in want.items():
        assert leaves_near(got[name], one), name


@pytest.mark.parametrize("epilog", [None, "gelu", "dgelu"])
def test_where_beta_is_zero_what_c_holds_reaches_no_derivative_but_betas(rng, epilog):
    ours, _, (a, b, c) = with_beta(rng, epilog)
    nothing, zero = jnp.full_like(c, jnp.nan), jnp.asarray(0.0)

    def everything(c):
        at, v = (a, b, c), (jnp.cos(a), jnp.sin(b), jnp.ones_like(c))
        y, back = jax.vjp(lambda *at: ours(*at, zero), *at)
        ct = jnp.cos(y)
        few = jax.jvp(lambda a: ours(a, b, c, zero), (a,), v[:1])
        mapped = jax.vmap(lambda beta: jax.jvp(lambda a: ours(a, b, c, beta), (a,), v[:1])[1])
        return y, back(ct), jax.jvp(lambda *at: ours(*at, zero), at, v), few, mapped(zero[None])

    assert leaves_near(jax.jit(everything)(nothing), jax.jit(everything)(jnp.zeros_like(c)))


SECOND = {
    "turned": {"transpose_a": True, "transpose_b": True, "alpha": 0.5},
    "gelu-bias": {"epilog": "gelu_bias"},
    "gelu-aux": {"epilog": "gelu_aux"},
    "relu-aux-bias": {"epilog": "relu_aux_bias"},
    "dgelu-bgrad": {"epilog": "dgelu_bgrad"},
    "drelu": {"epilog": "drelu"},
    "bgradb": {"epilog": "bgradb"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SECOND)
def test_second_order_against_differences(rng, name):
    problem = dict(SECOND[name])
    epilog = problem.get("epilog") or ""
    shapes = {"a": (3, 4), "b": (5, 3)} if "turned" in name else {"a": (2, 4, 3), "b": (3, 5)}
    shapes |= {"bias": (5,)} if "bias" in epilog else {}
    shapes |= {"gelu_aux": (4, 8)} if "dgelu" in epilog else {}
    shapes |= {"c": (4, 5), "beta": ()}
    shapes |= {} if "alpha" in problem else {"alpha": ()}
    at = {n: jnp.asarray(oracle.random(rng, s, "float64")) for n, s in shapes.items()}
    mask = {"relu_aux": jnp.asarray(oracle.mask(rng.standard_normal((4, 5))))}
    still = mask if "drelu" in epilog else {}
    types = {n: struct(*x.shape, dtype=x.dtype) for n, x in (at | still).items()}
    matrices = [types.pop(n) for n in "abc"]
    plan = nvs.matmul.plan(*matrices, **problem, **types)

    def run(at):
        leaves = jax.tree.leaves(plan(**at, **still))
        return [jnp.sin(y) for y in leaves if y.dtype == "float64"]

    jax.test_util.check_grads(jax.jit(run), (at,), 2, ("fwd", "rev"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["plain", "gelu-bias", "dgelu-bgrad"])
def test_hessians_by_every_order_of_modes(rng, name):
    epilog = {"gelu-bias": "gelu_bias", "dgelu-bgrad": "dgelu_bgrad"}.get(name)
    z = jnp.asarray(oracle.random(rng, (4, 8), "float64"))
    shapes = [(4, 3), (3, 8), *([(8,)] if name == "gelu-bias" else [])]
    at = tuple(jnp.asarray(oracle.random(rng, s, "float64")) for s in shapes)
    more = {"gelu_aux": struct(4, 8)} if name == "dgelu-bgrad" else {}
    more |= {"bias": struct(8)} if name == "gelu-bias" else {}
    plan = nvs.matmul.plan(struct(4, 3), struct(3, 8), epilog=epilog, **more)

    def ours(a, b, *bias):
        y = plan(a, b, *bias, **({"gelu_aux": z} if name == "dgelu-bgrad" else {}))
        return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(y))

    def wanted(a, b, *bias):
        y = a @ b + sum(bias)
        y = jax.nn.gelu(y) if name == "gelu-bias" else y
        if name == "dgelu-bgrad":
            y = y * oracle.gelu_slope(np.asarray(z))
            return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.sin(jnp.sum(y, -2)))
        return jnp.sum(jnp.sin(y))

    every = tuple(range(len(at)))
    want = jax.jit(jax.hessian(wanted, every))(*at)
    for outer in (jax.jacfwd, jax.jacrev):
        for inner in (jax.jacfwd, jax.jacrev):
            got = jax.jit(outer(inner(ours, every), every))(*at)
            assert leaves_near(got, want), f"{outer.__name__} of {inner.__name__}"


def test_vmap_of_a_product_in_place(rng):
    a, b, c, bias = (
        jnp.asarray(oracle.random(rng, s, "float64")) for s in ((4, 6), (6, 5), (4, 5), (5,))
    )
    plan = nvs.matmul.plan(
        struct(4, 6), struct(6, 5), struct(4, 5), beta=0.5, inplace=True,
        bias=struct(5), epilog="bias",
    )  # fmt: skip
    want = plan(a, b, c.copy(), bias=bias)
    for axes in ((0, None, None, None), (None, 1, None, None), (None, None, None, 0)):
        mapped = [
            x if d is None else jnp.stack([x, 2 * x], d)
            for x, d in zip((a, b, c, bias), axes, strict=True)
        ]
        run = jax.vmap(lambda a, b, c, bias: plan(a, b, c, bias=bias), axes)
        assert np.allclose(run(*mapped)[0], want)
        text = jax.jit(run).trace(*mapped).lower(lowering_platforms=("cuda",)).as_text()
        (made,) = (line for line in text.splitlines() if lowering.TARGET in line)
        assert "operand_index = 2" in made
        assert made.count("tensor<2x4x5xf64>") == 2  # C and D


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
        columns = jax.device_put(b, jax.NamedSharding(mesh, jax.P(None, "d")))
        with pytest.raises(nvs.errors.OperandError, match="two axes of d would be sharded"):
            jax.jit(lambda a, b: nvs.matmul.matmul(a, b))(rows, columns)
        with pytest.raises(nvs.errors.OperandError, match="If a gradient made this product"):
            jax.jit(jax.grad(lambda b: nvs.matmul.matmul(rows, b).sum()))(b)
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


def test_numbers_are_differentiated_too(rng):
    """Python's, which JAX hands to a rule as they are where nothing is traced."""
    a, b, c = (jnp.asarray(oracle.random(rng, (4, 4), "float64")) for _ in "abc")
    got = jax.grad(lambda s: nvs.matmul.matmul(a, b, alpha=s).sum())(2.0)
    assert np.allclose(got, (a @ b).sum(), rtol=1e-5)
    got = jax.grad(lambda s: nvs.matmul.matmul(a, b, c, alpha=2.0, beta=s).sum())(0.0)
    assert np.allclose(got, c.sum(), rtol=1e-5)
    y, dy = jax.jvp(lambda s: nvs.matmul.matmul(a, b, alpha=s).sum(), (2.0,), (1.0,))
    assert np.allclose((y, dy), (2 * (a @ b).sum(), (a @ b).sum()), rtol=1e-5)
