"""Intel's MKL: opened once all files are seen to be there, since it ends the process over one."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import pathlib
import platform
import re
import threading

from nvstate import errors
from nvstate._native import library

INSTALL = "`pip install mkl`"
_KERNEL = re.compile(r"libmkl_(def|mc\d?|avx\w*)\.so(\.\d+)*")  # for generations of CPUs
_lock = threading.Lock()
_answer: list[str | None] = []  # what `missing` found, once


def missing() -> str | None:
    """Open MKL, once per process; None if that worked, else why not, in a line."""
    with _lock:
        if not _answer:
            _answer.append(_open())
        return _answer[0]


def version() -> str:
    """MKL's own words for its version, then its threading layer.

    Raises:
        LibraryError: it is not open.
    """
    native = library.load()
    library.check(native.nvstate_mkl_version())
    return native.nvstate_last_text().decode()


def _open() -> str | None:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"MKL is for x86-64, this is {platform.machine()}"
    found = files("mkl")
    if found is None:
        return f"the package `mkl` is not installed: {INSTALL}"
    runtime = files("intel-openmp") or {}
    openmp = runtime.get("libiomp5.so")
    entry = _one(found, "rt")
    if entry is None:
        return f"the package `mkl` has no libmkl_rt.so: {INSTALL}"
    beside = entry.parent / "libiomp5.so"  # MKL itself looks there first
    if beside.is_file():
        openmp = beside
    elif openmp is not None and not openmp.is_file():
        openmp = None
    threads = "intel_thread" if openmp is not None else "sequential"
    parts = [_one(found, name) for name in ("core", "intel_lp64", threads, "sequential", "def")]
    kernels = [path for name, path in found.items() if _KERNEL.fullmatch(name)]
    if None in parts or not all(p and p.is_file() for p in (entry, *parts, *kernels)):
        return f"files of the package `mkl` are missing in {entry.parent}: reinstall it"
    try:
        native = library.load()
    except (errors.LibraryError, OSError, AttributeError) as error:  # AttributeError: another's
        return f"the native library does not load: {error}".splitlines()[0]
    code = native.nvstate_mkl_open(os.fsencode(entry), openmp and os.fsencode(openmp))
    return None if code == 0 else "MKL cannot be opened: " + native.nvstate_last_error().decode()


def _one(found: dict[str, pathlib.Path], name: str) -> pathlib.Path | None:
    """The file of a part of MKL; the number in its name moves with versions."""
    pattern = re.compile(rf"libmkl_{name}\.so(\.\d+)*")
    return next((path for file, path in sorted(found.items()) if pattern.fullmatch(file)), None)


@functools.cache
def files(distribution: str) -> dict[str, pathlib.Path] | None:
    """The libraries that an installed package says it has; None: it is not installed."""
    try:
        listed = importlib.metadata.files(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = [pathlib.Path(os.path.normpath(str(file.locate()))) for file in listed or ()]
    return {path.name: path for path in paths if ".so" in path.name}
