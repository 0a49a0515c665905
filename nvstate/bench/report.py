"""A benchmark's results as text, JSON, Markdown and a picture."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nvstate.bench.cases import OURS
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
        waited: what the clock waited for: each call, or each round of `calls` calls.
        timings: by candidate.
        refused: by candidate, why there is no timing.
        bars: text, value and whether it is met; None where it could not be measured.
        losing: whether ours took longer than `jnp.fft`, by more than 2 %.
        describe: the plan's.
        error: why there are no numbers, or why they are worth nothing.
    """

    id: str
    group: str
    form: str
    reference: str
    waited: str = ""
    timings: dict[str, Timing] = dataclasses.field(default_factory=dict[str, Timing])
    refused: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    bars: list[dict[str, Any]] = dataclasses.field(default_factory=list[dict[str, Any]])
    losing: bool = False
    describe: str = ""
    error: str | None = None

    def ratio_of(self, timings: Mapping[str, Timing], name: str | None = None) -> float | None:
        """Time of the candidate `name`, or of the reference, over ours."""
        ours, theirs = timings.get(OURS), timings.get(name or self.reference)
        return theirs.median / ours.median if ours and theirs else None

    @property
    def ratio(self) -> float | None:
        """Time of the reference over ours."""
        return self.ratio_of(self.timings)


@dataclasses.dataclass(frozen=True)
class Report:
    """All of a run."""

    command: str
    date: str
    quick: bool
    environment: Environment
    rows: list[Row]
    seconds: float = 0.0

    @property
    def ordered(self) -> list[Row]:
        """The rows, those first that want attention: failed, then lost, the worst first."""
        return sorted(
            self.rows, key=lambda row: (not row.error, not row.losing, row.losing and row.ratio)
        )

    def count(self) -> str:
        """How many bars are met, in words."""
        known = [bar["met"] for row in self.rows for bar in row.bars if bar["met"] is not None]
        lost = sum(row.losing for row in self.rows)
        quick = "; sizes are small, so numbers say little" if self.quick else ""
        return (
            f"{len(self.rows)} cases in {self.seconds:.0f} s; {sum(known)} of {len(known)} bars "
            f"met; slower than jnp.fft in {lost}{quick}"
        )


def text(report: Report) -> str:
    """For a terminal."""
    parts = ["\n\n".join(_block(row) for row in report.ordered), report.count()]
    return "\n" + "\n\n".join(parts)


def json_text(report: Report) -> str:
    """Every number; seconds, unless a name says otherwise."""
    rows = [dataclasses.asdict(row) | {"ratio": row.ratio} for row in report.rows]
    data: dict[str, Any] = {"schema": 1} | dataclasses.asdict(report) | {"rows": rows}
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def markdown(report: Report) -> str:
    """A table, for a page of documentation."""
    lines = [
        f"# FFT on {report.environment.device}",
        "",
        f"`{report.command}`, {report.date}",
        "",
        *(f"- {line}" for line in report.environment.lines()),
        f"- {report.count()}",
        "",
        "Medians of interleaved rounds [fastest – slowest], per transform. "
        "A ratio is the other's time over ours.",
        "",
        "| case | nvstate | reference | ratio | others: ratio | plan, first call | bars |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report.ordered:
        ours, theirs = row.timings.get(OURS), row.timings.get(row.reference)
        if ours is None or theirs is None or row.ratio is None:
            lines.append(f"| {row.id} | failed: {' '.join((row.error or '').split())} | | | | | |")
            continue
        others = [
            f"{name}: {row.ratio_of(row.timings, name):.2f}"
            for name in row.timings
            if name not in {OURS, row.reference}
        ] + [f"{name}: refused" for name in row.refused]
        cells = [
            row.id,
            _spread(ours),
            f"{row.reference}: {_spread(theirs)}",
            f"**{row.ratio:.2f}**" if row.losing else f"{row.ratio:.2f}",
            "; ".join(others),
            f"{_seconds(ours.planning)}, {_seconds(ours.first)}",
            "; ".join(map(_bar, row.bars)),
        ]
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def plot(report: Report, path: Path) -> None:
    """Draw every candidate's time over ours; needs matplotlib."""
    try:
        pyplot = importlib.import_module("matplotlib.pyplot")
        ticker = importlib.import_module("matplotlib.ticker")
    except ImportError:
        print("no plot: matplotlib is not installed (nvstate[examples])", file=sys.stderr)
        return
    rows = [row for row in report.rows if row.ratio is not None][::-1]
    figure, axes = pyplot.subplots(figsize=(10, 1.6 + 0.24 * len(rows)), layout="constrained")
    names = list(dict.fromkeys(name for row in report.rows for name in row.timings))
    names.remove(OURS)
    colours = {name: f"C{i % 10}" for i, name in enumerate(names)}
    for name in names:
        found = [(row.ratio_of(row.timings, name), y) for y, row in enumerate(rows)]
        points = [point for point in found if point[0] is not None]
        xs, ys = zip(*points, strict=True) if points else ((), ())
        axes.scatter(xs, ys, s=22, color=colours[name], label=name, zorder=3)
    for y, row in enumerate(rows):
        limits = [bar["limit"] for bar in row.bars if bar["quantity"] == "ratio"]
        axes.plot(limits, [y] * len(limits), "k|", markersize=9, zorder=2)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [row.id for row in rows], fontsize=7, family="monospace")
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.grid(axis="x", which="both", alpha=0.3)
    axes.set_xlabel("time over nvstate's: right of 1, nvstate is faster; |, a bar")
    axes.set_title(f"{report.environment.device}, jax {report.environment.versions['jax']}")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _block(row: Row) -> str:
    lines = [f"{row.id}: {row.form}; waited for {row.waited}"]
    if row.error:
        lines += [f"  FAILED  {line}" for line in row.error.splitlines()]
    if row.losing:
        lines += ["  SLOWER than jnp.fft", *(f"    {line}" for line in row.describe.splitlines())]
    for name, t in row.timings.items():
        ratio = row.ratio_of(row.timings, name)
        before = f"plan {_seconds(t.planning)}, first {_seconds(t.first)}"
        lines.append(
            f"  {name:<22} {_spread(t):<38} ratio {ratio or 0:>6.2f}   {before:<32} "
            f"{t.rounds} x {t.calls}"
        )
    lines += [f"  {name:<22} refused: {why}" for name, why in row.refused.items()]
    lines += [f"  bar {_bar(bar)}" for bar in row.bars]
    return "\n".join(lines)


def _bar(bar: Mapping[str, Any]) -> str:
    if bar["value"] is None:
        return f"{bar['text']}: not measured"
    return f"{bar['text']}: {'met' if bar['met'] else 'NOT MET'} ({bar['value']:.3g})"


def _spread(t: Timing) -> str:
    return f"{_seconds(t.median)} [{_seconds(t.low)} – {_seconds(t.high)}]"


def _seconds(t: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if t >= size:
            return f"{t / size:.3g} {unit}"
    return f"{t * 1e6:.3g} µs"
