"""What a pattern and its values must be: each refusal in its words, each check over all entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nvstate._core import aval, dtypes
from nvstate.direct_solver.arguments import (
    DTYPES,
    WHERE,
    MatrixType,
    error,
    listed,
    operand_error,
    unsupported,
)
from nvstate.direct_solver.formats import Array
from nvstate.direct_solver.spec import MOST, MOST_MATCHED, Leaves

if TYPE_CHECKING:
    from nvstate.direct_solver.pattern import Pattern

ROUNDING = 100  # epsilons that mirrored entries may differ by: sums in another order do


def square(shape: tuple[int, ...]) -> None:
    """Refuse a matrix that is rectangular or empty."""
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise error(
            "A is not square" if 0 not in shape else "A is empty",
            "a shape [n, n] with n of at least 1",
            str(list(shape)),
            "Pass a square matrix; for least squares there is `scipy.sparse.linalg.lsqr`.",
        )


def limits(n: int, nnz: int, matching: str = "none") -> None:
    """Refuse more than the libraries count."""
    if n > MOST:
        raise unsupported("A is too large", f"at most {MOST} rows", f"{n}", "Split the problem.")
    if nnz > MOST_MATCHED and matching not in ("none", "auto"):
        raise unsupported(
            "A has too many entries for matching",
            f'at most {MOST_MATCHED} entries, or `matching="none"`',
            f'{nnz} and `matching="{matching}"`',
            'Pass `matching="none"`.',
        )
    if nnz > MOST and not dtypes.is_enabled("float64"):
        raise unsupported(
            "A has too many entries for 32-bit offsets",
            f"at most {MOST} entries, or 64-bit types on",
            f"{nnz} with jax_enable_x64=False",
            'Call `jax.config.update("jax_enable_x64", True)` first.',
        )


def values(x: Any, nnz: int) -> None:
    """Refuse values of A that are no operand."""
    if not aval.is_array(x):
        raise error(
            "the values of A are no operand",
            "an array or a jax.ShapeDtypeStruct",
            aval.foreign(x),
            "Pass `jax.numpy.asarray(x)` or `numpy.asarray(x)`.",
        )
    found = aval.type_of(x)
    if found.dtype not in DTYPES:
        raise error(
            f"A of {found.dtype}",
            f"one of {', '.join(DTYPES)}",
            str(found),
            'Convert it first: `A.astype("float64")`.',
        )
    dtypes.require(WHERE, found.dtype)
    if found.shape != (nnz,):
        raise operand_error(
            "as many values as indices",
            f"{found.dtype}[{nnz}]",
            str(found),
            "Pass the three arrays of one matrix: indptr [n + 1], indices [nnz], values [nnz].",
        )


def offsets(indptr: Array, n: int, nnz: int, storage: str) -> None:
    """Refuse an `indptr` that does not divide the entries into n rows."""
    line = _line(storage)
    if len(indptr) != n + 1:
        got = f"{len(indptr)} of them"
    elif indptr[0] != 0:
        got = f"`indptr[0]` is {indptr[0]}"
    elif (falls := indptr[1:] < indptr[:-1]).any():
        row = int(falls.argmax())
        got = f"{line} {row} from {indptr[row]} to {indptr[row + 1]}"
    elif indptr[-1] != nnz:
        got = f"`indptr[{n}]` is {indptr[-1]}"
    else:
        return
    raise error(
        "`indptr` does not fit",
        f"{n + 1} offsets from 0 to {nnz}, ascending",
        got,
        "Pass the arrays of one CSR matrix; `scipy.sparse` makes them with `A.tocsr()`.",
    )


def in_range(indptr: Array, indices: Array, n: int, storage: str) -> None:
    """Refuse an index outside of the matrix."""
    if len(indices) and (indices.min() < 0 or indices.max() >= n):
        entry = int(((indices < 0) | (indices >= n)).argmax())
        row = int(np.searchsorted(indptr, entry, side="right")) - 1
        raise _outside(f"{_line(storage)} {row}, entry {entry}: {indices[entry]}", n)


def within(rows: Array, columns: Array, n: int) -> None:
    """The same of COO."""
    for name, x in (("row", rows), ("column", columns)):
        if len(x) and (x.min() < 0 or x.max() >= n):
            entry = int(((x < 0) | (x >= n)).argmax())
            raise _outside(f"entry {entry}: {name} {x[entry]}", n)


def _outside(got: str, n: int) -> Exception:
    return error(
        "an index out of range", f"from 0 to {n - 1}", got, "Pass the indices of an [n, n] matrix."
    )


def ascending(pattern: Pattern) -> None:
    """Refuse rows that are not sorted, or have an index twice."""
    indices, rows = pattern.indices, pattern.rows
    bad = (indices[1:] <= indices[:-1]) & (rows[1:] == rows[:-1])
    if not bad.any():
        return
    entry = int(bad.argmax()) + 1
    line = f"{_line(pattern.storage)} {rows[entry]}, entry {entry}"
    if indices[entry] == indices[entry - 1]:
        raise _twice(f"{line}: {indices[entry]} again")
    raise error(
        "unsorted indices",
        "indices that ascend within each row",
        f"{line}: {indices[entry]} after {indices[entry - 1]}",
        "Sort them with `A.sort_indices()`, and the values with them.",
    )


def distinct(keys: Array, order: Array, n: int) -> None:
    """Refuse COO with an entry twice."""
    same = keys[1:] == keys[:-1]
    if same.any():
        first = int(same.argmax())
        row, column = divmod(int(keys[first]), n)
        raise _twice(f"entries {order[first]} and {order[first + 1]}, both at [{row}, {column}]")


def _twice(got: str) -> Exception:
    return error(
        "duplicate indices",
        "each entry of A once",
        got,
        "Add them up with `A.sum_duplicates()`; BCOO's needs `nse=None` and no `jit`.",
    )


def structure(pattern: Pattern, matrix_type: MatrixType, view: str) -> None:
    """Refuse what no values could make such a matrix.

    Args:
        pattern: of A as it is stored.
        matrix_type: of A.
        view: of the stored matrix.
    """
    rows, columns = pattern.rows, pattern.indices
    if view != "full":
        wrong = columns > rows if view == "lower" else columns < rows
        if wrong.any():
            _other_triangle(pattern, int(wrong.argmax()))
    there = np.diff(pattern.indptr) > 0
    across = np.zeros(pattern.n, bool)
    across[columns] = True
    for name, found in (("row", there), ("column", across)):
        if view != "full":
            found = there | across
        if not found.all():
            empty = int(found.argmin())
            if pattern.storage == "csc" and view == "full":
                name = "column" if name == "row" else "row"
            raise error(
                f"{name} {empty} is empty: A is singular",
                "an entry in each row and column",
                f"{name} {empty} without one",
                "Look for an unknown that no equation has, or an equation without unknowns.",
            )
    if matrix_type in ("spd", "hpd"):
        diagonal = np.zeros(pattern.n, bool)
        diagonal[rows[rows == columns]] = True
        if not diagonal.all():
            missing = int(diagonal.argmin())
            raise error(
                f'no diagonal entry in row {missing}: A is not "{matrix_type}"',
                "all n diagonal entries, which are positive",
                f"[{missing}, {missing}] is not stored",
                f'Pass `matrix_type="{_indefinite(matrix_type)}"`.',
            )


def _other_triangle(pattern: Pattern, entry: int) -> None:
    row, column = pattern.place(entry)
    view = "lower" if column > row else "upper"
    raise error(
        f'an entry in the other triangle than "{view}"',
        f"row {'>=' if view == 'lower' else '<='} column",
        f"row {row}, column {column}",
        f'Pass `scipy.sparse.tri{"l" if view == "lower" else "u"}(A)`, or `view="full"`.',
    )


def mirrored(pattern: Pattern, matrix_type: MatrixType, known: Array | None) -> None:
    """Refuse a "full" view that is not symmetric: its pattern, and its values where they are known.

    Values may differ by 100 epsilons of the smaller of the two rows' largest, as sums in another
    order do. A NaN agrees with everything: it is `status` 4 of a factorization.
    """
    import scipy.sparse

    n, nnz = pattern.n, pattern.nnz
    entries = np.arange(nnz, dtype=pattern.indptr.dtype)
    turned = scipy.sparse.csr_array((entries, pattern.indices, pattern.indptr), (n, n)).tocsc()
    rows, columns = pattern.rows, pattern.indices
    same = np.array_equal(turned.indptr, pattern.indptr)
    if not same or not np.array_equal(turned.indices, columns):
        keys = rows.astype(np.int64) * n + columns
        alone = ~np.isin(columns.astype(np.int64) * n + rows, keys)
        row, column = pattern.place(int(alone.argmax()))
        raise _asymmetric(matrix_type, f"[{row}, {column}] is stored, [{column}, {row}] is not")
    if known is None:
        return
    partner: Array = np.asarray(turned.data)
    across = known[partner]
    if matrix_type in ("hermitian", "hpd"):
        across = across.conj()
    with np.errstate(invalid="ignore", over="ignore"):
        largest = np.maximum.reduceat(np.abs(known), pattern.indptr[:-1])
        tolerance = ROUNDING * np.finfo(known.dtype).eps
        wrong = np.abs(known - across) > tolerance * np.minimum(largest[rows], largest[columns])
    if wrong.any():
        entry = int(wrong.argmax())
        row, column = pattern.place(entry)
        other = known[partner[entry]]
        got = f"{known[entry]} at [{row}, {column}], {other} at [{column}, {row}]"
        raise _asymmetric(matrix_type, got)


def _asymmetric(matrix_type: str, got: str) -> Exception:
    conjugate = matrix_type in ("hermitian", "hpd")
    return error(
        f'A is not "{matrix_type}"',
        f"A equal to its {'conjugate ' if conjugate else ''}transpose",
        got,
        'Pass `matrix_type="general"`, or store one triangle and say which: `view="lower"`.',
    )


def weak_diagonal(pattern: Pattern, known: Array) -> bool:
    """Whether static pivots may fail.

    So where some diagonal entry is below 0.01 of its row's largest, or where rows' largest entries
    are more than 1e8 apart: those of small rows would be taken for zeros. Of a matrix in CSC the
    columns are looked at, which are the rows of what is factorized.
    """
    rows, sizes = pattern.rows, np.abs(known)
    diagonal = np.zeros(pattern.n, sizes.dtype)
    here = rows == pattern.indices
    diagonal[rows[here]] = sizes[here]
    with np.errstate(invalid="ignore"):
        largest = np.maximum.reduceat(sizes, pattern.indptr[:-1])
        return bool((diagonal < 0.01 * largest).any() or largest.max() > 1e8 * largest.min())


def matrix_type(name: MatrixType, view: str, dtype: str) -> MatrixType:
    """The canonical type: on real dtypes "hermitian" is "symmetric" and "hpd" is "spd"."""
    is_complex = dtype.startswith("complex")
    if view != "full" and name == "general":
        raise error(
            f'`view="{view}"` of a general matrix',
            f"`matrix_type` one of {listed(('symmetric', 'hermitian', 'spd', 'hpd'))}",
            '`matrix_type="general"`',
            "Say which type it is, or pass all entries.",
        )
    if is_complex and name == "spd":
        raise error(
            f'"spd" of {dtype}',
            f"for {dtype} one of {listed(('general', 'symmetric', 'hermitian', 'hpd'))}",
            '`matrix_type="spd"`',
            'Pass `matrix_type="hpd"` if A equals its conjugate transpose.',
        )
    real: dict[str, MatrixType] = {"hermitian": "symmetric", "hpd": "spd"}
    return name if is_complex else real.get(name, name)


def _indefinite(matrix_type: str) -> str:
    return "symmetric" if matrix_type == "spd" else "hermitian"


def _line(storage: str) -> str:
    return "column" if storage == "csc" else "row"


def otherwise_stored(planned: str, got: str) -> Exception:
    """What is said of a matrix stored by columns where rows were planned, or the reverse."""
    return operand_error(
        f"A in {got.upper()}, but its plan was made from {planned.upper()}",
        f"the format of the plan, {planned.upper()}",
        got.upper(),
        f"Pass `A.to{'csc' if planned == 'csc' else 'csr'}()`, or plan again from A.",
    )


def another_pattern(got: Pattern, planned: Leaves) -> Exception:
    """What is said of a matrix with another pattern than its plan: the first row that differs."""
    n = len(planned.indptr) - 1
    do = "Plan again from this matrix: `nvstate.direct_solver.plan(A)`."
    if got.n != n:
        return operand_error(
            "another size than the plan's", f"[{n}, {n}]", f"[{got.n}, {got.n}]", do
        )
    fewest = min(got.nnz, len(planned.indices))
    moved = got.indices[:fewest] != planned.indices[:fewest]
    lengths = np.diff(got.indptr) != np.diff(planned.indptr)
    rows = [int(lengths.argmax())] if lengths.any() else []
    rows += [int(got.rows[moved.argmax()])] if moved.any() else []
    row = min(rows)
    name, across = ("column", "rows") if got.storage == "csc" else ("row", "columns")
    return operand_error(
        "another pattern than the plan's",
        f"{name} {row} with {across} {_entries(planned.indptr, planned.indices, row)}",
        f"{name} {row} with {across} {_entries(got.indptr, got.indices, row)}",
        do,
    )


def _entries(indptr: Array, indices: Array, row: int) -> str:
    entries = indices[indptr[row] : indptr[row + 1]]
    said = ", ".join(map(str, entries[:8]))
    return said + (f", … ({len(entries)} of them)" if len(entries) > 8 else "") or "none"
