"""Products against NumPy in wider precision: layouts, batches, C, α and β, each way to round."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvstate as nvs
from tests.matmul import oracle

DTYPES = ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"]


def check(got, a, b, c=None, compute="float32", extra=0.0, **problem):
    """Each element within the bound of its product."""
    exact = oracle.applied(oracle.product(a, b, c, **problem), problem.get("epilog"))
    size = oracle.product(a, b, c, absolute=True, **problem)
    if np.asarray(got).dtype.kind in "fc" and np.asarray(a).dtype.char in "dD":
        compute = "float64"
    k = np.shape(a)[-2 if problem.get("transpose_a") and np.ndim(a) > 1 else -1]
    ok, worst = oracle.near(np.asarray(got), exact, size, k, compute, extra=extra)
    assert ok, worst


FLAGS = list(itertools.product([False, True], repeat=2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_transposes_and_conjugates_are_flags(rng, dtype):
    m, n, k = 7, 9, 16
    for (ta, tb), (ca, cb) in itertools.product(FLAGS, FLAGS if "complex" in dtype else FLAGS[:1]):
        a = oracle.random(rng, (k, m) if ta else (m, k), dtype)
        b = oracle.random(rng, (n, k) if tb else (k, n), dtype)
        flags = {"transpose_a": ta, "transpose_b": tb, "conjugate_a": ca, "conjugate_b": cb}
        check(nvs.matmul.matmul(a, b, **flags), a, b, **flags)


@pytest.mark.parametrize("kind", ["scaled", "adverse"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bound_holds_for_operands_that_are_hard(rng, dtype, kind):
    a, b = oracle.random(rng, (33, 129), dtype, kind), oracle.random(rng, (129, 17), dtype, kind)
    check(nvs.matmul.matmul(a, b), a, b)


@pytest.mark.parametrize("dtype", [*DTYPES, "int8"])
@pytest.mark.parametrize("epilog", [None, "relu_bias"])
def test_small_integers_are_exact(rng, dtype, epilog):
    if epilog and ("complex" in dtype or dtype == "int8"):
        epilog = None
    a, b = (oracle.random(rng, s, dtype, "integers") for s in ((9, 33), (33, 12)))
    arrays = {"bias": oracle.random(rng, (12,), dtype, "integers")} if epilog else {}
    got = nvs.matmul.matmul(a, b, epilog=epilog, **arrays)
    exact = oracle.applied(oracle.product(a, b, **arrays), epilog)
    assert (oracle.wide(got) == exact).all()


@pytest.mark.parametrize("m", [0, 1, 2, 8, 129])
def test_extents(rng, m):
    for n, k in itertools.product([0, 1, 7, 16], [0, 1, 2, 33]):
        a, b = oracle.random(rng, (m, k), "float32"), oracle.random(rng, (k, n), "float32")
        bias = oracle.random(rng, (n,), "float32")
        got = nvs.matmul.matmul(a, b, bias=bias, epilog="bias")
        check(got, a, b, bias=bias)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((2, 1), (1, 7)),
        ((3,), ()),
        ((), (3,)),
        ((1,), (4,)),
        ((2, 3), (3,)),
        ((2, 1, 3), (5, 1)),
        ((0,), (1,)),
    ],
)
def test_batches_broadcast_as_numpys(rng, left, right):
    a = oracle.random(rng, (*left, 4, 6), "float32")
    b = oracle.random(rng, (*right, 5, 6), "float32")
    check(nvs.matmul.matmul(a, b, transpose_b=True), a, b, transpose_b=True)


@pytest.mark.parametrize("batch", [(2,), (3, 2), (1,)])
@pytest.mark.parametrize("turned", FLAGS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_batches_of_b_alone(rng, dtype, turned, batch):
    # Of a transposed bfloat16 `a`, or a derivative that transposes it, XLA's CPUs have no such dot.
    ta, tb = turned
    a = jnp.asarray(oracle.random(rng, (8, 5) if ta else (5, 8), dtype))
    b = jnp.asarray(oracle.random(rng, (*batch, *((6, 8) if tb else (8, 6))), dtype))
    flags = {"transpose_a": ta, "transpose_b": tb}
    y, back = jax.vjp(lambda a, b: nvs.matmul.matmul(a, b, **flags), a, b)
    check(y, a, b, **flags)
    ct = jnp.asarray(oracle.random(rng, y.shape, dtype))
    ct_b = oracle.product(a, ct, transpose_a=not ta)
    got = back(ct)[1]
    want = np.swapaxes(ct_b, -1, -2) if tb else ct_b
    assert np.allclose(oracle.wide(got), want, rtol=1e-2, atol=1e-2)


def test_operands_of_one_axis(rng):
    a, b, v, w = (oracle.random(rng, s, "float64") for s in ((3, 4, 6), (6, 5), (6,), (5,)))
    check(nvs.matmul.matmul(v, b), v, b)
    check(nvs.matmul.matmul(a, v), a, v)
    check(nvs.matmul.matmul(v, v), v, v)
    # A bias goes with N, which is one here: a known bug elsewhere.
    got = nvs.matmul.matmul(v, b, bias=w, epilog="relu_bias")
    assert np.allclose(got, np.maximum(v @ b + w, 0))
    one = oracle.random(rng, (1,), "float64")
    assert np.allclose(nvs.matmul.matmul(a, v, bias=one, epilog="bias"), a @ v + one)
    c = oracle.random(rng, (5,), "float64")
    assert np.allclose(nvs.matmul.matmul(v, b, c, beta=2.0), v @ b + 2 * c)
    c = oracle.random(rng, (3, 4), "float64")
    assert np.allclose(nvs.matmul.matmul(a, v, c, beta=2.0), a @ v + 2 * c)


@pytest.mark.parametrize(
    "shape", [(2, 4, 5), (1, 4, 5), (4, 5), (5,), (1, 5), (4, 1), (2, 1, 5), (2, 4, 1), ()]
)
def test_c_is_whatever_broadcasts(rng, shape):
    a, b, c = (oracle.random(rng, s, "float32") for s in ((2, 4, 6), (6, 5), shape))
    check(nvs.matmul.matmul(a, b, c, alpha=0.5, beta=-3.0), a, b, c, alpha=0.5, beta=-3.0)


def test_alpha_scales_neither_c_nor_bias(rng):
    a, b, c = (oracle.random(rng, s, "float64") for s in ((8, 8), (8, 8), (8, 8)))
    bias = np.arange(8.0)  # distinct, on a square: along N, not along M
    got = nvs.matmul.matmul(a, b, c, alpha=3.0, beta=1.0, bias=bias, epilog="bias")
    assert np.allclose(got, 3 * (a @ b) + c + bias)


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float16"])
def test_alpha_and_beta_are_numbers_or_arrays(rng, dtype):
    a, b, c = (oracle.random(rng, s, dtype) for s in ((4, 6), (6, 5), (4, 5)))
    scale = "complex64" if dtype == "complex64" else "float32"
    fixed = nvs.matmul.matmul(a, b, c, alpha=0.5, beta=2.0)
    plan = nvs.matmul.plan(a, b, c, alpha=np.zeros((), scale), beta=np.zeros((), scale))
    assert plan.spec.names == ("a", "b", "c", "alpha", "beta")
    half, two = np.full((), 0.5, scale), np.full((), 2, scale)
    assert (plan(a, b, c, alpha=half, beta=two) == fixed).all()
    bound = nvs.bind(plan, a=a, b=b, c=c, alpha=half, beta=two)
    zero = nvs.execute(nvs.reset(bound, beta=np.zeros((), scale)))
    assert np.allclose(zero, nvs.matmul.matmul(a, b, alpha=0.5), rtol=1e-6)


@pytest.mark.parametrize("beta", [0.0, np.zeros((), "float32")])
def test_c_is_not_read_where_beta_is_zero(rng, beta):
    a, b = oracle.random(rng, (4, 6), "float32"), oracle.random(rng, (6, 5), "float32")
    c = np.full((4, 5), np.nan, "float32")
    assert (nvs.matmul.matmul(a, b, c, beta=beta) == nvs.matmul.matmul(a, b)).all()


def test_in_place_into_numpys_c(rng):
    a, b, c = (oracle.random(rng, s, "float32") for s in ((2, 4, 6), (6, 5), (2, 4, 5)))
    want = a @ b - c
    plan = nvs.matmul.plan(a, b, c, beta=-1.0, epilog="relu_aux", inplace=True)
    r = plan(a, b, c)
    assert r.d is c
    assert np.allclose(c, np.maximum(want, 0), atol=1e-5)
    assert (oracle.bits(r.relu_aux, 5) == (want > 0)).all()


def test_in_place_consumes_jaxs_c(rng):
    a, b, c = (jnp.asarray(oracle.random(rng, s, "float32")) for s in ((4, 6), (6, 5), (4, 5)))
    want = np.asarray(a @ b + c)
    bound = nvs.bind(nvs.matmul.plan(a, b, c, beta=1.0, inplace=True), a=a, b=b, c=c)
    assert np.allclose(nvs.execute(bound), want, atol=1e-5)
    assert c.is_deleted()
    with pytest.raises(nvs.errors.OperandError, match="`c` was consumed"):
        nvs.execute(bound)


def test_float32_means_float32(rng):
    a, b = (oracle.random(rng, (64, 64), "float32") for _ in range(2))
    with jax.default_matmul_precision("bfloat16"):
        got = jax.jit(lambda a, b: nvs.matmul.matmul(a, b))(a, b)
    error = np.linalg.norm(got - a.astype("float64") @ b) / np.linalg.norm(got)
    assert error < 1e-6  # TF32's is 3e-4
    said = repr(nvs.matmul.plan(a, b, compute_type="tf32"))
    assert "tf32" in said


def test_half_precision_is_summed_in_float32():
    a = np.ones((1, 4096), "float16")
    b = np.full((4096, 1), 2.0**-12, "float16")
    b[0] = 1024
    assert nvs.matmul.matmul(a, b)[0, 0] == np.float16(1025)


def test_overlapping_views_are_refused_not_clamped(rng):
    x = oracle.random(rng, (8, 8), "float32")
    views = [x[::2], x[:, ::-1], np.lib.stride_tricks.sliding_window_view(x, (4, 8))[:, 0]]
    views.append(np.broadcast_to(x[:1], (8, 8)))
    for view in views:
        with pytest.raises(nvs.errors.OperandError, match=r"(?s)not contiguous.*strides.*ascontig"):
            nvs.matmul.matmul(view, x)
    plan = nvs.matmul.plan(x, x)
    with pytest.raises(nvs.errors.OperandError, match="operand `b` is not contiguous"):
        plan(x, x.T)
    with pytest.raises(nvs.errors.OperandError, match="operand `b` is not contiguous"):
        nvs.bind(plan, a=x, b=x.T)
