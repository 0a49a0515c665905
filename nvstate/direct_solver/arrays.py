"""The arrays of a plan as text: differences, compressed; checked against digests when read."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

from nvstate.direct_solver import checks, digest
from nvstate.direct_solver.formats import Array
from nvstate.direct_solver.pattern import NONE, Pattern
from nvstate.direct_solver.spec import Leaves, SolverSpec

_NAMES = ("indptr", "indices", "order", "permutation", "reference")


def written(spec: SolverSpec, host: Leaves) -> dict[str, str]:
    """The arrays by name, those that `read` cannot derive."""
    given = host if spec.permutation else host._replace(permutation=NONE)  # else a stored one
    return {name: _text(getattr(given, name)) for name in _NAMES}


def read(spec: SolverSpec, fields: Any) -> Leaves:
    """The arrays that `written` wrote.

    Raises:
        ValueError: they are not those that the digests of the spec are of.
    """
    if not isinstance(fields, dict) or fields.keys() != set(_NAMES):
        raise ValueError(f"the arrays: {', '.join(_NAMES)} are expected")
    lengths = {
        "indptr": (spec.n + 1, spec.offset_dtype),
        "indices": (spec.nnz, spec.index_dtype),
        "order": (spec.nnz if spec.order else 0, spec.offset_dtype),
        "permutation": (spec.n if spec.permutation else 0, "int32"),
        "reference": (spec.nnz if spec.reference else 0, spec.dtype),
    }
    found = {name: _array(name, fields[name], *lengths[name]) for name in _NAMES}
    indptr, indices, order = found["indptr"], found["indices"], found["order"]
    pattern = Pattern(spec.storage, indptr, indices, order)
    permutation, reference = found["permutation"], found["reference"]
    _require_in_bounds(spec, pattern, permutation)
    kept = {
        "pattern": pattern.digest,
        "order": pattern.order_digest,
        "permutation": digest.permutation(permutation) if spec.permutation else "",
        "reference": digest.reference(reference) if spec.reference else "",
    }
    for name, found_digest in kept.items():
        if found_digest != getattr(spec, name):
            raise ValueError(f"the arrays are not those of the spec: another {name}")
    return pattern.leaves(permutation, reference)


def _require_in_bounds(spec: SolverSpec, pattern: Pattern, permutation: Array) -> None:
    """What a file's digests vouch for as little as the file itself: native code reads by these."""
    checks.offsets(pattern.indptr, spec.n, spec.nnz, spec.storage)
    checks.in_range(pattern.indptr, pattern.indices, spec.n, spec.storage)
    checks.ascending(pattern)
    checks.structure(pattern, spec.matrix_type, spec.stored_view)
    if spec.view == "full" and spec.matrix_type != "general":
        checks.mirrored(pattern, spec.matrix_type, None)
    for array in (pattern.order, permutation):
        if not np.array_equal(np.sort(array), np.arange(len(array))):
            raise ValueError("an order that is no permutation")


def _text(array: Array) -> str:
    if array.dtype.kind == "i":
        with np.errstate(over="ignore"):
            array = np.diff(array, prepend=array.dtype.type(0))
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return base64.b64encode(zlib.compress(little.tobytes())).decode()


def _array(name: str, text: Any, length: int, dtype: str) -> Array:
    """The array of a text; never more memory than the spec's sizes say."""
    little = np.dtype(dtype).newbyteorder("<")
    if not isinstance(text, str):
        raise ValueError(f"`{name}` is a text")
    reader = zlib.decompressobj()
    try:
        data = reader.decompress(
            base64.b64decode(text, validate=True), length * little.itemsize + 1
        )
    except zlib.error as error:
        raise ValueError(f"`{name}` is damaged: {error}") from None
    if len(data) != length * little.itemsize:
        raise ValueError(f"`{name}` has not the {length} elements of its spec")
    array = np.frombuffer(data, little).astype(dtype)
    return np.cumsum(array, dtype=array.dtype) if array.dtype.kind == "i" else array
