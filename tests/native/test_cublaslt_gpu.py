"""Prevents what only a GPU shows: an algorithm that is none, and a product that is another.

`pytest -m gpu -n 0 -s tests/native/test_cublaslt_gpu.py` prints versions and what was found.
"""

import ctypes
import functools
import json
import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from nvstate import _native
from tests.native.matmul_call import EPILOGS, attributes, types

pytestmark = pytest.mark.gpu
MEGABYTES = 1 << 20
TIGHT = 32 * MEGABYTES


def tell(*what):
    print("[cublaslt]", *what, flush=True)


@pytest.fixture(autouse=True, scope="module")
def _registered():
    if not any(d.platform == "gpu" for d in jax.devices()):
        return  # each test is skipped
    _native.register()
    device = jax.devices("cuda")[0]
    tell("device", device.device_kind, "jax", jax.__version__, "l2", _native.cublaslt_l2_bytes(0))
    tell("cuBLASLt", _native.cublaslt_version(), _native.open_library("cublasLt"))


def product(arrays, call, results, workspace=TIGHT, aliases=None, target="matmul", last=()):
    """Run the target on arrays, laid out as the call says; all results but the workspace."""
    layouts = [tuple(call[f"layout_{x}"].tolist()) for x in "abc"[: 2 + call["c"]]]
    layouts += [tuple(range(np.ndim(x))) for x in arrays[len(layouts) :]]
    types = [jax.ShapeDtypeStruct(dims, dtype) for dtype, dims in results]
    if workspace:
        types.append(jax.ShapeDtypeStruct((workspace + 256,), np.uint8))
    types += [jax.ShapeDtypeStruct(dims, dtype) for dtype, dims in last]
    out = [tuple(range(len(t.shape))) for t in types]
    out[1 if target == "autotune" else 0] = tuple(call["layout_d"].tolist())
    function = jax.ffi.ffi_call(
        f"nvstate_cublaslt_{target}_v1",
        types,
        input_layouts=layouts,
        output_layouts=out,
        input_output_aliases=aliases,
    )
    got = jax.jit(functools.partial(function, **call))(*arrays)
    return got[: len(results)]


def typed(arrays):
    return [(np.dtype(x.dtype).name, x.shape) for x in arrays]


def require_algorithm(question):
    """What the heuristic finds; an empty answer fails the test with the library's reasons."""
    found = _native.cublaslt_heuristic(*question, workspace=TIGHT, limit=8)
    assert found, _native.cublaslt_diagnose(*question, workspace=TIGHT)
    return found


def integers(rng, dims, dtype="float32"):
    """Small ones, whose products and sums are exact in every dtype here."""
    return rng.integers(-2, 3, dims).astype(np.float32).astype(dtype)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def dgelu(x):
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    return 0.5 * (1 + np.tanh(inner)) + 0.5 * x * (1 - np.tanh(inner) ** 2) * slope


def bits(mask, n):
    return np.unpackbits(np.asarray(mask), axis=-1, bitorder="little")[..., :n]


# --- The wrappers ---------------------------------------------------------------------------------

PROBLEMS = {
    "bf16": (attributes(), types(4096, 4096, 4096, dtype="bfloat16")),
    "f16": (attributes(), types(512, 512, 512, dtype="float16")),
    "f16-in-f16": (
        attributes(compute_type="float16", scale_type="float16"),
        types(512, 512, 512, dtype="float16"),
    ),
    "f32": (attributes(), types(512, 512, 512)),
    "f32-odd": (attributes(), types(7, 5, 3)),
    "tf32": (attributes(compute_type="tf32"), types(512, 512, 512)),
    "f32-bf16": (attributes(compute_type="float32_fast_bfloat16"), types(512, 512, 512)),
    "bf16x9": (attributes(compute_type="float32_emulated_bf16x9"), types(512, 512, 512)),
    "f64": (
        attributes(compute_type="float64", scale_type="float64"),
        types(512, 512, 512, dtype="float64"),
    ),
    "fixedpoint": (
        attributes(compute_type="float64_emulated_fixedpoint", scale_type="float64"),
        types(512, 512, 512, dtype="float64"),
    ),
    "c64": (attributes(scale_type="complex64"), types(512, 512, 512, dtype="complex64")),
    "c64-conj-a": (
        attributes(scale_type="complex64", conjugate_a=1),
        types(512, 512, 512, dtype="complex64"),
    ),
    "c64-conj-b": (
        attributes(scale_type="complex64", conjugate_b=1),
        types(512, 512, 512, dtype="complex64"),
    ),
    "batch": (attributes(1), types(512, 512, 512, (8,), dtype="bfloat16")),
    "batch-stride-0": (attributes(1), types(512, 512, 512, (8,), a=(1,), dtype="bfloat16")),
    "device-scalars": (attributes(scalars=1), types(512, 512, 512)),
    "c-row": (attributes(c=1), types(512, 512, 512, c=((), 1))),
}
PROBLEMS |= {
    f"{dtype}-{epilog}": (
        attributes(epilog=epilog, layout_a=np.array([1, 0] if epilog == "bgrada" else [0, 1])),
        types(512, 512, 512, dtype=dtype, epilog=epilog),
    )
    for epilog in EPILOGS[1:]
    for dtype in ("float32", "bfloat16")
}


