"""Prevents copies around the real targets, and a bad attribute that is found only at run time.

Programs are compiled for a described H100; nothing runs.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvstate import _native
from tests.deviceless import compile_h100, topology
from tests.native.matmul_call import attributes

A = jax.ShapeDtypeStruct((8, 64, 128), jnp.bfloat16)
B = jax.ShapeDtypeStruct((8, 32, 128), jnp.bfloat16)  # transposed
COPIES = re.compile(r" (transpose|copy|copy-start|gather|all-gather-start|pad)\(")
WORKSPACE = jax.ShapeDtypeStruct((1, 1, 1 << 20), jnp.uint8)


@pytest.fixture(autouse=True, scope="module")
def _registered():
    topology()
    _native.register()


def product(a, b, aliases=None, addend=None, **changes):
    """A B transposed, as lowering will call it: a transpose is a layout."""
    call = jax.ffi.ffi_call(
        "nvstate_cublaslt_matmul_v1",
        [jax.ShapeDtypeStruct((*a.shape[:2], b.shape[1]), a.dtype), WORKSPACE],
        input_layouts=[(0, 1, 2), (0, 1, 3, 2), *([] if addend is None else [(0, 1, 2)])],
        output_layouts=[(0, 1, 2), (0, 1, 2)],
        input_output_aliases=aliases,
    )
    b = b.swapaxes(1, 2)[:, None]
    more = {"layout_b": np.array([0, 1, 3, 2])} | changes
    return call(a, b, *([] if addend is None else [addend]), **attributes(1, **more))[0]


def test_layout_replaces_transposes():
    square = jax.ShapeDtypeStruct((8, 128, 128), jnp.bfloat16)
    hlo, _, memory = compile_h100(lambda a, b: product(product(a, b) + 1, b), A, square)
    assert hlo.count(" custom-call(") == 2
    assert not COPIES.search(hlo)
    # One intermediate and one workspace that both calls share.
    assert 0 <= memory.temp_size_in_bytes - (1 << 20) - 2 * 8 * 64 * 128 < 4096


def test_in_place_survives_scan():
    def loop(a, b, c):
        step = lambda c, _: (product(a, b, {2: 0}, c, c=1), None)  # noqa: E731
        return jax.lax.scan(step, c, length=4)[0]

    c = jax.ShapeDtypeStruct((8, 64, 32), jnp.bfloat16)
    hlo, _, memory = compile_h100(loop, A, B, c, donate_argnums=2)
    assert "output_to_operand_aliasing={{0}: (2, {})}" in hlo
    assert memory.alias_size_in_bytes == 2 * 8 * 64 * 32
    assert not re.search(r"= bf16\S* copy", hlo)


def test_calls_form_one_command_buffer():
    def chain(a, b, n=6):
        return a if n == 0 else chain(product(a * n, b), b, n - 1)

    square = jax.ShapeDtypeStruct((8, 128, 128), jnp.bfloat16)
    outside, inside = compile_h100(chain, A, square).thunks.split("kCommandBuffer")
    assert "kCustomCall" not in outside
    assert len(re.findall(r": kCustomCall ", inside)) == 6


def measured(a, b, **changes):
    """The other target: its results are times, those of the product, workspace and flush."""
    flush = jax.ShapeDtypeStruct((1 << 20,), jnp.uint8)
    call = jax.ffi.ffi_call(
        "nvstate_cublaslt_autotune_v1",
        [
            jax.ShapeDtypeStruct((10, 2), jnp.float32),
            jax.ShapeDtypeStruct((*a.shape[:2], b.shape[1]), a.dtype),
            WORKSPACE,
            flush,
        ],
    )
    more = {"seed": 0, "algorithms": np.zeros(16, np.uint64), "problems": np.zeros(8, np.int64)}
    return call(a, b.swapaxes(1, 2)[:, None], **attributes(1, **(more | changes)))[0]


def test_autotune_is_never_captured():
    def six(a, b):
        return [measured(a * n, b) for n in range(6)]

    thunks = compile_h100(six, A, B).thunks
    assert "kCustomCall" in thunks.split("kCommandBuffer")[0]


ERRORS = {
    "version": ({"v": 2}, "attributes of version 1 expected"),
    "no-version": ({"v": None}, "attribute `v` is missing or not an integer"),
    "no-owner": ({"owner": None}, "attribute `owner` is missing or not an integer"),
    "unknown": ({"norm": 1}, "unknown attribute `norm`"),
    "wrong-type": ({"epilog": 1}, "attribute `epilog` is missing or not a string"),
    "not-float": ({"max_waves": 1}, "attribute `max_waves` is missing or not a float64"),
    "int32": ({"layout_a": np.arange(3, dtype=np.int32)}, "`layout_a` is missing or not an array"),
    "signed": ({"algorithms": np.zeros(8, np.int64)}, "not an array of uint64"),
    "epilog": ({"epilog": "selu"}, "epilog `selu` is none of none, relu, gelu, bias"),
    "compute": ({"compute_type": "fast"}, "compute type `fast` is none of float16,"),
    "scale": ({"scale_type": "float8_e5m2"}, "scale type float8_e5m2 is none of cuBLASLt's"),
    "dtype": ({"c_type": "float31"}, "dtype float31 is none of cuBLASLt's"),
    "scaling": ({"scaling_a": "rows"}, "scaling `rows` is none of none, tensor, outer"),
    "batch": ({"batch": -1}, "attribute `batch` is a number of dimensions"),
    "rank": ({"batch": 2}, "attribute `layout_a` is not a permutation of 4 dimensions"),
    "c-layout": ({"c": 1}, "attribute `layout_c` is not a permutation of 3 dimensions"),
    "alpha": ({"alpha": np.array([1.0])}, "attribute `alpha` has a real and an imaginary part"),
    "imaginary": ({"beta": np.array([0.0, 1.0])}, "alpha and beta are real for this scale type"),
    "integer": (
        {"alpha": np.array([0.5, 0.0]), "scale_type": "int32"},
        "alpha and beta are integers here",
    ),
    "mask": ({"reduction_mask": 8}, "attribute `reduction_mask` has three bits"),
    "aux-scale": ({"scale_aux": 1, "epilog": "relu_aux"}, "a mask or no aux has no `scale_aux`"),
    "aux-amax": ({"aux_amax": 1, "epilog": "dgelu"}, "a mask or no aux has no `aux_amax`"),
    "algorithm": (
        {"algorithms": np.zeros(8, np.uint64)},
        "`algorithms` has 8 words and `problems` 4 numbers for each",
    ),
}


@pytest.mark.parametrize(("changes", "text"), ERRORS.values(), ids=ERRORS)
def test_bad_attribute_is_an_error_of_compile(changes, text):
    changes = {"layout_c": np.array([], np.int64)} | changes
    with pytest.raises(jax.errors.JaxRuntimeError) as raised:
        compile_h100(lambda a, b: product(a, b, **changes), A, B)
    assert re.match(r"INVALID_ARGUMENT: nvstate\.matmul: ", str(raised.value))
    assert text in str(raised.value)


def test_bad_attribute_of_autotune_is_an_error_of_compile():
    with pytest.raises(jax.errors.JaxRuntimeError) as raised:
        compile_h100(lambda a, b: measured(a, b, seed=None), A, B)
    assert "nvstate.matmul: attribute `seed` is missing" in str(raised.value)
