"""The primitives: factorize, solve, both, both without factors that are left, and a diagonal."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nvstate._core.several import define_several, define_tangent
from nvstate.direct_solver import batching, lowering, product, reference, sharding
from nvstate.direct_solver.choices import Choices
from nvstate.direct_solver.spec import Leaves, SolverSpec
from nvstate.direct_solver.way import DIAGONAL, FACTORIZE, SOLVE, WHOLE, WORDS, Way, pattern

_ROWS, _INDICES = 2, 1  # places among a primitive's operands


def factorize(spec: SolverSpec, leaves: Leaves, values: Any, choices: Choices) -> Any:
    """(ticket uint32 [B, 8], words int32 [B, 8]) of values [B, nnz]."""
    return tuple(_factorize(Way(spec), *pattern(leaves), values, choices=choices))


def solve(
    spec: SolverSpec,
    leaves: Leaves,
    values: Any,
    ticket: Any,
    b: Any,
    choices: Choices,
    transposed: bool = False,
) -> Any:
    """X [B, k, n] of b [B, k, n]."""
    way = Way(spec, transposed)
    return _solve(way, *pattern(leaves), values, ticket, b, choices=choices)[0]


def factorize_solve(
    spec: SolverSpec,
    leaves: Leaves,
    values: Any,
    b: Any,
    choices: Choices,
    transposed: bool = False,
) -> Any:
    """(x [B, k, n], ticket, words)."""
    way = Way(spec, transposed)
    return tuple(_factorize_solve(way, *pattern(leaves), values, b, choices=choices))


def fused(
    spec: SolverSpec,
    leaves: Leaves,
    values: Any,
    b: Any,
    choices: Choices,
    transposed: bool = False,
) -> Any:
    """X [B, k, n], of factors that nobody gets."""
    way = Way(spec, transposed)
    return _fused(way, *pattern(leaves), values, b, choices=choices)[0]


def diagonal(spec: SolverSpec, leaves: Leaves, values: Any, ticket: Any, choices: Choices) -> Any:
    """The pivots [B, n], in the engine's order."""
    return _diagonal(Way(spec), *pattern(leaves), values, ticket, choices=choices)[0]


# Types of results


def _words(values: Any) -> list[Any]:
    split = values.sharding.spec
    along = jax.P(split[0] if split else None, None)
    shape = (values.shape[0], WORDS)
    return [
        values.update(
            shape=shape,
            dtype=np.dtype(dtype),
            weak_type=False,
            sharding=values.sharding.update(spec=along),
        )
        for dtype in ("uint32", "int32")
    ]


def _solved(way: Way, *avals: Any) -> list[Any]:
    return [avals[-1].update(weak_type=False)]


# Derivatives: x = M⁻¹ b, so ẋ = M⁻¹ (ḃ - Ṁ x), with the factors that are there


def _turned(run: Any, way: Way, given: Sequence[Any], cotangent: Any, choices: Any) -> Any:
    """M⁻ᵀ x̄; of a hermitian M that is the conjugate of M⁻¹ of the conjugate."""
    right = jnp.conj(cotangent) if way.is_hermitian else cotangent
    turned = run(way.turned(), *given, right, choices=choices)[0]
    return jnp.conj(turned) if way.is_hermitian else turned


def _transposed(
    way: Way, residuals: Sequence[Any], types: Any, cotangent: Any, choices: Any
) -> list[Any]:
    return [_turned(_solve, way, residuals, cotangent, choices)]


def _solve_transposed(way: Way, given: Any, cotangents: Any, choices: Any) -> Any:
    return _turned(_solve, way, given, cotangents[0], choices)


def _fused_transposed(way: Way, given: Any, cotangents: Any, choices: Any) -> Any:
    return _turned(_fused, way, given, cotangents[0], choices)


_along = define_tangent(
    "nvstate_direct_solver_tangent",
    result=lambda way, residuals, tangents: tangents[0].update(weak_type=False),
    function=lambda way, residuals, tangents, choices: _solve(
        way, *residuals, tangents[0], choices=choices
    )[0],
    transpose=_transposed,
)


