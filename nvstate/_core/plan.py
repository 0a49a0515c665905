"""Plan: a problem prepared for its operands, as data and as a function."""

from __future__ import annotations

import dataclasses
import functools
import json
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import jax
import jaxlib.version
import numpy as np

from nvstate._core import (
    aval,
    host,
    log,
    operands,
    placement,
    scopes,
    spec as specs,
    stored,
)
from nvstate._core.aval import Device, OperandType
from nvstate._core.compat import ArrayImpl
from nvstate._core.placement import Placement
from nvstate._core.primitive import Operation
from nvstate._core.program import Compiled, Program

if TYPE_CHECKING:
    from nvstate._core.selftest import Sample

_interned: weakref.WeakValueDictionary[Any, Plan] = weakref.WeakValueDictionary()
_interning = threading.Lock()
plan_types: dict[str, type[Plan]] = {}  # by the name under which they are serialised


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """A problem, the operands it was prepared for, and the choices made. Immutable; no pointers.

    A pytree, of most operations without leaves: close over it, pass it to a jitted function, carry
    it through `scan`, pickle it. Equal plans are one object, so an equal plan does not retrace.
    Made by an operation's `plan()`, never by hand.

    Attributes:
        spec: the problem.
        types: of the operands, in the order of a call; with open batch axes if the plan was made
            from a spec alone.
        placement: package, devices and memory of the operands; None if made from abstract types.
        choices: what was pinned or measured, static and hashable.
    """

    spec: Any
    types: tuple[OperandType, ...]
    placement: Placement | None
    choices: Any

    where: ClassVar[str]
    spec_type: ClassVar[type[specs.Spec]]
    operation: ClassVar[Operation]
    targets: ClassVar[tuple[str, ...]] = ()  # custom calls of its program, which export asks about
    default_choices: ClassVar[Any] = None  # what `plan()` leaves to the rules

    def __init_subclass__(cls) -> None:
        """Make every operation's plan a pytree, also for `jax.export`."""
        jax.tree_util.register_pytree_node(cls, cls._flatten, cls._unflatten)
        plan_types[cls.serialized_name()] = cls
        jax.export.register_pytree_node_serialization(
            cls,
            serialized_name=cls.serialized_name(),
            serialize_auxdata=lambda aux: aux[1].to_static().encode(),
            deserialize_auxdata=lambda data: cls.from_static(bytes(data).decode()).static,
        )

    @classmethod
    def serialized_name(cls) -> str:
        """Name of this type in exported programs and in files."""
        return f"{cls.where}.{cls.__name__}"

    @classmethod
    def of(
        cls, spec: Any, types: tuple[OperandType, ...], where: Placement | None, choices: Any
    ) -> Self:
        """The one plan with these fields."""
        key = (cls, spec, types, where, choices)
        with _interning:
            plan = _interned.get(key)
            if plan is None:
                plan = _interned[key] = cls(spec, types, where, choices)
        return plan  # pyright: ignore[reportReturnType]

    @classmethod
    def chosen(
        cls, spec: Any, types: tuple[OperandType, ...], where: Placement | None, choices: Any
    ) -> Self:
        """The one plan with these fields; what is not pinned is taken from the default file."""
        if choices == cls.default_choices:
            choices = stored.choices(cls, spec, types, where, choices)
        return cls.of(spec, types, where, choices)

    # As data

    @functools.cached_property
    def digest(self) -> int:
        """63 bits that are the same in every process, of what is static."""
        return specs.digest(type(self).__name__, self.to_static())

    def __hash__(self) -> int:
        return self.digest

    def __reduce__(self) -> Any:  # through the checks: an older version must not drop a field
        return type(self).from_json, (self.to_json(),)

    def to_json(self) -> str:
        """The plan as text, which `from_json` reads."""
        return json.dumps(self.fields(), default=str)  # symbolic extents

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The plan that `to_json` wrote.

        Raises:
            StoreError: another text, or that of a plan of a newer version.
        """
        return cls._parsed(text, static=False)

    @classmethod
    def _parsed(cls, text: str, static: bool) -> Self:
        try:
            fields = stored.parsed(text)
        except ValueError as error:
            stored.refuse("no plan", "what `to_json` wrote", f"{error}", "Write it again.")
        return stored.plan_of(cls, fields, static=static)  # pyright: ignore[reportReturnType]

    def to_static(self) -> str:
        """The plan as text without its leaves, which `from_static` reads."""
        return json.dumps(self.static_fields(), default=str)

    @classmethod
    def from_static(cls, text: str) -> Self:
        """What `with_leaves` makes a plan of, from the text of `to_static`.

        Raises:
            StoreError: another text, or that of a plan of a newer version.
        """
        return cls._parsed(text, static=True)

    def fields(self) -> dict[str, Any]:
        """The plan as dictionaries, lists, strings and numbers."""
        return self.static_fields()

    def static_fields(self) -> dict[str, Any]:
        """The same without its leaves."""
        return {
            "spec": self.spec.fields(),
            "operands": {name: dataclasses.asdict(t) for name, t in self.operands.items()},
            "placement": self.placement and dataclasses.asdict(self.placement),
            "choices": self.choices,
        }

    @property
    def operands(self) -> Mapping[str, OperandType]:
        """Types of the operands, by name, in the order of a call."""
        return types.MappingProxyType(dict(zip(self.spec.names, self.types, strict=True)))

    def __repr__(self) -> str:
        said = (f"{name}={placement.at(t, self.placement)}" for name, t in self.operands.items())
        chosen = [f"choices={self.choices!r}"] if self.choices != self.default_choices else []
        return f"{type(self).__name__}({', '.join([*said, repr(self.spec), *chosen])})"

    array_fields: ClassVar[frozenset[str]] = frozenset()  # of `fields`, beside the static ones

    def with_arrays(self, fields: dict[str, Any]) -> Self:
        """The one plan with these array fields, of a file that no one vouches for.

        Raises:
            ValueError: they are not this plan's.
        """
        return self

    def of_jax(self, name: str) -> str:
        """What to plan with, instead of NumPy's array of this operand, for JAX's."""
        return f"`jax.ShapeDtypeStruct({name}.shape, {name}.dtype)`"

    # As a pytree

    leaves: ClassVar[tuple[Any, ...]] = ()  # arrays, which precede the operands in a program

    @property
    def static(self) -> tuple[int, Self]:
        """What two plans of one structure have in common.

        The digest comes first: JAX's tree hash ignores static data, so a jitted function that has
        seen n plans compares with each of them, and integers differ faster than plans.
        """
        return self.digest, self

    def with_leaves(self, leaves: tuple[Any, ...]) -> Self:
        """The plan with these leaves, of whatever kind."""
        return self

    def _flatten(self) -> tuple[tuple[Any, ...], Any]:
        return self.leaves, self.static

    @staticmethod
    def _unflatten(aux: Any, leaves: Any) -> Any:
        return aux[1].with_leaves(tuple(leaves))

    # As a function

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """Execute: `plan(x)`, or `plan(x=x)`."""
        compiled = self._compiled
        values = operands.named(self, args, keywords) if keywords else args
        if compiled is not None and self._passed(values):
            try:
                return compiled.call(*self.leaves, *values)
            except (ValueError, RuntimeError):  # JAX's, of what is deleted; ours, of a type
                if not self._consumes:  # else this very call may have deleted it
                    self.check(values)  # says it with the name and the device
                raise
        values = operands.named(self, values, {})
        self.check(values)
        if any(map(aval.is_traced, (*self.leaves, *values))):
            return self.whole(*self.leaves, *values)
        if not self._numpy:
            return self._run(values)
        device = placement.device(self.where, self.placement)  # pyright: ignore[reportArgumentType]
        y = host.through(self._run, device, values)
        if not self._consumes:
            return y
        result = values[self.places[self.consumed[0]]]
        if isinstance(y, tuple):  # the first of the results takes that memory
            result[...] = y[0]
            return type(y)(result, *y[1:])
        result[...] = y
        return result

    def _run(self, values: tuple[Any, ...], device: Device | None = None) -> Any:
        compiled = self._compiled
        # Another device than before: JAX's backends were reset.
        if compiled is not None and compiled.device is device:
            return compiled.call(*self.leaves, *values)
        scopes.enter(self.static[1])
        start, before = log.now(), scopes.native_bytes()
        compiled = Compiled(self.whole, self.consumed, device)
        self.memory["_compiled"] = compiled
        y = compiled.call(*self.leaves, *values)
        log.info("first execution", self, start, scopes.native_bytes() - before)
        scopes.trim()  # a program of several GPUs makes its native plans as it runs
        return y

    @property
    def consumed(self) -> tuple[str, ...]:
        """Names of the operands that an eager call consumes: the result takes their memory."""
        return ()

    _compiled: ClassVar[Compiled | None] = None
    # Of the operands that last passed `check`: compared, and not derived again. Identity comes
    # first, since equality costs microseconds in some versions of JAX.
    _accepted: ClassVar[tuple[Any, ...]] = ()  # shardings
    _avals: ClassVar[tuple[Any, ...]] = ()

    @property
    def memory(self) -> dict[str, Any]:
        """Where what was compiled and accepted is kept, for all plans of one structure."""
        return self.__dict__

    def drop(self) -> None:
        """Drop what was compiled for eager calls."""
        compiled = self.memory.pop("_compiled", None)
        if compiled is not None:
            compiled.call.clear_cache()

    @functools.cached_property
    def _arrays(self) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
        return [(t.shape, np.dtype(t.dtype)) for t in self.types]

    @functools.cached_property
    def places(self) -> dict[str, int]:
        """Position of each operand in a call, by name."""
        return {name: place for place, name in enumerate(self.spec.names)}

    @functools.cached_property
    def _consumes(self) -> bool:
        return bool(self.consumed)

    @functools.cached_property
    def _numpy(self) -> bool:
        return self.placement is not None and self.placement.package == "numpy"

    def _passed(self, values: tuple[Any, ...]) -> bool:
        """Whether these are JAX's arrays, placed as those that passed `check` before."""
        accepted = self._accepted
        if not accepted or len(values) != len(accepted):
            return False
        for x, known in zip(values, accepted, strict=False):  # as many, and this costs less
            if type(x) is not ArrayImpl:
                return False
            sharding = x.sharding
            if sharding is not known and sharding != known:
                return False
        return not (self._consumes and any(x.is_deleted() for x in values))

    @functools.cached_property
    def whole(self) -> Program:
        """The function of its leaves and operands that every call runs."""
        return Program(type(self).operation, self.where, self.spec, self.types, self.choices)

    @property
    def program(self) -> Callable[..., Any]:
        """The function of its operands that every call runs, for a `jit` of your own.

        Leaves become constants of a program that is compiled with it.
        """
        return functools.partial(self.whole, *self.leaves) if self.leaves else self.whole

    # Operands

    def check(self, values: tuple[Any, ...], new: Iterable[str] | None = None) -> None:
        """Raise `OperandError` unless these values, of which those named are new, fit."""
        if self._numpy and not self._consumes:
            for x, (shape, dtype) in zip(values, self._arrays, strict=True):
                if type(x) is not np.ndarray or x.shape != shape or x.dtype != dtype:
                    break
            else:
                return
        elif self._passed(values):
            for x, known in zip(values, self._avals, strict=False):  # as many
                if x.aval is not known or x.is_deleted():
                    break
            else:
                return
            for x, (shape, dtype) in zip(values, self._arrays, strict=False):
                if x.shape != shape or x.dtype != dtype or x.is_deleted():
                    break
            else:
                return
        operands.check(
            self, values, [self.places[n] for n in (self.places if new is None else new)]
        )
        if all(type(x) is ArrayImpl for x in values):
            self.memory["_avals"] = tuple(x.aval for x in values)
            self.memory["_accepted"] = tuple(x.sharding for x in values)

    def absent(self, name: str) -> str | None:
        """What to do about an operand that this plan has not; None: nothing special."""
        return None

    def arguments(self, rank: int) -> str:
        """What to type between the parentheses of `plan()` for another operand of this rank."""
        raise NotImplementedError

    @classmethod
    def validate(cls, spec: Any, types: tuple[OperandType, ...], choices: Any) -> None:
        """Raise unless these, read from a file, make a plan."""
        raise NotImplementedError

    # Choices

    def storable(self) -> Self:
        """This plan with whatever a file should keep of what was found out about it."""
        return self

    def unpinned(self) -> Self:
        """This plan as `plan()` makes it where nothing was measured."""
        return self.of(self.spec, self.types, self.placement, self.default_choices)

    def candidates(self, platform: str) -> Sequence[Self]:
        """This plan, and those of the same problem with another choice of this platform's."""
        return [self]

    def tuned(self, values: tuple[Any, ...], rounds: int) -> Self | None:
        """This plan with what the library itself measured; None: the candidates are timed."""
        return None

    @classmethod
    def libraries(cls, platform: str) -> dict[str, str]:
        """Versions of the libraries that its choices depend on, by name."""
        return {"jaxlib": jaxlib.version.__version__}

    @classmethod
    def samples(cls) -> list[Sample]:
        """Small problems with known answers, for the self test of `python -m nvstate`."""
        return []
