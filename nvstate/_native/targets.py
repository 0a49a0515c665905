"""The FFI targets, registered with XLA."""

from __future__ import annotations

import contextlib
import ctypes
import threading

import jax

from nvstate import errors
from nvstate._native import library, locate, mkl

STAGES = {  # of each target; with initialize, it may be captured in a CUDA graph
    "nvstate_cufft_v1": ("instantiate", "initialize", "execute"),
    "nvstate_cublaslt_matmul_v1": ("instantiate", "initialize", "execute"),
    "nvstate_cublaslt_autotune_v1": ("instantiate", "execute"),
    "nvstate_cudss_v1": ("instantiate", "execute"),
}
STATES = {  # of each target, the type of its state
    "nvstate_cufft_v1": "nvstate.cufft.site.v1",
    "nvstate_cublaslt_matmul_v1": "nvstate.cublaslt.matmul.site.v1",
    "nvstate_cublaslt_autotune_v1": "nvstate.cublaslt.autotune.site.v1",
    "nvstate_cudss_v1": "nvstate.cudss.site.v1",
}
SPLITS = ("nvstate_cufft_v1", "nvstate_cublaslt_matmul_v1")  # along batch dimensions

PRELOADED = ("cufft", "cublasLt")  # cuDSS is large and seldom used: its plans open it
CPU = ("nvstate_pardiso_v1",)  # stateless: such a target may be registered before the backend is

_lock = threading.Lock()
_registered = False
_registered_cpu = False


def register() -> None:
    """Register the targets with XLA for CUDA, once per process: types before targets.

    Raises:
        LibraryError: as `load()`.
    """
    global _registered
    with _lock:
        if _registered:
            return
        native = library.load()
        for target, state in STATES.items():
            type_id, type_info = (
                jax.ffi.pycapsule(ctypes.c_void_p(getattr(native, f"{target}_{name}")()))
                for name in ("type_id", "type_info")
            )
            jax.ffi.register_ffi_type(
                state, {"type_id": type_id, "type_info": type_info}, platform="CUDA"
            )
            handlers = {
                s: jax.ffi.pycapsule(getattr(native, f"{target}_{s}")) for s in STAGES[target]
            }
            jax.ffi.register_ffi_target(target, handlers, platform="CUDA")
            if target in SPLITS:
                jax.ffi.register_ffi_target_as_batch_partitionable(target)
        _registered = True
        if native.nvstate_library_open(b"cuda", None) == 0:
            # CUDA is in use here, so its libraries will be. If one is missing or damaged, its own
            # calls say so, and a program that is only compiled here needs none.
            for name in PRELOADED:
                with contextlib.suppress(errors.LibraryError, RuntimeError, OSError):
                    locate.open_library(name)
            for name in locate.WHEELS:  # where to look, should a program that was read here ask
                for path in locate.in_wheels(name):
                    library.check(native.nvstate_library_hint(name.encode(), path.encode()))


def register_cpu() -> None:
    """Register the targets with XLA for CPUs, once per process, and open MKL if it is there.

    A program that is only compiled here needs no MKL; a call without it says so.

    Raises:
        LibraryError: as `load()`.
    """
    global _registered_cpu
    with _lock:
        if _registered_cpu:
            return
        native = library.load()
        for target in CPU:
            handler = jax.ffi.pycapsule(getattr(native, target))
            jax.ffi.register_ffi_target(target, handler, platform="cpu")
        _registered_cpu = True
    mkl.missing()
