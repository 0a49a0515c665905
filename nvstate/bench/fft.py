"""The FFT's benchmark: transforms, beside `jax.numpy.fft` and the libraries installed."""

from __future__ import annotations

import dataclasses

from nvstate._core.aval import Device
from nvstate.bench.bars import THEIRS
from nvstate.bench.candidates import Problem
from nvstate.bench.cases import FORMS, Case, all_cases
from nvstate.bench.report import Row, Style
from nvstate.bench.runner import Suite
from nvstate.bench.timing import measure


def _measured(case: Case, device: Device, platform: str, seconds: float) -> Row:
    row = Row(id=case.id, group=case.group, form=FORMS[case.form], reference=case.reference)
    try:
        problem = Problem.of(case, device)
        described = problem.plan().describe()
        error = problem.disagreement()
        wait_each = platform == "cpu"
        timings, refused = measure(problem.candidates(device), seconds=seconds, wait_each=wait_each)
    except Exception as error:  # of any kind: a run of minutes must not be lost to it
        return dataclasses.replace(row, error=f"{type(error).__name__}: {error}")
    bars = [bar.data(timings) for bar in case.bars if bar.on in {"any", platform}]
    losing = case.reference == THEIRS and (row.ratio_of(timings) or 1) < 0.98
    return dataclasses.replace(
        row,
        waited="each call" if wait_each else "each round",
        timings=timings,
        refused=refused,
        bars=bars,
        losing=losing,
        describe=described,
        error=error,
    )


SUITE = Suite(
    style=Style("FFT", "transform", THEIRS, "ratios"),
    quick="smaller and fewer cases, no bars",
    seconds={"quick": 0.4, "cpu": 1.5, "cuda": 1.0},
    cases=lambda quick: all_cases(quick=quick),
    measure=_measured,
    runs_on=lambda case, platform: platform == "cuda" or case.form != "strategies",
)
