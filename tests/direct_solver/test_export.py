"""Programs with factors that leave the process: for either platform, and what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvstate as nvs
from tests.direct_solver import engines, matrices, oracle
from tests.direct_solver.engines import Engine, counted

solver = engines.solver
A = matrices.convection(5)
N = A.shape[0]
B = oracle.random(np.random.default_rng(1), (N, 2), "float64")


@pytest.fixture
def plan():
    """For any platform: of types."""
    Engine.of("pardiso")
    made = solver.plan((A.indptr, A.indices, jax.ShapeDtypeStruct((A.nnz,), "float64")))
    nvs.free(made)
    return made


def exported(function, *args, platforms=("cpu",)):
    """Out of the process and in again."""
    checks = nvs.disabled_checks()
    made = jax.export.export(jax.jit(function), platforms=platforms, disabled_checks=checks)(*args)
    return jax.export.deserialize(made.serialize())


def both(plan, v, b):
    factor = solver.factorize(plan, v)
    return solver.solve(factor, b), solver.solve(factor, b, transpose="transpose"), plan(v, b)


OPERANDS = jnp.asarray(A.data), jnp.asarray(B)


@pytest.mark.parametrize("platforms", [("cpu", "cuda"), ("cuda", "cpu"), ("cpu",), ("cuda",)])
def test_each_platform_has_its_engine(plan, platforms):
    """The call that XLA captures needs this process, so it is never in an export."""
    program = exported(both, plan, *OPERANDS, platforms=platforms)
    text = str(program.mlir_module())
    assert ("@nvstate_pardiso_v1" in text) is ("cpu" in platforms)
    assert ("@nvstate_cudss_v1" in text) is ("cuda" in platforms)
    assert "nvstate_cudss_fused" not in text
    if "cpu" in platforms:
        for x, t in zip(program.call(plan, *OPERANDS), ("none", "transpose", "none"), strict=True):
            oracle.require_solution(A, x, B, t)


def test_factors_go_between_exported_programs(plan):
    """A factor is an argument and a result; its factorization is this process's."""
    values, b = OPERANDS
    factorize = exported(solver.factorize, plan, values)
    factor = factorize.call(plan, values)
    assert isinstance(factor, solver.Factor)
    solve = exported(solver.solve, factor, b)
    with counted() as counts:
        for own in (factor, factorize.call(plan, values)):
            oracle.require_solution(A, solve.call(own, b), B)
    assert (counts["factor_hits"], counts["factor_misses"]) == (2, 0)
    nvs.free(plan)
    with counted() as counts:
        oracle.require_solution(A, solve.call(factor, b), B)
    assert counts["factor_misses"] == 1


def test_loops_batches_and_gradients(plan):
    def run(plan, vs, b):
        def loss(v):
            return jnp.sum(jnp.cos(both(plan, v, b)[0]))

        def step(x, v):
            factor = solver.factorize(plan, v)
            return solver.solve(factor, x), factor.info.status

        last, statuses = jax.lax.scan(step, b, vs)
        return jax.vmap(jax.grad(loss))(vs), last, statuses

    vs = jnp.stack([OPERANDS[0], 2 * OPERANDS[0], 1.5 * OPERANDS[0]])
    want = jax.jit(run)(plan, vs, OPERANDS[1])
    got = exported(run, plan, vs, OPERANDS[1]).call(plan, vs, OPERANDS[1])
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("phase", ["factorize", "solve", "factorize_solve", "diagonal", "plan"])
def test_superlu_does_not_leave(phase):
    plan = Engine.of("superlu").plan(A)
    values, b = OPERANDS
    factor = solver.factorize(plan, values)
    call = {
        "factorize": lambda: exported(solver.factorize, plan, values),
        "solve": lambda: exported(solver.solve, factor, b),
        "factorize_solve": lambda: exported(solver.factorize_solve, plan, values, b),
        "diagonal": lambda: exported(solver.diagonal, factor),
        "plan": lambda: exported(lambda v, b: plan(v, b), values, b),
    }[phase]
    with pytest.raises(nvs.errors.UnsupportedError, match="pip install mkl"):
        call()


def test_unknown_extents_say_so(plan):
    (k,) = jax.export.symbolic_shape("k")
    b = jax.ShapeDtypeStruct((N, k), "float64")
    with pytest.raises(nvs.errors.UnsupportedError, match="Export once per shape"):
        exported(lambda v, b: plan(v, b), OPERANDS[0], b)


def test_a_program_for_several_devices_does_not_leave_divided(plan):
    mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    there = jax.NamedSharding(mesh, jax.P("x"))
    vs, bs = (jax.device_put(np.stack([x] * 4), there) for x in (A.data, B))
    with pytest.raises(nvs.errors.UnsupportedError, match="shard_map"):
        exported(jax.vmap(plan), vs, bs)
    mapped = jax.shard_map(jax.vmap(plan), mesh=mesh, in_specs=jax.P("x"), out_specs=jax.P("x"))
    for x in exported(mapped, vs, bs).call(vs, bs):
        oracle.require_solution(A, x, B)
