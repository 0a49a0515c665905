"""The native library's cache of plans. Nothing here loads the library: no library, no plans."""

from __future__ import annotations

import ctypes
import operator

from nvstate import errors
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
)


def cache_info() -> dict[str, int]:
    """Counts by name; zeros, but for the limit, before the library is loaded."""
    native = library.loaded()
    if native is None:
        return {name: library.limit if name == "limit" else 0 for name in COUNTS}
    out = (ctypes.c_int64 * len(COUNTS))()
    library.check(native.nvstate_cache_info(out, len(COUNTS)))
    return dict(zip(COUNTS, out, strict=True))


def cache_limit(plans: int) -> None:
    """Keep at most this many recently used plans that no executable holds.

    Raises:
        SpecError: a negative number.
    """
    plans = operator.index(plans)
    if plans < 0:
        raise errors.SpecError(
            errors.message(
                "nvstate.cache",
                "a negative number of plans",
                expected="0 or more",
                got=str(plans),
                do="Pass `0` to keep no plan that nothing else holds.",
            )
        )
    library.set_limit(plans)


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
