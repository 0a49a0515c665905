"""Plan: a problem prepared for its operands, as data and as a function."""

from __future__ import annotations

import dataclasses
import functools
import json
import threading
import types
import weakref
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import numpy as np

from nvstate._core import (
    aval,
    compat,
    dtypes,
    log,
    operands,
    placement,
    scopes,
    spec as specs,
    stored,
)
from nvstate._core.aval import OperandType
from nvstate._core.compat import ArrayImpl
from nvstate._core.placement import Placement
from nvstate._core.primitive import Operation

_interned: weakref.WeakValueDictionary[Any, Plan] = weakref.WeakValueDictionary()
_interning = threading.Lock()
PATIENCE = 5e-5  # seconds
plan_types: dict[str, type[Plan]] = {}  # by the name under which they are serialised


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """A problem, the operands it was prepared for, and the choices made. Immutable; no pointers.

    A pytree without leaves: close over it, pass it to a jitted function, carry it through `scan`,
    pickle it. Equal plans are one object, so an equal plan does not retrace. Made by an
    operation's `plan()`, never by hand.

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
            serialize_auxdata=lambda aux: aux[1].to_json().encode(),
            deserialize_auxdata=lambda data: cls.from_json(bytes(data).decode())._flatten()[1],
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
        """63 bits that are the same in every process."""
        return specs.digest(type(self).__name__, self.to_json())

    def __hash__(self) -> int:
        return self.digest

    def __reduce__(self) -> Any:
        return type(self).of, (self.spec, self.types, self.placement, self.choices)

    def to_json(self) -> str:
        """The plan as text, which `from_json` reads."""
        return json.dumps(self.fields(), default=str)  # symbolic extents

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The plan that `to_json` wrote.

        Raises:
            StoreError: another text, or that of a plan of a newer version.
        """
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            stored.refuse("no plan", "what `to_json` wrote", f"{error}", "Write it again.")
        return stored.plan_of(cls, fields)  # pyright: ignore[reportReturnType]

    def fields(self) -> dict[str, Any]:
        """The plan as dictionaries, lists, strings and numbers."""
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

    # The digest comes first: JAX's tree hash ignores static data, so a jitted function that has
    # seen n plans compares with each of them, and integers differ faster than plans.

    def _flatten(self) -> tuple[tuple[()], Any]:
        return (), (self.digest, self)

    @staticmethod
    def _unflatten(aux: Any, leaves: Any) -> Any:
        return aux[1]

    # As a function

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """Execute: `plan(x)`, or `plan(x=x)`."""
        compiled = self._compiled
        if compiled is not None and not keywords and self._passed(args):
            try:
                return compiled(*args)
            except (
                ValueError,
                RuntimeError,
            ):  # JAX's of a consumed operand, or ours of another type
                self.check(args)  # says it with the name and the device
                raise
        values = operands.named(self, args, keywords)
        self.check(values)
        if any(map(aval.is_traced, values)):
            return self.program(*values)
        return self._run_numpy(values) if self._numpy else self._run(values)

    def _run(self, values: tuple[Any, ...]) -> Any:
        compiled = self._compiled
        return compiled(*values) if compiled is not None else self._first(values, None)

    def _first(self, values: tuple[Any, ...], device: Any) -> Any:
        """Compile and execute; with a device, for operands of NumPy's."""
        for scope in scopes.current.get():
            scope.plans.add(self)
        consumed = [i for i, name in enumerate(self.spec.names) if name in self.consumed]
        where = (
            {} if device is None else {"in_shardings": jax.sharding.SingleDeviceSharding(device)}
        )
        start, before = log.now(), scopes.native_bytes()
        compiled = jax.jit(self.program, donate_argnums=consumed, **where)
        self.__dict__["_device"] = device
        self.__dict__["_compiled"] = compiled
        y = compiled(*values)
        log.info("first execution", self, start, scopes.native_bytes() - before)
        return y

    def _run_numpy(self, values: tuple[Any, ...]) -> Any:
        """On the CPU the result is copied once; on another device operands and result are moved."""
        device = placement.device(self.where, self.placement)  # pyright: ignore[reportArgumentType]
        if compat.is_tracing():  # values that a trace computes are constants of it
            with jax.ensure_compile_time_eval():
                y = self._through(device, values)
        else:
            y = self._through(device, values)
        if not self.consumed:
            return y
        result = values[self.spec.names.index(self.consumed[0])]
        result[...] = y
        return result

    def _through(self, device: Any, values: tuple[Any, ...]) -> Any:
        # jit moves NumPy's arrays faster than `device_put` does, but not where users forbid
        # transfers that nobody asked for: these were asked for.
        guarded = compat.guards_transfers()
        if guarded:
            values = tuple(jax.device_put(x, device) for x in values)
        compiled = self._compiled
        # Another device than before: JAX's backends were reset.
        if compiled is not None and self._device is device:
            y = compiled(*values)
        else:
            y = self._first(values, device)
        # A sleeping thread wakes later than a small result is there: look for it first.
        end = log.now() + PATIENCE
        while not y.is_ready() and log.now() < end:
            pass
        y = jax.device_get(y) if guarded else np.asarray(y)
        try:
            y.setflags(write=True)  # memory of its own, if it came from another device
        except ValueError:  # NumPy's word for a view of what is XLA's
            y = y.copy()
        return y

    @property
    def consumed(self) -> tuple[str, ...]:
        """Names of the operands that an eager call consumes: the result takes their memory."""
        return ()

    _compiled: ClassVar[Any] = None
    _device: ClassVar[Any] = None  # that `_compiled` is for; None: that of its operands
    # Of the operands that last passed `check`: compared, and not derived again. Identity comes
    # first, since equality costs microseconds in some versions of JAX.
    _accepted: ClassVar[tuple[Any, ...]] = ()

    def drop(self) -> None:
        """Drop what was compiled for eager calls."""
        self.__dict__.pop("_device", None)
        compiled = self.__dict__.pop("_compiled", None)
        if compiled is not None:
            compiled.clear_cache()

    @functools.cached_property
    def _arrays(self) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
        return [(t.shape, np.dtype(t.dtype)) for t in self.types]

    def _shaped(self, values: tuple[Any, ...]) -> bool:
        """Whether these are arrays of the planned types; if not, others may be accepted too."""
        for x, (shape, dtype) in zip(values, self._arrays, strict=True):
            if not isinstance(x, np.ndarray | ArrayImpl) or x.shape != shape or x.dtype != dtype:
                return False
        return True

    @functools.cached_property
    def _numpy(self) -> bool:
        return self.placement is not None and self.placement.package == "numpy"

    def _passed(self, values: tuple[Any, ...]) -> bool:
        """Whether these are JAX's arrays, placed as those that passed `check` before."""
        accepted = self._accepted
        if len(values) != len(accepted):
            return False
        for x, known in zip(values, accepted, strict=True):
            if type(x) is not ArrayImpl:
                return False
            sharding = x.sharding
            if sharding is not known and sharding != known:
                return False
        return True

    @functools.cached_property
    def program(self) -> Program:
        """The function of its operands that every call runs, for a `jit` of your own."""
        return Program(type(self).operation, self.where, self.spec, self.types, self.choices)

    # Operands

    def check(self, values: tuple[Any, ...], places: list[int] | None = None) -> None:
        """Raise `OperandError` unless these values, of which those at `places` are new, fit."""
        if self._shaped(values):
            if self._passed(values):
                if not any(x.is_deleted() for x in values):
                    return
            elif self._numpy and not self.consumed and all(type(x) is np.ndarray for x in values):
                return
        operands.check(self, values, range(len(values)) if places is None else places)
        if all(type(x) is ArrayImpl for x in values):
            self.__dict__["_accepted"] = tuple(x.sharding for x in values)

    def arguments(self, rank: int) -> str:
        """What to type between the parentheses of `plan()` for another operand of this rank."""
        raise NotImplementedError

    @classmethod
    def validate(cls, spec: Any, types: tuple[OperandType, ...], choices: Any) -> None:
        """Raise unless these, read from a file, make a plan."""
        raise NotImplementedError

    # Choices

    def candidates(self, platform: str) -> list[Self]:
        """This plan, and those of the same problem with another choice of this platform's."""
        return [self]

    @classmethod
    def libraries(cls, platform: str) -> dict[str, str]:
        """Versions of the libraries that its choices depend on, by name."""
        return {"jaxlib": jax.lib.__version__}


@dataclasses.dataclass(frozen=True)
class Program:
    """What a plan runs, checked again wherever it is traced.

    It knows its plan's data, not the plan: a cycle would keep executables until the garbage
    collector runs.
    """

    operation: Operation
    where: str
    spec: Any
    types: tuple[OperandType, ...]
    choices: Any

    @property
    def __name__(self) -> str:
        return self.where.replace(".", "_")

    def __call__(self, *values: Any) -> Any:
        for t in self.types:
            dtypes.require(self.where, t.dtype)
        got = tuple(map(aval.type_of, values))
        same = all(g.dtype == t.dtype for g, t in zip(got, self.types, strict=True))
        if not same or not self.spec.accepts(self.types, got):
            raise operands.mismatched(self.where, self.types, got)
        return self.operation(self.spec, *values, choices=self.choices)
