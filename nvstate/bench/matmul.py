"""The products' benchmark, beside XLA's after its own autotuning, and what a call costs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax

from nvstate._core.aval import Device
from nvstate.bench import matmul_candidates as candidates
from nvstate.bench.bars import OURS
from nvstate.bench.clocks import Clocks
from nvstate.bench.matmul_cases import GROUPS, JITTED, MEANS, XLA, Case, all_cases
from nvstate.bench.report import Row, Style
from nvstate.bench.runner import Suite
from nvstate.bench.timing import REPEATED, SMALL, Timing, measure, measure_first

FIRSTS = 3  # rounds of first calls
Found = tuple[dict[str, Timing], dict[str, str], str, str]  # timings, refusals, describe, note


def _measured(case: Case, device: Device, platform: str, seconds: float) -> Row:
    row = Row(
        id=case.id,
        group=f"plain/{case.dtype}" if case.group == "plain" else case.group,
        form=GROUPS[case.group],
        reference=case.reference,
    )
    how = {"first": _first, "call": _calls}.get(case.group, _on_device)
    try:
        timings, refused, described, note = how(case, device, platform, seconds)
    except Exception as error:  # of any kind: a run of minutes must not be lost to it
        return dataclasses.replace(row, error=f"{type(error).__name__}: {error}")
    each = platform == "cpu" or case.group == "first"
    return dataclasses.replace(
        row,
        waited="each call" if each else "each round",
        timings=timings,
        refused=refused,
        bars=[bar.data(timings) for bar in case.bars if bar.on in {"any", platform}],
        losing=case.group != "call" and (row.ratio_of(timings) or 1) < 1,
        describe=described,
        note=note,
    )


def _on_device(case: Case, device: Device, platform: str, seconds: float) -> Found:
    given = candidates.problem(case, device)

    with Clocks(device) as clocks:

        def ready(calls: dict[str, Callable[[], Any]]) -> None:
            # What was refused as no equal of ours has a right result all the same.
            theirs = calls.get(XLA, lambda: [jax.jit(given.theirs())(**given.operands)])()
            candidates.require_agreement(case, calls[OURS]()[: len(theirs)], theirs)
            clocks.start()

        made = candidates.on_device(case, given, platform)
        on_cpu = platform == "cpu"
        timings, refused = measure(
            made,
            seconds=seconds,
            wait_each=on_cpu,
            small=SMALL if on_cpu else REPEATED,  # an idle queue's first program starts late
            ready=ready,
        )
    rate = case.operations / timings[OURS].median / 1e12
    note = f"{rate:.3g} TFLOP/s, {made[0].per} in a program"
    return timings, refused, given.describe(), f"{note}; {clocks.said}" if clocks.said else note


def _first(case: Case, device: Device, platform: str, seconds: float) -> Found:
    m, n, k = case.extents

    def others(turn: int) -> list[Any]:
        near = dataclasses.replace(case, extents=(m, n, k + 16 * turn))
        return candidates.once(candidates.Product.of(near, device))

    last = dataclasses.replace(case, extents=(m, n, k + 16 * FIRSTS))
    timings = measure_first(others, rounds=FIRSTS)
    given = candidates.Product.of(last, device)
    ours, theirs = (candidate.make()() for candidate in candidates.once(given))
    candidates.require_agreement(case, ours, theirs)
    return timings, {}, given.describe(), f"K from {k + 16} to {k + 16 * FIRSTS}, one a round"


def _calls(case: Case, device: Device, platform: str, seconds: float) -> Found:
    given = candidates.Product.of(case, device)

    def ready(calls: dict[str, Callable[[], Any]]) -> None:
        candidates.require_agreement(case, calls[OURS](), calls[JITTED]())

    timings, refused = measure(
        candidates.calls(given, device),
        seconds=2 * seconds,
        wait_each=platform == "cpu",
        ready=ready,
    )
    return timings, refused, given.describe(), ""


def overall(rows: list[Row], platform: str) -> list[dict[str, Any]]:
    """Geometric means of the ratios of a group, by type of operand; bars are a GPU's."""
    found: list[dict[str, Any]] = []
    for group in dict.fromkeys(row.group for row in rows):
        limit = MEANS.get(group.split("/")[0])
        ratios = [row.ratio for row in rows if row.group == group and row.ratio]
        if limit is None or not ratios or platform != "cuda":
            continue
        value = math.exp(sum(map(math.log, ratios)) / len(ratios))
        text = f"{group}: geometric mean of {len(ratios)} ratios ≥ {limit:g}x {XLA}"
        found.append({"text": text, "limit": limit, "value": value, "met": value >= limit})
    return found


SUITE = Suite(
    style=Style("Products", "product", "XLA", "ratios", quartiles=True),
    quick="small products, and on a GPU a few large ones",
    seconds={"quick": 0.15, "cpu": 0.8, "cuda": 0.5},
    cases=lambda quick: all_cases(quick=quick),
    measure=_measured,
    runs_on=Case.runs_on,
    overall=overall,
)
