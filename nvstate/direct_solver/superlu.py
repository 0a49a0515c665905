"""SciPy's SuperLU behind a host callback: a ring of factorizations with the tickets of the others.

Only NumPy's arrays go in and out: JAX must not be called from a callback.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import secrets
import threading
import warnings
from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

from nvstate import _native, errors
from nvstate._core import scopes
from nvstate.direct_solver import choices as choices_, digest, probes
from nvstate.direct_solver.choices import Choices
from nvstate.direct_solver.spec import SolverSpec

Array = np.ndarray[Any, Any]
OK, PERTURBED, BREAKDOWN, INDEFINITE, INFINITE = range(5)  # words of `Numerics.status`
KEPT = 64  # rings, of which those used longest ago go first
ACCURATE = 0.1  # a probe that is farther off has no right digit

_stamps = itertools.count(1)
_lock = threading.Lock()  # of what follows
_rings: collections.OrderedDict[str, Ring] = collections.OrderedDict()


@dataclasses.dataclass(eq=False)
class _Element:
    """One factorization, of Mᵀ; None where there is none to solve with."""

    factors: Any
    words: Array  # int32 [8], what `Numerics` is made of
    matrix: Any = None  # Mᵀ, where solutions are refined


@dataclasses.dataclass(eq=False)
class _Slot:
    values: Array  # [B, nnz], the slot's own
    elements: list[_Element]
    names: dict[bytes, int]  # tickets that name an element, also those that missed it
    used: int


@functools.cache
def _nonce() -> Array:
    """This process's; not of one that it was forked from when nothing was factorized yet."""
    return np.frombuffer(secrets.token_bytes(8), np.uint32)


class Ring:
    """The factorizations of one spec with its choices, and the pattern that they share."""

    def __init__(self, spec: SolverSpec, choices: Choices, indptr: Array, indices: Array) -> None:
        """Take the pattern: SuperLU itself has no analysis that could be kept."""
        if digest.pattern(spec.n, indptr, indices) != spec.pattern:
            raise ValueError(
                "nvstate.direct_solver: the plan's pattern was edited: its arrays are not those "
                "that it was made from. Plan again."
            )
        self.lock = threading.Lock()
        self.owner, self.n = spec.family, spec.n
        self.refined = max(spec.refinement_steps, 0)  # "auto": it replaces no pivots
        self._spec = spec
        self._slots: list[_Slot] = []
        self._uses = itertools.count(1)
        self._options = _options(spec, choices, _is_symmetric(indptr, indices))
        rows = np.repeat(np.arange(spec.n, dtype=np.int32), np.diff(indptr))
        self._probe = np.where(probes.ups(spec.n, np.arange), 1.0, -1.0)
        self._gather: Array | None = None
        self._conjugated = np.zeros(0, bool)
        if spec.matrix_type == "general":
            self._indptr, self._indices = indptr, indices
            return
        # One triangle is read, the upper of a full view, as the other engines do.
        full = spec.stored_view == "full"
        kept = np.flatnonzero(indices >= rows) if full else np.arange(spec.nnz)
        off = kept[rows[kept] != indices[kept]]
        both = (
            np.concatenate([rows[kept], indices[off]]),
            np.concatenate([indices[kept], rows[off]]),
        )
        order = np.lexsort(both[::-1])
        self._gather = np.concatenate([kept, off])[order]
        if spec.matrix_type in ("hermitian", "hpd"):
            self._conjugated = np.repeat([False, True], [len(kept), len(off)])[order]
        self._indices = both[1][order].astype(np.int32)
        self._indptr = np.searchsorted(both[0][order], np.arange(spec.n + 1)).astype(np.int32)

    def factorized(self, values: Array, most: int) -> _Slot:
        """A slot with these values [B, nnz] factorized: the one that was used longest ago."""
        if len(self._slots) >= most:
            self._slots.remove(min(self._slots, key=lambda s: s.used))
        kept = values.copy()  # XLA's own are gone when the callback returns
        elements = [self._element(row) for row in kept]
        slot = _Slot(kept, elements, {}, next(self._uses))
        self._slots.append(slot)
        return slot

    def found(self, ticket: Array, values: Array) -> _Element | None:
        """The factorization that a ticket [8] names, if it is still there and of these values."""
        name = ticket.tobytes()
        for slot in self._slots:  # values that were edited have one ticket with those they were
            element = slot.names.get(name)
            # Bytes, not numbers: NaN is itself, and the zeros have two signs.
            if element is not None and slot.values[element].tobytes() == values.tobytes():
                slot.used = next(self._uses)
                return slot.elements[element]
        return None

    def tickets(self, slot: _Slot) -> Array:
        """The words [B, 8] that name the factorizations of a slot."""
        place, stamp = self._slots.index(slot), next(_stamps)
        words = [*_nonce(), place, 0, stamp & 0xFFFFFFFF, stamp >> 32, 0, 0]
        tickets = np.tile(np.array(words, np.uint32), (len(slot.elements), 1))
        tickets[:, 3] = np.arange(len(slot.elements))
        slot.names.update({ticket.tobytes(): i for i, ticket in enumerate(tickets)})
        return tickets

    def _element(self, values: Array) -> _Element:
        words = np.array([OK, 0, -1, -1, -1, 0, 0, 0], np.int32)
        if not np.isfinite(values).all():
            words[0] = INFINITE
            return _Element(None, words)
        matrix = self._matrix(values)
        _native.solver_count("factorizations")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", scipy.sparse.linalg.MatrixRankWarning)
                factors = scipy.sparse.linalg.splu(matrix, **self._options)
        except RuntimeError as error:
            if "singular" not in str(error):
                raise
            words[0] = BREAKDOWN
            return _Element(None, words)
        words[5], words[6] = np.array([factors.nnz], np.int64).view(np.int32)
        if self._spec.matrix_type in ("spd", "hpd"):
            failing = _failing(factors)
            if failing >= 0:
                words[0], words[4] = INDEFINITE, failing
                return _Element(None, words)
        probe = self._probe.astype(values.dtype)
        with np.errstate(all="ignore"):
            back = factors.solve(matrix.T @ probe, trans="T")
            off = np.abs(back - probe).max()
        if not off <= ACCURATE:  # NaN too
            words[0] = BREAKDOWN
            return _Element(None, words)
        return _Element(factors, words, matrix if self.refined else None)

    def _matrix(self, values: Array) -> Any:
        """Mᵀ in CSC, which is M in CSR."""
        if self._gather is not None:
            values = values[self._gather]
        if self._conjugated.size:
            values = np.where(self._conjugated, values.conj(), values)
        matrix = scipy.sparse.csc_array(
            (values, self._indices, self._indptr), shape=(self._spec.n, self._spec.n)
        )
        if self._conjugated.size:
            matrix.setdiag(matrix.diagonal().real)
        return matrix


