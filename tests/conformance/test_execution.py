"""The same result however a plan is run, and the right one. Results are compared with oracles."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np

import nvstate as nvs
from tests.case import relative_l2, to_jax


def test_eager(case, value, x, plan):
    want = case.oracle(value)
    y = plan(x)
    assert relative_l2(y, want) < case.bound
    assert y.dtype == plan.result.dtype
    assert y.shape == plan.result.shape


def test_numpy_in_numpy_out(case, value):
    plan = case.plan(value)
    y = plan(value)
    assert type(y) is np.ndarray
    assert y.flags.writeable
    assert relative_l2(y, case.oracle(value)) < case.bound


def test_jit_closed_over_and_as_argument(case, value, x, plan):
    want = case.oracle(value)
    assert relative_l2(jax.jit(lambda x: plan(x))(x), want) < case.bound
    assert relative_l2(jax.jit(nvs.execute)(plan, x), want) < case.bound
    assert relative_l2(jax.jit(nvs.execute)(nvs.bind(plan, x=x)), want) < case.bound


def test_bind_reset_release(case, value, x, plan):
    other = case.value(seed=1)
    bound = nvs.bind(plan, x=x)
    second = nvs.reset(bound, x=to_jax(other))
    assert relative_l2(nvs.execute(bound), case.oracle(value)) < case.bound
    assert relative_l2(nvs.execute(second), case.oracle(other)) < case.bound
    third = nvs.reset_unchecked(second, x=x)
    assert relative_l2(nvs.execute(third), case.oracle(value)) < case.bound
    assert nvs.reset(bound) is bound
    assert bound.operands["x"] is x
    assert nvs.release(second) is plan


def test_scan_resets_one_binding(case, x, plan):
    values = [case.value(seed) for seed in range(3)]
    operands = jnp.stack([to_jax(v) for v in values])

    @jax.jit
    def run(bound, operands):
        def step(bound, x):
            bound = nvs.reset(bound, x=x)
            return bound, nvs.execute(bound)

        return jax.lax.scan(step, bound, operands)

    last, results = run(nvs.bind(plan, x=x), operands)
    for y, value in zip(results, values, strict=True):
        assert relative_l2(y, case.oracle(value)) < case.bound
    assert relative_l2(nvs.execute(last), case.oracle(values[-1])) < case.bound


def test_cond_and_while(case, value, x, plan):
    @jax.jit
    def run(plan, x, twice):
        once = jax.lax.cond(twice, lambda x: plan(2 * x), lambda x: plan(x), x)
        count = jax.lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, plan(x)), (0, once))
        return once, count[1]

    once, looped = run(plan, x, True)
    want = case.oracle(value)
    assert relative_l2(once, 2 * want) < case.bound
    assert relative_l2(looped, want) < case.bound


def test_operands_are_not_changed(case, value, x, plan):
    before = np.array(x)
    plan(x)
    plan(x)
    assert (np.array(x) == before).all()


def test_donated_operands(case, value, plan):
    operand = to_jax(value)
    same = (plan.types[0].dtype, plan.types[0].shape) == (plan.result.dtype, plan.result.shape)
    run = jax.jit(plan, donate_argnums=0)
    if same:
        assert relative_l2(run(operand), case.oracle(value)) < case.bound
        assert operand.is_deleted()
    else:  # JAX may warn that the memory cannot be used; the result is right all the same
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Some donated buffers were not usable")
            assert relative_l2(run(operand), case.oracle(value)) < case.bound


def test_free_and_use_again(case, value, x, plan):
    with nvs.resources():
        first = plan(x)
    nvs.free(plan)
    assert "_compiled" not in vars(plan)
    assert (np.asarray(plan(x)) == np.asarray(first)).all()
