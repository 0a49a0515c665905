"""The native library's functions for cuDSS alone; what engines share is in `solver`."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from nvstate._native import attributes as attributes_, library, locate


def cudss_version() -> tuple[int, int, int]:
    """The version of the cuDSS in use.

    Raises:
        LibraryError: it was not found, or is not 1.0; what was found and where.
    """
    locate.open_library("cudss")
    version = (ctypes.c_int * 3)()
    library.check(library.load().nvstate_cudss_version(version))
    return (version[0], version[1], version[2])


def cudss_config(
    attributes: Mapping[str, Any], *, batch: int = 0, device_bytes: int = 0
) -> dict[str, int | float]:
    """Set a configuration from a call's attributes, and read it back. It needs no GPU.

    Args:
        attributes: of any of the calls.
        batch: elements of a uniform batch; 0: it is none.
        device_bytes: what a share of the device's memory is of.

    Raises:
        LibraryError: as `cudss_version`.
        ValueError: cuDSS or nvstate refuses a value; which one.
    """
    locate.open_library("cudss")
    native = library.load()
    library.check(native.nvstate_cudss_config(attributes_.text(attributes), batch, device_bytes))
    return json.loads(native.nvstate_last_text())


def solver_register(
    attributes: Mapping[str, Any],
    indptr: np.ndarray[Any, Any],
    indices: np.ndarray[Any, Any],
    dtype: str,
    *,
    permutation: np.ndarray[Any, Any] | None = None,
) -> None:
    """Keep a host copy of a pattern for `nvstate_cudss_fused_v1`, which cannot read its operands.

    Copies are kept by their digests; beyond 1 GiB the one registered or used longest ago is
    dropped, and only if no compiled program needs it.

    Args:
        attributes: of any of the plan's calls.
        indptr: int32|int64 [n + 1], of the stored CSR matrix.
        indices: int32|int64 [nnz].
        dtype: of the values.
        permutation: int32 [n], or None (or empty): none.

    Raises:
        ValueError: arrays that are not those of the attributes' digests.
    """
    arrays = [np.ascontiguousarray(a) for a in (indptr, indices)]
    order = None
    if permutation is not None and len(permutation) != 0:
        order = np.ascontiguousarray(permutation, np.int32)
    code = library.load().nvstate_solver_register(
        attributes_.text(attributes),
        dtype.encode(),
        len(arrays[0]) - 1,
        len(arrays[1]),
        *(x for a in arrays for x in (a.ctypes.data, a.dtype.itemsize)),
        None if order is None else order.ctypes.data,
    )
    library.check(code, f"cudss: {dtype}, n = {len(arrays[0]) - 1}, nnz = {len(arrays[1])}")


def solver_registered_bytes() -> int:
    """Host memory of the patterns that `solver_register` keeps."""
    native = library.loaded()
    if native is None:
        return 0
    out = ctypes.c_int64()
    library.check(native.nvstate_solver_registered_bytes(ctypes.byref(out)))
    return out.value


def cudss_jit_cache(folder: str) -> None:
    """Let cuDSS keep the kernels that it compiles in a folder, in handles made from here on.

    CUDSS_JIT_CACHE_DIR and CUDSS_JIT_CACHE_DISABLE, where set, win.
    """
    library.check(library.load().nvstate_cudss_jit_cache(folder.encode()))
