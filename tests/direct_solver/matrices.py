"""Matrices to solve with: generated from fixed seeds, and real ones out of other packages."""

import functools
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

EPS = {"float32": 2.0**-23, "complex64": 2.0**-23, "float64": 2.0**-52, "complex128": 2.0**-52}

# Entries one by one


def entries(n: int, view: str = "full", seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, by rows, of a symmetric pattern with a full diagonal and a few beside."""
    rng = np.random.default_rng(seed)
    there = rng.random((n, n)) < 2.0 / n
    there |= there.T | np.eye(n, dtype=bool)
    keep = {"full": there, "lower": np.tril(there), "upper": np.triu(there)}[view]
    rows, columns = np.nonzero(keep)
    return rows.astype(np.int32), columns.astype(np.int32)


def mild(
    rng: np.random.Generator, rows: Any, columns: Any, dtype: str, matrix_type: str = "general"
) -> np.ndarray:
    """Random values of a dominant diagonal, of a condition below 10; and so are their sines."""
    beside = np.bincount(rows, minlength=rows.max() + 1)
    most = np.max(beside + np.bincount(columns, minlength=len(beside)))
    values = rng.uniform(-0.5, 0.5, len(rows))
    if dtype.startswith("complex"):
        values = values + 1j * rng.uniform(-0.5, 0.5, len(rows))
    values = values / most
    own = rows == columns
    sizes = rng.uniform(0.8, 1.2, own.sum())
    definite = matrix_type in ("spd", "hpd")
    values[own] = sizes if definite else sizes * (1 - 2 * (np.arange(own.sum()) % 3 == 1))
    return values.astype(dtype)


def in_format(storage: str, n: int, rows: Any, columns: Any, values: Any) -> Any:
    """A matrix of SciPy's "csr", "csc" or "coo" whose `data` are these: an array or a type."""
    if storage == "coo":
        a = sp.coo_array((np.zeros(len(rows)), (rows, columns)), (n, n))
    else:
        major, minor = (rows, columns) if storage == "csr" else (columns, rows)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(major, minlength=n))])
        a = (sp.csr_array if storage == "csr" else sp.csc_array)(
            (np.zeros(len(rows)), minor, offsets.astype(np.int32)), (n, n)
        )
    a.data = values
    return a


