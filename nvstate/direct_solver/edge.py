"""The edge between what users pass and the primitives: orders, columns, transposes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from nvstate.direct_solver.arguments import Transpose
from nvstate.direct_solver.spec import Leaves, SolverSpec


def way(spec: SolverSpec, transpose: Transpose) -> tuple[bool, bool]:
    """How op(A) x = b is solved with the stored M: with Mᵀ or not, and between conjugations or not.

    M is A, or Aᵀ of "csc". Aᴴ x = b is conj(x) = A⁻ᵀ conj(b). A symmetric M is its transpose; of a
    hermitian M the transpose is its conjugate.
    """
    transposed = (transpose != "none") != (spec.storage == "csc")
    conjugate = transpose == "adjoint" and spec.is_complex
    if transposed and spec.matrix_type in ("hermitian", "hpd"):
        conjugate = not conjugate
    return transposed and spec.matrix_type == "general", conjugate


def in_order(leaves: Leaves, values: Any) -> Any:
    """Values in the order of the stored entries, from that of A's own."""
    return values[..., leaves.order] if leaves.order.shape[0] else values


def through(run: Callable[[Any], Any], b: Any, conjugate: bool) -> Any:
    """Run a function of b [1, k, n] that returns x [1, k, n] on a b [n] or [n, k]."""
    columns = b[None] if b.ndim == 1 else b.T
    x = run((jnp.conj(columns) if conjugate else columns)[None])[0]
    x = jnp.conj(x) if conjugate else x
    return x[0] if b.ndim == 1 else x.T