def asked(name):
    call, (operands, results) = PROBLEMS[name]
    if call["scalars"]:
        operands = [*operands, ("float32", (1,)), ("float32", (1,))]
    return call, operands, results


def test_heuristic_for_each_problem():
    none = []
    for name in PROBLEMS:
        try:
            found = _native.cublaslt_heuristic(0, *asked(name), workspace=TIGHT, limit=8)
        except RuntimeError as error:
            tell(name, "RAISES", error)
            none.append(name)
            continue
        if not found:
            none.append(name)
            tell(name, "NONE", _native.cublaslt_diagnose(0, *asked(name), workspace=TIGHT))
            continue
        first = found[0]
        tell(name, len(found), first["workspace"], round(first["waves"], 3), first["config"])
        for candidate in found:
            checked = _native.cublaslt_check(0, *asked(name), data=candidate["data"])
            assert checked is not None
            if checked["workspace"] != candidate["workspace"]:
                tell(name, "workspace by check", checked["workspace"], candidate["workspace"])
    tell("no algorithm for", none)
    assert "bf16" not in none
    assert "f32" not in none


def test_heuristic_is_the_same_twice():
    one, two = (
        _native.cublaslt_heuristic(0, *asked("bf16"), workspace=TIGHT, limit=8) for _ in range(2)
    )
    assert one == two


@pytest.mark.parametrize("name", ["bf16", "f16", "f32", "f64", "batch", "bfloat16-gelu_bias"])
def test_what_more_alignment_would_change(name):
    one, two = (
        _native.cublaslt_heuristic(0, *asked(name), workspace=TIGHT, limit=8, alignment=alignment)
        for alignment in (0, 256)
    )
    told = "the same" if one == two else [c["config"] for c in (*one[:2], *two[:2])]
    tell(name, "claiming 16 or 256 bytes:", told)


def test_constraints_are_honoured():
    call, operands, results = asked("bf16")
    for name, change, workspace in [
        ("no split-K", {"reduction_mask": 0}, TIGHT),
        ("no workspace", {}, 0),
        ("hmma", {"impl_mask": 0x02 | 0x0200 | 0x020000}, TIGHT),
        ("fma", {"impl_mask": 0x01}, TIGHT),
        ("16 SMs", {"sm_count": 16}, TIGHT),
        ("half a wave", {"max_waves": 0.5}, TIGHT),
    ]:
        found = _native.cublaslt_heuristic(
            0, call | change, operands, results, workspace=workspace, limit=8
        )
        tell(
            name,
            len(found),
            found[0]["config"] if found else "NONE",
            [c["workspace"] for c in found],
        )
        assert all(c["workspace"] <= workspace for c in found)
        if not found:
            tell(
                _native.cublaslt_diagnose(0, call | change, operands, results, workspace=workspace)
            )


def test_diagnosis_names_what_helps_and_prints_nothing(capfd):
    call, operands, results = asked("bf16")
    change = {"impl_mask": 0x08}
    capfd.readouterr()
    diagnosis = _native.cublaslt_diagnose(0, call | change, operands, results, workspace=TIGHT)
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr() == ("", "")
    tell("impossible mask", json.dumps(diagnosis))
    assert "numerical_impl_mask" in diagnosis["helps"]
    diagnosis = _native.cublaslt_diagnose(0, call, operands, results, workspace=TIGHT)
    assert diagnosis["helps"] == []
    assert diagnosis["reasons"][0] == "it has an algorithm after all"


