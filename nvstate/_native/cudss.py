"""The native library's functions for cuDSS alone; what engines share is in `solver`."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from typing import Any

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
