"""Where CUDA libraries are: the copy XLA has loaded, else the one pathfinder finds."""

from __future__ import annotations

import contextlib
import importlib.metadata
import pathlib
from collections.abc import Iterator

from cuda import pathfinder

from nvstate import errors
from nvstate._native import library

SONAMES = {
    "cufft": ("libcufft.so.12", "libcufft.so.11"),
    "cublasLt": ("libcublasLt.so.13", "libcublasLt.so.12"),
    "cudss": ("libcudss.so.1",),
}
INSTALL = {
    "cufft": "Install it with `pip install nvidia-cufft` (CUDA 13) or "
    "`pip install nvidia-cufft-cu12` (CUDA 12).",
    "cublasLt": "Install it with `pip install nvidia-cublas` (CUDA 13) or "
    "`pip install nvidia-cublas-cu12` (CUDA 12).",
    "cudss": 'Install it with `pip install "nvidia-cudss-cu13==1.0.*"` (CUDA 13) or '
    '`pip install "nvidia-cudss-cu12==1.0.*"` (CUDA 12).',
}
WHEELS = {"cudss": ("nvidia-cudss-cu13", "nvidia-cudss-cu12")}  # not known to every pathfinder


def open_library(name: str) -> str:
    """Open a CUDA library for the native code, unless it is open.

    Two copies in one process would each load their kernels, so the one that XLA has loaded is
    taken first.

    Args:
        name: "cufft", "cublasLt" or "cudss".

    Returns:
        Its path.

    Raises:
        LibraryError: it is nowhere; what was searched, and what to install.
    """
    native, key = library.load(), name.encode()
    if native.nvstate_library_open(key, None) != 0:
        for file in _candidates(name):
            if native.nvstate_library_open(key, file.encode()) == 0:
                break
        else:
            raise errors.LibraryError(
                errors.message(
                    "nvstate",
                    f"the CUDA library {name} was not found",
                    expected=" or ".join(SONAMES[name]),
                    got="nothing in this process, in NVIDIA's wheels, in conda, below CUDA_PATH "
                    "and CUDA_HOME, or on the loader's path",
                    do=INSTALL[name],
                )
            )
    return native.nvstate_library_path(key).decode()


def _candidates(name: str) -> Iterator[str]:
    """Files to try; sonames are left to the system's loader."""
    yield from in_wheels(name)
    with contextlib.suppress(pathfinder.DynamicLibNotFoundError):
        path = pathfinder.load_nvidia_dynamic_lib(name).abs_path
        # Of cuDSS it may know another version, which then would be found and refused.
        if path and (name not in WHEELS or pathlib.Path(path).name in SONAMES[name]):
            yield path
    yield from SONAMES[name]


def in_wheels(name: str) -> Iterator[str]:
    """Files of installed wheels, found without loading one."""
    for wheel in WHEELS.get(name, ()):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            for file in importlib.metadata.files(wheel) or ():
                if (
                    file.name in SONAMES[name]
                    and (path := pathlib.Path(str(file.locate()))).exists()
                ):
                    yield str(path)
