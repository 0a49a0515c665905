"""Calls of the target `nvstate_pardiso_v1` itself, without primitives or plans."""

import itertools
from typing import Any

import jax
import numpy as np
import scipy.sparse as sp

from nvstate import _native
from nvstate.direct_solver import digest

TYPES = {"float32": 1e-4, "float64": 1e-11, "complex64": 1e-4, "complex128": 1e-11}
_rings = itertools.count()
NONE = np.zeros(2, np.uint64)


def words(text):
    return np.array(digest.lanes(text), np.uint64)


class Call:
    """A pattern and the attributes of its calls, in a ring of its own."""

    def __init__(self, matrix, dtype=None, *, permutation=None, reference=None, **attributes):
        stored = sp.csr_array(matrix)
        stored.sort_indices()
        self.matrix = stored
        self.dtype = np.dtype(dtype or stored.dtype)
        self.indptr, self.indices = stored.indptr, stored.indices
        self.n, self.nnz = stored.shape[0], stored.nnz
        self.values = stored.data.astype(self.dtype)
        self.permutation = np.array([] if permutation is None else permutation, np.int32)
        self.reference = np.array([] if reference is None else reference, self.dtype)
        self._programs: dict[str, Any] = {}  # by what they are compiled for
        self.attributes: dict[str, Any] = {
            "v": 1,
            "phase": "factorize",
            "transposed": 0,
            "owner": 1,
            "ring": f"test {next(_rings)}",
            "pattern": words(digest.pattern(self.n, self.indptr, self.indices)),
            "reference": NONE if reference is None else words(digest.reference(self.reference)),
            "permutation": NONE
            if permutation is None
            else words(digest.permutation(self.permutation)),
            "matrix_type": "general",
            "view": "full",
            "reordering": "auto",
            "matching": "none",
            "pivoting": "auto",
            "pivot_threshold": float("nan"),
            "pivot_epsilon": float("nan"),
            "refinement_steps": -1,
            "reuse_pivots": 0,
            "deterministic": 0,
            "slots": 2,
            "on_stale": "refactorize",
            "host_threads": 0,
            "hybrid_memory": "",
            "hybrid_execute": 0,
            "nd_levels": -1,
            "nd_unbalance": -1,
            "superpanels": -1,
            "max_lu_nnz": -1,
            "factorization_algorithm": "default",
            "solve_algorithm": "default",
            "pivot_epsilon_algorithm": "default",
            "refinement_tolerance": float("nan"),
            "register_host_memory": -1,
            "tree": np.array([], np.uint64),
            **attributes,
        }

    def said(self, phase, **changed):
        """The attributes of a call, as JAX wants them."""
        all_ = {**self.attributes, "phase": phase, **changed}
        return {
            k: np.int64(v) if isinstance(v, int) else np.float64(v) if isinstance(v, float) else v
            for k, v in all_.items()
        }

    def run(self, phase, results, *operands, **changed):
        _native.register_cpu()
        attributes = self.said(phase, **changed)
        key = f"{results} {attributes}"
        if key not in self._programs:
            types = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in results]
            call = jax.ffi.ffi_call("nvstate_pardiso_v1", types)
            self._programs[key] = jax.jit(lambda *a: call(*a, **attributes))
        fixed = (self.indptr, self.indices, self.permutation, self.reference)
        with jax.enable_x64(True):
            return [np.asarray(r) for r in self._programs[key](*fixed, *operands)]

    def batch(self, values):
        values = np.asarray(self.values if values is None else values, self.dtype)
        return values.reshape(-1, self.nnz)

    def tickets(self, size):
        return [((size, 8), np.uint32), ((size, 8), np.int32)]

    def factorize(self, values=None, **changed):
        values = self.batch(values)
        return self.run("factorize", self.tickets(len(values)), values, **changed)

    def solve(self, ticket, b, values=None, **changed):
        b = np.asarray(b, self.dtype)
        return self.run(
            "solve", [(b.shape, b.dtype)], self.batch(values), np.asarray(ticket), b, **changed
        )[0]

    def factorize_solve(self, b, values=None, **changed):
        b, values = np.asarray(b, self.dtype), self.batch(values)
        results = [(b.shape, b.dtype), *self.tickets(len(values))]
        return self.run("factorize_solve", results, values, b, **changed)

    def diagonal(self, ticket, values=None, **changed):
        values = self.batch(values)
        return self.run(
            "diagonal", [((len(values), self.n), self.dtype)], values, np.asarray(ticket), **changed
        )[0]

    def rhs(self, *shape, seed=0):
        """Right-hand sides [B, k, n]."""
        rng = np.random.default_rng(seed)
        b = rng.standard_normal((*shape, self.n))
        if self.dtype.kind == "c":
            b = b + 1j * rng.standard_normal(b.shape)
        return b.astype(self.dtype)

    def with_values(self, values):
        return sp.csr_array((np.asarray(values), self.indices, self.indptr), (self.n, self.n))
