"""plan(), which makes a plan of a matrix, or of a spec and a matrix with its pattern."""

from __future__ import annotations

from typing import Any

import jax

from nvstate._core import aval, log, placement
from nvstate._core.aval import Device
from nvstate._core.placement import Execution, Placement
from nvstate.direct_solver import (
    analysis,
    choices as choices_,
    engine as engines,
    operands,
    pattern as patterns,
    specify,
    support,
)
from nvstate.direct_solver.arguments import (
    WHERE,
    Matching,
    MatrixType,
    OnStale,
    Pivoting,
    Reordering,
    View,
    error,
    operand_error,
)
from nvstate.direct_solver.knobs import Knobs
from nvstate.direct_solver.pattern import Pattern
from nvstate.direct_solver.plan import SolverPlan
from nvstate.direct_solver.spec import SolverSpec
from nvstate.direct_solver.specify import Problem


def plan(
    A: Any,
    b: Any = None,
    *,
    matrix_type: MatrixType = "general",
    view: View = "full",
    reordering: Reordering | Any = "auto",
    matching: Matching = "auto",
    pivoting: Pivoting = "auto",
    pivot_threshold: float | None = None,
    pivot_epsilon: float | None = None,
    refinement_steps: int | str = "auto",
    reuse_pivots: bool = False,
    deterministic: bool = False,
    factor_slots: int = 2,
    hybrid_memory: bool | int | str = False,
    hybrid_execute: bool = False,
    host_threads: int | None = None,
    on_stale: OnStale = "refactorize",
    knobs: Knobs | None = None,
    execution: Execution | Device | None = None,
) -> SolverPlan:
    """Plan the solution of A x = b for a sparse square A, and analyse its pattern.

    Args:
        A: [n, n]: `scipy.sparse` CSR, CSC or COO; `BCSR` or `BCOO` without batch or dense
            dimensions; or the arrays (indptr, indices, values) of CSR. float32, float64, complex64
            or complex128. Values may be tracers or a `jax.ShapeDtypeStruct`, indices are concrete,
            and but for COO's sorted. Or a `SolverSpec`, followed by a matrix with its pattern.
        b: [n] or [n, k] of A's dtype, array, tracer or type: only checked, and where it lives is
            read. A call may bring any k.
        matrix_type: "general", "symmetric", "hermitian" (equal to its conjugate transpose, so with
            a real diagonal), "spd" (symmetric positive definite), "hpd" (hermitian positive
            definite).
        view: which entries are stored: all, "full"; one triangle, "lower" or "upper", not of
            "general".
        reordering: "auto", "nd" (nested dissection), "amd" (minimum degree), "colamd",
            "btf_colamd", "none"; or a permutation, integers [n].
        matching: how large entries are brought to the diagonal: "none", "count", "min", "min_alt",
            "sum", "product"; "auto" is "product" where A is general and a diagonal entry of these
            values is below 0.01 of its row's largest, or rows' largest are more than 1e8 apart.
            Else, and where A's values are tracers or a type, a factorization is made without; where
            static pivots fail, which costs an analysis, once more with "product" of its own values.
        pivoting: "auto", "none", "diagonal", "local", "bunch_kaufman", "global_row",
            "global_column".
        pivot_threshold: from 0 to 1; None for the engine's own.
        pivot_epsilon: what replaces smaller pivots, as a part of the largest entry on PARDISO, and
            on cuDSS of symmetric and hermitian matrices; None for the engine's own.
        refinement_steps: of iterative refinement; "auto": up to 4 where pivots were
            perturbed or a probe came back with few digits, else 0.
        reuse_pivots: keep the pivots that these values of A give.
        deterministic: equal inputs give equal bits in every run.
        factor_slots: how many factorizations the engine keeps for each device.
        hybrid_memory: keep factors in host memory too: True, or beyond so much device memory,
            bytes, "8 GiB" or "80%".
        hybrid_execute: do small work on the host.
        host_threads: of cuDSS's analysis, of all of PARDISO; None: the CPUs of this process.
        on_stale: what a solve does when its factorization was replaced: "refactorize"; "raise" an
            error; "nan", with one slot, return NaN and never wait for the device.
        knobs: `CuDSS(…)` or `SuperLU(…)`, options that only that engine has.
        execution: where NumPy operands are computed with: "cpu", "cuda" or a `jax.Device`.

    Returns:
        A plan. `plan(values, b)` factorizes, solves, and is x, shaped like b.

    Raises:
        SpecError: no such problem, or options that exclude each other.
        UnsupportedError: a fair problem, but not of this engine or device.
        OperandError: operands of several dtypes or places, or values that do not fit A.
        LibraryError: cuDSS is missing, or not 1.0.

    Example:
        >>> import scipy.sparse as sp
        >>> A = sp.diags_array([-1.0, 4.0, -1.0], offsets=[-1, 0, 1], shape=(5, 5)).tocsr()
        >>> plan = nvs.direct_solver.plan(A, matrix_type="spd")
        >>> x = plan(plan.values_of(A), A @ np.arange(5.0))
        >>> bool(np.allclose(x, np.arange(5.0)))
        True

    Source: cudssExecute with CUDSS_PHASE_ANALYSIS; pardiso, phase 11; on SuperLU nothing is run.
    """
    start = log.now()
    problem = Problem(
        matrix_type=matrix_type,
        view=view,
        reordering=reordering,
        matching=matching,
        pivoting=pivoting,
        pivot_threshold=pivot_threshold,
        pivot_epsilon=pivot_epsilon,
        refinement_steps=refinement_steps,
        reuse_pivots=reuse_pivots,
        deterministic=deterministic,
    )
    choices = choices_.chosen(
        factor_slots=factor_slots,
        hybrid_memory=hybrid_memory,
        hybrid_execute=hybrid_execute,
        host_threads=host_threads,
        on_stale=on_stale,
        knobs=knobs,
    )
    if isinstance(A, SolverSpec):
        made = _of_spec(A, b, problem, choices, execution)
    else:
        pattern, values = patterns.read(A)
        made = planned(pattern, values, b, problem, choices, execution)
    log.info("planned", made, start)
    return made


