"""Products with the stored matrix: every type and view against NumPy's, their derivatives too."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvstate.direct_solver import product, specify
from tests.direct_solver import matrices, oracle

N, K, MEMBERS = 11, 3, 2
TYPES = [
    ("general", "full"),
    *((t, v) for t in ("symmetric", "hermitian", "spd", "hpd") for v in ("full", "lower", "upper")),
]


def systems(matrix_type, view, dtype):
    """A spec, rows, columns, values [B, nnz] and x [B, k, n]."""
    if np.dtype(dtype).kind != "c":
        matrix_type = {"hermitian": "symmetric", "hpd": "spd"}.get(matrix_type, matrix_type)
    elif matrix_type == "spd":
        pytest.skip("spd is real")
    rng = np.random.default_rng(5)
    rows, columns = matrices.entries(N, view)
    values = oracle.random(rng, (MEMBERS, len(rows)), dtype)  # also on the diagonal: not real
    pattern = matrices.in_format("csr", N, rows, columns, np.zeros(len(rows), dtype))
    a = (pattern.indptr, pattern.indices, jax.ShapeDtypeStruct((len(rows),), dtype))
    spec = specify.spec(a, matrix_type=matrix_type, view=view)
    x = oracle.random(rng, (MEMBERS, K, N), dtype)
    return spec, *map(jnp.asarray, (rows, columns, values, x))


def whole(spec, rows, columns, values):
    """One member in NumPy; of a triangle, the matrix that it stands for."""
    rows, columns, values = map(np.asarray, (rows, columns, values))
    a = np.zeros((N, N), values.dtype)
    a[rows, columns] = values
    if spec.view == "full":
        return a
    hermitian = spec.matrix_type in ("hermitian", "hpd")
    own = np.diag(a).real if hermitian else np.diag(a)
    off = a - np.diag(np.diag(a))
    return off + (off.conj() if hermitian else off).T + np.diag(own)


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize(("matrix_type", "view"), TYPES)
def test_products_are_those_of_the_dense_matrix(matrix_type, view, dtype):
    spec, rows, columns, values, x = systems(matrix_type, view, dtype)
    bound = 8 * matrices.EPS[dtype]
    for transposed in (False, True):
        y = product.product(spec, rows, columns, values, x, transposed=transposed)
        assert y.dtype == dtype
        for i in range(MEMBERS):
            a = whole(spec, rows, columns, values[i])
            assert oracle.forward(y[i], x[i] @ (a if transposed else a.T)) <= bound
    dense = product.dense(spec, rows, columns, values)
    sums = product.absolute_rows(spec, rows, columns, values)
    for i in range(MEMBERS):
        a = whole(spec, rows, columns, values[i])
        assert oracle.forward(dense[i], a) <= bound
        assert oracle.forward(sums[i], np.abs(a).sum(1)) <= bound


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("matrix_type", "view"), [("general", "full"), ("hermitian", "lower"), ("symmetric", "upper")]
)
def test_derivatives_stay_on_the_pattern(matrix_type, view, transposed):
    spec, rows, columns, values, x = systems(matrix_type, view, "complex128")

    def run(values, x):
        return product.product(spec, rows, columns, values, x, transposed=transposed)

    rng = np.random.default_rng(2)
    dvalues = oracle.random(rng, values.shape, "complex128")
    dx = oracle.random(rng, x.shape, "complex128")
    y, dy = jax.jvp(run, (values, x), (dvalues, dx))
    assert oracle.forward(dy, run(dvalues, x) + run(values, dx)) <= 1e-14
    back = jax.vjp(run, values, x)[1](jnp.conj(y))
    got = sum(float(jnp.real(jnp.sum(g * d))) for g, d in zip(back, (dvalues, dx), strict=True))
    assert got == pytest.approx(float(jnp.real(jnp.sum(jnp.conj(y) * dy))), rel=1e-12)
    shapes = {v.aval.shape for v in _values_in(jax.make_jaxpr(jax.vjp(run, values, x)[1])(y).jaxpr)}
    assert not any(s[-2:] == (N, N) for s in shapes)


def _values_in(jaxpr):
    for equation in jaxpr.eqns:
        yield from equation.outvars


def test_columns_of_the_transpose_are_its_rows():
    """`csc` keeps the rows of the transpose: lower there is upper here."""
    spec, rows, columns, values, x = systems("symmetric", "lower", "float64")
    turned = dataclasses.replace(spec, storage="csc")
    assert turned.stored_view == "upper"
    y = product.product(spec, rows, columns, values, x)
    z = product.product(turned, columns, rows, values, x)
    np.testing.assert_allclose(y, z, rtol=1e-14)
