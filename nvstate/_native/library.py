"""The native library itself: found, checked against this jaxlib, loaded once per process."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import pathlib
import re
import threading

import jax

from nvstate import errors

# The codes of C++'s Failure: XLA's, for both boundaries report the same.
INVALID_ARGUMENT, NOT_FOUND, RESOURCE_EXHAUSTED, FAILED_PRECONDITION = 3, 5, 8, 9

_lock = threading.RLock()
_loaded: ctypes.CDLL | None = None
UNLIMITED = 2**63 - 1
limits = {"plans": 64, "bytes": UNLIMITED}  # of recently used ones: what a later load is told


def loaded() -> ctypes.CDLL | None:
    """The library if something has needed it yet; counting must not be what loads it."""
    return _loaded


def load() -> ctypes.CDLL:
    """Load the native library, once per process.

    Returns:
        The library, its functions typed.

    Raises:
        LibraryError: it was not built, or with newer FFI headers than this jaxlib understands.
    """
    global _loaded
    with _lock:
        if _loaded is None:
            library = ctypes.CDLL(str(find()))
            _declare(library)
            check_api(int(library.nvstate_ffi_api_minor()))
            library.nvstate_cache_limit(limits["plans"], limits["bytes"])
            _loaded = library
        return _loaded


def set_limits(changed: dict[str, int]) -> None:
    """Limit the recently used plans, now or when the library is loaded."""
    with _lock:
        limits.update(changed)
        if _loaded is not None:
            check(_loaded.nvstate_cache_limit(limits["plans"], limits["bytes"]))


def find() -> pathlib.Path:
    """Where the built library is: beside this file, or where an editable install has put it."""
    name = "libnvstate.so"
    beside = pathlib.Path(__file__).with_name(name)
    if beside.exists():
        return beside
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("nvstate") or ():
            if file.name == name and (path := pathlib.Path(str(file.locate()))).exists():
                return path
    raise errors.LibraryError(
        errors.message(
            "nvstate",
            f"the native library `{name}` is missing",
            expected=f"{beside}, or a file of the installed package `nvstate`",
            got="neither",
            do="Install nvstate with `pip install .`, which builds it; a C++17 compiler is needed.",
        )
    )


def check_api(built: int) -> None:
    """Refuse a library whose FFI headers are newer than the runtime's.

    It must run before anything is registered: a target of a newer API that waits for the CPU
    backend loses that backend for the whole process.
    """
    runtime = runtime_minor()
    if runtime is not None and runtime >= built:
        return
    raise errors.LibraryError(
        errors.message(
            "nvstate",
            "this jaxlib is older than the one that nvstate was built with",
            expected=f"XLA FFI API 0.{built} or newer",
            got="no version in its headers" if runtime is None else f"0.{runtime}",
            do="Upgrade it with `pip install --upgrade jax jaxlib`.",
        )
    )


def runtime_minor() -> int | None:
    """The minor version of the FFI API that this jaxlib has; None if its headers do not say."""
    header = pathlib.Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"
    found = re.search(r"#define XLA_FFI_API_MINOR (\d+)", header.read_text())
    return int(found[1]) if found else None


def check(code: int, what: str = "") -> None:
    """Raise what a C function's code and the library's last error say, and of what problem."""
    if code == 0:
        return
    text = "nvstate: " + load().nvstate_last_error().decode() + (what and f" ({what})")
    if code in (NOT_FOUND, FAILED_PRECONDITION):
        raise errors.LibraryError(text)
    if code == INVALID_ARGUMENT:
        raise ValueError(text)
    if code == RESOURCE_EXHAUSTED:
        raise MemoryError(text)
    raise RuntimeError(text)


def _declare(library: ctypes.CDLL) -> None:
    """Give each function its C type; without one ctypes would cut pointers to 32 bits."""
    text, integer, int64 = ctypes.c_char_p, ctypes.c_int, ctypes.c_int64
    array, out = ctypes.POINTER(ctypes.c_int64), ctypes.POINTER(ctypes.c_int64)
    dims = [array, array, integer, array, integer, array]  # x, y, rank, lengths, count, layout
    address = ctypes.c_void_p
    words = ctypes.POINTER(ctypes.c_uint64)
    signatures = {
        "nvstate_ffi_api_minor": (integer, []),
        "nvstate_last_error": (text, []),
        "nvstate_last_text": (text, []),
        "nvstate_library_open": (integer, [text, text]),
        "nvstate_library_hint": (integer, [text, text]),
        "nvstate_library_path": (text, [text]),
        "nvstate_cufft_version": (integer, [ctypes.POINTER(integer)]),
        "nvstate_cufft_layout": (integer, [text, *dims, text, int64]),
        "nvstate_cufft_plan": (integer, [integer, text, text, *dims, int64, out]),
        "nvstate_cufft_estimate": (integer, [integer, text, text, *dims, text, out]),
        "nvstate_cufft_v1_type_id": (address, []),
        "nvstate_cufft_v1_type_info": (address, []),
        "nvstate_device_cache_bytes": (integer, [integer, out]),
        "nvstate_cublaslt_version": (integer, [out]),
        "nvstate_cublaslt_layout": (integer, [text, text]),
        "nvstate_cublaslt_heuristic": (integer, [integer, text, text, int64, integer, int64]),
        "nvstate_cublaslt_diagnose": (integer, [integer, text, text, int64]),
        "nvstate_cublaslt_check": (integer, [integer, text, text, words]),
        "nvstate_cublaslt_ids": (integer, [integer, text, text, integer]),
        "nvstate_cublaslt_init": (integer, [integer, text, text, integer, words]),
        "nvstate_cublaslt_config": (integer, [words]),
        "nvstate_cublaslt_capabilities": (integer, [words]),
        "nvstate_cublaslt_configure": (integer, [words, text, int64]),
        "nvstate_cublaslt_matmul_v1_type_id": (address, []),
        "nvstate_cublaslt_matmul_v1_type_info": (address, []),
        "nvstate_cublaslt_autotune_v1_type_id": (address, []),
        "nvstate_cublaslt_autotune_v1_type_info": (address, []),
        "nvstate_mkl_open": (integer, [text, text]),
        "nvstate_mkl_version": (integer, []),
        "nvstate_solver_analyze": (
            integer,
            [text, integer, text, text, int64, int64, *[address, integer] * 2, address, address],
        ),
        "nvstate_solver_array": (
            integer,
            [text, integer, text, text, address, int64, out, ctypes.POINTER(integer)],
        ),
        "nvstate_solver_counts": (integer, [array, integer]),
        "nvstate_cudss_version": (integer, [ctypes.POINTER(integer)]),
        "nvstate_cudss_config": (integer, [text, int64, int64]),
        "nvstate_cudss_v1_type_id": (address, []),
        "nvstate_cudss_v1_type_info": (address, []),
        "nvstate_solver_digest": (integer, [int64, int64, *[address, integer] * 2, words]),
        "nvstate_cache_info": (integer, [array, integer]),
        "nvstate_cache_limit": (integer, [int64, int64]),
        "nvstate_cache_rows": (integer, [int64, array, out]),
        "nvstate_cache_drop": (integer, [int64]),
        "nvstate_cache_drop_made": (integer, [int64]),
        "nvstate_cache_clear": (integer, []),
        "nvstate_cache_generation": (int64, []),
        "nvstate_cache_drop_since": (integer, [int64]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
