"""The native library's cache of plans. Nothing here loads the library: no library, no plans."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

from nvstate._native import library

COUNTS = (  # in the order of nvstate_cache_info
    "plans",
    "recent",
    "held",
    "bytes",
    "hits",
    "made",
    "destroyed",
    "own_workspaces",
    "limit",
    "bytes_limit",
    "recent_bytes",
    "unpinned",
)


def cache_info() -> dict[str, int]:
    """Counts by name; zeros, but for the limits, before the library is loaded."""
    native = library.loaded()
    if native is None:
        limits = {"limit": library.limits["plans"], "bytes_limit": library.limits["bytes"]}
        return dict.fromkeys(COUNTS, 0) | limits
    out = (ctypes.c_int64 * len(COUNTS))()
    library.check(native.nvstate_cache_info(out, len(COUNTS)))
    return dict(zip(COUNTS, out, strict=True))


class Row(NamedTuple):
    """A native plan that is alive: a number of its own, its bytes, and for whom it was made."""

    made: int
    nbytes: int
    owners: frozenset[int]


def cache_rows(generation: int) -> list[Row]:
    """The plans made after this, the one that is unused longest first."""
    native = library.loaded()
    if native is None:
        return []
    n = ctypes.c_int64(0)
    out = (ctypes.c_int64 * 0)()
    while True:  # plans may be made meanwhile
        room = n.value
        library.check(native.nvstate_cache_rows(generation, out, ctypes.byref(n)))
        if n.value <= room:
            break
        out = (ctypes.c_int64 * n.value)()
    rows: list[Row] = []
    numbers = iter(list(out)[: n.value])
    for made in numbers:
        nbytes, count = next(numbers), next(numbers)
        rows.append(Row(made, nbytes, frozenset(next(numbers) for _ in range(count))))
    return rows


def cache_drop_made(made: int) -> None:
    """Drop the plan of this row; executables keep theirs."""
    native = library.loaded()
    if native is not None:
        library.check(native.nvstate_cache_drop_made(made))


def cache_limits(**limits: int) -> None:
    """Keep at most so many `plans` and `bytes` of those that no executable holds."""
    library.set_limits(limits)


def cache_drop(owner: int) -> None:
    """Drop the plans that only this owner has asked for; executables keep theirs."""
    native = library.loaded()
    if native is not None:
        library.check(native.nvstate_cache_drop(owner))


def cache_clear() -> None:
    """Drop every plan that no executable holds."""
    native = library.loaded()
    if native is not None:
        library.check(native.nvstate_cache_clear())


def cache_generation() -> int:
    """A number that grows with every plan made."""
    native = library.loaded()
    return 0 if native is None else int(native.nvstate_cache_generation())


def cache_drop_since(generation: int) -> None:
    """Drop the plans made after `cache_generation()` was this; executables keep theirs."""
    native = library.loaded()
    if native is not None:
        library.check(native.nvstate_cache_drop_since(generation))
