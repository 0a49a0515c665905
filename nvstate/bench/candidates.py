"""The ways to do what a case asks for: ours, JAX's, and those of the libraries installed."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nvstate as nvs
from nvstate._core.aval import Device
from nvstate.bench import peers
from nvstate.bench.bars import OURS, THEIRS
from nvstate.bench.cases import CHAINED, Case
from nvstate.bench.timing import Candidate
from nvstate.fft.arguments import Direction, Norm
from nvstate.fft.strategy import Strategy, candidates

jax_candidate = functools.partial(Candidate, wait=jax.block_until_ready)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A case on a device: its operand, random but the same in every run."""

    case: Case
    x: Any

    @classmethod
    def of(cls, case: Case, device: Device) -> Problem:
        """Make the operand; for "c2r" a spectrum of real data: not all libraries define others."""
        rng = np.random.default_rng(2026)
        dtype = np.dtype(case.real_dtype)
        values = rng.standard_normal(case.shape, dtype)
        if case.kind == "c2c":
            values = values + 1j * rng.standard_normal(case.shape, dtype)
        x = jax.device_put(values, device)
        if case.kind == "c2r":
            x = jnp.fft.rfftn(x, axes=case.axes)
        return cls(case, jax.block_until_ready(x))

    def plan(self, strategy: Strategy = "auto") -> nvs.fft.FFTPlan:
        """Ours."""
        case = self.case
        problem: dict[str, Any] = {"axes": case.axes, "kind": case.kind, "strategy": strategy}
        if case.kind == "c2r":
            problem |= {"s": case.lengths, "hermitian": case.hermitian}
        return nvs.fft.plan(self.x, direction=case.direction, **problem)

    def one_shot(self) -> Callable[[Any], Any]:
        """Ours in one call."""
        function = getattr(nvs.fft, peers.function_name(self.case))
        return functools.partial(function, **peers.arguments(self.case))

    def theirs(self) -> Callable[[Any], Any]:
        """JAX's."""
        function = getattr(jnp.fft, peers.function_name(self.case))
        return functools.partial(function, **peers.arguments(self.case))

    def candidates(self, device: Device) -> list[Candidate]:
        """Ours first."""
        made = _FORMS[self.case.form](self)
        if self.case.form in {"jit", "eager"}:
            made += peers.candidates(self.case, self.x, device)
        return made

    def disagreement(self) -> str | None:
        """Say so if our result is not JAX's: a wrong answer has no speed."""
        got, expected = self.plan()(self.x), jax.jit(self.theirs())(self.x)
        error = float(jnp.linalg.norm((got - expected).ravel()) / jnp.linalg.norm(expected.ravel()))
        bound = 1e-5 if self.case.dtype == "complex64" else 1e-12
        return (
            None if error <= bound else f"relative L2 distance to jnp.fft {error:.1e} > {bound:g}"
        )


def _jit(problem: Problem) -> list[Candidate]:
    def make(transform: Callable[[], Callable[[Any], Any]]) -> Callable[[], Any]:
        planned = transform()
        function = jax.jit(lambda x: planned(x))
        return lambda: function(problem.x)

    return [
        jax_candidate(OURS, lambda: make(problem.plan)),
        jax_candidate(THEIRS, lambda: make(problem.theirs)),
    ]


def _strategies(problem: Problem) -> list[Candidate]:
    spec, shape = problem.plan().spec, problem.x.shape

    def make(strategy: Strategy) -> Callable[[], Any]:
        planned = problem.plan(strategy)
        function = jax.jit(lambda x: planned(x))
        return lambda: function(problem.x)

    pinned = [
        jax_candidate(name, functools.partial(make, name)) for name in candidates(spec, shape)
    ]
    return _jit(problem) + pinned


def _window(problem: Problem) -> list[Candidate]:
    return _times(problem, jnp.hanning(problem.x.shape[-1]).astype(problem.x.real.dtype))


def _product(problem: Problem) -> list[Candidate]:
    # An array of the result's type, and of no use to a simplifier.
    return _times(problem, problem.x[::-1] + 0)


