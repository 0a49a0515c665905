"""nvmath-python's FFT: its stateful object, and the function that makes one for each call."""

from __future__ import annotations

import dataclasses
import functools
import logging
import weakref
from collections.abc import Callable
from typing import Any

from nvstate.bench.libraries import Arrays, module
from nvstate.bench.timing import Candidate

RESET = "nvmath reset_operand, execute"
UNCHECKED = "nvmath reset_operand_unchecked, execute"
WHOLE = "nvmath FFT, plan, execute, free"
FUNCTION = "nvmath function"


@dataclasses.dataclass(frozen=True)
class Stateful:
    """The forms of a transform in `nvmath.fft`.

    Attributes:
        x: the values; each form has a copy of its own.
        arrays: the package it gets them in.
        keywords: of `nvmath.fft.FFT`.
        direction: of the transform.
    """

    x: Any
    arrays: Arrays
    keywords: dict[str, Any]
    direction: str = "forward"

    def resetting(self, name: str = RESET, method: str = "reset_operand") -> Candidate:
        """Reset the operand of one object and execute."""

        def make(operand: Any) -> Callable[[], Any]:
            planned, reset = self._planned(operand, method)

            def call() -> Any:
                reset(operand)
                return planned.execute(direction=self.direction)

            weakref.finalize(call, planned.free)
            return call

        return self._candidate(name, make)

    def resetting_alone(self, name: str, method: str) -> Candidate:
        """Reset the operand of one object, and no more."""

        def make(operand: Any) -> Callable[[], Any]:
            planned, reset = self._planned(operand, method)

            def call() -> Any:
                reset(operand)

            weakref.finalize(call, planned.free)
            return call

        return self._candidate(name, make)

    def whole(self, name: str = WHOLE, *, execute: bool = True) -> Candidate:
        """Make an object, use it once and free it."""

        def make(operand: Any) -> Callable[[], Any]:
            def call() -> Any:
                with module("nvmath.fft").FFT(operand, **self.keywords) as planned:
                    planned.plan()
                    return planned.execute(direction=self.direction) if execute else None

            return call

        return self._candidate(name, make)

    def function(self, function: str) -> Candidate:
        """Call the function form."""

        def make(operand: Any) -> Callable[[], Any]:
            called = getattr(module("nvmath.fft"), function)
            return functools.partial(called, operand, **self.keywords)

        return self._candidate(FUNCTION, make)

    def _planned(self, operand: Any, method: str) -> tuple[Any, Callable[[Any], None]]:
        planned = module("nvmath.fft").FFT(operand, **self.keywords)
        planned.plan()
        return planned, getattr(planned, method)

    def _candidate(self, name: str, make: Callable[[Any], Callable[[], Any]]) -> Candidate:
        operand = functools.cache(lambda: self.arrays.copied(self.x))
        return Candidate(
            name,
            lambda: make(operand()),
            self.arrays.wait,
            foreign=True,
            prepare=operand,
            tidy=_forget_handlers,
        )


def _forget_handlers() -> None:
    """Spare nvmath-python its own past.

    In 1.0.0 `reset_operand` adds a handler to one logger in each call and none is ever removed;
    logging looks through all of them, so that a thousand calls make the next one 20 µs slower.
    """
    logging.getLogger("get_fft_plan_traits_null").handlers.clear()
