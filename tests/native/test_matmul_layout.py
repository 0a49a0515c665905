"""Prevents a product of the wrong elements: cuBLASLt would read other strides without a word.

Its addressing is simulated in NumPy (gather by leading dimensions and strides, multiply, scatter),
so no GPU is needed.
"""

import itertools
import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from nvstate import _native
from tests.native.matmul_call import EPILOGS, attributes, types


def addresses(x, batch, loop, broadcasts=False):
    """Where cuBLASLt's manual says that element [batch, row, column] lies.

    A leading dimension of 0 is more than the manual promises: of C the library takes it.
    """
    start = sum(i * step for i, step in zip(loop, x["steps"], strict=True))
    row, col = (1, x["ld"]) if x["order"] == "col" else (x["ld"], 1)
    assert x["ld"] >= (x["rows"] if row == 1 else x["cols"]) or (broadcasts and x["ld"] == 0)
    rows, cols = np.arange(x["rows"])[:, None] * row, np.arange(x["cols"]) * col
    return start + np.arange(batch)[:, None, None] * x["batch_stride"] + rows + cols


def operand(x, memory, batch, loop):
    values = memory[addresses(x, batch, loop)]
    turned = values if x["op"] == "N" else values.swapaxes(1, 2)
    return turned.conj() if x["op"] == "C" else turned


