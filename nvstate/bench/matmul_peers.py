"""Other libraries' products: NumPy on CPUs, CuPy and nvmath-python on GPUs."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from nvstate._core.aval import Device
from nvstate.bench.libraries import Arrays, arrays_on, module
from nvstate.bench.matmul_cases import NVMATH_FUNCTION, NVMATH_RESET
from nvstate.bench.timing import Candidate

ADVANCED = "nvmath.linalg.advanced"


def candidates(a: Any, b: Any, device: Device) -> list[Candidate]:
    """Calls from Python, on copies of the operands in each library's own arrays."""
    arrays = arrays_on(device)
    if arrays is None:
        return []
    operands = functools.cache(lambda: (arrays.copied(a), arrays.copied(b)))
    made = functools.partial(_candidate, operands, arrays)
    if device.platform == "cpu":
        return [made("numpy.matmul", lambda a, b: functools.partial(np.matmul, a, b))]
    found: list[Candidate] = []
    if cupy := module("cupy"):
        found.append(made("cupy.matmul", lambda a, b: functools.partial(cupy.matmul, a, b)))
    if advanced := module(ADVANCED):
        found.append(made(NVMATH_RESET, functools.partial(_resetting, advanced)))
        found.append(made(NVMATH_FUNCTION, lambda a, b: functools.partial(advanced.matmul, a, b)))
    return found


def _candidate(
    operands: Callable[[], tuple[Any, Any]],
    arrays: Arrays,
    name: str,
    make: Callable[[Any, Any], Callable[[], Any]],
) -> Candidate:
    return Candidate(name, lambda: make(*operands()), arrays.wait, foreign=True, prepare=operands)


def _resetting(advanced: Any, a: Any, b: Any) -> Callable[[], Any]:
    """Reset the operands of one object and execute."""
    planned = advanced.Matmul(a, b)
    planned.plan()

    def call() -> Any:
        planned.reset_operands(a=a, b=b)
        return planned.execute()

    weakref.finalize(call, planned.free)
    return call
