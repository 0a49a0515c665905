"""Derivatives of any order, against oracles, against differences and against each other."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.case import largest, relative_l2, to_jax_each


def inner(a, b):
    """Σ a b without conjugation, real part: the pairing in which JAX transposes."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return sum(np.real(np.sum(np.asarray(x) * np.asarray(y))) for x, y in pairs)


def first(y):
    """The first result."""
    return jax.tree.leaves(y)[0]


def widened(xs):
    """Operands in double precision; integers as they are."""
    wide = {"complex64": "complex128", "float32": "float64", "bfloat16": "float64"}
    return {name: x.astype(wide.get(str(x.dtype), x.dtype)) for name, x in xs.items()}


def moving(xs):
    """The operands that have a derivative."""
    return {name: x for name, x in xs.items() if jnp.issubdtype(x.dtype, jnp.inexact)}


def shifted(xs, v, h):
    """The operands plus h v."""
    return {name: x + h * v[name] if name in v else x for name, x in xs.items()}


def slope(case, values, v):
    """The oracle's first result, differentiated along v."""
    if case.linear:
        return case.wanted(v)
    h, wide = 1e-5, widened(values)
    v = {name: np.asarray(x, wide[name].dtype) for name, x in v.items()}
    ends = [np.asarray(first(case.wanted(shifted(wide, v, s * h)))) for s in (1, -1)]
    return (ends[0] - ends[1]) / (2 * h)


def bound_of(case):
    """On derivatives: those of the oracle are by differences, if it is not linear."""
    return case.bound if case.linear else 8 * case.bound + 1e-8


def test_jvp(case, values, xs, plan):
    v = moving(to_jax_each(case.values(seed=1)))
    still = {name: x for name, x in xs.items() if name not in v}
    y, dy = jax.jvp(lambda moved: first(plan(**still, **moved)), (moving(xs),), (v,))
    want = case.wanted(values)
    assert largest(y, want[0] if isinstance(want, tuple) else want) < case.bound
    assert relative_l2(dy, slope(case, values, v)) < bound_of(case)


def test_vjp_is_the_transpose(case, values, xs, plan):
    still = {name: x for name, x in xs.items() if name not in moving(xs)}
    y, back = jax.vjp(lambda moved: first(plan(**still, **moved)), moving(xs))
    ct = np.random.default_rng(7).standard_normal((2, *y.shape))
    ct = jnp.asarray(ct[0] + 1j * ct[1] if jnp.iscomplexobj(y) else ct[0]).astype(y.dtype)
    (got,) = back(ct)
    for name, x in moving(xs).items():
        assert got[name].dtype == x.dtype
        assert got[name].shape == x.shape
    # Re Σ ct A(v) = Re Σ Aᵀ(ct) v for two directions v along which the oracle goes.
    for seed in (2, 3):
        v = moving(to_jax_each(case.values(seed)))
        along = slope(case, values, v).astype(np.complex128)
        scale = np.linalg.norm(np.asarray(ct, np.complex128)) * np.linalg.norm(along)
        got_wide = {name: np.asarray(x, np.complex128) for name, x in got.items()}
        difference = inner(np.asarray(ct, np.complex128), along) - inner(got_wide, v)
        assert abs(difference) < 8 * bound_of(case) * scale


def losses(case, xs):
    """A plan in double precision, and functions of all operands that have derivatives."""
    xs = widened(xs)
    plan = case.planned({n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in xs.items()})
    still = {name: x for name, x in xs.items() if name not in moving(xs)}

    def run(moved):
        return first(plan(**still, **moved))

    return run, moving(xs)


def directions(case, xs, *seeds):
    """Random directions in the operands' dtypes."""
    for seed in seeds:
        values = case.values(seed)
        yield {name: jnp.asarray(values[name]).astype(x.dtype) for name, x in xs.items()}


def test_gradient_against_central_differences(case, xs):
    run, xs = losses(case, xs)
    weight = np.random.default_rng(5).standard_normal(run(xs).shape)

    def loss(xs):
        return jnp.sum(weight * jnp.abs(run(jax.tree.map(jnp.sin, xs))) ** 2)

    gradient = jax.jit(jax.grad(loss))(xs)
    (v,) = directions(case, xs, 4)
    h = 1e-5
    numeric = (loss(shifted(xs, v, h)) - loss(shifted(xs, v, -h))) / (2 * h)
    assert np.isclose(inner(gradient, v), numeric, rtol=1e-6, atol=1e-6 * abs(float(loss(xs))))


def test_second_order(case, xs):
    run, xs = losses(case, xs)
    v, w = directions(case, xs, 5, 6)

    def loss(xs):
        return jnp.sum(jnp.abs(run(xs)) ** 4)

    along = jax.jit(lambda v: jax.jvp(jax.grad(loss), (xs,), (v,))[1])
    # The Hessian is symmetric in JAX's pairing, and the derivative of the gradient.
    assert np.isclose(inner(along(v), w), inner(along(w), v), rtol=1e-9)
    h, gradient = 1e-6, jax.jit(jax.grad(loss))
    ends = gradient(shifted(xs, v, h)), gradient(shifted(xs, v, -h))
    numeric = jax.tree.map(lambda p, m: (np.asarray(p) - np.asarray(m)) / (2 * h), *ends)
    for got, want in zip(jax.tree.leaves(along(v)), jax.tree.leaves(numeric), strict=True):
        assert relative_l2(got, want) < 1e-6


def test_reverse_over_reverse_and_remat(case, xs):
    run, xs = losses(case, xs)
    (v,) = directions(case, xs, 5)

    def loss(xs):
        return jnp.sum(jnp.abs(run(xs)) ** 4)

    def slope(xs):
        terms = jax.tree.map(lambda g, v: jnp.real(jnp.sum(g * v)), jax.grad(loss)(xs), v)
        return sum(jax.tree.leaves(terms))

    direct = jax.jit(jax.grad(loss))(xs)
    again = jax.jit(jax.grad(jax.checkpoint(loss)))(xs)
    reverse = jax.jit(jax.grad(slope))(xs)
    forward = jax.jit(lambda xs: jax.jvp(jax.grad(loss), (xs,), (v,))[1])(xs)
    for name in xs:
        assert relative_l2(again[name], np.asarray(direct[name])) < 1e-12
        assert relative_l2(reverse[name], np.asarray(forward[name])) < 1e-9


def test_gradient_through_scan_and_vmap(case, xs):
    run, xs = losses(case, xs)
    members = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), xs)

    def by_scan(members):
        _, ys = jax.lax.scan(lambda c, xs: (c, run(xs)), 0, members)
        return jnp.sum(jnp.abs(ys) ** 2)

    def by_vmap(members):
        return jnp.sum(jnp.abs(jax.vmap(run)(members)) ** 2)

    one, two = (jax.jit(jax.grad(f))(members) for f in (by_scan, by_vmap))
    for name in xs:
        assert relative_l2(one[name], np.asarray(two[name])) < 1e-12
