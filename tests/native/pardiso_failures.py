"""PARDISO's failures, each in a process of its own: MKL is opened once, and memory limited.

The argument is `memory`, or the library of failing_mkl.cc: then each call fails in turn. Prints how
many failed.
"""

import ctypes
import os
import resource
import sys

import numpy as np
import scipy.sparse as sp

import nvstate as nvs
from nvstate import _native
from nvstate._native import library, mkl
from tests.native.pardiso_call import Call


def opened(path):
    """The function that lets calls fail, of MKL as this process has it from now on."""
    os.environ["NVSTATE_REAL_MKL"] = str(mkl._one(mkl.files("mkl"), "rt"))
    native = library.load()
    openmp = mkl.files("intel-openmp")["libiomp5.so"]
    library.check(native.nvstate_mkl_open(os.fsencode(path), os.fsencode(openmp)))
    assert _native.pardiso_missing() is None
    return ctypes.CDLL(path).fail


MATRIX = sp.diags_array([[1.0] * 5, [4.0, 5, 6, 7, 8, 9], [1.0] * 5], offsets=[-1, 0, 1])


class Session:
    """Calls of a plan. One that failed has said so; what the others gave must be right."""

    def __init__(self, call):
        self.call, self.told = call, []

    def __call__(self, phase, factor, *args, **changed):
        """What the call gives; None if it failed, or if it goes by a factor that did."""
        if factor is None:
            return None
        try:
            return getattr(self.call, phase)(*args, **changed)
        except Exception as error:  # JAX's class for it is another in each version
            self.told.append(str(error))
            return None

    def solve(self, factor, scales, transposed=0):
        b = self.call.rhs(len(scales), 2)
        ticket = None if factor is None else factor[0]
        values = self.values(scales)
        x = self("solve", factor, ticket, b, values, transposed=transposed)
        self.right(x, b, scales, transposed)

    def values(self, scales):
        return np.outer(scales, self.call.values)

    def right(self, x, b, scales, transposed=0):
        if x is None:
            return
        for i, scale in enumerate(scales):
            a = scale * self.call.matrix
            back = (a.T if transposed else a) @ x[i].T
            np.testing.assert_allclose(back.T, b[i], atol=1e-11)


def plain(session):
    one = session("factorize", (), session.values([1.0, -2]))
    session.solve(one, [1.0, -2])
    two = session("factorize", (), session.values([3.0, 4]))
    session.solve(two, [3.0, 4])
    session.solve(one, [1.0, -2])
    if one is not None:
        session.solve([one[0][::-1]], [-2.0, 1])  # in another order
        session.solve(one, [1.0, 7])  # one is not there
        d = session("diagonal", one, one[0], session.values([1.0, -2]))
        if d is not None:
            whole = session.call.matrix.toarray()
            dets = [np.linalg.det(whole), np.linalg.det(-2 * whole)]
            np.testing.assert_allclose(np.abs(np.prod(d, axis=1)), np.abs(dets), rtol=1e-10)
    b = session.call.rhs(1, 1)
    found = session("factorize_solve", (), b, session.values([5.0]))
    session.right(found and found[0], b, [5.0])


def general(session):
    plain(session)
    one = session("factorize", (), session.values([1.0]))
    session.solve(one, [1.0], transposed=1)


def weak(session):
    """Values that are factorized once more, with matching."""
    b = session.call.rhs(1, 1)
    found = session("factorize_solve", (), b)
    session.right(found and found[0], b, [1.0])


def sweep(fail, scenario, matrix, errors=(-2,), **attributes):
    """How many calls there were to fail."""
    for error in errors:
        for count in range(1, 1000):
            nvs.cache.clear()
            call = CALLS.setdefault(str((scenario, attributes)), Call(matrix, **attributes))
            first = Session(call)
            fail(count, error)
            scenario(first)
            if not fail(0, 0):
                assert first.told == []
                assert count > 3
                break
            assert len(first.told) == 1, (count, first.told)
            assert "pardiso_getdiag failed" in first.told[0] or (
                f"failed with error {error}" in first.told[0]
                and ("RESOURCE_EXHAUSTED" in first.told[0]) == (error == -2)
            ), first.told
            again = Session(call)
            scenario(again)
            assert again.told == [], (count, again.told)
        else:
            raise AssertionError("the calls did not end")
    return count - 1


CALLS: dict[str, Call] = {}


def each_call(path):
    """How many failed, of plans of every kind."""
    fail = opened(path)
    zeros = sp.csr_array([[0.0, 2, 0], [3, 0, 1], [0, 1, 4]])
    return (
        sweep(fail, general, MATRIX, errors=(-2, -3))
        + sweep(fail, general, MATRIX, deterministic=1)
        + sweep(fail, plain, MATRIX, matrix_type="symmetric")
        + sweep(fail, weak, zeros, matching="auto")
    )


def without_memory():
    """A second factorization does not fit; once there is memory again all is as before."""
    t = sp.diags_array([[-1.0] * 35, [2.1] * 36, [-1.0] * 35], offsets=[-1, 0, 1])
    i = sp.eye_array(36)
    grid = sp.kron(sp.kron(t, i), i) + sp.kron(sp.kron(i, t), i) + sp.kron(sp.kron(i, i), t)
    # One thread: OpenMP ends the process if it cannot start others.
    session = Session(Call(grid, slots=3, deterministic=1))
    one = session("factorize", (), session.values([1.0]))
    session.solve(one, [1.0])
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (20 << 20), limits[1]))
    two = session("factorize", (), session.values([2.0]))
    resource.setrlimit(resource.RLIMIT_AS, limits)
    assert two is None
    assert "RESOURCE_EXHAUSTED" in session.told[0], session.told
    for _ in range(2):
        session.solve(session("factorize", (), session.values([3.0])), [3.0])
        session.solve(one, [1.0])
    return len(session.told)


if __name__ == "__main__":
    print(without_memory() if sys.argv[1] == "memory" else each_call(sys.argv[1]))
