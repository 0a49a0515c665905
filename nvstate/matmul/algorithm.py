"""Algorithm, one of the library's ways to compute a product, as data."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nvstate.matmul import capabilities
from nvstate.matmul.arguments import error
from nvstate.matmul.capabilities import Capabilities

if TYPE_CHECKING:
    from nvstate.matmul.plan import MatmulPlan

SIZE = 64  # bytes of cublasLtMatmulAlgo_t, in CUDA 12 and 13
CONFIGURATION = ("id", *capabilities.CONFIGURABLE)


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """One way to compute a product. From `plan.algorithms`, or `from_id`.

    Two are equal if `data` and `problem` are.

    Attributes:
        data: cublasLtMatmulAlgo_t, 64 opaque bytes.
        problem: m, n, k and batch count, after batches have been folded into m.
        device: kind of the device on which it was found.
        version: of the cuBLASLt that found it, 130100 being 13.1.0.
        workspace_bytes: that it needs.
        waves_count: of thread blocks; 0.0 if the heuristic did not say.
        time_us: median of its executions, once measured.
    """

    data: bytes
    problem: tuple[int, int, int, int]
    device: str = dataclasses.field(default="", compare=False)
    version: int = dataclasses.field(default=0, compare=False)
    workspace_bytes: int = dataclasses.field(default=0, compare=False)
    waves_count: float = dataclasses.field(default=0.0, compare=False)
    time_us: float | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be one."""
        data: Any = self.data
        if not isinstance(data, bytes) or len(data) != SIZE:
            raise error(
                "no algorithm",
                f"{SIZE} bytes",
                f"{len(data)} bytes" if isinstance(data, bytes) else repr(data),
                "Take one from `plan.algorithms`.",
            )

    @functools.cached_property
    def configuration(self) -> dict[str, int]:
        """What `data` says: id, tile, stages, split_k and the others, as cuBLASLt numbers them."""
        from nvstate import _native  # only reading bytes, but by the library

        return _native.cublaslt_config(self.data)

    def __getattr__(self, name: str) -> int:
        if name in CONFIGURATION:
            return self.configuration[name]
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @functools.cached_property
    def capabilities(self) -> Capabilities:
        """What its id can be configured to, as cuBLASLt says; not all of it for each problem."""
        from nvstate import _native

        return capabilities.of(_native.cublaslt_capabilities(self.data))

    def replace(self, **configuration: int) -> Algorithm:
        """Return the algorithm with another configuration. Plans check it again.

        Args:
            **configuration: `tile`, `stages`, `split_k`, `reduction_scheme`, `cta_swizzling`,
                `custom_option`, `inner_shape`, `cluster_shape`.

        Raises:
            SpecError: a name or a number that is not among its capabilities.
        """
        from nvstate import _native

        for name, value in configuration.items():
            self.capabilities.require(name, value)
        return dataclasses.replace(
            self, data=_native.cublaslt_configured(self.data, **configuration), time_us=None
        )

    @classmethod
    def from_id(cls, plan: MatmulPlan, id: int, **configuration: int) -> Algorithm:
        """Initialise an algorithm by its number, for a plan's problem.

        Args:
            plan: on a CUDA device.
            id: one of `algorithm_ids(plan)`.
            **configuration: as `replace`.

        Raises:
            UnsupportedError: no CUDA device; the library refuses it for this problem.
            SpecError: a configuration outside of its capabilities.
        """
        from nvstate.matmul import query

        made = query.from_id(plan, id)
        return made.replace(**configuration) if configuration else made

    def to_numpy(self) -> np.ndarray[Any, Any]:
        """`data` as uint64 [8]."""
        return np.frombuffer(self.data, np.uint64).copy()

    @classmethod
    def from_numpy(
        cls, array: np.ndarray[Any, Any], problem: tuple[int, int, int, int]
    ) -> Algorithm:
        """The algorithm of which `to_numpy` made this, for the same problem.

        Raises:
            SpecError: not 64 bytes.
        """
        return cls(np.ascontiguousarray(array).tobytes(), problem)


Pin = tuple[str, str, int, int, int, int]  # digest of the spec, data in hexadecimal, problem


def pin(digest: int, algorithm: Algorithm) -> Pin:
    """An algorithm in a plan's choices."""
    return (str(digest), algorithm.data.hex(), *algorithm.problem)


def merged(pins: Sequence[Pin], new: Sequence[Pin]) -> tuple[Pin, ...]:
    """The pins, with new ones in place of those of the same specs and problems."""
    replaced = {(p[0], p[2:]) for p in new}
    return (*(p for p in pins if (p[0], p[2:]) not in replaced), *new)


def unpinned(pinned: Pin) -> Algorithm:
    """The algorithm of a plan's choices.

    Raises:
        SpecError, ValueError, TypeError: it is none.
    """
    _, data, *problem = pinned
    m, n, k, batch = problem
    if not all(type(x) is int and x > 0 for x in problem):
        raise ValueError(f"no problem: {problem}")
    return Algorithm(bytes.fromhex(data), (m, n, k, batch))


def pins_of(choices: Any, digest: int) -> list[Algorithm]:
    """The algorithms that are pinned for a spec."""
    return [unpinned(p) for p in choices[1] if p[0] == str(digest)] if choices else []


def require_algorithms(value: Any) -> tuple[Algorithm, ...]:
    """An algorithm or several, as a tuple.

    Raises:
        SpecError: something else.
    """
    several = tuple(value) if isinstance(value, Sequence) else (value,)
    if not several or not all(isinstance(one, Algorithm) for one in several):
        raise error(
            "no algorithm", "an `Algorithm` or several", repr(value), "See `plan.algorithms`."
        )
    return several
