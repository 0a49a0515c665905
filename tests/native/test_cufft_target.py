"""Prevents copies around the real target, and a bad attribute that is found only at run time.

Programs are compiled for a described H100; nothing runs.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvstate import _native
from tests.deviceless import compile_h100, topology

X = jax.ShapeDtypeStruct((32, 64, 128), jnp.complex64)
COPIES = re.compile(r" (transpose|copy|copy-start|gather|all-gather-start)\(")
ATTRIBUTES = {
    "v": 1,
    "owner": 7,
    "kind": "c2c",
    "inverse": 0,
    "lengths": np.array([32], np.int64),
    "layout": np.array([2, 0, 1], np.int64),
}


@pytest.fixture(autouse=True, scope="module")
def _registered():
    topology()
    _native.register()


def along_axis_0(x, aliases=None, **changes):
    """The target on logical (64, 128, 32), whose buffer is still (32, 64, 128)."""
    attributes = {k: v for k, v in (ATTRIBUTES | changes).items() if v is not None}
    moved = jax.lax.transpose(x, (1, 2, 0))
    call = jax.ffi.ffi_call(
        "nvstate_cufft_v1",
        [
            jax.ShapeDtypeStruct(moved.shape, moved.dtype),
            jax.ShapeDtypeStruct((1, 1, 1 << 20), jnp.uint8),
        ],
        input_layouts=[(2, 0, 1)],
        output_layouts=[(2, 0, 1), (0, 1, 2)],
        input_output_aliases=aliases,
    )
    return jax.lax.transpose(call(moved, **attributes)[0], (2, 0, 1))


def test_layout_replaces_transposes():
    hlo, _, memory = compile_h100(lambda x: along_axis_0(along_axis_0(x) + 1), X)
    assert hlo.count(" custom-call(") == 2
    assert not COPIES.search(hlo)
    # One intermediate and one workspace that both calls share.
    assert 0 <= memory.temp_size_in_bytes - (3 << 20) < 4096


def test_in_place_survives_scan():
    def loop(x):
        return jax.lax.scan(lambda c, _: (along_axis_0(c, {0: 0}), None), x, length=4)[0]

    hlo, _, memory = compile_h100(loop, X, donate_argnums=0)
    assert "output_to_operand_aliasing={{0}: (0, {})}" in hlo
    assert memory.alias_size_in_bytes == 2 << 20
    assert not re.search(r"= c64\S* copy", hlo)


def test_calls_form_one_command_buffer():
    def chain(x, n=6):
        return x if n == 0 else chain(along_axis_0(x * n), n - 1)

    outside, inside = compile_h100(chain, X).thunks.split("kCommandBuffer")
    assert "kCustomCall" not in outside
    assert len(re.findall(r": kCustomCall ", inside)) == 6


ERRORS = {
    "version": ({"v": 2}, "attributes of version 1 expected"),
    "no-version": ({"v": None}, "attribute `v` is missing or not an integer"),
    "no-owner": ({"owner": None}, "attribute `owner` is missing or not an integer"),
    "unknown": ({"norm": 1}, "unknown attribute `norm`"),
    "wrong-type": ({"kind": 1}, "attribute `kind` is missing or not a string"),
    "int32": (
        {"lengths": np.array([32], np.int32)},
        "`lengths` is missing or not an array of int64",
    ),
    "kind": ({"kind": "c2x"}, "kind c2c, r2c or c2r expected, got c2x"),
    "inverse-r2c": ({"kind": "r2c", "inverse": 1}, "r2c is forward and c2r inverse"),
    "no-lengths": ({"lengths": np.array([], np.int64)}, "lengths expected"),
    "zero": ({"lengths": np.array([0], np.int64)}, "length must be positive, got 0"),
    "not-a-permutation": ({"layout": np.array([2, 2, 1], np.int64)}, "not a permutation"),
    "order": (
        {"lengths": np.array([8, 4], np.int64), "layout": np.array([2, 0, 1], np.int64)},
        "outermost to innermost",
    ),
}


@pytest.mark.parametrize(("changes", "text"), ERRORS.values(), ids=ERRORS)
def test_bad_attribute_is_an_error_of_compile(changes, text):
    with pytest.raises(jax.errors.JaxRuntimeError) as raised:
        compile_h100(lambda x: along_axis_0(x, **changes), X)
    assert re.match(r"INVALID_ARGUMENT: nvstate\.fft: ", str(raised.value))
    assert text in str(raised.value)
