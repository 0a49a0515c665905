"""What a call costs in each form, beside nvmath-python's stateful object and its function."""

from __future__ import annotations

import dataclasses
from typing import Literal

from nvstate._core.aval import Device
from nvstate.bench import stateful
from nvstate.bench.bars import Bar
from nvstate.bench.forms import (
    BOUND_ALONE,
    ONE_SHOT,
    PLAN,
    REBUILT,
    RESET,
    UNCHECKED_ALONE,
    Operand,
    Package,
)
from nvstate.bench.report import Row, Style
from nvstate.bench.runner import Suite
from nvstate.bench.timing import measure

Form = Literal["call", "enqueued", "parts", "rebuilt"]
FORMS: dict[Form, str] = {
    "call": "one call from Python",
    "enqueued": "one call from Python",
    "parts": "what Python does before a call, one by one",
    "rebuilt": "one call that has to build first what it needs",
}
WAITED: dict[tuple[Package, Form], str] = {
    ("numpy", "call"): "each call, which blocks by itself",
    ("jax", "call"): "each call",
    ("jax", "enqueued"): "the last call of each round: the others are enqueued behind one another",
    ("numpy", "parts"): "nothing: ours use no device",
    ("jax", "parts"): "nothing: ours use no device",
    ("numpy", "rebuilt"): "each call, which blocks by itself",
    ("jax", "rebuilt"): "each call",
}
SIDES: dict[Form, tuple[str, str]] = {  # whose time, against whose
    "call": (RESET, stateful.RESET),
    "enqueued": (RESET, stateful.RESET),
    "parts": (UNCHECKED_ALONE, BOUND_ALONE),
    "rebuilt": (REBUILT, stateful.WHOLE),
}
SHAPES: list[tuple[tuple[int, ...], int]] = [((64,), -1), ((64, 256), 1), ((1024, 1024), 0)]
ORDER: list[tuple[Package, Form]] = list(WAITED)

LOOP = Bar("times", 1.5, "any", ONE_SHOT, PLAN)
UNCHECKED = Bar("excess", 1, "any", UNCHECKED_ALONE, BOUND_ALONE)
BARS: dict[tuple[Package, Form], tuple[Bar, ...]] = {
    ("numpy", "call"): (
        Bar("times", 0.6, "cpu", RESET, stateful.RESET),
        Bar("times", 0.4, "cpu", ONE_SHOT, stateful.FUNCTION),
        LOOP,
    ),
    ("jax", "call"): (LOOP,),
    ("jax", "enqueued"): (
        Bar("micros", 35, "cuda", RESET),
        Bar("micros", 40, "cuda", ONE_SHOT),
        LOOP,
    ),
    ("numpy", "parts"): (UNCHECKED,),
    ("jax", "parts"): (UNCHECKED,),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """An operand, and a way to look at its calls.

    Attributes:
        shape: of the operand, complex64.
        axis: that is transformed, forward.
        package: of the operand; NumPy's too is computed with on the device measured.
        form: what is looked at.
    """

    shape: tuple[int, ...]
    axis: int
    package: Package
    form: Form

    @property
    def id(self) -> str:
        """For example `jax/call-complex64-64x256-axis1`."""
        shape = "x".join(map(str, self.shape))
        return f"{self.package}/{self.form}-complex64-{shape}-axis{self.axis % len(self.shape)}"

    @property
    def bars(self) -> tuple[Bar, ...]:
        """What is to be reached, at 64 points alone: larger ones take their time to compute."""
        return BARS.get((self.package, self.form), ()) if self.shape == (64,) else ()


def all_cases(*, quick: bool) -> list[Case]:
    """Every case, the smallest operand first. What Python alone does is the same for all."""
    return [
        Case(shape, axis, package, form)
        for shape, axis in (SHAPES[:1] if quick else SHAPES)
        for package, form in ORDER
        if form != "parts" or shape == (64,)
    ]


def _measured(case: Case, device: Device, platform: str, seconds: float) -> Row:
    subject, reference = SIDES[case.form]
    row = Row(
        id=case.id,
        group=case.package,
        form=FORMS[case.form],
        reference=reference,
        subject=subject,
        waited=WAITED[case.package, case.form],
    )
    try:
        operand = Operand.of(case.shape, case.axis, case.package, device)
        described = operand.plan().describe()
        error = operand.disagreement()
        candidates = {
            "call": lambda: operand.calls() + operand.nvmath_calls(),
            "enqueued": lambda: operand.calls() + operand.nvmath_calls(),
            "parts": lambda: operand.parts() + operand.nvmath_parts(),
            "rebuilt": lambda: operand.rebuilt() + operand.nvmath_rebuilt(),
        }[case.form]()
        timings, refused = measure(
            candidates,
            seconds=seconds * (2 if case.bars else 1),
            wait_each=case.form not in {"enqueued", "parts"},
        )
    except Exception as error:  # of any kind: the other rows must not be lost to it
        return dataclasses.replace(row, error=f"{type(error).__name__}: {error}")
    return dataclasses.replace(
        row,
        timings=timings,
        refused=refused,
        bars=[bar.data(timings) for bar in case.bars if bar.on in {"any", platform}],
        losing=reference.startswith("nvmath") and (row.ratio_of(timings) or 1) < 0.98,
        describe=described,
        error=error,
    )


SUITE = Suite(
    style=Style("Calls", "call", "nvmath-python", "times"),
    quick="the smallest operand alone, and fewer rounds",
    seconds={"quick": 0.5, "cpu": 1.8, "cuda": 1.5},
    cases=lambda quick: all_cases(quick=quick),
    measure=_measured,
)
