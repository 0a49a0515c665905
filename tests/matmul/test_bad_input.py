"""What is refused, by which exception, in which words. The rows of the specification, in order."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvstate as nvs
from nvstate.errors import OperandError, SpecError, UnsupportedError
from nvstate.matmul import table
from tests.case import relative_l2

E4M3, E5M2 = table.E4M3, table.E5M2


def z(*shape, dtype="float32"):
    """An operand."""
    return np.zeros(shape, dtype)


A, B, C = z(4, 8), z(8, 6), z(4, 6)
F8, G8 = z(32, 64, dtype=E4M3), z(48, 64, dtype=E4M3)
ONE = np.ones((), "float32")
SCALES = {"scale_a": ONE, "scale_b": ONE, "transpose_b": True}

ROWS = {
    "K differs": (
        (A, z(7, 6)), {}, SpecError,
        r"K differs between the operands\n.*K=8 of `a`\n.*\[4,8\], b float32\[7,6\]: K=7 of `b`",
    ),
    "K differs, b is turned": ((A, z(6, 8)), {}, SpecError, r"Did you mean `transpose_b=True`\?"),
    "K differs, a is turned": ((A.T.copy(), B), {}, SpecError, r"mean `transpose_a=True`\?"),
    "batch": (
        (z(2, 4, 8), z(3, 8, 6)), {}, SpecError,
        r"batch axes do not broadcast\n(.*\n)*.*a \[2\], b \[3\]: batch axis -1 differs",
    ),
    "no axes": ((z(), B), {}, SpecError, r"`a` has no axes"),
    "no array": (([1, 2], B), {}, SpecError, r"`a` is no operand\n(.*\n)*.*list"),
    "FP8 extent": (
        (z(32, 100, dtype=E4M3), z(48, 100, dtype=E4M3)), SCALES, SpecError,
        r'K=100 under "tensor" scaling(.*\n)*K=100: pad to 112\.',
    ),
    "e5m2 twice": (
        (F8.astype(E5M2), G8.astype(E5M2)), SCALES, SpecError,
        r"no product of float8_e5m2 and float8_e5m2\n  expected: float8_e4m3fn×float8_e4m3fn",
    ),
    "FP4 and FP8": (
        (F8, z(48, 64, dtype=table.E2M1)), SCALES, SpecError,
        r"no product of float8_e4m3fn and float4_e2m1fn",
    ),
    "two widths": ((A, B.astype("float64")), {}, SpecError, r"no product of float32 and float64"),
    "integers": ((A.astype("int32"), B), {}, SpecError, r"no product of int32"),
    "scale missing": (
        (F8, G8), {"scale_a": ONE, "transpose_b": True}, SpecError,
        r"`scale_b` is missing(.*\n)*Pass `scale_b`: FP8 and FP4 operands have scales",
    ),
    "scale of 16 bits": (
        (A, B), {"scale_a": ONE}, SpecError, r"`scale_a` is not used(.*\n)*Leave out `scale_a`",
    ),
    "scale_d missing": (
        (F8, G8), {**SCALES, "result_dtype": E4M3}, SpecError, r"`scale_d` is missing",
    ),
    "scale_d without use": ((F8, G8), {**SCALES, "scale_d": ONE}, SpecError, r"`scale_d` without"),
    "scale_aux without use": ((A, B), {"scale_aux": ONE}, SpecError, r"`scale_aux` without"),
    "scales of rows": (
        (F8, G8), {**SCALES, "scale_a": z(32, dtype="float32")}, SpecError,
        r'`scale_a` of the wrong type(.*\n)*.*`block_scaling="outer"`',
    ),
    "128x128 twice": (
        (F8, G8), {**SCALES, "block_scaling": "128x128"}, SpecError,
        r'"128x128" of both operands(.*\n)*Pass `block_scaling=\("1x128", "128x128"\)`',
    ),
    "scaling of float32": (
        (A, B), {"block_scaling": True}, SpecError, r"`block_scaling` of float32\n.*FP8 or FP4",
    ),
    "scaling unknown": (
        (F8, G8), {**SCALES, "block_scaling": "2x2"}, SpecError,
        r'unknown `block_scaling`\n  expected: one of "tensor", "outer", "1x128"',
    ),
    "scaling mixed": (
        (F8, G8), {**SCALES, "block_scaling": ("outer", "1x128")}, SpecError,
        r"unknown `block_scaling`",
    ),
    "scale of wrong shape": (
        (F8, G8), {**SCALES, "block_scaling": "1x128"}, SpecError,
        r'`scale_a` of the wrong type\n  expected: float32\[1,32\] for "1x128" scaling\n'
        r".*\nMake it with `nvstate.matmul.scaling.pack_scales\(scales, '1x128'\)`",
    ),
    "scale of wrong padding": (
        (z(256, 640, dtype=E4M3), z(256, 640, dtype=E4M3)),
        {
            "scale_a": z(2, 5), "scale_b": z(5, 256), "transpose_b": True,
            "block_scaling": ("128x128", "1x128"),
        },
        SpecError, r'expected: float32\[2,8\] for "128x128" scaling\n  got:      float32\[2,5\]',
    ),
    "scale of wrong dtype": (
        (F8, G8), {**SCALES, "scale_a": np.ones(())}, SpecError,
        r"`scale_a` of the wrong type\n  expected: float32\[\]",
    ),
    "bias along M": (
        (A, B), {"bias": z(4), "epilog": "bias"}, SpecError,
        r"`bias` of the wrong shape(.*\n)*A bias runs along N=6\. M fits, but",
    ),
    "bias too long": (
        (A, B), {"bias": z(7), "epilog": "bias"}, SpecError, r"A bias runs along N=6\.$",
    ),
    "bias of wrong dtype": (
        (A, B), {"bias": np.zeros(6), "epilog": "bias"}, SpecError, r'`bias.astype\("float32"\)`',
    ),
    "bias without epilog": (
        (A, B), {"bias": z(6)}, SpecError,
        r'`bias` without its epilog\n.*no epilog: the operands a, b(.*\n)*.*"relu_bias"',
    ),
    "epilog without bias": (
        (A, B), {"epilog": "relu_bias"}, SpecError,
        r'`bias` is missing\n  expected: epilog "relu_bias": the operands a, b, bias',
    ),
    "aux missing": ((A, B), {"epilog": "dgelu"}, SpecError, r"`gelu_aux` is missing"),
    "aux of another epilog": (
        (A, B), {"epilog": "drelu", "gelu_aux": z(4, 8), "relu_aux": z(4, 16, dtype="uint8")},
        SpecError, r'`gelu_aux` without its epilog(.*\n)*.*"dgelu_bgrad"',
    ),
    "aux of wrong shape": (
        (A, B), {"epilog": "drelu", "relu_aux": z(4, 6, dtype="uint8")}, SpecError,
        r"`relu_aux` of the wrong type\n  expected: uint8\[4,16\](.*\n)*"
        r'Pass what epilog "relu_aux" made with the same M=4, N=6',
    ),
    "aux_dtype without use": ((A, B), {"aux_dtype": "float16"}, SpecError, r"`aux_dtype` is about"),
    "aux_dtype": (
        (A, B), {"aux_dtype": "float16", "epilog": "gelu_aux"}, SpecError, r"gelu_aux of float16",
    ),
    "c without beta": ((A, B, C), {}, SpecError, r"`c` without `beta`(.*\n)*Pass `beta=1\.0`"),
    "beta without c": ((A, B), {"beta": 1.0}, SpecError, r"`beta` without `c`(.*\n)*Pass `c`"),
    "in place without c": ((A, B), {"inplace": True}, SpecError, r"in place without `c`"),
    "in place in a part": (
        (A, B, z(6)), {"beta": 1.0, "inplace": True}, SpecError,
        r"in place, but(.*\n)*  expected: float32\[4,6\]\n  got:      float32\[6\]",
    ),
    "c does not broadcast": (
        (A, B, z(3, 6)), {"beta": 1.0}, SpecError,
        r"`c` does not broadcast(.*\n)*.*\[4, 6\]\n  got:      float32\[3,6\]",
    ),
    "c larger than the result": ((A, B, z(2, 4, 6)), {"beta": 1.0}, SpecError, r"`c` does not"),
    "c of another dtype": (
        (A, B, C.astype("float64")), {"beta": 1.0}, SpecError,
        r'`c` of float64 with operands of float32(.*\n)*.*`c.astype\("float32"\)`',
    ),
    "compute type": (
        (A, B), {"compute_type": "float16"}, SpecError,
        r'`compute_type="float16"` of float32 and float32\n  expected: one of "float32", ',
    ),
    "compute type unknown": ((A, B), {"compute_type": "bf16"}, SpecError, r"unknown `compute_t"),
    "scale type": (
        (A, B), {"scale_type": "float64"}, SpecError, r'`scale_type="float64"` with(.*\n)*.*float',
    ),
    "result": ((A, B), {"result_dtype": "float16"}, SpecError, r"a result of float16 from float32"),
    "result is no dtype": ((A, B), {"result_dtype": "x"}, SpecError, r"`result_dtype` is no dtype"),
    "epilog unknown": (
        (A, B), {"epilog": "silu"}, SpecError, r'unknown `epilog`\n  expected: one of "relu", ',
    ),
    "flag": ((A, B), {"transpose_a": 1}, SpecError, r"`transpose_a` is a choice"),
    "complex alpha": (
        (A, B), {"alpha": 1j}, SpecError,
        r"`alpha` is complex, but the product is real\n  expected: .* scale type, float32",
    ),
    "alpha of another dtype": (
        (A, B), {"alpha": np.zeros(())}, SpecError,
        r'`alpha` of another type(.*\n)*Pass `jax.numpy.asarray\(alpha, "float32"\)`',
    ),
    "alpha of int32": (
        (z(4, 8, dtype="int8"), z(8, 4, dtype="int8")), {"alpha": 2.0}, SpecError,
        r"`alpha` of an int32 product\n  expected: 0 or 1",
    ),
    "alpha is a text": ((A, B), {"alpha": "2"}, SpecError, r"`alpha` is no operand\n.*or a number"),
    "amax": ((A, B), {"result_amax": True}, SpecError, r"`result_amax` without its use"),
    "epilog of complex": (
        (A.astype("complex64"), B.astype("complex64")), {"epilog": "relu"}, UnsupportedError,
        r'cuBLASLt has no epilog "relu" for complex64',
    ),
    "epilog of blocks": (
        (F8, G8),
        {
            "scale_a": z(1, 32), "scale_b": z(1, 48), "transpose_b": True,
            "block_scaling": "1x128", "epilog": "gelu",
        },
        UnsupportedError, r'no epilog "gelu" for .* under "1x128" scaling\n  expected: .*"dgelu"',
    ),
    "batch of blocks": (
        (F8[None], G8[None]),
        {
            "scale_a": z(1, 1, 32), "scale_b": z(1, 1, 48), "transpose_b": True,
            "block_scaling": "1x128",
        },
        UnsupportedError, r'batch axes under "1x128" scaling',
    ),
    "aux of another dtype": (
        (A, B), {"epilog": "dgelu", "gelu_aux": np.zeros((4, 8))}, SpecError,
        r'`gelu_aux` of the wrong type\n  expected: one of "float32"\n  got:      float64\[4,8\]',
    ),
    "aux of FP8": (
        (F8, G8), {**SCALES, "epilog": "dgelu", "gelu_aux": z(32, 48, dtype=E4M3)}, SpecError,
        r'`gelu_aux` of the wrong type\n  expected: one of "bfloat16", "float16"',
    ),
    "aux_dtype of an operand": (
        (A, B), {"epilog": "dgelu", "gelu_aux": z(4, 8), "aux_dtype": "float16"}, SpecError,
        r"`aux_dtype` is about",
    ),
    "mask of another dtype": (
        (A, B), {"epilog": "drelu", "relu_aux": z(4, 16)}, SpecError,
        r"`relu_aux` of the wrong type\n  expected: uint8\[4,16\]",
    ),
    "batch that broadcasts under mxfp8": (
        (z(2, 128, 128, dtype=E4M3), z(128, 128, dtype=E4M3)),
        {
            "scale_a": z(2, 512, dtype="float8_e8m0fnu"), "transpose_b": True,
            "scale_b": z(512, dtype="float8_e8m0fnu"), "block_scaling": "mxfp8",
        },
        SpecError, r'batch axes that broadcast under "mxfp8" scaling',
    ),
    "scaling as a list": (
        (F8, G8), {**SCALES, "block_scaling": ["1x128", "128x128"]}, SpecError,
        r"unknown `block_scaling`",
    ),
    "scaling is 1": ((F8, G8), {**SCALES, "block_scaling": 1}, SpecError, r"unknown `block_scal"),
    "traced alpha of int32": (
        (z(4, 8, dtype="int8"), z(8, 4, dtype="int8")), {"alpha": np.ones((), "int32")}, SpecError,
        r"`alpha` of an int32 product is a number\n  expected: 0 or 1",
    ),
    "epilog of int8": (
        (z(4, 8, dtype="int8"), z(8, 4, dtype="int8")), {"epilog": "relu"}, UnsupportedError,
        r'cuBLASLt has no epilog "relu" for int8',
    ),
    "FP4 and aux": (
        (z(128, 128, dtype=table.E2M1), z(128, 128, dtype=table.E2M1)),
        {
            "scale_a": z(1024, dtype=E4M3), "scale_b": z(1024, dtype=E4M3), "transpose_b": True,
            "epilog": "gelu_aux",
        },
        UnsupportedError, r'no epilog "gelu_aux" for float4_e2m1fn',
    ),
    "K is 1 with dgelu": (
        (z(4, 1), z(1, 6)), {"epilog": "dgelu_bgrad", "gelu_aux": z(4, 8)},
        UnsupportedError, r'K = 1 with epilog "dgelu_bgrad"',
    ),
    "K is 1": (
        (z(4, 1), z(1, 6)), {"epilog": "drelu", "relu_aux": z(4, 16, dtype="uint8")},
        UnsupportedError, r'K = 1 with epilog "drelu"',
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_no_product(row):
    operands, problem, kind, text = ROWS[row]
    for function in (nvs.matmul.spec, nvs.matmul.plan, nvs.matmul.matmul):
        with pytest.raises(kind) as raised:
            function(*operands, **problem)
        assert type(raised.value) is kind
        assert re.search(text, str(raised.value)), str(raised.value)
        assert str(raised.value).startswith("nvstate.matmul: ")


@pytest.mark.parametrize("dtype", ["complex128", "float64"])
def test_64_bits_must_be_on(dtype):
    a = jnp.ones((4, 4), dtype)
    with jax.enable_x64(False), pytest.raises(SpecError, match=f"{dtype} needs 64-bit types"):
        nvs.matmul.plan(
            jax.ShapeDtypeStruct((4, 4), a.dtype), jax.ShapeDtypeStruct((4, 4), a.dtype)
        )


@pytest.mark.parametrize("limit", ["8 gigs", "120%", -1, 1.5, 0.0, "", None, True, float("inf")])
def test_memory_limits(limit):
    with pytest.raises(SpecError) as raised:
        nvs.matmul.Preferences(memory_limit=limit)
    text = 'no `memory_limit`\n  expected: bytes, "8 GiB", or a part of the device\'s memory'
    assert text in str(raised.value)
    assert f"got:      {limit!r}" in str(raised.value)


def test_a_part_of_no_devices_memory():
    for limit in (0.5, "80%"):
        preferences = nvs.matmul.Preferences(memory_limit=limit)
        with pytest.raises(SpecError, match="but no CUDA device is visible"):
            nvs.matmul.plan(A, B, preferences=preferences)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"limit": 0}, "`limit` is a number"),
        ({"sm_count_target": -1}, "`sm_count_target` is a number"),
        ({"reduction_scheme_mask": "inplace"}, "unknown `reduction_scheme_mask`"),
        ({"numerical_impl_mask": ("tensor",)}, "unknown `numerical_impl_mask`"),
        ({"max_waves_count": -1.0}, "`max_waves_count` is a number"),
        ({"fast_accumulation": 1}, "`fast_accumulation` is a choice"),
    ],
)
def test_preferences(wrong, text):
    with pytest.raises(SpecError, match=text):
        nvs.matmul.Preferences(**wrong)


def test_a_static_alpha_cannot_be_reset():
    plan = nvs.matmul.plan(A, B, alpha=2.0)
    bound = nvs.bind(plan, a=A, b=B)
    text = (
        r"no operand `alpha`(.*\n)*`alpha` is static here: plan with a 0-d array, "
        r'`alpha=jax.numpy.asarray\(alpha, "float32"\)`'
    )
    with pytest.raises(OperandError, match=text):
        nvs.reset(bound, alpha=np.ones((), "float32"))


def test_operands_of_another_type_are_refused_and_leave_the_binding():
    bias = np.arange(6, dtype="float32")
    plan = nvs.matmul.plan(A, B, C, beta=1.0, bias=bias, epilog="bias")
    operands = {"a": A + 1, "b": B + 1, "c": C, "bias": bias}
    bound = nvs.bind(plan, **operands)
    want = (A + 1.0) @ (B + 1) + bias
    for wrong, text in (
        ({"bias": z(4)}, r"operand `bias` does not match its plan\n  expected: float32\[6\]"),
        (
            {"a": z(4, 9)},
            r"operand `a`(.*\n)*.*plan\(a, b, c, bias=bias, beta=1.0, epilog=\"bias\"\)",
        ),
        ({"b": B.astype("float64")}, r'`b.astype\("float32"\)`'),
        ({"a": z(4, 9), "b": z(9, 6)}, r"the operands do not match their plan"),
        ({"c": jnp.asarray(C)}, r"numpy.ndarray float32\[4,6\]"),
        ({"d": C}, r"no operand `d`"),
    ):
        with pytest.raises(OperandError, match=text):
            nvs.reset(bound, **wrong)
        assert relative_l2(nvs.execute(bound), want) < 1e-6
    with pytest.raises(OperandError, match="this plan takes 4 operands"):
        plan(A, B, C)


def test_operands_live_in_one_place():
    a = jnp.asarray(A)
    other = jax.device_put(jnp.asarray(B), jax.devices("cpu")[1])
    with pytest.raises(OperandError, match=r"different places(.*\n)*.*`a` on cpu:0, `b` on cpu:1"):
        nvs.matmul.plan(a, other)
    with pytest.raises(OperandError, match=r"`b` on cpu \(numpy\)"):
        nvs.matmul.plan(a, B)
    pinned = jax.device_put(jnp.asarray(B), other.sharding.with_memory_kind("pinned_host"))
    with pytest.raises(OperandError, match=r"`b` on cpu:1 \(pinned_host\)"):
        nvs.matmul.plan(a, pinned)


def test_autotune_wants_concrete_arrays():
    plan = nvs.matmul.plan(jnp.asarray(A), jnp.asarray(B))
    with pytest.raises(OperandError, match="no time to measure inside a JAX transformation"):
        jax.jit(lambda a, b: nvs.matmul.autotune(plan, a, b)(a, b))(jnp.asarray(A), jnp.asarray(B))
    for wrong in ({"iterations": 0}, {"prune": True}):
        with pytest.raises(SpecError, match="is a number"):
            nvs.matmul.autotune(plan, jnp.asarray(A), jnp.asarray(B), **wrong)


def test_algorithms_are_64_bytes():
    with pytest.raises(SpecError, match="no algorithm\n  expected: 64 bytes\n  got:      3 bytes"):
        nvs.matmul.Algorithm(b"abc", (1, 1, 1, 1))
    for wrong in (["best"], 3, ()):
        with pytest.raises(SpecError, match="no algorithm\n  expected: an `Algorithm` or several"):
            nvs.matmul.plan(A, B, algorithm=wrong)
    for function in (nvs.matmul.plan, nvs.matmul.matmul):
        with pytest.raises(SpecError, match=r"no preferences\n.*\n.*3"):
            function(A, B, preferences=3)


def test_views_are_refused_wherever_they_come():
    plan = nvs.matmul.plan(A, B)
    turned = z(8, 4).T
    text = r"`a` is not contiguous(.*\n)*.*strides \(4, 16\) bytes\nPass `numpy.ascontiguousarray"
    for act in (
        lambda: nvs.matmul.plan(turned, B),
        lambda: nvs.matmul.matmul(turned, B),
        lambda: plan(turned, B),
        lambda: nvs.bind(plan, a=turned, b=B),
        lambda: nvs.reset(nvs.bind(plan, a=A, b=B), a=turned),
    ):
        with pytest.raises(OperandError, match=text):
            act()


def test_plan_takes_a_spec_or_operands():
    spec = nvs.matmul.spec(A, B)
    with pytest.raises(SpecError, match="a spec and what it says already"):
        nvs.matmul.plan(spec, epilog="relu")
    with pytest.raises(TypeError, match="unexpected keyword argument 'relu'"):
        nvs.matmul.plan(A, B, relu=True)
