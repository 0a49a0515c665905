"""What `python -m nvstate` reports: versions, plans on disk, devices, libraries."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import logging
import os
import platform
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import jax

from nvstate import errors
from nvstate._core import placement, stored
from nvstate._core.aval import Device
from nvstate._core.plan import plan_types
from nvstate._native import library, locate

PACKAGES = r"(jax(lib|-cuda.*)?|numpy|cuda-(python|bindings|pathfinder))"
PLUGIN = r"jax-cuda\d+-plugin"
NODES = Path("/dev")  # where Linux shows GPUs, as nvidia0, nvidia1, …
CUDA = 'CUDA needs an NVIDIA GPU, its driver, and `pip install "jax[cuda13]"` (or "jax[cuda12]").'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fact:
    """One line of the report. `message` says what is wrong, or what to install."""

    name: str
    status: str
    failed: bool = False
    message: str | None = None

    def cells(self) -> tuple[str, ...]:
        """What the text shows, by column."""
        return (self.name, self.status)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoreFact(Fact):
    """The file that NVSTATE_STORE names: "read", "absent" or "broken"."""

    plans: int | None = None

    def cells(self) -> tuple[str, ...]:
        """Path, status, plans."""
        return (self.name, self.status, "" if self.plans is None else f"{self.plans} plans")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceFact(Fact):
    """A device that JAX sees: "found"; CUDA without any: "missing" or "broken"; JAX's own words.

    These are under the name `jax`: "warned", or "broken" if it gives no device at all.
    """

    kind: str | None = None
    memory_bytes: int | None = None  # that JAX may use; CPUs do not say

    def cells(self) -> tuple[str, ...]:
        """Name, status, memory, kind."""
        memory = "" if self.memory_bytes is None else f"{self.memory_bytes / 2**30:.1f} GiB"
        return (self.name, self.status, memory, self.kind or "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LibraryFact(Fact):
    """A library: "found", "missing", "broken", or "unknown" if nothing can look for it."""

    version: str | None = None
    loaded_by: str | None = None
    path: str | None = None

    def cells(self) -> tuple[str, ...]:
        """Name, status, version, by whom it was loaded, path."""
        by = f"loaded by {self.loaded_by}" if self.loaded_by else ""
        return (self.name, self.status, self.version or "", by, self.path or "")


def versions() -> dict[str, str | None]:
    """Versions by name; the FFI API that the native library was built with and that jaxlib has."""
    from nvstate import __version__

    found = {d.name.lower(): d.version for d in metadata.distributions() if d.name}
    runtime = library.runtime_minor()
    return {
        "nvstate": __version__,
        "python": platform.python_version(),
        **{name: found[name] for name in sorted(found) if re.fullmatch(PACKAGES, name)},
        "ffi_api_built": _built(),
        "ffi_api_runtime": None if runtime is None else f"0.{runtime}",
    }


def _built() -> str | None:
    # Not by `library.load()`, which refuses the very library whose version is of interest.
    try:
        return f"0.{ctypes.CDLL(str(library.find())).nvstate_ffi_api_minor()}"
    except (errors.LibraryError, OSError, AttributeError):
        return None  # the library's own line says why


def store() -> Iterator[Fact]:
    """Yield the file that NVSTATE_STORE names, if it names one."""
    path = os.environ.get(stored.VARIABLE)
    if not path:
        return
    try:
        plans = len(stored.read(Path(path)))
    except errors.StoreError as error:
        if isinstance(error.__context__, FileNotFoundError):  # `plan` waits for it to be saved
            yield StoreFact(name=path, status="absent")
        else:
            yield StoreFact(name=path, status="broken", failed=True, message=str(error))
    else:
        yield StoreFact(name=path, status="read", plans=plans)


# Devices


class _Heard(logging.Handler):
    """Keeps what JAX logs, which otherwise would be tracebacks between our lines."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self.messages.append(str(error or record.getMessage()))


