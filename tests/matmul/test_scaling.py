"""Scales and quantisation: layouts by their formulas, values by ml_dtypes, products by NumPy."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import nvstate as nvs
from nvstate.matmul import scaling, table
from tests.matmul import oracle

MODES = ["tensor", "outer", "1x128", "128x128", "mxfp8", "nvfp4"]
ROUNDS_TO_FP4 = functools.partial(pytest.param, marks=pytest.mark.optimized)
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


def numbered(mode, shape):
    """Arrays of scales that tell every place from every other one, all but zero."""
    n = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    if scaling.dtype_of(mode) == "float32":
        return [n.astype("float32") + 1]
    digits = [n % 100, n // 100 % 100, n // 10000]
    return [(d + 1).astype("uint8").view(scaling.dtype_of(mode)) for d in digits]


def codes(x):
    """The bytes of scales; a float32 as it is."""
    x = np.asarray(x)
    return x if x.dtype == "float32" else x.view("uint8")


@pytest.mark.thinned
@pytest.mark.parametrize(("rows", "k"), [(256, 640), (130, 200)])  # ⌈640/128⌉ = 5, padded to 8
@pytest.mark.parametrize("mode", MODES)
def test_each_scale_has_its_offset(mode, rows, k):
    shape = natural(mode, rows, k)
    for numbers in numbered(mode, shape):
        packed = scaling.pack_scales(numbers, mode)
        assert str(packed.dtype) == scaling.dtype_of(mode)
        assert scaling.constant_scales(mode, rows, k).shape == packed.shape
        flat, wanted = codes(packed).ravel(), codes(numbers)
        offsets = set()
        for index in np.ndindex(*shape):
            row, block = (*index, 0, 0)[:2]
            offset = scaling.scale_offset(row, block, mode, rows, k)
            assert flat[offset] == wanted[index]
            offsets.add(offset)
        assert len(offsets) == numbers.size
        assert (np.delete(flat, list(offsets)) == 0).all()  # of E8M0 the least: it has no zero
        back = scaling.unpack_scales(packed, mode, rows, k)
        assert (codes(back) == wanted).all()
        if mode == "tensor":
            continue
        both = scaling.pack_scales(np.stack([numbers, numbers[::-1]]), mode)
        assert (codes(both[0]) == codes(packed)).all()
        again = scaling.unpack_scales(both, mode, rows, k)
        assert (codes(again[1]) == wanted[::-1]).all()
        mapped = jax.jit(jax.vmap(lambda x: scaling.pack_scales(x, mode)))(again)
        assert (codes(mapped) == codes(both)).all()


def test_scales_get_the_dtype_of_their_mode():
    packed = scaling.pack_scales(np.full((128, 4), 0.25), "mxfp8")
    assert (packed.dtype, oracle.wide(packed)[0]) == (scaling.E8M0, 0.25)
    packed = scaling.pack_scales(np.full((128, 4), 0.3), "nvfp4")
    assert (packed.dtype, oracle.wide(packed)[0]) == (table.E4M3, 0.3125)
    assert scaling.pack_scales(0.5, "tensor").dtype == "float32"


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


@pytest.mark.parametrize("mode", [*MODES[:-1], ROUNDS_TO_FP4("nvfp4")])
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


def scales_by_numpy(amax, mode, greatest):
    """The scale of a block by its definition: two, as XLA may multiply with 1 / greatest."""
    if not np.isfinite(amax):
        return np.nan, np.nan
    if amax == 0:
        return 1.0, 1.0
    if mode == "mxfp8":
        fitting = (e for e in range(-126, 128) if np.ldexp(greatest, e) >= amax)
        return (2.0 ** next(fitting),) * 2
    amax, greatest = np.float32(amax), np.float32(greatest)
    quotients = np.stack([amax / greatest, amax * (1 / greatest)])
    if mode == "nvfp4":
        scales = np.minimum(quotients, np.float32(448)).astype(ml_dtypes.float8_e4m3fn)
        return np.maximum(oracle.wide(scales), 2.0**-9)
    return np.maximum(quotients, np.finfo("float32").tiny)


def both_scales(x, mode, dtype):
    """Scales by block, one block after another."""
    greatest = float(ml_dtypes.finfo(dtype).max)
    scales = np.empty((2, *natural(mode, *x.shape)))
    index = [np.broadcast_to(i, x.shape) for i in block_of(mode, *np.indices(x.shape))]
    for block in np.ndindex(*scales.shape[1:]):
        inside = np.ones(x.shape, bool)
        for i, at in zip(index, block, strict=True):
            inside &= i == at
        scales[:, *block] = scales_by_numpy(np.abs(x[inside]).max(), mode, greatest)
    return scales


@pytest.mark.parametrize("of", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize(
    ("mode", "dtype"),
    [(m, t) for m in MODES[:-1] for t in (table.E4M3, table.E5M2)]
    + [ROUNDS_TO_FP4("nvfp4", table.E2M1)],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_quantisation_by_its_definition(rng, mode, dtype, of):
    greatest = float(ml_dtypes.finfo(dtype).max)
    x = rng.standard_normal((35, 200)) * 10.0 ** rng.integers(-3, 3, (35, 1))
    x[1] = 0
    x[2, 40:60] = 0
    x[3, :2] = 1e-36, -1.5e-37
    x[3, 2:] = 0
    x[4] *= 1e30
    edges = [1, 1 + 2.0**-23, 1 - 2.0**-24, 2.0**-12, 2.0**-9 * 0.49, 2.0**-126, 2.0**-140, 448]
    for row, edge in enumerate(edges, 5):  # maxima about where the next scale begins
        x[row] = np.clip(x[row], -1, 1) * greatest * edge / 2
        x[row, 5::16] = greatest * edge
    special = rng.standard_normal((35, 200))
    special[0, 3], special[5, 190], special[9, 66] = np.nan, np.inf, -np.inf
    for values in (x, special):
        x = values.astype(of).astype("float32")
        x[np.abs(x) < np.finfo("float32").tiny] = 0  # XLA's CPUs have none
        got, packed = scaling.quantize(x.astype(of), mode, dtype)
        scales = oracle.wide(scaling.unpack_scales(packed, mode, *x.shape))
        one, other = both_scales(x, mode, dtype)
        assert ((scales == one) | (scales == other) | (np.isnan(scales) & np.isnan(one))).all()
        factor = expanded(mode, scales, *x.shape).astype("float32")
        q, there = oracle.rounded(x / factor, dtype), np.isfinite(factor)
        assert (np.asarray(got).view("uint8") == q.view("uint8"))[there].all()
        back = np.asarray(scaling.dequantize(got, packed, mode))
        assert np.array_equal(back[there], (q.astype("float32") * factor)[there])
        assert np.isnan(back[~there]).all()  # nothing that was infinite looks finite
        assert there.any() or mode == "tensor" or mode == "128x128"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(0, 64), (3, 0), (0, 0), (2, 0, 64)])
def test_nothing_is_quantised_to_nothing(mode, shape):
    q, packed = scaling.quantize(np.zeros(shape, "float32"), mode)
    assert q.shape == shape
    *batch, rows, k = shape if mode != "tensor" else (0, 0)
    assert packed.shape == (*batch, *scaling.packed_shape(mode, rows, k))
    assert scaling.dequantize(q, packed, mode).shape == shape


@pytest.mark.parametrize("mode", MODES)
def test_quantisation_under_jit_and_vmap(rng, mode):
    x = (rng.standard_normal((3, 5, 70)) * 10.0 ** rng.integers(-2, 3, (3, 5, 1))).astype("float32")
    singles = [scaling.quantize(one, mode) for one in x]
    q, scales = jax.jit(jax.vmap(lambda x: scaling.quantize(x, mode)))(x)
    back = jax.vmap(lambda q, s: scaling.dequantize(q, s, mode), (1, 0))(q.swapaxes(0, 1), scales)
    for i, (one, own) in enumerate(singles):
        assert (oracle.wide(q[i]) == oracle.wide(one)).all()
        assert (codes(scales[i]) == codes(own)).all()
        assert (back[i] == scaling.dequantize(one, own, mode)).all()
    if mode != "tensor":
        assert (codes(scaling.quantize(x, mode)[1]) == codes(scales)).all()


@pytest.mark.parametrize("mode", MODES)
def test_quantisation_has_no_derivative_and_dequantisation_its_own(rng, mode):
    x = jnp.asarray(rng.standard_normal((4, 48)) * 1e-3).astype("float32")

    def there_and_back(x):
        return scaling.dequantize(*scaling.quantize(x, mode), mode)

    y, dy = jax.jvp(there_and_back, (x,), (jnp.full_like(x, 10),))
    assert (dy == 0).all()
    assert (jax.grad(lambda x: jnp.sum(there_and_back(x) ** 2))(x) == 0).all()

    def straight_through(x):
        return x + jax.lax.stop_gradient(there_and_back(x) - x)

    assert np.allclose(jax.grad(lambda x: jnp.sum(straight_through(x) ** 2))(x), 2 * y)
    if scaling.dtype_of(mode) == "float32":
        q, scales = scaling.quantize(x, mode)
        wide_q = oracle.wide(q)
        ct = jax.grad(lambda s: jnp.sum(scaling.dequantize(q, s, mode)))(scales)
        want = np.zeros(natural(mode, *x.shape))
        for row, column in np.ndindex(*x.shape):
            want[block_of(mode, row, column)] += wide_q[row, column]
        assert np.allclose(scaling.unpack_scales(ct, mode, *x.shape), want, rtol=1e-5)


@pytest.mark.parametrize("dtype", [table.E4M3, table.E5M2, ROUNDS_TO_FP4(table.E2M1)])
def test_overflow_saturates_and_what_is_no_number_stays_none(rng, dtype):
    greatest = float(ml_dtypes.finfo(dtype).max)
    every = np.arange(256, dtype="uint8").view(ml_dtypes.float8_e4m3fn).astype("float32")
    x = np.concatenate([every, every * 1.03, rng.standard_normal(500) * greatest, [1e9, -1e9]])
    x = x[~np.isnan(x)].astype("float32")
    got = np.asarray(scaling.saturated(jnp.asarray(x), dtype))
    assert (got.view("uint8") == oracle.rounded(x, dtype).view("uint8")).all()
    assert (oracle.wide(got[-2:]) == [greatest, -greatest]).all()
    if dtype != table.E2M1:  # which has no NaN
        assert np.isnan(oracle.wide(scaling.saturated(jnp.asarray(np.nan), dtype)))


def test_inverse_scales():
    every = np.arange(256, dtype="uint8")
    got = np.asarray(scaling.invert_scales(every.view(scaling.E8M0))).view("uint8")
    assert (got == [*range(254, -1, -1), 255]).all()  # 2⁻¹²⁷ … 2¹²⁷, NaN
    x = every.view(ml_dtypes.float8_e4m3fn)
    got = np.asarray(scaling.invert_scales(x))
    own = x.astype("float32")
    with np.errstate(divide="ignore"):
        want = np.where(own == 0, own, np.clip(1 / own, -448, 448)).astype(x.dtype)
    assert np.array_equal(oracle.wide(got), oracle.wide(want), equal_nan=True)
    assert scaling.invert_scales(np.float32([4, 0])).tolist() == [0.25, 0]
    wide = scaling.pack_scales(np.full((1, 5), 8.0), "128x128")
    assert scaling.invert_scales(wide).tolist() == [[0.125] * 5 + [0] * 3]


WRONG = {
    "constants that E8M0 has not": (
        lambda: scaling.constant_scales("mxfp8", 128, 128, 0.0), "no scale of float8_e8m0fnu"
    ),
    "constants too large": (
        lambda: scaling.constant_scales("nvfp4", 128, 64, 1000), "expected: .*at most 448"
    ),
    "a vector": (lambda: scaling.quantize(np.ones(4)), r"got: +float64\[4\]"),
    "integers": (lambda: scaling.quantize(np.ones((4, 4), "int32")), r"got: +int32\[4,4\]"),
    "complex": (lambda: scaling.quantize(np.ones((4, 4), "complex64")), "expected: +real"),
    "natural for packed": (
        lambda: scaling.unpack_scales(np.ones((2, 5)), "128x128", 256, 640),
        r"expected: +\[\.\.\., 2, 8\]",
    ),
    "turned": (
        lambda: scaling.dequantize(np.ones((4, 300)), np.ones((4, 3)), "1x128"), "pack_scales"
    ),
    "many for a tensor": (lambda: scaling.dequantize(np.ones((4, 4)), np.ones(4)), "one element"),
    "no rows": (lambda: scaling.pack_scales(np.ones(4), "mxfp8"), r"rows, blocks"),
    "beyond the rows": (lambda: scaling.scale_offset(128, 0, "mxfp8", 128, 128), "row 128"),
    "beyond K": (lambda: scaling.scale_offset(0, 5, "1x128", 128, 640), "block 5"),
    "before the first": (lambda: scaling.scale_offset(-1, 0, "outer", 128, 640), "row -1"),
    "unknown": (lambda: scaling.pack_scales(np.ones((4, 4)), "1x32"), "unknown scaling mode"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused(name):
    call, said = WRONG[name]
    with pytest.raises(nvs.errors.SpecError, match=f"(?s){said}"):
        call()


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
