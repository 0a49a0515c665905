"""The primitives as dense algebra: their definition, and what platforms without an engine run."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import lu

from nvstate.direct_solver import product
from nvstate.direct_solver.way import WORDS, Way


def factorize(way: Way, *operands: Any) -> list[Any]:
    """A ticket that names nothing, and words that say whether values are finite."""
    values = operands[-1]
    status = jnp.where(jnp.isfinite(values).all(-1), 0, 4).astype(np.int32)
    words = jnp.zeros((values.shape[0], WORDS), np.int32)
    words = words.at[:, 2:5].set(-1).at[:, 0].set(status)
    return [jnp.zeros((values.shape[0], WORDS), np.uint32), words]


def solve(way: Way, *operands: Any) -> list[Any]:
    """X of the dense system; values that are not finite give NaN."""
    _, indices, rows, _, _, values, _, b = operands
    matrix = product.dense(way.spec, rows, indices, values)
    matrix = jnp.swapaxes(matrix, 1, 2) if way.transposed else matrix
    x = jnp.linalg.solve(matrix, jnp.swapaxes(b, 1, 2))
    finite = jnp.isfinite(values).all(-1)[:, None, None]
    return [jnp.where(finite, jnp.swapaxes(x, 1, 2), jnp.nan)]


def factorize_solve(way: Way, *operands: Any) -> list[Any]:
    """Both."""
    *pattern, values, b = operands
    ticket, words = factorize(way, *pattern, values)
    return [*solve(way, *pattern, values, ticket, b), ticket, words]


def fused(way: Way, *operands: Any) -> list[Any]:
    """X alone."""
    return factorize_solve(way, *operands)[:1]


def diagonal(way: Way, *operands: Any) -> list[Any]:
    """The diagonal of U of a dense LU factorization."""
    _, indices, rows, _, _, values, _ = operands
    upper: Any = lu(product.dense(way.spec, rows, indices, values))[2]
    return [jnp.diagonal(upper, axis1=1, axis2=2)]
