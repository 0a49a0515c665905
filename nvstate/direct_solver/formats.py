"""What A may be: its format, index arrays on the host, values as they are, and its shape."""

from __future__ import annotations

import sys
from typing import Any

import jax
import numpy as np

from nvstate._core import aval
from nvstate.direct_solver.arguments import error

Array = np.ndarray[Any, Any]
Taken = tuple[str, tuple[Array, Array], Any, tuple[int, ...]]
_OUTSIDE = "Plan outside of `jit` and pass `A.data` in."


def taken(a: Any) -> Taken:
    """Format, the two index arrays, values and shape.

    Raises:
        SpecError: no sparse matrix of a known format; indices that are not concrete integers.
    """
    scipy_sparse, jax_sparse = (
        sys.modules.get(name) for name in ("scipy.sparse", "jax.experimental.sparse")
    )
    if scipy_sparse is not None and scipy_sparse.issparse(a):
        return _scipy(a)
    if jax_sparse is not None and isinstance(a, jax_sparse.BCSR | jax_sparse.BCOO):
        return _jax(a, isinstance(a, jax_sparse.BCSR))
    if isinstance(a, tuple | list) and len(a) == 3:
        indptr, indices = one_axis("`indptr`", a[0]), one_axis("`indices`", a[1])
        n = max(len(indptr) - 1, 0)
        return "csr", (indptr, indices), a[2], (n, n)
    if aval.is_array(a):
        raise error(
            "A is dense",
            "a sparse matrix",
            str(aval.type_of(a)),
            "Convert it with `jax.experimental.sparse.BCSR.fromdense(A)`, or solve with "
            "`jax.numpy.linalg.solve`.",
        )
    raise error(
        "A is no sparse matrix",
        "scipy.sparse CSR, CSC or COO, a BCSR, a BCOO, or (indptr, indices, values)",
        aval.foreign(a),
        "Pass one of these.",
    )


def _scipy(a: Any) -> Taken:
    if a.format not in ("csr", "csc", "coo"):
        raise error(
            "A in a format that is not read",
            "CSR, CSC or COO",
            f"{aval.named(a)}",
            "Convert it with `A.tocsr()`.",
        )
    if a.ndim != 2:
        return a.format, (np.empty(0, np.int32),) * 2, a.data, a.shape  # which is refused
    parts = (a.row, a.col) if a.format == "coo" else (a.indptr, a.indices)
    return a.format, parts, a.data, a.shape


def _jax(a: Any, is_csr: bool) -> Taken:
    if a.n_batch or a.n_dense:
        raise error(
            f"{type(a).__name__} with {'batch' if a.n_batch else 'dense'} dimensions",
            "one matrix [n, n]",
            f"a shape of {list(a.shape)}, {a.n_batch} of it batch and {a.n_dense} dense",
            "Plan from one of its members, and use `jax.vmap` over the values.",
        )
    if is_csr:
        parts = one_axis("`A.indptr`", a.indptr), one_axis("`A.indices`", a.indices)
        return "csr", parts, a.data, a.shape
    pairs = concrete("`A.indices`", a.indices)
    padded = (pairs >= np.array(a.shape)).all(axis=1)
    if padded.any():
        first = int(padded.argmax())
        raise error(
            "BCOO with padding",
            f"{a.nse} entries inside of {list(a.shape)}",
            f"entry {first} at {pairs[first].tolist()}, where nothing is",
            "Remove it, outside of `jit`, with `A.sum_duplicates(nse=None)`.",
        )
    return "coo", (pairs[:, 0], pairs[:, 1]), a.data, a.shape


def concrete(what: str, x: Any) -> Array:
    """An array of integers on the host; refused where its values are not known."""
    if aval.is_traced(x) or isinstance(x, jax.ShapeDtypeStruct):
        raise error(
            f"{what} without values",
            "concrete indices, which the analysis reads",
            f"{'a tracer' if aval.is_traced(x) else 'a type'}, {aval.type_of(x)}",
            _OUTSIDE,
        )
    found = np.asarray(jax.device_get(x) if isinstance(x, jax.Array) else x)
    if not np.issubdtype(found.dtype, np.integer):
        raise error(
            f"{what} of {found.dtype}",
            "integers",
            str(aval.type_of(found)),
            'If they are whole, convert them with `.astype("int32")`.',
        )
    return found


def one_axis(what: str, x: Any) -> Array:
    """The same, of one axis."""
    found = concrete(what, x)
    if found.ndim != 1:
        raise error(
            f"{what} of {found.ndim} axes",
            "one axis",
            str(aval.type_of(found)),
            "Pass the three arrays of one matrix: indptr [n + 1], indices [nnz], values [nnz].",
        )
    return found
