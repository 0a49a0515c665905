"""A plan from text that no one vouches for: each field is checked, and nothing is ever executed."""

from __future__ import annotations

import dataclasses
import json
import re
import reprlib
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from nvstate import errors
from nvstate._core.aval import OperandType
from nvstate._core.placement import Placement

if TYPE_CHECKING:
    from nvstate._core.plan import Plan

WHERE = "nvstate.store"
FIELDS = frozenset({"spec", "operands", "placement", "choices"})
AGAIN = "It is damaged, or of another version of nvstate: upgrade, or save the plans again."
RANK = 64  # most axes of an operand, which are NumPy's
DEPTH = 8  # most lists within lists
_DEVICE = re.compile(r"(\w+):(0|[1-9]\d{0,8})", re.ASCII)
_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 200


def refuse(what: str, expected: str, got: str, do: str) -> NoReturn:
    """Raise a `StoreError` in the template."""
    raise errors.StoreError(errors.message(WHERE, what, expected=expected, got=got, do=do))


def short(value: Any) -> str:
    """Any value in few characters that a terminal can print, however long or deep it is."""
    return _short.repr(value)


def parsed(text: str) -> Any:
    """Objects, lists, strings, integers, true, false and null: all that plans consist of.

    Raises:
        ValueError: no such JSON.
    """
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_constant=_number, parse_float=_number
        )
    except RecursionError:
        raise ValueError("lists or objects that are nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name twice in one object")
    return found


def _number(text: str) -> NoReturn:
    raise ValueError(f"{short(text)}, where only integers are written")


def plan_of(cls: type[Plan], fields: Any, what: str = "", *, static: bool = False) -> Plan:
    """The plan with these fields; `what` says of which plan they are, for the error.

    With `static`, those without arrays, which `with_leaves` makes a plan of.

    Raises:
        StoreError: they are no plan's, or those of a plan of another version.
    """
    try:
        return _made(cls, fields, static)
    except (errors.NvstateError, TypeError, ValueError) as error:
        said = str(error)
        refuse(
            what or f"no plan of {cls.where}",
            "the fields of a plan, as `save` writes them",
            (said if len(said) <= 1000 else said[:1000] + " …").replace("\n", "\n    "),
            AGAIN,
        )


def _made(cls: type[Plan], fields: Any, static: bool) -> Plan:
    keys("a plan", fields, FIELDS if static else FIELDS | cls.array_fields)
    named = fields["spec"]
    keys("a spec", named, {f.name for f in dataclasses.fields(cls.spec_type)})
    spec: Any = cls.spec_type(**{name: _plain(value) for name, value in named.items()})
    operands = fields["operands"]
    keys("the operands", operands, set(spec.names))
    types = tuple(_type(operands[name]) for name in spec.names)
    where = None if fields["placement"] is None else _placement(fields["placement"])
    choices = _plain(fields["choices"])
    cls.validate(spec, types, choices)
    plan = cls.of(spec, types, where, choices)
    return plan if static else plan.with_arrays({name: fields[name] for name in cls.array_fields})


def keys(what: str, fields: Any, expected: AbstractSet[str]) -> None:
    """Raise `ValueError` unless `fields` is an object with exactly these names."""
    if not isinstance(fields, dict):
        raise ValueError(f"{what}: no object, but {short(fields)}")
    if fields.keys() != expected:
        unknown, missing = sorted(fields.keys() - expected), sorted(expected - fields.keys())
        raise ValueError(f"{what}: unknown {short(unknown)}, missing {short(missing)}")


def _plain(value: Any, depth: int = 0) -> Any:
    """Strings, integers, booleans, None, and tuples of these."""
    if isinstance(value, list) and depth < DEPTH:
        return tuple(_plain(v, depth + 1) for v in value)
    if value is None or isinstance(value, str | int):
        return value
    raise ValueError(f"a string, an integer or a list is expected, not {short(value)}")


def _type(fields: Any) -> OperandType:
    keys("an operand", fields, {"shape", "dtype", "open"})
    shape, dtype, is_open = fields["shape"], fields["dtype"], fields["open"]
    if (
        not isinstance(shape, list)
        or len(shape) > RANK
        or not all(type(n) is int and 0 <= n < 2**63 for n in shape)
    ):
        raise ValueError(f"`shape` is a list of at most {RANK} extents, not {short(shape)}")
    # Not by `np.dtype(dtype)`, which reads a language of its own.
    known = np.sctypeDict.get(dtype) if isinstance(dtype, str) else None
    if known is None or np.dtype(known).name != dtype:
        raise ValueError(f"`dtype` is the name of one, not {short(dtype)}")
    if not isinstance(is_open, bool):
        raise ValueError(f"`open` is true or false, not {short(is_open)}")
    return OperandType(tuple(shape), dtype, is_open)


def _placement(fields: Any) -> Placement:
    keys("a placement", fields, {"package", "devices", "memory_kind"})
    package, devices, kind = fields["package"], fields["devices"], fields["memory_kind"]
    if package not in ("numpy", "jax"):
        raise ValueError(f'`package` is "numpy" or "jax", not {short(package)}')
    if package == "numpy" and devices == ["cpu"] and kind is None:
        return Placement("numpy", ("cpu",))
    listed = devices if isinstance(devices, list) else []
    matches = [_DEVICE.fullmatch(d) if isinstance(d, str) else None for d in listed]
    found = [(m[1], int(m[2])) for m in matches if m]
    if (
        not found
        or len(found) < len(matches)
        or len({platform for platform, _ in found}) > 1
        or found != sorted(set(found))
    ):
        raise ValueError(
            '`devices` is a list as ["cuda:0", "cuda:1"], of one platform and in ascending order, '
            f"not {short(devices)}"
        )
    if kind is not None and not (isinstance(kind, str) and re.fullmatch(r"\w+", kind, re.ASCII)):
        raise ValueError(f"`memory_kind` is a word or null, not {short(kind)}")
    if package == "numpy" and (len(found) > 1 or kind is not None):
        raise ValueError("NumPy's arrays are computed with on one device, in its memory")
    return Placement(package, tuple(devices), kind)
