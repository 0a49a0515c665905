"""Which plans `autotune` times: other reorderings and options of the engine that runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from nvstate.direct_solver import choices as choices_

if TYPE_CHECKING:
    from nvstate.direct_solver.plan import SolverPlan

_REORDERINGS = {  # cuDSS's COLAMD orders have no transposed solve, so no gradient
    "cudss": ("nd", "amd"),
    "pardiso": ("nd", "amd"),
    "superlu": ("amd", "colamd"),
}


def candidates(plan: SolverPlan) -> list[SolverPlan]:
    """The plan first, then those that differ from it in one thing."""
    engine, said = plan.backend, choices_.options(plan.choices)
    changes: list[dict[str, Any]] = []
    if plan.spec.reordering == "auto" and not said["permc_spec"]:
        changes += [
            {"reordering": name, "stored_permutation": "", "stored_tree": ""}
            for name in _REORDERINGS[engine]
        ]
    if engine == "cudss" and said["superpanels"] == -1 and said["engine"] in ("", "cudss"):
        changes.append({"engine": "cudss", "superpanels": False})
    if engine == "pardiso" and not said["host_threads"]:
        count = len(os.sched_getaffinity(0))
        changes += [{"host_threads": n} for n in sorted({1, count // 2} - {0, count})]
    found = [plan, *(plan.with_choices(**change) for change in changes)]
    return list({p.choices: p for p in reversed(found)}.values())[::-1]
