"""autotune(), the one verb that measures: it times a plan's candidates and returns the fastest."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from nvstate import errors
from nvstate._core import compat, log, operands, placement
from nvstate._core.plan import Plan
from nvstate._core.verbs import want

ROUND = 2e-3  # seconds that a candidate's turn takes, about
MOST = 100  # executions in one program
GAIN = 0.98  # of the time of the present choice: less of a gain is noise


def autotune(plan: Plan, /, *args: Any, rounds: int = 7, **keywords: Any) -> Plan:
    """Measure which of a plan's choices is the fastest on these operands.

    Each candidate runs several times in one program, so that what is timed is the library and not
    the call. The candidates take turns, and the fastest median wins if it beats the present choice
    by 2 %. Inside a larger program a plan may fare differently: pin a choice there, and time that
    program. Operands are neither changed nor consumed.

    Args:
        plan: any operation's plan.
        *args: its operands, by position.
        rounds: how often each candidate has its turn.
        **keywords: its operands, by name.

    Returns:
        A plan of the same problem with the fastest choice pinned; `plan` itself if none is
        faster, or if there is no choice, as on a CPU.

    Raises:
        OperandError: an operand is not the plan's; a JAX transformation is under way.
        SpecError: `rounds` is no positive integer.

    Example:
        >>> x = jnp.ones((2, 8), "complex64")
        >>> plan = nvs.fft.plan(x, axes=(1,))
        >>> nvs.autotune(plan, x) is plan
        True
    """
    want(plan, Plan, "autotune")
    if type(rounds) is not int or rounds < 1:
        raise errors.SpecError(
            errors.message(
                "nvstate",
                "`rounds` of `autotune` is a number",
                expected="1 or more",
                got=repr(rounds),
                do="Pass an integer, or leave it out.",
            )
        )
    values = measurable(plan, args, keywords)
    tuned = plan.tuned(values, rounds)
    if tuned is not None:
        return tuned
    candidates = plan.candidates(placement.on(values[0].sharding).platform)
    if len(candidates) == 1:
        return plan
    seconds = _measured(candidates, values, rounds)
    for candidate, time in zip(candidates, seconds, strict=True):
        log.logger.info("autotune: %.2f us with %s", 1e6 * time, candidate.choices)
    best = min(range(len(candidates)), key=seconds.__getitem__)
    return candidates[best] if seconds[best] < GAIN * seconds[0] else plan


def measurable(plan: Plan, args: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, ...]:
    """The operands on the plan's device, if this is a time to measure.

    Raises:
        OperandError: one is not the plan's; a JAX transformation is under way.
    """
    values = operands.named(plan, args, keywords)
    plan.check(values)
    require_time(plan.where)
    if isinstance(values[0], np.ndarray):
        device = plan.placement and placement.device(plan.where, plan.placement)
        values = tuple(jax.device_put(x, device) for x in values)
    return values


def require_time(where: str) -> None:
    """Raise `OperandError` inside a JAX transformation, where nothing can be measured."""
    if compat.is_tracing():
        raise errors.OperandError(
            errors.message(
                where,
                "there is no time to measure inside a JAX transformation",
                expected="a call outside of `jit`, `grad` and `vmap`",
                got="a call inside",
                do="Call `autotune` first, and close over the plan that it returns.",
            )
        )


def _measured(plans: Sequence[Plan], values: tuple[Any, ...], rounds: int) -> list[float]:
    """Median seconds of one execution of each plan."""
    runs: list[tuple[Any, int]] = []
    for plan in plans:
        own = (*plan.leaves, *values)
        once = jax.jit(plan.whole).lower(*own).compile()
        _seconds(once, own)
        shortest = min(_seconds(once, own) for _ in range(3))
        n = math.ceil(ROUND / max(shortest, ROUND / MOST))
        many = jax.jit(functools.partial(_repeated, plan.whole, n)).lower(*own).compile()
        _seconds(many, own)
        runs.append((functools.partial(_seconds, many, own), n))
    times = [[seconds() / n for seconds, n in runs] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def _repeated(program: Any, n: int, *values: Any) -> Any:
    """Execute n times, each time after the one before: equal calls would be merged."""

    def again(y: Any, _: None) -> tuple[Any, None]:
        after, _ = jax.lax.optimization_barrier((values, y))
        return program(*after), None

    return jax.lax.scan(again, program(*values), length=n - 1)[0]


def _seconds(run: Any, values: tuple[Any, ...]) -> float:
    start = log.now()
    jax.block_until_ready(run(*values))
    return log.now() - start