def _is_symmetric(indptr: Array, indices: Array) -> bool:
    """Whether a pattern is that of its transpose."""
    n = len(indptr) - 1
    ones = np.ones(len(indices), np.int8)
    pattern = scipy.sparse.csr_array((ones, indices, indptr), shape=(n, n))
    turned = pattern.T.tocsr()
    turned.sort_indices()
    return bool((turned.indptr == indptr).all() and (turned.indices == indices).all())


def _options(spec: SolverSpec, choices: Choices, is_symmetric: bool) -> dict[str, Any]:
    """The keywords of `splu`; `is_symmetric`: the pattern of a general matrix is.

    Measured (SciPy 1.17.1) on 16 grids, meshes and networks: with a minimum degree ordering of
    A + Aᵀ and its symmetric mode, which still pivots, factors of such have from 0.55 to 1.16 times
    the entries that SciPy's default leaves. Without that mode one took eighty times as long.
    """
    said = choices_.options(choices)
    symmetric = is_symmetric or spec.matrix_type != "general"
    by_name = {"amd": "MMD_AT_PLUS_A", "colamd": "COLAMD", "none": "NATURAL"}
    usual = "MMD_AT_PLUS_A" if symmetric else "COLAMD"
    order = said["permc_spec"] or by_name.get(choices_.reordering(spec, choices), usual)
    found: dict[str, Any] = {"permc_spec": order, "options": {}}
    if spec.pivot_threshold:
        found["diag_pivot_thresh"] = float.fromhex(spec.pivot_threshold)
    elif spec.matrix_type in ("spd", "hpd"):
        found["diag_pivot_thresh"] = 0.0  # the diagonal's pivots, whose signs then tell
    if symmetric and order == "MMD_AT_PLUS_A":
        found["options"]["SymmetricMode"] = True
    if said["equilibrate"] != -1:
        found["options"]["Equil"] = bool(said["equilibrate"])
    for name in ("relax", "panel_size"):
        if said[name] != -1:
            found[name] = said[name]
    return found


