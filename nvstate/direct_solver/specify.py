"""spec(), which brings a matrix and the options of its factorization into canonical form."""

from __future__ import annotations

import dataclasses
from typing import Any, TypedDict

import jax
import numpy as np

from nvstate._core import aval
from nvstate.direct_solver import (
    arguments,
    checks,
    digest,
    engine as engines,
    formats,
    operands,
    pattern as patterns,
    support,
)
from nvstate.direct_solver.arguments import Matching, MatrixType, Pivoting, Reordering, View, error
from nvstate.direct_solver.formats import Array
from nvstate.direct_solver.pattern import Pattern
from nvstate.direct_solver.spec import Leaves, SolverSpec


class Problem(TypedDict, total=False):
    """The keywords of `spec`, for every function that passes them on."""

    matrix_type: MatrixType
    view: View
    reordering: Reordering | Any
    matching: Matching
    pivoting: Pivoting
    pivot_threshold: float | None
    pivot_epsilon: float | None
    refinement_steps: int | str
    reuse_pivots: bool
    deterministic: bool


USUAL = Problem(
    matrix_type="general",
    view="full",
    reordering="auto",
    matching="auto",
    pivoting="auto",
    pivot_threshold=None,
    pivot_epsilon=None,
    refinement_steps="auto",
    reuse_pivots=False,
    deterministic=False,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Specified:
    """A problem with the arrays that its digests are of, and A's values as they were given."""

    spec: SolverSpec
    leaves: Leaves
    values: Any


def spec(
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
) -> SolverSpec:
    """Specify a sparse linear system. Validates; analyses nothing.

    Args:
        A: [n, n], as in `plan`.
        b: [n] or [n, k] of A's dtype, or None; only checked.
        matrix_type: as in `plan`, as all that follow.
        view: which entries are stored.
        reordering: a name or a permutation.
        matching: how large entries are brought to the diagonal.
        pivoting: how pivots are chosen.
        pivot_threshold: None for the engine's own.
        pivot_epsilon: None for the engine's own.
        refinement_steps: a number or "auto".
        reuse_pivots: whether A's own pivots are kept.
        deterministic: whether equal inputs give equal bits.

    Returns:
        A spec: plain data, with a digest of the pattern in place of the pattern.

    Raises:
        SpecError: no such problem.
        UnsupportedError: a fair one, but not of the engine of this device.
        OperandError: `b` or A's values do not fit A.

    Example:
        >>> import scipy.sparse as sp
        >>> made = nvs.direct_solver.spec(sp.eye_array(3, format="csr"), matrix_type="spd")
        >>> made.n, made.nnz, made.matrix_type
        (3, 3, 'spd')
    """
    pattern, values = patterns.read(A)
    if b is not None:
        operands.require_b(pattern.n, str(values.dtype), b)
    return specified(
        pattern,
        values,
        engines.backend(platform_of(values), ()),
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
    ).spec


def platform_of(values: Any) -> str:
    """Where values are worked with: "cpu" for NumPy's, the default platform for types."""
    if isinstance(values, np.ndarray):
        return "cpu"
    if isinstance(values, jax.Array) and not aval.is_traced(values):
        platform = next(iter(values.sharding.device_set)).platform
    else:
        platform = jax.default_backend()
    return "cuda" if platform == "gpu" else platform


def specified(
    pattern: Pattern,
    values: Any,
    engine: str,
    *,
    matrix_type: MatrixType = "general",
    view: View = "full",
    reordering: Any = "auto",
    matching: Matching = "auto",
    pivoting: Pivoting = "auto",
    pivot_threshold: float | None = None,
    pivot_epsilon: float | None = None,
    refinement_steps: int | str = "auto",
    reuse_pivots: bool = False,
    deterministic: bool = False,
    settled: bool = False,
) -> Specified:
    """As `spec`, of a pattern that was read, for an engine; `settled`: as a spec has them."""
    arguments.choice("matrix_type", matrix_type, MatrixType)
    arguments.choice("view", view, View)
    arguments.choice("matching", matching, Matching)
    arguments.choice("pivoting", pivoting, Pivoting)
    arguments.flag("reuse_pivots", reuse_pivots)
    arguments.flag("deterministic", deterministic)
    dtype = str(values.dtype)
    matrix_type = checks.matrix_type(matrix_type, view, dtype)
    stored_view = {"lower": "upper", "upper": "lower"}.get(view, view)
    checks.structure(pattern, matrix_type, stored_view if pattern.storage == "csc" else view)
    known = _known(pattern, values)
    if view == "full" and matrix_type != "general":
        checks.mirrored(pattern, matrix_type, known)
    permutation = patterns.NONE
    if not isinstance(reordering, str):
        permutation, reordering = _permutation(reordering, pattern.n), "user"
    else:
        arguments.choice("reordering", reordering, Reordering)
    if matching == "auto":
        may = matrix_type == "general" and engine != "superlu" and not settled
        if may and known is not None and checks.weak_diagonal(pattern, known):
            matching = "product"
        elif not support.may_rematch(
            engine, matrix_type, pattern.nnz, reordering, pivoting, reuse_pivots=reuse_pivots
        ):
            matching = "none"
    checks.limits(pattern.n, pattern.nnz, matching)
    reference = patterns.NONE.astype(dtype)
    if matching not in ("none", "auto") or reuse_pivots:
        if known is None:
            raise _unknown(matching, values)
        reference = np.array(known)
    steps = -1
    if refinement_steps != "auto":
        steps = arguments.integer("refinement_steps", refinement_steps, 0, 1000)
    elif deterministic and engine == "cudss":
        steps = 0  # which deterministic mode excludes
    made = SolverSpec(
        n=pattern.n,
        nnz=pattern.nnz,
        storage=pattern.storage,
        dtype=dtype,
        index_dtype=str(pattern.indices.dtype),
        offset_dtype=str(pattern.indptr.dtype),
        matrix_type=matrix_type,
        view=view,
        reordering=reordering,
        permutation=digest.permutation(permutation) if reordering == "user" else "",
        matching=matching,
        reference=digest.reference(reference) if len(reference) else "",
        pivoting=pivoting,
        pivot_threshold=arguments.real("pivot_threshold", pivot_threshold, 1.0),
        pivot_epsilon=arguments.real("pivot_epsilon", pivot_epsilon),
        refinement_steps=steps,
        reuse_pivots=reuse_pivots,
        deterministic=deterministic,
        pattern=pattern.digest,
        order=pattern.order_digest,
    )
    support.require(made, engine)
    return Specified(made, pattern.leaves(permutation, reference), values)


def keywords(spec: SolverSpec) -> Problem:
    """The keywords that say this problem beside A; of a permutation only that there is one."""
    return Problem(
        matrix_type=spec.matrix_type,
        view=spec.view,
        reordering=spec.reordering,
        matching=spec.matching,
        pivoting=spec.pivoting,
        pivot_threshold=float.fromhex(spec.pivot_threshold) if spec.pivot_threshold else None,
        pivot_epsilon=float.fromhex(spec.pivot_epsilon) if spec.pivot_epsilon else None,
        refinement_steps="auto" if spec.refinement_steps < 0 else spec.refinement_steps,
        reuse_pivots=spec.reuse_pivots,
        deterministic=spec.deterministic,
    )


def _known(pattern: Pattern, values: Any) -> Array | None:
    """Values on the host, in the pattern's order; None where they are not concrete."""
    if aval.package_of(values) is None:
        return None
    found = np.asarray(jax.device_get(values) if isinstance(values, jax.Array) else values)
    return pattern.in_order(found)


def _permutation(given: Any, n: int) -> Array:
    what = "`reordering` as a permutation"
    found = formats.one_axis(what, given if aval.is_array(given) else np.asarray(given))
    fits = len(found) == n and found.min() >= 0 and found.max() < n
    if not fits or (np.bincount(found, minlength=n) != 1).any():
        raise error(
            "`reordering` is no permutation",
            f"each of 0 to {n - 1} once, int32[{n}]; or a name",
            _not_once(found, n),
            f"Pass one of {arguments.listed(Reordering.__args__)}, or a permutation of the rows.",
        )
    return found.astype(np.int32)


def _not_once(found: Array, n: int) -> str:
    if len(found) != n:
        return str(aval.type_of(found))
    outside = (found < 0) | (found >= n)
    if outside.any():
        return f"{found[outside.argmax()]}"
    counts = np.bincount(found, minlength=n)
    return f"{int(counts.argmax())}, {int(counts.max())} times"


def _unknown(matching: str, values: Any) -> Exception:
    option = f'`matching="{matching}"`' if matching != "none" else "`reuse_pivots=True`"
    return error(
        f"{option} without values",
        "an A whose values are concrete: the analysis reads them",
        f"{'a tracer' if aval.is_traced(values) else 'a type'}, {aval.type_of(values)}",
        "Plan outside of `jit` from typical values, and pass the values of each call in.",
    )
