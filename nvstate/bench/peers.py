"""Other libraries' FFTs, where installed: SciPy on CPUs, CuPy on GPUs, nvmath-python on both."""

from __future__ import annotations

import functools
import importlib
import os
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nvstate.bench.cases import Case
from nvstate.bench.timing import Candidate

NAMES = {
    "cpu": {"scipy.fft": "scipy.fft", "nvmath-python": "nvmath.fft"},
    "cuda": {"CuPy": "cupy.fft", "nvmath-python": "nvmath.fft"},
}


def function_name(case: Case) -> str:
    """What NumPy and all who follow it call the transform."""
    inverse = "i" if case.direction == "inverse" or case.kind == "c2r" else ""
    return inverse + ("fftn" if case.kind == "c2c" else "rfftn")


def arguments(case: Case) -> dict[str, Any]:
    """The keywords of that function."""
    s = {"s": case.lengths} if case.kind == "c2r" else {}
    return {"axes": case.axes, **s}


@functools.cache
def module(name: str) -> Any:
    """A library's module, or None."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def missing(platform: str) -> list[str]:
    """Libraries that would be compared, were they installed."""
    return [name for name, path in NAMES[platform].items() if module(path) is None]


def candidates(case: Case, x: Any, device: jax.Device) -> list[Candidate]:
    """Those of the libraries installed, on the same data."""
    if device.platform == "cpu":
        return [*_scipy(case, np.asarray(x)), *_nvmath(case, np.asarray(x), lambda _: None, "cpu")]
    shared, wait = _on_gpu(x)
    if shared is None:
        return []
    return [*_cupy(case, shared, wait), *_nvmath(case, shared, wait, "cuda")]


def _on_gpu(x: Any) -> tuple[Any, Callable[[Any], object]]:
    """A copy of the operand as an array of CuPy's or PyTorch's, and how to wait.

    A copy, since it is not theirs to overwrite, as a C2R may.
    """
    x = jax.block_until_ready(jnp.copy(x))
    if cupy := module("cupy"):
        return cupy.from_dlpack(x), lambda _: cupy.cuda.get_current_stream().synchronize()
    if (torch := module("torch")) and torch.cuda.is_available():
        return torch.from_dlpack(x), lambda _: torch.cuda.synchronize()
    return None, lambda _: None


def _scipy(case: Case, x: Any) -> list[Candidate]:
    fft = module("scipy.fft")
    if fft is None:
        return []
    cores = len(os.sched_getaffinity(0))
    function = functools.partial(
        getattr(fft, function_name(case)), x, **arguments(case), workers=cores
    )
    return [Candidate("scipy.fft", lambda: function, lambda _: None, foreign=True)]


def _cupy(case: Case, x: Any, wait: Callable[[Any], object]) -> list[Candidate]:
    """Its functions keep the plans they made in a cache of their own."""
    fft = module("cupy.fft")
    if fft is None:
        return []
    function = functools.partial(getattr(fft, function_name(case)), x, **arguments(case))
    return [Candidate("cupy.fft", lambda: function, wait, foreign=True)]


def _nvmath(case: Case, x: Any, wait: Callable[[Any], object], execution: str) -> list[Candidate]:
    """It never scales, so its inverse does less than the others'."""
    fft = module("nvmath.fft")
    if fft is None:
        return []
    options: dict[str, Any] = {"fft_type": case.kind.upper()}
    if case.kind == "c2r":
        options["last_axis_parity"] = "odd" if case.lengths[-1] % 2 else "even"
    keywords = {"axes": case.axes, "options": options, "execution": execution}

    def stateful() -> Callable[[], Any]:
        planned = fft.FFT(x, **keywords)
        planned.plan()

        def call() -> Any:
            planned.reset_operand(x)
            return planned.execute(direction=case.direction)

        weakref.finalize(call, planned.free)
        return call

    def function() -> Callable[[], Any]:
        name = function_name(case).removesuffix("n")
        return functools.partial(getattr(fft, name), x, **keywords)

    made = [Candidate("nvmath reset, execute", stateful, wait, foreign=True)]
    if case.form == "eager":
        made.append(Candidate("nvmath function", function, wait, foreign=True))
    return made
