"""Rows that are no multiple of 16 bytes: when they are copied, and that nothing else changes."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvstate as nvs
from nvstate.matmul import padding, report
from nvstate.matmul.reference import reference
from tests.deviceless import compile_h100
from tests.matmul import oracle
from tests.matmul.test_h100_program import calls, planned, struct

LARGE = (struct(4001, 2407), struct(2407, 1999))
ON, OFF = nvs.matmul.Preferences(), nvs.matmul.Preferences(align_operands=False)


def rounded(*operands, preferences=ON, **problem):
    """M, N and K as the library gets them."""
    spec = nvs.matmul.spec(*operands, **problem)
    names = dict(zip(spec.names, (*operands, *problem.values()), strict=False))
    shapes = {name: names[name].shape for name in spec.names if hasattr(names[name], "shape")}
    made = padding.padded(spec, shapes, preferences)
    return made.m, made.n, made.k


def test_extents_are_rounded_where_rows_are():
    a, b = LARGE
    assert rounded(a, b) == (4001, 2000, 2408)
    turned = {"transpose_a": True}
    assert rounded(struct(2407, 4001), b, **turned) == (4008, 2000, 2407)
    assert rounded(struct(2407, 4001), struct(1999, 2407), transpose_a=True, transpose_b=True) == (
        4008,
        2000,
        2408,
    )
    assert rounded(struct(4001, 2408), struct(2408, 2000)) == (4001, 2000, 2408)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "int8"])
def test_other_types_stay_as_they_are(dtype):
    a, b = struct(4001, 2404, dtype=dtype), struct(1996, 2404, dtype=dtype)
    assert rounded(a, b, transpose_b=True) == (4001, 1996, 2404)


def test_tf32_has_rows_of_four():
    a, b = (struct(*x.shape, dtype="float32") for x in LARGE)
    assert rounded(a, b, compute_type="tf32") == (4001, 2000, 2408)
    a, b = struct(4001, 2404, dtype="float32"), struct(2404, 1999, dtype="float32")
    assert rounded(a, b, compute_type="tf32") == (4001, 2000, 2404)


def test_what_gains_nothing_stays_as_it_is():
    assert rounded(struct(63, 65), struct(65, 67)) == (63, 67, 65)  # small
    assert rounded(struct(100001, 4097), struct(4097, 8)) == (100001, 8, 4097)  # thin
    assert rounded(*LARGE, preferences=OFF) == (4001, 1999, 2407)
    c = struct(4001, 1999)
    assert rounded(*LARGE, c, beta=1.0, inplace=True) == (4001, 1999, 2407)


def test_rows_of_c_are_not_summed_beyond_m():
    a, b, c, aux = struct(2407, 4001), struct(2407, 1999), struct(1999), struct(4001, 2000)
    problem = {"transpose_a": True, "gelu_aux": aux, "epilog": "dgelu_bgrad"}
    spec = nvs.matmul.spec(a, b, c, beta=1.0, **problem)
    shapes = {"a": a.shape, "b": b.shape, "c": c.shape, "gelu_aux": aux.shape}
    assert padding.padded(spec, shapes, ON) == spec
    spec = nvs.matmul.spec(a, b, **problem)
    del shapes["c"]
    assert padding.padded(spec, shapes, ON).m == 4008


EPILOGS = [
    None, "relu", "gelu_bias", "relu_aux_bias", "gelu_aux", "drelu", "dgelu", "drelu_bgrad",
    "dgelu_bgrad", "bgrada", "bgradb",
]  # fmt: skip


@pytest.mark.parametrize("c", [None, (5, 7), (7,), (5, 1), (), (2, 1, 7)])
@pytest.mark.parametrize("epilog", EPILOGS)
def test_the_results_are_those_of_the_product(rng, monkeypatch, epilog, c):
    """In `jax.numpy`, with and without zeros."""
    monkeypatch.setattr(padding, "_gains", lambda *_: True)
    if c is not None and epilog in ("bgrada", "bgradb"):
        c = (5, 7)
    for ta, tb in ((False, False), (True, False), (False, True), (True, True)):
        shapes = {"a": (2, 3, 5) if ta else (2, 5, 3), "b": (7, 3) if tb else (3, 7)}
        x = {n: jnp.asarray(oracle.random(rng, s, "float16")) for n, s in shapes.items()}
        problem = {"transpose_a": ta, "transpose_b": tb, "epilog": epilog}
        if epilog and "bias" in epilog:
            problem["bias"] = jnp.asarray(oracle.random(rng, (7,), "float16"))
        if epilog and epilog.startswith("drelu"):
            problem["relu_aux"] = jnp.asarray(rng.integers(0, 256, (2, 5, 16), dtype="uint8"))
        if epilog and epilog.startswith("dgelu"):
            problem["gelu_aux"] = jnp.asarray(oracle.random(rng, (2, 5, 8), "float16"))
        more = []
        if c is not None:
            more = [jnp.asarray(oracle.random(rng, c, "float16"))]
            problem["beta"] = 2.0
        spec = nvs.matmul.spec(x["a"], x["b"], *more, **problem)
        x |= dict(zip("c", more, strict=False))
        x |= {n: v for n, v in problem.items() if isinstance(v, jax.Array)}
        x = {n: x[n] for n in spec.names}
        made = padding.padded(spec, {n: v.shape for n, v in x.items()}, ON)
        if not (ta and c is not None and "bgrad" in str(epilog)):
            assert made.n == 8
        want = reference(spec, *x.values())
        filled = padding.filled(spec, made, x)
        assert [filled[n].shape[-2:] for n in "ab"] == [made.core(n) for n in "ab"]
        got = reference(made, *filled.values())
        for name, y, z in zip(spec.result_names, got, want, strict=True):
            y = padding.cut(spec, name, y)
            assert y.shape == z.shape
            if name == "relu_aux":  # bits beyond N are unspecified
                y, z = oracle.bits(y, 7), oracle.bits(z, 7)
            assert np.array_equal(y, z), name


def test_the_h100_multiplies_aligned_matrices():
    plan, types = planned(*LARGE)
    hlo = compile_h100(lambda *x: plan(*x), *types).hlo
    assert calls(hlo) == 1
    (line,) = [text for text in hlo.splitlines() if "custom_call_target=" in text]
    assert re.search(r"bf16\[(1,)*4001,(1,)*2000\]", line), line
    plan, types = planned(*LARGE, preferences=OFF)
    hlo = compile_h100(lambda *x: plan(*x), *types).hlo
    assert "pad(" not in hlo
    assert "[1,4001,1999]" in hlo or "[4001,1999]" in hlo


def test_a_cast_writes_the_longer_rows():
    """What makes an operand inside `jit` writes it out once, zeros and all."""
    plan, _ = planned(*LARGE)
    wide = [struct(*t.shape, dtype="float32") for t in plan.types]
    hlo = compile_h100(lambda *x: plan(*(v.astype("bfloat16") for v in x)), *wide).hlo
    assert calls(hlo) == 1
    assert not re.search(r"bf16\[(1,)*4001,2407\]\S* fusion", hlo)


def test_plans_say_what_is_copied():
    plan = nvs.matmul.plan(*LARGE)
    text = "a, b, d: copied by XLA from or to rows of 16 bytes, for M=4001, N=2000, K=2408"
    assert text in report.moves(plan)
    plan = nvs.matmul.plan(*LARGE, preferences=OFF)
    assert not report.moves(plan)
    plan = nvs.matmul.plan(struct(1500, 1500), struct(1500))
    assert not report.moves(plan)


@pytest.mark.gpu
@pytest.mark.parametrize("epilog", EPILOGS)
def test_gpu(rng, epilog):
    """The library's results on aligned copies are those without."""
    m, n, k = 1001, 2043, 1203
    x = {"a": oracle.random(rng, (m, k), "float16"), "b": oracle.random(rng, (n, k), "float16")}
    arrays = {}
    if epilog and "bias" in epilog:
        arrays["bias"] = oracle.random(rng, (n,), "float16")
    if epilog and epilog.startswith("drelu"):
        arrays["relu_aux"] = rng.integers(0, 256, (m, 256), dtype="uint8")
    if epilog and epilog.startswith("dgelu"):
        arrays["gelu_aux"] = oracle.random(rng, (m, 2048), "float16")
    x, arrays = ({k: jnp.asarray(v) for k, v in d.items()} for d in (x, arrays))
    problem = {"transpose_b": True, "epilog": epilog, "alpha": 1 / 64}
    plans = [
        nvs.matmul.plan(*x.values(), **arrays, **problem, preferences=preferences)
        for preferences in (ON, OFF)
    ]
    problems = [plan.algorithm.problem[:3] for plan in plans]
    assert problems == [(m, 2048, 1208), (m, n, k)]
    got, want = (jax.tree.leaves(plan(*x.values(), **arrays)) for plan in plans)
    for name, y, z in zip(plans[0].results, got, want, strict=True):
        if name == "relu_aux":
            assert np.mean(oracle.bits(y, n) != oracle.bits(z, n)) < 1e-3  # z near zero
        else:
            y, z = (np.asarray(v, "float64")[..., :n] for v in (y, z))
            assert np.allclose(y, z, rtol=4e-3, atol=4e-3), name


def test_preferences_are_checked():
    with pytest.raises(nvs.errors.SpecError, match="align_operands"):
        nvs.matmul.Preferences(align_operands=1)
    assert dataclasses.replace(ON, align_operands=False) == OFF
