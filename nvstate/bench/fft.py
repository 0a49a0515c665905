"""The FFT's benchmark: every case measured, then reported, the lost ones first."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import re
import shlex
import sys
import time
from pathlib import Path

import jax

from nvstate._core.aval import Device
from nvstate.bench import environment, report
from nvstate.bench.candidates import Problem
from nvstate.bench.cases import FORMS, THEIRS, Case, all_cases
from nvstate.bench.report import Report, Row
from nvstate.bench.timing import measure

SECONDS = {"quick": 0.4, "cpu": 1.5, "cuda": 1.0}  # spent on the rounds of a case


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--quick", action="store_true", help="smaller and fewer cases, no bars")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: JAX's")
    parser.add_argument("--cases", metavar="REGEX", help="only cases whose name matches")
    parser.add_argument("--list", action="store_true", help="print the cases' names, and stop")
    parser.add_argument("--json", metavar="PATH", type=Path, help="write every number")
    parser.add_argument("--markdown", metavar="PATH", type=Path, help="write a table")
    parser.add_argument("--plot", metavar="PATH", type=Path, help="draw it, with matplotlib")


def main(arguments: argparse.Namespace, argv: list[str]) -> int:
    """Run the benchmark; the exit status: 1 if a case failed, 2 if there is nothing to run."""
    cases = all_cases(quick=arguments.quick)
    if arguments.cases:
        cases = [case for case in cases if re.search(arguments.cases, case.id)]
    if arguments.list:
        print("\n".join(case.id for case in cases))
        return 0
    if not cases:
        print(f"no case matches {arguments.cases!r}; --list names them", file=sys.stderr)
        return 2
    outputs = [path for path in (arguments.json, arguments.markdown, arguments.plot) if path]
    if lost := [path for path in outputs if not path.parent.is_dir()]:
        print(f"no such directory: {lost[0].parent}", file=sys.stderr)
        return 2
    jax.config.update("jax_enable_x64", True)
    if arguments.device:  # before JAX takes most of a GPU's memory
        platforms = {"cpu": "cpu", "cuda": "cuda,cpu"}[arguments.device]
        jax.config.update("jax_platforms", platforms)
    try:
        device = jax.devices(arguments.device)[0]
    except RuntimeError as error:
        print(f"no such device: {error}", file=sys.stderr)
        return 2
    where = environment.observe(device)
    if where.platform != "cuda":
        cases = [case for case in cases if case.form != "strategies"]
    made = Report(
        command=f"python -m nvstate.bench {shlex.join(argv)}",
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        quick=arguments.quick,
        environment=where,
        rows=[],
    )
    print("\n".join([made.command, *where.lines()]), flush=True)
    seconds = SECONDS["quick" if arguments.quick else where.platform]
    start = time.perf_counter()
    for i, case in enumerate(cases):
        print(f"[{i + 1}/{len(cases)}] {case.id}", file=sys.stderr, flush=True)
        made.rows.append(_measured(case, device, where.platform, seconds))
    made = dataclasses.replace(made, seconds=time.perf_counter() - start)
    print(report.text(made))
    if arguments.json:
        arguments.json.write_text(report.json_text(made))
    if arguments.markdown:
        arguments.markdown.write_text(report.markdown(made))
    if arguments.plot:
        report.plot(made, arguments.plot)
    return 1 if any(row.error for row in made.rows) else 0


def _measured(case: Case, device: Device, platform: str, seconds: float) -> Row:
    """One case's row. Its failure is in the row: the others are measured all the same."""
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