def planned(
    pattern: Pattern,
    values: Any,
    b: Any,
    problem: Problem,
    choices: choices_.Choices,
    execution: Execution | Device | None,
    *,
    settled: bool = False,
) -> SolverPlan:
    """As `plan`, of a pattern that was read and choices that were checked."""
    if b is not None:
        operands.require_b(pattern.n, str(values.dtype), b)
    where, sharding = _located(values, b, execution)
    platform = where.platform if where else jax.default_backend()
    engine = engines.backend("cuda" if platform == "gpu" else platform, choices)
    specified = specify.specified(pattern, values, engine, settled=settled, **problem)
    spec = specified.spec
    support.require_choices(spec, choices, engine)
    bare = SolverPlan.chosen(spec, spec.types, where, choices)
    made = bare.with_host(specified.leaves, sharding)
    analysis.run(made)
    return made


def _located(values: Any, b: Any, execution: Any) -> tuple[Placement | None, Any]:
    """Where the operands live; and the sharding of leaves that go to several devices."""
    places = {"values": placement.of(values)}
    if b is not None and aval.is_array(b):
        places["b"] = placement.of(b)
        packages = {p.package for p in places.values() if p is not None}
        if len(packages) == 2:
            raise operand_error(
                "operands of two packages",
                "values of A and `b` both of NumPy, or both of JAX",
                ", ".join(f"`{name}` on {place}" for name, place in places.items()),
                "Pass `(A.indptr, A.indices, jax.numpy.asarray(A.data))`, or `numpy.asarray(b)`.",
            )
    where = placement.shared(WHERE, places, execution)
    if where is None or len(where.devices) == 1:
        return where, None
    given: Any = values if aval.package_of(values) == "jax" else b
    mesh = getattr(given.sharding, "mesh", None)
    if mesh is None:
        return where, None
    return where, jax.NamedSharding(mesh, jax.P())


def _of_spec(
    wanted: SolverSpec, A: Any, given: Problem, choices: choices_.Choices, execution: Any
) -> SolverPlan:
    """A plan of a spec and a matrix with its pattern; only a permutation goes beside them."""
    if A is None:
        raise error(
            "a spec without its matrix",
            "`plan(spec, A)`: a spec holds the digest of a pattern, not the pattern",
            "`plan(spec)`",
            "Pass a matrix with that pattern too.",
        )
    problem = specify.keywords(wanted)
    beside = [k for k, v in given.items() if not _usual(k, v)]
    if wanted.permutation:
        if "reordering" not in beside:
            raise error(
                "a spec without its permutation",
                "`plan(spec, A, reordering=permutation)`: a spec holds its digest",
                "`plan(spec, A)`",
                "Pass the permutation too.",
            )
        beside.remove("reordering")
        problem["reordering"] = given.get("reordering")
    if beside:
        raise error(
            "a spec and what it says already",
            "`plan(spec, A)`, and options that are not the problem's",
            ", ".join(f"`{name}`" for name in beside),
            "Leave these out, or plan from the matrix: `plan(A, b, …)`.",
        )
    pattern, values = patterns.read(A)
    made = planned(pattern, values, None, problem, choices, execution, settled=True)
    differing = [k for k, v in made.spec.fields().items() if v != getattr(wanted, k)]
    if differing:
        raise error(
            "a matrix that is not the spec's",
            ", ".join(f"{name} {getattr(wanted, name)}" for name in differing),
            ", ".join(f"{name} {getattr(made.spec, name)}" for name in differing),
            "Pass a matrix with the spec's pattern and dtype"
            + (", with the values that it was made from." if "reference" in differing else "."),
        )
    return made


def _usual(name: str, value: Any) -> bool:
    usual = specify.USUAL[name]
    return type(value) is type(usual) and value == usual
