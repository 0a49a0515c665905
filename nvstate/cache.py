"""Native objects, for whom, how many bytes."""

from __future__ import annotations

import dataclasses

from nvstate import _native

__all__ = ["CacheInfo", "clear", "info", "limit"]


@dataclasses.dataclass(frozen=True)
class CacheInfo:
    """Counts of the process-wide cache of native plans.

    Until one has been needed, all are zero but for `limit`.

    Attributes:
        plans: native plans alive now.
        held: those of them that an executable holds.
        recent: those of them that are kept because they were used recently.
        limit: the most that are kept for that reason.
        bytes: device memory that the native plans took when they were made.
        made: native plans made so far.
        hits: times that one was found instead.
        destroyed: native plans destroyed so far.
        own_workspaces: plans whose workspace XLA's was too small for, so that they have their own.
    """

    plans: int
    held: int
    recent: int
    limit: int
    bytes: int
    made: int
    hits: int
    destroyed: int
    own_workspaces: int


def info() -> CacheInfo:
    """Count the native plans of this process.

    Returns:
        The counts of now.

    Example:
        >>> nvs.cache.info().plans
        0
    """
    return CacheInfo(**_native.cache_info())


def limit(plans: int, /) -> None:
    """Set how many recently used native plans are kept when no executable holds them.

    Args:
        plans: at least 0; the default is 64.

    Raises:
        SpecError: a negative number.

    Example:
        >>> nvs.cache.limit(8)
        >>> nvs.cache.info().limit
        8
        >>> nvs.cache.limit(64)
    """
    _native.cache_limit(plans)


def clear() -> None:
    """Drop every native plan that no executable holds.

    Example:
        >>> nvs.cache.clear()
        >>> nvs.cache.info().recent
        0
    """
    _native.cache_clear()