def test_ids_settings_and_capabilities():
    call = asked("bf16")
    ids = _native.cublaslt_algorithm_ids(0, *call, limit=100)
    tell("ids", ids)
    assert ids
    runs = {}
    for number in ids:
        data = _native.cublaslt_algorithm_init(0, *call, id=number)
        assert _native.cublaslt_config(data)["id"] == number
        able = _native.cublaslt_capabilities(data)
        brief = able | {"tiles": len(able["tiles"]), "stages": len(able["stages"])}
        runs[number] = _native.cublaslt_check(0, *call, data=data) is not None
        tell("id", number, "runs as it is" if runs[number] else "does not", brief)
    with pytest.raises(ValueError, match="there is no algorithm 999999 for these types"):
        _native.cublaslt_algorithm_init(0, *call, id=999999)

    first = _native.cublaslt_heuristic(0, *call, workspace=TIGHT, limit=1)[0]
    same = _native.cublaslt_configured(first["data"], tile=first["config"]["tile"])
    assert same == first["data"]
    assert len(first["data"]) == 64
    for tile in _native.cublaslt_capabilities(first["data"])["tiles"]:
        other = _native.cublaslt_configured(first["data"], tile=tile)
        assert _native.cublaslt_config(other)["tile"] == tile
        checked = _native.cublaslt_check(0, *call, data=other)
        tell("tile", tile, "refused" if checked is None else checked["workspace"])
    assert _native.cublaslt_check(0, *call, data=bytes(64)) is None


# --- The products ---------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("shared", [False, True], ids=["both", "b-shared"])
@pytest.mark.parametrize("a_layout", ["row", "turned"])
def test_plain_products_are_exact(rng, batch, shared, a_layout):
    nb, m, n, k = len(batch), 24, 40, 16
    for dtype in ("float32", "bfloat16", "float16", "float64", "complex64", "complex128"):
        scale = {"float16": "float32", "bfloat16": "float32"}.get(dtype, dtype)
        compute = "float64" if dtype in ("float64", "complex128") else "float32"
        call = attributes(nb, scale_type=scale, compute_type=compute)
        if a_layout == "turned":
            call["layout_a"] = np.array([*range(nb), nb + 1, nb])
            call["layout_b"] = np.array([*range(nb + 1), nb + 2, nb + 1])
        a = integers(rng, (*batch, m, k), dtype)
        b = integers(rng, (*((1,) * nb if shared else batch), 1, k, n), dtype)
        (d,) = product([a, b], call, [(dtype, (*batch, m, n))])
        want = np.asarray(a, complex) @ np.asarray(b[..., 0, :, :], complex)
        np.testing.assert_array_equal(np.asarray(d).astype(complex), want, err_msg=dtype)


@pytest.mark.parametrize("sizes", [(8, 24, 16), (1, 1, 1), (1, 24, 16), (8, 1, 16), (8, 24, 1)])
@pytest.mark.parametrize("side", ["a", "b", "ab"])
@pytest.mark.parametrize("turned", [False, True])
def test_conjugates(rng, side, turned, sizes):
    """Without a transposition there is no algorithm: the caller writes the conjugate out."""
    m, n, k = sizes
    a = integers(rng, (m, k), "complex64") + 1j * integers(rng, (m, k))
    b = integers(rng, (1, k, n), "complex64") + 1j * integers(rng, (1, k, n))
    call = attributes(scale_type="complex64", **{f"conjugate_{x}": 1 for x in side})
    if turned:
        call |= {"layout_a": np.array([1, 0]), "layout_b": np.array([0, 2, 1])}
    a, b = a.astype("complex64"), b.astype("complex64")
    results = [("complex64", (m, n))]
    layout = _native.cublaslt_layout(call, typed([a, b]), results)
    question = (0, call, typed([a, b]), results)
    if not _native.cublaslt_heuristic(*question, workspace=TIGHT, limit=1):
        diagnosis = _native.cublaslt_diagnose(*question, workspace=TIGHT)
        tell("conjugate", side, sizes, "turned" if turned else "plain", "NONE", diagnosis)
        assert "row" in [layout[x]["order"] for x in side]
        assert any("must be written out first" in reason for reason in diagnosis["reasons"])
        return
    tell("conjugate", side, sizes, [layout[x]["order"] for x in side], "has an algorithm")
    (d,) = product([a, b], call, results)
    want = (a.conj() if "a" in side else a) @ (b[0].conj() if "b" in side else b[0])
    np.testing.assert_array_equal(d, want)


def test_float16_computes_with_the_scalars_it_is_given(rng):
    """0 and 1 in 16 bits; what lies in D is not added."""
    a, b = integers(rng, (64, 32), "float16"), integers(rng, (1, 32, 48), "float16")
    for compute in ("float16", "float16_pedantic"):
        for alpha in (1.0, -0.5, 0.0):
            call = attributes(
                compute_type=compute, scale_type="float16", alpha=np.array([alpha, 0.0])
            )
            c = jnp.full((64, 48), np.float16(1000))
            for beta, used in ((0.0, 0), (0.25, 1)):
                more = {"c": 1, "layout_c": np.array([0, 1]), "beta": np.array([beta, 0.0])}
                (d,) = product([a, b, c], call | more, [("float16", (64, 48))])
                want = alpha * (a.astype(float) @ b[0].astype(float)) + used * 250
                np.testing.assert_array_equal(np.asarray(d, float), want, err_msg=compute)
            (d,) = product([a, b], call, [("float16", (64, 48))])
            want = alpha * (a.astype(float) @ b[0].astype(float))
            np.testing.assert_array_equal(np.asarray(d, float), want, err_msg=compute)


