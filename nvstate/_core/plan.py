"""Plan: a problem prepared for an operand, as data and as a function."""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import json
import threading
import weakref
from typing import Any, ClassVar, Self

import jax
import numpy as np

from nvstate import errors
from nvstate._core import aval, dtypes, placement, spec as specs
from nvstate._core.aval import OperandType
from nvstate._core.compat import ArrayImpl
from nvstate._core.placement import Placement
from nvstate._core.primitive import Operation

_interned: weakref.WeakValueDictionary[Any, Plan] = weakref.WeakValueDictionary()
_interning = threading.Lock()
# Of this thread, or of whatever else has a context of its own.
scopes: contextvars.ContextVar[tuple[weakref.WeakSet[Plan], ...]] = contextvars.ContextVar(
    "nvstate_resources", default=()
)
plan_types: dict[str, type[Plan]] = {}  # by the name under which they are serialised


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """A problem, the operand it was prepared for, and the choices made. Immutable, and no pointers.

    A pytree without leaves: close over it, pass it to a jitted function, carry it through `scan`,
    pickle it. Equal plans are one object, so an equal plan does not retrace. Made by an
    operation's `plan()`, never by hand.

    Attributes:
        spec: the problem.
        operand: type of the operand; with open batch axes if the plan was made from a spec.
        placement: package, devices and memory of the operand; None if made from an abstract type.
        choices: what was pinned, static and hashable.
    """

    spec: Any
    operand: OperandType
    placement: Placement | None
    choices: Any

    where: ClassVar[str]
    name: ClassVar[str] = "x"  # of the operand
    spec_type: ClassVar[type[specs.Spec]]
    operation: ClassVar[Operation]
    targets: ClassVar[tuple[str, ...]] = ()  # custom calls of its program, which export asks about

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
        """Name of this type in exported programs."""
        return f"{cls.where}.{cls.__name__}"

    @classmethod
    def of(cls, spec: Any, operand: OperandType, where: Placement | None, choices: Any) -> Self:
        """The one plan with these fields."""
        key = (cls, spec, operand, where, choices)
        with _interning:
            plan = _interned.get(key)
            if plan is None:
                plan = _interned[key] = cls(spec, operand, where, choices)
        return plan  # pyright: ignore[reportReturnType]

    # As data

    @functools.cached_property
    def digest(self) -> int:
        """63 bits that are the same in every process."""
        return specs.digest(type(self).__name__, self.to_json())

    def __hash__(self) -> int:
        return self.digest

    def __reduce__(self) -> Any:
        return type(self).of, (self.spec, self.operand, self.placement, self.choices)

    def to_json(self) -> str:
        """The plan as text, which `from_json` reads."""
        where = self.placement and dataclasses.asdict(self.placement)
        fields = [self.spec.fields(), dataclasses.asdict(self.operand), where, self.choices]
        return json.dumps(fields, default=str)  # symbolic extents

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The plan that `to_json` wrote."""
        spec, operand, where, choices = json.loads(text)

        def make(kind: Any, fields: Any) -> Any:
            return kind(**{k: specs.frozen(v) for k, v in fields.items()})

        return cls.of(
            make(cls.spec_type, spec),
            make(OperandType, operand),
            where and make(Placement, where),
            specs.frozen(choices),
        )

    # The digest comes first: JAX's tree hash ignores static data, so a jitted function that has
    # seen n plans compares with each of them, and integers differ faster than plans.

    def _flatten(self) -> tuple[tuple[()], Any]:
        return (), (self.digest, self)

    @staticmethod
    def _unflatten(aux: Any, leaves: Any) -> Any:
        return aux[1]

    # As a function

    def __call__(self, *args: Any, **operands: Any) -> Any:
        """Execute: `plan(x)`, or `plan(x=x)`."""
        if len(args) == 1 and not operands:
            (x,) = args
            if type(x) is ArrayImpl and self._accepts_sharding(x.sharding) and not x.is_deleted():
                try:
                    return self._compiled(x)
                except errors.OperandError:
                    self.check(x)  # says it with the device
                    raise
        else:
            x = self.operand_of(args, operands)
        self.check(x)
        return self._execute(x)

    def _execute(self, x: Any) -> Any:
        if aval.is_traced(x):
            return self._program(x)
        if self.placement is None or self.placement.package == "jax":
            return self._compiled(x)
        with jax.ensure_compile_time_eval():  # values that a trace computes are constants of it
            y = np.array(self._compiled(jax.device_put(x, jax.local_devices(backend="cpu")[0])))
        if not self.inplace:
            return y
        x[...] = y
        return x

    @property
    def inplace(self) -> bool:
        """Whether the result takes the operand's memory."""
        return False

    # The last one that passed `check`: compared, and not derived again. Identity comes first, since
    # equality costs microseconds in some versions of JAX.
    _accepted_sharding: ClassVar[Any] = None

    def _accepts_sharding(self, sharding: Any) -> bool:
        if sharding is self._accepted_sharding:
            return True
        if sharding == self._accepted_sharding:
            self.__dict__["_accepted_sharding"] = sharding
            return True
        return False

    @functools.cached_property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(self.operand.dtype)

    @functools.cached_property
    def _program(self) -> _Program:
        return _Program(type(self).operation, self.where, self.spec, self.operand, self.choices)

    @functools.cached_property
    def _compiled(self) -> Any:
        for scope in scopes.get():
            scope.add(self)
        return jax.jit(self._program, donate_argnums=0 if self.inplace else None)

    # Operands

    def operand_of(self, args: tuple[Any, ...], operands: dict[str, Any]) -> Any:
        """The one operand among what was given."""
        given = [*args, *operands.values()]
        if len(given) != 1 or (operands and self.name not in operands):
            names = [f"{len(args)} by position"] * bool(args) + [f"`{k}`" for k in operands]
            raise errors.OperandError(
                errors.message(
                    self.where,
                    f"this plan takes one operand, `{self.name}`",
                    expected=f"`{self.name}`: {self.operand}",
                    got=", ".join(names) or "none",
                    do=f"Pass it alone: `plan(x)`, `bind(plan, {self.name}=x)` or "
                    f"`reset(bound, {self.name}=x)`.",
                )
            )
        return given[0]

    def check(self, x: Any) -> None:
        """Raise `OperandError` if `x` is not an operand of this plan."""
        if (
            type(x) is ArrayImpl
            and x.shape == self.operand.shape
            and x.dtype == self._dtype
            and self._accepts_sharding(x.sharding)
            and not x.is_deleted()
        ):
            return
        expected = self.placement
        if not isinstance(x, np.ndarray | jax.Array):
            package = "numpy" if expected and expected.package == "numpy" else "jax.numpy"
            raise self._mismatch(aval.foreign(x), f"Pass an array, as `{package}.asarray(x)` is.")
        got, where = aval.type_of(x), placement.of(x)
        if not aval.is_traced(x) and isinstance(x, jax.Array) and x.is_deleted():
            do = f"Pass another array; to a binding by `nvstate.reset(bound, {self.name}=…)`."
            raise errors.OperandError(
                errors.message(
                    self.where,
                    f"operand `{self.name}` was consumed",
                    expected=str(self.operand),
                    got="a deleted or donated buffer",
                    do=do,
                )
            )
        if expected is not None and expected.package != (aval.package_of(x) or "jax"):
            names = {"numpy": "numpy.ndarray", "jax": "jax.Array", None: "a tracer"}
            if where is None:
                do = "Inside a transformation, plan from `jax.ShapeDtypeStruct(x.shape, x.dtype)`."
            else:
                home = {"numpy": "numpy.asarray(x)", "jax": "jax.numpy.asarray(x)"}
                do = f"Plan from this array, or convert it with `{home[expected.package]}`."
            raise self._mismatch(
                f"{names[aval.package_of(x)]} {got}",
                do,
                f"{names[expected.package]} {self.operand}",
            )
        if self.inplace and isinstance(x, np.ndarray) and not x.flags.writeable:
            raise self._mismatch(
                f"numpy.ndarray {got}, read-only",
                "Pass `x.copy()`, which will hold the result.",
                f"numpy.ndarray {self.operand} that can be written in place",
            )
        if got.dtype != self.operand.dtype:
            cast = f'`{self.name}.astype("{self.operand.dtype}")`'
            raise self._mismatch(
                placement.at(got, where), self._replan(got, f"convert the operand with {cast}")
            )
        if expected is not None and where is not None and not placement.is_same(expected, where):
            raise self._mismatch(
                placement.at(got, where), self._replan(got, f"move it {placement.way_to(expected)}")
            )
        if not self.spec.accepts(self.operand, got):
            other = "pass an operand of the plan's extents and number of batches"
            raise self._mismatch(placement.at(got, where), self._replan(got, other))
        if isinstance(x, jax.Array) and where is not None:
            self.__dict__["_accepted_sharding"] = x.sharding

    def _replan(self, got: OperandType, other: str) -> str:
        return f"Plan again with `{self.where}.plan({self.arguments(len(got.shape))})`, or {other}."

    def arguments(self, rank: int) -> str:
        """What to type between the parentheses of `plan()` for another operand of this rank."""
        raise NotImplementedError

    def _mismatch(self, got: str, do: str, expected: str | None = None) -> errors.OperandError:
        return errors.OperandError(
            errors.message(
                self.where,
                f"operand `{self.name}` does not match its plan",
                expected=expected or placement.at(self.operand, self.placement),
                got=got,
                do=do,
            )
        )


@dataclasses.dataclass(frozen=True)
class _Program:
    """What a plan runs, checked again wherever it is traced.

    It knows its plan's data, not the plan: a cycle would keep executables until the garbage
    collector runs.
    """

    operation: Operation
    where: str
    spec: Any
    operand: OperandType
    choices: Any

    @property
    def __name__(self) -> str:
        return self.where.replace(".", "_")

    def __call__(self, x: Any) -> Any:
        dtypes.require(self.where, self.operand.dtype)
        got = aval.type_of(x)
        if got.dtype != self.operand.dtype or not self.spec.accepts(self.operand, got):
            raise errors.OperandError(
                errors.message(
                    self.where,
                    "the operand does not match its plan",
                    expected=str(self.operand),
                    got=str(got),
                    do=f"Plan again with `{self.where}.plan`, from this operand.",
                )
            )
        return self.operation(self.spec, x, self.choices)