def vector(x, n, batch, loop, unit=1):
    """The addresses of a bias, or of its gradient."""
    start = sum(i * step for i, step in zip(loop, x["steps"], strict=True))
    return start + np.arange(batch)[:, None] * (x["batch_stride"] // unit) + np.arange(n)


def simulated(layout, memories, size, epilog):
    """D, aux rows' starts and gradients in memory, and D's members that were written."""
    m, n, _, batch = layout["problem"]
    d = np.full(size["d"], np.nan, complex)
    aux = np.full(size.get("aux", 0), -1, np.int64)
    grad = np.full(size.get("grad", 0), np.nan, complex)
    unit = 8 if "relu" in epilog else 1
    for loop in itertools.product(*(range(count) for count in layout["loops"])):
        left = operand(layout["b"], memories["b"], batch, loop)
        right = operand(layout["a"], memories["a"], batch, loop)
        value = left @ right  # [batch, n, m]: cuBLASLt's D is column-major
        if "c" in memories:
            value = value + memories["c"][addresses(layout["c"], batch, loop, broadcasts=True)]
        if "bias" in memories:
            bias = memories["bias"][vector(layout["bias"], n, batch, loop)]
            value = value + bias[:, :, None]
        at = addresses(layout["d"], batch, loop)
        assert np.isnan(d[at]).all(), "an element is written twice"
        d[at] = value
        if "aux" in size:
            x = layout["aux"]
            assert x["ld"] % (8 * unit * 2 if unit == 8 else 8) == 0
            assert x["ld"] >= n
            first = sum(i * step for i, step in zip(loop, x["steps"], strict=True))
            members = np.arange(batch)[:, None] * x["batch_stride"] // unit
            aux[first + members + np.arange(m) * (x["ld"] // unit)] = at[:, 0, :]
        if "grad" in size:
            sums = {"bgrada": right.sum(1), "bgradb": left.sum(2)}.get(epilog, value.sum(2))
            grad[vector(layout["bgrad"], sums.shape[1], batch, loop)] = sums
    return d, aux, grad


def physical(x, layout):
    return x.transpose(layout).ravel()


def logical(memory, dims, layout):
    return memory.reshape([dims[i] for i in layout]).transpose(np.argsort(layout))


def check(m, n, k, batch=(), layouts=None, epilog="none", conjugate=(0, 0), **options):
    nb = len(batch)
    dtype = "complex64" if any(conjugate) else "float32"
    operands, results = types(m, n, k, batch, dtype, epilog=epilog, **options)
    layouts = {"a": None, "b": None, "c": None, "d": None} | (layouts or {})
    layouts = {
        name: np.arange(nb + 2 + (name == "b")) if value is None else np.array(value)
        for name, value in layouts.items()
    }
    if "c" not in options:
        layouts["c"] = np.array([], np.int64)
    call = attributes(
        nb,
        epilog=epilog,
        c=int("c" in options),
        conjugate_a=conjugate[0],
        conjugate_b=conjugate[1],
        **{f"layout_{name}": value for name, value in layouts.items()},
    )
    layout = _native.cublaslt_layout(call, operands, results)

    rng = np.random.default_rng(0)
    names = ["a", "b"] + ["c"] * ("c" in options) + ["bias"] * epilog.endswith("bias")
    values = {}
    for name, (_, dims) in zip(names, operands, strict=False):
        values[name] = rng.standard_normal(dims) + 1j * rng.standard_normal(dims)
    memories = {x: physical(v, layouts.get(x, range(v.ndim))) for x, v in values.items()}
    size = {"d": math.prod(results[0][1])}
    aux = None
    if "aux" in epilog:
        size["aux"] = math.prod(results[1][1])
        aux = results[1][1]
    elif epilog.startswith(("drelu", "dgelu")):
        aux = operands[-1][1]
        size["aux"] = math.prod(aux)
    if "bgrad" in epilog:
        size["grad"] = math.prod(results[-1][1])
    d, starts, grad = simulated(layout, memories, size, epilog)

    left = values["a"].conj() if conjugate[0] else values["a"]
    right = values["b"][..., 0, :, :]
    right = right.conj() if conjugate[1] else right
    want = np.broadcast_to(left @ right, (*batch, m, n))
    want = want + values.get("c", 0) + values.get("bias", 0)
    got = logical(d, (*batch, m, n), layouts["d"])
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)
    if "grad" in size:
        dims = results[-1][1]
        sums = {"bgrada": left.sum(-1), "bgradb": right.sum(-2)}.get(epilog, want.sum(-2))
        sums = np.broadcast_to(sums if epilog == "bgrada" else sums[..., None, :], dims)
        np.testing.assert_allclose(grad.reshape(dims), sums, rtol=0, atol=1e-11)
    if aux is not None and math.prod(aux[:-2]) == math.prod(batch):
        # Each row of the aux belongs to the row of D that was computed with it.
        rows = logical(np.arange(size["d"]), (*batch, m, n), layouts["d"])[..., 0]
        np.testing.assert_array_equal(starts.reshape(aux)[..., 0], rows)
    return layout


SIZES = [(1, 1, 1), (1, 5, 3), (4, 1, 3), (4, 5, 1), (1, 1, 3), (4, 1, 1), (1, 5, 1), (4, 5, 3)]


@pytest.mark.parametrize("conjugate", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_transposes(sizes, conjugate):
    for a, b in itertools.product([(0, 1), (1, 0)], [(0, 1, 2), (0, 2, 1)]):
        layout = check(*sizes, layouts={"a": a, "b": b}, conjugate=conjugate)
        assert layout["calls"] == 1


@pytest.mark.parametrize("epilog", EPILOGS)
@pytest.mark.parametrize("sizes", [(4, 5, 3), (3, 130, 2), (1, 9, 3), (4, 1, 3)], ids=str)
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)], ids=str)
def test_epilogs(epilog, sizes, batch):
    for a in (None, (*range(len(batch)), len(batch) + 1, len(batch))):
        check(*sizes, batch, layouts={"a": a}, epilog=epilog)
        check(*sizes, batch, layouts={"a": a}, epilog=epilog, b=(1,) * len(batch))


def test_members_of_a_alone_are_rows():
    layout = check(4, 5, 3, (2, 6), b=(1, 1))
    assert (layout["problem"], layout["folded"]) == ([48, 5, 3, 1], 12)
    layout = check(4, 5, 3, (2, 6), b=(1, 1), epilog="gelu_aux_bias", bias=(1, 1))
    assert layout["problem"] == [48, 5, 3, 1]
    layout = check(4, 5, 3, (2, 6), b=(1, 1), c=((2, 6), 4))
    assert layout["problem"] == [48, 5, 3, 1]
    layout = check(4, 5, 3, (2, 6), b=(1, 1), c=((1, 1), 1))
    assert (layout["problem"], layout["c"]["ld"]) == ([48, 5, 3, 1], 0)


def test_what_a_batch_of_rows_cannot_be():
    assert check(4, 5, 3, (6,), b=(1,), layouts={"a": (0, 2, 1)})["problem"] == [4, 5, 3, 6]
    assert check(4, 5, 3, (6,), b=(1,), c=((1,), 4))["problem"] == [4, 5, 3, 6]
    assert check(4, 5, 3, (6,), b=(1,), c=((6,), 1))["problem"] == [4, 5, 3, 6]
    assert check(4, 5, 3, (6,), b=(1,), epilog="bias")["problem"] == [4, 5, 3, 6]
    assert check(4, 5, 3, (6,), b=(1,), epilog="drelu_bgrad")["problem"] == [4, 5, 3, 6]


