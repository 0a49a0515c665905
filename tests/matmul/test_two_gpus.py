"""Products whose operands are split over two GPUs, against NumPy."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvstate as nvs
from tests.conformance.test_sharding import COLLECTIVES
from tests.matmul import oracle

P = jax.P
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        sum(d.platform == "gpu" for d in jax.devices()) < 2, reason="fewer than two GPUs"
    ),
]
SPLITS = {
    "batch": ((4, 256, 128), P("x"), P(), P()),
    "M": ((256, 128), P("x"), P(), P()),
    "M-of-a-batch": ((4, 256, 128), P(None, "x"), P(), P()),
    "N": ((256, 128), P(), P(None, "x"), P("x")),
    "N-of-a-batch": ((4, 256, 128), P(), P(None, "x"), P("x")),
}


def placed(kind, *pairs):
    mesh = jax.make_mesh((2,), ("x",), axis_types=(kind,), devices=jax.devices("cuda")[:2])
    return mesh, [jax.device_put(x, jax.NamedSharding(mesh, over)) for x, over in pairs]


@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
@pytest.mark.parametrize("name", SPLITS)
def test_each_multiplies_its_part(rng, name, kind):
    shape, over_a, over_b, over_n = SPLITS[name]
    a, b, bias = (oracle.random(rng, s, "float32") for s in (shape, (128, 512), (512,)))
    plan = nvs.matmul.plan(a, b, bias=bias, epilog="relu_bias", execution="cuda")
    mesh, operands = placed(kind, (a, over_a), (b, over_b), (bias, over_n))
    spec = plan.spec

    def product(a, b, bias):
        return nvs.matmul.plan(spec)(a, b, bias)

    with jax.set_mesh(mesh):
        compiled = jax.jit(product).lower(*operands).compile()
        y = compiled(*operands)
    assert not re.search(COLLECTIVES, compiled.as_text())
    assert len(y.sharding.device_set) == 2
    assert not y.sharding.is_fully_replicated
    want = np.maximum(oracle.product(a, b, bias=bias), 0)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)
    if kind == jax.sharding.AxisType.Explicit:
        return  # the gradient sums over what is split, which such a mesh leaves to the user
    gradient = jax.jit(jax.grad(lambda *x: jnp.sum(product(*x) ** 2), (0, 1, 2)))(*operands)
    reference = jax.grad(lambda *x: jnp.sum(jax.nn.relu(_plain(*x)) ** 2), (0, 1, 2))
    with jax.default_device(jax.devices("cpu")[0]):
        wants = reference(*(np.asarray(x) for x in (a, b, bias)))
    for got, wanted in zip(gradient, wants, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-2)


def _plain(a, b, bias):
    return jnp.matmul(a, b, precision="highest") + bias


def test_a_pinned_algorithm_is_for_the_part_that_it_fits(rng):
    """A device's part is another problem: the plan's algorithm is for the whole."""
    a, b = (oracle.random(rng, s, "bfloat16") for s in ((512, 256), (256, 128)))
    one = jax.devices("cuda")[0]
    whole = [jax.device_put(x, one) for x in (a, b)]
    plan = nvs.autotune(nvs.matmul.plan(*whole), *whole)
    assert plan.pinned
    _, operands = placed(jax.sharding.AxisType.Auto, (a, P("x")), (b, P()))
    spec = nvs.matmul.plan(plan.spec, algorithm=plan.pinned)
    y = jax.jit(lambda a, b: spec(a, b))(*operands)
    want = oracle.product(a, b)
    np.testing.assert_allclose(oracle.wide(y), want, rtol=2e-2, atol=2e-2)


def test_one_plan_on_either(rng):
    a, b = (oracle.random(rng, s, "float32") for s in ((64, 32), (32, 48)))
    want = oracle.product(a, b)
    for device in jax.devices("cuda")[:2]:
        x = [jax.device_put(v, device) for v in (a, b)]
        y = nvs.matmul.plan(*x)(*x)
        assert y.devices() == {device}
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
