"""An operation of two operands, which the package has none of yet: what the core says of several.

Circular correlation, y[k] = Σₙ a[n + k] b[n] along the last axis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from nvstate._core import aval, placement
from nvstate._core.aval import OperandType
from nvstate._core.plan import Plan
from nvstate._core.spec import Spec


@dataclasses.dataclass(frozen=True)
class TwoSpec(Spec):
    """The correlation of n points."""

    n: int
    inplace: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """`a` and `b`."""
        return ("a", "b")

    def accepts(self, planned: tuple[OperandType, ...], got: tuple[OperandType, ...]) -> bool:
        """Any batch of the same total, equal in both."""
        a, b = got
        return a == b and a.shape[-1:] == (self.n,) and a.size == planned[0].size


def correlate(spec: TwoSpec, a: Any, b: Any, choices: str) -> Any:
    """By definition; "slow" does it again and again."""
    shifted = jnp.stack([jnp.roll(a, -k, -1) for k in range(spec.n)])
    if choices == "slow":

        def again(_: int, y: Any) -> Any:
            return jnp.sum(shifted * b, -1) + 0 * jnp.sin(y)

        start = jnp.zeros(shifted.shape[:-1], a.dtype)
        return jnp.moveaxis(jax.lax.fori_loop(0, 20_000, again, start), 0, -1)
    return jnp.moveaxis(jnp.sum(shifted * b, -1), 0, -1)


class TwoPlan(Plan):
    """A planned correlation."""

    where: ClassVar[str] = "tests.two"
    spec_type: ClassVar[Any] = TwoSpec
    operation: ClassVar[Any] = staticmethod(correlate)
    default_choices: ClassVar[str] = "slow"

    @property
    def consumed(self) -> tuple[str, ...]:
        """In place, the result takes the memory of `b`."""
        return ("b",) if self.spec.inplace else ()

    def arguments(self, rank: int) -> str:
        """What to type."""
        return "a, b"

    @classmethod
    def validate(cls, spec: Any, types: tuple[OperandType, ...], choices: Any) -> None:
        """Raise unless they fit."""
        if not spec.accepts(types, types) or choices not in ("slow", "fast"):
            raise ValueError("no correlation")

    def candidates(self, platform: str) -> Sequence[TwoPlan]:
        """Both ways."""
        others = {"slow", "fast"} - {self.choices}
        return [self, *(TwoPlan.of(self.spec, self.types, self.placement, c) for c in others)]


def plan(a: Any, b: Any, *, inplace: bool = False, execution: Any = None) -> TwoPlan:
    """Plan it."""
    places = {"a": placement.of(a), "b": placement.of(b)}
    where = placement.shared("tests.two", places, execution)
    types = (aval.type_of(a), aval.type_of(b))
    return TwoPlan.chosen(TwoSpec(a.shape[-1], inplace), types, where, "slow")


def oracle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """By the convolution theorem, in double precision."""
    spectrum = np.fft.fft(a.astype("float64")) * np.conj(np.fft.fft(b.astype("float64")))
    return np.fft.ifft(spectrum).real
