"""Interleaved timing: candidates take turns, so that a change of clock or load meets them all."""

from __future__ import annotations

import dataclasses
import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

ROUNDS = (5, 200)  # fewest and most
SMALL = 1e-3  # seconds: calls faster than this are repeated between two looks at the clock …
REPEATED = 2e-2  # … for so long


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to do what a case asks for.

    Attributes:
        name: as reports say it.
        make: plans, and returns the call to time; the call returns what `wait` waits for.
        wait: returns when a result is there.
        per: transforms in one call; times are of one transform.
        foreign: another library's, whose refusal is a result and not a failure.
        prepare: gets the data, before the clock starts.
        tidy: is called before each round, off the clock.
    """

    name: str
    make: Callable[[], Callable[[], Any]]
    wait: Callable[[Any], object]
    per: int = 1
    foreign: bool = False
    prepare: Callable[[], object] = lambda: None
    tidy: Callable[[], object] = lambda: None


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds per transform, but for `planning` and `first`, the whole first call.

    Attributes:
        planning: what can be paid before there is data.
        first: the first call: it traces, compiles, and plans natively.
        median: of the rounds.
        low: of the fastest round.
        high: of the slowest round.
        rounds: how many.
        calls: in each round.
        quartiles: of the rounds, the first and the third.
    """

    planning: float
    first: float
    median: float
    low: float
    high: float
    rounds: int
    calls: int
    quartiles: tuple[float, float] | None = None

    @classmethod
    def of(cls, planning: float, first: float, seconds: Sequence[float], calls: int) -> Timing:
        """Summarise at least two rounds."""
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(
            planning,
            first,
            median,
            min(seconds),
            max(seconds),
            len(seconds),
            calls,
            (low, high),
        )


@dataclasses.dataclass
class _Running:
    candidate: Candidate
    call: Callable[[], Any]
    planning: float
    first: float
    calls: int = 1
    seconds: list[float] = dataclasses.field(default_factory=list[float])

    def round(self, *, wait_each: bool) -> float:
        """Seconds of one transform in `calls` calls, of which all or the last are waited for."""
        call, wait = self.call, self.candidate.wait
        self.candidate.tidy()
        start = time.perf_counter()
        y: Any = None
        for _ in range(self.calls):
            y = call()
            if wait_each:
                wait(y)
        if not wait_each:
            wait(y)
        return (time.perf_counter() - start) / self.calls / self.candidate.per

    def timing(self) -> Timing:
        return Timing.of(self.planning, self.first, self.seconds, self.calls)


def measure(
    candidates: Sequence[Candidate],
    *,
    seconds: float,
    wait_each: bool,
    small: float = SMALL,
    ready: Callable[[dict[str, Callable[[], Any]]], object] = lambda calls: None,
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Time candidates in turn.

    Args:
        candidates: what to compare.
        seconds: spent on all rounds, which are at least five whatever they take.
        wait_each: whether repeated calls are waited for one by one, or together: a GPU's queue is
            filled faster than it empties, so the last one's end is the end of all.
        small: calls that take less are repeated.
        ready: gets the calls by name, once all have run and before the rounds.

    Returns:
        Timings by name, and by name why a foreign candidate has none.
    """
    running: list[_Running] = []
    refused: dict[str, str] = {}
    once: dict[str, float] = {}
    for candidate in candidates:
        try:
            r = _started(candidate)
            once[candidate.name] = min(r.round(wait_each=True) for _ in range(3))
            running.append(r)
        except Exception as error:  # whatever another library says of a problem it does not take
            if not candidate.foreign:
                raise
            refused[candidate.name] = said(error)
    whole = {r.candidate.name: once[r.candidate.name] * r.candidate.per for r in running}
    if whole and min(whole.values()) < small:
        for r in running:
            r.calls = max(1, math.ceil(REPEATED / whole[r.candidate.name]))
            r.round(wait_each=wait_each)
    ready({r.candidate.name: r.call for r in running})
    _take_turns(running, seconds, wait_each)
    return {r.candidate.name: r.timing() for r in running}, refused


def measure_first(
    candidates: Callable[[int], Sequence[Candidate]], *, rounds: int
) -> dict[str, Timing]:
    """Time first calls.

    Args:
        candidates: those of a round, which is numbered: each makes its call anew, and of a problem
            that no other round has, so that nothing made for one serves another.
        rounds: how many, beside one whose times are dropped: it starts the libraries.

    Returns:
        Timings by name; a first call is all that a round has.
    """
    started: dict[str, list[_Running]] = {}
    for turn in range(rounds + 1):
        made = list(candidates(turn))
        started = started or {candidate.name: [] for candidate in made}
        for candidate in made[:: (-1) ** turn]:
            started[candidate.name].append(_started(candidate))
    timings: dict[str, Timing] = {}
    for name, (_, *rs) in started.items():
        firsts = [r.first for r in rs]
        planning = statistics.median(r.planning for r in rs)
        timings[name] = Timing.of(planning, statistics.median(firsts), firsts, 1)
    return timings


def said(error: Exception) -> str:
    """What a library says, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def _started(candidate: Candidate) -> _Running:
    candidate.prepare()
    start = time.perf_counter()
    call = candidate.make()
    planned = time.perf_counter()
    candidate.wait(call())
    return _Running(candidate, call, planned - start, time.perf_counter() - planned)


def _take_turns(running: list[_Running], seconds: float, wait_each: bool) -> None:
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection would meet whoever's turn it is
    try:
        end = time.perf_counter() + seconds
        least, most = ROUNDS
        order = random.Random(2026)  # nobody always follows the same neighbour
        for turn in range(most):
            if turn >= least and time.perf_counter() > end:
                break
            for r in order.sample(running, len(running)):
                r.seconds.append(r.round(wait_each=wait_each))
    finally:
        if collecting:
            gc.enable()
