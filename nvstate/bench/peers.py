"""Other libraries' FFTs, where installed: SciPy on CPUs, CuPy on GPUs, nvmath-python on both."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from nvstate._core.aval import Device
from nvstate.bench.cases import Case
from nvstate.bench.libraries import Arrays, arrays_on, module
from nvstate.bench.stateful import Stateful
from nvstate.bench.timing import Candidate


def function_name(case: Case) -> str:
    """What NumPy and all who follow it call the transform."""
    inverse = "i" if case.direction == "inverse" or case.kind == "c2r" else ""
    return inverse + ("fftn" if case.kind == "c2c" else "rfftn")


def arguments(case: Case) -> dict[str, Any]:
    """The keywords of that function."""
    s = {"s": case.lengths} if case.kind == "c2r" else {}
    return {"axes": case.axes, **s}


def candidates(case: Case, x: Any, device: Device) -> list[Candidate]:
    """Those of the libraries installed, on the same values in the same memory space."""
    arrays = arrays_on(device)
    if arrays is None:
        return []
    makers = [_scipy, _nvmath] if device.platform == "cpu" else [_cupy, _nvmath]
    return [candidate for maker in makers for candidate in maker(case, x, arrays)]


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
    if module("nvmath.fft") is None:
        return []
    options: dict[str, Any] = {"fft_type": case.kind.upper()}
    if case.kind == "c2r":
        options["last_axis_parity"] = "odd" if case.lengths[-1] % 2 else "even"
    keywords = {"axes": case.axes, "options": options, "execution": arrays.execution}
    object_ = Stateful(x, arrays, keywords, case.direction)
    made = [object_.resetting("nvmath reset, execute")]
    if case.form == "eager":
        made.append(object_.function(function_name(case).removesuffix("n")))
    return made


def _functional(name: str, function: Callable[..., Any], x: Any, arrays: Arrays) -> Candidate:
    operand = functools.cache(lambda: arrays.copied(x))

    def make() -> Callable[[], Any]:
        return functools.partial(function, operand())

    return Candidate(name, make, arrays.wait, foreign=True, prepare=operand)
