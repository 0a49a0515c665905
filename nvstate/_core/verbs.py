"""Bound, a plan with its operand, and the verbs of the lifecycle."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator
from typing import Any

import jax

from nvstate import errors
from nvstate._core import aval, log, scopes, sizes
from nvstate._core.operands import named, unknown
from nvstate._core.plan import Plan


class Bound:
    """A plan and its operands. A pytree of the plan's leaves and these. From `bind` and `reset`."""

    __slots__ = ("plan", "values")

    def __init__(self, plan: Plan, values: tuple[Any, ...]) -> None:
        self.plan = plan
        self.values = values

    @property
    def operands(self) -> dict[str, Any]:
        """The operands by name."""
        return dict(zip(self.plan.spec.names, self.values, strict=True))

    def __repr__(self) -> str:
        said = (
            f"{name}={aval.type_of(x) if aval.is_array(x) else repr(x)}"
            for name, x in self.operands.items()
        )
        return f"Bound({', '.join([repr(self.plan), *said])})"


# Any leaf will do: JAX builds trees of types, of batch axes, of None.
jax.tree_util.register_pytree_node(
    Bound,
    lambda bound: ((*bound.plan.leaves, *bound.values), bound.plan.static),
    lambda aux, leaves: _unflattened(aux[1], tuple(leaves)),
)


def _unflattened(plan: Plan, leaves: tuple[Any, ...]) -> Bound:
    own = len(leaves) - len(plan.spec.names)
    return Bound(plan.with_leaves(leaves[:own]), leaves[own:])


def want(thing: Any, kind: type[Plan | Bound], verb: str) -> None:
    if isinstance(thing, kind):
        return
    needed, do = {
        Plan: ("a plan", "Pass what `plan()` returns; `release(bound)` returns it too."),
        Bound: ("a bound plan", "Bind first: `bound = bind(plan, x=x)`."),
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


def bind(plan: Plan, /, *args: Any, **operands: Any) -> Bound:
    """Bind operands to a plan: check them once, to execute them often.

    Args:
        plan: any operation's plan.
        *args: the operands, by position.
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
    want(plan, Plan, "bind")
    values = named(plan, args, operands)
    plan.check(values)
    log.debug("bound", plan)
    return Bound(plan, values)


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
    if type(bound) is not Bound:
        want(bound, Bound, "reset")
    if not operands:
        return bound
    plan, values = bound.plan, _with(bound, operands)
    plan.check(values, operands)
    log.debug("reset", plan)
    return Bound(plan, values)


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
    if type(bound) is not Bound:
        want(bound, Bound, "reset_unchecked")
    return Bound(bound.plan, _with(bound, operands))


def _with(bound: Bound, operands: dict[str, Any]) -> tuple[Any, ...]:
    """The values of a binding, with these in their places."""
    values, places = list(bound.values), bound.plan.places
    for name, x in operands.items():
        if name not in places:
            raise unknown(bound.plan, name)
        values[places[name]] = x
    return tuple(values)


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
    if type(target) is not Bound:
        if isinstance(target, Plan):
            return target(*args, **operands)
        want(target, Bound, "execute")
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
    return target.plan(*target.values)


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
    want(bound, Bound, "release")
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
    want(plan, Plan, "free")
    scopes.free(plan)


@contextlib.contextmanager
def resources(*, limit: int | float | str = math.inf) -> Generator[None]:
    """Bound the life of native objects: what is first built inside is dropped at the end.

    Scopes nest, and each thread has its own; the end is reached by exceptions too. Plans made
    inside stay usable.

    Args:
        limit: the most device memory that native objects built inside may keep: bytes, or a text
            such as "2 GiB". Beyond it those used longest ago are dropped whenever another is
            made, and built again when they are needed. The latest stays, whatever it takes; so do
            those that a jitted function of yours holds.

    Raises:
        SpecError: `limit` is no size.

    Example:
        >>> x = jnp.ones((2, 8), "complex64")
        >>> with nvs.resources(limit="2 GiB"):
        ...     y = nvs.fft.plan(x, axes=(1,))(x)
    """
    scope = scopes.Scope(sizes.parse("nvstate.resources", limit))
    token = scopes.current.set((*scopes.current.get(), scope))
    try:
        yield
    finally:
        try:
            scopes.current.reset(token)
        finally:  # in another context than it was entered in, that fails
            scope.end()