def test_members_of_one_row_are_rows():
    layout = check(1, 5, 3, (2, 6), b=(1, 1))
    assert (layout["problem"], layout["folded"]) == ([12, 5, 3, 1], 12)
    layout = check(1, 5, 3, (6,), b=(1,), c=((1,), 1))
    assert (layout["problem"], layout["c"]["ld"]) == ([6, 5, 3, 1], 0)
    layout = check(1, 5, 3, (6,), b=(1,), epilog="drelu")
    assert (layout["problem"], layout["aux"]["ld"]) == ([6, 5, 3, 1], 128)


@pytest.mark.parametrize("epilog", ["drelu", "drelu_bgrad", "dgelu", "dgelu_bgrad"])
def test_one_row_of_an_aux_is_no_leading_dimension_of_zero(epilog):
    layout = check(1, 5, 3, (6,), b=(1,), aux=(1,), epilog=epilog)
    assert layout["problem"] == [1, 5, 3, 6]
    assert (layout["aux"]["ld"] > 0, layout["aux"]["batch_stride"]) == (True, 0)


def test_one_row_of_a_is_no_leading_dimension_of_zero():
    layout = check(1, 5, 3, (6,), a=(1,), b=(1,), c=((6,), 1))
    assert layout["problem"] == [1, 5, 3, 6]
    assert (layout["a"]["ld"], layout["a"]["batch_stride"]) == (3, 0)
    layout = check(1, 5, 3, (2, 6), a=(2, 1), b=(1, 1))
    assert (layout["problem"], layout["a"]["batch_stride"]) == ([2, 5, 3, 6], 0)


def test_members_of_one_row_that_lie_apart_are_no_rows():
    """A fold would leave `a` without a dimension that is innermost."""
    layout = check(1, 5, 3, (2, 6), b=(1, 1), layouts={"a": (1, 3, 0, 2)})
    assert layout["problem"] == [2, 5, 3, 6]
    layout = check(1, 5, 3, (6,), b=(1,), layouts={"a": (2, 1, 0)})  # here members are innermost
    assert (layout["problem"], layout["a"]["op"], layout["a"]["ld"]) == ([6, 5, 3, 1], "T", 6)


@pytest.mark.parametrize("options", [{"epilog": "bgrada"}, {"conjugate": (1, 0)}], ids=str)
def test_members_of_one_row_are_no_rows_where_rows_must_be_innermost(options):
    for a in ((0, 2, 1), (0, 1, 2)):  # the same bytes
        layout = check(1, 5, 3, (6,), b=(1,), layouts={"a": a}, **options)
        assert (layout["problem"], layout["a"]["order"]) == ([1, 5, 3, 6], "col")
        assert layout["a"]["op"] == ("C" if "conjugate" in options else "T")
    layout = check(1, 5, 3, (6,), b=(1,), layouts={"a": (2, 0, 1)}, **options)
    assert (layout["problem"], layout["a"]["order"]) == ([6, 5, 3, 1], "col")


def test_broadcast_has_stride_zero():
    layout = check(4, 5, 3, (6,), a=(1,))
    assert layout["problem"] == [4, 5, 3, 6]
    assert (layout["a"]["batch_stride"], layout["b"]["batch_stride"]) == (0, 15)


def test_outer_product_of_batches_loops_over_the_smaller():
    layout = check(4, 5, 3, (2, 7), a=(2, 1), b=(1, 7))
    assert (layout["problem"], layout["loops"], layout["calls"]) == ([4, 5, 3, 7], [2], 2)
    layout = check(4, 5, 3, (9, 7), a=(9, 1), b=(1, 7))
    assert (layout["problem"], layout["loops"]) == ([4, 5, 3, 9], [7])


def test_batch_between_the_matrix_dimensions():
    """What vmap over an inner axis makes, without a copy."""
    layout = check(4, 5, 3, (6,), layouts={"a": (1, 0, 2), "b": (1, 2, 0, 3), "d": (1, 0, 2)})
    assert (layout["a"]["ld"], layout["a"]["batch_stride"]) == (18, 3)
    assert (layout["problem"], layout["calls"]) == ([4, 5, 3, 6], 1)


