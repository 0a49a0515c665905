"""Plans on disk, with what was measured for them, in one file that people can read."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nvstate._core import fields, log, stored
from nvstate._core.plan import Plan

__all__ = ["load", "save"]


def save(plans: Mapping[str, Plan], path: str | os.PathLike[str] | None = None) -> Path:
    """Write plans to a file, beside the device and the library versions that they were made for.

    A direct solver's plan is written with its pattern and the reordering that its analysis found,
    which spares the plans that are made from it most of theirs.

    The file is JSON, and replaced as a whole: a reader sees the old one or the new one. To add to
    a file, save `{**load(path), **others}`, on the kind of machine that it was made on: what is
    loaded elsewhere has lost its choices.

    Args:
        plans: by a name of your choice.
        path: the file; None: the one that the environment variable NVSTATE_STORE names.

    Returns:
        The path.

    Raises:
        StoreError: no path and no NVSTATE_STORE; something else than plans; a plan that `load`
            would refuse, as of extents that are not numbers; the file cannot be written.

    Example:
        >>> import tempfile
        >>> plan = nvs.fft.plan(jnp.ones((2, 8), "complex64"), axes=(1,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = nvs.store.save({"rows": plan}, folder + "/plans.json")
        ...     nvs.store.load(path)["rows"] == plan
        True
    """
    given: Any = plans  # whatever it is
    if not isinstance(given, Mapping):
        fields.refuse(
            "no plans to save",
            "a mapping, and then a path",
            type(given).__name__,
            'Pass `{"name": plan}`.',
        )
    path, start = _path(path), log.now()
    for name, plan in given.items():
        if not isinstance(name, str) or not isinstance(plan, Plan):
            fields.refuse(
                "no plan to save",
                "a name and a plan",
                f"{name!r}: {plan!r}",
                'Pass `{"name": plan}`; `nvstate.release(bound)` returns the plan of a binding.',
            )
        if not all(type(n) is int for t in plan.types for n in t.shape):
            fields.refuse(
                f"plan {name!r} has symbolic extents",
                "numbers",
                ", ".join(map(str, plan.types)),
                "Plan for the extents that you will use.",
            )
    data = stored.content(plans)
    stored.entries(path, data)  # a file that `load` would refuse is not written
    try:
        target = Path(os.path.realpath(path))  # a link stays one
        part = target.with_name(f"{target.name}.{secrets.token_hex(8)}.part")
        try:
            with part.open("xb") as file:
                file.write(data)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a path with a null
        fields.refuse(
            "the file cannot be written",
            f"a folder that is there and can be written to: {path.parent}",
            str(error),
            "Make the folder, or name another file.",
        )
    log.info("saved", f"{len(plans)} plans to {path}", start, len(data))
    return path


def load(path: str | os.PathLike[str] | None = None) -> dict[str, Plan]:
    """Read the plans of a file. A plan that was saved here is loaded as it was written.

    Choices that were made on another kind of device or with other versions of its libraries are
    not used: such a plan is loaded with a warning, and as `plan()` would make it here.

    Args:
        path: a file that `save` wrote; None: the one that NVSTATE_STORE names.

    Returns:
        The plans by name.

    Raises:
        StoreError: no such file; not a file of plans, a damaged one, or one of a newer version.

    Example:
        >>> nvs.store.load("nowhere.json")
        Traceback (most recent call last):
            ...
        nvstate.errors.StoreError: nvstate.store: the file cannot be read
          expected: nowhere.json
          got:      [Errno 2] No such file or directory: 'nowhere.json'
        Name a file that `save` wrote.
    """
    path = _path(path)
    plans: dict[str, Plan] = {}
    for name, entry in stored.read(path).items():
        plan, now = entry.plan, stored.environment(type(entry.plan), entry.plan.placement)
        if entry.environment != now:
            stored.warn(path, entry, now)
            plan = plan.unpinned()
        plans[name] = plan
    return plans


def _path(path: str | os.PathLike[str] | None) -> Path:
    if path is None:
        path = os.environ.get(stored.VARIABLE)
        if not path:
            fields.refuse(
                "no file is named",
                f"a path, or the environment variable {stored.VARIABLE}",
                "neither",
                f"Pass a path, or set {stored.VARIABLE}.",
            )
    given: Any = path
    if not isinstance(given, str | os.PathLike):
        fields.refuse("no path", "a string or a path", repr(path), "Pass the file's path.")
    return Path(path)
