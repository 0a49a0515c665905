"""What each engine can do of what a plan may ask, and the refusals of the rest."""

from __future__ import annotations

from typing import Any

from nvstate.direct_solver import choices as choices_
from nvstate.direct_solver.arguments import error, listed, unsupported
from nvstate.direct_solver.spec import MOST_MATCHED, SolverSpec

NAMES = {"cudss": "cuDSS", "pardiso": "PARDISO", "superlu": "SuperLU"}
COLAMD = ("colamd", "btf_colamd")
REORDERINGS = {
    "cudss": ("auto", "nd", "amd", "colamd", "btf_colamd", "none", "user"),
    "pardiso": ("auto", "nd", "amd", "user"),
    "superlu": ("auto", "amd", "colamd", "none"),
}
MATCHINGS = {
    "cudss": ("auto", "none", "count", "min", "min_alt", "sum", "product"),
    "pardiso": ("auto", "none", "product"),
    "superlu": ("auto", "none"),
}
PIVOTINGS: dict[str, dict[str, tuple[str, ...]]] = {  # by engine, then by matrix type
    "cudss": {
        "general": ("auto", "none", "local", "global_row", "global_column"),
        "symmetric": (
            "auto",
            "none",
            "diagonal",
            "bunch_kaufman",
            "global_row",
            "global_column",
        ),
        "spd": ("auto", "none", "global_row", "global_column"),
    },
    "pardiso": {
        "general": ("auto",),
        "symmetric": ("auto", "diagonal", "bunch_kaufman"),
        "spd": ("auto",),
    },
    "superlu": {"general": ("auto",), "symmetric": ("auto",), "spd": ("auto",)},
}
_KIND = {"hermitian": "symmetric", "hpd": "spd"}
_ONLY: dict[str, tuple[str, ...]] = {  # options that not every engine has
    "pivot_threshold": ("cudss", "superlu"),
    "pivot_epsilon": ("cudss", "pardiso"),
    "reuse_pivots": ("cudss",),
    "hybrid_memory": ("cudss",),
    "hybrid_execute": ("cudss",),
    "host_threads": ("cudss", "pardiso"),
}


def may_rematch(
    engine: str,
    matrix_type: str,
    nnz: int,
    reordering: str,
    pivoting: str,
    *,
    reuse_pivots: bool,
) -> bool:
    """Whether values that fail without matching may be factorized again with it."""
    return (
        engine != "superlu"
        and matrix_type == "general"
        and nnz <= MOST_MATCHED
        and reordering not in COLAMD
        and pivoting != "bunch_kaufman"
        and not reuse_pivots
    )


def require(spec: SolverSpec, engine: str) -> None:
    """Refuse a problem that this engine cannot solve, or options that exclude each other."""
    _one_of("reordering", spec.reordering, REORDERINGS[engine], engine)
    _one_of("matching", spec.matching, MATCHINGS[engine], engine)
    kind = _KIND.get(spec.matrix_type, spec.matrix_type)
    _one_of("pivoting", spec.pivoting, PIVOTINGS[engine][kind], engine, spec.matrix_type)
    for name in ("pivot_threshold", "pivot_epsilon", "reuse_pivots"):
        if getattr(spec, name):
            _has(name, engine)
    if spec.matches_reference and kind == "spd":
        _exclude("matching", spec.matching, "matrix_type", spec.matrix_type)
    if engine == "pardiso" and spec.pivot_epsilon:
        _power_of_ten(spec)
    if engine != "cudss":
        return
    colamd = spec.reordering in COLAMD
    if spec.pivoting.startswith("global") != colamd and spec.pivoting not in ("auto", "none"):
        _exclude("pivoting", spec.pivoting, "reordering", spec.reordering)
    if spec.deterministic and spec.refinement_steps > 0:
        _exclude("deterministic", True, "refinement_steps", spec.refinement_steps)
    if spec.deterministic and colamd:
        _exclude("deterministic", True, "reordering", spec.reordering)
    if spec.pivoting == "bunch_kaufman" and spec.matches_reference and spec.permutation:
        _exclude("pivoting", spec.pivoting, "reordering", "a permutation, with matching")


