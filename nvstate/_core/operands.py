"""Operands against their plan: by name and number, then one by one, each refusal in its words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from nvstate import errors
from nvstate._core import aval, placement
from nvstate._core.aval import OperandType

if TYPE_CHECKING:
    from nvstate._core.plan import Plan

_PACKAGES = {"numpy": "numpy.ndarray", "jax": "jax.Array", None: "a tracer"}
_HOME = {"numpy": "numpy.asarray", "jax": "jax.numpy.asarray"}


def named(plan: Plan, args: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, ...]:
    """The operands in the plan's order, from what was given by position and by name.

    Raises:
        OperandError: one is missing, unknown, or given twice.
    """
    names = plan.spec.names
    if len(args) + len(keywords) == len(names):
        rest = names[len(args) :]
        if all(name in keywords for name in rest):
            return (*args, *(keywords[name] for name in rest))
    came = [f"{len(args)} by position"] * bool(args) + [f"`{k}`" for k in keywords]
    what = f"one operand, `{names[0]}`" if len(names) == 1 else f"{len(names)} operands"
    keywords_ = ", ".join(f"{name}={name}" for name in names)
    raise errors.OperandError(
        errors.message(
            plan.where,
            f"this plan takes {what}",
            expected=", ".join(f"`{name}`: {t}" for name, t in plan.operands.items()),
            got=", ".join(came) or "none",
            do=f"Pass {'it alone' if len(names) == 1 else 'each once'}: `plan({', '.join(names)})`"
            f", `bind(plan, {keywords_})` or `reset(bound, {names[0]}={names[0]})`.",
        )
    )


def unknown(plan: Plan, name: str) -> errors.OperandError:
    """What is said of a name that the plan does not have."""
    first = plan.spec.names[0]
    return errors.OperandError(
        errors.message(
            plan.where,
            f"this plan has no operand `{name}`",
            expected=", ".join(f"`{n}`: {t}" for n, t in plan.operands.items()),
            got=f"`{name}`",
            do=plan.absent(name)
            or f"Reset operands by their names: `reset(bound, {first}={first})`.",
        )
    )


def check(plan: Plan, values: tuple[Any, ...], places: list[int]) -> None:
    """Raise `OperandError` unless these values, of which those at `places` are new, are the plan's.

    In this order: an array at all, not consumed, package, writable if it will be written, dtype,
    place; then the shapes, of all operands together.
    """
    for place in places:
        alone(plan, place, values[place])
    got = tuple(map(aval.type_of, values))
    if plan.spec.accepts(plan.types, got):
        return
    for place in places:  # the one without which the others would fit, if there is one
        types = (*got[:place], plan.types[place], *got[place + 1 :])
        if plan.spec.accepts(plan.types, types):
            other = "pass an operand of the plan's extents and number of batches"
            raise _misplaced(plan, place, values[place], other)
    rank = len(got[0].shape)
    raise errors.OperandError(
        errors.message(
            plan.where,
            "the operands do not match their plan",
            expected=", ".join(f"`{name}`: {t}" for name, t in plan.operands.items()),
            got=", ".join(f"`{n}`: {t}" for n, t in zip(plan.spec.names, got, strict=True)),
            do=f"Plan again with `{plan.where}.plan({plan.arguments(rank)})`; what changes "
            "together is reset in one call.",
        )
    )


def alone(plan: Plan, place: int, x: Any) -> None:
    """Raise `OperandError` unless a value may stand in this place, whatever its shape."""
    planned, expected = plan.types[place], plan.placement
    name = plan.spec.names[place]
    if isinstance(x, jax.ShapeDtypeStruct) or not aval.is_array(x):
        package = expected.package if expected else "jax"
        what, cure = aval.named(x), aval.without_a_copy(x, package)
        do = cure or f"Pass an array, as `{_HOME[package]}(…)` returns one."
        raise _mismatch(plan, place, what, do)
    traced = aval.is_traced(x)
    if not traced and isinstance(x, jax.Array) and x.is_deleted():
        raise errors.OperandError(
            errors.message(
                plan.where,
                f"operand `{name}` was consumed",
                expected=str(planned),
                got="a deleted or donated buffer",
                do=f"Pass another array; to a binding by `nvstate.reset(bound, {name}=…)`.",
            )
        )
    package = aval.package_of(x)
    if expected is not None and expected.package != (package or "jax"):
        if traced:
            do = f"Inside a transformation, plan with {plan.of_jax(name)}."
        else:
            do = f"Plan from this array, or convert it with `{_HOME[expected.package]}({name})`."
        raise _mismatch(
            plan,
            place,
            f"{_PACKAGES[package]} {aval.type_of(x)}",
            do,
            f"{_PACKAGES[expected.package]} {planned}",
        )
    if name in plan.consumed and isinstance(x, np.ndarray) and not x.flags.writeable:
        raise _mismatch(
            plan,
            place,
            f"numpy.ndarray {aval.type_of(x)}, read-only",
            f"Pass `{name}.copy()`, which will hold the result.",
            f"numpy.ndarray {planned} that can be written in place",
        )
    got = aval.type_of(x)
    if got.dtype != planned.dtype:
        cast = f'`{name}.astype("{planned.dtype}")`'
        raise _misplaced(plan, place, x, f"convert the operand with {cast}")
    where = placement.of(x)
    if expected is not None and where is not None and not placement.fits(expected, where):
        raise _misplaced(plan, place, x, f"move it {placement.way_to(expected, where)}")


def _misplaced(plan: Plan, place: int, x: Any, other: str) -> errors.OperandError:
    got = aval.type_of(x)
    again = f"Plan again with `{plan.where}.plan({plan.arguments(len(got.shape))})`"
    if aval.is_traced(x):
        again += f" of a {got}: under `vmap`, of one member, without the axis that is mapped"
    return _mismatch(plan, place, placement.at(got, placement.of(x)), f"{again}, or {other}.")


def _mismatch(
    plan: Plan, place: int, got: str, do: str, expected: str | None = None
) -> errors.OperandError:
    return errors.OperandError(
        errors.message(
            plan.where,
            f"operand `{plan.spec.names[place]}` does not match its plan",
            expected=expected or placement.at(plan.types[place], plan.placement),
            got=got,
            do=do,
        )
    )


def mismatched(where: str, planned: tuple[OperandType, ...], got: Any) -> errors.OperandError:
    """What a plan's program says where it is traced with operands that are not the plan's."""
    return errors.OperandError(
        errors.message(
            where,
            "the operands do not match their plan",
            expected=", ".join(map(str, planned)),
            got=", ".join(map(str, got)),
            do=f"Plan again with `{where}.plan`, from these operands.",
        )
    )
