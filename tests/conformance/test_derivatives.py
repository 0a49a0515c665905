"""Derivatives of any order. The maps are linear, so identities check them without differences."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.case import relative_l2, to_jax


def inner(a, b):
    """Σ a b without conjugation, real part: the pairing in which JAX transposes."""
    return np.real(np.sum(np.asarray(a) * np.asarray(b)))


def test_jvp_is_the_plan_itself(case, x, plan):
    tangent = to_jax(case.value(seed=1))
    y, dy = jax.jvp(plan, (x,), (tangent,))
    assert relative_l2(y, case.oracle(np.asarray(x))) < case.bound
    assert relative_l2(dy, case.oracle(np.asarray(tangent))) < case.bound


def test_vjp_is_the_transpose(case, x, plan):
    y, back = jax.vjp(plan, x)
    ct = to_jax(np.random.default_rng(7).standard_normal((2, *y.shape)).astype(y.real.dtype))
    ct = jax.lax.complex(ct[0], ct[1]) if jnp.iscomplexobj(y) else ct[0]
    (got,) = back(ct)
    assert got.dtype == x.dtype
    assert got.shape == x.shape
    # Re Σ ct A(v) = Re Σ Aᵀ(ct) v for two directions v that the oracle transforms.
    for seed in (2, 3):
        v = case.value(seed)
        scale = np.linalg.norm(np.asarray(ct)) * np.linalg.norm(case.oracle(v))
        difference = inner(ct, case.oracle(v).astype(np.complex128)) - inner(got, v)
        assert abs(difference) < 4 * case.bound * scale


def test_gradient_against_central_differences(case, x, plan):
    x = x.astype("complex128" if jnp.iscomplexobj(x) else "float64")
    plan = case.plan(x)
    y = plan(x)
    weight = to_jax(np.random.default_rng(5).standard_normal(y.shape))

    def loss(x):
        return jnp.sum(weight * jnp.abs(plan(jnp.sin(x))) ** 2)

    gradient = jax.jit(jax.grad(loss))(x)
    v = to_jax(case.value(seed=4).astype(x.dtype))
    h = 1e-5
    numeric = (loss(x + h * v) - loss(x - h * v)) / (2 * h)
    assert np.isclose(inner(gradient, v), numeric, rtol=1e-6, atol=1e-6 * abs(float(loss(x))))


def test_second_order(case, x, plan):
    x = x.astype("complex128" if jnp.iscomplexobj(x) else "float64")
    plan = case.plan(x)
    v, w = (to_jax(case.value(seed).astype(x.dtype)) for seed in (5, 6))

    def loss(x):
        return jnp.sum(jnp.abs(plan(x)) ** 4)

    def along(v):
        return jax.jvp(jax.grad(loss), (x,), (v,))[1]

    # The Hessian is symmetric in JAX's pairing, and the derivative of the gradient.
    assert np.isclose(inner(along(v), w), inner(along(w), v), rtol=1e-9)
    h = 1e-6
    numeric = (jax.grad(loss)(x + h * v) - jax.grad(loss)(x - h * v)) / (2 * h)
    assert relative_l2(along(v), np.asarray(numeric)) < 1e-6


def test_reverse_over_reverse_and_remat(case, x, plan):
    x = x.astype("complex128" if jnp.iscomplexobj(x) else "float64")
    plan = case.plan(x)

    def loss(x):
        return jnp.sum(jnp.abs(plan(x)) ** 4)

    direct = jax.grad(loss)(x)
    assert relative_l2(jax.grad(jax.checkpoint(loss))(x), np.asarray(direct)) < 1e-12
    v = to_jax(case.value(seed=5).astype(x.dtype))

    def slope(x):
        return jnp.real(jnp.sum(jax.grad(loss)(x) * v))

    reverse = jax.grad(slope)(x)
    forward = jax.jvp(jax.grad(loss), (x,), (v,))[1]
    assert relative_l2(reverse, np.asarray(forward)) < 1e-9


def test_gradient_through_scan_and_vmap(case, x, plan):
    plan_in, xs = plan, jnp.stack([x, 2 * x])

    def by_scan(xs):
        _, ys = jax.lax.scan(lambda c, x: (c, plan_in(x)), 0, xs)
        return jnp.sum(jnp.abs(ys) ** 2)

    def by_vmap(xs):
        return jnp.sum(jnp.abs(jax.vmap(plan_in)(xs)) ** 2)

    one = jax.grad(by_scan)(xs)
    two = jax.grad(by_vmap)(xs)
    assert relative_l2(one, np.asarray(two)) < 8 * case.bound
