"""chain is its layers in turn, and its derivatives are jnp's at every order."""

import itertools

import jax
import jax.flatten_util
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

import nvstate as nvs
from nvstate.matmul.chain import backward
from tests.matmul import oracle

ROWS = [
    ("relu_bias", "gelu", "bias"),
    ("gelu_bias", "relu", "gelu_bias"),
    ("bias", None, "relu_bias"),
    ("gelu",),
]


def layers(epilogs, widths, rows=15, dtype="float64"):
    """A plan for each epilog."""
    struct = jax.ShapeDtypeStruct
    return [
        nvs.matmul.plan(
            struct((rows, k), dtype),
            struct((k, n), dtype),
            epilog=e,
            **({"bias": struct((n,), dtype)} if e and "bias" in e else {}),
        )
        for e, (k, n) in zip(epilogs, itertools.pairwise(widths), strict=True)
    ]


def by_jnp(epilogs, x, weights, biases):
    """The same, layer by layer."""
    for epilog, w, bias in zip(epilogs, weights, biases, strict=True):
        x = x @ w + (0 if bias is None else bias)
        x = jax.nn.relu(x) if epilog and "relu" in epilog else x
        x = jax.nn.gelu(x) if epilog and "gelu" in epilog else x
    return x


def operands(rng, epilogs, widths, batch=(3, 5)):
    """x, weights and biases."""
    x = jnp.asarray(oracle.random(rng, (*batch, widths[0]), "float64"))
    weights = [jnp.asarray(oracle.random(rng, s, "float64")) for s in itertools.pairwise(widths)]
    biases = [
        jnp.asarray(oracle.random(rng, (n,), "float64")) if e and "bias" in e else None
        for e, n in zip(epilogs, widths[1:], strict=True)
    ]
    return x, weights, biases


