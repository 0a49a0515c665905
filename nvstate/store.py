"""Plans on disk, with what was measured for them, in one file that people can read."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nvstate import errors
from nvstate._core import log, stored
from nvstate._core.plan import Plan

__all__ = ["load", "save"]


def save(plans: Mapping[str, Plan], path: str | os.PathLike[str] | None = None, /) -> Path:
    """Write plans to a file, beside the device and the library versions that they were made for.

    The file is JSON, and replaced as a whole: a reader sees the old one or the new one. To add to
    a file, save `{**load(path), **others}`.

    Args:
        plans: by a name of your choice.
        path: the file; None: the one that the environment variable NVSTATE_STORE names.

    Returns:
        The path.

    Raises:
        StoreError: no path and no NVSTATE_STORE; something else than plans; extents that are not
            numbers; the file cannot be written.

    Example:
        >>> import tempfile
        >>> plan = nvs.fft.plan(jnp.ones((2, 8), "complex64"), axes=(1,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = nvs.store.save({"rows": plan}, folder + "/plans.json")
        ...     nvs.store.load(path)["rows"] == plan
        True
    """
    path, start = _path(path), log.now()
    named: Any = plans if isinstance(plans, Mapping) else {}
    strangers = [n for n, p in named.items() if not (isinstance(n, str) and isinstance(p, Plan))]
    if strangers or named is not plans:
        stored.refuse(
            "no plans to save",
            "a mapping from names to plans",
            f"{strangers[0]!r}: {named[strangers[0]]!r}" if strangers else type(plans).__name__,
            'Pass `{"name": plan}`.',
        )
    for name, plan in plans.items():
        if not all(type(n) is int for t in plan.types for n in t.shape):
            stored.refuse(
                f"plan {name!r} has symbolic extents",
                "numbers",
                ", ".join(map(str, plan.types)),
                "Plan for the extents that you will use.",
            )
    text = stored.text(plans)
    part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        stored.refuse("the file cannot be written", str(path), str(error), "Name another file.")
    log.info("saved", f"{len(plans)} plans to {path}", start, len(text.encode()))
    return path


def load(path: str | os.PathLike[str] | None = None, /) -> dict[str, Plan]:
    """Read the plans of a file. A plan that was saved here is loaded as it was.

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
            plan = type(plan).of(plan.spec, plan.types, plan.placement, plan.default_choices)
        plans[name] = plan
    return plans


def _path(path: str | os.PathLike[str] | None) -> Path:
    if path is None:
        path = os.environ.get(stored.VARIABLE)
        if not path:
            raise errors.StoreError(
                errors.message(
                    stored.WHERE,
                    "no file is named",
                    expected=f"a path, or the environment variable {stored.VARIABLE}",
                    got="neither",
                    do=f"Pass a path, or set {stored.VARIABLE}.",
                )
            )
    return Path(path)
