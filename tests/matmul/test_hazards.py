"""Wrong answers that others gave in silence, exact: small integers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvstate as nvs


@pytest.fixture(params=["here", pytest.param("gpu", marks=pytest.mark.gpu)])
def put(request):
    """Place an operand on the default device, or on a GPU."""
    device = jax.devices("cuda")[0] if request.param == "gpu" else jax.devices()[0]
    return lambda x: jax.device_put(jnp.asarray(x, "float32"), device)


def integers(rng, *shape):
    return rng.integers(-2, 3, shape).astype("float32")


def test_alpha_does_not_scale_a_bias(rng, put):
    """xla#46110."""
    a, b, bias = integers(rng, 24, 16), integers(rng, 16, 40), integers(rng, 40)
    for alpha in (2.0, put(np.float32(2))):
        y = nvs.matmul.matmul(put(a), put(b), alpha=alpha, bias=put(bias), epilog="bias")
        np.testing.assert_array_equal(y, 2 * (a @ b) + bias)


@pytest.mark.parametrize("turned", [False, True])
def test_a_bias_runs_along_n_of_a_square(rng, put, turned):
    """xla#46897: each of its elements is another."""
    a, b, bias = integers(rng, 32, 16), integers(rng, 16, 32), np.arange(32, dtype="float32")
    operands = (put(a.T), put(b.T)) if turned else (put(a), put(b))
    flags = {"transpose_a": turned, "transpose_b": turned}
    y = nvs.matmul.matmul(*operands, bias=put(bias), epilog="bias", **flags)
    np.testing.assert_array_equal(y, a @ b + bias)


@pytest.mark.parametrize(
    ("left", "right"),
    [((1,), (3,)), ((3,), (1,)), ((1, 2), (3, 1)), ((1,), (1,)), ((2, 1), (2, 3))],
)
def test_batches_of_one(rng, put, left, right):
    """Strides of 0, and of axes of one element, are no leading dimensions."""
    for m in (1, 5):
        a, b = integers(rng, *left, m, 4), integers(rng, *right, 4, 6)
        np.testing.assert_array_equal(nvs.matmul.matmul(put(a), put(b)), a @ b)


@pytest.mark.parametrize("shape", [(6,), (1, 6), (5, 1), (3, 1, 6), (3, 5, 1), ()])
def test_rows_of_c_that_are_one(rng, put, shape):
    a, b, c = integers(rng, 3, 5, 4), integers(rng, 4, 6), integers(rng, *shape)
    y = nvs.matmul.matmul(put(a), put(b), put(c), beta=3.0)
    np.testing.assert_array_equal(y, a @ b + 3 * c)


@pytest.mark.parametrize("m", [255, 257, 300])
def test_m_is_no_multiple_of_256(rng, put, m):
    """pytorch#133334."""
    a, b = integers(rng, m, 64), integers(rng, 64, 72)
    np.testing.assert_array_equal(nvs.matmul.matmul(put(a), put(b)), a @ b)


def test_an_epilog_of_one_plan_is_not_the_next_ones(rng, put):
    a, b, bias = integers(rng, 8, 16), integers(rng, 16, 24), integers(rng, 24)
    x = put(a), put(b)
    for _ in range(2):
        d, *_ = jax.tree.leaves(nvs.matmul.matmul(*x, epilog="bgradb"))
        np.testing.assert_array_equal(d, a @ b)
        np.testing.assert_array_equal(nvs.matmul.matmul(*x), a @ b)
        y = nvs.matmul.matmul(*x, bias=put(bias), epilog="relu_bias")
        np.testing.assert_array_equal(y, np.maximum(a @ b + bias, 0))


def test_a_bias_beside_operands_of_one_axis(rng, put):
    a, b, bias = integers(rng, 16), integers(rng, 16, 24), integers(rng, 24)
    y = nvs.matmul.matmul(put(a), put(b), bias=put(bias), epilog="bias")
    np.testing.assert_array_equal(y, a @ b + bias)


@pytest.mark.parametrize("epilog", ["drelu", "dgelu", "drelu_bgrad", "dgelu_bgrad"])
def test_gradient_epilogs_of_k_of_one(rng, put, epilog):
    aux = {"drelu": ("relu_aux", (8, 16), "uint8"), "dgelu": ("gelu_aux", (8, 24), "float32")}
    name, shape, dtype = aux[epilog[:5]]
    kept = jax.device_put(jnp.zeros(shape, dtype), next(iter(put(0).devices())))
    operands = put(integers(rng, 8, 1)), put(integers(rng, 1, 24))
    with pytest.raises(nvs.errors.UnsupportedError, match=r"K = 1|K=1"):
        nvs.matmul.matmul(*operands, epilog=epilog, **{name: kept})
