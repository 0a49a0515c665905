"""Plans as text: written for people, read without trusting it. Nothing in it is ever executed."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import jax
import jax.numpy as jnp

from nvstate import errors
from nvstate._core import log, placement, spec as specs
from nvstate._core.aval import OperandType
from nvstate._core.placement import Placement

if TYPE_CHECKING:
    from nvstate._core.plan import Plan

WHERE = "nvstate.store"
VARIABLE = "NVSTATE_STORE"
FORMAT, VERSION = "nvstate plans", 1
LARGEST = 64 * 2**20  # bytes of a file
_FIELDS = {"spec", "operands", "placement", "choices"}
_ENTRY = {"operation", "environment", *_FIELDS}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A plan as it was saved, and what its choices were made for."""

    plan: Plan
    environment: Mapping[str, str]


def refuse(what: str, expected: str, got: str, do: str) -> NoReturn:
    """Raise a `StoreError` in the template."""
    raise errors.StoreError(errors.message(WHERE, what, expected=expected, got=got, do=do))


# One plan


def plan_of(cls: type[Plan], fields: Any) -> Plan:
    """The plan with these fields, each of them checked.

    Raises:
        StoreError: they are no plan's, or those of a plan of a newer version.
    """
    _keys("a plan", fields, _FIELDS)
    made = _spec(cls, fields["spec"])
    named = fields["operands"]
    _keys("the operands", named, set(made.names))
    types = tuple(_type(named[name]) for name in made.names)
    where = None if fields["placement"] is None else _placement(fields["placement"])
    choices = _plain(fields["choices"])
    try:
        cls.validate(made, types, choices)
    except (errors.NvstateError, TypeError, ValueError, ArithmeticError) as error:
        _no_plan(cls, error)
    return cls.of(made, types, where, choices)


def _spec(cls: type[Plan], fields: Any) -> Any:
    _keys("a spec", fields, {f.name for f in dataclasses.fields(cls.spec_type)})
    try:
        return cls.spec_type(**{name: _plain(value) for name, value in fields.items()})
    except (errors.NvstateError, TypeError, ValueError) as error:
        _no_plan(cls, error)


def _no_plan(cls: type[Plan], error: Exception) -> NoReturn:
    raise errors.StoreError(
        errors.message(
            WHERE,
            f"no plan of {cls.where}",
            expected="the fields of a plan, as `save` writes them",
            got=str(error).replace("\n", "\n    "),
            do="Save the plan again.",
        )
    ) from error


def _type(fields: Any) -> OperandType:
    _keys("the type of an operand", fields, {"shape", "dtype", "open"})
    shape, dtype = _plain(fields["shape"]), fields["dtype"]
    fine = isinstance(shape, tuple) and all(type(n) is int and 0 <= n < 2**63 for n in shape)
    if not fine or not isinstance(dtype, str) or not isinstance(fields["open"], bool):
        refuse("no type of an operand", "extents, a dtype, open or not", _short(fields), _AGAIN)
    try:
        known = jnp.dtype(dtype).name
    except TypeError:
        known = None
    if known != dtype:
        refuse("no dtype", "a dtype by its name", _short(dtype), _AGAIN)
    return OperandType(shape, dtype, fields["open"])


def _placement(fields: Any) -> Placement:
    _keys("a placement", fields, {"package", "devices", "memory_kind"})
    devices, kind = _plain(fields["devices"]), fields["memory_kind"]
    if (
        fields["package"] not in ("numpy", "jax")
        or not isinstance(devices, tuple)
        or not devices
        or not all(isinstance(d, str) and re.fullmatch(r"[a-z]+:\d{1,9}", d) for d in devices)
        or not (kind is None or (isinstance(kind, str) and re.fullmatch(r"\w+", kind)))
    ):
        refuse("no placement", "package, devices and memory", _short(fields), _AGAIN)
    return Placement(fields["package"], devices, kind)


_AGAIN = "Save the plan again."


def _keys(what: str, fields: Any, expected: set[str]) -> None:
    if not isinstance(fields, dict):
        refuse(f"{what} is no object", ", ".join(sorted(expected)), _short(fields), _AGAIN)
    if fields.keys() != expected:
        unknown, missing = sorted(fields.keys() - expected), sorted(expected - fields.keys())
        said = [f"unknown: {', '.join(unknown)}"] * bool(unknown)
        said += [f"missing: {', '.join(missing)}"] * bool(missing)
        refuse(
            f"{what} with other fields",
            ", ".join(sorted(expected)),
            _short("; ".join(said)),
            "It is damaged or of another version of nvstate: upgrade, or save the plan again.",
        )


def _plain(value: Any, depth: int = 0) -> Any:
    """Strings, integers, booleans, None, and tuples of these."""
    if isinstance(value, list) and depth < 8:
        return tuple(_plain(v, depth + 1) for v in value)  # pyright: ignore[reportUnknownVariableType]
    if value is None or isinstance(value, str | int):
        return value
    refuse(
        "no plain value", "a string, an integer, true, false, null, a list", _short(value), _AGAIN
    )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 200 else text[:200] + " …"


# A file of plans


