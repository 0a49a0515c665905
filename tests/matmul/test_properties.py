"""Drawn products: NumPy's to within the bound, and `jax.numpy`'s derivatives."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

import nvstate as nvs
from nvstate.matmul import epilog as epilogs
from tests.matmul import oracle
from tests.matmul.test_epilog import BACKWARD, FORWARD

SIDES = ("a", "b")
FLAGS = ("transpose_a", "transpose_b", "conjugate_a", "conjugate_b")
SUMS = ["bgrada", "bgradb"]
SCALE = {"float16": "float32", "bfloat16": "float32"}  # of α and β; else the operands' dtype
extent = st.integers(0, 20)


@st.composite
def within(draw, shape):
    """A shape that broadcasts to this one."""
    kept = shape[draw(st.integers(0, len(shape))) :]
    return tuple(1 if draw(st.booleans()) else n for n in kept)


@st.composite
def scalars(draw, dtype):
    """α or β: a number, or an array of the scale type."""
    value = draw(st.sampled_from([1.0, 0.0, -0.5, 3.0]))
    if "complex" in dtype and draw(st.booleans()):
        value += 2j
    return np.asarray(value, SCALE.get(dtype, dtype)) if draw(st.booleans()) else value


@st.composite
def problems(draw, dtypes, epilog):
    """The arguments of a product, arrays and choices."""
    dtype = draw(st.sampled_from(dtypes))
    m, n, k = draw(extent), draw(extent), draw(extent)
    batch = tuple(draw(st.lists(st.integers(0, 3), max_size=2)))
    given = {name: draw(st.booleans()) for name in FLAGS}
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    for name, core in (("a", (m, k)), ("b", (k, n))):
        core = core[::-1] if given[f"transpose_{name}"] else core
        given[name] = oracle.random(rng, (*draw(within(batch)), *core), dtype)
    batch = np.broadcast_shapes(*(given[name].shape[:-2] for name in SIDES))
    given["alpha"] = draw(scalars(dtype))
    if draw(st.booleans()):
        given["c"] = oracle.random(rng, draw(within((*batch, m, n))), dtype)
        given["beta"] = draw(scalars(dtype))
    allowed = (None,) if "complex" in dtype else epilog
    name = given["epilog"] = draw(
        st.sampled_from([e for e in allowed if e not in BACKWARD or k > 1])
    )
    parts = epilogs.parts(name)
    if parts.bias:
        given["bias"] = oracle.random(rng, (*draw(within(batch)), n), dtype)
    if parts.takes:
        z = oracle.random(rng, (*draw(within(batch)), m, n), dtype)
        pad = [(0, 0)] * (z.ndim - 1) + [(0, -n % 8)]
        given[parts.takes] = np.pad(z, pad) if parts.takes == "gelu_aux" else oracle.mask(z)
    return given


def slope(given, n):
    """What D of a gradient epilog is multiplied with."""
    if "gelu_aux" in given:
        return oracle.gelu_slope(oracle.wide(given["gelu_aux"][..., :n]))
    aux = given["relu_aux"]
    return oracle.bits(aux, n) if n else np.zeros((*aux.shape[:-1], 0))


def planned(given):
    """A plan, and its operands by name."""
    matrices = [given[name] for name in "abc" if name in given]
    plan = nvs.matmul.plan(*matrices, **{k: v for k, v in given.items() if k not in "abc"})
    return plan, {name: given[name] for name in plan.spec.names}


def good(got, exact, magnitude, k, extra=0.0):
    """Within the bound of a product."""
    compute = "float64" if got.dtype in ("float64", "complex128") else "float32"
    ok, worst = oracle.near(np.asarray(got), exact, magnitude, k, compute, extra=extra)
    assert ok, worst


DTYPES = ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"]


@hypothesis.given(problems(DTYPES, [None, *FORWARD, *BACKWARD, *SUMS]))
def test_any_product(given):
    name, parts = given["epilog"], epilogs.parts(given["epilog"])
    plan, arrays = planned(given)
    r = plan(**arrays)
    r = r if isinstance(r, tuple) else nvs.matmul.MatmulResult(r)
    z, size = oracle.product(**given), oracle.product(**given, absolute=True)
    m, n = r.d.shape[-2:]
    a, b = (oracle.op(given[s], given[f"transpose_{s}"], given[f"conjugate_{s}"]) for s in SIDES)
    k = a.shape[-1]
    # Of gelu's own arithmetic: 1 + tanh cancels, so its error goes with what it multiplies.
    unit = 2.0**-50 if r.d.dtype == "float64" else 2.0**-20
    extra = unit * size * bool(name and "gelu" in name)
    if parts.takes:
        z, size = z * slope(given, n), size * np.abs(slope(given, n))
    good(r.d, oracle.applied(z, name), 1.2 * size, k, extra)  # gelu′ < 1.2
    if parts.gives == "gelu_aux":
        good(r.gelu_aux[..., :n], z, size, k)
        assert (oracle.wide(r.gelu_aux[..., n:]) == 0).all()
    if parts.gives == "relu_aux" and n:
        limit = 2 * (k + 2) * (2.0**-53 if r.d.dtype == "float64" else 2.0**-24) * size
        clear = np.abs(z) > limit
        assert (oracle.bits(r.relu_aux, n) == (z > 0))[clear].all()
    if parts.sums in BACKWARD:
        size = np.broadcast_to(size, z.shape).sum(-2)
        good(
            getattr(r, parts.sums), z.sum(-2), size, k + m, np.broadcast_to(extra, z.shape).sum(-2)
        )
    if parts.sums == "bgrada":
        good(r.bgrada, a.sum(-1), np.abs(a).sum(-1), k)
    if parts.sums == "bgradb":
        good(r.bgradb, b.sum(-2), np.abs(b).sum(-2), k)
    assert [f for f, v in r._asdict().items() if v is not None] == [
        f for f in r._fields if f in ("d", parts.gives, parts.sums)
    ]


def by_jnp(given, x):
    """The results that have derivatives, in `jax.numpy`."""
    parts, sides = epilogs.parts(given["epilog"]), []
    for side in SIDES:
        y = x[side].mT if given[f"transpose_{side}"] else x[side]
        sides.append(jnp.conj(y) if given[f"conjugate_{side}"] else y)
    a, b = sides
    z = x.get("alpha", given["alpha"]) * (a @ b)
    if "c" in x:
        z = z + x.get("beta", given["beta"]) * x["c"]
    if parts.bias:
        z = z + x["bias"][..., None, :]
    found = {"gelu_aux": z} if parts.gives == "gelu_aux" else {}
    d = jax.nn.relu(z) if parts.function == "relu" else z
    d = jax.nn.gelu(z) if parts.function == "gelu" else d
    n = z.shape[-1]
    if parts.takes == "relu_aux":
        d = d * slope(given, n)
    if parts.takes == "gelu_aux":
        d = d * jax.jvp(jax.nn.gelu, (aux := x["gelu_aux"][..., :n],), (jnp.ones_like(aux),))[1]
    if parts.sums in BACKWARD:
        found[parts.sums] = jnp.sum(d, -2)
    if parts.sums in SUMS:
        found[parts.sums] = jnp.sum(a, -1) if parts.sums == "bgrada" else jnp.sum(b, -2)
    return {"d": d, **found}


@hypothesis.settings(max_examples=hypothesis.settings().max_examples // 2)
@hypothesis.given(problems(["float64", "complex128"], [None, *FORWARD, *BACKWARD, *SUMS]))
def test_derivatives_of_any_product(given):
    arrays = {k: jnp.asarray(x) for k, x in given.items() if isinstance(x, np.ndarray)}
    types = {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in arrays.items()}
    plan, _ = planned(given | types)
    at = {k: x for k, x in arrays.items() if x.dtype != "uint8"}
    still = {k: x for k, x in arrays.items() if x.dtype == "uint8"}

    def ours(x):
        r = plan(**x, **still)
        r = r if isinstance(r, tuple) else nvs.matmul.MatmulResult(r)
        found = {k: v for k, v in r._asdict().items() if v is not None and k != "relu_aux"}
        if "gelu_aux" in found:
            found["gelu_aux"] = found["gelu_aux"][..., : r.d.shape[-1]]
        return found

    def everything(f):
        y, back = jax.vjp(f, at)
        ct = jax.tree.map(lambda y: jnp.cos(jnp.arange(y.size).reshape(y.shape)).astype(y.dtype), y)
        v = jax.tree.map(lambda x: jnp.sin(x + 1), at)
        return y, jax.jvp(f, (at,), (v,))[1], back(ct)

    got, want = (jax.jit(lambda f=f: everything(f))() for f in (ours, lambda x: by_jnp(given, x)))
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    for one, other in pairs:
        assert one.shape == other.shape
        assert np.allclose(one, other, rtol=1e-11, atol=1e-11)
