"""cuBLASLt on a real GPU: every row of the tables against NumPy, algorithms, graphs, threads."""

import gc
import itertools
import os
import re
import subprocess
import sys
import threading
import warnings
from typing import get_args

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import nvstate as nvs
from nvstate import _native
from nvstate.matmul import lowering, scaling, support, table
from nvstate.matmul.arguments import Epilog
from tests.conformance.test_lifecycle_cuda import free_bytes
from tests.conformance.test_sharding import COLLECTIVES
from tests.core.test_threads import together
from tests.matmul import oracle
from tests.matmul.test_chain import by_jnp, layers
from tests.matmul.test_scaling import PAIRS as SCALINGS, scaled_operands
from tests.matmul.test_types import PAIRS, rows

pytestmark = pytest.mark.gpu
FORWARD = [e for e in get_args(Epilog) if not e.startswith(("d", "bgrad"))]
BACKWARD = [e for e in get_args(Epilog) if e.startswith("d")]


@pytest.fixture
def gpu():
    """The first GPU, and whether it has what a spec needs."""
    return jax.devices("cuda")[0]


def put(x):
    """An array on the first GPU."""
    return jax.device_put(x, jax.devices("cuda")[0])


def narrow_or_refused(plan_of, least=(8, 9), end=(99, 0)):
    """Plan; None where the device is no such one, and then `plan()` says that."""
    if least <= support.capability(jax.devices("cuda")[0]) < end:
        return plan_of()
    with pytest.raises(nvs.errors.UnsupportedError, match="scaling on this device"):
        plan_of()
    return None


def two_gpus():
    """Two of them; skips where there is one."""
    devices = jax.devices("cuda")
    if len(devices) < 2:
        pytest.skip("needs 2 GPUs")
    return devices[:2]


def check(got, exact, size, k, compute="float32", extra=0.0):
    """Each element within the bound, of which the part used is printed."""
    got = np.asarray(got)
    ok, worst = oracle.near(got, exact, size, k, compute, gpu=True, extra=extra)
    print(f"{compute} {got.dtype}: {worst}")
    assert ok, worst


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_every_row_of_types(rng, a, b, gpu):
    done, refused = 0, []
    for _, _, compute, scale, result in (r for r in rows() if r[:2] == (a, b)):
        m, n, k = 256, 384, 512
        narrow, alpha = a in table.NARROW, 0.125 if (a, scale) == ("int8", "float32") else 1.0
        x, y = oracle.random(rng, (m, k), a), oracle.random(rng, (n, k), b)
        arrays, factor = {}, 1.0
        if narrow:
            mode = "nvfp4" if a == table.E2M1 else "tensor"
            arrays = {"scale_a": np.asarray(scaling.constant_scales(mode, m, k, 0.5))}
            arrays["scale_b"] = np.asarray(scaling.constant_scales(mode, n, k, 0.25))
            factor = 0.125
        if result in table.FP8:
            arrays["scale_d"] = np.float32(2)
        given = {name: put(v) for name, v in arrays.items()}
        try:
            plan = nvs.matmul.plan(
                put(x), put(y), transpose_b=True, compute_type=compute, scale_type=scale,
                result_dtype=result, alpha=alpha, **given,
            )  # fmt: skip
        except nvs.errors.UnsupportedError as error:
            print(f"{a} {b} {compute} {scale} {result}: {error}")
            refused.append((compute, str(error)))
            continue
        assert plan.backend == "cublaslt"
        got = plan(put(x), put(y), *(given[name] for name in plan.spec.names[2:]))
        said = {"transpose_b": True, "scale": factor, "alpha": alpha}
        exact = oracle.product(x, y, **said)
        size = oracle.product(x, y, absolute=True, **said)
        if result in table.FP8:
            exact, size = 2 * exact, 2 * size
            want = oracle.wide(oracle.rounded(exact, result))
            close = np.abs(oracle.wide(got) - want) <= np.abs(want) * 2.0**-2 + 2.0**-9
            assert close.all()
        elif result == "int8":
            want = np.clip(np.round(exact), -128, 127)
            assert (np.abs(oracle.wide(got) - want) <= 1).all()
        else:
            loose = 2 * (k + 2) * 2.0**-13 * size if a in table.FP8 else 0.0
            check(got, exact, size, k, compute, extra=loose)
        done += 1
    print(f"{a} {b}: {done} rows")
    if a not in table.NARROW and a != "int8":
        assert all("emulated" in compute for compute, _ in refused), refused
    at = support.capability(gpu)
    if a == "int8" or (a in table.FP8 and at >= (8, 9)) or a not in table.NARROW:
        assert done > 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64"])
@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=2)), ids=str)
def test_layouts_and_odd_extents(rng, dtype, flags):
    ta, tb = flags
    for m, n, k in [(1, 1, 1), (7, 9, 33), (129, 65, 257), (16, 1, 8), (1, 128, 64), (2, 3, 4096)]:
        a = oracle.random(rng, (k, m) if ta else (m, k), dtype)
        b = oracle.random(rng, (n, k) if tb else (k, n), dtype)
        for conjugated in [False, True] if dtype == "complex64" else [False]:
            said = {"transpose_a": ta, "transpose_b": tb, "conjugate_a": conjugated}
            said["conjugate_b"] = conjugated
            got = nvs.matmul.matmul(put(a), put(b), **said)
            compute = "float64" if dtype == "float64" else "float32"
            size = oracle.product(a, b, absolute=True, **said)
            check(got, oracle.product(a, b, **said), size, k, compute)


