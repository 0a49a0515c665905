"""Train a two-layer MLP on handwritten digits, twice: with planned products, and with plain jnp.

Planned, a layer is one product: bias and GELU are its epilog, or on the way back their derivatives.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

import nvstate as nvs

WIDTHS, BATCH, STEPS, RATE = (64, 256, 10), 128, 400, 0.5


def by_plans(params, x):
    (w1, b1), (w2, b2) = params
    first = nvs.matmul.plan(x, w1, bias=b1, epilog="gelu_bias")
    hidden = jax.ShapeDtypeStruct(first.result.shape, x.dtype)
    second = nvs.matmul.plan(hidden, w2, bias=b2, epilog="bias")
    return nvs.matmul.chain([first, second], x, [w1, w2], [b1, b2])


def by_jnp(params, x):
    (w1, b1), (w2, b2) = params
    return jax.nn.gelu(x @ w1 + b1) @ w2 + b2


def train(layers, params, x, labels):
    """Stochastic gradient descent; the parameters, and the median seconds of a step."""

    def loss(params, x, labels):
        return -jax.nn.log_softmax(layers(params, x))[jnp.arange(BATCH), labels].mean()

    @jax.jit
    def step(params, rows):
        gradient = jax.grad(loss)(params, x[rows], labels[rows])
        return jax.tree.map(lambda p, g: p - RATE * g, params, gradient)

    took, random = [], np.random.default_rng(0)
    for rows in (random.permutation(len(x))[:BATCH] for _ in range(STEPS)):
        start = time.perf_counter()
        params = jax.block_until_ready(step(params, rows))
        took.append(time.perf_counter() - start)
    return params, np.median(took)


images, labels = load_digits(return_X_y=True)
x, labels = jnp.asarray(images / 16, "float32"), jnp.asarray(labels)
keys = zip(jax.random.split(jax.random.key(0)), WIDTHS, WIDTHS[1:], strict=False)
start = [
    (jax.random.normal(k, (m, n), "float32") / m**0.5, jnp.zeros(n, "float32")) for k, m, n in keys
]
for name, layers in (("planned", by_plans), ("jnp", by_jnp)):
    params, seconds = train(layers, start, x[:1500], labels[:1500])
    right = (layers(params, x[1500:]).argmax(-1) == labels[1500:]).mean()
    print(f"{name:8} accuracy {100 * right:.1f} %, {1e6 * seconds:.0f} us per step")