def text(plans: Mapping[str, Plan]) -> str:
    """The file's text."""
    entries = {
        name: {
            "operation": plan.serialized_name(),
            "environment": environment(type(plan), plan.placement),
            **plan.fields(),
        }
        for name, plan in plans.items()
    }
    from nvstate import __version__

    head = {"format": FORMAT, "version": VERSION, "nvstate": __version__}
    lines = json.dumps({**head, "plans": entries}, indent=2, ensure_ascii=False)
    # Numbers of a list on one line. A string holds no line break in JSON, so none is touched.
    one_line = lambda found: re.sub(r"\s+", " ", found[0]).replace("[ ", "[").replace(" ]", "]")  # noqa: E731
    return re.sub(r"\[\n[\d\s,-]*\]", one_line, lines) + "\n"


def read(path: Path) -> dict[str, Entry]:
    """The plans of a file, as they were saved.

    Raises:
        StoreError: no such file; not a file of plans, a damaged one, or one of a newer version.
    """
    start = log.now()
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        refuse("the file cannot be read", str(path), str(error), "Name a file that `save` wrote.")
    if len(data) > LARGEST:
        refuse("too large a file", f"at most {LARGEST} bytes", str(path), "Name another file.")
    try:
        content = json.loads(
            data.decode(), object_pairs_hook=_object, parse_constant=_number, parse_float=_number
        )
    except (ValueError, RecursionError) as error:
        refuse(
            f"{path} is damaged, or no file of plans",
            "JSON, as `save` writes it",
            _short(f"{type(error).__name__}: {error}"),
            "Restore the file, or save the plans again.",
        )
    entries = _entries(path, content)
    log.info("read", f"{len(entries)} plans of {path}", start, len(data))
    return entries


def _entries(path: Path, content: Any) -> dict[str, Entry]:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        refuse(
            f"{path} is no file of plans",
            f'an object with "format": "{FORMAT}"',
            _short(content),
            "Name a file that `save` wrote.",
        )
    if content.get("version") != VERSION:
        refuse(
            f"{path} is of another version of the format",
            f"version {VERSION}",
            _short(f"version {content.get('version')!r}, nvstate {content.get('nvstate')!r}"),
            "Upgrade nvstate, or save the plans again with this one.",
        )
    _keys(str(path), content, {"format", "version", "nvstate", "plans"})
    if not isinstance(content["plans"], dict):
        refuse("the plans are no object", "plans by name", _short(content["plans"]), _AGAIN)
    return {name: _entry(name, fields) for name, fields in content["plans"].items()}


def _entry(name: str, fields: Any) -> Entry:
    from nvstate._core.plan import plan_types

    _keys(f"plan {_short(name)!r}", fields, _ENTRY)
    operation, where = fields["operation"], fields["environment"]
    if not isinstance(operation, str) or operation not in plan_types:
        refuse(
            f"plan {_short(name)!r} is of an unknown operation",
            ", ".join(plan_types),
            _short(operation),
            "Upgrade nvstate, or save the plans again with this one.",
        )
    if not isinstance(where, dict) or not all(isinstance(v, str) for v in where.values()):
        refuse("no environment", "names and versions", _short(where), _AGAIN)
    plan = plan_of(plan_types[operation], {name: fields[name] for name in _FIELDS})
    return Entry(plan, where)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name twice in one object")
    return found


def _number(text: str) -> NoReturn:
    raise ValueError(f"{text}, where only integers are written")


def environment(cls: type[Plan], where: Placement | None) -> dict[str, str]:
    """What choices depend on: the kind of device and the versions of its libraries."""
    if where is None:
        device, platform = jax.devices()[0], jax.default_backend()
    else:
        platform = where.platform
        here = placement.local_devices(platform)
        device = next((d for d in here if placement.name(d) in where.devices), None)
    platform = "cuda" if platform == "gpu" else platform
    kind = "missing" if device is None else device.device_kind
    return {"device": kind, **cls.libraries(platform)}


# The file that NVSTATE_STORE names


def choices(
    cls: type[Plan],
    spec: specs.Spec,
    types: tuple[OperandType, ...],
    where: Placement | None,
    default: Any,
) -> Any:
    """What was chosen for this problem here, if the default file says so."""
    path = os.environ.get(VARIABLE)
    if not path:
        return default
    now: dict[str, str] | None = None
    for entry in _default(path).get((cls, spec, types), ()):
        now = now or environment(cls, where)
        if entry.environment == now:
            return entry.plan.choices
        warn(path, entry, now)
    return default


@functools.cache
def _default(path: str) -> dict[Any, list[Entry]]:
    """The file's plans by problem; read once, so that `plan()` stays a function."""
    found: dict[Any, list[Entry]] = {}
    if not os.path.exists(path):
        log.debug(VARIABLE, f"no file {path} yet")
        return found
    for entry in read(Path(path)).values():
        plan = entry.plan
        found.setdefault((type(plan), plan.spec, plan.types), []).append(entry)
    return found


def warn(path: object, entry: Entry, now: Mapping[str, str]) -> None:
    """Say that a stored plan's choices are not used, and why."""
    plan = entry.plan
    differ = {
        k: (v, now.get(k, "missing")) for k, v in entry.environment.items() if now.get(k) != v
    }
    said = ", ".join(f"{k} {was}, here {here}" for k, (was, here) in differ.items())
    warnings.warn(
        f"{path}: the choices of {plan!r} were made for another environment ({said}) and are not "
        "used; measure again with `nvstate.autotune`",
        UserWarning,
        stacklevel=3,
    )
