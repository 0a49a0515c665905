"""Epilogs against their formulas: what each takes, gives and sums."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvstate as nvs
from nvstate.matmul.arguments import Epilog
from tests.matmul import oracle

FORWARD = [e for e in get_args(Epilog) if not e.startswith(("d", "bgrad"))]
BACKWARD = [e for e in get_args(Epilog) if e.startswith("d")]
LIMIT = {"float32": 3e-6, "bfloat16": 2e-2, "float64": 1e-13}


@pytest.mark.parametrize("n", [1, 2, 9, 65, 127, 128, 129])
@pytest.mark.parametrize("epilog", FORWARD)
def test_forward(rng, epilog, n):
    batch = (2,) if n in (2, 129) else ()
    a = oracle.random(rng, (*batch, 5, 7), "float32")
    b = oracle.random(rng, (7, n), "float32")
    arrays = {"bias": oracle.random(rng, (n,), "float32")} if "bias" in epilog else {}
    r = nvs.matmul.matmul(a, b, epilog=epilog, **arrays)
    z = oracle.product(a, b, **arrays)
    d = r.d if "aux" in epilog else r
    assert np.allclose(d, oracle.applied(z, epilog), atol=1e-5)
    if "relu_aux" in epilog:
        assert r.relu_aux.shape == (*batch, 5, 16 * -(-n // 128))
        assert (oracle.bits(r.relu_aux, n) == (z > 0)).all()
        assert (r.relu_aux == oracle.mask(np.asarray(z))).all()
    if "gelu_aux" in epilog:
        assert r.gelu_aux.shape == (*batch, 5, 8 * -(-n // 8))
        assert np.allclose(r.gelu_aux[..., :n], z, atol=1e-5)
    if "aux" in epilog:
        assert [f for f, v in r._asdict().items() if v is not None] == ["d", epilog[:8]]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("epilog", BACKWARD)
def test_backward(rng, epilog, dtype):
    n, name = 33, "relu_aux" if "relu" in epilog else "gelu_aux"
    z = oracle.random(rng, (2, 5, n), dtype)
    a, b = oracle.random(rng, (2, 5, 7), dtype), oracle.random(rng, (n, 7), dtype)
    if name == "relu_aux":
        aux, slope = oracle.mask(oracle.wide(z)), oracle.wide(z) > 0
    else:
        aux = np.pad(z, [(0, 0), (0, 0), (0, 7)])
        slope = oracle.gelu_slope(oracle.wide(z))
    r = nvs.matmul.matmul(a, b, transpose_b=True, epilog=epilog, **{name: aux})
    want = oracle.product(a, b, transpose_b=True) * slope
    d = r[0] if "bgrad" in epilog else r
    assert np.allclose(oracle.wide(d), want, rtol=LIMIT[dtype], atol=10 * LIMIT[dtype])
    if "bgrad" in epilog:
        sums = getattr(r, epilog)
        assert sums.shape == (2, n)
        assert sums.dtype == d.dtype
        assert np.allclose(
            oracle.wide(sums), want.sum(-2), rtol=LIMIT[dtype], atol=0.2 * want.std()
        )


@pytest.mark.parametrize(("epilog", "axis"), [("bgrada", -1), ("bgradb", -2)])
def test_sums_of_operands(rng, epilog, axis):
    a, b = oracle.random(rng, (3, 5, 7), "float64"), oracle.random(rng, (4, 7), "float64")
    r = nvs.matmul.matmul(a, b, transpose_b=True, epilog=epilog)
    want = (a if epilog == "bgrada" else b.T).sum(axis)
    assert getattr(r, epilog).shape == want.shape
    assert np.allclose(getattr(r, epilog), want)
    assert np.allclose(r.d, a @ b.T)


def test_an_aux_makes_the_round_trip_of_a_gradient(rng):
    x, w, v = (jnp.asarray(oracle.random(rng, s, "float64")) for s in ((6, 5), (5, 9), (9, 4)))
    bias = jnp.asarray(oracle.random(rng, (9,), "float64"))
    for name, function in (("relu", jax.nn.relu), ("gelu", jax.nn.gelu)):

        def loss(bias, x, f=function):
            return jnp.sum((f(x @ w + bias) @ v) ** 2) / 2

        r = nvs.matmul.matmul(x, w, bias=bias, epilog=f"{name}_aux_bias")
        g = r.d @ v
        aux = {f"{name}_aux": getattr(r, f"{name}_aux")}
        back = nvs.matmul.matmul(g, v, transpose_b=True, epilog=f"d{name}_bgrad", **aux)
        want_bias, want_x = jax.grad(loss, (0, 1))(bias, x)
        assert np.allclose(getattr(back, f"d{name}_bgrad"), want_bias)
        assert np.allclose(nvs.matmul.matmul(back.d, w, transpose_b=True), want_x)


def test_a_mask_is_false_at_zero():
    r = nvs.matmul.matmul(np.zeros((1, 4)), np.zeros((4, 3)), epilog="relu_aux")
    assert (r.relu_aux == 0).all()


@pytest.mark.parametrize("shape", [(0, 9), (4, 0), (0, 0), (0, 4, 9)])
@pytest.mark.parametrize("name", ["relu", "gelu"])
def test_masks_of_nothing(name, shape):
    *batch, m, n = shape
    a, b = np.ones((*batch, m, 3)), np.ones((3, n))
    r = nvs.matmul.matmul(a, b, epilog=f"{name}_aux")
    aux = {f"{name}_aux": np.asarray(getattr(r, f"{name}_aux"))}
    back = nvs.matmul.matmul(a, b, epilog=f"d{name}_bgrad", **aux)
    assert back.d.shape == shape
    assert (np.asarray(getattr(back, f"d{name}_bgrad")) == np.zeros((*batch, n))).all()


def test_biases_and_aux_of_batches(rng):
    a, b = oracle.random(rng, (2, 3, 4, 5), "float64"), oracle.random(rng, (5, 6), "float64")
    bias = oracle.random(rng, (3, 6), "float64")
    got = nvs.matmul.matmul(a, b, bias=bias, epilog="bias")
    assert np.allclose(got, a @ b + bias[:, None, :])
    z = oracle.random(rng, (4, 8), "float64")  # of no batch: broadcast
    b6 = oracle.random(rng, (5, 8), "float64")
    got = nvs.matmul.matmul(a, b6, gelu_aux=z, epilog="dgelu")
    assert np.allclose(got, a @ b6 * oracle.gelu_slope(z))


@pytest.mark.parametrize("epilog", [None, "gelu_aux_bias", "bgradb"])
def test_the_results_are_a_property_of_the_spec(rng, epilog):
    a, b, bias = (jnp.asarray(oracle.random(rng, s, "float32")) for s in ((4, 6), (6, 8), (8,)))
    arrays = {"bias": bias} if epilog and "bias" in epilog else {}
    plan = nvs.matmul.plan(a, b, epilog=epilog, **arrays)
    for y in (plan(a, b, **arrays), jax.jit(plan)(a, b, *arrays.values())):
        assert isinstance(y, nvs.matmul.MatmulResult) == (epilog is not None)
        parts = jax.tree.leaves(y)
        assert [(str(p.dtype), p.shape) for p in parts] == [
            (t.dtype, t.shape) for t in plan.results.values()
        ]
    assert ("MatmulResult(d, " in repr(plan)) == (epilog is not None)
