"""Plans in a file: written for people, read without trusting it, and what NVSTATE_STORE names."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from nvstate._core import fields, log, placement, spec as specs
from nvstate._core.aval import OperandType
from nvstate._core.fields import parsed, plan_of, refuse, short
from nvstate._core.placement import Placement

if TYPE_CHECKING:
    from nvstate._core.plan import Plan

VARIABLE = "NVSTATE_STORE"
FORMAT, VERSION = "nvstate plans", 1
LARGEST = 64 * 2**20  # bytes of a file
MOST = 16  # names of an environment
_ENTRY = fields.FIELDS | {"operation", "environment"}  # and arrays of the operation's plans
_RESTORE = "Restore the file, or save the plans again."


@dataclasses.dataclass(frozen=True)
class Entry:
    """A plan as it was saved, and what its choices were made for."""

    name: str
    plan: Plan
    environment: Mapping[str, str]


def environment(cls: type[Plan], where: Placement | None) -> dict[str, str]:
    """What choices depend on: the kind of device and the versions of its libraries."""
    if where is None:
        device = jax.local_devices()[0]
    else:
        here, wanted = placement.local_devices(where.platform), {where.platform, *where.devices}
        numbered = [d for d in here if placement.name(d) in wanted]
        device = next(iter(here if where.platform in where.devices else numbered), None)
    if device is None:
        return {"device": "missing"}
    platform = placement.name(device).split(":")[0]
    return {"device": device.device_kind, **cls.libraries(platform)}


def content(plans: Mapping[str, Plan]) -> bytes:
    """What a file of these plans holds."""
    from nvstate import __version__

    entries = {
        name: {
            "operation": plan.serialized_name(),
            "environment": environment(type(plan), plan.placement),
            **plan.fields(),
        }
        for name, plan in ((name, plan.storable()) for name, plan in plans.items())
    }
    head = {"format": FORMAT, "version": VERSION, "nvstate": __version__}
    text = json.dumps({**head, "plans": entries}, indent=2, ensure_ascii=False)
    # Numbers of a list on one line. A string holds no line break in JSON, so none is touched.
    text = re.sub(r"\[\n[\d\s,-]*\]", lambda m: "[" + " ".join(m[0][1:-1].split()) + "]", text)
    try:
        return f"{text}\n".encode()
    except UnicodeEncodeError as error:
        refuse("a name that is no text", "Unicode", short(str(error)), "Name the plan otherwise.")


def read(path: Path, *, missing_ok: bool = False) -> dict[str, Entry]:
    """The plans of a file by name, as they were saved; none if it may be missing, and is.

    Raises:
        StoreError: no such file; not a file of plans, a damaged one, or one of a newer version.
    """
    start = log.now()
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a null
        if missing_ok and isinstance(error, FileNotFoundError):
            log.logger.info("no file of plans yet: %s", path)
            return {}
        refuse("the file cannot be read", str(path), str(error), "Name a file that `save` wrote.")
    found = entries(path, data)
    log.info("read", f"{len(found)} plans of {path}", start, len(data))
    return found


def entries(path: Path, data: bytes) -> dict[str, Entry]:
    """The plans that a file with this content holds.

    Raises:
        StoreError: as `read`.
    """
    if len(data) > LARGEST:
        refuse(
            f"{path} is too large",
            f"at most {LARGEST} bytes",
            f"at least {len(data)}",
            "Save fewer plans in one file.",
        )
    try:
        whole = parsed(data.decode())
    except ValueError as error:
        refuse(
            f"{path} is damaged, or no file of plans",
            "JSON, as `save` writes it",
            f"{type(error).__name__}: {error}",
            _RESTORE,
        )
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        refuse(
            f"{path} is no file of plans",
            f'an object with "format": "{FORMAT}"',
            short(whole),
            "Name a file that `save` wrote.",
        )
    version = whole.get("version")
    if type(version) is not int or version != VERSION:
        refuse(
            f"{path} is of another version of the format",
            f"version {VERSION}",
            f"version {short(version)}, nvstate {short(whole.get('nvstate'))}",
            "Upgrade nvstate, or save the plans again with this one.",
        )
    try:
        fields.keys("the file", whole, {"format", "version", "nvstate", "plans"})
        if not isinstance(whole["plans"], dict):
            raise ValueError(f"the plans: no object, but {short(whole['plans'])}")
    except ValueError as error:
        refuse(f"{path} is damaged", "what `save` writes", str(error), _RESTORE)
    return {name: _entry(path, name, stored) for name, stored in whole["plans"].items()}


def _entry(path: Path, name: str, stored: Any) -> Entry:
    from nvstate._core.plan import plan_types

    what = f"plan {short(name)} of {path} cannot be read"
    try:
        operation = stored.get("operation") if isinstance(stored, dict) else None
        cls = plan_types.get(operation) if isinstance(operation, str) else None
        arrays = cls.array_fields if cls else frozenset[str]()
        fields.keys("the plan", stored, _ENTRY | arrays)
        if cls is None:
            raise ValueError(f"an unknown operation, {short(operation)}")
        made_for = stored["environment"]
        if (
            not isinstance(made_for, dict)
            or len(made_for) > MOST
            or not all(isinstance(v, str) for v in made_for.values())
        ):
            raise ValueError(f"the environment: no names and versions, but {short(made_for)}")
    except ValueError as error:
        refuse(what, f"a plan of {', '.join(plan_types)}", str(error), fields.AGAIN)
    one = {field: stored[field] for field in fields.FIELDS | arrays}
    return Entry(name, plan_of(cls, one, what), made_for)


def warn(path: object, entry: Entry, now: Mapping[str, str]) -> None:
    """Say that a stored plan's choices are not used, and why."""
    was = entry.environment
    said = ", ".join(
        f"{short(name)}: {short(was.get(name, 'missing'))}, here {short(now.get(name, 'missing'))}"
        for name in {**was, **now}
        if was.get(name) != now.get(name)
    )
    warnings.warn(
        f"{path}: the choices of plan {short(entry.name)} were made for another environment "
        f"({said}) and are not used; measure here with `nvstate.autotune`, and save again",
        UserWarning,
        stacklevel=_depth(),
    )


def _depth() -> int:
    """How far above `warn` the first caller is that is not nvstate's."""
    depth, frame = 0, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("nvstate."):
        depth, frame = depth + 1, frame.f_back
    return depth


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
    saved = _default(path).get((cls, spec, types)) if path else None
    if not saved:
        return default
    now = environment(cls, where)
    for entry in saved:
        if entry.environment == now:
            return entry.plan.choices
    for entry in saved:
        if entry.plan.choices != default:  # else nothing is lost
            warn(path, entry, now)
            break
    return default


@functools.cache
def _default(path: str) -> dict[Any, list[Entry]]:
    """The file's plans by problem, the latest first; read once, so that `plan()` is a function."""
    found: dict[Any, list[Entry]] = {}
    for entry in read(Path(path), missing_ok=True).values():
        plan = entry.plan
        found.setdefault((type(plan), plan.spec, plan.types), []).insert(0, entry)
    return found