@pytest.mark.parametrize("kind", ["scaled", "adverse", "integers"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_operands_that_are_hard(rng, dtype, kind):
    a, b = oracle.random(rng, (200, 120), dtype, kind), oracle.random(rng, (120, 72), dtype, kind)
    got, exact = nvs.matmul.matmul(put(a), put(b)), oracle.product(a, b)
    if kind == "integers":
        assert (oracle.wide(got) == exact).all() or dtype == "bfloat16"
    compute = "float64" if dtype == "float64" else "float32"
    check(got, exact, oracle.product(a, b, absolute=True), 120, compute)


def test_float32_means_float32(rng):
    a, b = (oracle.random(rng, (512, 512), "float32") for _ in range(2))
    errors = {}
    for compute in ("float32", "tf32"):
        got = np.asarray(nvs.matmul.matmul(put(a), put(b), compute_type=compute))
        exact = oracle.product(a, b)
        errors[compute] = np.linalg.norm(got - exact) / np.linalg.norm(exact)
    print(errors)
    assert errors["float32"] < 2e-6
    assert errors["tf32"] > 1e-5


@pytest.mark.parametrize(
    ("left", "right"),
    [((2, 1), (1, 7)), ((3,), ()), ((), (3,)), ((1,), (4,)), ((2, 3), (3,)), ((2, 1, 3), (5, 1))],
)
@pytest.mark.parametrize("ta", [False, True])
def test_batches(rng, left, right, ta):
    a = oracle.random(rng, (*left, *((32, 16) if ta else (16, 32))), "float32")
    b = oracle.random(rng, (*right, 32, 24), "float32")
    bias = oracle.random(rng, (24,), "float32")
    said = {"transpose_a": ta, "bias": bias}
    z = oracle.product(a, b, **said)
    c = oracle.random(rng, z.shape, "float32")
    for epilog in ("bias", "relu_bias"):
        got = nvs.matmul.matmul(
            put(a), put(b), put(c), beta=0.5, transpose_a=ta, bias=put(bias), epilog=epilog
        )
        assert np.allclose(got, oracle.applied(z + 0.5 * c, epilog), atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 16, 24), (16, 24), (24,), (1, 24), (16, 1), (2, 1, 24)])
@pytest.mark.parametrize("beta", [0.5, 0.0, "operand"])
def test_every_form_of_c(rng, shape, beta):
    a, b, c = (oracle.random(rng, s, "float32") for s in ((2, 16, 32), (32, 24), shape))
    if beta == 0.0:
        c = np.full_like(c, np.nan)
    scalars = {"alpha": put(np.float32(2)[...]), "beta": put(np.float32(0.5)[...])}
    given = scalars if beta == "operand" else {"beta": beta, "alpha": 2.0}
    plan = nvs.matmul.plan(put(a), put(b), put(c), **given)
    arrays = scalars.values() if beta == "operand" else ()
    got = plan(put(a), put(b), put(c), *arrays)
    want = 2 * (a @ b) + (0 if beta == 0.0 else 0.5 * c)
    assert np.allclose(got, want, atol=1e-4)


def test_a_device_beta_of_zero_does_not_read_c(rng):
    a, b = (put(oracle.random(rng, s, "float32")) for s in ((16, 32), (32, 24)))
    c, one, zero = (
        put(np.full((16, 24), np.nan, "float32")),
        put(jnp.float32(1)),
        put(jnp.float32(0)),
    )
    plan = nvs.matmul.plan(a, b, c, alpha=one, beta=zero)
    assert np.allclose(plan(a, b, c, one, zero), np.asarray(a) @ np.asarray(b), atol=1e-4)


LIMIT = {"bfloat16": 4e-2, "float16": 4e-3, "float32": 2e-4}


@pytest.mark.parametrize("n", [8, 9, 33, 65, 128, 129])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("epilog", FORWARD)
def test_forward_epilogs(rng, epilog, dtype, n):
    batch = (3,) if n in (9, 128) else ()
    a, b = oracle.random(rng, (*batch, 40, 64), dtype), oracle.random(rng, (64, n), dtype)
    arrays = {"bias": oracle.random(rng, (n,), dtype)} if "bias" in epilog else {}
    given = {name: put(x) for name, x in arrays.items()}
    plan = nvs.matmul.plan(put(a), put(b), epilog=epilog, **given)
    r = plan(put(a), put(b), **given)
    z = oracle.product(a, b, **arrays)
    d = r.d if "aux" in epilog else r
    assert np.allclose(
        oracle.wide(d), oracle.applied(z, epilog), rtol=LIMIT[dtype], atol=LIMIT[dtype]
    )
    if "relu_aux" in epilog:
        sure = np.abs(z) > 10 * LIMIT[dtype]
        assert (oracle.bits(r.relu_aux, n) == (z > 0))[sure].all()
    if "gelu_aux" in epilog:
        aux = oracle.wide(np.asarray(r.gelu_aux)[..., :n])  # beyond, anything
        assert np.allclose(aux, z, rtol=LIMIT[dtype], atol=LIMIT[dtype])


