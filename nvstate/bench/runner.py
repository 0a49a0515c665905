"""The command line that all benchmarks share: measure every case, then report."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax

from nvstate._core.aval import Device
from nvstate.bench import environment, report
from nvstate.bench.markdown import markdown
from nvstate.bench.picture import plot
from nvstate.bench.report import Report, Row, Style


class Named(Protocol):
    """A case, as far as the command line knows it."""

    @property
    def id(self) -> str:
        """Its name."""
        ...


@dataclasses.dataclass(frozen=True)
class Suite:
    """A benchmark.

    Attributes:
        style: how its results are told.
        quick: what `--quick` does.
        seconds: spent on the rounds of a case: "quick", "cpu", "cuda".
        cases: of a run, quick or not.
        measure: a case's row, on a device, its platform ("cpu", "cuda"), for so many seconds.
            A failure is in the row: the others are measured all the same.
        runs_on: whether a case is for a platform.
        overall: bars that several rows share, measured on a platform, as `Row.bars`.
    """

    style: Style
    quick: str
    seconds: Mapping[str, float]
    cases: Callable[[bool], list[Any]]
    measure: Callable[[Any, Device, str, float], Row]
    runs_on: Callable[[Any, str], bool] = lambda case, platform: True
    overall: Callable[[list[Row], str], list[dict[str, Any]]] = lambda rows, platform: []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command line."""
        parser.add_argument("--quick", action="store_true", help=self.quick)
        parser.add_argument("--device", choices=["cpu", "cuda"], help="default: JAX's")
        parser.add_argument("--cases", metavar="REGEX", help="only cases whose name matches")
        parser.add_argument("--list", action="store_true", help="print the cases' names, and stop")
        parser.add_argument("--json", metavar="PATH", type=Path, help="write every number")
        parser.add_argument("--markdown", metavar="PATH", type=Path, help="write a table")
        parser.add_argument("--plot", metavar="PATH", type=Path, help="draw it, with matplotlib")

    def main(self, arguments: argparse.Namespace, argv: list[str]) -> int:
        """Run the benchmark; the exit status: 1 if a case failed, 2 if there is nothing to run."""
        cases: list[Named] = self.cases(arguments.quick)
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
        made = self._run(cases, device, argv, quick=arguments.quick)
        print(report.text(made))
        if arguments.json:
            arguments.json.write_text(report.json_text(made))
        if arguments.markdown:
            arguments.markdown.write_text(markdown(made))
        if arguments.plot:
            plot(made, arguments.plot)
        return 1 if any(row.error for row in made.rows) else 0

    def _run(self, cases: list[Named], device: Device, argv: list[str], *, quick: bool) -> Report:
        where = environment.observe(device)
        cases = [case for case in cases if self.runs_on(case, where.platform)]
        made = Report(
            style=self.style,
            command=f"python -m nvstate.bench {shlex.join(argv)}",
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            quick=quick,
            environment=where,
            rows=[],
        )
        print("\n".join([made.command, *where.lines()]), flush=True)
        seconds = self.seconds["quick" if quick else where.platform]
        start = time.perf_counter()
        for i, case in enumerate(cases):
            print(f"[{i + 1}/{len(cases)}] {case.id}", file=sys.stderr, flush=True)
            made.rows.append(self.measure(case, device, where.platform, seconds))
        overall = self.overall(made.rows, where.platform)
        return dataclasses.replace(made, seconds=time.perf_counter() - start, overall=overall)