def ordered(storage: str, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The entries in the order of a format; of "coo" in disorder."""
    if storage == "csr":
        return rows, columns
    order = (
        np.lexsort((rows, columns))
        if storage == "csc"
        else np.random.default_rng(3).permutation(len(rows))
    )
    return rows[order], columns[order]


# Whole ones


def poisson(*shape: int) -> sp.csr_array:
    """Minus the Laplacian on a grid, Dirichlet: spd."""
    total = None
    for i, m in enumerate(shape):
        line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(m, m))
        left, right = np.prod(shape[:i], dtype=int), np.prod(shape[i + 1 :], dtype=int)
        term = sp.kron(sp.kron(sp.eye_array(left), line), sp.eye_array(right))
        total = term if total is None else total + term
    return tidy(total)


def tidy(a: Any) -> sp.csr_array:
    """CSR with sorted, distinct, 32-bit indices."""
    a = sp.csr_array(a)
    a.sum_duplicates()
    a.sort_indices()
    return sp.csr_array(
        (a.data, a.indices.astype(np.int32), a.indptr.astype(np.int32)), shape=a.shape
    )


def convection(n: int, speed: float = 40.0) -> sp.csr_array:
    """Convection and diffusion on n² points: far from symmetric."""
    h = 1 / (n + 1)
    step = sp.diags_array([-1.0, 1.0], offsets=[-1, 0], shape=(n, n)) * (speed * h)
    eye = sp.eye_array(n)
    return tidy(poisson(n, n) + sp.kron(step, eye) + 0.3 * sp.kron(eye, step))


def helmholtz(n: int, wave: float = 12.0) -> sp.csr_array:
    """-Δ - k² with damping: complex symmetric, indefinite."""
    h = 1 / (n + 1)
    shift = (wave * h) ** 2 * (1 + 0.1j)
    return tidy(poisson(n, n).astype("complex128") - shift * sp.eye_array(n * n))


def saddle(n: int) -> sp.csr_array:
    """[K Bᵀ; B 0] with a third as many constraints: symmetric, with no entries in the corner."""
    rng = np.random.default_rng(5)
    k, m = poisson(n, n), n * n // 3
    b = sp.csr_array((rng.uniform(1, 2, m), (np.arange(m), 3 * np.arange(m))), (m, n * n))
    b = b + sp.csr_array((rng.uniform(0, 0.5, m), (np.arange(m), 3 * np.arange(m) + 1)), (m, n * n))
    return tidy(sp.block_array([[k, b.T], [b, None]]))


def weak_diagonal(n: int, seed: int = 0, diagonal: float = 1e-3) -> sp.csr_array:
    """Random entries, and far smaller ones on the diagonal: static pivoting alone fails."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.arange(n), 4)
    a = sp.csr_array((rng.standard_normal(4 * n), (rows, rng.integers(0, n, 4 * n))), (n, n))
    turned = rng.permutation(n)
    large = sp.csr_array((rng.uniform(2, 3, n), (np.arange(n), turned)), (n, n))
    a = sp.lil_array(a + large)
    a.setdiag(diagonal)
    return tidy(a)


def zero_diagonal(n: int) -> sp.csr_array:
    """Nothing stored on the diagonal, every entry away from it."""
    rng = np.random.default_rng(9)
    beside = [rng.uniform(0.5, 1, n), rng.uniform(2, 3, n), rng.uniform(-0.5, 0.5, n)]
    parts = [
        sp.csr_array((v, (np.arange(n), (np.arange(n) + s) % n)), (n, n))
        for v, s in zip(beside, (1, 2, 5), strict=True)
    ]
    return tidy(sum(parts[1:], parts[0]))


def of_type(matrix_type: str, dtype: str, n: int = 40, seed: int = 0) -> sp.csr_array:
    """All entries of a random matrix of this type, of a condition below 10."""
    view = "full" if matrix_type == "general" else "lower"
    rows, columns = entries(n, view, seed + 1)
    values = mild(np.random.default_rng(seed), rows, columns, dtype, matrix_type)
    a = sp.csr_array((values, (rows, columns)), (n, n))
    if matrix_type == "general":
        return tidy(a)
    across = sp.tril(a, -1).T
    return tidy(a + (across.conj() if matrix_type in ("hermitian", "hpd") else across))


def rows_of(a: sp.csr_array) -> np.ndarray:
    """The row of each entry."""
    return np.repeat(np.arange(a.shape[0]), np.diff(a.indptr))


def seen(a: sp.csr_array, view: str) -> sp.csr_array:
    """What a view of these entries stores."""
    return tidy({"full": lambda a: a, "lower": sp.tril, "upper": sp.triu}[view](a))


def newton(n: int, steps: int) -> list[sp.csr_array]:
    """Jacobians of -Δu + u³ at one state after another: one pattern."""
    rng = np.random.default_rng(4)
    states = [rng.uniform(0, 1 + s, n * n) for s in range(steps)]
    return [tidy(poisson(n, n) + sp.diags_array(3 * u**2)) for u in states]


def dense_small(n: int) -> sp.csr_array:
    """Every entry of a random matrix."""
    return tidy(np.random.default_rng(n).standard_normal((n, n)) + 3 * np.eye(n))


GENERATED = {
    "poisson-2d": (lambda: poisson(13, 17), "spd"),
    "poisson-3d": (lambda: poisson(6, 7, 5), "spd"),
    "convection": (lambda: convection(15), "general"),
    "helmholtz": (lambda: helmholtz(14), "symmetric"),
    "saddle": (lambda: saddle(9), "symmetric"),
    "weak-diagonal": (lambda: weak_diagonal(200), "general"),
    "zero-diagonal": (lambda: zero_diagonal(150), "general"),
    "newton": (lambda: newton(12, 3)[-1], "spd"),
    **{f"n-{n}": (functools.partial(dense_small, n), "general") for n in range(1, 9)},
}

# Real ones: a test that asks for one is skipped where its package is not installed

PYAMG = {
    "airfoil": "general",
    "bar": "spd",
    "helmholtz_2D": "symmetric",
    "knot": "spd",
    "recirc_flow": "general",
    "unit_cube": "spd",
    "local_disc_galerkin_diffusion": "spd",
}
CASES = ("case9", "case14", "case30", "case57", "case118", "case300")
DEBIAN = {
    "lund_a.rsa": "spd",
    "pores_1.mtx": "general",
    "utm300.rua": "general",
    "big.rua": "general",
    "g20.rua": "general",
    "cg20.cua": "general",
}
FOLDERS = (
    "/usr/lib/R/library/Matrix/external",
    "/usr/lib/R/site-library/Matrix/external",
    "/usr/lib/*/superlu-dist/tests/EXAMPLE",
)


def pyamg(name: str) -> sp.csr_array:
    """One of pyamg's example matrices."""
    package = pytest.importorskip("pyamg")
    path = Path(package.__file__).parent / "gallery" / "example_data" / f"{name}.mat"
    return tidy(scipy.io.loadmat(path)["A"])


def debian(name: str) -> sp.csr_array:
    """A file of Debian's r-cran-matrix or libsuperlu-dist-dev."""
    found = [path for folder in FOLDERS for path in Path("/").glob(f"{folder[1:]}/{name}")]
    if not found:
        pytest.skip(f"{name} is in Debian's packages r-cran-matrix and libsuperlu-dist-dev")
    return tidy(scipy.io.mmread(found[0]) if name.endswith(".mtx") else harwell_boeing(found[0]))


def harwell_boeing(path: Path) -> sp.csc_array:
    """An assembled matrix of a Harwell-Boeing file; right-hand sides after it are not read."""
    lines = path.read_text().splitlines()
    counts = [int(lines[1][14 * i : 14 * i + 14]) for i in range(1, 4)]
    kind = lines[2][:3].upper()
    n, nnz = int(lines[2][14:28]), int(lines[2][42:56])
    formats = [lines[3][:16], lines[3][16:32], lines[3][32:52]]
    start = 4 + (len(lines[1]) > 56 and int(lines[1][56:70] or 0) > 0)
    indptr, indices, values = (
        _fields(block, form)
        for block, form in zip(_blocks(lines[start:], counts), formats, strict=True)
    )
    numbers = np.array([float(v.upper().replace("D", "E")) for v in values])
    if kind[0] == "C":
        numbers = numbers[0::2] + 1j * numbers[1::2]
    starts, rows = (np.array([int(x) - 1 for x in part]) for part in (indptr, indices))
    a = sp.csc_array((numbers[:nnz], rows, starts), (n, n))
    return a if kind[1] != "S" else sp.csc_array(a + sp.tril(a, -1).T)


def _blocks(lines: list[str], counts: list[int]) -> list[list[str]]:
    return [lines[a:b] for a, b in itertools.pairwise(np.cumsum([0, *counts]))]


def _fields(lines: list[str], form: str) -> list[str]:
    found = re.search(r"\((?:\d+[pP],?)?(\d*)[iIeEdDfF](\d+)", form)
    assert found is not None, form
    width = int(found[2])
    cut = (line[i : i + width] for line in lines for i in range(0, len(line.rstrip()), width))
    return [field for field in cut if field.strip()]


@functools.cache
def network(name: str) -> tuple[Any, Any, Any, Any]:
    """One of pypower's cases: admittances, injections, the buses with a fixed angle or voltage."""
    api = pytest.importorskip("pypower.api")
    from pypower.bustypes import bustypes
    from pypower.makeSbus import makeSbus

    case = api.ext2int(getattr(api, name, None)() if hasattr(api, name) else _case(name))
    admittance, _, _ = api.makeYbus(case["baseMVA"], case["bus"], case["branch"])
    power = makeSbus(case["baseMVA"], case["bus"], case["gen"])
    _, pv, pq = bustypes(case["bus"], case["gen"])
    return tidy(admittance), power, pv, pq


def _case(name: str) -> Any:
    import importlib

    return getattr(importlib.import_module(f"pypower.{name}"), name)()


def admittance(name: str) -> sp.csr_array:
    """The complex admittance matrix of a case, with the loads at their nominal voltage."""
    matrix, power, _, _ = network(name)
    return tidy(matrix + sp.diags_array(-np.conj(power)))


def power_flow(name: str, steps: int = 4) -> list[sp.csr_array]:
    """Jacobians of the first steps of Newton's method on a case's power flow: one pattern."""
    matrix, power, pv, pq = network(name)
    both = np.concatenate([pv, pq])
    voltage = np.ones(matrix.shape[0], complex)
    jacobians, pattern = [], None
    for _ in range(steps):
        current = matrix @ voltage
        angle = (
            1j * voltage[:, None] * np.conj(np.diag(current) - matrix.toarray() * voltage[None, :])
        )
        unit = voltage / np.abs(voltage)
        size = voltage[:, None] * np.conj(matrix.toarray() * unit)
        size = size + np.diag(np.conj(current) * unit)
        dense = np.block(
            [
                [angle.real[np.ix_(both, both)], size.real[np.ix_(both, pq)]],
                [angle.imag[np.ix_(pq, both)], size.imag[np.ix_(pq, pq)]],
            ]
        )
        if pattern is None:
            there = matrix.toarray() != 0
            pattern = np.nonzero(
                np.block(
                    [
                        [there[np.ix_(both, both)], there[np.ix_(both, pq)]],
                        [there[np.ix_(pq, both)], there[np.ix_(pq, pq)]],
                    ]
                )
            )
        m = len(dense)
        jacobians.append(in_format("csr", m, *map(np.int32, pattern), dense[pattern]))
        miss = voltage * np.conj(current) - power
        step = np.linalg.solve(dense, -np.concatenate([miss.real[both], miss.imag[pq]]))
        angles, sizes = np.angle(voltage), np.abs(voltage)
        angles[both] += step[: len(both)]
        sizes[pq] += step[len(both) :]
        voltage = sizes * np.exp(1j * angles)
    return jacobians