def test_the_mask_at_zero_is_reported():
    a, b = put(np.zeros((8, 8), "float32")), put(np.zeros((8, 128), "float32"))
    r = nvs.matmul.matmul(a, b, epilog="relu_aux")
    found = set(np.asarray(r.relu_aux).ravel().tolist())
    print(f"relu_aux at z = 0: {found}")
    assert found in ({0}, {255})


@pytest.mark.parametrize("n", [8, 33, 128])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("epilog", BACKWARD)
def test_backward_epilogs(rng, epilog, dtype, n):
    batch = (3,) if n == 128 else ()
    a, b = oracle.random(rng, (*batch, 40, 64), dtype), oracle.random(rng, (n, 64), dtype)
    z = oracle.random(rng, (*batch, 40, n), dtype)
    name = "relu_aux" if "relu" in epilog else "gelu_aux"
    if name == "relu_aux":
        aux, slope = oracle.mask(oracle.wide(z)), oracle.wide(z) > 0
    else:
        pads = [(0, 0)] * (z.ndim - 1) + [(0, -n % 8)]
        aux, slope = np.pad(z, pads), oracle.gelu_slope(oracle.wide(z))
    given = {name: put(aux)}
    plan = nvs.matmul.plan(put(a), put(b), transpose_b=True, epilog=epilog, **given)
    r = plan(put(a), put(b), **given)
    want = oracle.product(a, b, transpose_b=True) * slope
    d = r[0] if "bgrad" in epilog else r
    limit = LIMIT[dtype]
    assert np.allclose(oracle.wide(d), want, rtol=limit, atol=4 * limit)
    if "bgrad" in epilog:
        sums = oracle.wide(getattr(r, epilog))
        assert np.allclose(sums, want.sum(-2), rtol=limit, atol=40 * limit)


