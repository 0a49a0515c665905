"""The forms that a call of ours can have, and what each is made of."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import nvstate as nvs
from nvstate._core.aval import Device
from nvstate._core.verbs import Bound
from nvstate.bench import stateful
from nvstate.bench.libraries import Arrays, arrays_on, module
from nvstate.bench.stateful import Stateful
from nvstate.bench.timing import Candidate

Package = Literal["numpy", "jax"]

RESET = "execute(reset(bound, x=x))"
UNCHECKED = "execute(reset_unchecked(bound, x=x))"
PLAN = "plan(x)"
ONE_SHOT = "fft(x)"
JITTED = "jit, jnp.fft"
UNCHECKED_ALONE = "reset_unchecked(bound, x=x)"
BOUND_ALONE = "Bound(plan, (x,))"
REBUILT = "free(plan); plan(x)"
NVMATH_PLANNED = "nvmath FFT, plan, free"


@dataclasses.dataclass(frozen=True)
class Operand:
    """An operand of a transform along one axis, in the package and on the device of a row.

    Attributes:
        first: an array that is planned from and bound.
        x: another one, like it, that every call gets: a loop's arrays are not one array.
        axis: that is transformed.
        package: of `x`.
        device: that computes.
    """

    first: Any
    x: Any
    axis: int
    package: Package
    device: Device

    @classmethod
    def of(cls, shape: tuple[int, ...], axis: int, package: Package, device: Device) -> Operand:
        """Make it, random but the same in every run."""
        rng = np.random.default_rng(2026)
        values = rng.standard_normal(shape, "float32") + 1j * rng.standard_normal(shape, "float32")
        if package == "numpy":
            return cls(values.copy(), values, axis, package, device)
        first, x = (jax.block_until_ready(jax.device_put(values, device)) for _ in range(2))
        return cls(first, x, axis, package, device)

    @property
    def moved(self) -> dict[str, Any]:
        """The keyword for NumPy's arrays that another device computes with."""
        if self.package == "jax" or self.device.platform == "cpu":
            return {}
        return {"execution": "cuda"}

    @property
    def plan(self) -> Callable[[], nvs.fft.FFTPlan]:
        """Ours, made when it is called."""
        return functools.partial(nvs.fft.plan, self.first, axes=(self.axis,), **self.moved)

    @property
    def one_shot(self) -> Callable[[], Any]:
        """Ours in one call."""
        return functools.partial(nvs.fft.fft, self.x, axis=self.axis, **self.moved)

    def disagreement(self) -> str | None:
        """Say so if our result is not NumPy's: a wrong answer has no speed."""
        expected = np.fft.fft(np.asarray(self.x, "complex128"), axis=self.axis)
        results = {PLAN: self.plan()(self.first), ONE_SHOT: self.one_shot()}
        for name, got in results.items():
            error = np.linalg.norm((got - expected).ravel()) / np.linalg.norm(expected.ravel())
            if not error <= 1e-6:
                return f"{name}: relative L2 distance to numpy.fft {error:.1e} > 1e-06"
        return None

    # Ours

    def calls(self) -> list[Candidate]:
        """One result, in every form."""
        x = self.x

        def resetting(verb: Callable[..., Any]) -> Callable[[], Any]:
            bound = nvs.bind(self.plan(), x=self.first)
            return lambda: nvs.execute(verb(bound, x=x))

        def planned() -> Callable[[], Any]:
            plan = self.plan()
            return lambda: plan(x)

        return [
            self._ours(RESET, lambda: resetting(nvs.reset)),
            self._ours(UNCHECKED, lambda: resetting(nvs.reset_unchecked)),
            self._ours(PLAN, planned),
            self._ours(ONE_SHOT, lambda: self.one_shot),
            self._ours("jit, plan closed over", self._closed_over),
            self._ours("jit, plan an argument", self._argument),
            self._ours(JITTED, lambda: self._called(jax.jit(self._theirs))),
        ]

    def parts(self) -> list[Candidate]:
        """What Python does before anything runs."""
        x, axes = self.x, (self.axis,)
        plan = self.plan()
        bound = nvs.bind(plan, x=self.first)
        made: dict[str, Callable[[], Any]] = {
            UNCHECKED_ALONE: lambda: nvs.reset_unchecked(bound, x=x),
            BOUND_ALONE: lambda: Bound(plan, (x,)),
            "reset(bound, x=x)": lambda: nvs.reset(bound, x=x),
            "bind(plan, x=x)": lambda: nvs.bind(plan, x=x),
            "nvs.fft.spec(x)": lambda: nvs.fft.spec(x, axes=axes),
            "nvs.fft.plan(x)": self.plan,
        }
        return [Candidate(name, lambda call=call: call, _blocked) for name, call in made.items()]

    def rebuilt(self) -> list[Candidate]:
        """One result, of what has to be built first."""
        x = self.x

        def freed() -> Callable[[], Any]:
            plan = self.plan()

            def call() -> Any:
                nvs.free(plan)
                return plan(x)

            return call

        def anew() -> Any:
            return self._called(jax.jit(lambda x: self._theirs(x)))()

        return [
            self._ours(REBUILT, freed),
            self._ours("jit, jnp.fft, a new function", lambda: anew),
        ]

    def _ours(self, name: str, make: Callable[[], Callable[[], Any]]) -> Candidate:
        wait = _blocked if self.package == "numpy" else _ready
        return Candidate(name, make, wait)

    def _theirs(self, x: Any) -> Any:
        return jnp.fft.fft(x, axis=self.axis)

    def _traceable(self) -> nvs.fft.FFTPlan:
        """A plan of NumPy's arrays takes no tracer."""
        x = self.x if self.package == "jax" else jax.ShapeDtypeStruct(self.x.shape, self.x.dtype)
        return nvs.fft.plan(x, axes=(self.axis,))

    def _closed_over(self) -> Callable[[], Any]:
        plan = self._traceable()
        return self._called(jax.jit(lambda x: plan(x)))

    def _argument(self) -> Callable[[], Any]:
        plan, function = self._traceable(), jax.jit(lambda plan, x: plan(x))
        return self._called(lambda x: function(plan, x))

    def _called(self, function: Callable[[Any], Any]) -> Callable[[], Any]:
        x = self.x
        if self.package == "jax":
            return lambda: function(x)
        return lambda: np.asarray(function(x))

    # nvmath-python's

    def stateful(self) -> Stateful | None:
        """Its transform, of an array of its own; None if it is not there."""
        arrays = arrays_on(self.device)
        if self.package == "numpy" and self.device.platform != "cpu":
            arrays = Arrays(np.array, _blocked, "cuda")  # it blocks, and so does ours
        if arrays is None or module("nvmath.fft") is None:
            return None
        return Stateful(self.x, arrays, {"axes": (self.axis,), "execution": arrays.execution})

    def nvmath_calls(self) -> list[Candidate]:
        """As `calls`."""
        theirs = self.stateful()
        if theirs is None:
            return []
        return [
            theirs.resetting(),
            theirs.resetting(stateful.UNCHECKED, "reset_operand_unchecked"),
            theirs.function("fft"),
            theirs.whole(),
        ]

    def nvmath_parts(self) -> list[Candidate]:
        """As `parts`."""
        theirs = self.stateful()
        if theirs is None:
            return []
        return [
            theirs.resetting_alone("nvmath reset_operand", "reset_operand"),
            theirs.resetting_alone("nvmath reset_operand_unchecked", "reset_operand_unchecked"),
            theirs.whole(NVMATH_PLANNED, execute=False),
        ]

    def nvmath_rebuilt(self) -> list[Candidate]:
        """As `rebuilt`."""
        theirs = self.stateful()
        return [] if theirs is None else [theirs.whole()]


def _blocked(_: Any) -> None:
    """Wait for what is there: results of NumPy's, and values."""


def _ready(y: jax.Array) -> None:
    y.block_until_ready()
