"""Every refusal of the FFT, with its text: what was expected, what came, what to do."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvstate as nvs
from nvstate.errors import OperandError, SpecError, UnsupportedError

C = jnp.ones((4, 8), "complex64")
R = jnp.ones((4, 8), "float32")


def test_wrong_dtype_whole_text():
    plan = nvs.fft.plan(C)
    with pytest.raises(OperandError) as raised:
        nvs.bind(plan, x=C.astype("complex128"))
    assert str(raised.value) == inspect.cleandoc("""
        nvstate.fft: operand `x` does not match its plan
          expected: complex64[4,8] on cpu:0
          got:      complex128[4,8] on cpu:0
        Plan again with `nvstate.fft.plan(x)`, or convert the operand with `x.astype("complex64")`.
    """)


SPECS = {
    "n-zero": (lambda: nvs.fft.spec(C, n=0), "transform length must be positive; axis -1 has 0"),
    "negative-s": (lambda: nvs.fft.spec(C, s=(-3, 8)), "positive; axis -2 has -3"),
    "zero-extent": (
        lambda: nvs.fft.spec(jnp.ones((4, 0), "complex64")),
        "transform length must be positive; axis -1 has 0",
    ),
    "scalar": (lambda: nvs.fft.spec(jnp.ones((), "complex64")), "no axes to transform"),
    "no-axes": (lambda: nvs.fft.spec(C, axes=()), "no axes to transform"),
    "repeated-axis": (lambda: nvs.fft.spec(C, axes=(1, -1)), "repeated axis"),
    "axis-out-of-range": (lambda: nvs.fft.spec(C, axes=(2,)), "axis out of range"),
    "real-as-c2c": (
        lambda: nvs.fft.spec(R, kind="c2c"),
        r'Use `kind="r2c"`, or `x.astype\("complex64"\)`',
    ),
    "real-as-c2r": (lambda: nvs.fft.spec(R, kind="c2r"), r'Use `kind="r2c"`'),
    "complex-as-r2c": (lambda: nvs.fft.spec(C, kind="r2c"), r'Use `kind="c2c"`, or `kind="c2r"`'),
    "integer": (lambda: nvs.fft.spec(jnp.ones(4, "int32")), r'x.astype\("float32"\)'),
    "bool": (lambda: nvs.fft.spec(jnp.ones(4, bool)), "no transform of bool"),
    "float8": (lambda: nvs.fft.spec(jnp.ones(4, "float8_e4m3fn")), "no transform of float8_e4m3fn"),
    "c2r-forward": (lambda: nvs.fft.spec(C, kind="c2r", direction="forward"), "runs inverse only"),
    "r2c-inverse": (lambda: nvs.fft.spec(R, direction="inverse"), 'or use `kind="c2r"`'),
    "unknown-norm": (
        lambda: nvs.fft.spec(C, norm="unitary"),
        '"backward", "ortho", "forward", "none"',
    ),
    "unknown-kind": (lambda: nvs.fft.spec(C, kind="C2C"), 'one of "c2c", "r2c", "c2r"'),
    "unknown-direction": (lambda: nvs.fft.spec(C, direction=-1), 'one of "forward", "inverse"'),
    "unknown-parity": (
        lambda: nvs.fft.spec(C, kind="c2r", last_axis_parity=1),
        'one of "even", "odd"',
    ),
    "unknown-hermitian": (
        lambda: nvs.fft.spec(C, kind="c2r", hermitian=None),
        'one of "numpy", "assume"',
    ),
    "unknown-strategy": (
        lambda: nvs.fft.plan(C, strategy="fast"),
        '"contiguous", "strided", "loop"',
    ),
    "unknown-technique": (
        lambda: nvs.fft.estimate_workspace(C, technique="x"),
        "unknown `technique`",
    ),
    "parity-of-c2c": (
        lambda: nvs.fft.spec(C, last_axis_parity="odd"),
        "Leave `last_axis_parity` out",
    ),
    "hermitian-of-c2c": (lambda: nvs.fft.spec(C, hermitian="assume"), "Leave `hermitian` out"),
    "hermitian-inverse-of-c2c": (
        lambda: nvs.fft.plan(C).inverse(hermitian="assume"),
        "Leave `hermitian` out",
    ),
    "one-frequency-even": (
        lambda: nvs.fft.spec(jnp.ones((4, 1), "complex64"), axes=(1,), kind="c2r"),
        r'result length 0\n.*\n.*\nPass `n=1` or `last_axis_parity="odd"`',
    ),
    "odd-n-even-parity": (
        lambda: nvs.fft.spec(C, kind="c2r", n=9, last_axis_parity="even"),
        r'expected: an even length\n  got:      9 with `last_axis_parity="even"`',
    ),
    "n-and-s": (
        lambda: nvs.fft.spec(C, n=4, s=(4, 4)),
        r"both `n` and `s`\n.*\n  got:      n=4, s=\(4, 4\)",
    ),
    "s-and-axes": (lambda: nvs.fft.spec(C, s=(4, 4), axes=(1,)), "differ in number"),
    "in-place-r2c": (lambda: nvs.fft.spec(R, inplace=True), "operand and result differ in type"),
    "in-place-crop": (
        lambda: nvs.fft.spec(C, n=4, inplace=True),
        "operand and result differ in type",
    ),
    "no-array": (lambda: nvs.fft.spec([1, 2]), "got:      list"),
    "spec-and-keywords": (
        lambda: nvs.fft.plan(nvs.fft.spec(C), norm="ortho"),
        "Leave the keywords out",
    ),
    "axes-by-position": (lambda: nvs.fft.plan(C, (1,)), r"Name the keywords, .*`axes=\(1,\)`"),
    "open-plan-of-leading-axis": (
        lambda: nvs.fft.plan(nvs.fft.spec(C, axes=(0,))),
        r"plan\(spec, x\)",
    ),
    "fft-of-real": (
        lambda: nvs.fft.fft(R),
        r'Use `nvstate.fft.rfft`, or `x.astype\("complex64"\)`',
    ),
    "ifftn-of-real": (lambda: nvs.fft.ifftn(R), r'Convert it with `x.astype\("complex64"\)`'),
    "irfft-of-real": (lambda: nvs.fft.irfft(R), r'Convert it with `x.astype\("complex64"\)`'),
    "float-axis": (lambda: nvs.fft.spec(C, axes=(1.0,)), "`axes` needs integers"),
    "bool-axis": (lambda: nvs.fft.spec(C, axes=(True,)), "`axes` needs integers"),
    "float-n": (lambda: nvs.fft.spec(C, n=4.0), "`n` needs an integer"),
    "one-shot-float-axis": (lambda: nvs.fft.fft(C, axis=1.5), "`axes` needs integers"),
    "inplace-word": (lambda: nvs.fft.spec(C, inplace="yes"), "`inplace` is a choice"),
    "rfft2-of-complex": (lambda: nvs.fft.rfft2(C), r"Use `nvstate.fft.fftn`, or pass `x.real`"),
    "one-shot-of-list": (lambda: nvs.fft.fft([1, 2]), "got:      list"),
    "negative-limit": (lambda: nvs.cache.limit(plans=-1), "no number of plans"),
    "limit-in-words": (lambda: nvs.cache.limit(plans="8"), "got:      '8'"),
    "fraction-of-a-plan": (lambda: nvs.cache.limit(plans=1.5), "got:      1.5"),
    "two-axes-of-fft": (
        lambda: nvs.fft.fft(C, axis=(0, 1)),
        r"Use `nvstate\.fft\.fftn\(x, axes=…\)`",
    ),
    "device-in-words": (
        lambda: nvs.fft.estimate_workspace(C, device="cuda"),
        "got:      'cuda'",
    ),
    "true-limit": (lambda: nvs.cache.limit(plans=True), "got:      True"),
}


@pytest.mark.parametrize("name", SPECS)
def test_no_such_problem(name):
    call, text = SPECS[name]
    with pytest.raises(SpecError) as raised:
        call()
    assert re.search(text, str(raised.value))
    assert re.match(
        r"nvstate\.(fft|cache): .*\n  expected: .+\n  got:      .+\n.+", str(raised.value)
    )
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_refused(dtype):
    with pytest.raises(UnsupportedError, match=f"{dtype} is not supported"):
        nvs.fft.spec(jnp.ones(4, dtype))


def test_wide_types_need_x64():
    wide = np.ones(4, "complex128")
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(SpecError, match="jax_enable_x64"):
            nvs.fft.spec(wide)
        with pytest.raises(SpecError, match=r'x\.astype\("float32"\)'):
            nvs.fft.rfft(wide.real)
    finally:
        jax.config.update("jax_enable_x64", True)


@pytest.mark.parametrize(
    ("shape", "axes", "pinned", "possible"),
    [
        ((4, 8), (1,), "strided", '"contiguous", "transpose"'),
        ((4, 8), (0,), "contiguous", '"strided", "transpose"'),
        ((4, 8, 2), (1,), "strided", '"loop", "transpose"'),
        ((2, 2, 2, 2), None, "loop", '"composed"'),
        ((2, 2, 2, 2), None, "strided", '"composed"'),
        ((4, 8), (1,), "composed", '"contiguous", "transpose"'),
    ],
)
def test_strategies_that_a_layout_cannot_have(shape, axes, pinned, possible):
    with pytest.raises(UnsupportedError, match=f"one of {possible}"):
        nvs.fft.plan(jnp.ones(shape, "complex64"), axes=axes, strategy=pinned)


def test_a_loop_that_cuffts_alignment_forbids():
    # The third axis strides over 5 real numbers: every other launch would start off a pair.
    x = jnp.ones((64, 4, 3, 5), "float32")
    with pytest.raises(UnsupportedError, match='one of "transpose"'):
        nvs.fft.plan(x, axes=(1, 3), strategy="loop")
    even = jnp.ones((64, 4, 3, 6), "float32")
    assert nvs.fft.plan(even, axes=(1, 3), strategy="loop").strategy == "loop"


def test_inverse_of_a_device_that_is_not_here():
    with pytest.raises(UnsupportedError, match='Use `technique="bound"`'):
        nvs.fft.estimate_workspace(C, technique="refined", device=jax.devices("cpu")[0])


class Foreign:
    """An array of another package, as far as nvstate looks."""

    def __dlpack__(self):
        raise AssertionError("nothing may be converted behind the user's back")


OPERANDS = {
    "dtype": (lambda: C.astype("complex128"), r"complex128\[4,8\] on cpu:0"),
    "extent": (lambda: jnp.ones((4, 9), "complex64"), r"complex64\[4,9\]"),
    "total-batch": (lambda: jnp.ones((5, 8), "complex64"), r"complex64\[5,8\]"),
    "rank": (lambda: jnp.ones(32, "complex64"), r"complex64\[32\]"),
    "numpy": (lambda: np.ones((4, 8), "complex64"), r"got:      numpy.ndarray complex64\[4,8\]"),
    "list": (lambda: [1.0], "got:      list"),
    "none": (lambda: None, "got:      NoneType"),
    "dlpack": (Foreign, r"jax\.dlpack\.from_dlpack\(x\)"),
    "device": (lambda: jax.device_put(C, jax.devices("cpu")[1]), r"complex64\[4,8\] on cpu:1"),
    "type": (lambda: jax.ShapeDtypeStruct((4, 8), "complex64"), "ShapeDtypeStruct"),
}


@pytest.mark.parametrize("name", OPERANDS)
def test_operands_that_are_not_the_plans(name):
    make, text = OPERANDS[name]
    plan = nvs.fft.plan(C, axes=(1,))
    bound = nvs.bind(plan, x=C)
    before = np.asarray(nvs.execute(bound))
    for call in (
        lambda: nvs.reset(bound, x=make()),
        lambda: nvs.bind(plan, x=make()),
        lambda: plan(make()),
        lambda: nvs.execute(plan, x=make()),
    ):
        with pytest.raises(OperandError, match=text) as raised:
            call()
        assert isinstance(raised.value, TypeError)
        assert isinstance(raised.value, ValueError)
    assert (np.asarray(nvs.execute(bound)) == before).all()


def test_memory_kinds_are_told_apart():
    pinned = jax.device_put(C, C.sharding.with_memory_kind("pinned_host"))
    bound = nvs.bind(nvs.fft.plan(C), x=C)
    with pytest.raises(OperandError, match=r"got:      complex64\[4,8\] on cpu:0 \(pinned_host\)"):
        nvs.reset(bound, x=pinned)


def test_jax_operands_of_a_numpy_plan():
    plan = nvs.fft.plan(np.ones((4, 8), "complex64"))
    with pytest.raises(OperandError, match=r"expected: numpy.ndarray .*\n  got:      jax.Array"):
        plan(C)
    with pytest.raises(OperandError, match=r"got:      a tracer(.*\n)*.*jax.ShapeDtypeStruct"):
        jax.jit(lambda x: plan(x))(C)


def test_in_place_numpy_must_be_writable():
    x = np.asarray(C)  # read-only, as NumPy's views of JAX arrays are
    plan = nvs.fft.plan(x, inplace=True)
    with pytest.raises(OperandError, match=r"read-only\n.*x\.copy\(\)"):
        plan(x)


def test_the_suggested_axes_fit_operands_of_another_rank():
    plan = nvs.fft.plan(jnp.ones((4, 8, 16), "complex64"), axes=(1, 2))
    with pytest.raises(OperandError, match=r"plan\(x, axes=\(-2, -1\)\)"):
        plan(jnp.ones((2, 2, 8, 17), "complex64"))


def test_verbs_on_the_wrong_thing():
    plan = nvs.fft.plan(C)
    for call, needed in (
        (lambda: nvs.bind(plan.spec, x=C), "`bind` needs a plan"),
        (lambda: nvs.reset(plan, x=C), "`reset` needs a bound plan"),
        (lambda: nvs.execute(plan.spec, C), "`execute` needs a bound plan"),
        (lambda: nvs.release(plan), "`release` needs a bound plan"),
        (lambda: nvs.free(nvs.bind(plan, x=C)), "`free` needs a plan"),
    ):
        with pytest.raises(OperandError, match=needed):
            call()


@pytest.mark.parametrize(("call", "name"), [(nvs.fft.plan, "plan"), (nvs.fft.irfft, "irfft")])
def test_unknown_keywords(call, name):
    with pytest.raises(TypeError, match=rf"{name}\(\) got an unexpected keyword argument 'axse'"):
        call(C, axse=1)


def test_integers_of_any_kind_are_axes():
    one = nvs.fft.plan(C, axes=(1,))
    assert nvs.fft.plan(C, axes=1) is nvs.fft.plan(C, axes=[np.int64(-1)]) is one
    assert nvs.fft.plan(C, axes=1, s=8) is nvs.fft.plan(C, axes=(1,), n=np.int32(8)) is one
    assert nvs.fft.fftn(C, axes=[1], s=[4]).shape == nvs.fft.fftn(C, 4, 1).shape == (4, 4)


def test_traced_operands_are_checked():
    plan = nvs.fft.plan(C, axes=(1,))
    with pytest.raises(
        OperandError, match=r"expected: complex64\[4,8\] on cpu:0\n.*complex64\[4,9\]"
    ):
        jax.jit(lambda x: plan(x))(jnp.ones((4, 9), "complex64"))
    with pytest.raises(OperandError, match=r"float32\[4,8\]"):
        jax.jit(nvs.execute)(nvs.reset_unchecked(nvs.bind(plan, x=C), x=R))


def test_names_and_numbers_of_operands():
    plan = nvs.fft.plan(C)
    bound = nvs.bind(plan, x=C)
    for call in (
        lambda: nvs.bind(plan),
        lambda: nvs.bind(plan, y=C),
        lambda: nvs.execute(plan),
        lambda: plan(C, C),
        lambda: plan(C, x=C),
    ):
        with pytest.raises(OperandError, match="this plan takes one operand, `x`"):
            call()
    for call in (
        lambda: nvs.reset(bound, y=C),
        lambda: nvs.reset_unchecked(bound, x=C, y=C),
    ):
        with pytest.raises(OperandError, match=r"no operand `y`(.*\n)*.*`reset\(bound, x=x\)`"):
            call()
    with pytest.raises(OperandError, match="operands beside a bound plan"):
        nvs.execute(bound, x=C)


def test_a_spec_and_an_operand_that_do_not_fit():
    spec = nvs.fft.spec(C, axes=(1,))
    with pytest.raises(OperandError, match=r"complex64 with extents \(8,\) along axes \(-1,\)"):
        nvs.fft.plan(spec, jnp.ones((4, 9), "complex64"))
    with pytest.raises(OperandError, match="does not fit the spec"):
        nvs.fft.plan(spec, jnp.ones((), "complex64"))


def test_an_operand_consumed_in_place():
    x = C * 1
    plan = nvs.fft.plan(x, inplace=True)
    bound = nvs.bind(plan, x=x)
    nvs.execute(bound)
    for call in (lambda: nvs.execute(bound), lambda: plan(x), lambda: nvs.bind(plan, x=x)):
        with pytest.raises(OperandError, match=r"`x` was consumed\n(.*\n)*.*to a binding by"):
            call()
    assert nvs.execute(nvs.reset(bound, x=C * 1)).shape == (4, 8)


def test_explicitly_sharded_transform_axes():
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    plan = nvs.fft.plan(jax.ShapeDtypeStruct((4, 8), "complex64"), axes=(1,))
    with jax.set_mesh(mesh):
        batch = jax.device_put(C, jax.P("d", None))
        assert jax.jit(lambda x: plan(x))(batch).sharding.spec == jax.P("d", None)
        axis = jax.device_put(C, jax.P(None, "d"))
        with pytest.raises(OperandError, match="axis -1 is sharded over `d`"):
            jax.jit(lambda x: plan(x))(axis)


def test_empty_batches_are_empty_results():
    x = jnp.ones((0, 8), "complex64")
    assert nvs.fft.fft(x).shape == (0, 8)
    assert nvs.fft.rfft(x.real).shape == (0, 5)
    assert nvs.fft.irfft(x).shape == (0, 14)
    y = nvs.fft.fft(np.ones((3, 0, 4), "complex128"), axis=0)
    assert y.shape == (3, 0, 4)


def test_nan_and_infinity_spread():
    x = np.ones((2, 8), "complex64")
    x[0, 3] = np.nan
    y = nvs.fft.fft(x)
    assert np.isnan(y[0]).all()
    assert np.isfinite(y[1]).all()
