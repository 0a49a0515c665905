"""Prevents an FFT of the wrong elements: cuFFT would read strides that are off without a word.

cuFFT's addressing is simulated in NumPy (gather by embeddings, transform, scatter), so no GPU is
needed.
"""

import itertools
import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from nvstate import _native


def problem(kind, sizes, axes, lengths=None):
    """A problem's dimensions from extents in memory order, as the native library takes them.

    `axes` are places in memory, outermost first; `lengths` shorter than their extents crop.
    """
    lengths = list(lengths or (sizes[axis] for axis in axes))
    batch = [place for place in range(len(sizes)) if place not in axes]
    order = [*batch, *axes]  # of each logical dimension, its place in memory
    half = [*lengths[:-1], lengths[-1] // 2 + 1]
    x = [sizes[place] for place in order]
    if kind == "c2r" and x[-1] == lengths[-1]:
        x[-1] = half[-1]
    y = [*x[: len(batch)], *(half if kind == "r2c" else lengths)]
    layout = np.argsort(order).tolist()
    return {"kind": kind, "x_dims": x, "y_dims": y, "lengths": lengths, "layout": layout}


def transform(kind, x, lengths, inverse):
    if kind == "r2c":
        return np.fft.rfftn(x, s=lengths, axes=range(-len(lengths), 0))
    if kind == "c2r":
        return np.fft.irfftn(x, s=lengths, axes=range(-len(lengths), 0), norm="forward")
    function = np.fft.ifftn if inverse else np.fft.fftn
    return function(x, s=lengths, axes=range(-len(lengths), 0), norm="backward")


def addresses(side, shape, batch):
    """Where cuFFT's manual says that element [batch, *index] lies."""
    nested = np.zeros(shape, np.int64)
    for axis, index in enumerate(np.indices(shape, sparse=True)):
        nested = nested * (side["embed"][axis] if axis else 1) + index
    members = np.arange(batch).reshape(-1, *[1] * len(shape)) * side["dist"]
    return members + nested * side["stride"]


def simulated(layout, kind, x, size, inverse):
    half = [*layout["n"][:-1], layout["n"][-1] // 2 + 1]
    x_at = addresses(layout["x"], half if kind == "c2r" else layout["n"], layout["batch"])
    y_at = addresses(layout["y"], half if kind == "r2c" else layout["n"], layout["batch"])
    y = np.full(size, np.nan, float if kind == "c2r" else complex)
    for index in itertools.product(*(range(count) for count, _, _ in layout["loops"])):
        steps = list(zip(index, layout["loops"], strict=True))
        x_off = sum(i * x_step for i, (_, x_step, _) in steps)
        y_off = sum(i * y_step for i, (_, _, y_step) in steps)
        assert np.isnan(y[y_at + y_off]).all(), "an element is written twice"
        y[y_at + y_off] = transform(kind, x[x_at + x_off], layout["n"], inverse)
    return y


def check(kind, sizes, axes, lengths=None, inverse=False):
    args = problem(kind, sizes, axes, lengths)
    lengths, places = args["lengths"], args["layout"]
    rng = np.random.default_rng(0)
    x = rng.standard_normal(args["x_dims"])
    if kind != "r2c":
        x = x + 1j * rng.standard_normal(x.shape)
    half = [*lengths[:-1], lengths[-1] // 2 + 1]
    used = tuple(slice(n) for n in (half if kind == "c2r" else lengths))
    want = transform(kind, x[(..., *used)], lengths, inverse)

    layout = _native.cufft_layout(**args)
    got = simulated(layout, kind, x.transpose(places).ravel(), math.prod(args["y_dims"]), inverse)
    got = got.reshape([args["y_dims"][d] for d in places]).transpose(np.argsort(places))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * (1 + np.abs(want).max()))
    return layout


KINDS = ["c2c", "r2c", "c2r"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5])
def test_every_choice_of_axes(kind, rank):
    for count in (1, 2, 3):
        for axes in itertools.combinations(range(rank), count):
            check(kind, [3, 4, 5, 2, 3][:rank], axes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(1,), (1, 1, 1), (4, 1, 3), (1, 4, 1, 3, 1), (3, 1, 1, 5)])
def test_extents_of_one(kind, sizes):
    for count in (1, 2, 3):
        for axes in itertools.combinations(range(len(sizes)), count):
            check(kind, sizes, axes)


@hypothesis.given(st.data())
def test_any_problem(data):
    kind = data.draw(st.sampled_from(KINDS))
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    count = data.draw(st.integers(1, min(3, len(sizes))))
    axes = sorted(data.draw(st.permutations(range(len(sizes))))[:count])
    lengths = [data.draw(st.integers(1, sizes[axis])) for axis in axes]
    if kind == "c2r":  # up to the length that the operand's extent can hold
        lengths[-1] = data.draw(st.integers(1, max(1, 2 * (sizes[axes[-1]] - 1) + 1)))
        hypothesis.assume(lengths[-1] != sizes[axes[-1]])
    check(kind, sizes, axes, lengths, inverse=data.draw(st.booleans()))