def test_one_bgradb_for_all_members_is_written_by_one_call_after_the_other():
    layout = check(4, 5, 3, (6,), b=(1,), grad=(1,), layouts={"a": (0, 2, 1)}, epilog="bgradb")
    assert (layout["problem"], layout["loops"]) == ([4, 5, 3, 1], [6])
    assert check(4, 5, 3, (6,), b=(1,), grad=(1,), epilog="bgradb")["calls"] == 1


def test_forms_that_gradients_of_biases_want():
    """Column-major, and a transposed and b not, where the bytes allow it."""
    for a, op in (((0, 1), "N"), ((1, 0), "T")):
        x = check(4, 5, 3, layouts={"a": a}, epilog="bgrada")["a"]
        assert (x["op"], x["order"]) == (op, "col")
        for m, k in ((4, 1), (1, 3)):
            assert check(m, 5, k, layouts={"a": a}, epilog="bgrada")["a"]["op"] == "T"
    for b, op in (((0, 1, 2), "N"), ((0, 2, 1), "T")):
        x = check(4, 5, 3, layouts={"b": b}, epilog="bgradb")["b"]
        assert (x["op"], x["order"]) == (op, "col")
        for n, k in ((5, 1), (1, 3)):
            assert check(4, n, k, layouts={"b": b}, epilog="bgradb")["b"]["op"] == "N"


def test_a_conjugate_is_column_major_where_its_bytes_allow_it():
    """Of row order the library takes none."""
    for a, order in (((0, 1), "row"), ((1, 0), "col")):
        x = check(4, 5, 3, layouts={"a": a}, conjugate=(1, 0))["a"]
        assert (x["op"], x["order"]) == ("C", order)
        for m, k in ((4, 1), (1, 3), (1, 1)):
            x = check(m, 5, k, layouts={"a": a}, conjugate=(1, 0))["a"]
            assert (x["op"], x["order"]) == ("C", "col")
    for b, order in (((0, 1, 2), "row"), ((0, 2, 1), "col")):
        assert check(4, 5, 3, layouts={"b": b}, conjugate=(0, 1))["b"]["order"] == order
        for n, k in ((5, 1), (1, 3), (1, 1)):
            x = check(4, n, k, layouts={"b": b}, conjugate=(0, 1))["b"]
            assert (x["op"], x["order"]) == ("C", "col")


def test_k_innermost_is_what_eight_bits_want():
    layout = check(32, 64, 48, layouts={"b": (0, 2, 1)})
    assert (layout["b"]["op"], layout["a"]["op"]) == ("T", "N")
    assert (layout["b"]["order"], layout["a"]["order"]) == ("col", "col")


@hypothesis.given(st.data())
def test_any_problem(data):
    nb = data.draw(st.integers(0, 3))
    size = st.sampled_from([1, 1, 2, 3])
    m, n, k = (data.draw(st.sampled_from([1, 2, 3, 9])) for _ in range(3))
    batch = tuple(data.draw(size) for _ in range(nb))
    epilog = data.draw(st.sampled_from(EPILOGS))
    options = {
        name: tuple(data.draw(st.sampled_from([1, b])) for b in batch)
        for name in ("a", "b", "bias", "aux")
    }
    if "_aux" in epilog:
        del options["aux"]
    if epilog in ("bgrada", "bgradb"):
        reduced = options[epilog[-1]]
        options["grad"] = tuple(
            data.draw(st.sampled_from([r, b])) for r, b in zip(reduced, batch, strict=True)
        )
    if data.draw(st.booleans()):
        rows = data.draw(st.sampled_from([1, m]))
        options["c"] = (tuple(data.draw(st.sampled_from([1, b])) for b in batch), rows)
    layouts = {}
    for name, last in (
        ("a", (nb, nb + 1)),
        ("b", (nb + 1, nb + 2)),
        ("c", (nb + 1,)),
        ("d", (nb + 1,)),
    ):
        inner = data.draw(st.sampled_from(last))
        rank = nb + 2 + (name == "b")
        rest = data.draw(st.permutations([i for i in range(rank) if i != inner]))
        layouts[name] = (*rest, inner)
    conjugate = data.draw(st.sampled_from([(0, 0), (1, 0), (0, 1)]))
    check(m, n, k, batch, layouts, epilog, conjugate, **options)


