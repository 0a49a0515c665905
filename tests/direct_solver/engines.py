"""The engines, each with what makes a plan run on it; and what a block of calls counted."""

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
import scipy.sparse as sp
from jax.experimental import sparse

import nvstate as nvs
from nvstate import direct_solver as solver

COUNTS = (
    "analyses",
    "factorizations",
    "refactorizations",
    "solves",
    "factor_hits",
    "factor_misses",
)
FAILURES = (jax.errors.JaxRuntimeError, ValueError)  # the latter from a CPU, for bad arguments
ENGINES = ("pardiso", "superlu", pytest.param("cudss", marks=pytest.mark.gpu))


@dataclasses.dataclass(frozen=True)
class Engine:
    """One of "pardiso", "superlu" and "cudss"."""

    name: str

    @classmethod
    def of(cls, name: str) -> "Engine":
        """The engine; skips where it is not installed."""
        engine = cls(name)
        if name == "pardiso" and engine.plan(sp.eye_array(2, format="csr")).backend != name:
            pytest.skip("mkl is not installed")
        return engine

    @property
    def device(self) -> Any:
        """Where it runs."""
        return jax.devices("cuda" if self.name == "cudss" else "cpu")[0]

    @property
    def options(self) -> dict[str, Any]:
        """What to add to `plan`'s arguments."""
        return {"knobs": solver.SuperLU()} if self.name == "superlu" else {}

    def put(self, x: Any) -> Any:
        """The array on this engine's device, of the same dtype."""
        y = jax.device_put(x, self.device)
        assert y.dtype == x.dtype
        return y

    def plan(self, a: Any, b: Any = None, **options: Any) -> Any:
        """A plan of a matrix, whose values go to this engine's device if they are SciPy's."""
        return solver.plan(self.there(a), b, **self.options, **options)

    def there(self, a: Any) -> Any:
        """The same matrix with its values on this engine's device."""
        if not sp.issparse(a):
            return a
        a = copy.copy(a)
        a.data = self.put(np.asarray(a.data))
        return a

    def factored(self, a: Any, **options: Any) -> Any:
        """The factor of a matrix, under a plan of its own."""
        plan = self.plan(a, **options)
        return solver.factorize(plan, plan.values_of(self.there(a)))


def formats(a: sp.csr_array, engine: Engine) -> dict[str, Any]:
    """The same matrix in every format, with its values on the engine's device."""
    shuffled = sp.coo_array(a)
    order = np.random.default_rng(8).permutation(a.nnz)
    row, column = shuffled.coords
    shuffled = sp.coo_array((shuffled.data[order], (row[order], column[order])), a.shape)
    data = engine.put(a.data)
    return {
        "csr": engine.there(a),
        "csc": engine.there(sp.csc_array(a)),
        "coo": engine.there(shuffled),
        "arrays": (a.indptr, a.indices, data),
        "bcsr": sparse.BCSR((data, a.indices, a.indptr), shape=a.shape),
        "bcoo": sparse.BCOO(
            (
                engine.put(shuffled.data),
                np.stack(shuffled.coords, axis=1).astype(np.int32),
            ),
            shape=a.shape,
        ),
    }


@contextlib.contextmanager
def counted() -> Iterator[dict[str, int]]:
    """What a block adds to the counters; filled in at its end."""
    before, found = nvs.cache.info(), dict[str, int]()
    yield found
    after = nvs.cache.info()
    found.update({name: getattr(after, name) - getattr(before, name) for name in COUNTS})


def status(factor: Any) -> Any:
    """A factor's status, on the host."""
    return np.asarray(factor.info.status)