def near(got, want):
    """Whether trees are equal but for rounding."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return all(np.allclose(g, w, rtol=1e-9, atol=1e-9) for g, w in pairs)


@pytest.mark.parametrize("epilogs", ROWS, ids=str)
def test_chain_and_its_derivatives(rng, epilogs):
    widths = [7, 9, 4, 6][: len(epilogs) + 1]
    plans, given = layers(epilogs, widths), operands(rng, epilogs, widths)

    def ours(x, weights, biases):
        return jnp.sum(jnp.sin(nvs.matmul.chain(plans, x, weights, biases)))

    def wanted(x, weights, biases):
        return jnp.sum(jnp.sin(by_jnp(epilogs, x, weights, biases)))

    y = nvs.matmul.chain(plans, *given)
    assert near(y, by_jnp(epilogs, *given))
    x, weights, biases = given
    flat = x.reshape(15, -1)
    for plan, w, bias in zip(plans, weights, biases, strict=True):
        flat = plan(flat, w) if bias is None else plan(flat, w, bias=bias)
    assert near(y, flat.reshape(y.shape))
    v = jax.tree.map(jnp.cos, given)

    def everything(f):
        gradient = jax.grad(f, (0, 1, 2))
        return gradient(*given), jax.jvp(gradient, given, v)[1], jax.jvp(f, given, v)[1]

    got, want = (jax.jit(lambda f=f: everything(f))() for f in (ours, wanted))
    assert near(got, want)
    some = jax.jit(jax.grad(ours, 1))(*given)
    assert near(some, want[0][1])
    members = jnp.stack([x, 2 * x])
    axes = (0, None, None)
    got, want = (
        jax.jit(jax.vmap(jax.grad(f, 1), axes))(members, *given[1:]) for f in (ours, wanted)
    )
    assert near(got, want)


@pytest.mark.slow
@pytest.mark.parametrize("epilogs", ROWS[1:3], ids=str)
def test_second_order_against_differences_and_every_order_of_modes(rng, epilogs):
    widths = [3, 4, 2, 3][: len(epilogs) + 1]
    plans, given = layers(epilogs, widths, rows=2), operands(rng, epilogs, widths, (2,))

    def ours(x, weights, biases):
        return jnp.sin(nvs.matmul.chain(plans, x, weights, biases))

    jax.test_util.check_grads(jax.jit(ours), given, 2, ("fwd", "rev"), rtol=1e-5, atol=1e-5)
    flat, restored = jax.flatten_util.ravel_pytree(given)

    def hessian(f, outer, inner):
        return jax.jit(outer(inner(lambda flat: jnp.sum(f(*restored(flat))))))(flat)

    want = hessian(lambda *at: jnp.sin(by_jnp(epilogs, *at)), jax.jacfwd, jax.jacrev)
    modes = (jax.jacfwd, jax.jacrev)
    assert all(near(hessian(ours, *pair), want) for pair in itertools.product(modes, modes))


def test_the_backward_pass_is_made_of_gradient_epilogs(rng):
    epilogs, widths = ("gelu_bias", "relu_bias", "bias"), [8, 16, 24, 8]
    plans, (x, weights, biases) = layers(epilogs, widths), operands(rng, epilogs, widths)

    def loss(x, weights, biases):
        return jnp.sum(nvs.matmul.chain(plans, x, weights, biases) ** 2)

    gradient = jax.grad(loss, (1, 2))
    equations = jax.make_jaxpr(gradient)(x, weights, biases).jaxpr.eqns
    found = [e.params["spec"].epilog for e in equations if e.primitive.name == "nvstate_matmul"]
    assert found[:3] == ["gelu_aux_bias", "relu_aux_bias", "bias"]
    assert sorted(map(str, found[3:])) == ["None", "None", "None", "dgelu", "drelu"]
    # Nothing is activated beside the products.
    assert not {e.primitive.name for e in equations} & {"tanh", "select_n"}
    spec = backward(plans[1].spec, plans[0].spec)
    assert (spec.m, spec.n, spec.k) == (15, 16, 24)
    assert spec.transpose_b
    assert spec.epilog == "dgelu"


def test_one_product_sums_over_a_batch_by_itself(rng):
    a, b, bias = (jnp.asarray(oracle.random(rng, s, "float64")) for s in ((2, 6, 5), (5, 4), (4,)))
    for epilog in ("gelu_bias", "bias"):

        def loss(a, b, bias, epilog=epilog):
            return jnp.sum(nvs.matmul.matmul(a, b, bias=bias, epilog=epilog) ** 2)

        equations = jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(a, b, bias).jaxpr.eqns
        specs = [e.params["spec"] for e in equations if e.primitive.name == "nvstate_matmul"]
        forward = "gelu_aux_bias" if epilog == "gelu_bias" else "bias"
        assert [s.epilog for s in specs] == [forward, None, None]
        # The batch is summed over by the product itself: one of 2·6 rows.
        assert (specs[2].m, specs[2].n, specs[2].k) == (5, 4, 12)


def test_what_is_no_chain(rng):
    epilogs, widths = ("gelu_bias", "bias"), [8, 16, 8]
    plans, (x, weights, biases) = layers(epilogs, widths), operands(rng, epilogs, widths)
    with pytest.raises(nvs.errors.SpecError, match="layers differ in number"):
        nvs.matmul.chain(plans, x, weights, biases[:1])
    with pytest.raises(nvs.errors.SpecError, match="layer 1 does not fit its plan"):
        nvs.matmul.chain(plans, x, weights, [biases[0], None])
    with pytest.raises(
        nvs.errors.SpecError, match=r"layer 0 does not fit(.*\n)*.*x float64\[\*, 7\]"
    ):
        nvs.matmul.chain(plans, x[..., :7], weights, biases)
    aux = nvs.matmul.plan(x, weights[0], epilog="gelu_aux")
    turned = nvs.matmul.plan(x, weights[0].T, transpose_b=True)
    for other in (aux, turned, nvs.matmul.plan(x, weights[0], alpha=2.0)):
        with pytest.raises(nvs.errors.SpecError, match="a plan that is no layer"):
            nvs.matmul.chain([other, plans[1]], x, weights, biases)
    for bias in (biases[0][:1], biases[0][None], biases[0].astype("float32")):
        with pytest.raises(nvs.errors.SpecError, match=r"(?s)layer 0 does not.*a bias float\d\d\["):
            nvs.matmul.chain(plans, x, weights, [bias, biases[1]])


def test_complex_layers(rng):
    x, v, w = (jnp.asarray(oracle.random(rng, s, "complex64")) for s in ((3, 5, 4), (4, 6), (6, 2)))
    plans = [nvs.matmul.plan(x, v), nvs.matmul.plan(x @ v, w)]
    for name in ("a", "b"):
        turned = nvs.matmul.plan(x, v, **{f"conjugate_{name}": True})
        with pytest.raises(nvs.errors.SpecError, match=r"(?s)a plan that is no layer.*conjugat"):
            nvs.matmul.chain([turned, plans[1]], x, [v, w], [None, None])

    def loss(f, *at):
        return jnp.sum(jnp.abs(f(*at)) ** 2)

    def ours(x, v, w):
        return nvs.matmul.chain(plans, x, [v, w], [None, None])

    ours, wanted = (
        jax.grad(lambda *at, f=f: loss(f, *at), (0, 1, 2))(x, v, w)
        for f in (ours, lambda x, v, w: x @ v @ w)
    )
    for got, want in zip(ours, wanted, strict=True):
        assert np.allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrong", [3, [3], None])
def test_plans_are_a_list(wrong):
    x = jnp.ones((2, 3))
    plan = nvs.matmul.plan(x, jnp.ones((3, 4)))
    for plans in (wrong, plan):
        with pytest.raises(nvs.errors.SpecError, match=r"a list of plans(.*\n)*Pass `\[plan, …\]`"):
            nvs.matmul.chain(plans, x, [jnp.ones((3, 4))], [None])
