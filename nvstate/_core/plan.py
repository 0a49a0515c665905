"""Plan and Bound, the data, and the verbs on them."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import json
import threading
import weakref
from collections.abc import Generator
from typing import Any, ClassVar, Self

import jax
import numpy as np

from nvstate import _native, errors
from nvstate._core import aval, dtypes, placement, primitive, spec as specs
from nvstate._core.aval import OperandType
from nvstate._core.compat import ArrayImpl
from nvstate._core.placement import Placement
from nvstate._core.primitive import Operation

_interned: weakref.WeakValueDictionary[Any, Plan] = weakref.WeakValueDictionary()
_interning = threading.Lock()
# Of this thread, or of whatever else has a context of its own.
_scopes: contextvars.ContextVar[tuple[weakref.WeakSet[Plan], ...]] = contextvars.ContextVar(
    "nvstate_resources", default=()
)
_plan_types: dict[str, type[Plan]] = {}  # by the name under which they are serialised


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
        _plan_types[cls._serialized_name()] = cls
        jax.export.register_pytree_node_serialization(
            cls,
            serialized_name=cls._serialized_name(),
            serialize_auxdata=lambda aux: aux[1].to_json().encode(),
            deserialize_auxdata=lambda data: cls.from_json(bytes(data).decode())._flatten()[1],
        )

    @classmethod
    def _serialized_name(cls) -> str:
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
        for scope in _scopes.get():
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
                _at(got, where), self._replan(got, f"convert the operand with {cast}")
            )
        if expected is not None and where is not None and not _same_place(expected, where):
            raise self._mismatch(_at(got, where), self._replan(got, f"move it {_way_to(expected)}"))
        if not self.spec.accepts(self.operand, got):
            other = "pass an operand of the plan's extents and number of batches"
            raise self._mismatch(_at(got, where), self._replan(got, other))
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
                expected=expected or _at(self.operand, self.placement),
                got=got,
                do=do,
            )
        )


def _at(operand: OperandType, where: Placement | None) -> str:
    return f"{operand} on {where}" if where else str(operand)


def _way_to(where: Placement) -> str:
    first, *others = where.devices
    if others or where.memory_kind:
        return f"to {where} with `jax.device_put`"
    platform, ordinal = first.split(":")
    return f'with `jax.device_put(x, jax.devices("{platform}")[{ordinal}])`'


def _same_place(expected: Placement, got: Placement) -> bool:
    return expected.devices == got.devices and expected.memory_kind == got.memory_kind


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


class Bound:
    """A plan and its operand. A pytree whose leaf is the operand. Made by `bind` and `reset`."""

    __slots__ = ("plan", "value")

    def __init__(self, plan: Plan, value: Any) -> None:
        self.plan = plan
        self.value = value

    def __repr__(self) -> str:
        value = aval.type_of(self.value) if aval.is_array(self.value) else repr(self.value)
        return f"Bound({self.plan!r}, {self.plan.name}={value})"


# Any leaf will do: JAX builds trees of types, of batch axes, of None.
jax.tree_util.register_pytree_node(
    Bound,
    lambda bound: ((bound.value,), (bound.plan.digest, bound.plan)),
    lambda aux, leaves: Bound(aux[1], leaves[0]),
)


def _plan_from(data: bytes | bytearray) -> tuple[int, Plan]:
    name, text = json.loads(bytes(data))
    plan = _plan_types[name].from_json(text)
    return plan.digest, plan


jax.export.register_pytree_node_serialization(
    Bound,
    serialized_name="nvstate.Bound",
    serialize_auxdata=lambda aux: json.dumps(
        [aux[1]._serialized_name(), aux[1].to_json()]
    ).encode(),
    deserialize_auxdata=_plan_from,
)


def _want(thing: Any, kind: type[Plan | Bound], verb: str) -> None:
    if isinstance(thing, kind):
        return
    needed, do = {
        Plan: ("a plan", "Pass what `plan()` returns; `release(bound)` returns it too."),
        Bound: ("a bound plan", f"Bind first: `{verb}(bind(plan, x=x))`."),
    }[kind]
    raise errors.OperandError(
        errors.message(
            "nvstate",
            f"`{verb}` needs {needed}",
            expected=kind.__name__,
            got=type(thing).__name__,
            do=do,
        )
    )


def bind(plan: Plan, /, **operands: Any) -> Bound:
    """Bind operands to a plan: check them once, to execute them often.

    Args:
        plan: any operation's plan.
        **operands: by name, as the operation names them; for an FFT, `x`.

    Returns:
        A `Bound`.

    Raises:
        OperandError: an operand is missing, unknown, or not the plan's: another package, dtype,
            device, memory kind or shape.

    Example:
        >>> x = jnp.ones((2, 8), "complex64")
        >>> bound = nvs.bind(nvs.fft.plan(x, axes=(1,)), x=x)
        >>> nvs.execute(bound).shape
        (2, 8)
    """
    _want(plan, Plan, "bind")
    x = plan.operand_of((), operands)
    plan.check(x)
    return Bound(plan, x)


def reset(bound: Bound, /, **operands: Any) -> Bound:
    """Bind other operands to the same plan. `bound` is as it was, also if this raises.

    Args:
        bound: from `bind` or `reset`.
        **operands: by name; one that is omitted stays.

    Returns:
        A new `Bound` of the same plan.

    Raises:
        OperandError: as `bind`; then nothing has changed.

    Example:
        >>> x = jnp.ones((2, 8), "complex64")
        >>> bound = nvs.bind(nvs.fft.plan(x, axes=(1,)), x=x)
        >>> nvs.execute(nvs.reset(bound, x=2 * x))[0, 0]
        Array(16.+0.j, dtype=complex64)
    """
    _want(bound, Bound, "reset")
    return bind(bound.plan, **operands) if operands else bound


def reset_unchecked(bound: Bound, /, **operands: Any) -> Bound:
    """Bind other operands without checking them, for loops that have proved that they fit.

    An operand that does not fit is still refused, but only when it is executed.

    Args:
        bound: from `bind` or `reset`.
        **operands: by name; one that is omitted stays.

    Returns:
        A new `Bound` of the same plan.

    Raises:
        OperandError: a name that the plan does not have.

    Example:
        >>> x = jnp.ones((2, 8), "complex64")
        >>> bound = nvs.bind(nvs.fft.plan(x, axes=(1,)), x=x)
        >>> nvs.reset_unchecked(bound, x=2 * x).plan == bound.plan
        True
    """
    plan = bound.plan
    return Bound(plan, plan.operand_of((), operands)) if operands else bound


def execute(target: Plan | Bound, /, *args: Any, **operands: Any) -> Any:
    """Execute a bound plan, or a plan on operands given here.

    Args:
        target: a `Bound`; or a plan, followed by its operands.
        *args: the operands of a plan, by position.
        **operands: the operands of a plan, by name.

    Returns:
        The result, an array of the plan's package.

    Raises:
        OperandError: an operand does not match the plan, was consumed by an in-place plan, or is
            given beside a `Bound`.
        JaxRuntimeError: the library failed; the text names the call, sizes and dtypes.

    Example:
        >>> x = jnp.ones((2, 8), "complex64")
        >>> nvs.execute(nvs.fft.plan(x, axes=(1,)), x=x).shape
        (2, 8)
    """
    if isinstance(target, Plan):
        return target(*args, **operands)
    _want(target, Bound, "execute")
    if args or operands:
        plan = target.plan
        raise errors.OperandError(
            errors.message(
                plan.where,
                "operands beside a bound plan",
                expected="a bound plan alone",
                got=", ".join([*(type(x).__name__ for x in args), *operands]),
                do="Bind them first: `execute(reset(bound, x=x))`.",
            )
        )
    return target.plan(target.value)


def release(bound: Bound, /) -> Plan:
    """Drop the operands and keep what was planned.

    Args:
        bound: from `bind` or `reset`.

    Returns:
        The plan.

    Example:
        >>> x = jnp.ones((2, 8), "complex64")
        >>> plan = nvs.fft.plan(x, axes=(1,))
        >>> nvs.release(nvs.bind(plan, x=x)) is plan
        True
    """
    _want(bound, Bound, "release")
    return bound.plan


def free(plan: Plan, /) -> None:
    """Drop now what was built natively for a plan: its compiled calls and library objects.

    Using the plan again is legal and builds them anew. A library object that a jitted function of
    yours still holds stays until that function goes: a captured CUDA graph may use its memory.

    Args:
        plan: any operation's plan.

    Example:
        >>> x = jnp.ones((2, 8), "complex64")
        >>> plan = nvs.fft.plan(x, axes=(1,))
        >>> y = plan(x)
        >>> nvs.free(plan)
        >>> bool((plan(x) == y).all())
        True
    """
    _want(plan, Plan, "free")
    compiled = plan.__dict__.pop("_compiled", None)
    if compiled is not None:
        compiled.clear_cache()
    primitive.forget()
    _native.cache_drop(plan.spec.family)


@contextlib.contextmanager
def resources() -> Generator[None]:
    """Bound the life of native objects: what is first built inside is dropped at the end.

    Scopes nest, and each thread has its own; the end is reached by exceptions too. Plans made
    inside stay usable.

    Example:
        >>> x = jnp.ones((2, 8), "complex64")
        >>> with nvs.resources():
        ...     y = nvs.fft.plan(x, axes=(1,))(x)
    """
    scope: weakref.WeakSet[Plan] = weakref.WeakSet()
    since = _native.cache_generation()
    token = _scopes.set((*_scopes.get(), scope))
    try:
        yield
    finally:
        _scopes.reset(token)
        for plan in list(scope):
            free(plan)
        primitive.forget()
        _native.cache_drop_since(since)


def register() -> None:
    """Register nvstate's targets with XLA, as the first compilation for CUDA does by itself.

    For a process that compiles nothing and runs exported programs. Calling it again is harmless; it
    touches no device.

    Raises:
        LibraryError: the native library is missing, or newer than this jaxlib.

    Example:
        >>> nvs.register()
    """
    _native.register()
