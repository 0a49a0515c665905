"""Scales and quantisation: layouts by their formulas, values by ml_dtypes, products by NumPy."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import nvstate as nvs
from nvstate.matmul import scaling, table
from tests.matmul import oracle

MODES = ["tensor", "outer", "1x128", "128x128", "mxfp8", "nvfp4"]
WIDTH = {"1x128": 128, "128x128": 128, "mxfp8": 32, "nvfp4": 16}


def block_of(mode, row, column):
    """The natural index of an element's scale."""
    if mode == "tensor":
        return ()
    if mode == "outer":
        return (row,)
    return (row // 128 if mode == "128x128" else row, column // WIDTH[mode])


def natural(mode, rows, k):
    """The shape of scales by block."""
    last = block_of(mode, rows - 1, k - 1)
    return tuple(i + 1 for i in last)


def expanded(mode, scales, rows, k):
    """The scale of each element."""
    index = block_of(mode, *np.indices((rows, k)))
    return np.broadcast_to(oracle.wide(scales)[index], (rows, k))


@pytest.mark.parametrize("mode", MODES)
def test_each_scale_has_its_offset(mode):
    rows, k = 256, 640  # ⌈K/128⌉ = 5, which the library pads to 8
    shape = natural(mode, rows, k)
    numbers = np.arange(1, int(np.prod(shape)) + 1, dtype="float32").reshape(shape)
    packed = np.asarray(scaling.pack_scales(numbers, mode)).ravel()
    offsets = set()
    for index in np.ndindex(*shape):
        row, block = (*index, 0, 0)[:2]
        offset = scaling.scale_offset(row, block, mode, rows, k)
        assert packed[offset] == numbers[index]
        offsets.add(offset)
    assert len(offsets) == numbers.size
    back = scaling.unpack_scales(scaling.pack_scales(numbers, mode), mode, rows, k)
    assert (np.asarray(back) == numbers).all()
    assert scaling.constant_scales(mode, rows, k).shape == scaling.pack_scales(numbers, mode).shape


def test_tiles_of_128_by_4():
    # Row r and block c of a tile are at 16 (r mod 32) + 4 (r div 32) + c, as cuBLAS says.
    for row, block, want in [(0, 0, 0), (1, 0, 16), (31, 3, 499), (32, 0, 4), (127, 3, 511)]:
        assert scaling.scale_offset(row, block, "mxfp8", 256, 256) == want
    assert scaling.scale_offset(0, 4, "mxfp8", 256, 256) == 512
    assert scaling.scale_offset(128, 0, "mxfp8", 256, 256) == 1024


@pytest.mark.parametrize("mode", MODES)
def test_quantisation_is_exact_where_it_can_be(rng, mode):
    dtype = table.E2M1 if mode == "nvfp4" else table.E4M3
    greatest = float(ml_dtypes.finfo(dtype).max)
    rows, k = 256, 256
    codes = np.asarray([0, 0.5, 1, 1.5, 2, 3, 4, 6]) * rng.choice([-1, 1], (rows, k, 1))
    q = np.take_along_axis(codes, rng.integers(0, 8, (rows, k, 1)), 2)[..., 0]
    q[::1, :: WIDTH.get(mode, 16)] = greatest  # in each block
    scales = 2.0 ** rng.integers(-3, 4, natural(mode, rows, k))
    x = q * expanded(mode, scales, rows, k)
    got, packed = scaling.quantize(x, mode)
    assert str(got.dtype) == dtype
    assert (oracle.wide(got) == q).all()
    assert (oracle.wide(scaling.unpack_scales(packed, mode, rows, k)) == scales).all()
    assert (oracle.wide(scaling.dequantize(got, packed, mode)) == x).all()
    # Batches too, one by one.
    if mode != "tensor":
        both, several = scaling.quantize(np.stack([x, 2 * x]), mode)
        assert (oracle.wide(both[0]) == q).all()
        assert (oracle.wide(several[1]) == 2 * oracle.wide(packed)).all() or mode == "128x128"


@pytest.mark.parametrize("mode", MODES)
def test_quantisation_rounds_to_the_nearest(rng, mode):
    dtype = table.E2M1 if mode == "nvfp4" else table.E4M3
    x = (rng.standard_normal((128, 384)) * 10.0 ** rng.integers(-2, 3, (128, 1))).astype("float32")
    q, packed = scaling.quantize(x, mode)
    own = scaling.unpack_scales(packed, mode, 128, 384)
    factor = expanded(mode, own, 128, 384).astype("float32")
    assert (oracle.wide(q) == oracle.wide(oracle.rounded(x / factor, dtype))).all()
    assert np.isfinite(oracle.wide(q)).all()
    if mode == "mxfp8":  # a power of two that nothing overflows, and no larger than that needs
        quotient = np.abs(x).reshape(128, -1, 32).max(-1) / 448
        assert (oracle.wide(own) >= quotient).all()
        assert (oracle.wide(own) < 2 * quotient).all()


def test_zeros_and_overflow():
    for mode in ("tensor", "128x128", "mxfp8", "nvfp4"):
        q, packed = scaling.quantize(np.zeros((128, 128), "float32"), mode)
        assert (oracle.wide(q) == 0).all()
        scales = oracle.wide(scaling.unpack_scales(packed, mode, 128, 128))
        assert (scales == 1).all()
    big = scaling.saturated(jnp.asarray([1e9, -1e9, 449.0]), table.E4M3)
    assert (oracle.wide(big) == [448, -448, 448]).all()
    big = scaling.saturated(jnp.asarray([1e9, -1e9]), table.E5M2)
    assert (oracle.wide(big) == [57344, -57344]).all()
    inverse = scaling.invert_scales(scaling.constant_scales("mxfp8", 128, 128, 8.0))
    assert (oracle.wide(inverse) == 0.125).all()


PAIRS = [("tensor", "tensor"), ("outer", "outer"), ("1x128", "1x128"), ("1x128", "128x128")]
PAIRS += [("128x128", "1x128"), ("mxfp8", "mxfp8"), ("nvfp4", "nvfp4")]


def scaled_operands(rng, m, n, k, modes):
    """Operands of a product, their scales, and what they stand for; all scales differ."""
    found = []
    for rows, mode in zip((m, n), modes, strict=True):
        dtype = table.E2M1 if mode == "nvfp4" else table.E4M3
        q = oracle.random(rng, (rows, k), dtype)
        shape = natural(mode, rows, k)
        scales = np.asarray(2.0 ** rng.integers(-2, 3, shape) * (1 + rng.integers(0, 8, shape) / 8))
        if mode == "mxfp8":
            scales = 2.0 ** rng.integers(-3, 4, shape)
        scales = scales.astype(scaling.dtype_of(mode))
        packed = np.asarray(scaling.pack_scales(scales, mode))
        found.append((q, packed, oracle.wide(q) * expanded(mode, scales, rows, k)))
    return found


@pytest.mark.parametrize("modes", PAIRS)
def test_products_with_scales(rng, modes):
    m, n, k = 128, 256, 640  # ⌈K/128⌉ = 5 is no multiple of 4: padded scales
    (a, sa, wide_a), (b, sb, wide_b) = scaled_operands(rng, m, n, k, modes)
    plan = nvs.matmul.plan(
        a, b, scale_a=sa, scale_b=sb, block_scaling=modes, transpose_b=True, result_dtype="float32"
    )
    got = plan(a, b, scale_a=sa, scale_b=sb)
    ok, worst = oracle.near(got, wide_a @ wide_b.T, np.abs(wide_a) @ np.abs(wide_b.T), k)
    assert ok, worst
    assert plan.operands["scale_a"].shape == sa.shape


@pytest.mark.parametrize("mode", ["mxfp8", "nvfp4"])
def test_a_narrow_result_comes_with_its_scales(rng, mode):
    (a, sa, wide_a), (b, sb, wide_b) = scaled_operands(rng, 128, 128, 128, (mode, mode))
    dtype = str(a.dtype)
    r = nvs.matmul.matmul(
        a, b, scale_a=sa, scale_b=sb, block_scaling=mode, transpose_b=True, result_dtype=dtype
    )
    assert str(r.d.dtype) == dtype
    got = oracle.wide(scaling.dequantize(r.d, r.d_out_scale, mode))
    want = wide_a @ wide_b.T
    step = {"mxfp8": 2.0**-4, "nvfp4": 2.0**-1}[mode]  # of the largest of a block
    blocks = np.abs(want).reshape(128, -1, WIDTH[mode]).max(-1).repeat(WIDTH[mode], -1)
    assert (np.abs(got - want) <= step * blocks).all()


@pytest.mark.parametrize("epilog", [None, "relu", "gelu_bias"])
def test_maxima_come_before_scale_and_rounding(rng, epilog):
    a, b = (oracle.random(rng, s, table.E4M3) for s in ((16, 32), (48, 32)))
    bias = {"bias": oracle.random(rng, (48,), "bfloat16")} if epilog == "gelu_bias" else {}
    r = nvs.matmul.matmul(
        a, b, scale_a=0.5, scale_b=2.0, scale_d=64.0, transpose_b=True, epilog=epilog,
        result_dtype=table.E4M3, result_amax=True, **bias,
    )  # fmt: skip
    value = oracle.applied(oracle.product(a, b, transpose_b=True, **bias), epilog)
    assert np.allclose(r.result_amax, np.abs(value).max(), rtol=1e-5)
    want = oracle.wide(oracle.rounded(64 * value, table.E4M3))
    assert (np.abs(want) == 448).any()  # it saturates
    close = np.abs(oracle.wide(r.d) - want) <= np.abs(want) / 8 + 2.0**-9
    assert close.all()


def test_a_narrow_aux_has_a_scale_and_a_maximum(rng):
    a, b = (oracle.random(rng, s, table.E4M3) for s in ((16, 32), (48, 32)))
    r = nvs.matmul.matmul(
        a, b, scale_a=1.0, scale_b=1.0, scale_aux=4.0, transpose_b=True, epilog="gelu_aux",
        aux_dtype=table.E4M3, aux_amax=True,
    )  # fmt: skip
    z = oracle.product(a, b, transpose_b=True)
    assert np.allclose(r.gelu_aux_amax, np.abs(z).max(), rtol=1e-5)
    want = oracle.wide(oracle.rounded(4 * z, table.E4M3))
    assert (np.abs(oracle.wide(r.gelu_aux)[:, :48] - want) <= np.abs(want) / 8 + 2.0**-9).all()


@pytest.mark.parametrize(("batch", "m", "n"), [((), 0, 16), ((), 16, 0), ((0,), 16, 16)])
def test_the_largest_of_nothing_is_zero(batch, m, n):
    a, b = np.zeros((*batch, m, 32), table.E4M3), np.zeros((n, 32), table.E4M3)
    r = nvs.matmul.matmul(
        a, b, scale_a=1.0, scale_b=1.0, scale_d=1.0, scale_aux=1.0, transpose_b=True,
        result_dtype=table.E4M3, result_amax=True, epilog="gelu_aux", aux_dtype=table.E4M3,
        aux_amax=True,
    )  # fmt: skip
    assert r.d.shape == (*batch, m, n)
    assert (r.result_amax, r.gelu_aux_amax) == (0, 0)


def test_scales_are_numbers_or_arrays_of_one_element(rng):
    a, b = (oracle.random(rng, s, table.E4M3) for s in ((16, 32), (48, 32)))
    want = nvs.matmul.matmul(a, b, scale_a=0.5, scale_b=2.0, transpose_b=True)
    for shape in ((), (1,)):
        half, two = np.full(shape, 0.5, "float32"), np.full(shape, 2, "float32")
        got = nvs.matmul.matmul(a, b, scale_a=half, scale_b=two, transpose_b=True)
        assert (oracle.wide(got) == oracle.wide(want)).all()


def test_derivatives_are_those_of_what_narrow_operands_stand_for(rng):
    a, b = (jnp.asarray(oracle.random(rng, s, table.E4M3)) for s in ((16, 32), (48, 32)))
    half, two = jnp.float32(0.5), jnp.float32(2)
    plan = nvs.matmul.plan(
        *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (a, b)),
        scale_a=jax.ShapeDtypeStruct((), "float32"), scale_b=jax.ShapeDtypeStruct((), "float32"),
        transpose_b=True, result_dtype="float32", epilog="gelu",
    )  # fmt: skip

    def loss(half, two):
        return jnp.sum(plan(a, b, scale_a=half, scale_b=two) ** 2)

    def want(half, two):
        z = half * two * (a.astype("float32") @ b.astype("float32").T)
        return jnp.sum(jax.nn.gelu(z) ** 2)

    got, exact = (jax.jit(jax.grad(f, (0, 1)))(half, two) for f in (loss, want))
    assert np.allclose(got, exact, rtol=1e-4)
    ct = jax.jit(jax.grad(lambda a: jnp.sum(plan(a, b, half, two))))(a)
    assert ct.dtype == a.dtype
