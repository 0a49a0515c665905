"""The pattern of A on the host: read, checked, and kept in 32-bit integers."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from nvstate.direct_solver import checks, digest, formats
from nvstate.direct_solver.formats import Array
from nvstate.direct_solver.spec import MOST, Leaves

NONE = np.empty(0, np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class Pattern:
    """A pattern in CSR: of A, or of its transpose if A is in CSC.

    Attributes:
        storage: "csr", "csc" or "coo".
        indptr: int32|int64 [n + 1].
        indices: int32 [nnz], ascending in each row.
        order: int32|int64 [nnz], where the values of unsorted COO come from; else [0].
    """

    storage: str
    indptr: Array
    indices: Array
    order: Array = dataclasses.field(default_factory=NONE.copy)

    @property
    def n(self) -> int:
        """Rows and columns."""
        return len(self.indptr) - 1

    @property
    def nnz(self) -> int:
        """Entries that are stored."""
        return len(self.indices)

    @functools.cached_property
    def rows(self) -> Array:
        """The row of each entry."""
        return np.repeat(np.arange(self.n, dtype=np.int32), np.diff(self.indptr))

    @functools.cached_property
    def digest(self) -> str:
        """128 bits."""
        return digest.pattern(self.n, self.indptr, self.indices)

    @functools.cached_property
    def order_digest(self) -> str:
        """128 bits; "" where values need no order."""
        return digest.permutation(self.order) if self.storage == "coo" else ""

    def place(self, entry: int) -> tuple[int, int]:
        """Row and column, in A, of an entry."""
        row, column = int(self.rows[entry]), int(self.indices[entry])
        return (column, row) if self.storage == "csc" else (row, column)

    def in_order(self, values: Any) -> Any:
        """Values of A in the order of the entries here."""
        return values[self.order] if self.storage == "coo" else values

    def leaves(self, permutation: Array, reference: Array) -> Leaves:
        """The arrays of a plan, on the host."""
        return Leaves(self.indptr, self.indices, self.rows, self.order, permutation, reference)


def read(a: Any) -> tuple[Pattern, Any]:
    """The pattern of A, and its values as they are: an array, a tracer or a type.

    Raises:
        SpecError: no square sparse matrix with concrete, sorted, distinct indices in range.
        UnsupportedError: one with more rows than 32 bits count.
        OperandError: values of another length than the indices.
    """
    storage, (first, second), values, shape = formats.taken(a)
    checks.square(shape)
    n, nnz = shape[0], len(second)
    checks.limits(n, nnz)
    checks.values(values, nnz)
    offsets = np.int32 if nnz <= MOST else np.int64
    if storage != "coo":
        checks.offsets(first, n, nnz, storage)
        checks.in_range(first, second, n, storage)
        pattern = Pattern(storage, first.astype(offsets), second.astype(np.int32))
        checks.ascending(pattern)
        return pattern, values
    checks.within(first, second, n)
    indptr = np.zeros(n + 1, offsets)
    np.cumsum(np.bincount(first, minlength=n), out=indptr[1:])
    keys = first.astype(np.int64) * n + second
    if (keys[1:] > keys[:-1]).all():  # as most are: then this is CSR
        return Pattern("csr", indptr, second.astype(np.int32)), values
    order = np.argsort(keys, kind="stable")
    checks.distinct(keys[order], order, n)
    columns = second[order].astype(np.int32)
    return Pattern("coo", indptr, columns, order.astype(offsets)), values
