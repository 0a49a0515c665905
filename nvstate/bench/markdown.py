"""A benchmark's results as tables, for a page of documentation."""

from __future__ import annotations

from nvstate.bench.report import Report, Row, Style, duration, told


def markdown(report: Report) -> str:
    """Where it ran, and the tables."""
    style = report.style
    lines = [
        f"# {style.title} on {report.environment.device}",
        "",
        f"`{report.command}`, {report.date}",
        "",
        *(f"- {line}" for line in report.environment.lines()),
        f"- {report.count()}",
        *(f"- {told(bar)}" for bar in report.overall),
        "",
        f"Medians of interleaved rounds [{style.bracket}], per {style.unit}. "
        "A ratio is the other's time over ours.",
        "",
    ]
    if style.layout == "ratios":
        return "\n".join(lines + _ratios(report)) + "\n"
    return "\n\n".join(["\n".join(lines[:-1]), *(_times(row, style) for row in report.rows)]) + "\n"


def _ratios(report: Report) -> list[str]:
    """One table, a line for each row, those first that want attention."""
    lines = [
        "| case | nvstate | reference | ratio | others: ratio | plan, first call | bars |",
        "|---|---|---|---|---|---|---|",
    ]
    style = report.style
    for row in report.ordered:
        ours, theirs = row.timings.get(row.subject), row.timings.get(row.reference)
        if ours is not None and row.reference in row.refused:
            why = f"{row.reference}: refused: {_flat(row.refused[row.reference])}"
            lines.append(_line(row.id, style.spread(ours), why, "", "", "", ""))
            continue
        if ours is None or theirs is None or row.ratio is None:
            lines.append(f"| {row.id} | failed: {_flat(row.error)} | | | | | |")
            continue
        others = [
            f"{name}: {row.ratio_of(row.timings, name):.2f}"
            for name in row.timings
            if name not in {row.subject, row.reference}
        ] + [f"{name}: refused" for name in row.refused]
        lines.append(
            _line(
                row.id,
                style.spread(ours),
                f"{row.reference}: {style.spread(theirs)}",
                f"**{row.ratio:.2f}**" if row.losing else f"{row.ratio:.2f}",
                "; ".join(others),
                f"{duration(ours.planning)}, {duration(ours.first)}",
                "; ".join(map(told, row.bars)),
            )
        )
    return lines


def _times(row: Row, style: Style) -> str:
    """A row's own table, in the order in which its candidates were named."""
    lines = [f"## {row.id}", "", f"One time is of {row.form}; the clock waited for {row.waited}."]
    if row.error:
        lines += ["", f"Failed: {_flat(row.error)}"]
    if row.timings:
        lines += ["", f"| call | time | over `{row.subject}` |", "|---|---|---|"]
    for name, t in row.timings.items():
        ratio = row.ratio_of(row.timings, name)
        lines.append(_line(f"`{name}`", style.spread(t), "" if ratio is None else f"{ratio:.2f}"))
    lines += [_line(f"`{name}`", f"refused: {_flat(why)}", "") for name, why in row.refused.items()]
    if row.bars:
        lines += ["", *(f"- {told(bar)}" for bar in row.bars)]
    return "\n".join(lines)


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _flat(text: str | None) -> str:
    return " ".join((text or "").split())