def _times(problem: Problem, w: Any) -> list[Candidate]:

    def make(transform: Callable[[], Callable[[Any], Any]]) -> Callable[[], Any]:
        planned = transform()
        function = jax.jit(lambda x, w: planned(x) * w)
        return lambda: function(problem.x, w)

    return [
        jax_candidate(OURS, lambda: make(problem.plan)),
        jax_candidate(THEIRS, lambda: make(problem.theirs)),
    ]


def _chain(problem: Problem) -> list[Candidate]:
    """Each transform takes the last one's result, so none is merged with another or dropped."""
    constant = float(np.prod(problem.case.lengths) ** -0.5)  # keeps the values' size

    def make(transform: Callable[[], Callable[[Any], Any]]) -> Callable[[], Any]:
        planned = transform()

        def chained(x: Any) -> Any:
            for _ in range(CHAINED):
                x = planned(x) * constant
            return x

        function = jax.jit(chained)
        return lambda: function(problem.x)

    return [
        jax_candidate(OURS, lambda: make(problem.plan), per=CHAINED),
        jax_candidate(THEIRS, lambda: make(problem.theirs), per=CHAINED),
    ]


def _eager(problem: Problem) -> list[Candidate]:
    x = problem.x

    def ours() -> Callable[[], Any]:
        plan = problem.plan()
        return lambda: plan(x)

    def resetting() -> Callable[[], Any]:
        bound = nvs.bind(problem.plan(), x=x)
        return lambda: nvs.execute(nvs.reset(bound, x=x))

    def bound() -> Callable[[], Any]:
        bound = nvs.bind(problem.plan(), x=x)
        return lambda: nvs.execute(bound)

    def one_shot() -> Callable[[], Any]:
        function = problem.one_shot()
        return lambda: function(x)

    def jitted() -> Callable[[], Any]:
        function = jax.jit(problem.theirs())
        return lambda: function(x)

    def theirs() -> Callable[[], Any]:
        function = problem.theirs()
        return lambda: function(x)

    return [
        jax_candidate(OURS, ours),
        jax_candidate("reset, execute", resetting),
        jax_candidate("execute(bound)", bound),
        jax_candidate("one-shot", one_shot),
        jax_candidate(THEIRS, jitted),
        jax_candidate("jnp.fft, not jitted", theirs),
    ]


def _argument(problem: Problem) -> list[Candidate]:
    x = problem.x

    def argument() -> Callable[[], Any]:
        plan, function = problem.plan(), jax.jit(lambda plan, x: plan(x))
        return lambda: function(plan, x)

    def closed() -> Callable[[], Any]:
        plan = problem.plan()
        function = jax.jit(lambda x: plan(x))
        return lambda: function(x)

    return [jax_candidate(OURS, argument), jax_candidate("closed over", closed)]


def _plans(problem: Problem) -> list[Candidate]:
    """Plans that differ, in scale, direction or the batch axes named, but all do the same work."""
    count, x = problem.case.count, problem.x
    norms: tuple[Norm, ...] = ("backward", "ortho", "forward", "none")
    directions: tuple[Direction, ...] = ("forward", "inverse")

    def different() -> list[nvs.fft.FFTPlan]:
        kinds = list(itertools.product(norms, directions))
        return [
            nvs.fft.plan(
                jax.ShapeDtypeStruct((1,) * (i // len(kinds)) + x.shape, x.dtype),
                axes=(-1,),
                norm=kinds[i % len(kinds)][0],
                direction=kinds[i % len(kinds)][1],
            )
            for i in range(count)
        ]

    def make(plans: list[nvs.fft.FFTPlan]) -> Callable[[], Any]:
        function = jax.jit(lambda plan, x: plan(x))
        return lambda: [function(plan, x) for plan in plans]

    return [
        jax_candidate(OURS, lambda: make(different()), per=count),
        jax_candidate("one plan", lambda: make([problem.plan()] * count), per=count),
    ]


_FORMS: dict[str, Callable[[Problem], list[Candidate]]] = {
    "jit": _jit,
    "strategies": _strategies,
    "window": _window,
    "product": _product,
    "chain": _chain,
    "eager": _eager,
    "argument": _argument,
    "plans": _plans,
}
