"""A benchmark's results as a picture."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from nvstate.bench.report import Report, Row

MARKERS = "os^D"


def plot(report: Report, path: Path) -> None:
    """Draw every candidate's time, or its ratio to ours; needs matplotlib."""
    try:
        pyplot = importlib.import_module("matplotlib.pyplot")
        ticker = importlib.import_module("matplotlib.ticker")
    except ImportError:
        print("no plot: matplotlib is not installed (nvstate[examples])", file=sys.stderr)
        return
    ratios = report.style.layout == "ratios"
    rows = [row for row in report.rows if (row.ratio if ratios else row.timings)][::-1]
    figure, axes = pyplot.subplots(figsize=(10, 1.6 + 0.24 * len(rows)), layout="constrained")
    names = list(dict.fromkeys(name for row in report.rows for name in row.timings))
    if ratios:
        names = [name for name in names if name not in {row.subject for row in rows}]
    for i, name in enumerate(names):
        found = [(_place(row, name, ratios), y) for y, row in enumerate(rows)]
        points = [point for point in found if point[0] is not None]
        xs, ys = zip(*points, strict=True) if points else ((), ())
        marker = MARKERS[i // 10 % len(MARKERS)]
        axes.scatter(xs, ys, s=22, color=f"C{i % 10}", marker=marker, label=name, zorder=3)
    if ratios:
        for y, row in enumerate(rows):
            limits = [bar["limit"] for bar in row.bars if bar["quantity"] == "ratio"]
            axes.plot(limits, [y] * len(limits), "k|", markersize=9, zorder=2)
        axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [row.id for row in rows], fontsize=7, family="monospace")
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.grid(axis="x", which="both", alpha=0.3)
    axes.set_xlabel(
        "time over nvstate's: right of 1, nvstate is faster; |, a bar"
        if ratios
        else f"microseconds per {report.style.unit}"
    )
    axes.set_title(f"{report.environment.device}, jax {report.environment.versions['jax']}")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if ratios else (1,)))
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    figure.legend(loc="outside lower center", ncols=4 if ratios else 3, fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _place(row: Row, name: str, ratios: bool) -> float | None:
    if ratios:
        return row.ratio_of(row.timings, name)
    return row.timings[name].median * 1e6 if name in row.timings else None