def _failing(factors: Any) -> int:
    """The row of the first pivot that is not positive; -1 if the matrix is definite.

    With pivots from the diagonal alone those of LU are those of LDLᴴ.
    """
    pivots = factors.U.diagonal()
    bad = np.flatnonzero(~(pivots.real > 0))
    moved = np.flatnonzero(factors.perm_r != factors.perm_c)
    first = min(np.concatenate([bad, factors.perm_c[moved]]), default=-1)
    return -1 if first < 0 else int(np.flatnonzero(factors.perm_c == first)[0])


def ring(spec: SolverSpec, choices: Choices, name: str, indptr: Array, indices: Array) -> Ring:
    """The ring of this name, made unless there is one."""
    with _lock:
        found = _rings.get(name)
        if found is None:
            found = _rings[name] = Ring(spec, choices, np.array(indptr), np.array(indices))
            while len(_rings) > KEPT:
                _rings.popitem(last=False)
        _rings.move_to_end(name)
        return found


def drop(owner: int | None) -> None:
    """Drop the rings of this owner; None: all."""
    with _lock:
        for name in [n for n, r in _rings.items() if owner is None or r.owner == owner]:
            del _rings[name]


# The phases, as the native targets have them


def factorize(own: Ring, values: Array, slots: int) -> tuple[Array, Array]:
    """Tickets uint32 [B, 8] and words int32 [B, 8] of values [B, nnz]."""
    with own.lock:
        slot = own.factorized(values, slots)
        tickets = own.tickets(slot)
    return tickets, np.stack([e.words for e in slot.elements])


def solve(
    own: Ring, values: Array, tickets: Array, b: Array, slots: int, transposed: bool, on_stale: str
) -> Array:
    """Solutions [B, k, n] of b [B, k, n]; NaN where a factorization failed."""
    elements = elements_of(own, values, tickets, slots, on_stale)
    _native.solver_count("solves")
    return np.stack([_solved(own, e, b[i], transposed) for i, e in enumerate(elements)])


def factorize_solve(
    own: Ring, values: Array, b: Array, slots: int, transposed: bool
) -> tuple[Array, Array, Array]:
    """Solutions, and what `factorize` returns."""
    with own.lock:
        slot = own.factorized(values, slots)
        tickets = own.tickets(slot)
    _native.solver_count("solves")
    x = np.stack([_solved(own, e, b[i], transposed) for i, e in enumerate(slot.elements)])
    return x, tickets, np.stack([e.words for e in slot.elements])


def diagonal(own: Ring, values: Array, tickets: Array, slots: int, on_stale: str) -> Array:
    """The diagonals of U [B, n]; NaN where a factorization failed."""
    elements = elements_of(own, values, tickets, slots, on_stale)
    found = np.full((len(values), own.n), np.nan, values.dtype)
    for i, element in enumerate(elements):
        if element.factors is not None:
            found[i] = element.factors.U.diagonal()
    return found


def elements_of(
    own: Ring, values: Array, tickets: Array, slots: int, on_stale: str
) -> list[_Element]:
    """The factorization of each ticket, made again where it is gone."""
    found: list[_Element] = []
    with own.lock:
        for row, ticket in zip(values, tickets, strict=True):
            element = own.found(ticket, row)
            if element is not None:
                _native.solver_count("factor_hits")
            elif on_stale == "raise":
                raise RuntimeError(
                    errors.message(
                        "nvstate.direct_solver",
                        'a factorization is no longer there, and `on_stale="raise"`',
                        expected=f"one of the {slots} made last with this plan",
                        got="another's ticket, or other values",
                        do='Plan with more `factor_slots`, or with `on_stale="refactorize"`.',
                    )
                )
            elif on_stale == "nan":
                _native.solver_count("factor_misses")
                element = _Element(None, np.zeros(0, np.int32))
            else:
                _native.solver_count("factor_misses")
                slot = own.factorized(row[None], slots)
                slot.names[ticket.tobytes()] = 0  # from now on it is found
                element = slot.elements[0]
            found.append(element)
    return found


def _solved(own: Ring, element: _Element, b: Array, transposed: bool) -> Array:
    if element.factors is None:
        return np.full_like(b, complex(np.nan, np.nan) if np.iscomplexobj(b) else np.nan)
    columns, trans = np.ascontiguousarray(b.T), "N" if transposed else "T"
    x = element.factors.solve(columns, trans=trans)
    for _ in range(own.refined):
        matrix = element.matrix if transposed else element.matrix.T
        x += element.factors.solve(columns - matrix @ x, trans=trans)
    return x.T


scopes.also(drop)