def devices() -> tuple[list[Device], list[Fact]]:
    """What JAX sees in this process: the devices, and what there is to say of them."""
    heard, logger = _Heard(), logging.getLogger("jax")
    logger.addHandler(heard)
    try:
        default = jax.local_devices()
        cuda = placement.local_devices("cuda")
    except (RuntimeError, AssertionError) as error:  # JAX asserts that one platform has come up
        said = [f"{type(error).__name__}: {error}".rstrip(": "), *heard.messages]
        return [], [DeviceFact(name="jax", status="broken", failed=True, message="\n".join(said))]
    finally:
        logger.removeHandler(heard)
    found = list(dict.fromkeys([*placement.local_devices("cpu"), *cuda, *default]))
    seen: list[Fact] = [
        DeviceFact(
            name=placement.name(d), status="found", kind=d.device_kind, memory_bytes=_memory(d)
        )
        for d in found
    ]
    if not cuda:
        seen.append(_no_cuda())
    if heard.messages:
        seen.append(DeviceFact(name="jax", status="warned", message="\n".join(heard.messages)))
    return found, seen


def _memory(device: Device) -> int | None:
    try:
        return (device.memory_stats() or {}).get("bytes_limit")
    except jax.errors.JaxRuntimeError:  # a plugin that does not count
        return None


def _no_cuda() -> Fact:
    """CUDA as missing; as broken where there is a GPU and JAX was installed and asked for it."""
    wanted, message = True, CUDA
    platforms = os.environ.get("JAX_PLATFORMS", "")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        wanted, message = False, f"JAX_PLATFORMS={platforms} leaves it out."
    elif visible in ("", "-1"):
        wanted, message = False, f"CUDA_VISIBLE_DEVICES={visible} leaves it out."
    plugged = any(re.fullmatch(PLUGIN, d.name.lower()) for d in metadata.distributions() if d.name)
    broken = wanted and plugged and any(NODES.glob("nvidia[0-9]*"))
    return DeviceFact(
        name="cuda",
        status="broken" if broken else "missing",
        failed=broken,
        message=message,
    )


# Libraries


def libraries(here: list[Device]) -> Iterator[Fact]:
    """Yield the native library and CUDA's; one that is missing fails where a CUDA device is."""
    native = _native()
    yield native
    if native.failed:
        for name in locate.SONAMES:
            yield LibraryFact(
                name=name, status="unknown", message="Looking for it needs the native library."
            )
        return
    # All of them first: asking for one's version may open another.
    present = {name: _loaded_by(name) for name in locate.SONAMES}
    needed = any(d.platform in ("cuda", "gpu") for d in here)
    for name, by in present.items():
        yield _cuda_library(name, by, needed)


def _native() -> Fact:
    path = None
    try:
        path = str(library.find())
        library.load()
    except (errors.LibraryError, OSError, AttributeError) as error:
        # OSError: the loader's, of a damaged file. AttributeError: of one built from other source.
        return LibraryFact(
            name="libnvstate",
            status="broken" if path else "missing",
            failed=True,
            message=str(error),
            path=path,
        )
    return LibraryFact(name="libnvstate", status="found", path=path, loaded_by="nvstate")


def _loaded_by(name: str) -> str:
    """Who has loaded a library, or will have: what is in the process before us is XLA's."""
    native, key = library.load(), name.encode()
    if native.nvstate_library_path(key) is not None:
        return "nvstate"
    return "XLA" if native.nvstate_library_open(key, None) == 0 else "nvstate"


def _cuda_version(name: str) -> str | None:
    """What the first operation that knows a library says of it."""
    for plan in plan_types.values():
        # An error is of another library, which its own fact tells.
        with contextlib.suppress(RuntimeError, OSError):
            if version := plan.libraries("cuda").get(name):
                return version
    return None


def _cuda_library(name: str, by: str, needed: bool) -> Fact:
    try:
        path = locate.open_library(name)
    except errors.LibraryError:
        return LibraryFact(name=name, status="missing", failed=needed, message=locate.INSTALL[name])
    except (RuntimeError, OSError) as error:  # pathfinder's, of a file that cannot be loaded
        return LibraryFact(name=name, status="broken", failed=True, message=str(error))
    version = _cuda_version(name)
    if version == "missing":  # though it is open: a function of it is
        said = f"It is too old, or not the right one. {locate.INSTALL[name]}"
        return LibraryFact(name=name, status="broken", failed=True, message=said, path=path)
    return LibraryFact(name=name, status="found", version=version, loaded_by=by, path=path)
