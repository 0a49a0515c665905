"""What is kept because it can be made again: native objects and plans; how many, how many bytes."""

from __future__ import annotations

import dataclasses
import math
import operator

from nvstate import _native, errors
from nvstate._core import oneshot, scopes, sizes

__all__ = ["CacheInfo", "clear", "info", "limit"]


@dataclasses.dataclass(frozen=True)
class CacheInfo:
    """Counts of what this process keeps.

    Native plans are a library's own objects: cuFFT's and cuBLASLt's plans, and the rings that keep
    factorizations of cuDSS and PARDISO. Until one has been needed all their counts are zero.

    Attributes:
        hits: one-shot calls that found their plan.
        misses: one-shot calls that had to plan.
        oneshots: plans kept for one-shot calls.
        native: native plans alive now.
        held: those of them that an executable holds.
        recent: those of them that are kept because they were used recently.
        limit: the most that are kept for that reason.
        bytes: memory that the native plans take on their devices: a GPU's, or the host's for those
            that compute on CPUs. A ring's grows with the factorizations that it keeps.
        recent_bytes: the part of it that those used recently took.
        bytes_limit: the most of it that is kept for that reason; `math.inf` if there is no limit.
        made: native plans made so far.
        found: times that one was found instead.
        destroyed: native plans destroyed so far.
        own_workspaces: native plans whose workspace XLA's was too small for, so that they have
            their own.
        unpinned: calls, once for each device, of products that had algorithms pinned, but none
            for the extents that a `vmap` or a sharding gave them: there cuBLASLt's heuristic chose.
        analyses: patterns that direct solvers have analysed so far, by any engine.
        factorizations: matrices that they have factorized, each one of a batch.
        refactorizations: those that kept the pivots of reference values instead.
        solves: calls that solved, whatever their right-hand sides.
        factor_hits: solves, each of a batch, that found their factorization.
        factor_misses: those that had to make it again from the factor's values.
    """

    hits: int
    misses: int
    oneshots: int
    native: int
    held: int
    recent: int
    limit: int
    bytes: int
    recent_bytes: int
    bytes_limit: float
    made: int
    found: int
    destroyed: int
    own_workspaces: int
    unpinned: int
    analyses: int
    factorizations: int
    refactorizations: int
    solves: int
    factor_hits: int
    factor_misses: int


def info() -> CacheInfo:
    """Count the plans of one-shot calls, the native plans and the solvers' work of this process.

    Returns:
        The counts of now.

    Example:
        >>> nvs.cache.info().native
        0
    """
    counts = _native.cache_info()
    unlimited = counts["bytes_limit"] == _native.UNLIMITED
    return CacheInfo(
        **oneshot.info(),
        **_native.solver_counts(),
        native=counts.pop("plans"),
        found=counts.pop("hits"),
        bytes_limit=math.inf if unlimited else counts["bytes_limit"],
        **{name: n for name, n in counts.items() if name != "bytes_limit"},
    )


def limit(*, plans: int | None = None, bytes: int | float | str | None = None) -> None:
    """Limit the native plans that are kept when no executable holds them.

    Those used longest ago go first. One that is in use stays until its executable goes.

    Args:
        plans: how many, at least 0; None leaves the limit as it is, which is 64 at first.
        bytes: how much memory of their devices, in bytes or as "2 GiB"; `math.inf`, as at first,
            for no limit; None leaves it as it is.

    Raises:
        SpecError: a negative number, or no size.

    Example:
        >>> nvs.cache.limit(plans=8, bytes="2 GiB")
        >>> nvs.cache.info().limit
        8
        >>> nvs.cache.limit(plans=64, bytes=math.inf)
    """
    limits: dict[str, int] = {}
    if plans is not None:
        try:
            count = -1 if isinstance(plans, bool) else operator.index(plans)
        except TypeError:  # Python's word for what is no integer
            count = -1
        if count < 0:
            raise errors.SpecError(
                errors.message(
                    "nvstate.cache",
                    "no number of plans",
                    expected="0 or more",
                    got=repr(plans),
                    do="Pass `plans=0` to keep no native plan that nothing else holds.",
                )
            )
        limits["plans"] = count
    if bytes is not None:
        size = sizes.parse("nvstate.cache", bytes)
        limits["bytes"] = _native.UNLIMITED if size is None else min(size, _native.UNLIMITED)
    if limits:
        _native.cache_limits(**limits)


def clear() -> None:
    """Drop the plans of one-shot calls, and every native plan that no executable holds.

    Example:
        >>> nvs.cache.clear()
        >>> nvs.cache.info().recent
        0
    """
    oneshot.clear()
    scopes.eager.cache_clear()
    scopes.clear()
    _native.cache_clear()
