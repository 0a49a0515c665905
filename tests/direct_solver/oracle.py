"""What a system's solution is and how far another may be: SciPy's SuperLU and dense NumPy."""

from typing import Any

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg

from tests.direct_solver.matrices import EPS


def whole(a: Any, matrix_type: str, view: str) -> sp.csr_array:
    """All entries of the matrix that a view stores."""
    a = sp.csr_array(a)
    if view == "full":
        return a
    across = sp.csr_array((sp.tril(a, -1) if view == "lower" else sp.triu(a, 1)).T)
    return sp.csr_array(a + (across.conj() if matrix_type in ("hermitian", "hpd") else across))


def op(a: Any, transpose: str = "none") -> Any:
    """A, Aᵀ or Aᴴ."""
    return {"none": a, "transpose": a.T, "adjoint": a.T.conj()}[transpose]


def superlu(a: Any, b: np.ndarray, transpose: str = "none") -> np.ndarray:
    """SciPy's, which pivots by rows, in double precision."""
    wide = np.promote_types(a.dtype, np.float64)
    factors = scipy.sparse.linalg.splu(sp.csc_array(op(a, transpose)).astype(wide))
    return factors.solve(b.astype(wide))


def dense(a: Any, b: np.ndarray, transpose: str = "none") -> np.ndarray:
    """LAPACK's, in double precision."""
    wide = np.promote_types(a.dtype, np.float64)
    return np.linalg.solve(op(_array(a), transpose).astype(wide), b.astype(wide))


def eliminated(a: Any, b: np.ndarray, transpose: str = "none") -> np.ndarray:
    """Gaussian elimination with row pivoting in long double, for small n."""
    a = op(_array(a), transpose)
    wide = np.clongdouble if a.dtype.kind == "c" else np.longdouble
    u, x = a.astype(wide), np.array(b, wide)
    n = len(u)
    for i in range(n):
        pivot = i + int(np.abs(u[i:, i]).argmax())
        u[[i, pivot]], x[[i, pivot]] = u[[pivot, i]], x[[pivot, i]]
        factors = u[i + 1 :, i] / u[i, i]
        u[i + 1 :] -= factors[:, None] * u[i]
        x[i + 1 :] -= np.multiply.outer(factors, x[i])
    for i in range(n - 1, -1, -1):
        x[i] = (x[i] - u[i, i + 1 :] @ x[i + 1 :]) / u[i, i]
    return x


def _array(a: Any) -> np.ndarray:
    return a.toarray() if sp.issparse(a) else np.asarray(a)


def backward(a: Any, x: Any, b: Any, transpose: str = "none") -> float:
    """The largest of a column's max|b - A x| / (‖A‖∞ max|x| + max|b|); NaN counts as infinite."""
    a = op(sp.csr_array(a), transpose)
    wide = np.clongdouble if a.dtype.kind == "c" else np.longdouble
    a, x, b = sp.csr_array(a).astype(wide), np.asarray(x, wide), np.asarray(b, wide)
    assert x.shape == b.shape, f"{x.shape} instead of {b.shape}"
    rest = np.abs(b - a @ x).max(axis=0, initial=0)
    norm = np.abs(a).sum(axis=1).max()
    scale = norm * np.abs(x).max(axis=0, initial=0) + np.abs(b).max(axis=0, initial=0)
    worst = float(np.max(rest / np.where(scale == 0, 1, scale), initial=0))
    return worst if np.isfinite(worst) else np.inf


def forward(x: Any, want: Any) -> float:
    """max|x - want| / max|want|; NaN counts as infinite."""
    x, want = np.asarray(x), np.asarray(want)
    assert x.shape == want.shape, f"{x.shape} instead of {want.shape}"
    if not x.size:
        return 0.0
    error = float(np.abs(x - want).max() / (np.abs(want).max() or 1))
    return error if np.isfinite(error) else np.inf


def require_solution(a: Any, x: Any, b: Any, transpose: str = "none", *, cond: Any = None) -> None:
    """Fail unless x solves to 50 eps backward, and to 10 cond eps forward where cond is known."""
    eps = EPS[str(np.asarray(b).dtype)]
    assert np.asarray(x).dtype == np.asarray(b).dtype
    assert backward(a, x, b, transpose) <= 50 * eps
    if cond is not None:
        want = eliminated(a, b, transpose) if a.shape[0] <= 64 else dense(a, b, transpose)
        assert forward(x, want) <= 10 * cond * eps


def random(rng: np.random.Generator, shape: Any, dtype: str) -> np.ndarray:
    """Standard normal."""
    x = rng.standard_normal(shape)
    if dtype.startswith("complex"):
        x = x + 1j * rng.standard_normal(shape)
    return np.asarray(x).astype(dtype)
