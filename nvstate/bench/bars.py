"""Bars: numbers to reach."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from nvstate.bench.timing import Timing

OURS, THEIRS = "nvstate", "jnp.fft"


@dataclasses.dataclass(frozen=True)
class Bar:
    """A number to reach, as data: nothing asserts it.

    Attributes:
        quantity: "ratio", `reference` over `subject`, at least; "times", `subject` over
            `reference`, "micros", `subject` alone, or "excess", microseconds over, at most.
        limit: the number.
        on: where it is meant.
        subject: whose time.
        reference: against whose.
    """

    quantity: Literal["ratio", "times", "micros", "excess"]
    limit: float
    on: Literal["any", "cpu", "cuda"] = "any"
    subject: str = OURS
    reference: str = THEIRS

    def __str__(self) -> str:
        text = {
            "ratio": f"≥ {self.limit:g}x {self.reference}",
            "times": f"≤ {self.limit:g} times {self.reference}",
            "micros": f"≤ {self.limit:g} µs",
            "excess": f"≤ {self.limit:g} µs over {self.reference}",
        }[self.quantity]
        return text if self.subject == OURS else f"{self.subject}: {text}"

    def value(self, timings: Mapping[str, Timing]) -> float | None:
        """The quantity; None if one of its sides was not measured."""
        subject, reference = timings.get(self.subject), timings.get(self.reference)
        if subject is None:
            return None
        if self.quantity == "micros":
            return subject.median * 1e6
        if reference is None:
            return None
        if self.quantity == "excess":
            return (subject.median - reference.median) * 1e6
        if self.quantity == "times":
            return subject.median / reference.median
        return reference.median / subject.median

    def is_met(self, value: float) -> bool:
        """Whether `value` is on the right side of the limit."""
        return value >= self.limit if self.quantity == "ratio" else value <= self.limit

    def data(self, timings: Mapping[str, Timing]) -> dict[str, Any]:
        """The bar and what came of it; None where it was not measured."""
        value = self.value(timings)
        met = None if value is None else self.is_met(value)
        return dataclasses.asdict(self) | {"text": str(self), "value": value, "met": met}