def refused(text, *args, changes=None, **kwargs):
    operands, results = types(*args, **kwargs)
    call = attributes(len(kwargs.get("batch", ())), epilog=kwargs.get("epilog", "none"))
    with pytest.raises(ValueError, match=text):
        _native.cublaslt_layout(call | (changes or {}), operands, results)


def test_what_does_not_fit_is_refused():
    refused(
        "neither of the matrix dimensions of `a` is the innermost",
        4,
        5,
        3,
        batch=(2,),
        changes={"layout_a": np.array([1, 2, 0])},
    )
    refused("N is not the innermost of `d`", 4, 5, 3, changes={"layout_d": np.array([1, 0])})
    refused("K is 0", 4, 5, 0)
    refused(
        r"`b` is float32\[3,1,3,5\], expected dimensions \[2,1,3,5\], where those of the batch",
        4,
        5,
        3,
        batch=(2,),
        b=(3,),
    )
    refused("`layout_a` is not a permutation of 2", 4, 5, 3, changes={"layout_a": np.array([0, 0])})
    refused(
        "`bgrad` lacks batch dimension 0",
        4,
        5,
        3,
        batch=(2,),
        grad=(1,),
        epilog="bgrada",
    )
    refused("`aux` lacks batch dimension 0", 4, 5, 3, batch=(2,), aux=(1,), epilog="gelu_aux")
    refused(
        "`a`, `b`, `scale_a`, `scale_b`, `d` expected, got 3",
        4,
        5,
        3,
        changes={"scaling_a": "tensor", "scaling_b": "tensor"},
    )


def test_an_amax_is_of_one_native_call():
    operands, results = types(4, 5, 3, (2, 7), a=(2, 1), b=(1, 7))
    with pytest.raises(ValueError, match="an amax or scales by blocks belong to one native call"):
        _native.cublaslt_layout(
            attributes(2, result_amax=1), operands, [*results, ("float32", (1, 1, 1))]
        )


def test_buffers_beside_the_product_are_checked():
    call = attributes(result_amax=1)
    operands, results = types(4, 5, 3)
    with pytest.raises(ValueError, match=r"`amax` is float32\[2\], expected one number"):
        _native.cublaslt_layout(call, operands, [*results, ("float32", (2,))])
    with pytest.raises(ValueError, match="operands and results `a`, `b`, `d` expected, got 4"):
        _native.cublaslt_layout(attributes(), operands, [*results, ("float32", ())])


@pytest.mark.parametrize(
    ("mode", "dtype", "a", "b"),
    [
        ("tensor", "float32", (1,), ()),
        ("outer", "float32", (256,), (384,)),
        ("1x128", "float32", (5, 256), (5, 384)),
        ("128x128", "float32", (2, 8), (3, 8)),
        ("mxfp8", "float8_e8m0fnu", (256 * 20,), (384 * 20,)),
        ("nvfp4", "float8_e4m3fn", (256 * 40,), (384 * 40,)),
    ],
)
def test_scales_by_mode(mode, dtype, a, b):
    operands, results = types(256, 384, 640, dtype="float8_e4m3fn")
    call = attributes(
        scaling_a=mode, scaling_b=mode, layout_b=np.array([0, 2, 1]), c_type="bfloat16"
    )
    _native.cublaslt_layout(call, [*operands, (dtype, a), (dtype, b)], results)
    with pytest.raises(ValueError, match=f"`scale_b` is .* scales of mode {mode}"):
        _native.cublaslt_layout(call, [*operands, (dtype, a), (dtype, (7,))], results)


def test_scales_by_blocks_and_batches():
    def asked(mode, dtype, **extra):
        operands, results = types(128, 128, 128, (2,), dtype="float8_e4m3fn", **extra)
        count = {"outer": 128, "mxfp8": 2 * 128 * 4}[mode]
        call = attributes(1, scaling_a=mode, scaling_b=mode, c_type="bfloat16")
        return _native.cublaslt_layout(call, [*operands, *[(dtype, (count,))] * 2], results)

    assert asked("mxfp8", "float8_e8m0fnu")["problem"] == [128, 128, 128, 2]
    with pytest.raises(ValueError, match="`b` lacks batch dimension 0"):
        asked("mxfp8", "float8_e8m0fnu", b=(1,))
    with pytest.raises(ValueError, match="are for one product, not for a batch"):
        asked("outer", "float32")