def _power_of_ten(spec: SolverSpec) -> None:
    epsilon = float.fromhex(spec.pivot_epsilon)
    if spec.matrix_type in ("spd", "hpd"):
        _exclude("pivot_epsilon", epsilon, "matrix_type", spec.matrix_type)
    if epsilon not in [float(f"1e-{exponent}") for exponent in range(1, 301)]:
        raise unsupported(
            f"`pivot_epsilon={epsilon}` on PARDISO",
            "a power of ten from 0.1 down",
            f"{epsilon}",
            "Pass one of these, or None for 1e-13, of symmetric and hermitian types 1e-8.",
        )


def require_choices(spec: SolverSpec, choices: choices_.Choices, engine: str) -> None:
    """Refuse choices that this engine does not have, or that exclude each other or the spec's."""
    said = choices_.options(choices)
    if said["engine"] and said["engine"] != engine:
        raise unsupported(
            f"`knobs` of {NAMES[said['engine']]} on {NAMES[engine]}",
            f"knobs of the engine that runs, {NAMES[engine]}",
            f"knobs of {NAMES[said['engine']]}",
            "Leave `knobs` out, or plan for a device that this engine runs on.",
        )
    for name in ("hybrid_memory", "hybrid_execute", "host_threads"):
        if said[name]:
            _has(name, engine)
    reordering = choices_.reordering(spec, choices)
    if said["reordering"]:
        _one_of("reordering", reordering, REORDERINGS[engine], engine)
    if said["permc_spec"] and reordering != "auto":
        _exclude("permc_spec", said["permc_spec"], "reordering", reordering)
    if said["max_lu_nnz"] >= 0 and reordering not in COLAMD:
        _exclude("max_lu_nnz", said["max_lu_nnz"], "reordering", reordering)
    if said["register_host_memory"] != -1 and not said["hybrid_memory"]:
        _exclude("register_host_memory", said["register_host_memory"], "hybrid_memory", False)
    if said["hybrid_memory"] and said["hybrid_execute"]:
        _exclude("hybrid_memory", said["hybrid_memory"], "hybrid_execute", True)
    if engine == "cudss" and spec.deterministic:
        if said["hybrid_memory"]:
            _exclude("deterministic", True, "hybrid_memory", said["hybrid_memory"])
        if spec.pivoting == "bunch_kaufman" and said["superpanels"]:
            _exclude("deterministic", True, "pivoting", 'bunch_kaufman" with "superpanels')


def require_transpose(spec: SolverSpec, choices: choices_.Choices, transpose: str) -> None:
    """Refuse to solve with the transpose where only cuDSS's COLAMD factors are."""
    reordering = choices_.reordering(spec, choices)
    if reordering in COLAMD:
        raise unsupported(
            f'a solve with the transpose of A under `reordering="{reordering}"`',
            f"a reordering other than {listed(COLAMD)}, whose factors cuDSS does not transpose",
            f'`transpose="{transpose}"` of A in {spec.storage.upper()}',
            'Plan with `reordering="auto"`: gradients in b need the transpose too.',
        )


def _one_of(name: str, value: str, have: tuple[str, ...], engine: str, of: str = "") -> None:
    if value in have:
        return
    said = [v for v in have if v != "user"]
    raise unsupported(
        f"{NAMES[engine]} has no "
        + ("permutation of the user's" if value == "user" else f'{name} "{value}"')
        + (f' for "{of}"' if of else ""),
        ("one of " if len(said) > 1 else "")
        + listed(said)
        + (" or a permutation" if "user" in have else ""),
        "a permutation" if value == "user" else f'`{name}="{value}"`',
        "Pass one of them."
        + (' A permutation 0, 1, … is "none".' if value == "none" and "user" in have else ""),
    )


def _has(name: str, engine: str) -> None:
    if engine not in _ONLY[name]:
        others = " and ".join(NAMES[e] for e in _ONLY[name])
        raise unsupported(
            f"`{name}` on {NAMES[engine]}",
            f"an engine that has it: {others}",
            NAMES[engine],
            f"Leave `{name}` out.",
        )


def _exclude(one: str, value: Any, other: str, its: Any) -> None:
    raise error(
        f"`{one}` and `{other}` exclude each other",
        "one of them, or other values",
        f"`{one}={_typed(value)}` and `{other}={_typed(its)}`",
        f"Leave `{one}` out, or change `{other}`.",
    )


def _typed(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)
