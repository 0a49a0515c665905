"""Drawn problems of any kind, axes, lengths, norm and batch, against SciPy; and FFTW's checks."""

import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft

import nvstate as nvs
from nvstate.fft import strategy
from tests.case import relative_l2
from tests.fft.cases import bound, random


@st.composite
def problems(draw):
    """A shape, and the keywords of a spec."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=5)))
    rank = len(shape)
    axes = draw(st.lists(st.integers(0, rank - 1), min_size=1, max_size=rank, unique=True))
    axes = tuple(a - rank if draw(st.booleans()) else a for a in axes)
    kind = draw(st.sampled_from(["c2c", "r2c", "c2r"]))
    direction = draw(st.sampled_from(["forward", "inverse"])) if kind == "c2c" else None
    norm = draw(st.sampled_from(["backward", "ortho", "forward", "none"]))
    fitted = kind == "c2r" or draw(st.booleans())
    s = tuple(draw(st.integers(1, 9)) for _ in axes) if fitted else None
    return shape, {"axes": axes, "kind": kind, "direction": direction, "norm": norm, "s": s}


def oracle(x, axes, kind, direction, norm, s):
    """SciPy's, which has no norm that scales neither direction."""
    name = {"c2c": "fftn", "r2c": "rfftn", "c2r": "irfftn"}[kind]
    inverse = direction == "inverse" or kind == "c2r"
    if kind == "c2c" and inverse:
        name = "ifftn"
    if norm == "none":
        norm = "forward" if inverse else "backward"
    return getattr(scipy.fft, name)(x, s=s, axes=axes, norm=norm)


@hypothesis.given(problems())
def test_any_problem(problem):
    shape, keywords = problem
    dtype = "float64" if keywords["kind"] == "r2c" else "complex128"
    x = random(shape, dtype)(np.random.default_rng(0))
    plan = nvs.fft.plan(jnp.asarray(x), **keywords)
    want = oracle(x, **keywords)
    limit = 2 * bound("complex128", *plan.spec.lengths)
    assert relative_l2(plan(jnp.asarray(x)), want) < limit
    assert plan.result.shape == want.shape


@hypothesis.given(problems())
def test_what_an_error_suggests_makes_the_same_plan(problem):
    shape, keywords = problem
    dtype = "float64" if keywords["kind"] == "r2c" else "complex128"
    x = jax.ShapeDtypeStruct(shape, dtype)
    plan = nvs.fft.plan(x, **keywords)
    again = eval(f"nvs.fft.plan({plan.arguments(len(shape))})", {"nvs": nvs, "x": x})
    assert again is plan


@hypothesis.given(problems(), st.data())
def test_vmap_of_any_axis(problem, data):
    shape, keywords = problem
    dtype = "float64" if keywords["kind"] == "r2c" else "complex128"
    axis = data.draw(st.integers(0, len(shape)))
    full = [*shape]
    full.insert(axis, 2)
    x = random(tuple(full), dtype)(np.random.default_rng(1))
    plan = nvs.fft.plan(jax.ShapeDtypeStruct(shape, dtype), **keywords)
    y = jax.vmap(plan, in_axes=axis)(jnp.asarray(x))
    for i in range(2):
        want = oracle(np.take(x, i, axis), **keywords)
        assert relative_l2(y[i], want) < 2 * bound("complex128", *plan.spec.lengths)


@hypothesis.given(problems())
def test_strategies_cover_every_layout(problem):
    shape, keywords = problem
    dtype = "float64" if keywords["kind"] == "r2c" else "complex128"
    spec = nvs.fft.spec(jax.ShapeDtypeStruct(shape, dtype), **keywords)
    assert strategy.choose(spec, shape) in strategy.candidates(spec, shape)
    stages = strategy.stages(spec)
    axes = [axis for stage in stages for axis in stage.axes]
    assert sorted(axes) == sorted(spec.axes)
    assert all(len(stage.axes) <= 3 for stage in stages)
    kinds = [stage.kind for stage in stages]
    assert kinds.count("c2c") >= len(kinds) - 1
    if spec.kind == "c2r":
        assert kinds[-1] == "c2r"
    if spec.kind == "r2c":
        assert kinds[0] == "r2c"


@hypothesis.given(st.integers(1, 40), st.data())
def test_impulses_shifts_parseval_and_linearity(n, data):
    k = data.draw(st.integers(0, n - 1))
    rng = np.random.default_rng(n)
    x, y = (random((n,), "complex128")(rng) for _ in range(2))
    impulse = np.zeros(n, "complex128")
    impulse[k] = 1
    limit = 4 * bound("complex128", n)
    phases = np.exp(-2j * math.pi * (k * np.arange(n) % n) / n)
    assert relative_l2(nvs.fft.fft(impulse), phases) < limit
    shifted = nvs.fft.fft(np.roll(x, k))
    assert relative_l2(shifted, phases * nvs.fft.fft(x)) < limit
    energy = np.sum(np.abs(nvs.fft.fft(x, norm="ortho")) ** 2)
    assert math.isclose(energy, np.sum(np.abs(x) ** 2), rel_tol=limit)
    both = nvs.fft.fft(2 * x - 3j * y)
    assert relative_l2(both, 2 * nvs.fft.fft(x) - 3j * nvs.fft.fft(y)) < limit
    assert relative_l2(nvs.fft.ifft(nvs.fft.fft(x)), x) < limit