@pytest.mark.parametrize("epilog", ["bgrada", "bgradb"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_sums_of_operands(rng, epilog, dtype):
    for left, right in (((), ()), ((3,), (3,)), ((3,), ())):
        a = oracle.random(rng, (*left, 40, 64), dtype)
        b = oracle.random(rng, (*right, 64, 24), dtype)
        plan = nvs.matmul.plan(put(a), put(b), epilog=epilog)
        r = plan(put(a), put(b))
        want = oracle.wide(a).sum(-1) if epilog == "bgrada" else oracle.wide(b).sum(-2)
        limit = LIMIT[dtype]
        assert np.allclose(oracle.wide(getattr(r, epilog)), want, rtol=limit, atol=10 * limit)
        assert np.allclose(oracle.wide(r.d), oracle.product(a, b), rtol=limit, atol=4 * limit)


@pytest.mark.parametrize("modes", SCALINGS)
def test_scales(rng, modes):
    m, n, k = 256, 384, 640
    (a, sa, wide_a), (b, sb, wide_b) = scaled_operands(rng, m, n, k, modes)
    scales = {"scale_a": put(sa), "scale_b": put(sb)}
    tensor, blackwell = modes[0] == "tensor", modes[0] in ("mxfp8", "nvfp4")
    plan = narrow_or_refused(
        lambda: nvs.matmul.plan(
            put(a), put(b), transpose_b=True, block_scaling=modes, result_dtype="float32", **scales
        ),
        least=(8, 9) if tensor else (10, 0) if blackwell else (9, 0),
        end=(99, 0) if tensor or blackwell else (10, 0),
    )
    if plan is None:
        return
    got = np.asarray(plan(put(a), put(b), **scales))
    size = np.abs(wide_a) @ np.abs(wide_b.T)
    worst = (np.abs(got - wide_a @ wide_b.T) / (2 * (k + 2) * size)).max()
    print(f"{modes}: u = 2^{np.log2(worst):.1f}")
    assert worst < 2.0**-13


@pytest.mark.parametrize("c", [None, "bfloat16", "float16", "float32"])
@pytest.mark.parametrize(("a", "b"), [p for p in PAIRS if set(p) <= table.FP8])
def test_fp8_results_and_maxima(rng, a, b, c):
    for result in table.result_types(a, b, "float32", "float32", c):
        x, y = oracle.random(rng, (64, 128), a), oracle.random(rng, (96, 128), b)
        arrays = {"scale_a": np.float32(0.5)[...], "scale_b": np.float32(0.25)[...]}
        narrow = result in table.FP8
        if narrow:
            arrays["scale_d"] = np.float32(8)[...]
        given = {name: put(v) for name, v in arrays.items()}
        operands = [put(x), put(y)]
        beta, z = {}, oracle.product(x, y, transpose_b=True, scale=0.125)
        if c is not None:
            value = oracle.random(rng, (64, 96), c)
            operands.append(put(value))
            beta, z = {"beta": 2.0}, z + 2 * oracle.wide(value)
        plan = narrow_or_refused(
            lambda o=operands, g=given, r=result, beta=beta, amax=narrow: nvs.matmul.plan(
                *o, **g, **beta, transpose_b=True, result_dtype=r, result_amax=amax
            )
        )
        if plan is None:
            continue
        r = plan(*operands, **given)
        if narrow:
            assert np.allclose(r.result_amax, np.abs(z).max(), rtol=1e-2)
            want = oracle.wide(oracle.rounded(8 * z, result))
            assert np.isfinite(oracle.wide(r.d)).all()
            close = np.abs(oracle.wide(r.d) - want) <= np.abs(want) * 2.0**-2 + 2.0**-8
            assert close.all()
            print(f"{a} {b} {c} {result}: equal {(oracle.wide(r.d) == want).mean():.4f}")
        else:
            assert np.allclose(oracle.wide(r), z, rtol=2e-2, atol=2e-2)


def test_fast_accumulation_changes_results(rng):
    a, b = (oracle.random(rng, (512, 2048), table.E4M3) for _ in range(2))
    one = put(jnp.float32(1))
    results = []
    for fast in (False, True):
        plan = narrow_or_refused(
            lambda fast=fast: nvs.matmul.plan(
                put(a),
                put(b),
                scale_a=one,
                scale_b=one,
                transpose_b=True,
                result_dtype="float32",
                preferences=nvs.matmul.Preferences(fast_accumulation=fast),
            )
        )
        if plan is None:
            return
        results.append(np.asarray(plan(put(a), put(b), one, one)))
    exact = oracle.product(a, b, transpose_b=True)
    errors = [np.linalg.norm(r - exact) / np.linalg.norm(exact) for r in results]
    print(errors)
    assert errors[0] <= errors[1]


def test_what_this_device_has_not_is_refused(gpu):
    if support.capability(gpu) >= (10, 0):
        pytest.skip("this device has the narrow formats of Blackwell")
    for mode, dtype in (("mxfp8", table.E4M3), ("nvfp4", table.E2M1)):
        x = put(np.zeros((128, 128), ml_dtypes.finfo(dtype).dtype))
        scale = put(scaling.constant_scales(mode, 128, 128))
        with pytest.raises(nvs.errors.UnsupportedError, match=f'"{mode}" scaling on this device'):
            nvs.matmul.plan(
                x, x, scale_a=scale, scale_b=scale, block_scaling=mode, transpose_b=True
            )
    x, one = put(np.zeros((32, 32), table.E4M3)), put(jnp.float32(1))
    with pytest.raises(nvs.errors.UnsupportedError, match="K is not innermost in `b`"):
        nvs.matmul.plan(x, x, scale_a=one, scale_b=one)


def test_in_place(rng):
    a, b, c = (oracle.random(rng, s, "float32") for s in ((64, 32), (32, 48), (64, 48)))
    plan = nvs.matmul.plan(put(a), put(b), put(c), beta=1.0, inplace=True)
    x, y, z = put(a), put(b), put(c)
    address = z.unsafe_buffer_pointer()
    d = plan(x, y, z)
    assert d.unsafe_buffer_pointer() == address
    assert z.is_deleted()
    assert np.allclose(d, a @ b + c, atol=1e-4)
    run = jax.jit(lambda x, y, z: jax.lax.scan(lambda z, _: (plan(x, y, z), None), z, length=3)[0])
    assert np.allclose(run(x, y, put(c)), 3 * (a @ b) + c, atol=1e-3)


# Algorithms


def tuned_operands(rng, shape=(64, 512, 256), dtype="bfloat16"):
    """A plan on the GPU, and its operands."""
    m, n, k = shape
    a, b = put(oracle.random(rng, (m, k), dtype)), put(oracle.random(rng, (k, n), dtype))
    return nvs.matmul.plan(a, b), a, b


def test_the_heuristic_gives_candidates(rng):
    plan, a, b = tuned_operands(rng)
    assert 1 <= len(plan.algorithms) <= 8
    assert plan.algorithm == plan.algorithms[0]
    assert plan.workspace_bytes == plan.algorithm.workspace_bytes
    first = plan.algorithm
    assert first.problem == (64, 512, 256, 1)
    assert first.tile >= 0
    assert first.id >= 0
    assert first.device == jax.devices("cuda")[0].device_kind
    assert first.version == _native.cublaslt_version()
    assert first.capabilities
    print(first.configuration, first.capabilities)
    print(plan.describe())
    one = nvs.matmul.plan(a, b, preferences=nvs.matmul.Preferences(limit=1))
    assert len(one.algorithms) == 1
    exact, size = oracle.product(a, b), oracle.product(a, b, absolute=True)
    for algorithm in plan.algorithms:
        check(plan.with_algorithm(algorithm)(a, b), exact, size, 256)


def test_preferences_are_honoured(rng):
    _, a, b = tuned_operands(rng, (64, 64, 8192))
    none = nvs.matmul.Preferences(reduction_scheme_mask=(), memory_limit=0)
    plan = nvs.matmul.plan(a, b, preferences=none)
    assert all(x.split_k <= 1 for x in plan.algorithms)
    assert all(x.workspace_bytes <= 16 for x in plan.algorithms)
    assert np.allclose(oracle.wide(plan(a, b)), oracle.product(a, b), rtol=4e-2, atol=1)


def test_algorithm_ids_and_from_id(rng):
    plan, a, b = tuned_operands(rng)
    ids = nvs.matmul.algorithm_ids(plan)
    assert 1 <= len(ids) <= 8
    ran = 0
    for id in ids:
        made = nvs.matmul.Algorithm.from_id(plan, id)
        assert made.id == id
        try:
            pinned = plan.with_algorithm(made)
        except nvs.errors.UnsupportedError:
            continue
        assert np.allclose(oracle.wide(pinned(a, b)), oracle.product(a, b), rtol=4e-2, atol=1)
        ran += 1
    print(f"{ran} of {len(ids)} ids ran as they were initialised")


def test_an_edited_algorithm_is_checked(rng):
    plan, a, b = tuned_operands(rng)
    first = plan.algorithm
    tiles = first.capabilities.tiles
    edited = 0
    for tile in tiles:  # many of which fit other problems only
        if edited == 3:
            break
        try:
            other = plan.with_algorithm(first.replace(tile=tile))
        except nvs.errors.UnsupportedError:
            continue
        assert np.allclose(oracle.wide(other(a, b)), oracle.product(a, b), rtol=4e-2, atol=1)
        edited += 1
    assert edited >= 1
    with pytest.raises(nvs.errors.SpecError, match="outside of the algorithm's capabilities"):
        first.replace(tile=10**6)
    with pytest.raises(nvs.errors.SpecError, match="outside of the algorithm's capabilities"):
        first.replace(colour=1)
    foreign = nvs.matmul.Algorithm(b"\xff" * 64, first.problem)
    with pytest.raises((nvs.errors.UnsupportedError, RuntimeError)):
        plan.with_algorithm(foreign)


def test_autotune_returns_a_pinned_plan(rng):
    plan, a, b = tuned_operands(rng, (16, 4096, 4096))
    tuned = nvs.autotune(plan, a, b)
    assert tuned.pinned
    assert tuned.spec == plan.spec
    times = [x.time_us for x in tuned.algorithms]
    print(times)
    assert times == sorted(times)
    assert all(0 < t < 10_000 for t in times)
    assert len(times) == len(plan.algorithms)
    few = nvs.matmul.autotune(plan, a, b, candidates=3, iterations=5, prune=2)
    assert len(few.algorithms) == 2
    again = nvs.matmul.plan(a, b, algorithm=tuned.algorithm)
    assert again is tuned
    assert np.allclose(oracle.wide(tuned(a, b)), oracle.product(a, b), rtol=4e-2, atol=2)
    host = nvs.matmul.plan(np.asarray(a), np.asarray(b), execution="cuda")
    assert nvs.autotune(host, np.asarray(a), np.asarray(b)).pinned


def test_autotune_writes_no_operand(rng):
    a, b, c = (put(oracle.random(rng, s, "float32")) for s in ((64, 32), (32, 48), (64, 48)))
    before = [np.array(x) for x in (a, b, c)]
    plan = nvs.matmul.plan(a, b, c, beta=1.0, inplace=True, epilog="relu")
    tuned = nvs.autotune(plan, a, b, c)
    assert not c.is_deleted()
    assert all((np.asarray(x) == old).all() for x, old in zip((a, b, c), before, strict=True))
    want = np.maximum(before[0] @ before[1] + before[2], 0)
    assert np.allclose(tuned(a, b, c), want, atol=1e-4)


def test_autotune_tunes_derivatives_too(rng):
    a, b, bias = (put(oracle.random(rng, s, "bfloat16")) for s in ((64, 256), (256, 128), (128,)))
    plan = nvs.matmul.plan(a, b, bias=bias, epilog="gelu_bias")
    tuned = nvs.matmul.autotune(plan, a, b, bias=bias, derivatives=True, iterations=3)
    assert len(tuned.choices[1]) >= 4
    assert len(tuned.pinned) == 1

    def loss(plan):
        return lambda a, b: jnp.sum(plan(a, b, bias).astype("float32") ** 2)

    got, want = (jax.jit(jax.grad(loss(p), (0, 1)))(a, b) for p in (tuned, plan))
    for g, w in zip(got, want, strict=True):
        assert np.allclose(oracle.wide(g), oracle.wide(w), rtol=5e-2, atol=1)


PINNED = """
import hashlib, sys
import jax, jax.numpy as jnp, numpy as np, nvstate as nvs
plan = nvs.store.load(sys.argv[1])["pinned"]
rng = np.random.default_rng(1)
a, b = (jnp.asarray(rng.standard_normal(s), "bfloat16") for s in ((128, 4096), (4096, 256)))
y = np.asarray(jax.jit(plan)(a, b))
print(hashlib.sha256(y.tobytes()).hexdigest(), plan.algorithm.data.hex())
"""


def test_a_pinned_algorithm_is_bit_reproducible(rng, tmp_path):
    rng = np.random.default_rng(1)
    a, b = (jnp.asarray(rng.standard_normal(s), "bfloat16") for s in ((128, 4096), (4096, 256)))
    plan = nvs.autotune(nvs.matmul.plan(put(a), put(b)), put(a), put(b))
    path = nvs.store.save({"pinned": plan}, tmp_path / "plans.json")
    runs = [np.asarray(plan(put(a), put(b))).tobytes() for _ in range(20)]
    assert len(set(runs)) == 1
    printed = [
        subprocess.run(
            [sys.executable, "-c", PINNED, str(path)], capture_output=True, text=True, check=True,
            env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        ).stdout
        for _ in range(2)
    ]  # fmt: skip
    assert printed[0] == printed[1]
    assert plan.algorithm.data.hex() in printed[0]
    import hashlib

    assert hashlib.sha256(runs[0]).hexdigest() in printed[0]


def test_static_and_traced_scalars_agree_bit_for_bit(rng):
    a, b, c = (put(oracle.random(rng, s, "float32")) for s in ((64, 128), (128, 96), (64, 96)))
    half, two = put(jnp.float32(0.5)), put(jnp.float32(2))
    fixed = nvs.matmul.plan(a, b, c, alpha=0.5, beta=2.0)
    traced = nvs.matmul.plan(a, b, c, alpha=half, beta=two).with_algorithm(fixed.algorithm)
    got = traced(a, b, c, half, two)
    assert (np.asarray(got) == np.asarray(fixed(a, b, c))).all()


def test_what_the_library_lacks_says_why(rng):
    a, b = (put(oracle.random(rng, s, "float64")) for s in ((64, 128), (128, 96)))
    narrow = nvs.matmul.Preferences(numerical_impl_mask=("imma",))
    with pytest.raises(nvs.errors.UnsupportedError) as raised:
        nvs.matmul.plan(a, b, preferences=narrow)
    print(raised.value)
    assert "cuBLASLt has no algorithm for this product" in str(raised.value)
    assert "`numerical_impl_mask=None`" in str(raised.value)


# Programs


def test_graphs_follow_rotating_addresses(rng):
    a, b, bias = (put(oracle.random(rng, s, "bfloat16")) for s in ((8, 64, 64), (64, 64), (64,)))
    plan = nvs.matmul.plan(
        jax.ShapeDtypeStruct((64, 64), "bfloat16"), b, bias=bias, epilog="relu_bias"
    )

    @jax.jit
    def turns(x, b, bias):
        for _ in range(6):
            x = plan(x, b, bias) / 8
        return x

    wants = []
    for x in a:
        y = x
        for _ in range(6):
            y = jnp.maximum(jnp.matmul(y, b, preferred_element_type="float32") + bias, 0)
            y = y.astype("bfloat16") / 8
        wants.append(np.asarray(y, "float32"))
    kept = [turns(x + 0, b, bias) for _ in range(5) for x in a]  # many addresses in flight
    for i, y in enumerate(kept):
        want = wants[i % len(a)]
        assert np.linalg.norm(np.asarray(y, "float32") - want) < 0.02 * np.linalg.norm(want)


@pytest.mark.parametrize("at", [0, 1])
def test_vmap_of_each_operand(rng, at):
    a, b, bias = (put(oracle.random(rng, s, "float32")) for s in ((16, 32), (32, 24), (24,)))
    plan = nvs.matmul.plan(a, b, bias=bias, epilog="relu_bias")
    for i, x in enumerate((a, b, bias)):
        if at > x.ndim:
            continue
        members = jnp.stack([x, 2 * x, -x], at)
        operands, axes = [a, b, bias], [None] * 3
        operands[i], axes[i] = members, at
        got = jax.jit(jax.vmap(lambda *o: plan(*o), in_axes=tuple(axes)))(*operands)
        for j, factor in enumerate((1, 2, -1)):
            one = [np.asarray(v, "float64") for v in (a, b, bias)]
            one[i] = one[i] * factor
            assert np.allclose(got[j], np.maximum(one[0] @ one[1] + one[2], 0), atol=1e-3)


@pytest.mark.parametrize("epilogs", [("gelu_bias", "relu_bias", "bias"), ("relu", "gelu", None)])
def test_chain_and_its_gradient(rng, epilogs):
    widths = (64, 128, 96, 32)
    plans = layers(epilogs, widths, rows=48, dtype="float32")
    x = put(oracle.random(rng, (4, 12, 64), "float32"))
    weights = [put(oracle.random(rng, s, "float32") / 8) for s in itertools.pairwise(widths)]
    biases = [
        put(oracle.random(rng, (n,), "float32")) if e and "bias" in e else None
        for e, n in zip(epilogs, widths[1:], strict=True)
    ]

    def loss(run):
        return lambda w, b: jnp.sum(run(w, b) ** 2)

    ours = jax.jit(jax.grad(loss(lambda w, b: nvs.matmul.chain(plans, x, w, b)), (0, 1)))
    with jax.default_matmul_precision("highest"):
        theirs = jax.jit(jax.grad(loss(lambda w, b: by_jnp(epilogs, x, w, b)), (0, 1)))
        want = theirs(weights, biases)
    for g, w in zip(jax.tree.leaves(ours(weights, biases)), jax.tree.leaves(want), strict=True):
        assert np.linalg.norm(g - w) < 2e-4 * np.linalg.norm(w)


def test_threads_share_nothing_that_changes(rng):
    plans = [tuned_operands(rng, (32 + 16 * i, 64, 128), "float32") for i in range(4)]
    bias = put(oracle.random(rng, (64,), "float32"))
    plans = [(nvs.matmul.plan(a, b, bias=bias, epilog="bias"), a, b) for _, a, b in plans]
    wrong = []

    def run(plan, a, b):
        want = np.asarray(a, "float64") @ np.asarray(b, "float64") + np.asarray(bias)
        for _ in range(50):
            if not np.allclose(plan(a, b, bias), want, atol=1e-3):
                wrong.append(plan)

    threads = [threading.Thread(target=run, args=p) for p in plans * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_one_plan_in_threads(rng):
    """The bias lies in a descriptor of the library's, which no two launches may share."""
    a, b = oracle.random(rng, (32, 128), "float32"), oracle.random(rng, (128, 64), "float32")
    plan = nvs.matmul.plan(put(a), put(b), bias=put(b[0]), epilog="gelu_aux_bias")
    compiled = jax.jit(lambda *x: plan(*x))

    def work(i):
        bias = oracle.random(np.random.default_rng(i), (64,), "float32")
        operands = [put(x) for x in (a * (i + 1), b, bias)]
        want = oracle.product(a * (i + 1), b, bias=bias)
        for _ in range(100):
            for run in (plan, compiled):
                r = run(*operands)
                assert np.allclose(r.gelu_aux, want, atol=1e-2)
                assert np.allclose(r.d, oracle.gelu(want), atol=1e-2)

    together(work, threads=4)


# Devices


def test_one_plan_and_one_pinned_algorithm_on_two_gpus(rng):
    devices = two_gpus()
    a, b = oracle.random(rng, (64, 256), "bfloat16"), oracle.random(rng, (256, 128), "bfloat16")
    types = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (a, b)]
    plan = nvs.matmul.plan(*types)
    pinned = plan.with_algorithm(plan.algorithms[-1])
    exact, size = oracle.product(a, b), oracle.product(a, b, absolute=True)
    before, bits = nvs.cache.info().unpinned, set()
    for device in devices * 3:
        operands = [jax.device_put(x, device) for x in (a, b)]
        for one in (plan, pinned):
            y = one(*operands)
            assert y.devices() == {device}
            check(y, exact, size, 256)
        bits.add(np.asarray(y).tobytes())
    assert devices[0].device_kind != devices[1].device_kind or len(bits) == 1
    assert nvs.cache.info().unpinned == before


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("split", ["batch", "M"])
def test_two_gpus_share_a_product_without_collectives(rng, split, pinned):
    mesh = jax.make_mesh((2,), ("d",), devices=two_gpus(), axis_types=(jax.sharding.AxisType.Auto,))
    shapes = (4, 48, 64), (64, 40), (40,)
    a, b, bias = (oracle.random(rng, s, "float32") for s in shapes)
    types = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (a, b, bias)]
    plan = nvs.matmul.plan(*types[:2], bias=types[2], epilog="gelu_aux_bias")
    if pinned:
        plan = plan.with_algorithm(plan.algorithm)
    specs = jax.P(*["d" if name == split else None for name in ("batch", "M")]), jax.P(), jax.P()
    operands = [
        jax.device_put(x, jax.NamedSharding(mesh, s))
        for x, s in zip((a, b, bias), specs, strict=True)
    ]
    before = nvs.cache.info().unpinned
    program = jax.jit(lambda *x: plan(*x)).lower(*operands).compile()
    text = program.as_text()
    assert text.count(f'custom_call_target="{lowering.TARGET}"') == 1
    assert not re.search(COLLECTIVES, text)
    z = oracle.product(a, b, bias=bias)
    for _ in range(3):
        r = program(*operands)
        assert len(r.d.addressable_shards) == 2
        assert len({str(shard.index) for shard in r.d.addressable_shards}) == 2
        assert np.allclose(r.d, oracle.gelu(z), atol=1e-3)
        assert np.allclose(r.gelu_aux, z, atol=1e-3)
    assert nvs.cache.info().unpinned == before + 2 * pinned  # each device has half of its problem


# Memory


def poison():
    """Leave NaN in the memory that XLA gives out next."""
    jax.block_until_ready([jnp.full((1 << 20,), jnp.nan, "float32") for _ in range(64)])


def test_a_poisoned_workspace_does_not_reach_results(rng):
    a, b = (
        put(oracle.random(rng, (64, 8192), "float32")),
        put(oracle.random(rng, (8192, 64), "float32")),
    )
    plan = nvs.matmul.plan(a, b)
    split = [x for x in plan.algorithms if x.workspace_bytes]
    assert split
    exact, size = oracle.product(a, b), oracle.product(a, b, absolute=True)
    for algorithm in split:
        pinned = plan.with_algorithm(algorithm)
        for _ in range(3):
            poison()
            check(pinned(a, b), exact, size, 8192)


@pytest.mark.parametrize("epilog", ["drelu", "dgelu", "drelu_bgrad", "dgelu_bgrad"])
def test_the_padding_of_an_aux_does_not_reach_results(rng, epilog):
    a, b = (put(oracle.random(rng, s, "float32")) for s in ((24, 32), (32, 33)))
    z = oracle.random(rng, (24, 33), "float32")
    if "relu" in epilog:
        aux = oracle.mask(z)
        dirty = aux | (oracle.mask(np.ones((24, 128))) & ~oracle.mask(np.ones((24, 33))))
    else:
        aux = np.pad(z, [(0, 0), (0, 7)])
        dirty = np.pad(z, [(0, 0), (0, 7)], constant_values=np.nan)
    assert not np.array_equal(aux, dirty)
    name = "relu_aux" if "relu" in epilog else "gelu_aux"
    plan = nvs.matmul.plan(a, b, epilog=epilog, **{name: put(aux)})
    clean, other = (jax.tree.leaves(plan(a, b, put(x))) for x in (aux, dirty))
    for x, y in zip(clean, other, strict=True):
        assert np.isfinite(x).all()
        assert np.array_equal(x, y)


def test_slices_at_addresses_of_16_bytes(rng):
    a, b = oracle.random(rng, (33, 40), "float32"), oracle.random(rng, (40, 24), "float32")
    padded = put(np.concatenate([np.zeros(4, "float32"), a.ravel()]))

    @jax.jit
    def run(x, b):
        return nvs.matmul.matmul(x[4:].reshape(33, 40), b)

    assert np.allclose(run(padded, put(b)), a @ b, atol=1e-4)


@pytest.mark.parametrize("elements", [4, 1])
def test_slices_of_other_libraries(rng, elements):
    """At multiples of 16 bytes, as our plans count on, and of 4."""
    cupy = pytest.importorskip("cupy")
    a, b = oracle.random(rng, (33, 40), "float32"), oracle.random(rng, (40, 24), "float32")
    memory = cupy.zeros(33 * 40 + elements, "float32")
    lent = memory[elements:].reshape(33, 40)
    lent[...] = cupy.asarray(a)
    cupy.cuda.runtime.deviceSynchronize()
    assert lent.data.ptr % 256 == 4 * elements
    x, bias = jax.dlpack.from_dlpack(lent), put(oracle.random(rng, (24,), "float32"))
    shared = x.unsafe_buffer_pointer() == lent.data.ptr
    print(f"a slice at {lent.data.ptr % 256} bytes:", "as it lies" if shared else "a copy")
    plan = nvs.matmul.plan(x, put(b), bias=bias, epilog="bias")
    if shared and elements == 1:
        with pytest.raises(jax.errors.JaxRuntimeError, match=r"multiple of|lies at an address"):
            jax.block_until_ready(plan(x, put(b), bias))
        return
    assert np.allclose(plan(x, put(b), bias), a @ b + np.asarray(bias), atol=1e-4)


def test_nothing_is_left_of_a_thousand_plans():
    device = jax.devices("cuda")[0]

    def one(n):  # members: each number another plan and program
        a, b = put(np.full((n, 8, 8), 2, "float32")), put(np.ones((n, 8, 8), "float32"))
        plan = nvs.matmul.plan(a, b)
        assert (np.asarray(plan(a, b)) == 16).all()
        nvs.free(plan)

    def rounds(extents):
        for n in extents:
            one(n)
        gc.collect()
        stats = device.memory_stats()["bytes_in_use"], len(device.client.live_executables())
        return free_bytes(), *stats, nvs.cache.info().held

    before = rounds(range(2, 52))
    after = rounds(range(52, 1052))
    print(f"{before[0] - after[0]} bytes more after 1000 plans; {before[1:]}, {after[1:]}")
    assert before[0] - after[0] < 8 << 20
    assert after[1] <= before[1]
    assert after[2] <= before[2]
    assert after[3] <= before[3]
    assert nvs.cache.info().recent <= nvs.cache.info().limit


def test_no_warning_is_raised_by_autotune(rng):
    plan, a, b = tuned_operands(rng, (256, 256, 256), "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nvs.autotune(plan, a, b)


def test_one_export_runs_here(rng):
    a, b = (oracle.random(rng, s, "float32") for s in ((16, 32), (32, 24)))
    types = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (a, b)]
    plan = nvs.matmul.plan(*types)
    exported = jax.export.export(
        jax.jit(plan), platforms=("cpu", "cuda"), disabled_checks=nvs.disabled_checks()
    )(*types)
    restored = jax.export.deserialize(exported.serialize())
    for device in (jax.devices("cuda")[0], jax.devices("cpu")[0]):
        got = restored.call(*(jax.device_put(x, device) for x in (a, b)))
        assert np.allclose(got, a @ b, atol=1e-4)
