"""Each row of the table of types, and each pair that it has not."""

import itertools

import ml_dtypes
import numpy as np
import pytest

import nvstate as nvs
from nvstate.matmul import support, table
from tests.matmul import oracle

E4M3, E5M2, E2M1 = table.E4M3, table.E5M2, table.E2M1
PAIRS = [(t, t) for t in ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")]
PAIRS += [(E4M3, E4M3), (E4M3, E5M2), (E5M2, E4M3), ("int8", "int8"), (E2M1, E2M1)]


def rows():
    """(a, b, compute, scale, result) of the table."""
    for a, b in PAIRS:
        for compute in table.compute_types(a, b):
            for scale in table.scale_types(a, compute):
                for result in table.result_types(a, b, compute, scale, None):
                    yield a, b, compute, scale, result


def row(rng, a, b, compute, scale, result, c=None):
    """The result of a row, the exact one, and the magnitude that the error goes with."""
    m, n, k = (128, 128, 128) if a == E2M1 else (16, 32, 48)
    x, y = oracle.random(rng, (m, k), a), oracle.random(rng, (n, k), b)
    given, factor = {}, 1.0
    if a in table.FP8:
        given = {"scale_a": np.float32(0.5), "scale_b": np.float32(0.25)}
        factor = 0.125
    if a == E2M1:
        ones = np.asarray(nvs.matmul.scaling.constant_scales("nvfp4", m, k, 0.5))
        given, factor = {"scale_a": ones, "scale_b": ones}, 0.25
    if result in table.FP8:
        given["scale_d"] = np.float32(2.0)
    arguments = [x, y]
    if c is not None:
        arguments.append(oracle.random(rng, (m, n), c))
        given["beta"] = 2.0
    if (a, scale) == ("int8", "float32"):
        given["alpha"] = 0.125
    got = nvs.matmul.matmul(
        *arguments, compute_type=compute, scale_type=scale, result_dtype=result,
        transpose_b=True, **given,
    )  # fmt: skip
    said = {"alpha": given.get("alpha", 1.0), "beta": given.get("beta"), "scale": factor}
    exact = oracle.product(*arguments, transpose_b=True, **said)
    size = oracle.product(*arguments, transpose_b=True, absolute=True, **said)
    return got, exact * (2 if result in table.FP8 else 1), size * 2, k


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_every_row(rng, a, b):
    found = [r for r in rows() if r[:2] == (a, b)]
    assert len(found) >= 1
    for _, _, compute, scale, result in found:
        got, exact, size, k = row(rng, a, b, compute, scale, result)
        if isinstance(got, nvs.matmul.MatmulResult):  # of block scaling: the scales of D
            d = np.asarray(nvs.matmul.scaling.dequantize(got.d, got.d_out_scale, "nvfp4"))
            assert np.abs(d - exact).max() < 0.3 * np.abs(exact).max()
            continue
        assert str(got.dtype) == result
        if result in table.FP8:
            exact = oracle.wide(oracle.rounded(exact, result))
        if result == "int8":
            exact = np.clip(np.round(exact), -128, 127)
        ok, worst = oracle.near(got, exact, size, k, compute)
        assert ok, f"{compute}, {scale}, {result}: {worst}"


@pytest.mark.parametrize(("a", "b"), [(E4M3, E4M3), (E4M3, E5M2), (E5M2, E4M3)])
def test_every_c_and_result_of_fp8(rng, a, b):
    count = 0
    for c in table.c_types(a):
        for result in table.result_types(a, b, "float32", "float32", c):
            got, exact, size, k = row(rng, a, b, "float32", "float32", result, c)
            exact = oracle.wide(oracle.rounded(exact, result)) if result in table.FP8 else exact
            ok, worst = oracle.near(got, exact, size, k)
            assert ok, f"{c}, {result}: {worst}"
            count += 1
    assert count == (5 if (a, b) == (E4M3, E4M3) else 7)


def test_every_other_pair_is_refused():
    names = {t for pair in PAIRS for t in pair}
    refused = 0
    for a, b in itertools.product(names, names):
        if (a, b) in PAIRS:
            continue
        with pytest.raises(nvs.errors.SpecError, match="no product of"):
            nvs.matmul.spec(np.zeros((128, 128), a), np.zeros((128, 128), b))
        refused += 1
    assert refused == len(names) ** 2 - len(PAIRS)


def test_every_other_compute_type_is_refused():
    every = {c for computes in table.COMPUTE.values() for c in computes}
    for a, b in PAIRS:
        x, y = np.zeros((128, 128), a), np.zeros((128, 128), b)
        for compute in every - set(table.compute_types(a, b)):
            with pytest.raises(nvs.errors.SpecError, match=f'`compute_type="{compute}"`'):
                nvs.matmul.spec(x, y, compute_type=compute)


def test_float16_sums_have_a_float16_scale():
    x = np.ones((4, 4), "float16")
    spec = nvs.matmul.spec(x, x, compute_type="float16")
    assert spec.scale_type == "float16"
    with pytest.raises(nvs.errors.SpecError, match='`scale_type="float32"` with'):
        nvs.matmul.spec(x, x, compute_type="float16", scale_type="float32")


def test_int8_is_exact_and_saturates(rng):
    a = rng.integers(-128, 128, (8, 64)).astype("int8")
    b = rng.integers(-128, 128, (64, 12)).astype("int8")
    exact = a.astype(np.int64) @ b
    assert (nvs.matmul.matmul(a, b) == exact).all()
    c = rng.integers(-1000, 1000, (8, 12)).astype("int32")
    assert (nvs.matmul.matmul(a, b, c, beta=1) == exact + c).all()
    got = nvs.matmul.matmul(a, b, scale_type="float32", alpha=2.0**-6)
    assert (got == np.clip(np.round(exact * 2.0**-6), -128, 127)).all()


def needs(spec, at, version=130100):
    """What `plan` would say on such a device."""
    with pytest.raises(nvs.errors.UnsupportedError) as raised:
        support.require(spec, at, version)
    return str(raised.value)


def narrow(mode, dtype=E4M3, **flags):
    """A spec of two operands that are scaled so."""
    x = np.zeros((128, 128), ml_dtypes.float4_e2m1fn if mode == "nvfp4" else dtype)
    pair = mode if isinstance(mode, tuple) else (mode, mode)
    made = [nvs.matmul.scaling.constant_scales(one, 128, 128) for one in pair]
    scales = dict(zip(("scale_a", "scale_b"), made, strict=True))
    return nvs.matmul.spec(x, x, block_scaling=mode, **{"transpose_b": True, **flags}, **scales)


def test_devices_and_versions():
    for mode in ("mxfp8", "nvfp4"):
        assert f'"{mode}" scaling on this device' in needs(narrow(mode), (9, 0))
        assert "compute capability 10.0 or newer\n  got:      9.0" in needs(narrow(mode), (9, 0))
        support.require(narrow(mode), (10, 0), 120800)
    blocks = narrow(("1x128", "128x128"))
    assert "9.0 or newer, below 10.0\n  got:      10.0" in needs(blocks, (10, 0))
    assert "expected: cuBLASLt 12.9.0\n  got:      12.8.4" in needs(blocks, (9, 0), 120804)
    support.require(blocks, (9, 0), 120900)
    assert '"tensor" scaling on this device' in needs(narrow("tensor"), (8, 0))
    x = np.zeros((4, 4), "float32")
    emulated = nvs.matmul.spec(x, x, compute_type="float32_emulated_bf16x9")
    assert "needs a newer cuBLASLt" in needs(emulated, (10, 0), 120800)


def test_versions_of_epilogs():
    half = np.zeros((16, 16), E4M3)
    one = np.ones((), "float32")
    fp8 = nvs.matmul.spec(
        half, half, transpose_b=True, epilog="gelu_aux", aux_dtype="float16", scale_a=one,
        scale_b=one,
    )  # fmt: skip
    assert needs(fp8, (9, 0), 120703).count("12.8.0") == 1
    x = np.zeros((4, 1), "float32")
    for epilog in ("bgrada", "bgradb"):
        thin = nvs.matmul.spec(x, x.T.copy(), epilog=epilog)
        said = needs(thin, (9, 0), 120303)
        assert f'K = 1 with epilog "{epilog}" needs a newer cuBLASLt' in said
        assert "expected: cuBLASLt 12.3.4\n  got:      12.3.3" in said
        support.require(thin, (9, 0), 120304)
    a, b, bias = np.zeros((4, 8), "float32"), np.zeros((8, 1), "float32"), np.zeros(1, "float32")
    for shape, refused in (((1, 1), True), ((1,), True), ((), True), ((4, 1), False)):
        c = np.zeros(shape, "float32")
        spec = nvs.matmul.spec(a, b, c, beta=1.0, bias=bias, epilog="relu_bias")
        given = nvs.matmul.plan(a, b, c, beta=1.0, bias=bias, epilog="relu_bias").operands["c"]
        if refused:
            with pytest.raises(nvs.errors.UnsupportedError, match="N = 1 with a broadcast `c`"):
                support.require(spec, (9, 0), 120803, given)
        support.require(spec, (9, 0), 120804 if refused else 120803, given)
    double = np.zeros((4, 4))
    emulated = nvs.matmul.spec(double, double, compute_type="float64_emulated_fixedpoint")
    assert "cuBLASLt 13.2.0\n  got:      13.1.0" in needs(emulated, (10, 0))


def test_k_is_innermost_where_it_must_be():
    for flags, name, do in (
        ({"transpose_b": False}, "`b`", "Pass `b.mT` with `transpose_b=True`"),
        ({"transpose_a": True}, "`a`", "Pass `a.mT` as `a`"),
    ):
        spec = narrow("tensor", **flags)
        said = needs(spec, (9, 0))
        assert f"K is not innermost in {name}" in said
        assert do in said
        support.require(spec, (10, 0), 130100)
    x = np.zeros((8, 8), "int8")
    assert "`b.mT`" in needs(nvs.matmul.spec(x, x), (9, 0))
    odd = nvs.matmul.spec(np.zeros((8, 6), "int8"), np.zeros((8, 6), "int8"), transpose_b=True)
    assert "K and N multiples of 4" in needs(odd, (9, 0))
