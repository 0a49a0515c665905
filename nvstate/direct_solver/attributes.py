"""What native targets are told of a call: the one list that all of them decode."""

from __future__ import annotations

import math
from typing import Any

from nvstate._core import spec as specs
from nvstate.direct_solver import choices as choices_, digest
from nvstate.direct_solver.choices import Choices
from nvstate.direct_solver.spec import SolverSpec

VERSION = 1
_PLAIN = (
    "hybrid_memory",
    "hybrid_execute",
    "nd_levels",
    "nd_unbalance",
    "superpanels",
    "max_lu_nnz",
    "factorization_algorithm",
    "solve_algorithm",
    "pivot_epsilon_algorithm",
    "register_host_memory",
)


def ring(spec: SolverSpec, choices: Choices) -> str:
    """The name of the ring of factorizations that calls with this spec and these choices share."""
    return f"{spec.digest:x}-{specs.digest(choices):x}"


def attributes(
    spec: SolverSpec, choices: Choices, phase: str, transposed: bool
) -> tuple[tuple[str, Any], ...]:
    """The attributes of a call.

    Args:
        spec: the system.
        choices: of the plan.
        phase: "factorize", "solve", "factorize_solve" or "diagonal".
        transposed: whether it solves with the transpose.
    """
    said = choices_.options(choices)
    named: dict[str, Any] = {
        "v": VERSION,
        "phase": phase,
        "transposed": int(transposed),
        "owner": spec.family,
        "ring": ring(spec, choices),
        "pattern": _words(spec.pattern),
        "reference": _words(spec.reference),
        "permutation": _words(choices_.permutation(spec, choices)),
        "tree": choices_.tree_words(choices),
        "matrix_type": spec.matrix_type,
        "view": spec.stored_view,
        "reordering": choices_.reordering(spec, choices),
        "matching": spec.matching,
        "pivoting": spec.pivoting,
        "pivot_threshold": _number(spec.pivot_threshold),
        "pivot_epsilon": _number(spec.pivot_epsilon),
        "refinement_steps": spec.refinement_steps,
        "reuse_pivots": int(spec.reuse_pivots),
        "deterministic": int(spec.deterministic),
        "slots": said["factor_slots"],
        "on_stale": said["on_stale"],
        "host_threads": said["host_threads"],
        "refinement_tolerance": _number(said["refinement_tolerance"]),
        **{name: said[name] for name in _PLAIN},
    }
    return tuple((name, int(v) if isinstance(v, bool) else v) for name, v in named.items())


def _words(text: str) -> bytes:
    return b"".join(lane.to_bytes(8, "little") for lane in digest.lanes(text))


def _number(text: str) -> float:
    return float.fromhex(text) if text else math.nan
