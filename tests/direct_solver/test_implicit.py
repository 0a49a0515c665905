"""Roots of sparse equations: their derivatives against those of the unrolled loop, and of SciPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

import nvstate as nvs
from tests.direct_solver import engines, matrices, oracle

solver = engines.solver
N, STEPS = 3, 8
A = matrices.poisson(N, N)
ROWS = matrices.rows_of(A)


class Problem:
    """A x + s x³ = f on a grid: `f` and the strength `s` are what x depends on."""

    def __init__(self, engine):
        self.engine = engine
        self.plan = engine.plan(A)
        self.data = engine.put(A.data)
        self.own = engine.put(A.indices == ROWS)
        self.dense = engine.put(A.toarray())
        self.root = solver.implicit(self.plan, self.residual, self.jacobian, self.find)

    def start(self):
        return self.engine.put(np.zeros(N * N))

    def theta(self):
        rng = np.random.default_rng(3)
        return self.engine.put(rng.standard_normal(N * N)), self.engine.put(np.array(0.7))

    def residual(self, x, f, s):
        return self.dense @ x + s * x**3 - f

    def jacobian(self, x, f, s):
        return jnp.where(self.own, self.data + 3 * s * x[ROWS] ** 2, self.data)

    def find(self, x0, f, s):
        def step(carry):
            i, x = carry
            values = self.jacobian(x, f, s)
            return i + 1, x - self.plan(values, self.residual(x, f, s))

        def unfinished(carry):
            i, x = carry
            return (i < 30) & (jnp.abs(self.residual(x, f, s)).max() > 1e-13)

        return jax.lax.while_loop(unfinished, step, (0, x0))[1]

    def unrolled(self, x0, f, s):
        """The same root by dense Newton steps that JAX differentiates one by one."""
        x = x0
        for _ in range(STEPS):
            jacobian = self.dense + jnp.diag(3 * s * x**2)
            x = x - jnp.linalg.solve(jacobian, self.residual(x, f, s))
        return x


@pytest.fixture
def problem(engine):
    """A problem on each engine."""
    return Problem(engine)


def test_the_root_is_the_loops(problem):
    f, s = problem.theta()
    x = problem.root(problem.start(), f, s)
    assert np.abs(problem.residual(x, f, s)).max() <= 1e-12
    again = jax.jit(problem.root)(problem.start(), f, s)
    np.testing.assert_allclose(again, x, rtol=1e-13)


@pytest.mark.parametrize(
    "transform", [pytest.param(jax.jacfwd, marks=pytest.mark.slow), jax.jacrev]
)
def test_first_derivatives(problem, transform):
    f, s = problem.theta()
    for i in (1, 2):
        got = transform(problem.root, argnums=i)(problem.start(), f, s)
        want = jax.jacfwd(problem.unrolled, argnums=i)(problem.start(), f, s)
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-11)


def test_the_start_has_no_derivative(problem):
    f, s = problem.theta()
    got = jax.jacrev(problem.root)(problem.start(), f, s)
    assert not np.asarray(got).any()
    loss = jax.jit(jax.grad(lambda x0: problem.root(x0, f, s).sum()))
    assert not np.asarray(loss(problem.start())).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "transform",
    [
        lambda f: jax.jacfwd(jax.jacrev(f)),
        lambda f: jax.jacrev(jax.jacrev(f)),
        lambda f: jax.jacfwd(jax.jacfwd(f)),
    ],
    ids=["forward-reverse", "reverse-reverse", "forward-forward"],
)
def test_second_derivatives(problem, transform):
    f, s = problem.theta()
    weights = problem.engine.put(np.linspace(1, 2, N * N))

    def of(root):
        return lambda s: weights @ root(problem.start(), s * f, s)

    got, want = transform(of(problem.root))(s), transform(of(problem.unrolled))(s)
    np.testing.assert_allclose(got, want, rtol=1e-8)


@pytest.mark.slow
def test_third_derivatives(problem):
    f, s = problem.theta()

    def third(root):
        loss = lambda s: root(problem.start(), f, s).sum()  # noqa: E731
        return jax.jit(jax.grad(jax.grad(jax.grad(loss))))(s)

    np.testing.assert_allclose(third(problem.root), third(problem.unrolled), rtol=1e-7)


def test_one_factorization_beside_the_loops(problem):
    f, s = problem.theta()

    def loss(f, s):
        return problem.root(problem.start(), f, s).sum()

    forward = jax.jit(loss)
    backward = jax.jit(jax.grad(loss, argnums=(0, 1)))
    jax.block_until_ready((forward(f, s), backward(f, s)))
    with engines.counted() as alone:
        jax.block_until_ready(forward(f, s))
    with engines.counted() as both:
        jax.block_until_ready(backward(f, s))
    if problem.engine.name != "cudss":  # whose fused calls in the loop count nothing
        assert alone["factorizations"] >= 3
    assert both["factorizations"] == alone["factorizations"] + 1
    assert both["factor_misses"] == 0


def test_vmap_of_a_gradient(problem):
    f, s = problem.theta()
    loss = lambda root: lambda f, s: (root(problem.start(), f, s) ** 2).sum()  # noqa: E731
    fs = jnp.stack([f, 2 * f, -f])
    got = jax.vmap(jax.grad(loss(problem.root)), in_axes=(0, None))(fs, s)
    want = jax.vmap(jax.grad(loss(problem.unrolled)), in_axes=(0, None))(fs, s)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def test_theta_is_any_pytree(engine):
    """With integers and unused leaves; the gradient is of the same structure."""
    plan = engine.plan(A)
    data = engine.put(A.data)
    root = solver.implicit(
        plan,
        residual=lambda x, theta, count: solver_product(data, x) * theta["scale"] - count,
        jacobian=lambda x, theta, count: data * theta["scale"],
        find=lambda x0, theta, count: plan(data * theta["scale"], x0 * 0 + count),
    )
    theta = {"scale": engine.put(np.array(2.0)), "unused": engine.put(np.ones(3))}
    count = engine.put(np.array(3))

    def loss(theta):
        return root(engine.put(np.zeros(N * N)), theta, count).sum()

    got = jax.grad(loss)(theta)
    want = oracle.superlu(A, np.full(N * N, 3.0)).sum()
    np.testing.assert_allclose(loss(theta), want / 2, rtol=1e-12)
    np.testing.assert_allclose(got["scale"], -want / 4, rtol=1e-12)
    assert not np.asarray(got["unused"]).any()


def solver_product(data, x):
    """A x, by its entries."""
    return jnp.zeros_like(x).at[ROWS].add(data * x[A.indices])


def test_a_holomorphic_residual(engine):
    a = matrices.helmholtz(4)
    plan = engine.plan(a, matrix_type="symmetric")
    data, dense = engine.put(a.data), engine.put(a.toarray())
    own = engine.put(matrices.rows_of(a) == a.indices)
    rows = matrices.rows_of(a)
    root = solver.implicit(
        plan,
        residual=lambda x, f: dense @ x + x**2 - f,
        jacobian=lambda x, f: jnp.where(own, data + 2 * x[rows], data),
        find=lambda x0, f: jax.lax.fori_loop(
            0,
            10,
            lambda _, x: x - plan(jnp.where(own, data + 2 * x[rows], data), dense @ x + x**2 - f),
            x0,
        ),
    )
    f = engine.put(0.1 * oracle.random(np.random.default_rng(1), (16,), "complex128"))
    x0 = engine.put(np.zeros(16, complex))
    x = np.asarray(root(x0, f))
    want = np.linalg.inv(a.toarray() + np.diag(2 * x))
    np.testing.assert_allclose(jax.jacfwd(root, 1, holomorphic=True)(x0, f), want, rtol=1e-9)
    np.testing.assert_allclose(jax.jacrev(root, 1, holomorphic=True)(x0, f), want, rtol=1e-9)


def test_a_plan_may_be_traced():
    """Made in a jitted function of its plan, whose leaves are then operands."""
    plan = solver.plan((A.indptr, A.indices, jnp.asarray(A.data)))
    data = jnp.asarray(A.data)

    @jax.jit
    def gradient(plan, f):
        root = solver.implicit(
            plan,
            residual=lambda x, f: solver_product(data, x) - f,
            jacobian=lambda x, f: data,
            find=lambda x0, f: plan(data, f),
        )
        return jax.grad(lambda f: root(0 * f, f).sum())(f)

    got = gradient(plan, jnp.ones(N * N))
    oracle.require_solution(A, got, np.ones(N * N), "transpose")


def test_what_functions_return_must_fit():
    plan = solver.plan((A.indptr, A.indices, jnp.asarray(A.data)))
    f = jnp.ones(N * N)

    def made(**other):
        said = {
            "residual": lambda x, f: x - f,
            "jacobian": lambda x, f: jnp.asarray(A.data),
            "find": lambda x0, f: f,
        }
        return solver.implicit(plan, **(said | other))

    with pytest.raises(nvs.errors.OperandError, match=r"`find` returned .*\n.*float64\[9\]"):
        made(find=lambda x0, f: f[:3])(f, f)
    with pytest.raises(nvs.errors.OperandError, match=r"`find` returned"):
        made(find=lambda x0, f: (f, 3))(f, f)
    for name, result in (
        ("residual", lambda x, f: (x - f).astype("float32")),
        ("jacobian", lambda x, f: x),
    ):
        root = made(**{name: result})
        with pytest.raises(nvs.errors.OperandError, match=f"`{name}` returned"):
            jax.jvp(functools.partial(root, f), (f,), (f,))


def test_a_plan_of_numpys_arrays_is_refused():
    with pytest.raises(nvs.errors.SpecError, match=r"jax\.numpy\.asarray\(A\.data\)"):
        solver.implicit(solver.plan(sp.csr_array(A)), None, None, None)
