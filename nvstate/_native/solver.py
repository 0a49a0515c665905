"""The native library's functions for sparse direct solvers.

`engine` is "pardiso" or "cudss"; `attributes` is the very dictionary of the FFI calls.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np

from nvstate import errors
from nvstate._native import attributes as attributes_, library, locate, mkl

COUNTS = (  # in the order of nvstate_solver_counts
    "analyses",
    "factorizations",
    "refactorizations",
    "solves",
    "factor_hits",
    "factor_misses",
)
ARRAYS = (
    "row_permutation",
    "column_permutation",
    "matching",
    "row_scale",
    "column_scale",
    "partition_tree",
)


class Facts(TypedDict):
    """What an engine says of an analysis; None where it does not say."""

    seconds: float
    factor_nnz: int | None
    flops: float | None
    host_bytes: int
    peak_host_bytes: int | None
    device_bytes: int
    peak_device_bytes: int | None
    superpanels: int | None
    hybrid_min_bytes: int | None


def solver_analyze(
    engine: str,
    device: int,
    attributes: Mapping[str, Any],
    indptr: np.ndarray[Any, Any],
    indices: np.ndarray[Any, Any],
    dtype: str,
    *,
    permutation: np.ndarray[Any, Any] | None = None,
    reference: np.ndarray[Any, Any] | None = None,
) -> Facts:
    """Analyse a pattern in the ring that calls with these attributes will use, unless it has been.

    Args:
        engine: "pardiso" or "cudss".
        device: CUDA ordinal; 0 for PARDISO.
        attributes: of any of the calls.
        indptr: int32|int64 [n + 1], of the stored CSR matrix.
        indices: int32|int64 [nnz].
        dtype: of the values.
        permutation: int32 [n], or None (or empty): none.
        reference: dtype [nnz], or None (or empty): none.

    Returns:
        The facts of the analysis.

    Raises:
        LibraryError: the engine's library was not found, or is not the right one.
        ValueError: arrays that are not those of the attributes' digests; options the engine lacks.
        MemoryError: it did not fit.
        RuntimeError: another failure of the engine's, named.
    """
    _open(engine)
    native = library.load()
    arrays = [np.ascontiguousarray(a) for a in (indptr, indices)]
    for array in arrays:
        if array.dtype not in (np.int32, np.int64):
            raise ValueError(f"nvstate: offsets and indices are int32 or int64, got {array.dtype}")
    order = _given(permutation, np.int32)
    values = _given(reference, dtype)
    n, nnz = len(arrays[0]) - 1, len(arrays[1])
    for what, array, size in (("permutation", order, n), ("reference", values, nnz)):
        if array is not None and array.shape != (size,):
            raise ValueError(f"nvstate: `{what}` is [{size}], got {list(array.shape)}")
    code = native.nvstate_solver_analyze(
        engine.encode(),
        device,
        attributes_.text(attributes),
        dtype.encode(),
        n,
        nnz,
        *(x for a in arrays for x in (a.ctypes.data, a.dtype.itemsize)),
        None if order is None else order.ctypes.data,
        None if values is None else values.ctypes.data,
    )
    library.check(code, f"{engine}: {dtype}, n = {n}, nnz = {nnz}")
    return json.loads(native.nvstate_last_text())


def solver_array(
    engine: str, device: int, ring: str, name: str
) -> np.ndarray[Any, np.dtype[np.int32]] | np.ndarray[Any, np.dtype[np.float64]] | None:
    """An array of a ring's analysis; None if there is no analysis now or the engine has none.

    Args:
        engine: "pardiso" or "cudss".
        device: CUDA ordinal; 0 for PARDISO.
        ring: the attribute of that name.
        name: one of `ARRAYS`. Permutations are p with which the engine factorizes A[p][:, p].
    """
    if name not in ARRAYS:
        raise ValueError(f"nvstate: an array of an analysis is one of {ARRAYS}, got {name!r}")
    _open(engine)
    written, is_double = ctypes.c_int64(0), ctypes.c_int(0)
    out = np.empty(0)
    while True:  # the first call asks for the size
        code = library.load().nvstate_solver_array(
            engine.encode(),
            device,
            ring.encode(),
            name.encode(),
            out.ctypes.data,
            len(out),
            ctypes.byref(written),
            ctypes.byref(is_double),
        )
        library.check(code, f"{engine}: {name}")
        if written.value == 0:
            return None
        if written.value == len(out):
            return out
        out = np.empty(written.value, np.float64 if is_double.value else np.int32)


def solver_counts() -> dict[str, int]:
    """Counts by name, of all engines that are native; zeros before the library is loaded."""
    native = library.loaded()
    if native is None:
        return dict.fromkeys(COUNTS, 0)
    out = (ctypes.c_int64 * len(COUNTS))()
    library.check(native.nvstate_solver_counts(out, len(COUNTS)))
    return dict(zip(COUNTS, out, strict=True))


def pardiso_missing() -> str | None:
    """None if PARDISO can be used in this process, else why not, in a line.

    The first call opens MKL. The answer stays the same for the process.
    """
    return mkl.missing()


def pardiso_version() -> str:
    """MKL's version and threading layer.

    Raises:
        LibraryError: it cannot be used.
    """
    _open("pardiso")
    return mkl.version()


def _open(engine: str) -> None:
    if engine == "cudss":
        locate.open_library("cudss")
    elif (why := mkl.missing()) is not None:
        raise errors.LibraryError(
            errors.message(
                "nvstate",
                "PARDISO cannot be used",
                expected="the libraries of the package `mkl`",
                got=why,
                do="Install them with `pip install mkl`.",
            )
        )


def _given(array: np.ndarray[Any, Any] | None, dtype: Any) -> np.ndarray[Any, Any] | None:
    return None if array is None or len(array) == 0 else np.ascontiguousarray(array, dtype)
