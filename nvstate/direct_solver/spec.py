"""SolverSpec, the linear system as data: a pattern's digest and how it is factorized."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any, NamedTuple, get_args

from nvstate._core.aval import OperandType
from nvstate._core.spec import Spec
from nvstate.direct_solver.arguments import (
    DTYPES,
    Matching,
    MatrixType,
    Pivoting,
    Reordering,
    View,
    error,
)

MOST = 2**31 - 1  # what 32 bits hold
MOST_MATCHED = 2**30  # entries; cuDSS's limit
_TURNED: dict[View, View] = {"full": "full", "lower": "upper", "upper": "lower"}


class Leaves(NamedTuple):
    """The arrays of a plan; a length of 0 where there is none.

    Attributes:
        indptr: int32|int64 [n + 1], of the matrix as it is stored, in CSR.
        indices: int32 [nnz].
        rows: int32 [nnz], the row of each entry.
        order: int32|int64 [nnz]|[0], where the values of a COO matrix come from.
        permutation: int32 [n]|[0].
        reference: dtype [nnz]|[0], the values that matching and kept pivots are taken from.
    """

    indptr: Any
    indices: Any
    rows: Any
    order: Any
    permutation: Any
    reference: Any


@dataclasses.dataclass(frozen=True)
class SolverSpec(Spec):
    """A x = b with a sparse square A of one pattern; no batch, no columns of b, no device.

    Attributes:
        n: rows and columns.
        nnz: entries that are stored.
        storage: "csr"; "csc", kept as the CSR of the transpose; "coo", with unsorted entries.
        dtype: of A and b.
        index_dtype: of indices.
        offset_dtype: of indptr.
        matrix_type: "general", "symmetric", "hermitian", "spd" or "hpd".
        view: which entries of A are stored: "full", "lower" or "upper".
        reordering: as in `plan`; "user" with a permutation.
        permutation: digest of the permutation, or "".
        matching: as in `plan`. "auto": without, and where that fails, "product" of the values
            themselves.
        reference: digest of the values that matching or kept pivots are taken from, or "".
        pivoting: as in `plan`.
        pivot_threshold: hexadecimal text of a float; "" for the engine's own.
        pivot_epsilon: the same.
        refinement_steps: a number; -1 for as many as help where pivots were perturbed.
        reuse_pivots: whether the reference's pivots are kept.
        deterministic: whether equal inputs give equal bits.
        pattern: digest of the pattern, as it is stored.
        order: digest of the order of unsorted entries, or "".
    """

    n: int
    nnz: int
    storage: str
    dtype: str
    index_dtype: str
    offset_dtype: str
    matrix_type: MatrixType
    view: View
    reordering: Reordering | str
    permutation: str
    matching: Matching
    reference: str
    pivoting: Pivoting
    pivot_threshold: str
    pivot_epsilon: str
    refinement_steps: int
    reuse_pivots: bool
    deterministic: bool
    pattern: str
    order: str = ""

    @property
    def matches_reference(self) -> bool:
        """Whether large entries of reference values are brought to the diagonal."""
        return self.matching not in ("none", "auto")

    def __post_init__(self) -> None:
        """Refuse what `spec` would not make."""
        text = r"-?0x[01]\.[0-9a-f]{1,13}p[+-]\d+|"
        digest = r"[0-9a-f]{32}"
        canonical = (
            type(self.n) is type(self.nnz) is type(self.refinement_steps) is int
            and 1 <= self.n <= MOST
            and 1 <= self.nnz <= self.n**2
            and self.storage in ("csr", "csc", "coo")
            and self.dtype in DTYPES
            and self.index_dtype == "int32"
            and self.offset_dtype == ("int32" if self.nnz <= MOST else "int64")
            and self.matrix_type in get_args(MatrixType)
            and (self.is_complex or self.matrix_type not in ("hermitian", "hpd"))
            and not (self.is_complex and self.matrix_type == "spd")
            and self.view in (get_args(View) if self.matrix_type != "general" else ("full",))
            and self.reordering in (*get_args(Reordering), "user")
            and bool(self.permutation) == (self.reordering == "user")
            and self.matching in get_args(Matching)
            and bool(self.reference) == (self.matches_reference or self.reuse_pivots)
            and self.pivoting in get_args(Pivoting)
            and all(re.fullmatch(text, x) for x in (self.pivot_threshold, self.pivot_epsilon))
            and self.refinement_steps >= -1
            and type(self.reuse_pivots) is type(self.deterministic) is bool
            and bool(re.fullmatch(digest, self.pattern))
            and all(re.fullmatch(f"{digest}|", x) for x in (self.permutation, self.reference))
            and bool(re.fullmatch(digest if self.storage == "coo" else "", self.order))
        )
        if not canonical:
            raise error(
                "not in canonical form",
                "what `nvstate.direct_solver.spec` makes",
                f"SolverSpec({self.fields()})",
                "Make specs with `nvstate.direct_solver.spec`.",
            )

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the operands, in the order of a call."""
        return ("values", "b")

    @property
    def is_complex(self) -> bool:
        """Whether A is complex."""
        return self.dtype.startswith("complex")

    @property
    def stored_view(self) -> View:
        """The view of the matrix that is stored: of "csc" the other triangle."""
        return _TURNED[self.view] if self.storage == "csc" else self.view

    @functools.cached_property
    def types(self) -> tuple[OperandType, OperandType]:
        """The operands, b with one column."""
        return OperandType((self.nnz,), self.dtype), OperandType((self.n,), self.dtype)

    def accepts(self, planned: tuple[OperandType, ...], got: tuple[OperandType, ...]) -> bool:
        """Values [nnz], and b [n] or [n, k] with any k."""
        values, b = got
        return (
            values == self.types[0]
            and b.dtype == self.dtype
            and len(b.shape) in (1, 2)
            and b.shape[0] == self.n
        )
