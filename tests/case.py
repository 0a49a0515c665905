"""Case: one row of an operation's conformance table; and how results are compared."""

import dataclasses
import importlib
import pathlib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    """A problem, an independent oracle, and a bound on the relative L2 error."""

    id: str
    operand: Callable[[np.random.Generator], np.ndarray]
    plan: Callable[[Any], Any]
    oracle: Callable[[np.ndarray], np.ndarray]
    bound: float

    def value(self, seed: int = 0) -> np.ndarray:
        """A random operand."""
        return self.operand(np.random.default_rng(seed))


def all_cases() -> list[Case]:
    """The rows of every operation that has a `tests/<operation>/cases.py`."""
    here = pathlib.Path(__file__).parent
    found = []
    for path in sorted(here.glob("*/cases.py")):
        found += importlib.import_module(f"tests.{path.parent.name}.cases").CASES
    return found


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


def to_jax(x: np.ndarray) -> Any:
    """A JAX array of the same dtype."""
    y = jnp.asarray(x)
    assert y.dtype == x.dtype
    return y