def _tangent(way: Way, given: Any, x: Any, dvalues: Any, db: Any, choices: Any) -> Any:
    """ẋ, from the operands up to the ticket; None if it is zero."""
    right = db
    if dvalues is not None:
        rows, indices = given[_ROWS], given[_INDICES]
        moved = product.product(way.spec, rows, indices, dvalues, x, transposed=way.transposed)
        right = -moved if db is None else db - moved
    return None if right is None else _along(way, given, (right,), choices)


def _factorize_jvp(way: Way, primals: Any, tangents: Any, choices: Any) -> Any:
    return _factorize(way, *primals, choices=choices), [None, None]


def _solve_jvp(way: Way, primals: Any, tangents: Any, choices: Any) -> Any:
    *given, _ = primals
    (x,) = _solve(way, *primals, choices=choices)
    return [x], [_tangent(way, given, x, tangents[-3], tangents[-1], choices)]


def _factorize_solve_jvp(way: Way, primals: Any, tangents: Any, choices: Any) -> Any:
    *given, _ = primals
    x, ticket, words = _factorize_solve(way, *primals, choices=choices)
    dx = _tangent(way, [*given, ticket], x, tangents[-2], tangents[-1], choices)
    return [x, ticket, words], [dx, None, None]


def _fused_jvp(way: Way, primals: Any, tangents: Any, choices: Any) -> Any:
    (x, *_), (dx, *_) = _factorize_solve_jvp(way, primals, tangents, choices)
    return [x], [dx]


def _diagonal_jvp(way: Way, primals: Any, tangents: Any, choices: Any) -> Any:
    if tangents[-2] is not None:
        raise TypeError(
            "nvstate.direct_solver.diagonal is not differentiable: use jax.lax.stop_gradient"
        )
    return _diagonal(way, *primals, choices=choices), [None]


def _defined(
    name: str,
    names: tuple[str, ...],
    made: tuple[str, ...],
    results: Callable[..., Any],
    by_reference: Callable[..., Any],
    jvp: Callable[..., Any],
    run: Callable[..., Any],
    cuda: Callable[..., Any] | None = None,
    transpose: Callable[..., Any] | None = None,
) -> Any:
    on_cuda = functools.partial(run, on_cuda=True)
    operation: Any = None

    def again(*args: Any, **keywords: Any) -> Any:
        return operation(*args, **keywords)

    operation = define_several(
        f"nvstate_direct_solver_{name}",
        results=results,
        reference=by_reference,
        jvp=jvp,
        vmap=batching.rule(names, again),
        transpose=transpose,
        cpu=run,
        cuda=cuda or on_cuda,
        split=sharding.split(names, made, cuda or on_cuda, sharding.anything),
        cpu_split=sharding.split(names, made, run, sharding.not_superlu),
    )
    return operation


_factorize = _defined(
    "factorize",
    FACTORIZE,
    ("ticket", "words"),
    lambda way, *avals: _words(avals[-1]),
    reference.factorize,
    _factorize_jvp,
    lowering.factorize,
)
_solve = _defined(
    "solve",
    SOLVE,
    ("b",),
    _solved,
    reference.solve,
    _solve_jvp,
    lowering.solve,
    transpose=_solve_transposed,
)
_factorize_solve = _defined(
    "factorize_solve",
    WHOLE,
    ("b", "ticket", "words"),
    lambda way, *avals: [*_solved(way, *avals), *_words(avals[-2])],
    reference.factorize_solve,
    _factorize_solve_jvp,
    lowering.factorize_solve,
    transpose=_fused_transposed,
)
_fused = _defined(
    "fused",
    WHOLE,
    ("b",),
    _solved,
    reference.fused,
    _fused_jvp,
    lowering.waiting,
    lowering.fused,
    transpose=_fused_transposed,
)
_diagonal = _defined(
    "diagonal",
    DIAGONAL,
    ("diagonal",),
    lambda way, *avals: [avals[-2].update(shape=(avals[-2].shape[0], way.spec.n), weak_type=False)],
    reference.diagonal,
    _diagonal_jvp,
    lowering.diagonal,
)
