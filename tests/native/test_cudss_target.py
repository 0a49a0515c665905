"""Prevents a bad attribute that is found only at run time, and a call that XLA must not capture.

Programs are compiled for a described H100; nothing runs.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

from nvstate import _native
from tests.deviceless import compile_h100, topology
from tests.native.cudss_call import System


@pytest.fixture(autouse=True, scope="module")
def _registered():
    topology()
    _native.register()


def plan(**options):
    return System((sp.eye(8) + sp.eye(8, k=1)).tocsr(), **options)


VALUES = jax.ShapeDtypeStruct((1, 15), jnp.float64)
B = jax.ShapeDtypeStruct((1, 3, 8), jnp.float64)


def test_phases_compile_and_are_not_captured():
    system = plan()

    def phases(v, b):
        x, ticket, _ = system.factorize_solve(v, b)
        other, _ = system.factorize(v * 2)
        x = system.solve(v, ticket, x) + system.solve(v * 2, other, x, transposed=1)
        return x, system.diagonal(v, ticket)

    hlo, thunks, _ = compile_h100(phases, VALUES, B)
    assert hlo.count('custom_call_target="nvstate_cudss_v1"') == 5
    for part in thunks.split("kCommandBuffer")[1:]:
        assert "nvstate_cudss" not in part.split("\n\n")[0]


ERRORS = {
    "version": ({"v": 2}, "attributes of version 1 expected"),
    "no-ring": ({"ring": None}, "attribute `ring` is missing or not a string"),
    "unknown": ({"norm": 1}, "unknown attribute `norm`"),
    "type": ({"matrix_type": "banded"}, "attribute `matrix_type` is `banded`"),
    "symmetric": (
        {"matrix_type": "symmetric", "transposed": 1},
        "only a general matrix is solved transposed",
    ),
    "colamd": (
        {"reordering": "colamd", "transposed": 1},
        "cuDSS does not solve transposed systems with reordering `colamd`",
    ),
    "slots": ({"slots": 0}, "attribute `slots` is below 1"),
}


@pytest.mark.parametrize(("changes", "text"), ERRORS.values(), ids=ERRORS)
def test_bad_attribute_is_an_error_of_compile(changes, text):
    system = plan()
    if None in changes.values():
        del system.attributes["ring"]
        changes = {}
    with pytest.raises(jax.errors.JaxRuntimeError) as raised:
        compile_h100(lambda v, b: system.factorize_solve(v, b, **changes)[0], VALUES, B)
    assert re.match(r"INVALID_ARGUMENT: nvstate\.direct_solver: ", str(raised.value))
    assert text in str(raised.value)


REFUSED = {
    "spd": ({"matrix_type": "spd"}, "an spd or hpd matrix"),
    "deterministic": ({"deterministic": 1}, "a deterministic plan"),
    "hybrid": ({"hybrid_execute": 1}, "a plan with a hybrid mode"),
    "hybrid-memory": ({"hybrid_memory": "on"}, "a plan with a hybrid mode"),
    "matching": (
        {"matching": "product", "reference": np.ones(2, np.uint64)},
        "a matrix with reference values",
    ),
    "reuse": (
        {"reuse_pivots": 1, "reference": np.ones(2, np.uint64)},
        "a matrix with reference values",
    ),
}


@pytest.mark.parametrize(("changes", "text"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_fused_is_an_error_of_compile(changes, text):
    system = plan()
    with pytest.raises(jax.errors.JaxRuntimeError) as raised:
        compile_h100(lambda v, b: system.fused(v, b, **changes), VALUES, B)
    assert text in str(raised.value)
    assert "cannot be factorized and solved without being asked about" in str(raised.value)
