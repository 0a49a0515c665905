"""Case: one row of an operation's conformance table; and how results are compared."""

import dataclasses
import importlib
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    """A problem, an independent oracle, and a bound on the relative L2 error.

    Attributes:
        id: what is odd about it.
        operand: a random operand `x`, or several by name.
        plan: of the operand, or of the operands by name.
        oracle: the result, or the results in a tuple, of the same.
        bound: on each result's error.
        linear: whether the derivative is the map itself.
        result: the type of the first result, of the plan and its operands by name.
        portable: whether programs with it may be exported, and split over devices by XLA.
    """

    id: str
    operand: Callable[[np.random.Generator], Any]
    plan: Callable[..., Any]
    oracle: Callable[..., Any]
    bound: float
    linear: bool = True
    result: Callable[[Any, dict[str, Any]], Any] = lambda plan, _: plan.result
    portable: bool = True

    def value(self, seed: int = 0) -> Any:
        """A random operand, or several by name."""
        return self.operand(np.random.default_rng(seed))

    def values(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Random operands by name."""
        value = self.value(seed)
        return value if isinstance(value, dict) else {"x": value}

    def planned(self, operands: dict[str, Any]) -> Any:
        """The plan of these operands."""
        return self.plan(*operands.values()) if "x" in operands else self.plan(**operands)

    def wanted(self, operands: dict[str, Any]) -> Any:
        """The oracle's result of these operands."""
        values = {name: np.asarray(x) for name, x in operands.items()}
        return self.oracle(*values.values()) if "x" in values else self.oracle(**values)

    def error(self, got: Any, operands: dict[str, Any]) -> float:
        """The largest relative L2 error of a result, which each of these operands made."""
        return largest(got, self.wanted(operands))


def largest(got: Any, want: Any) -> float:
    """The largest relative L2 error among results, each of which must be there."""
    wants = want if isinstance(want, tuple) else (want,)
    found = jax.tree.leaves(got)
    assert len(found) == len(wants), f"{len(found)} results instead of {len(wants)}"
    return max(relative_l2(g, np.asarray(w)) for g, w in zip(found, wants, strict=True))


def all_cases() -> list[Case]:
    """The rows of every operation that has a `tests/<operation>/cases.py`."""
    here = pathlib.Path(__file__).parent
    found = []
    for path in sorted(here.glob("*/cases.py")):
        found += importlib.import_module(f"tests.{path.parent.name}.cases").CASES
    return found


def portable_cases(portable: bool = True) -> list[Case]:
    """Those that are, or are not, portable."""
    return [case for case in all_cases() if case.portable is portable]


def relative_l2(got: Any, want: Any) -> float:
    """‖got - want‖ / ‖want‖, in the wider of the two precisions."""
    got = np.asarray(got)
    assert got.shape == want.shape, f"{got.shape} instead of {want.shape}"
    if got.size == 0:
        return 0.0
    norm = np.linalg.norm(np.ravel(want).astype(np.clongdouble))
    return float(
        np.linalg.norm(np.ravel(got).astype(np.clongdouble) - np.ravel(want)) / (norm or 1)
    )


def to_jax_each(operands: dict[str, np.ndarray]) -> dict[str, Any]:
    """Operands by name as JAX arrays."""
    return {name: to_jax(x) for name, x in operands.items()}


def stacked(members: list[dict[str, np.ndarray]], axis: int = 0) -> dict[str, Any]:
    """Operands by name, of all members, along a new axis, as JAX arrays."""
    return {n: to_jax(np.stack([m[n] for m in members], axis)) for n in members[0]}


def member(y: Any, i: int, axis: int = 0) -> Any:
    """The results of one member, in NumPy: JAX would compile a program for each shape."""
    return jax.tree.map(lambda y: np.take(np.asarray(y), i, axis), y)


def to_jax(x: np.ndarray) -> Any:
    """A JAX array of the same dtype."""
    y = jnp.asarray(x)
    assert y.dtype == x.dtype
    return y
