"""Preferences, what a plan asks of the library's heuristic."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any, Literal, get_args

from nvstate import errors
from nvstate._core import sizes
from nvstate._core.aval import Device
from nvstate.matmul import arguments
from nvstate.matmul.arguments import error

Scheme = Literal["inplace", "compute_type", "output_type"]
Implementation = Literal[
    "fma",
    "hmma",
    "imma",
    "dmma",
    "accumulator_16f",
    "accumulator_32f",
    "accumulator_64f",
    "accumulator_32i",
    "input_16f",
    "input_16bf",
    "input_tf32",
    "input_32f",
    "input_64f",
    "input_8i",
    "input_e4m3",
    "input_e5m2",
    "gaussian",
]
_BITS = (*range(4), *range(8, 12), *range(16, 24), 32)  # of each, in cublasLt.h
SCHEMES: dict[str, int] = dict(zip(get_args(Scheme), (1, 2, 4), strict=True))
IMPLEMENTATIONS: dict[str, int] = {
    name: 1 << bit for name, bit in zip(get_args(Implementation), _BITS, strict=True)
}
DEFAULT_LIMIT = 32 * 2**20


@dataclasses.dataclass(frozen=True)
class Preferences:
    """What is asked of cuBLASLt's heuristic. CPUs do not read it.

    Attributes:
        memory_limit: of the workspace: bytes; a text such as "8 GiB"; a float in (0, 1], or a
            text such as "80%", of the device's memory.
        limit: how many candidates are asked for.
        reduction_scheme_mask: which of "inplace", "compute_type", "output_type" may join the parts
            of a sum; () forbids to split K; None: all.
        numerical_impl_mask: which of "fma", "hmma", …, "accumulator_32f", "input_tf32", "gaussian"
            an algorithm may use; None: all.
        max_waves_count: the most waves of thread blocks; 0.0: no bound.
        sm_count_target: multiprocessors that are free for it; 0: all.
        fast_accumulation: FP8 alone: sums of lower precision, which changes results.
        align_operands: whether XLA may copy operands whose rows are no multiple of 16 bytes into
            longer ones, where that makes a large product faster. The copies are no workspace.

    Example:
        >>> nvs.matmul.Preferences(memory_limit="8 MiB").limit
        8
    """

    memory_limit: int | float | str = DEFAULT_LIMIT
    limit: int = 8
    reduction_scheme_mask: tuple[Scheme, ...] | None = None
    numerical_impl_mask: tuple[Implementation, ...] | None = None
    max_waves_count: float = 0.0
    sm_count_target: int = 0
    fast_accumulation: bool = False
    align_operands: bool = True

    def __post_init__(self) -> None:
        """Refuse what is no preference."""
        _fraction(self.memory_limit)
        for name, least in (("limit", 1), ("sm_count_target", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise error(
                    f"`{name}` is a number", f"{least} or more", repr(value), "Pass an integer."
                )
        for name, words in (
            ("reduction_scheme_mask", SCHEMES),
            ("numerical_impl_mask", IMPLEMENTATIONS),
        ):
            value = getattr(self, name)
            if value is not None and not (
                isinstance(value, tuple) and all(word in words for word in value)
            ):
                raise error(
                    f"unknown `{name}`",
                    f"a tuple of {arguments.listed(words)}",
                    repr(value),
                    "Pass some of them, or None for all.",
                )
        waves: Any = self.max_waves_count
        if isinstance(waves, bool) or not isinstance(waves, int | float) or not waves >= 0:
            raise error("`max_waves_count` is a number", "0.0 or more", repr(waves), "Pass one.")
        for name in ("fast_accumulation", "align_operands"):
            arguments.flag(name, getattr(self, name))

    @functools.cached_property
    def _key(self) -> tuple[Any, ...]:
        return type(self.memory_limit), *(getattr(self, f.name) for f in dataclasses.fields(self))

    def __eq__(self, other: object) -> bool:
        """Equal preferences; 1, a byte, is not 1.0, all of the memory."""
        return type(other) is Preferences and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def pinned(self, device: Device | None) -> tuple[tuple[str, Any], ...]:
        """What is not the default, as plain values; a part of a device's memory in bytes."""
        values = dataclasses.asdict(self) | {"memory_limit": self._bytes(device)}
        values["max_waves_count"] = repr(float(self.max_waves_count))
        usual = {f.name: f.default for f in dataclasses.fields(self)} | {"max_waves_count": "0.0"}
        return tuple((name, v) for name, v in values.items() if v != usual[name])

    def _bytes(self, device: Device | None) -> int:
        part = _fraction(self.memory_limit)
        if part is None:
            size = sizes.parse(arguments.WHERE, self.memory_limit)
            return size or 0
        stats = device.memory_stats() if device is not None else None
        if not stats or "bytes_limit" not in stats:
            raise error(
                "`memory_limit` is a part of a device's memory, but no CUDA device is visible",
                'bytes, or a text such as "8 GiB"',
                repr(self.memory_limit),
                "Pass a number of bytes.",
            )
        return int(part * stats["bytes_limit"])


def of(pinned: tuple[tuple[str, Any], ...]) -> Preferences:
    """The preferences that a plan's choices hold.

    Raises:
        SpecError, TypeError, ValueError: they are none.
    """
    values = dict(pinned)
    if "max_waves_count" in values:
        values["max_waves_count"] = float(values["max_waves_count"])
    return Preferences(**values)


def _fraction(limit: Any) -> float | None:
    """The part of a device's memory that a limit is; None for one in bytes."""
    part = None
    if isinstance(limit, float):
        part = limit
    elif isinstance(limit, str) and (found := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", limit)):
        part = float(found[1]) / 100
    if part is not None and 0 < part <= 1:
        return part
    try:
        if part is None and sizes.parse(arguments.WHERE, limit) is not None:
            return None
    except errors.SpecError:
        pass
    raise error(
        "no `memory_limit`",
        'bytes, "8 GiB", or a part of the device\'s memory: 0 < float <= 1, "80%"',
        repr(limit),
        "Pass one of these.",
    )
