"""The self test of `python -m nvstate`: each operation's samples on each device."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from nvstate._core import placement
from nvstate._core.aval import Device
from nvstate._core.diagnose import Fact
from nvstate._core.plan import Plan, plan_types


@dataclasses.dataclass(frozen=True)
class Sample:
    """A small problem whose answer is known, of which a self test asks both.

    Attributes:
        name: which problem, in one line.
        operands: they are moved to the device.
        run: plans and executes, given the operands there.
        oracle: the same by NumPy alone, in a wider precision.
        bound: on the relative L2 error.
    """

    name: str
    operands: tuple[np.ndarray[Any, Any], ...]
    run: Callable[..., Any]
    oracle: Callable[..., np.ndarray[Any, Any]]
    bound: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfTestFact(Fact):
    """An operation's sample on a device: "passed", "failed", or "none" if it has no samples."""

    device: str | None = None
    sample: str | None = None
    milliseconds: float | None = None  # planning, compilation and execution
    relative_error: float | None = None
    bound: float | None = None

    def cells(self) -> tuple[str, ...]:
        """Operation, device, status, time, error, sample."""
        took = "" if self.milliseconds is None else f"{self.milliseconds:.0f} ms"
        error = "" if self.relative_error is None else f"error {self.relative_error:.1e}"
        return (self.name, self.device or "", self.status, took, error, self.sample or "")


def run(devices: list[Device]) -> Iterator[Fact]:
    """Yield each sample of each operation on each device; one CPU stands for all."""
    cpus = [d for d in devices if d.platform == "cpu"]
    tested = [*cpus[:1], *(d for d in devices if d.platform != "cpu")]
    for plan in plan_types.values():
        samples = plan.samples()
        if not samples:
            yield SelfTestFact(name=plan.where, status="none")
        for device in tested:
            for sample in samples:
                yield _test(plan, device, sample)


def _test(plan: type[Plan], device: Device, sample: Sample) -> Fact:
    took = error = message = None
    try:
        operands = [jax.device_put(x, device) for x in sample.operands]
        start = time.perf_counter()
        got = np.asarray(sample.run(*operands))
        took = 1e3 * (time.perf_counter() - start)
        want = sample.oracle(*sample.operands)
        if got.shape != want.shape:
            message = f"the result has shape {got.shape} instead of {want.shape}"
        else:
            error = float(np.linalg.norm(got - want) / np.linalg.norm(want))
            if not error <= sample.bound:  # which NaN is not either
                message = f"the relative error is {error:.1e}, above {sample.bound:.1e}"
    except Exception as raised:  # of any kind: it is a line here, and the other tests still run
        message = f"{type(raised).__name__}: {raised}"
    return SelfTestFact(
        name=plan.where,
        device=placement.name(device),
        sample=sample.name,
        status="failed" if message else "passed",
        failed=message is not None,
        message=message,
        milliseconds=took,
        relative_error=error if error is not None and math.isfinite(error) else None,
        bound=sample.bound,
    )
