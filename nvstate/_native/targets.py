"""The FFI targets, registered with XLA."""

from __future__ import annotations

import contextlib
import ctypes
import threading

import jax

from nvstate import errors
from nvstate._native import library, locate

STATES = {"nvstate_cufft_v1": "nvstate.cufft.site.v1"}  # of each target, the type of its state
STAGES = ("instantiate", "initialize", "execute")

_lock = threading.Lock()
_registered = False


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
            handlers = {s: jax.ffi.pycapsule(getattr(native, f"{target}_{s}")) for s in STAGES}
            jax.ffi.register_ffi_target(target, handlers, platform="CUDA")
            jax.ffi.register_ffi_target_as_batch_partitionable(target)
        _registered = True
        if native.nvstate_library_open(b"cuda", None) == 0:
            # CUDA is in use here, so cuFFT will be. If it is missing, the call itself says so, and
            # a program that is only compiled here needs none.
            with contextlib.suppress(errors.LibraryError):
                locate.open_library("cufft")
