"""Other libraries' FFTs, where installed: SciPy on CPUs, CuPy on GPUs, nvmath-python on both."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nvstate._core.aval import Device
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


def candidates(case: Case, x: Any, device: Device) -> list[Candidate]:
    """Those of the libraries installed, on the same values in the same memory space."""
    arrays = _arrays(device)
    if arrays is None:
        return []
    makers = [_scipy, _nvmath] if device.platform == "cpu" else [_cupy, _nvmath]
    return [candidate for maker in makers for candidate in maker(case, x, arrays)]


def _arrays(device: Device) -> Arrays | None:
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


def _scipy(case: Case, x: Any, arrays: Arrays) -> list[Candidate]:
    fft = module("scipy.fft")
    if fft is None:
        return []
    function = functools.partial(
        getattr(fft, function_name(case)), workers=len(os.sched_getaffinity(0)), **arguments(case)
    )
    return [_functional("scipy.fft", function, x, arrays)]


def _cupy(case: Case, x: Any, arrays: Arrays) -> list[Candidate]:
    """Its functions keep the plans they made in a cache of their own."""
    fft = module("cupy.fft")
    if fft is None:
        return []
    function = functools.partial(getattr(fft, function_name(case)), **arguments(case))
    made = [_functional("cupy.fft", function, x, arrays)]
    if case.group == "a":
        made.append(_bare(case, x, arrays))
    return made


def _bare(case: Case, x: Any, arrays: Arrays) -> Candidate:
    """Run cuFFT itself into a result that is already there, through CuPy's plan object."""
    operand = functools.cache(lambda: arrays.copied(x))

    def make() -> Callable[[], Any]:
        cupy, get_fft_plan = module("cupy"), module("cupyx.scipy.fft").get_fft_plan
        y = operand()
        planned = get_fft_plan(y, axes=case.axes, value_type=case.kind.upper())
        shape = list(y.shape)
        if case.kind == "r2c":
            shape[case.axes[-1]] = case.lengths[-1] // 2 + 1
        out = cupy.empty(shape, case.dtype)

        def call() -> Any:
            planned.fft(y, out, -1)
            return out

        return call

    return Candidate("bare cuFFT", make, arrays.wait, foreign=True, prepare=operand)


def _nvmath(case: Case, x: Any, arrays: Arrays) -> list[Candidate]:
    """It never scales, so its inverse does less than the others'."""
    fft = module("nvmath.fft")
    if fft is None:
        return []
    options: dict[str, Any] = {"fft_type": case.kind.upper()}
    if case.kind == "c2r":
        options["last_axis_parity"] = "odd" if case.lengths[-1] % 2 else "even"
    keywords = {"axes": case.axes, "options": options, "execution": arrays.execution}

    operand = functools.cache(lambda: arrays.copied(x))

    def stateful() -> Callable[[], Any]:
        y = operand()
        planned = fft.FFT(y, **keywords)
        planned.plan()

        def call() -> Any:
            planned.reset_operand(y)
            return planned.execute(direction=case.direction)

        weakref.finalize(call, planned.free)
        return call

    made = [
        Candidate("nvmath reset, execute", stateful, arrays.wait, foreign=True, prepare=operand)
    ]
    if case.form == "eager":
        name = function_name(case).removesuffix("n")
        function = functools.partial(getattr(fft, name), **keywords)
        made.append(_functional("nvmath function", function, x, arrays))
    return made


def _functional(name: str, function: Callable[..., Any], x: Any, arrays: Arrays) -> Candidate:
    operand = functools.cache(lambda: arrays.copied(x))

    def make() -> Callable[[], Any]:
        return functools.partial(function, operand())

    return Candidate(name, make, arrays.wait, foreign=True, prepare=operand)
