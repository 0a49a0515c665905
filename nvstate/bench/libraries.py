"""Other libraries, where installed, and the arrays that they take."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nvstate._core.aval import Device
from nvstate.bench.timing import said

NAMES = {
    "cpu": {"scipy.fft": "scipy.fft", "nvmath-python": "nvmath.fft"},
    "cuda": {"CuPy": "cupy.fft", "nvmath-python": "nvmath.fft"},
}


def module(name: str) -> Any:
    """A library's module, or None."""
    return _imported(name)[0]


def missing(platform: str) -> list[str]:
    """Libraries that would be compared, were they there; and why not, if they are installed."""
    found = [(name, *_imported(path)) for name, path in NAMES[platform].items()]
    return [f"{name} ({why})" if why else name for name, it, why in found if it is None]


@functools.cache
def _imported(name: str) -> tuple[Any, str]:
    try:
        return importlib.import_module(name), ""
    except Exception as error:  # whatever a library says where something that it needs is not there
        if isinstance(error, ModuleNotFoundError) and error.name == name.split(".")[0]:
            return None, ""
        return None, said(error)


@dataclasses.dataclass(frozen=True)
class Arrays:
    """A package whose arrays other libraries take.

    Attributes:
        copied: an array of its own with a JAX array's values; the libraries may overwrite it.
        wait: returns when what was enqueued is done.
        execution: nvmath-python's word for where.
    """

    copied: Callable[[Any], Any]
    wait: Callable[[Any], object]
    execution: str


def arrays_on(device: Device) -> Arrays | None:
    """The package for a device; None if none is installed."""
    if device.platform == "cpu":
        return Arrays(np.array, lambda _: None, "cpu")
    if cupy := module("cupy"):
        return Arrays(
            lambda x: cupy.from_dlpack(_copied(x)),
            lambda _: cupy.cuda.get_current_stream().synchronize(),
            "cuda",
        )
    if (torch := module("torch")) and torch.cuda.is_available():
        return Arrays(
            lambda x: torch.from_dlpack(_copied(x)), lambda _: torch.cuda.synchronize(), "cuda"
        )
    return None


def _copied(x: Any) -> Any:
    return jax.block_until_ready(jnp.copy(x))
