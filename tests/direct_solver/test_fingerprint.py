"""Fingerprints of values: the same wherever they are computed, and others for other values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvstate.direct_solver.fingerprint import _LANES, fingerprint
from tests.direct_solver import oracle

DTYPES = ("float32", "float64", "complex64", "complex128")
NNZ = 37
printed = jax.jit(fingerprint)


def values_of(dtype, members=2):
    """Two members, with both zeros among them."""
    values = oracle.random(np.random.default_rng(6), (members, NNZ), dtype)
    values[:, 3] = 0
    return values


def by_definition(values):
    """The lanes in Python's integers, from the last word to the first."""
    found = []
    for row in values:
        words = row.view(np.uint32).tolist()
        lanes = []
        for spread, first, second in _LANES:
            total = 0
            for place in reversed(range(len(words))):
                z = words[place] ^ ((place * spread + 1) & 0xFFFFFFFF)
                z = ((z ^ (z >> 16)) * first) & 0xFFFFFFFF
                z = ((z ^ (z >> 13)) * second) & 0xFFFFFFFF
                total += z ^ (z >> 16)
            lanes.append(total & 0xFFFFFFFF)
        found.append([*lanes, int(not np.isfinite(row).all()), 0])
    return np.array(found, np.uint32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_definition(dtype):
    """The sum of all words, each mixed with its place, in whatever order."""
    values = values_of(dtype)
    want = by_definition(values)
    got = printed(values)
    assert got.dtype == np.uint32
    np.testing.assert_array_equal(got, want)
    each = jax.vmap(lambda v: fingerprint(v[None])[0])(jnp.asarray(values))
    np.testing.assert_array_equal(each, want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_bit_changes_both_lanes(dtype):
    values = values_of(dtype, 1)[0]
    words = values.view(np.uint32)
    bent = np.repeat(words[None], words.size * 32, axis=0)
    for i in range(bent.shape[0]):
        bent[i, i // 32] ^= np.uint32(1 << i % 32)
    prints = np.asarray(printed(jnp.asarray(bent.view(values.dtype))))
    own = np.asarray(printed(jnp.asarray(values[None])))[0]
    assert (prints[:, :2] != own[:2]).all()
    assert len({tuple(p) for p in prints[:, :2].tolist()}) == len(prints)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_order_counts(dtype):
    values = values_of(dtype, 1)[0]
    rng = np.random.default_rng(1)
    turned = np.stack([values, values[::-1], np.roll(values, 1), rng.permutation(values)])
    if values.dtype.kind == "c":
        turned = np.concatenate([turned, (values.imag + 1j * values.real)[None]]).astype(dtype)
    prints = np.asarray(printed(jnp.asarray(turned)))[:, :2]
    assert len({tuple(p) for p in prints.tolist()}) == len(turned)
    assert len(set(prints[:, 0])) == len(set(prints[:, 1])) == len(turned)


def test_zeros_and_equal_values_have_prints_of_their_own():
    """Any length of zeros, and both signs of zero."""
    prints = {tuple(np.asarray(printed(jnp.zeros((1, n))))[0]) for n in (1, 2, 3, 8)}
    assert len(prints) == 4
    signs = jnp.array([[0.0, 0.0], [-0.0, 0.0], [0.0, -0.0]])
    assert len({tuple(p) for p in np.asarray(printed(signs)).tolist()}) == 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_is_told(dtype):
    values = np.repeat(values_of(dtype, 1), 4, axis=0)
    values[1, :2] = np.nan
    values[2, -1] = np.inf
    if values.dtype.kind == "c":
        values[3, 5] = complex(1, -np.inf)
    else:
        values[3, 5] = -np.inf
    np.testing.assert_array_equal(printed(jnp.asarray(values))[:, 2], [0, 1, 1, 1])
    largest = np.full((1, 4), np.finfo(dtype).max, dtype)  # their sum is infinite
    assert printed(jnp.asarray(largest))[0, 2] == 0
