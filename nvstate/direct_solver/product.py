"""Products with the stored matrix, on its pattern alone: residuals, derivatives and probes."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from nvstate.direct_solver.spec import SolverSpec


def product(
    spec: SolverSpec, rows: Any, indices: Any, values: Any, x: Any, *, transposed: bool = False
) -> Any:
    """M x, or Mᵀ x; linear in values and in x, and so its derivatives are on the pattern too.

    Args:
        spec: what `values` are the entries of.
        rows: int32 [nnz].
        indices: int32 [nnz], the columns.
        values: dtype [B, nnz].
        x: dtype [B, k, n].
        transposed: whether rows and columns change places.

    Returns:
        dtype [B, k, n].
    """
    to, of = (indices, rows) if transposed else (rows, indices)
    entries = values[:, None, :]
    if spec.stored_view == "full":
        return _added(spec.n, to, entries * _taken(x, of))
    diagonal = rows == indices
    mirrored = entries
    if spec.matrix_type in ("hermitian", "hpd"):  # of a diagonal entry only the real part counts
        entries = jnp.where(diagonal, jnp.real(entries).astype(entries.dtype), entries)
        mirrored = jnp.conj(entries)
    mirrored = jnp.where(diagonal, jnp.zeros((), entries.dtype), mirrored)
    y = _added(spec.n, to, entries * _taken(x, of))
    return y + _added(spec.n, of, mirrored * _taken(x, to))


def absolute_rows(spec: SolverSpec, rows: Any, indices: Any, values: Any) -> Any:
    """Sums of absolute values along each row of M [B, n], real."""
    sizes = jnp.abs(values)[:, None, :]
    if spec.stored_view == "full":
        return _added(spec.n, rows, sizes)[:, 0]
    diagonal = rows == indices
    if spec.matrix_type in ("hermitian", "hpd"):
        sizes = jnp.where(diagonal, jnp.abs(jnp.real(values))[:, None, :], sizes)
    off = jnp.where(diagonal, jnp.zeros((), sizes.dtype), sizes)
    return (_added(spec.n, rows, sizes) + _added(spec.n, indices, off))[:, 0]


def dense(spec: SolverSpec, rows: Any, indices: Any, values: Any) -> Any:
    """M as a dense matrix [B, n, n]: for the reference."""
    identity = jnp.eye(spec.n, dtype=values.dtype)[None]
    columns = jnp.broadcast_to(identity, (values.shape[0], spec.n, spec.n))
    return jnp.swapaxes(product(spec, rows, indices, values, columns), 1, 2)


def _taken(x: Any, places: Any) -> Any:
    return jnp.take(x, places, axis=-1, mode="clip")  # places were checked when the plan was made


def _added(n: int, places: Any, terms: Any) -> Any:
    """The terms, summed at their places along the last axis, of length n.

    Zeros are made of terms, so that in an explicit mesh they are divided as those are.
    """
    zero = jnp.zeros_like(terms[..., :1])
    zeros = jnp.broadcast_to(zero, (*terms.shape[:-1], n))
    return zeros.at[..., places].add(terms, mode="drop")
