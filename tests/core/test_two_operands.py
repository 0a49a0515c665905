"""What bindings promise of several operands: all or nothing, omitted ones stay, one place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvstate as nvs
from tests import two
from tests.case import relative_l2

RNG = np.random.default_rng(11)
A, B, C = (RNG.standard_normal((2, 3, 8)) for _ in range(3))
WANT = two.oracle(A, B)


def bound(package=jnp.asarray, **keywords):
    """A binding of `A` and `B`."""
    a, b = package(A), package(B)
    return nvs.bind(two.plan(a, b, **keywords), a=a, b=b)


def near(got, want):
    """Whether a result is the oracle's."""
    return relative_l2(got, want) < 1e-14


@pytest.mark.parametrize("package", [np.array, jnp.asarray])
def test_omitted_operands_stay(package):
    first = bound(package)
    second = nvs.reset(first, b=package(C))
    assert near(nvs.execute(second), two.oracle(A, C))
    assert second.operands["a"] is first.operands["a"]
    assert near(nvs.execute(nvs.reset_unchecked(second, a=package(C))), two.oracle(C, C))
    assert near(nvs.execute(first), WANT)
    assert isinstance(nvs.execute(first), type(package(A)))


def test_a_reset_is_all_or_nothing():
    first = bound()
    for wrong in (
        {"a": jnp.asarray(C), "b": jnp.ones((2, 3, 9))},
        {"a": jnp.asarray(C), "b": jnp.ones((2, 3, 8), "float32")},
        {"a": jnp.asarray(C), "c": jnp.asarray(C)},
        {"a": jnp.asarray(C), "b": C},
    ):
        with pytest.raises(nvs.errors.OperandError):
            nvs.reset(first, **wrong)
        assert near(nvs.execute(first), WANT)


def test_operands_are_named_by_position_or_by_name():
    plan = bound().plan
    a, b = jnp.asarray(A), jnp.asarray(B)
    for got in (plan(a, b), plan(a, b=b), plan(b=b, a=a), nvs.execute(plan, a, b=b)):
        assert near(got, WANT)
    for call in (lambda: plan(a), lambda: plan(a, b, b), lambda: plan(a, a=a), lambda: plan(b=b)):
        with pytest.raises(nvs.errors.OperandError, match="this plan takes 2 operands"):
            call()
    with pytest.raises(nvs.errors.OperandError, match=r"no operand `x`\n  expected: `a`: float64"):
        nvs.reset(bound(), x=a)


def test_the_one_to_blame_is_named():
    first = bound()
    with pytest.raises(nvs.errors.OperandError, match=r"operand `b` does not(.*\n)*.*\[2,3,9\]"):
        nvs.reset(first, b=jnp.ones((2, 3, 9)))
    with pytest.raises(nvs.errors.OperandError, match=r"operand `a`.*\n.*\[2,3,8\].*\n.*\[3,2,8\]"):
        nvs.reset(first, a=jnp.ones((3, 2, 8)))
    both = {"a": jnp.ones((3, 2, 8)), "b": jnp.ones((6, 8))}
    with pytest.raises(
        nvs.errors.OperandError, match=r"`a`: float64\[3,2,8\], `b`: float64\[6,8\]"
    ):
        nvs.reset(first, **both)


def test_what_changes_together_is_reset_together():
    a, c = A.reshape(6, 8), C.reshape(3, 2, 8)
    second = nvs.reset(bound(), a=jnp.asarray(a), b=jnp.asarray(C.reshape(6, 8)))
    assert near(nvs.execute(second), two.oracle(a, C.reshape(6, 8)))
    third = nvs.reset(second, a=jnp.asarray(c), b=jnp.asarray(c))
    assert near(nvs.execute(third), two.oracle(c, c))


def test_operands_share_one_place():
    a = jnp.asarray(A)
    for b, text in (
        (jax.device_put(a, jax.devices("cpu")[1]), r"`a` on cpu:0, `b` on cpu:1"),
        (jax.device_put(a, a.sharding.with_memory_kind("pinned_host")), r"cpu:0 \(pinned_host\)"),
        (A, r"`a` on cpu:0, `b` on cpu \(numpy\)"),
    ):
        with pytest.raises(nvs.errors.OperandError, match=rf"different places\n(.*\n)*.*{text}"):
            two.plan(a, b)
    assert two.plan(a, jax.ShapeDtypeStruct(a.shape, a.dtype)).placement.devices == ("cpu:0",)


def test_the_consumed_operand_takes_the_result():
    b = B.copy()
    plan = two.plan(A, b, inplace=True)
    assert plan(A, b) is b
    assert near(b, WANT)
    x, y = jnp.asarray(A), jnp.asarray(B)
    first = nvs.bind(two.plan(x, y, inplace=True), a=x, b=y)
    assert near(nvs.execute(first), WANT)
    assert y.is_deleted()
    assert not x.is_deleted()
    with pytest.raises(nvs.errors.OperandError, match=r"operand `b` was consumed"):
        nvs.execute(first)
    assert near(nvs.execute(nvs.reset(first, b=jnp.asarray(B))), WANT)


def test_transformations_see_each_operand():
    plan = two.plan(*(jax.ShapeDtypeStruct((8,), "float64") for _ in range(2)))
    over = jax.vmap(nvs.execute, in_axes=(None, 0, None))(plan, A[0], B[0, 0])
    assert near(over, two.oracle(A[0], B[0, :1]))
    first = nvs.bind(plan, a=jnp.asarray(A[0, 0]), b=jnp.asarray(B[0, 0]))

    def step(carried, b):
        carried = nvs.reset(carried, b=b)
        return carried, nvs.execute(carried)

    _, ys = jax.jit(lambda first, bs: jax.lax.scan(step, first, bs))(first, C[0])
    assert near(ys, two.oracle(A[0, :1], C[0]))
    tree = jax.tree.map(lambda x: 2 * x, first)
    assert near(nvs.execute(tree), 4 * two.oracle(A[0, 0], B[0, 0]))


def test_autotune_takes_what_is_faster():
    first = bound()
    tuned = nvs.autotune(first.plan, rounds=3, **first.operands)
    assert (first.plan.choices, tuned.choices) == ("slow", "fast")
    assert near(tuned(*first.values), WANT)
    assert nvs.autotune(tuned, *first.values, rounds=3) is tuned
    host = two.plan(A, B)
    assert nvs.autotune(host, A, B, rounds=3).choices == "fast"


def test_autotune_refuses_what_it_cannot_time():
    plan = bound().plan
    with pytest.raises(nvs.errors.OperandError, match="no time to measure"):
        jax.jit(lambda a, b: nvs.autotune(plan, a, b)(a, b))(A, B)
    for rounds in (0, 1.5, True):
        with pytest.raises(nvs.errors.SpecError, match="`rounds` of `autotune` is a number"):
            nvs.autotune(plan, A, B, rounds=rounds)
    with pytest.raises(nvs.errors.OperandError, match="`autotune` needs a plan"):
        nvs.autotune(bound(), A, B)
    with pytest.raises(nvs.errors.OperandError, match="operand `b`"):
        nvs.autotune(plan, jnp.asarray(A), jnp.ones((2, 3, 9)))
