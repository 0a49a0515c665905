"""A benchmark's results, as text and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

from nvstate.bench.bars import OURS
from nvstate.bench.environment import Environment
from nvstate.bench.timing import Timing


@dataclasses.dataclass(frozen=True)
class Row:
    """What came of a case.

    Attributes:
        id: the case's.
        group: the letter of its bar.
        form: what one time is of, in words.
        reference: the candidate that `ratio` compares ours with.
        subject: ours.
        waited: what the clock waited for: each call, or each round of `calls` calls.
        timings: by candidate.
        refused: by candidate, why there is no timing.
        bars: text, value and whether it is met; None where it could not be measured.
        losing: whether ours took longer than the reference, by more than 2 %.
        describe: the plan's.
        note: what else is to be said of the measurement.
        error: why there are no numbers, or why they are worth nothing.
    """

    id: str
    group: str
    form: str
    reference: str
    subject: str = OURS
    waited: str = ""
    timings: dict[str, Timing] = dataclasses.field(default_factory=dict[str, Timing])
    refused: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    bars: list[dict[str, Any]] = dataclasses.field(default_factory=list[dict[str, Any]])
    losing: bool = False
    describe: str = ""
    note: str = ""
    error: str | None = None

    def ratio_of(self, timings: Mapping[str, Timing], name: str | None = None) -> float | None:
        """Time of the candidate `name`, or of the reference, over ours."""
        ours, theirs = timings.get(self.subject), timings.get(name or self.reference)
        return theirs.median / ours.median if ours and theirs else None

    @property
    def ratio(self) -> float | None:
        """Time of the reference over ours."""
        return self.ratio_of(self.timings)


@dataclasses.dataclass(frozen=True)
class Style:
    """How a benchmark's results are told.

    Attributes:
        title: what was measured.
        unit: what one time is of.
        against: what the rows that lose are slower than.
        layout: "ratios", a line for each row; or "times", a table for each row.
        quartiles: whether they stand beside a median, and not the fastest and the slowest round.
    """

    title: str
    unit: str
    against: str
    layout: Literal["ratios", "times"]
    quartiles: bool = False

    @property
    def bracket(self) -> str:
        """What stands beside a median."""
        return "quartiles" if self.quartiles else "fastest – slowest"

    def spread(self, t: Timing) -> str:
        """The median, with those beside it."""
        low, high = (self.quartiles and t.quartiles) or (t.low, t.high)
        return f"{duration(t.median)} [{duration(low)} – {duration(high)}]"


@dataclasses.dataclass(frozen=True)
class Report:
    """All of a run; `overall` are the bars that several rows share, as a row's `bars`."""

    style: Style
    command: str
    date: str
    quick: bool
    environment: Environment
    rows: list[Row]
    seconds: float = 0.0
    overall: list[dict[str, Any]] = dataclasses.field(default_factory=list[dict[str, Any]])

    @property
    def ordered(self) -> list[Row]:
        """The rows, those first that want attention: failed, then lost, the worst first."""
        return sorted(
            self.rows, key=lambda row: (not row.error, not row.losing, row.losing and row.ratio)
        )

    def count(self) -> str:
        """How many bars are met, in words."""
        bars = [*self.overall, *(bar for row in self.rows for bar in row.bars)]
        known = [bar["met"] for bar in bars if bar["met"] is not None]
        lost = sum(row.losing for row in self.rows)
        quick = "; a quick run, so numbers say little" if self.quick else ""
        return (
            f"{len(self.rows)} cases in {self.seconds:.0f} s; {sum(known)} of {len(known)} bars "
            f"met; slower than {self.style.against} in {lost}{quick}"
        )


def text(report: Report) -> str:
    """For a terminal."""
    parts = ["\n\n".join(_block(row, report.style) for row in report.ordered)]
    if report.overall:
        parts.append("\n".join(f"bar {told(bar)}" for bar in report.overall))
    parts.append(report.count())
    return "\n" + "\n\n".join(parts)


def json_text(report: Report) -> str:
    """Every number; seconds, unless a name says otherwise."""
    rows = [dataclasses.asdict(row) | {"ratio": row.ratio} for row in report.rows]
    data: dict[str, Any] = {"schema": 1} | dataclasses.asdict(report) | {"rows": rows}
    del data["style"]
    if not report.overall:
        del data["overall"]
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def _block(row: Row, style: Style) -> str:
    lines = [f"{row.id}: {row.form}; waited for {row.waited}"]
    if row.error:
        lines += [f"  FAILED  {line}" for line in row.error.splitlines()]
    if row.losing:
        lines += [
            f"  SLOWER than {row.reference}",
            *(f"    {line}" for line in row.describe.splitlines()),
        ]
    if row.note:
        lines.append(f"  {row.note}")
    width = max([22, *map(len, row.timings)])
    for name, t in row.timings.items():
        ratio = row.ratio_of(row.timings, name)
        before = f"plan {duration(t.planning)}, first {duration(t.first)}"
        lines.append(
            f"  {name:<{width}} {style.spread(t):<38} ratio {ratio or 0:>6.2f}   {before:<32} "
            f"{t.rounds} x {t.calls}"
        )
    lines += [f"  {name:<{width}} refused: {why}" for name, why in row.refused.items()]
    lines += [f"  bar {told(bar)}" for bar in row.bars]
    return "\n".join(lines)


def told(bar: Mapping[str, Any]) -> str:
    """A bar, and what came of it."""
    if bar["value"] is None:
        return f"{bar['text']}: not measured"
    return f"{bar['text']}: {'met' if bar['met'] else 'NOT MET'} ({bar['value']:.3g})"


def duration(t: float) -> str:
    """Seconds, in a unit that suits them."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if t >= size:
            return f"{t / size:.3g} {unit}"
    return f"{t * 1e6:.3g} µs"
