"""What is particular to FFT plans: NumPy's names, reset rules, open plans, in place, reports."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

import nvstate as nvs
from tests import fresh
from tests.case import relative_l2
from tests.fft.cases import random

NAMES = [
    "fft",
    "ifft",
    "rfft",
    "irfft",
    "fft2",
    "ifft2",
    "rfft2",
    "irfft2",
    "fftn",
    "ifftn",
    "rfftn",
    "irfftn",
]


@pytest.mark.parametrize("package", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("norm", [None, "backward", "ortho", "forward"])
@pytest.mark.parametrize("name", NAMES)
def test_names_and_conventions_of_numpy(rng, name, norm, package):
    dtype = "float64" if name.startswith("rfft") else "complex128"
    x = random((3, 4, 6), dtype)(rng)
    ours, numpys = getattr(nvs.fft, name), getattr(np.fft, name)
    y = ours(package(x), norm=norm)
    assert isinstance(y, type(package(x)))
    assert relative_l2(y, numpys(x, norm=norm)) < 1e-14
    if name.endswith("2") or name.endswith("n"):
        arguments = {"s": (5, 3), "axes": (0, 2)}
    else:
        arguments = {"n": 5, "axis": 1}
    assert relative_l2(ours(package(x), **arguments), numpys(x, **arguments)) < 1e-14


def test_one_shots_plan_once(rng):
    x = jnp.asarray(random((3, 7), "complex64")(rng))
    nvs.cache.clear()
    before = nvs.cache.info()
    for _ in range(5):
        nvs.fft.fft(x)
    after = nvs.cache.info()
    assert (after.hits - before.hits, after.misses - before.misses, after.oneshots) == (4, 1, 1)


@pytest.mark.parametrize("shape", [(3, 2, 64), (6, 64), (1, 6, 1, 64), (2, 3, 64)])
def test_batches_of_equal_total_are_accepted(rng, shape):
    plan = nvs.fft.plan(jnp.ones((2, 3, 64), "complex64"), axes=(2,))
    bound = nvs.bind(plan, x=jnp.ones((2, 3, 64), "complex64"))
    x = random(shape, "complex64")(rng)
    y = nvs.execute(nvs.reset(bound, x=jnp.asarray(x)))
    assert relative_l2(y, np.fft.fft(x.astype("complex128"))) < 1e-6


def test_open_plans_take_any_leading_batch(rng):
    plan = nvs.fft.plan(nvs.fft.spec(jnp.ones((4, 8), "complex64")))
    assert str(plan.operand) == "complex64[...,4,8]"
    for shape in [(4, 8), (3, 4, 8), (2, 5, 4, 8)]:
        x = random(shape, "complex64")(rng)
        assert relative_l2(plan(jnp.asarray(x)), np.fft.fft2(x.astype("complex128"))) < 1e-6
    with pytest.raises(nvs.errors.OperandError, match=r"expected: complex64\[\.\.\.,4,8\]"):
        plan(jnp.ones((4, 9), "complex64"))


def test_specs_take_operands_beside_them(rng):
    x = jnp.asarray(random((5, 8, 3), "complex64")(rng))
    spec = nvs.fft.spec(x, axes=(1,))
    assert nvs.fft.plan(spec, x) is nvs.fft.plan(x, axes=(1,))
    assert spec == nvs.fft.spec(np.asarray(x), axes=(-2,))
    assert spec == nvs.fft.spec(jnp.ones((9, 9, 8, 7), "complex64"), axes=(2,))
    assert len({spec, nvs.fft.spec(x, axes=(1,))}) == 1


def test_c2c_axes_have_no_order():
    x = jnp.ones((3, 4, 5), "complex64")
    assert nvs.fft.plan(x, axes=(2, 0)) is nvs.fft.plan(x, axes=(0, -1))
    real = x.real
    assert nvs.fft.plan(real, axes=(2, 0)) is not nvs.fft.plan(real, axes=(0, 2))


@pytest.mark.parametrize("norm", ["backward", "ortho", "forward", "none"])
@pytest.mark.parametrize("length", [6, 7])
@pytest.mark.parametrize("kind", ["c2c", "r2c"])
def test_inverse_undoes(rng, kind, length, norm):
    x = random((3, length, 4), "float64" if kind == "r2c" else "complex128")(rng)
    plan = nvs.fft.plan(jnp.asarray(x), axes=(2, 1), norm=norm)
    factor = 4 * length if norm == "none" else 1
    inverse = plan.inverse()
    assert relative_l2(inverse(plan(jnp.asarray(x))), factor * x) < 1e-14
    assert inverse.inverse() == plan
    assert inverse.result == plan.operand
    if kind == "r2c":
        assumed = plan.inverse(hermitian="assume")
        assert assumed.spec.hermitian == "assume"
        assert relative_l2(assumed(plan(jnp.asarray(x))), factor * x) < 1e-14


def test_in_place_eager_consumes_and_jitted_does_not(rng):
    value = random((4, 8), "complex64")(rng)
    want = np.fft.fft(value.astype("complex128"))
    x = jnp.asarray(value)
    plan = nvs.fft.plan(x, axes=(1,), inplace=True)
    assert relative_l2(jax.jit(lambda x: plan(x))(x), want) < 1e-6
    assert (np.asarray(x) == value).all()
    assert relative_l2(plan(x), want) < 1e-6
    assert x.is_deleted()


def test_in_place_numpy_writes_into_the_operand(rng):
    x = random((4, 8), "complex64")(rng)
    want = np.fft.fft(x.astype("complex128"))
    y = nvs.fft.plan(x, axes=(1,), inplace=True)(x)
    assert y is x
    assert relative_l2(x, want) < 1e-6


def test_numpy_views_and_orders(rng):
    base = random((6, 16), "complex64")(rng)
    for x in (
        base[::2, 1::2],
        base[::-1],
        base.T,
        np.asfortranarray(base),
        np.broadcast_to(base[0], (3, 16)),
    ):
        y = nvs.fft.plan(x, axes=(1,))(x)
        assert relative_l2(y, np.fft.fft(x.astype("complex128"))) < 1e-6


def test_jax_slices(rng):
    base = random((7, 3, 5), "float64")(rng)
    plan = nvs.fft.plan(jax.ShapeDtypeStruct((3, 5), "float64"), axes=(1,))
    third = jax.jit(lambda xs: plan(xs[3]))(jnp.asarray(base))
    assert relative_l2(third, np.fft.rfft(base[3])) < 1e-14


def test_no_hidden_transfers(rng):
    x = jnp.asarray(random((4, 8), "complex64")(rng))
    plan = nvs.fft.plan(x, axes=(1,))
    with jax.transfer_guard("disallow"):
        bound = nvs.reset(nvs.bind(plan, x=x), x=x)
        nvs.execute(bound)
        nvs.fft.ifft(x)


def test_descriptions():
    x = jax.ShapeDtypeStruct((4, 8, 6), "complex64")
    plan = nvs.fft.plan(jnp.ones((4, 8, 6), "complex64"), axes=(1,), direction="inverse")
    text = plan.describe()
    for part in (
        "c2c inverse, axes (-2,), lengths (8,)",
        "complex64[4,8,6] on cpu:0",
        "0.125 (backward)",
        "XLA's own FFT",
    ):
        assert part in text
    assert "c2c inverse" in repr(plan)
    assert "<td style='text-align:left'>complex64[4,8,6] on cpu:0</td>" in plan._repr_html_()
    other = nvs.fft.plan(jnp.ones((4, 8, 6), "complex64"), axes=(1,), norm="ortho", inplace=True)
    assert "norm ortho, in place" in repr(other)
    assert (plan.backend, plan.strategy, plan.scaling) == ("xla", "transpose", "multiply")
    assert (plan.workspace_bytes, plan.workspace_exact) == (0, True)
    assert nvs.fft.plan(x, axes=(0,)).operand == nvs.fft.plan(x, axes=(0,)).result


def test_empty_operands_have_a_strategy_too():
    plan = nvs.fft.plan(jnp.ones((0, 8, 0), "complex64"), axes=(1,))
    assert plan.strategy in {"loop", "transpose"}
    assert "complex64[0,8,0]" in plan.describe()
    assert plan(jnp.ones((0, 8, 0), "complex64")).shape == (0, 8, 0)


def test_transforms_that_nothing_can_count_are_refused():
    for call in (
        nvs.fft.plan,
        nvs.fft.fft,
        jax.jit(lambda x, n: nvs.fft.fft(x, n=n), static_argnames="n"),
    ):
        with pytest.raises(nvs.errors.SpecError, match="more bytes than any library counts"):
            call(jnp.ones(4, "complex64"), n=2**60)


def test_dropped_plans_leave_no_more_than_dropped_jitted_functions():
    # A thousand on a GPU, with device memory: test_gpu.py. jax 0.10 keeps the executables of
    # dropped functions until `jax.clear_caches()`, later ones do not: so the yardstick is jax.jit.
    from nvstate._core import plan as plans

    client = jax.devices("cpu")[0].client
    operands = [jnp.asarray(np.ones((2, n), "complex64")) for n in range(20, 60)]

    def left_behind(run):
        gc.collect()
        before = len(client.live_executables())
        for x in operands:
            run(x)
        gc.collect()
        return len(client.live_executables()) - before

    interned, made = len(plans._interned), nvs.cache.info().made
    ours = left_behind(lambda x: nvs.fft.plan(x, axes=(1,))(x))
    assert len(plans._interned) <= interned + 1
    assert ours <= left_behind(lambda x: jax.jit(lambda x: jnp.fft.fft(x))(x)) + 2
    assert nvs.cache.info().made == made


def test_workspace_bound_without_a_gpu():
    from nvstate.fft.memory import most
    from nvstate.fft.workspace import bound

    def of(**problem):
        x = jax.ShapeDtypeStruct(problem.pop("shape"), "complex64")
        plan = nvs.fft.plan(x, **problem)
        return most(plan, lambda call, x, y, _: bound(call, x, y))

    assert of(shape=(4, 8)) == 4 * 8 * 8
    assert of(shape=(4, 131)) == 4 * 8 * 2 * 512  # a convolution at 512 >= 2 * 131 - 1
    assert of(shape=(4, 9), kind="c2r") == 4 * 16 * 4 + 4 * 2 * 4  # the spectrum is the larger
    assert of(shape=(2, 3, 4, 5, 6)) == 720 * 8


def test_persistent_cache_is_hit_by_a_second_process(tmp_path):
    script = f"""
import jax, jax.numpy as jnp, nvstate as nvs
jax.config.update("jax_compilation_cache_dir", {str(tmp_path)!r})
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
x = jnp.ones((4, 96), "complex64")
plan = nvs.fft.plan(x, axes=(1,), norm="ortho")
jax.jit(lambda plan, x: plan(plan(x)))(plan, x).block_until_ready()
print(sum(name.endswith("cache_hits") for name in events))
"""
    first, second = (int(fresh.run(script).stdout) for _ in range(2))
    assert first == 0
    assert second > 0


@pytest.mark.parametrize("hermitian", ["numpy", "assume"])
def test_hermitian_operands_need_no_pass(rng, hermitian):
    x = random((6, 5, 8), "float64")(rng)
    spectrum = jnp.asarray(scipy.fft.rfftn(x))
    plan = nvs.fft.plan(spectrum, kind="c2r", hermitian=hermitian)
    assert relative_l2(plan(spectrum), x) < 1e-14