def test_batches_in_between_and_loops(rng):
    call = attributes(1, layout_a=np.array([1, 0, 2]), layout_d=np.array([1, 0, 2]))
    a, b = integers(rng, (6, 8, 16)), integers(rng, (6, 1, 16, 8))
    (d,) = product([a, b], call, [("float32", (6, 8, 8))])
    np.testing.assert_array_equal(d, a @ b[:, 0])
    a, b = integers(rng, (5, 1, 8, 16)), integers(rng, (1, 7, 1, 16, 8))
    (d,) = product([a, b], attributes(2), [("float32", (5, 7, 8, 8))])
    np.testing.assert_array_equal(d, a @ b[:, :, 0])
    # Steps of 2·3·5 elements: the loop's pointers are aligned to 4 bytes only.
    a, b = integers(rng, (3, 1, 5, 3), "bfloat16"), integers(rng, (1, 2, 1, 3, 7), "bfloat16")
    (d,) = product([a, b], attributes(2), [("bfloat16", (3, 2, 5, 7))])
    want = a.astype(np.float32) @ b[:, :, 0].astype(np.float32)
    np.testing.assert_array_equal(np.asarray(d, np.float32), want)


@pytest.mark.parametrize("rows", [8, 1])
@pytest.mark.parametrize("scalars", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_c(rng, rows, scalars, dtype):
    """A row of C for all rows is a leading dimension of 0."""
    a, b = integers(rng, (8, 16), dtype), integers(rng, (1, 16, 24), dtype)
    c = integers(rng, (rows, 24), dtype)
    numbers = {"alpha": np.array([2.0, 0.0]), "beta": np.array([-1.0, 0.0])}
    call = attributes(c=1, scalars=scalars, **numbers)
    more = [np.float32([2]), np.float32([-1])] if scalars else []
    (d,) = product([a, b, c, *more], call, [(dtype, (8, 24))])
    want = 2 * (a.astype(float) @ b[0].astype(float)) - c.astype(float)
    np.testing.assert_array_equal(np.asarray(d, float), want)


@pytest.mark.parametrize("epilog", ["none", "gelu_bias", "bgradb"])
def test_device_scalars_with_epilogs(rng, epilog):
    a, b = integers(rng, (16, 16)), integers(rng, (1, 16, 24))
    call = attributes(scalars=1, epilog=epilog, alpha=np.array([0.0, 0.0]))
    more = [integers(rng, (1, 24))] if "bias" in epilog else []
    operands = [a, b, *more, np.float32([2]), np.float32([0])]
    results = [("float32", (16, 24))] + [("float32", (1, 24))] * (epilog == "bgradb")
    got = product(operands, call, results)
    want = 2 * (a @ b[0]) + (more[0] if more else 0)
    np.testing.assert_allclose(got[0], gelu(want) if more else want, atol=1e-4)
    if epilog == "bgradb":
        np.testing.assert_array_equal(got[1], b[0].sum(-2, keepdims=True))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("scalars", [0, 1], ids=["number", "device"])
@pytest.mark.parametrize("alpha", [-0.5, 0.0])
@pytest.mark.parametrize("k", [16, 1])
@pytest.mark.parametrize("epilog", ["bgrada", "bgradb"])
def test_sums_of_operands_are_not_scaled_by_alpha(rng, epilog, k, alpha, scalars, dtype):
    a, b = integers(rng, (24, k), dtype), integers(rng, (1, k, 40), dtype)
    call = attributes(epilog=epilog, scalars=scalars, alpha=np.array([alpha, 0.0]))
    call |= {"layout_a": np.array([1, 0])} if epilog == "bgrada" else {}
    arrays = [a, b, *[np.float32([alpha]), np.float32([0])] * scalars]
    _, results = types(24, 40, k, dtype=dtype, epilog=epilog)
    question = (0, call, typed(arrays), results)
    if k == 1 and _native.cublaslt_version() < 120304:
        assert not _native.cublaslt_heuristic(*question, workspace=TIGHT, limit=1)
        return
    require_algorithm(question)
    d, sums = (np.asarray(x, float) for x in product(arrays, call, results))
    wide_a, wide_b = a.astype(float), b[0].astype(float)
    np.testing.assert_array_equal(d, alpha * (wide_a @ wide_b))
    want = wide_a.sum(-1) if epilog == "bgrada" else wide_b.sum(-2, keepdims=True)
    np.testing.assert_array_equal(sums, want)


ROWS_OF_ONE = {
    "aux-not-batched": ("drelu", (0, 1, 2), {"aux": (1,)}),
    "sums-of-a": ("bgrada", (0, 2, 1), {}),
    "c-not-batched": ("none", (0, 1, 2), {"c": ((1,), 1)}),
    "apart": ("none", (2, 0, 1), {}),
}


@pytest.mark.parametrize(("epilog", "layout", "options"), ROWS_OF_ONE.values(), ids=ROWS_OF_ONE)
def test_members_of_one_row(rng, epilog, layout, options):
    """What of them may become rows of one product must be right either way."""
    operands, results = types(1, 40, 16, (6,), b=(1,), epilog=epilog, **options)
    arrays = [integers(rng, dims) for _, dims in operands]
    if epilog == "drelu":
        arrays[2] = rng.integers(0, 256, operands[2][1]).astype(np.uint8)
    call = attributes(1, epilog=epilog, layout_a=np.array(layout), c=int("c" in options))
    require_algorithm((0, call, typed(arrays), results))
    got = product(arrays, call, results)
    want = arrays[0] @ arrays[1][:, 0]
    want = want * bits(arrays[2], 40) if epilog == "drelu" else want
    np.testing.assert_array_equal(got[0], want + arrays[2] if "c" in options else want)
    if epilog == "bgrada":
        np.testing.assert_array_equal(got[1], arrays[0].sum(-1))


def test_beta_of_zero_drops_nan(rng):
    a, b = integers(rng, (8, 16)), integers(rng, (1, 16, 24))
    c = np.full((8, 24), np.nan, np.float32)
    (d,) = product([a, b, c], attributes(c=1, beta=np.array([0.0, 0.0])), [("float32", (8, 24))])
    tell("beta = 0, a number, C of NaN:", "dropped" if np.isfinite(d).all() else "NOT DROPPED")
    np.testing.assert_array_equal(d, a @ b[0])
    operands = [a, b, c, np.float32([1]), np.float32([0])]
    (d,) = product(operands, attributes(c=1, scalars=1), [("float32", (8, 24))])
    tell("beta = 0 on the device, C of NaN:", "dropped" if np.isfinite(d).all() else "NOT DROPPED")
    np.testing.assert_array_equal(d, a @ b[0])


def test_in_place(rng):
    a, b, c = integers(rng, (8, 16)), integers(rng, (1, 16, 24)), integers(rng, (8, 24))
    (d,) = product([a, b, c], attributes(c=1), [("float32", (8, 24))], aliases={2: 0})
    np.testing.assert_array_equal(d, a @ b[0] + c)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
@pytest.mark.parametrize("n", [2, 9, 40, 128])
@pytest.mark.parametrize("epilog", EPILOGS[1:])
def test_epilogs(rng, epilog, n, batch, dtype):
    nb, m, k = len(batch), 24, 16
    a, b = integers(rng, (*batch, m, k), dtype), integers(rng, (*batch, 1, k, n), dtype)
    z = a.astype(float) @ b[..., 0, :, :].astype(float)
    operands, results = types(m, n, k, batch, dtype, epilog=epilog)
    arrays = [a, b]
    if epilog.endswith("bias"):
        bias = integers(rng, operands[2][1], dtype)
        arrays.append(bias)
        z = z + bias.astype(float)
    if epilog.startswith("drelu"):
        mask = rng.integers(0, 256, operands[2][1]).astype(np.uint8)
        arrays.append(mask)
        z = z * bits(mask, n)
    if epilog.startswith("dgelu"):
        aux = integers(rng, operands[2][1], dtype)
        arrays.append(aux)
        z = z * dgelu(aux[..., :n].astype(float))
    call = attributes(nb, epilog=epilog)
    if epilog == "bgrada":  # it sums along M's neighbours only
        call["layout_a"] = np.array([*range(nb), nb + 1, nb])
    require_algorithm((0, call, typed(arrays), results))
    got = product(arrays, call, results)
    d = gelu(z) if epilog.startswith("gelu") else np.maximum(z, 0) if epilog[0] == "r" else z
    loose = {"float32": 1e-4, "bfloat16": 4e-2, "float16": 4e-3}[dtype]
    np.testing.assert_allclose(np.asarray(got[0], float), d, atol=loose, rtol=loose)
    if epilog.startswith("relu_aux"):
        found = bits(got[1], n)
        at_zero = found[z == 0]
        if at_zero.size:
            tell(epilog, "the mask at z = 0 is", set(at_zero.tolist()))
        np.testing.assert_array_equal(found[z != 0], (z > 0)[z != 0])
    if epilog.startswith("gelu_aux"):
        np.testing.assert_array_equal(np.asarray(got[1], float)[..., :n], z)
        tell(epilog, "padding", np.unique(np.asarray(got[1], float)[..., n:])[:3])
    if "bgrad" in epilog:
        sums = {"bgrada": a.astype(float).sum(-1), "bgradb": b.astype(float).sum(-2)}
        want = sums.get(epilog, d.sum(-2, keepdims=True))
        np.testing.assert_allclose(np.asarray(got[1], float), want, atol=24 * loose, rtol=loose)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("turned", ["", "a", "b", "ab"])
@pytest.mark.parametrize("epilog", ["bgrada", "bgradb", "drelu_bgrad", "gelu_aux_bias"])
def test_epilogs_of_transposes(rng, epilog, turned, dtype):
    a, b = integers(rng, (24, 16), dtype), integers(rng, (1, 16, 40), dtype)
    operands, results = types(24, 40, 16, dtype=dtype, epilog=epilog)
    more = [integers(rng, dims, other) for other, dims in operands[2:]]
    call = attributes(epilog=epilog)
    call |= {"layout_a": np.array([1, 0])} if "a" in turned else {}
    call |= {"layout_b": np.array([0, 2, 1])} if "b" in turned else {}
    z = a.astype(float) @ b[0].astype(float)
    question = (0, call, typed([a, b, *more]), results)
    if not _native.cublaslt_heuristic(*question, workspace=TIGHT, limit=1):
        diagnosis = _native.cublaslt_diagnose(*question, workspace=TIGHT)
        tell(epilog, dtype, "turned", turned or "none", "NONE", diagnosis)
        assert (epilog, "a" in turned) == ("bgrada", False) or "b" in turned
        assert any("innermost in" in reason for reason in diagnosis["reasons"])
        return
    d, second = (np.asarray(x, float) for x in product([a, b, *more], call, results))
    if epilog == "drelu_bgrad":
        z = z * bits(more[0], 40)
        wants = [z, z.sum(-2, keepdims=True)]
    elif epilog == "gelu_aux_bias":
        z = z + more[0].astype(float)
        wants = [gelu(z), z]
    else:
        sums = a.astype(float).sum(-1) if epilog == "bgrada" else b.astype(float).sum(-2)
        wants = [z, sums]
    right = np.allclose(second, wants[1], rtol=1e-2, atol=1e-2)
    tell(
        epilog, dtype, "turned", turned or "none", "right" if right else "WRONG", second.ravel()[:4]
    )
    np.testing.assert_allclose(d, wants[0], rtol=2e-2, atol=4e-2)
    assert right


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float16"])
@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
def test_padding_of_a_gelu_aux_is_zero(rng, dtype, batch):
    """In graphs too, and in one call of many: uninitialised memory may be NaN."""
    a, b = integers(rng, (*batch, 24, 16), dtype), integers(rng, (*batch, 1, 16, 9), dtype)
    _, results = types(24, 9, 16, batch, dtype, epilog="gelu_aux")
    call = attributes(len(batch), epilog="gelu_aux")
    for poison in (np.nan, 7.0):
        jax.block_until_ready([jnp.full((*batch, 24, 16), poison, dtype) for _ in range(8)])
        d, aux = product([a, b], call, results)
        aux = np.asarray(aux).astype("float32")
        assert (aux[..., 9:] == 0).all()
        want = a.astype(float) @ b[..., 0, :, :].astype(float)
        np.testing.assert_array_equal(aux[..., :9], want)
        np.testing.assert_allclose(np.asarray(d, float), gelu(want), atol=4e-2, rtol=4e-2)


E4M3 = ml_dtypes.float8_e4m3fn


@pytest.mark.parametrize("mode", ["tensor", "outer", "1x128", "128x128"])
@pytest.mark.parametrize("epilog", ["none", "bias"])
def test_eight_bits(rng, mode, epilog):
    m, n, k = 256, 384, 640
    a, b = integers(rng, (m, k), E4M3), integers(rng, (1, k, n), E4M3)
    blocks = k // 128
    powers = lambda *dims: 2.0 ** rng.integers(-3, 3, dims).astype(np.float32)  # noqa: E731
    if mode == "tensor":
        scale_a, scale_b = powers(1), powers(1)
        wide_a, wide_b = scale_a, scale_b
    elif mode == "outer":
        scale_a, scale_b = powers(m), powers(n)
        wide_a, wide_b = scale_a[:, None], scale_b[None]
    elif mode == "1x128":
        scale_a, scale_b = powers(blocks, m), powers(blocks, n)
        wide_a, wide_b = np.repeat(scale_a, 128, 0).T, np.repeat(scale_b, 128, 0)
    else:  # b by squares, a by vectors: both by squares do not exist
        scale_a, scale_b = powers(blocks, m), powers(n // 128, 8)
        wide_a = np.repeat(scale_a, 128, 0).T
        wide_b = np.repeat(np.repeat(scale_b[:, :blocks], 128, 0), 128, 1).T
    modes = {"scaling_a": "1x128" if mode == "128x128" else mode, "scaling_b": mode}
    call = attributes(layout_b=np.array([0, 2, 1]), epilog=epilog, **modes)
    bias = [integers(rng, (1, n), "bfloat16")] if epilog == "bias" else []
    arrays, results = [a, b, *bias, scale_a, scale_b], [("bfloat16", (m, n))]
    question = (0, call, typed(arrays), results)
    if mode != "tensor" and jax.devices("cuda")[0].compute_capability != "9.0":
        assert not _native.cublaslt_heuristic(*question, workspace=TIGHT, limit=1)  # Hopper's own
        return
    found = require_algorithm(question)
    tell("FP8", mode, epilog, len(found), found[0]["config"], found[0]["workspace"])
    (d,) = product(arrays, call, results)
    want = (a.astype(float) * wide_a) @ (b[0].astype(float) * wide_b)
    want = want + (bias[0].astype(float) if bias else 0)
    np.testing.assert_allclose(
        np.asarray(d, float), want, rtol=2e-2, atol=2e-2 * np.abs(want).max()
    )


@pytest.mark.parametrize("with_amax", [0, 1])
@pytest.mark.parametrize("form", ["no C", "no C, device scalars", "no C, type of D", "C", "bias"])
@pytest.mark.parametrize("scale", [0.5, 64.0])
def test_eight_bits_out(rng, form, with_amax, scale):
    m, n, k = 64, 128, 256
    a, b = integers(rng, (m, k), E4M3), integers(rng, (1, k, n), E4M3)
    one, scales = np.float32([1]), np.float32([scale])
    call = attributes(
        layout_b=np.array([0, 2, 1]), scaling_a="tensor", scaling_b="tensor", scale_d=1,
        result_amax=with_amax, c_type="" if form == "no C, type of D" else "bfloat16",
        c=int(form == "C"), scalars=int("scalars" in form),
        epilog="bias" if form == "bias" else "none",
    )  # fmt: skip
    addend = integers(rng, (m if form == "C" else 1, n), "bfloat16")
    more = [addend] if form in ("C", "bias") else []
    numbers = [np.float32([1]), np.float32([0])] if call["scalars"] else []
    arrays = [a, b, *more, *numbers, one, one, scales]
    results = [("float8_e4m3fn", (m, n))] + [("float32", (1,))] * with_amax
    question = (0, call, typed(arrays), results)
    name = f"FP8 D, {form}, amax {with_amax}, scale {scale}:"
    if form == "no C, type of D":
        found = _native.cublaslt_heuristic(*question, workspace=TIGHT, limit=1)
        assert not found, (
            "cuBLASLt 13.1.0 has none: C of type FP8 is new, so test it like the others"
        )
        return
    require_algorithm(question)
    d, *amax = product(arrays, call, results)
    z = a.astype(float) @ b[0].astype(float) + (addend.astype(float) if more else 0)
    d = np.asarray(d).astype(float)
    want = np.clip(z * scale, -448, 448).astype(E4M3).astype(float)
    tell(
        name,
        *("NaN", np.isnan(d).any(), "largest of D", np.abs(d).max(), "equal", (d == want).mean()),
        *("of z", np.abs(z).max(), "amax", *(float(x[0]) for x in amax)),
    )
    np.testing.assert_allclose(d, want, rtol=0.13, atol=1e-2)
    for x in amax:
        np.testing.assert_allclose(float(x[0]), np.abs(z).max(), rtol=1e-2)


def test_eight_bits_of_another_layout_is_refused(rng):
    call = attributes(scaling_a="tensor", scaling_b="tensor")
    operands, results = types(64, 64, 64, dtype="float8_e4m3fn")
    one = ("float32", (1,))
    call_types = [*operands, one, one], [("bfloat16", results[0][1])]
    found = _native.cublaslt_heuristic(0, call, *call_types, workspace=TIGHT, limit=1)
    tell("FP8, K not innermost in b:", "found" if found else "none")
    if float(jax.devices("cuda")[0].compute_capability) < 10:
        assert not found


def test_int8(rng):
    a = rng.integers(-128, 128, (32, 64)).astype(np.int8)
    b = rng.integers(-128, 128, (1, 64, 48)).astype(np.int8)
    call = attributes(compute_type="int32", scale_type="int32", layout_b=np.array([0, 2, 1]))
    (d,) = product([a, b], call, [("int32", (32, 48))])
    np.testing.assert_array_equal(d, a.astype(np.int32) @ b[0].astype(np.int32))
    call |= {"scale_type": "float32", "alpha": np.array([1 / 512, 0.0])}
    arrays, results = [a, b], [("int8", (32, 48))]
    require_algorithm((0, call, typed(arrays), results))
    (d,) = product(arrays, call, results)
    want = np.clip(np.rint(a.astype(float) @ b[0].astype(float) / 512), -128, 127)
    assert np.abs(np.asarray(d, float) - want).max() <= 1


# --- Graphs, algorithms, threads ------------------------------------------------------------------


def test_graphs(rng):
    """Ten calls in a program, more than enough for a graph; other addresses each time."""
    call = attributes(epilog="bias")
    a = integers(rng, (64, 64)) / 8
    b, bias = integers(rng, (1, 64, 64)) / 8, integers(rng, (1, 64))
    types = [jax.ShapeDtypeStruct((64, 64), np.float32), jax.ShapeDtypeStruct((TIGHT,), np.uint8)]
    step = functools.partial(jax.ffi.ffi_call("nvstate_cublaslt_matmul_v1", types), **call)

    @jax.jit
    def ten(a, b, bias):
        for _ in range(10):
            a = step(a, b, bias)[0] / 16
        return a

    for i in range(20):
        operands = [jnp.asarray(x) for x in (a + i, b, bias + i)]
        want = a + i
        for _ in range(10):
            want = (want @ b[0] + bias + i) / 16
        np.testing.assert_allclose(ten(*operands), want, rtol=1e-3, atol=1e-3)


def test_pinned_algorithm_runs_and_a_foreign_one_is_refused(rng):
    a, b = integers(rng, (256, 512), "bfloat16"), integers(rng, (1, 512, 128), "bfloat16")
    arrays, results = [a, b], [("bfloat16", (256, 128))]
    found = _native.cublaslt_heuristic(
        0, attributes(), typed(arrays), results, workspace=TIGHT, limit=8
    )
    first = None
    before = _native.cache_info()["unpinned"]
    for candidate in found:
        pinned = {
            "algorithms": np.frombuffer(candidate["data"], np.uint64),
            "problems": np.array(candidate["problem"]),
        }
        (d,) = product(arrays, attributes(**pinned), results, workspace=candidate["workspace"])
        first = d if first is None else first
        np.testing.assert_array_equal(np.asarray(d, float), np.asarray(first, float))
    assert _native.cache_info()["unpinned"] == before
    elsewhere = pinned | {"problems": np.array([1, 2, 3, 4])}
    product(arrays, attributes(**elsewhere), results)
    assert _native.cache_info()["unpinned"] == before + 1
    wrong = pinned | {"algorithms": np.zeros(8, np.uint64)}
    with pytest.raises(jax.errors.JaxRuntimeError, match="the plan's algorithm does not run here"):
        jax.block_until_ready(product(arrays, attributes(**wrong), results))


def test_autotune(rng):
    m, n, k = 16, 4096, 4096
    a, b = integers(rng, (m, k), "bfloat16"), integers(rng, (1, k, n), "bfloat16")
    results = [("bfloat16", (m, n))]
    found = _native.cublaslt_heuristic(
        0, attributes(), typed([a, b]), results, workspace=TIGHT, limit=8
    )
    data = b"".join(c["data"] for c in found) + bytes(64)
    call = attributes(
        algorithms=np.frombuffer(data, np.uint64),
        problems=np.array([found[0]["problem"]] * (len(found) + 1)).ravel(),
        seed=1,
    )
    results = [("float32", (20, len(found) + 1)), *results]
    flush = [("uint8", (2 * _native.cublaslt_l2_bytes(0),))]
    times, _ = product([a, b], call, results, target="autotune", last=flush)
    tell("autotune", np.median(times, axis=0), np.min(times, axis=0))
    assert np.isinf(times[:, -1]).all()
    assert np.isfinite(times[:, :-1]).all()
    assert (np.asarray(times) > 0).all()


def test_unaligned_pointer_is_refused_by_name(rng):
    """A slice that XLA hands over where it lies, if it does."""
    x = jnp.asarray(integers(rng, (9, 16)))
    b = jnp.asarray(integers(rng, (1, 16, 8)))
    call = attributes()
    types = [jax.ShapeDtypeStruct((8, 8), np.float32)]
    step = functools.partial(jax.ffi.ffi_call("nvstate_cublaslt_matmul_v1", types), **call)
    got = jax.jit(lambda x, b: step(x.ravel()[4:132].reshape(8, 16), b)[0])(x, b)
    np.testing.assert_array_equal(
        got, np.asarray(x).ravel()[4:132].reshape(8, 16) @ np.asarray(b)[0]
    )
