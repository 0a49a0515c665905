"""The ways to solve that are timed: ours, JAX's own, SciPy's, and the libraries themselves."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from jax.experimental.sparse import linalg as jax_linalg

import nvstate as nvs
from nvstate._core.aval import Device
from nvstate.bench import solver_peers, solver_raw
from nvstate.bench.bars import OURS
from nvstate.bench.solver_cases import (
    BY_NEED,
    CALL,
    EXTRA,
    FORWARD,
    LOOPED,
    REBUILT,
    SPLU,
    SPSOLVE,
    TICKET,
    UNCHECKED,
    Case,
)
from nvstate.bench.timing import Candidate

REBUILT_UP_TO = 200_000  # rows: an analysis of more takes seconds, in each round
Call = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Problem:
    """A matrix, two sets of values that calls take in turn, and a right-hand side.

    Attributes:
        case: which.
        matrix: in SciPy's form, with the first values.
        values: [2, nnz], on the device.
        b: [n], on the device.
        device: where.
    """

    case: Case
    matrix: Any
    values: Any
    b: Any
    device: Device

    @classmethod
    def of(cls, case: Case, device: Device) -> Problem:
        """Make it, random but the same in every run."""
        matrix, rng = case.matrix(), np.random.default_rng(2026)
        values = matrix.data * rng.uniform(0.9, 1.1, (2, matrix.nnz))
        # A drift of random strength keeps the diagonal the largest: no engine perturbs a pivot.
        rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        values[:, rows == matrix.indices] *= 1.3
        b = rng.standard_normal(matrix.shape[0])
        return cls(case, matrix, jax.device_put(values, device), jax.device_put(b, device), device)

    def at(self, turn: int) -> Any:
        """The matrix with the values of this turn, in SciPy's form."""
        data = np.asarray(self.values[turn])
        return scipy.sparse.csr_array(
            (data, self.matrix.indices, self.matrix.indptr), shape=self.matrix.shape
        )

    @functools.cached_property
    def plan(self) -> Any:
        """Ours."""
        return self.planned()

    def planned(self, **options: Any) -> Any:
        """A plan of ours with options."""
        indptr, indices = (
            jax.device_put(x, self.device) for x in (self.matrix.indptr, self.matrix.indices)
        )
        return nvs.direct_solver.plan((indptr, indices, self.values[0]), self.b, **options)

    def error(self, x: Any, turn: int = 0) -> float:
        """The backward error of a solution."""
        x, b, a = np.asarray(x), np.asarray(self.b), self.at(turn)
        scale = abs(a).sum(axis=1).max() * np.abs(x).max() + np.abs(b).max()
        return float(np.abs(b - a @ x).max() / scale)

    def turns(self, function: Callable[..., Any], *rest: Any) -> Call:
        """A call that gives a function the values of one turn and then of the other."""
        values = [jax.block_until_ready(self.values[i]) for i in range(2)]
        turn = 0

        def call() -> Any:
            nonlocal turn
            turn ^= 1
            return function(values[turn], *rest)

        return call


def _waiting(name: str, make: Callable[[], Call]) -> Candidate:
    return Candidate(name, make, jax.block_until_ready)


def whole(problem: Problem, platform: str) -> list[Candidate]:
    """Factorize new values and solve."""
    ds = nvs.direct_solver

    def executed() -> Call:
        return problem.turns(jax.jit(lambda v, plan, b: plan(v, b)), problem.plan, problem.b)

    def ticketed(v: Any, plan: Any, b: Any) -> Any:
        return ds.solve(ds.factorize(plan, v), b)

    def rebuilt() -> Call:
        # Another problem than the others', who keep theirs, by what is the engine's own anyhow.
        own = {"pardiso": {"pivot_epsilon": 1e-13}, "superlu": {"pivot_threshold": 1.0}}
        plan = problem.planned(**own[problem.plan.backend])
        once = problem.turns(jax.jit(lambda v, plan, b: plan(v, b)), plan, problem.b)

        def call() -> Any:
            nvs.free(plan)
            return once()

        return call

    made = [
        _waiting(OURS, executed),
        _waiting(TICKET, lambda: problem.turns(jax.jit(ticketed), problem.plan, problem.b)),
        solver_raw.whole(problem, platform),
        *_foreign(problem, platform, solving=False),
    ]
    if platform == "cpu" and problem.matrix.shape[0] <= REBUILT_UP_TO:
        made.append(_waiting(REBUILT, rebuilt))
    return [*made, *solver_peers.candidates(problem, platform)]


