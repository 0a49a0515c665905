"""Derivatives of solves: against JAX's of the dense solve, and against finite differences.

And that they need no factorization but the one that is there.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.dtypes import float0

from tests.direct_solver import engines, matrices, oracle

solver = engines.solver
N = 9
ROWS = [
    ("general", "full", "float64", "csr"),
    ("general", "full", "complex128", "csc"),
    ("general", "full", "float64", "coo"),
    ("symmetric", "full", "float64", "csr"),
    ("symmetric", "lower", "complex128", "csc"),
    ("symmetric", "upper", "float64", "coo"),
    ("hermitian", "full", "complex128", "csr"),
    ("hermitian", "lower", "complex128", "csr"),
    ("hermitian", "upper", "complex128", "csc"),
    ("spd", "lower", "float64", "csc"),
    ("hpd", "upper", "complex128", "coo"),
]
TRANSPOSES = ("none", "transpose", "adjoint")


class System:
    """A matrix on a pattern, directions in which it may move, and the dense solve of its values."""

    def __init__(self, engine, matrix_type, view, dtype, storage):
        self.engine, self.type, self.view, self.dtype = engine, matrix_type, view, dtype
        whole = matrices.of_type(matrix_type, dtype, n=N)
        pattern = matrices.seen(whole, view)
        rows, columns = matrices.ordered(storage, matrices.rows_of(pattern), pattern.indices)
        self.rows, self.columns = rows, columns
        self.values = self.of(whole.toarray())
        a = matrices.in_format(storage, N, rows, columns, self.values)
        self.plan = engine.plan(a, matrix_type=matrix_type, view=view)

    def of(self, dense):
        """The stored entries of a dense matrix."""
        return self.engine.put(dense[self.rows, self.columns])

    def direction(self, seed):
        """A change of the values that leaves the matrix of its type."""
        dense = oracle.random(np.random.default_rng(seed), (N, N), self.dtype)
        if self.view == "full" and self.type != "general":
            hermitian = self.type in ("hermitian", "hpd")
            dense = dense + (dense.conj().T if hermitian else dense.T)
        return self.of(dense)

    def told(self, cotangent):
        """What a cotangent of values says of such changes: of a full view pairs are summed."""
        if self.view != "full" or self.type == "general":
            return cotangent
        dense = jnp.zeros((N, N), cotangent.dtype).at[self.rows, self.columns].set(cotangent)
        across = dense.conj().T if self.type in ("hermitian", "hpd") else dense.T
        return (dense + across)[self.rows, self.columns]

    def vector(self, seed, *columns):
        return self.engine.put(
            oracle.random(np.random.default_rng(seed), (N, *columns), self.dtype)
        )

    def dense(self, values, b, transpose="none", numpy=jnp):
        """X of the same system, in `jax.numpy` or NumPy."""
        if numpy is jnp:
            a = jnp.zeros((N, N), values.dtype).at[self.rows, self.columns].set(values)
        else:
            a = np.zeros((N, N), values.dtype)
            a[self.rows, self.columns] = values
        if self.view != "full":
            own = numpy.diag(a)
            hermitian = self.type in ("hermitian", "hpd")
            own = own.real.astype(a.dtype) if hermitian else own
            beside = a - numpy.diag(numpy.diag(a))
            a = beside + (beside.conj().T if hermitian else beside.T) + numpy.diag(own)
        return numpy.linalg.solve(oracle.op(a, transpose), b)

    def ours(self, values, b, transpose="none"):
        return solver.solve(solver.factorize(self.plan, values), b, transpose=transpose)


@pytest.fixture(params=ROWS, ids=["-".join(row) for row in ROWS])
def system(request, engine):
    """A system of each type and view."""
    return System(engine, *request.param)


@pytest.fixture
def general(engine):
    """A general one."""
    return System(engine, "general", "full", "float64", "csr")


def close(got, want, tolerance=1e-10):
    got, want = (jax.tree.map(np.asarray, jax.tree.leaves(x)) for x in (got, want))
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        assert g.dtype == w.dtype
        assert np.abs(g - w).max() <= tolerance * max(1, np.abs(w).max())


@pytest.mark.thinned
def test_forward_and_reverse(system):
    """Entry by entry, in values and b, for each transpose."""
    v, b = system.values, system.vector(1, 2)
    dv, db, w = system.direction(2), system.vector(3, 2), system.vector(4, 2)

    def both(solve):
        found = []
        for transpose in TRANSPOSES:
            f = lambda v, b, t=transpose: solve(v, b, t)  # noqa: E731
            x, pull = jax.vjp(f, v, b)
            gv, gb = pull(w)
            found += [x, system.told(gv), gb, jax.jvp(f, (v, b), (dv, db))[1]]
        return found

    close(jax.jit(lambda: both(system.ours))(), jax.jit(lambda: both(system.dense))())


@pytest.mark.thinned
def test_central_differences(system):
    """Of NumPy's dense solve, along a direction in which the type stays."""
    v, b = np.asarray(system.values), np.asarray(system.vector(1))
    dv, db = np.asarray(system.direction(2)), np.asarray(system.vector(3))
    w, h = np.asarray(system.vector(4)), 1e-6
    run = jax.jit(lambda v, b, t: system.ours(v, b, t), static_argnums=2)
    for t in TRANSPOSES:
        ahead, behind = (system.dense(v + s * dv, b + s * db, t, numpy=np) for s in (h, -h))
        want = (ahead - behind) / (2 * h)
        f = lambda v, b, t=t: run(v, b, t)  # noqa: E731
        at, along = ((system.values, system.engine.put(b)), tuple(map(system.engine.put, (dv, db))))
        np.testing.assert_allclose(jax.jvp(f, at, along)[1], want, rtol=1e-6, atol=1e-7)
        # Reverse: the real part of w·ẋ is that of the cotangents' products with the directions.
        gv, gb = jax.vjp(f, *at)[1](system.engine.put(w))
        got = (np.asarray(gv) * dv).sum() + (np.asarray(gb) * db).sum()
        np.testing.assert_allclose(got.real, (w * want).sum().real, rtol=1e-6, atol=1e-7)


