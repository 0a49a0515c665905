"""Types, views, dtypes, formats, transposes and numbers of columns, against dense NumPy."""

import jax
import numpy as np
import pytest

from tests.direct_solver import engines, matrices, oracle

solver = engines.solver

TYPES = [
    ("general", "float32 float64 complex64 complex128"),
    ("symmetric", "float32 float64 complex64 complex128"),
    ("hermitian", "complex64 complex128"),
    ("spd", "float32 float64"),
    ("hpd", "complex64 complex128"),
]
ROWS = [
    (matrix_type, view, dtype)
    for matrix_type, dtypes in TYPES
    for dtype in dtypes.split()
    for view in (("full",) if matrix_type == "general" else ("full", "lower", "upper"))
]
FORMATS = ("csr", "csc", "coo", "arrays", "bcsr", "bcoo")
TRANSPOSES = ("none", "transpose", "adjoint")
SHAPES = ((23,), (23, 1), (23, 2), (23, 17))


@jax.jit
def solutions(plan, values, bs):
    """X of every right-hand side and transpose, from one factorization."""
    factor = solver.factorize(plan, values)
    xs = {t: [solver.solve(factor, b, transpose=t) for b in bs] for t in TRANSPOSES}
    return factor.info, xs


def require_right(engine, matrix_type, view, dtype, storage, shapes=SHAPES):
    whole = matrices.of_type(matrix_type, dtype, n=23, seed=len(dtype))
    a = engines.formats(matrices.seen(whole, view), engine)[storage]
    plan = engine.plan(a, matrix_type=matrix_type, view=view)
    assert plan.backend == engine.name
    rng = np.random.default_rng(6)
    bs = [oracle.random(rng, shape, dtype) for shape in shapes]
    info, xs = solutions(plan, plan.values_of(a), [engine.put(b) for b in bs])
    assert int(info.status) <= 1
    cond = np.linalg.cond(whole.toarray())
    for transpose in TRANSPOSES:
        for b, x in zip(bs, xs[transpose], strict=True):
            oracle.require_solution(whole, x, b, transpose, cond=cond)


@pytest.mark.parametrize(
    ("matrix_type", "view", "dtype"), ROWS, ids=["-".join(row) for row in ROWS]
)
def test_every_type_view_and_dtype(engine, matrix_type, view, dtype):
    row = ROWS.index((matrix_type, view, dtype))
    shapes = (SHAPES[row % 4], SHAPES[(row // 2 + 1) % 4])
    require_right(engine, matrix_type, view, dtype, FORMATS[(row + row // 6) % 6], shapes)


@pytest.mark.slow
@pytest.mark.parametrize("storage", FORMATS)
@pytest.mark.parametrize(
    ("matrix_type", "view", "dtype"), ROWS, ids=["-".join(row) for row in ROWS]
)
def test_every_format_too(engine, matrix_type, view, dtype, storage):
    require_right(engine, matrix_type, view, dtype, storage)


@pytest.mark.parametrize("storage", FORMATS)
def test_formats_make_one_result(engine, storage):
    a = matrices.of_type("general", "float64", n=30)
    b = oracle.random(np.random.default_rng(0), (30, 2), "float64")
    made = engines.formats(a, engine)[storage]
    plan = engine.plan(made)
    assert plan.spec.storage == {"csc": "csc", "coo": "coo", "bcoo": "coo"}.get(storage, "csr")
    x = plan(plan.values_of(made), engine.put(b))
    oracle.require_solution(a, x, b, cond=np.linalg.cond(a.toarray()))
    x = solver.spsolve(made, engine.put(b), transpose="transpose", **engine.options)
    oracle.require_solution(a, x, b, "transpose")


@pytest.mark.parametrize("matrix_type", ["symmetric", "hermitian", "spd", "hpd"])
def test_a_full_view_may_be_asymmetric_by_rounding(engine, matrix_type):
    dtype = "complex128" if matrix_type.startswith("h") else "float64"
    a = matrices.of_type(matrix_type, dtype)
    b = oracle.random(np.random.default_rng(0), (40,), dtype)
    noisy = a.copy()
    noisy.data = noisy.data * (1 + 2.0**-52 * (np.arange(a.nnz) % 3 - 1))
    x = solver.solve(engine.factored(noisy, matrix_type=matrix_type), engine.put(b))
    oracle.require_solution(a, x, b)


@pytest.mark.parametrize("name", matrices.GENERATED)
def test_generated_matrices(engine, name):
    make, matrix_type = matrices.GENERATED[name]
    a = make()
    b = oracle.random(np.random.default_rng(1), (a.shape[0], 2), str(a.dtype))
    cond = np.linalg.cond(a.toarray())
    for declared in dict.fromkeys(("general", matrix_type)):
        factor = engine.factored(a, matrix_type=declared)
        assert engines.status(factor) <= 1
        for transpose in ("none", "transpose"):
            x = solver.solve(factor, engine.put(b), transpose=transpose)
            oracle.require_solution(a, x, b, transpose, cond=cond)
            assert oracle.forward(x, oracle.superlu(a, b, transpose)) <= 1e-15 * 50 * cond


def test_no_columns_and_no_members(engine):
    a = matrices.of_type("general", "float64", n=6)
    factor = engine.factored(a)
    assert solver.solve(factor, engine.put(np.zeros((6, 0)))).shape == (6, 0)
    none = jax.vmap(lambda b: solver.solve(factor, b))(engine.put(np.zeros((0, 6))))
    assert none.shape == (0, 6)
    plan = factor.plan
    run = jax.vmap(lambda v: solver.solve(solver.factorize(plan, v), engine.put(np.ones(6))))
    assert run(engine.put(np.zeros((0, a.nnz)))).shape == (0, 6)


@pytest.mark.parametrize("matrix_type", ["general", "symmetric", "spd"])
def test_the_diagonal_gives_the_determinant(engine, matrix_type):
    options = {}
    if engine.name == "cudss":  # documented for COLAMD only
        if matrix_type != "general":
            pytest.skip("cuDSS has no diagonal of these")
        options = {"reordering": "colamd"}
    a = matrices.of_type(matrix_type, "float64")
    factor = engine.factored(a, matrix_type=matrix_type, **options)
    found = np.asarray(solver.diagonal(factor))
    assert found.shape == (40,)
    wanted = np.linalg.slogdet(a.toarray())[1]
    assert np.isclose(np.log(np.abs(found)).sum(), wanted, rtol=1e-10)