def test_leading_axis_is_one_strided_call():
    layout = check("c2c", [5, 3, 4], [0])
    assert layout == {
        "n": [5],
        "x": {"embed": [5], "stride": 12, "dist": 1},
        "y": {"embed": [5], "stride": 12, "dist": 1},
        "batch": 12,
        "loops": [],
    }


def test_batch_between_axes_is_one_call():
    layout = check("r2c", [3, 4, 8], [0, 2])
    assert layout["x"] == {"embed": [3, 32], "stride": 1, "dist": 8}
    assert layout["y"] == {"embed": [3, 20], "stride": 1, "dist": 5}
    assert (layout["batch"], layout["loops"]) == (4, [])


def test_middle_axis_loops_over_the_smaller_run():
    layout = check("c2c", [2, 5, 3], [1])
    assert (layout["batch"], layout["x"]["dist"], layout["loops"]) == (3, 1, [[2, 15, 15]])
    layout = check("c2c", [7, 5, 3], [1])
    assert (layout["batch"], layout["x"]["dist"], layout["loops"]) == (7, 15, [[3, 1, 1]])


def test_crop_is_an_embedding():
    layout = check("c2c", [3, 8, 6], [1, 2], lengths=[5, 4])
    assert (layout["x"]["embed"], layout["x"]["dist"]) == ([8, 6], 48)
    assert (layout["y"]["embed"], layout["y"]["dist"]) == ([5, 4], 20)


def test_crop_of_a_length_one_axis():
    check("c2c", [3, 8, 6], [1, 2], lengths=[1, 4])
    check("r2c", [3, 8, 6], [1, 2], lengths=[1, 4])
    check("c2c", [3, 8, 6], [0, 1], lengths=[1, 1])


def test_halved_axis_of_length_one_may_lie_anywhere():
    """Its elements are index 0 alone, so no order in memory can be wrong."""
    args = problem("r2c", [1, 6, 4], [0, 1])
    args |= {"layout": [2, 1, 0], "x_dims": [4, 6, 1], "y_dims": [4, 6, 1], "lengths": [6, 1]}
    layout = _native.cufft_layout(**args)
    x = np.random.default_rng(0).standard_normal(24)
    got = simulated(layout, "r2c", x, 24, False).reshape(6, 4).T
    np.testing.assert_allclose(got, np.fft.fft(x.reshape(6, 4).T), atol=1e-12)


@pytest.mark.parametrize("extent", [1, 2])
def test_axis_of_length_one_may_lie_anywhere(extent):
    """Here inside the axis that it precedes; a crop to one element is as good."""
    args = problem("c2c", [3, 1, 4], [1, 2])
    args |= {"layout": [0, 2, 1], "x_dims": [3, extent, 4]}
    x = np.random.default_rng(0).standard_normal((3, 4, extent))
    got = simulated(_native.cufft_layout(**args), "c2c", x.ravel(), 12, False).reshape(3, 4)
    np.testing.assert_allclose(got, np.fft.fft(x[:, :, 0]), atol=1e-12)


def test_single_elements_in_a_batch():
    assert check("c2c", [1024, 1], [1])["batch"] == 1024
    assert check("c2c", [1, 1024], [0])["batch"] == 1024


def test_empty_batch_has_nothing_to_transform():
    assert _native.cufft_layout(**problem("c2c", [0, 4], [1]))["batch"] == 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"layout": [0, 2, 1]}, "outermost to innermost"),
        ({"layout": [0, 1, 1]}, "not a permutation"),
        ({"layout": [0, 1, 3]}, "not a permutation"),
        (
            {"x_dims": [2, 3, 4]},
            "dimension 2 of a transform of length 5: at least 5 in the operand",
        ),
        ({"y_dims": [2, 4, 5]}, "3 in the result expected, got 3 and 4"),
        ({"y_dims": [3, 3, 5]}, "batch dimension 0 differs"),
        ({"lengths": [3, 0]}, "length must be positive, got 0"),
        ({"lengths": []}, "one to three transform lengths"),
        ({"lengths": [2, 3, 5, 1]}, "one to three transform lengths"),
        ({"kind": "c2x"}, "kind c2c, r2c or c2r expected, got c2x"),
    ],
)
def test_what_does_not_fit_is_refused(change, text):
    with pytest.raises(ValueError, match=text):
        _native.cufft_layout(**(problem("c2c", [2, 3, 5], [1, 2]) | change))
