"""What an engine finds out about a pattern before any factorization, and where it is kept."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nvstate import _native, errors
from nvstate._core import log, lower, placement, scopes
from nvstate.direct_solver import attributes, choices as choices_
from nvstate.direct_solver.formats import Array

if TYPE_CHECKING:
    from nvstate.direct_solver.plan import SolverPlan

FACTS = "_analysis"  # in a plan's memory
_ARRAYS = ("row_permutation", "column_permutation", "matching", "row_scale", "column_scale")


@dataclasses.dataclass(frozen=True, eq=False)
class Analysis:
    """What the engine's analysis found; None where the engine has none.

    Attributes:
        seconds: that the analysis took.
        factor_nnz: entries of the factors.
        flops: of a factorization.
        device_bytes: of device memory that the factors will take.
        peak_device_bytes: of device memory, at most, while they are computed.
        host_bytes: of host memory that the factors will take.
        peak_host_bytes: of host memory, at most, while they are computed.
        hybrid_min_bytes: least device memory with `hybrid_memory`.
        superpanels: how many there are.
        row_permutation: int32 [n], the reordering of rows.
        column_permutation: int32 [n], of columns.
        matching: int32 [n], the permutation that brings large entries to the diagonal.
        row_scale: float64 [n], matching's scale factors of rows.
        column_scale: float64 [n], of columns.
    """

    seconds: float | None = None
    factor_nnz: int | None = None
    flops: float | None = None
    device_bytes: int | None = None
    peak_device_bytes: int | None = None
    host_bytes: int | None = None
    peak_host_bytes: int | None = None
    hybrid_min_bytes: int | None = None
    superpanels: int | None = None
    row_permutation: Array | None = None
    column_permutation: Array | None = None
    matching: Array | None = None
    row_scale: Array | None = None
    column_scale: Array | None = None

    def __repr__(self) -> str:
        said = [
            f"{f.name}={_short(getattr(self, f.name))}"
            for f in dataclasses.fields(self)
            if getattr(self, f.name) is not None
        ]
        return f"Analysis({', '.join(said)})"


def _short(value: Any) -> str:
    return f"{value.dtype}[{len(value)}]" if isinstance(value, np.ndarray) else f"{value}"


def device_of(plan: SolverPlan) -> Any:
    """The device of this process that a plan runs on; None if there is none."""
    where = plan.placement
    here = placement.local_devices(plan.platform)
    if where is None or where.platform in where.devices:
        return next(iter(here), None)
    return next((d for d in here if placement.name(d) in where.devices), None)


def run(plan: SolverPlan) -> Mapping[str, Any] | None:
    """Have the engine analyse, unless it did; what it found, None where it cannot be asked."""
    engine, device = plan.backend, device_of(plan)
    if engine == "superlu" or device is None:
        return None
    known = plan.memory.get(FACTS)
    if known is not None:
        return known
    scopes.enter(plan.static[1])
    start, before = log.now(), scopes.native_bytes()
    said, host = _attributes(plan), plan.host
    own = {"permutation": host.permutation, "reference": host.reference}
    facts = _native.solver_analyze(
        engine, device.local_hardware_id, said, host.indptr, host.indices, plan.spec.dtype, **own
    )
    plan.memory[FACTS] = facts
    log.info("analysed", plan, start, scopes.native_bytes() - before)
    scopes.trim()
    return facts


def _attributes(plan: SolverPlan) -> dict[str, Any]:
    """Those of the plan's calls, as C++ gets them."""
    said = attributes.attributes(plan.spec, plan.choices, "factorize", False)
    return {name: lower.attribute(value) for name, value in said}


def of(plan: SolverPlan) -> Analysis:
    """What the analysis of a plan found, with its permutations and scales."""
    facts = run(plan)
    if facts is None:
        return Analysis()
    found: dict[str, Any] = {name: array(plan, name) for name in _ARRAYS}
    return Analysis(**facts, **found)


def array(plan: SolverPlan, name: str) -> Array | None:
    """An array of a plan's analysis; None where the engine has none, or was never asked."""
    engine, device = plan.backend, device_of(plan)
    if engine == "superlu" or device is None:
        return None
    ring = _attributes(plan)["ring"]
    return _native.solver_array(engine, device.local_hardware_id, ring, name)


def kept(plan: SolverPlan) -> Any:
    """The plan with the reordering of its analysis among its choices, for a file."""
    spec = plan.spec
    if plan.platform == "cuda":
        try:
            _native.cudss_version()
        except errors.LibraryError:
            return plan
    if spec.permutation or choices_.stored(plan.choices) is not None or run(plan) is None:
        return plan
    reordering = array(plan, "row_permutation")
    if reordering is None:
        return plan
    tree = array(plan, "partition_tree")
    return plan.with_choices(
        stored_permutation=choices_.packed(reordering),
        stored_tree="" if tree is None else choices_.packed(tree),
    )


def versions(platform: str) -> dict[str, str]:
    """Versions of the engines of a platform, as a file of plans names them."""
    if platform == "cuda":
        try:
            return {"cuDSS": ".".join(map(str, _native.cudss_version()))}
        except errors.LibraryError:
            return {"cuDSS": "missing"}
    return {"mkl": mkl_version() or "missing", "scipy": importlib.metadata.version("scipy")}


def mkl_version() -> str | None:
    """The version of the wheel `mkl`; None without it."""
    try:
        return importlib.metadata.version("mkl")
    except importlib.metadata.PackageNotFoundError:
        return None
