"""The libraries themselves, called through ctypes: PARDISO on CPUs, cuDSS on GPUs.

They say what nvstate adds to the library's own time, so they share none of its native code.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from nvstate import _native
from nvstate.bench.solver_cases import RAW
from nvstate.bench.timing import Candidate

if TYPE_CHECKING:
    from nvstate.bench.solver_candidates import Problem

Address = ctypes.c_void_p
FACTORIZATION, SOLVE = 22, 33  # PARDISO's phases
CUDSS_ANALYSIS, CUDSS_FACTORIZATION, CUDSS_SOLVE = 3, 4, 1008
MATCHING, REAL64, INT32 = 3, 1, 10  # cuDSS's numbers


def whole(problem: Problem, platform: str) -> Candidate:
    """Factorize new values and solve."""
    return _candidate(problem, platform, lambda raw: raw.whole())


def solve(problem: Problem, platform: str) -> Candidate:
    """Solve with a factorization that is there."""
    return _candidate(problem, platform, lambda raw: raw.solve())


def _candidate(problem: Problem, platform: str, call: Callable[[Any], Any]) -> Candidate:
    kind = Pardiso if platform == "cpu" else Cudss

    def make() -> Callable[[], Any]:
        raw = kind(problem)
        raw.whole()
        return lambda: call(raw)

    return Candidate(RAW, make, kind.wait, foreign=True)


class Pardiso:
    """A handle of PARDISO with one factorization."""

    def __init__(self, problem: Problem) -> None:
        """Analyse."""
        if why := _native.pardiso_missing():
            raise RuntimeError(why)
        self._call = ctypes.CDLL(_native.load().nvstate_library_path(b"mkl").decode()).pardiso
        self._call.restype = None
        matrix = problem.matrix
        self._n = ctypes.c_int(matrix.shape[0])
        self._indptr, self._indices = matrix.indptr.astype("int32"), matrix.indices.astype("int32")
        self._values = [np.array(problem.values[i]) for i in range(2)]
        self._b, self._turn = np.array(problem.b), 0
        self._x = np.empty_like(self._b)
        self._pt, self._iparm = np.zeros(64, np.int64), np.zeros(64, np.int32)
        for place, value in {1: 1, 2: 2, 10: 13, 35: 1}.items():  # not its defaults, counted from 1
            self._iparm[place - 1] = value
        self._run(11)
        weakref.finalize(self, _released, self._call, self._pt, self._n)

    def _run(self, phase: int) -> None:
        one, error = ctypes.c_int(1), ctypes.c_int(0)
        kind, verbose, which = ctypes.c_int(11), ctypes.c_int(0), ctypes.c_int(phase)
        arrays = (self._values[self._turn], self._indptr, self._indices)
        addresses = [Address(a.ctypes.data) for a in arrays]
        r = ctypes.byref
        self._call(
            Address(self._pt.ctypes.data), r(one), r(one), r(kind), r(which), r(self._n),
            *addresses, None, r(one), Address(self._iparm.ctypes.data), r(verbose),
            Address(self._b.ctypes.data), Address(self._x.ctypes.data), r(error),
        )  # fmt: skip
        if error.value:
            raise RuntimeError(f"pardiso: error {error.value} in phase {phase}")

    def whole(self) -> Any:
        """Factorize and solve."""
        self._turn ^= 1
        self._run(FACTORIZATION)
        self._run(SOLVE)
        return self._x

    def solve(self) -> Any:
        """Solve."""
        self._run(SOLVE)
        return self._x

    @staticmethod
    def wait(_: Any) -> None:
        """Calls return when they are done."""


def _released(call: Any, pt: Any, n: Any) -> None:
    one, kind, phase, error = (ctypes.c_int(i) for i in (1, 11, -1, 0))
    iparm, r = np.zeros(64, np.int32), ctypes.byref
    call(
        Address(pt.ctypes.data), r(one), r(one), r(kind), r(phase), r(n), None, None, None, None,
        r(one), Address(iparm.ctypes.data), r(error), None, None, r(error),
    )  # fmt: skip


class Cudss:
    """A handle of cuDSS with one factorization, on the default stream, in JAX's own arrays."""

    def __init__(self, problem: Problem) -> None:
        """Analyse."""
        _native.cudss_version()  # opens it, and refuses another version
        self._library = ctypes.CDLL(_native.open_library("cudss"))
        self._leaves = problem.plan.leaves
        self._values = [jax.block_until_ready(problem.values[i]) for i in range(2)]
        self._b, self._turn = problem.b, 0
        self._out = jax.block_until_ready(problem.b + 0)
        made = [Address() for _ in range(6)]
        self._handle, self._config, self._data, self._a, self._x, self._rhs = made
        r, n, nnz = ctypes.byref, *map(ctypes.c_int64, (len(problem.b), problem.matrix.nnz))
        self._do("cudssCreate", r(self._handle))
        self._do("cudssConfigCreate", r(self._config))
        off = ctypes.c_int(0)
        self._do("cudssConfigSet", self._config, MATCHING, r(off), ctypes.c_size_t(4))
        self._do("cudssDataCreate", self._handle, r(self._data))
        indptr, indices = (_address(x) for x in (self._leaves.indptr, self._leaves.indices))
        self._do(
            "cudssMatrixCreateCsr", r(self._a), n, n, nnz, indptr, None, indices,
            _address(self._values[0]), INT32, INT32, REAL64, 0, 0, 0,
        )  # fmt: skip
        for matrix, array in ((self._x, self._out), (self._rhs, self._b)):
            one = ctypes.c_int64(1)
            self._do("cudssMatrixCreateDn", r(matrix), n, one, n, _address(array), REAL64, 0)
        self._phase(CUDSS_ANALYSIS)
        weakref.finalize(self, _destroyed, self._library, made)

    def _do(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            raise RuntimeError(f"{function}: status {status}")

    def _phase(self, phase: int) -> None:
        matrices = (self._a, self._x, self._rhs)
        self._do("cudssExecute", self._handle, phase, self._config, self._data, *matrices)

    def whole(self) -> Any:
        """Factorize and solve."""
        self._turn ^= 1
        self._do("cudssMatrixSetValues", self._a, _address(self._values[self._turn]))
        self._phase(CUDSS_FACTORIZATION)
        self._phase(CUDSS_SOLVE)
        return self._out

    def solve(self) -> Any:
        """Solve."""
        self._phase(CUDSS_SOLVE)
        return self._out

    @staticmethod
    def wait(_: Any) -> None:
        """Wait for the device."""
        status = ctypes.CDLL("libcuda.so.1").cuCtxSynchronize()
        if status:
            raise RuntimeError(f"cuCtxSynchronize: {status}")


def _address(x: Any) -> Any:
    return Address(x.unsafe_buffer_pointer())


def _destroyed(library: Any, made: list[Any]) -> None:
    handle, config, data, *matrices = made
    for matrix in matrices:
        library.cudssMatrixDestroy(matrix)
    library.cudssDataDestroy(handle, data)
    library.cudssConfigDestroy(config)
    library.cudssDestroy(handle)
