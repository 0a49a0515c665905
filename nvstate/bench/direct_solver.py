"""The sparse solver's benchmark, beside JAX's own, SciPy's and the libraries themselves."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import nvstate as nvs
from nvstate._core.aval import Device
from nvstate.bench import solver_candidates as candidates
from nvstate.bench.bars import OURS
from nvstate.bench.report import Row, Style
from nvstate.bench.runner import Suite
from nvstate.bench.solver_cases import (
    EXTRA,
    FORWARD,
    GROUPS,
    RAW,
    REBUILT,
    SPSOLVE,
    UNCHECKED,
    Case,
    all_cases,
)
from nvstate.bench.timing import REPEATED, SMALL, Timing, measure

BOUND = 1e-12  # on the backward error of what is timed
GRADIENT = 1.3  # extra solves
PLANNED = 2.0  # geometric mean of what a plan spares
REFERENCES = {"whole": SPSOLVE, "solve": SPSOLVE, "loop": RAW, "solves": RAW, "gradient": FORWARD}


def _measured(case: Case, device: Device, platform: str, seconds: float) -> Row:
    reference = REFERENCES[case.group]
    if reference == SPSOLVE and not case.spsolve:
        reference = RAW
    row = Row(id=case.id, group=case.group, form=GROUPS[case.group], reference=reference)
    try:
        problem = candidates.Problem.of(case, device)
        # A solve reads its ticket back, so what it costs shows where the others wait too.
        waits = platform == "cpu" or case.group == "solve"
        made = getattr(candidates, case.group)(problem, platform)
        before = nvs.cache.info()

        def ready(calls: dict[str, Callable[[], Any]]) -> None:
            if case.group != "gradient":
                for name in {OURS, UNCHECKED} & calls.keys():
                    x = calls[name]()
                    error = min(problem.error(x, turn) for turn in range(2))  # whose turn it was
                    if not error <= BOUND:
                        raise AssertionError(f"backward error {error:.1e} of {name}")

        # PARDISO's threads wait busily for 0.2 s after a call: those that a bare call from this
        # thread has would take the cores from ours, which XLA's threads call. So it has no turns.
        alone = [c for c in made if c.name == RAW and platform == "cpu"]
        timings, refused = measure(
            [c for c in made if c not in alone],
            seconds=seconds,
            wait_each=waits,
            small=SMALL if platform == "cpu" else REPEATED,
            ready=ready,
        )
        for candidate in alone:
            time.sleep(0.5)
            more, why = measure([candidate], seconds=seconds / 4, wait_each=True)
            timings, refused = timings | more, refused | why
    except Exception as error:  # of any kind: a run of minutes must not be lost to it
        return dataclasses.replace(row, error=f"{type(error).__name__}: {error}")
    missed = nvs.cache.info().factor_misses - before.factor_misses
    bars = [bar.data(timings) for bar in case.bars if bar.on in {"any", platform}]
    if case.group == "gradient":
        bars.append(_gradient(timings))
    return dataclasses.replace(
        row,
        waited="each call" if waits else "each round",
        timings=timings,
        refused=refused,
        bars=bars,
        losing=case.group != "gradient" and (row.ratio_of(timings) or 1) < 0.9,
        describe=problem.plan.describe(),
        note=f"n {problem.matrix.shape[0]}, nnz {problem.matrix.nnz}, {problem.plan.backend}, "
        f"{missed} misses",
    )


def _gradient(timings: dict[str, Timing]) -> dict[str, Any]:
    """The bar of a gradient: what it adds to the forward solve, in solves."""
    value = (timings[OURS].median - timings[FORWARD].median) / timings[EXTRA].median
    return {
        "quantity": "solves",
        "text": f"≤ {GRADIENT:g} extra solves",
        "limit": GRADIENT,
        "value": value,
        "met": value <= GRADIENT,
    }


def overall(rows: list[Row], platform: str) -> list[dict[str, Any]]:
    """What a plan spares, over the matrices where planning was timed too."""
    ratios = [r for row in rows if (r := row.ratio_of(row.timings, REBUILT))]
    if not ratios:
        return []
    value = math.exp(sum(map(math.log, ratios)) / len(ratios))
    text = f"geometric mean of {len(ratios)}: ≥ {PLANNED:g}x {REBUILT}"
    return [{"text": text, "limit": PLANNED, "value": value, "met": value >= PLANNED}]


SUITE = Suite(
    style=Style("Sparse solves", "call", "the reference", "times"),
    quick="one small matrix, and fewer rounds",
    seconds={"quick": 0.3, "cpu": 6, "cuda": 2},
    cases=lambda quick: all_cases(quick=quick),
    measure=_measured,
    runs_on=Case.runs_on,
    overall=overall,
)
