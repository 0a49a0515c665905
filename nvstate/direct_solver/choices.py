"""What a plan chose beside its problem: plain pairs, of which only those that are not usual."""

from __future__ import annotations

import re
from typing import Any

from nvstate._core import sizes
from nvstate.direct_solver import arguments, knobs as knobs_
from nvstate.direct_solver.arguments import WHERE, OnStale, error
from nvstate.direct_solver.spec import SolverSpec

Choices = tuple[tuple[str, Any], ...]

DEFAULTS: dict[str, Any] = {
    "engine": "",  # whose knobs there are: "cudss", "superlu"
    "factor_slots": 2,
    "host_threads": 0,  # the CPUs of this process
    "hybrid_execute": False,
    "hybrid_memory": "",  # off; "on", bytes or a percentage as text
    "on_stale": "refactorize",
    "reordering": "",  # measured by `autotune`; only where the spec's is "auto"
    "stored_permutation": "",  # of an earlier analysis: base64 of little-endian int32
    # CuDSS
    "nd_levels": -1,
    "nd_unbalance": -1,
    "superpanels": -1,
    "max_lu_nnz": -1,
    "factorization_algorithm": "default",
    "solve_algorithm": "default",
    "pivot_epsilon_algorithm": "default",
    "refinement_tolerance": "",  # hexadecimal
    "register_host_memory": -1,
    # SuperLU
    "permc_spec": "",
    "relax": -1,
    "panel_size": -1,
    "equilibrate": -1,
}


def options(choices: Choices) -> dict[str, Any]:
    """All options by name: what was chosen, else the default; -1 and "" are the engine's own."""
    return {**DEFAULTS, **dict(choices)}


def pinned(**said: Any) -> Choices:
    """Those options that are not usual, as a plan keeps them."""
    return tuple(sorted((k, v) for k, v in said.items() if v != DEFAULTS[k]))


def reordering(spec: SolverSpec, choices: Choices) -> str:
    """The reordering that runs: the spec's, or what was measured where that is "auto"."""
    return options(choices)["reordering"] or spec.reordering


def chosen(
    *,
    factor_slots: Any = 2,
    hybrid_memory: Any = False,
    hybrid_execute: Any = False,
    host_threads: Any = None,
    on_stale: Any = "refactorize",
    knobs: Any = None,
) -> Choices:
    """The choices that these arguments of `plan` say."""
    arguments.integer("factor_slots", factor_slots, 1, 1024)
    arguments.flag("hybrid_execute", hybrid_execute)
    if host_threads is not None:
        arguments.integer("host_threads", host_threads, 1, 4096)
    arguments.choice("on_stale", on_stale, OnStale)
    if on_stale == "nan" and factor_slots != 1:
        raise error(
            '`on_stale="nan"` with several slots',
            "`factor_slots=1`, whose only slot is compared with the ticket",
            f"`factor_slots={factor_slots}`",
            'Pass `factor_slots=1`, or `on_stale="raise"`.',
        )
    return pinned(
        factor_slots=factor_slots,
        hybrid_memory=memory(hybrid_memory),
        hybrid_execute=hybrid_execute,
        host_threads=host_threads or 0,
        on_stale=on_stale,
        **knobs_.pairs(knobs),
    )


def memory(value: Any) -> str:
    """`hybrid_memory` as text: "", "on", bytes, or a percentage."""
    if isinstance(value, bool):
        return "on" if value else ""
    if isinstance(value, str) and (percent := re.fullmatch(r"(\d{1,3}) ?%", value, re.ASCII)):
        if 1 <= int(percent[1]) <= 100:
            return f"{int(percent[1])}%"
    elif isinstance(value, int | str):
        return str(sizes.parse(f"{WHERE}: `hybrid_memory`", value))
    raise error(
        "`hybrid_memory` is no amount of memory",
        'True, False, bytes, "8 GiB", or a part of the device\'s memory from "1%" to "100%"',
        repr(value),
        "Pass one of these.",
    )


def validate(spec: SolverSpec, choices: Any) -> None:
    """Raise `ValueError` or an error of nvstate's unless `choices`, from a file, are some."""
    named = [c for c in choices if isinstance(c, tuple) and len(c) == 2 and c[0] in DEFAULTS]
    if len(named) < len(choices) or pinned(**dict(named)) != choices:
        raise ValueError(f"no choices of a solver: {choices!r:.200}")
    said = dict(named)
    for name, value in said.items():
        if not isinstance(value, type(DEFAULTS[name])):
            raise ValueError(f"`{name}` is no {value!r:.200}")
    usual = ("factor_slots", "hybrid_execute", "on_stale")
    chosen(
        **{name: said[name] for name in usual if name in said},
        host_threads=said.get("host_threads"),
        hybrid_memory=_memory_said(said.get("hybrid_memory", "")),
        knobs=knobs_.of(said),
    )
    if said.get("reordering"):
        arguments.choice("reordering", said["reordering"], arguments.Reordering)
        if spec.reordering != "auto":
            raise ValueError('a measured reordering of a spec whose own is not "auto"')


def _memory_said(text: str) -> Any:
    return {"": False, "on": True}.get(text, text)
