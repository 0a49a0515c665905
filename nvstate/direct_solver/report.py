"""What a plan says of itself: what will run, what its analysis found, and every copy."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

from nvstate import _native, errors
from nvstate.direct_solver import analysis, choices as choices_, specify

if TYPE_CHECKING:
    from nvstate.direct_solver.plan import SolverPlan


def rows(plan: SolverPlan) -> list[tuple[str, str]]:
    """What will run, as a table of two columns."""
    spec, said = plan.spec, choices_.options(plan.choices)
    table = [("system", system(plan)), ("runs", runs(plan))]
    numerics = [
        f"reordering {choices_.reordering(spec, plan.choices)}",
        f"matching {spec.matching}",
        f"pivoting {spec.pivoting}",
        "refinement "
        + (
            "where pivots were perturbed"
            if spec.refinement_steps < 0
            else f"of {spec.refinement_steps} steps"
        ),
    ]
    numerics += ["pivots of the plan's own values"] * spec.reuse_pivots
    numerics += ["deterministic"] * spec.deterministic
    table.append(("numerics", ", ".join(numerics)))
    slots = said["factor_slots"]
    kept = f"{slots} factorization{'s' * (slots > 1)} for each device"
    table.append(("keeps", f"{kept}; a stale factor: {said['on_stale']}"))
    facts = plan.memory.get(analysis.FACTS)
    if facts is not None:
        told = {name: value for name, value in facts.items() if value is not None}
        table.append(("analysis", ", ".join(f"{k} {_number(v)}" for k, v in told.items())))
    if choices_.stored(plan.choices) is not None:
        table.append(("analysis", "with a reordering that was stored"))
    return table + [("moves", what) for what in moves(plan)]


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def system(plan: SolverPlan) -> str:
    """A, and where it lives."""
    spec = plan.spec
    where = f", on {plan.placement}" if plan.placement else ""
    return (
        f"A {spec.dtype}[{spec.n},{spec.n}] with {spec.nnz} entries, {spec.matrix_type}, "
        f"{spec.storage}, {spec.view} view{where}"
    )


def runs(plan: SolverPlan) -> str:
    """The engine and its version, and what would bring a better one."""
    engine = plan.backend
    if engine == "pardiso":
        return f"PARDISO of mkl {analysis.mkl_version() or 'of unknown version'}"
    if engine == "cudss":
        try:
            return f"cuDSS {'.'.join(map(str, _native.cudss_version()))}"
        except errors.LibraryError as error:
            return f"cuDSS, which is missing: {str(error).splitlines()[-1]}"
    said = f"SuperLU of scipy {importlib.metadata.version('scipy')}"
    if choices_.options(plan.choices)["engine"] == "superlu":
        return f"{said}, whose knobs were passed"
    missing = _native.pardiso_missing()
    return f"{said}; `pip install mkl` brings PARDISO, which is faster ({missing})"


def moves(plan: SolverPlan) -> list[str]:
    """Every copy around the engine."""
    spec, found = plan.spec, list[str]()
    if spec.storage == "coo":
        found.append("values are gathered into the order of rows, once in each call")
    symmetric = spec.matrix_type not in ("general",)
    if plan.backend == "pardiso" and symmetric and spec.stored_view != "upper":
        found.append("the upper triangle is picked as a factorization copies its values")
    if plan.backend == "cudss" and spec.matrix_type in ("symmetric", "hermitian"):
        found.append("values are multiplied with a power of two, in each call")
    found.append("b [n, k] with k > 1 is transposed to [k, n], and x back; a b [n] is not moved")
    if plan.placement is not None and plan.placement.package == "numpy":
        found.append(f"x is copied once, from {plan.platform} to an array of NumPy's")
    return found


def line(plan: SolverPlan) -> str:
    """The plan in one line, from its data alone: no library is asked."""
    told = [f"{k}={v!r}" for k, v in _unusual(plan).items() if k not in _SHOWN]
    told += [
        f"{name}={value!r}" if not name.startswith("stored") else name
        for name, value in plan.choices
    ]
    return f"SolverPlan({'; '.join([system(plan), *([', '.join(told)] if told else [])])})"


_SHOWN = ("matrix_type", "view")
_ALSO = ("factor_slots", "on_stale")


def arguments(plan: SolverPlan) -> str:
    """What to type between the parentheses of `plan()` for other operands."""
    said = {**_unusual(plan), **{k: v for k, v in plan.choices if k in _ALSO}}
    told = [f"{k}={v!r}".replace("'", '"') for k, v in said.items() if v != "user"]
    return ", ".join(["A", "b", *told])


def _unusual(plan: SolverPlan) -> dict[str, Any]:
    """The keywords of the problem that are not usual."""
    usual: Any = specify.USUAL
    said = specify.keywords(plan.spec)
    return {name: value for name, value in said.items() if value != usual[name]}