def solve(problem: Problem, platform: str) -> list[Candidate]:
    """Solve with a factorization that is there."""
    ds = nvs.direct_solver

    def ours() -> Call:
        factor = ds.factorize(problem.plan, problem.values[0])
        return functools.partial(jax.jit(ds.solve), factor, problem.b)

    return [
        _waiting(OURS, ours),
        solver_raw.solve(problem, platform),
        _waiting(CALL, lambda: functools.partial(jax.jit(lambda b: b + 1), problem.b)),
        *_foreign(problem, platform, solving=True),
    ]


def loop(problem: Problem, platform: str) -> list[Candidate]:
    """Ten factorizations and solves in one program, each after the one before."""

    def run(values: Any, plan: Any, b: Any) -> Any:
        def step(x: Any, i: Any) -> tuple[Any, None]:
            return plan(values[i % 2] + 0 * x[0], b), None

        return jax.lax.scan(step, b, jnp.arange(LOOPED))[0]

    def ours(plan: Any) -> Call:
        return functools.partial(jax.jit(run), problem.values, plan, problem.b)

    def made(name: str, **options: Any) -> Candidate:
        candidate = _waiting(name, lambda: ours(problem.planned(**options)))
        return dataclasses.replace(candidate, per=LOOPED)

    return [
        made(OURS, refinement_steps=0),
        made(BY_NEED),
        solver_raw.whole(problem, platform),
    ]


def solves(problem: Problem, platform: str) -> list[Candidate]:
    """Ten solves in one program, each after the one before."""
    ds = nvs.direct_solver

    def run(factor: Any, b: Any) -> Any:
        def step(x: Any, _: Any) -> tuple[Any, None]:
            return ds.solve(factor, b + 0 * x[0]), None

        return jax.lax.scan(step, b, length=LOOPED)[0]

    def made(name: str, **options: Any) -> Candidate:
        def ours() -> Call:
            factor = ds.factorize(problem.planned(**options), problem.values[0])
            return functools.partial(jax.jit(run), factor, problem.b)

        return dataclasses.replace(_waiting(name, ours), per=LOOPED)

    return [
        made(OURS),
        made(UNCHECKED, on_stale="nan", factor_slots=1),
        solver_raw.solve(problem, platform),
    ]


def gradient(problem: Problem, platform: str) -> list[Candidate]:
    """A solve with its gradients, and the parts that they cost at least."""
    ds = nvs.direct_solver

    def forward(v: Any, b: Any, plan: Any) -> Any:
        x, _ = ds.factorize_solve(plan, v, b)
        return jnp.sum(jnp.sin(x))

    def extra() -> Call:
        # A ring of its own: the others' factorizations would replace it.
        factor = ds.factorize(problem.planned(factor_slots=1), problem.values[0])
        return functools.partial(jax.jit(ds.solve), factor, problem.b)

    both = jax.value_and_grad(forward, argnums=(0, 1))
    return [
        _waiting(OURS, lambda: problem.turns(jax.jit(both), problem.b, problem.plan)),
        _waiting(FORWARD, lambda: problem.turns(jax.jit(forward), problem.b, problem.plan)),
        _waiting(EXTRA, extra),
    ]


def _foreign(problem: Problem, platform: str, *, solving: bool) -> list[Candidate]:
    """JAX's own solver, which factorizes in every call, and on CPUs SciPy's."""
    found: list[Candidate] = []
    matrix, b = problem.matrix, problem.b
    indices, indptr = (jax.device_put(x, problem.device) for x in (matrix.indices, matrix.indptr))

    def own() -> Call:
        function = jax.jit(lambda v, b: jax_linalg.spsolve(v, indices, indptr, b))
        return problem.turns(function, b)

    if problem.case.spsolve:
        found.append(dataclasses.replace(_waiting(SPSOLVE, own), foreign=True))
    if platform != "cpu":
        return found

    def factorized() -> Any:
        return scipy.sparse.linalg.splu(
            problem.at(0).tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}
        )

    def theirs() -> Call:
        rhs = np.asarray(b)
        if solving:
            return functools.partial(factorized().solve, rhs)
        return lambda: factorized().solve(rhs)

    return [*found, Candidate(SPLU, theirs, lambda _: None, foreign=True)]