def test_the_cotangent_of_values_is_a_product_per_entry(engine):
    """The page's formula: -λ_i x_j; of one triangle both halves, on the diagonal a real part."""
    for row in (ROWS[1], ROWS[4], ROWS[7], ROWS[8]):
        s = System(engine, *row)
        b, w = s.vector(1), s.vector(2)
        g = np.asarray(jax.vjp(lambda v, s=s, b=b: s.ours(v, b), s.values)[1](w)[0])
        identity = np.eye(N, dtype=s.dtype)
        inverse = s.dense(np.asarray(s.values), identity, numpy=np)
        x, right = inverse @ np.asarray(b), inverse.T @ np.asarray(w)
        want = -right[s.rows] * x[s.columns]
        mirrored = -right[s.columns] * x[s.rows]
        own = s.rows == s.columns
        if s.view != "full":
            hermitian = s.type == "hermitian"
            mirrored = mirrored.conj() if hermitian else mirrored
            want = np.where(own, want.real if hermitian else want, want + mirrored)
        np.testing.assert_allclose(g, want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_single_precision(engine, dtype):
    s = System(engine, "general", "full", dtype, "csr")
    wide = System(
        engine, "general", "full", "float64" if dtype == "float32" else "complex128", "csr"
    )
    b, w = s.vector(1), s.vector(2)
    wider = lambda x: engine.put(np.asarray(x).astype(wide.dtype))  # noqa: E731
    got = jax.vjp(s.ours, s.values, b)[1](w)
    want = jax.vjp(wide.dense, wider(s.values), wider(b))[1](wider(w))
    for g, h in zip(got, want, strict=True):
        assert g.dtype == dtype
        np.testing.assert_allclose(g, h, rtol=1e-4, atol=1e-5)


@pytest.mark.thinned
def test_second_order(system):
    """Forward over reverse and reverse over reverse, along directions in which the type stays."""
    v, b = system.values, system.vector(1)
    dv, db, w = system.direction(2), system.vector(3), system.vector(4)

    def both(solve):
        def loss(v, b):
            return jnp.real(jnp.sum(w * solve(v, b) ** 2))

        gradient = jax.grad(loss, argnums=(0, 1))
        forward = jax.jvp(gradient, (v, b), (dv, db))[1]

        def along(v, b):
            gv, gb = gradient(v, b)
            return jnp.real(jnp.sum(gv * dv) + jnp.sum(gb * db))

        # Across the type the second derivatives of a full view are whatever the engine reads.
        gv, gb = jax.grad(along, argnums=(0, 1))(v, b)
        return forward[1], jnp.real(jnp.sum(gv * dv)), gb

    close(jax.jit(lambda: both(system.ours))(), jax.jit(lambda: both(system.dense))(), 1e-9)


def test_third_order(general):
    v, b, dv = general.values, general.vector(1), general.direction(2)

    def third(solve):
        f = lambda s: solve(v + s * dv, b).sum()  # noqa: E731
        return jax.grad(jax.grad(jax.grad(f)))(0.0)

    close(jax.jit(lambda: third(general.ours))(), jax.jit(lambda: third(general.dense))(), 1e-8)


@pytest.mark.thinned
def test_the_transpose_in_b(system):
    """`linear_transpose` of a solve is a solve, with the factor that is there."""
    factor = jax.block_until_ready(solver.factorize(system.plan, system.values))
    b, w = system.vector(1), system.vector(2)
    for t in ("none", "transpose"):
        solve = lambda b, t=t: solver.solve(factor, b, transpose=t)  # noqa: E731
        (got,) = jax.linear_transpose(solve, b)(w)
        other = {"none": "transpose", "transpose": "none"}[t]
        close(got, system.dense(system.values, w, other))
    fused = lambda b: system.plan(system.values, b)  # noqa: E731
    close(jax.linear_transpose(fused, b)(w)[0], system.dense(system.values, w, "transpose"))


def test_all_ways_to_solve_have_one_derivative(general):
    v, b, w = general.values, general.vector(1), general.vector(2)
    plan, engine = general.plan, general.engine
    rows = np.r_[0, np.cumsum(np.bincount(general.rows, minlength=N))].astype(np.int32)

    def one_shot(v, b):
        return solver.spsolve((rows, general.columns, v), b, **engine.options)

    ways = {
        "plan": plan,
        "factorize_solve": lambda v, b: solver.factorize_solve(plan, v, b)[0],
        "its factor": lambda v, b: solver.solve(solver.factorize_solve(plan, v, 2 * b)[1], b),
        "spsolve": one_shot,
    }
    want = jax.vjp(general.dense, v, b)[1](w)
    for name, way in ways.items():
        close(jax.vjp(way, v, b)[1](w), want), name


@pytest.mark.parametrize("way", ["solve", "factorize_solve", "plan"])
def test_one_factorization_serves_forward_and_backward(general, way):
    plan = general.plan
    v, b = general.values, general.vector(1)

    def loss(v, b):
        if way == "plan":
            return (plan(v, b) ** 2).sum()
        if way == "factorize_solve":
            return (solver.factorize_solve(plan, v, b)[0] ** 2).sum()
        return (solver.solve(solver.factorize(plan, v), b) ** 2).sum()

    for f in (
        jax.value_and_grad(loss, argnums=(0, 1)),
        lambda v, b: jax.jvp(loss, (v, b), (v, b)),
    ):
        run = jax.jit(f)
        jax.block_until_ready(run(v, b))
        with engines.counted() as counts:
            jax.block_until_ready(run(2 * v, b))
        assert counts["factorizations"] == 1
        assert counts["solves"] == 2
        assert (counts["factor_hits"], counts["factor_misses"]) == (1 if way != "solve" else 2, 0)


def test_a_hessian_product_factorizes_once(general):
    v, b, dv = general.values, general.vector(1), general.direction(2)
    loss = lambda v: (general.ours(v, b) ** 2).sum()  # noqa: E731
    run = jax.jit(lambda v: jax.jvp(jax.grad(loss), (v,), (dv,))[1])
    jax.block_until_ready(run(v))
    with engines.counted() as counts:
        jax.block_until_ready(run(3 * v))
    assert (counts["factorizations"], counts["factor_misses"]) == (1, 0)
    assert counts["solves"] == 4


def test_a_factor_is_differentiated_through_its_values(general):
    """Ticket and words have no tangent; a factor made outside is differentiated too."""
    v, b, w = general.values, general.vector(1), general.vector(2)
    factor, moved = jax.jvp(lambda v: solver.factorize(general.plan, v), (v,), (2 * v,))
    assert moved.ticket.dtype == moved.words.dtype == float0
    np.testing.assert_array_equal(moved.values, 2 * v)

    def of_values(values):
        return solver.solve(solver.Factor(factor.plan, values, factor.ticket, factor.words), b)

    close(jax.vjp(of_values, factor.values)[1](w), jax.vjp(lambda v: general.dense(v, b), v)[1](w))
    gradient = jax.grad(lambda f: (w * solver.solve(f, b)).sum(), allow_int=True)(factor)
    close(gradient.values, jax.vjp(lambda v: general.dense(v, b), v)[1](w))
    assert gradient.ticket.dtype == float0


def test_the_diagonal_is_not_differentiable(general):
    def loss(v):
        return solver.diagonal(solver.factorize(general.plan, v)).sum()

    with pytest.raises(TypeError, match="stop_gradient"):
        jax.grad(loss)(general.values)


def test_vmap_of_gradients(general):
    """Over b, over values, over both, and twice; `grad` of a `vmap` too."""
    vs = jnp.stack([general.values * s for s in (1.0, 2.0, -0.5)])
    bs = jnp.stack([general.vector(s) for s in (5, 6, 7)])

    def gradients(solve):
        loss = lambda v, b: (solve(v, b) ** 2).sum()  # noqa: E731
        gradient = jax.grad(loss, argnums=(0, 1))
        total = lambda v, b: jax.vmap(solve, (0, None))(v, b).sum()  # noqa: E731
        return [
            jax.vmap(gradient, in_axes=(None, 0))(vs[0], bs),
            jax.vmap(gradient, in_axes=(0, None))(vs, bs[0]),
            jax.vmap(gradient)(vs, bs),
            jax.vmap(jax.vmap(gradient, (None, 0)), (0, None))(vs, bs),
            jax.grad(total, argnums=(0, 1))(vs, bs[0]),
            jax.vmap(jax.hessian(lambda s: loss(s * vs[0], bs[0])))(jnp.array([1.0, 2.0])),
        ]

    close(
        jax.jit(lambda: gradients(general.ours))(),
        jax.jit(lambda: gradients(general.dense))(),
        1e-9,
    )


def test_jacobians(general):
    v, b = general.values, general.vector(1)
    want = jax.jacfwd(general.dense, argnums=(0, 1))(v, b)
    for jacobian in (jax.jacfwd, jax.jacrev):
        close(jax.jit(jacobian(general.ours, argnums=(0, 1)))(v, b), want)


def test_through_a_loop_and_remat(general):
    """The map x ← A(x)⁻¹ b, three times, with and without `checkpoint`."""
    own = general.engine.put(general.rows == general.columns)

    def loss(solve, policy):
        def step(x, _):
            values = jnp.where(own, general.values + x[general.rows] ** 2, general.values)
            return solve(values, general.vector(1)), None

        def run(x):
            return jax.lax.scan(policy(step), x, length=3)[0].sum()

        return jax.jit(jax.value_and_grad(run))(general.vector(2))

    want = loss(general.dense, lambda f: f)
    close(loss(general.ours, lambda f: f), want)
    close(loss(general.ours, jax.checkpoint), want)
