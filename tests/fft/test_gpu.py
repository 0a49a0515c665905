"""cuFFT on a real GPU: right for every layout, size and address; made once, shared, dropped."""

import gc
import itertools
import os
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

import nvstate as nvs
from nvstate.fft import strategy, workspace
from nvstate.fft.specify import spec as make_spec
from tests.case import relative_l2
from tests.fft.cases import bound, random

pytestmark = pytest.mark.gpu


def on_gpu(x):
    """An array on the first GPU."""
    return jax.device_put(x, jax.devices("cuda")[0])


def subsets(rank, most=3):
    """Every choice of axes, each once ascending and once descending."""
    for count in range(1, most + 1):
        for axes in itertools.combinations(range(rank), count):
            yield axes
            if count > 1:
                yield axes[::-1]


@pytest.mark.parametrize("kind", ["c2c", "r2c", "c2r"])
def test_every_strategy_of_every_choice_of_axes(rng, kind):
    shape = (3, 4, 5, 2, 6)
    x = random(shape, "float64" if kind == "r2c" else "complex128")(rng)
    operand = on_gpu(x)
    runs = 0
    for axes in subsets(5):
        made = make_spec(x, axes=axes, kind=kind)
        lengths = [made.lengths[made.axes.index(a - 5)] for a in axes]
        want = {
            "c2c": lambda axes=axes: scipy.fft.fftn(x, axes=axes),
            "r2c": lambda axes=axes: scipy.fft.rfftn(x, axes=axes),
            "c2r": lambda axes=axes, s=lengths: scipy.fft.irfftn(x, s=s, axes=axes),
        }[kind]()
        for name in strategy.candidates(made, shape):
            plan = nvs.fft.plan(operand, axes=axes, kind=kind, strategy=name)
            assert plan.strategy == name
            assert relative_l2(plan(operand), want) < 2 * bound("complex128", *lengths)
            runs += 1
    assert runs > 60


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("n", [1, 31, 4099, 5999, 7919, 12799, 1013 * 1019, 2**20, 2**24, 10**6])
def test_accuracy_by_length(rng, n, dtype):
    x = random((n,), dtype)(rng)
    wide = x.astype("complex128" if dtype == "complex64" else "clongdouble")
    limit = {"complex64": 5e-7, "complex128": 1e-14}[dtype]
    smooth = n in {1, 2**20, 2**24, 10**6}
    for direction, oracle in (("forward", scipy.fft.fft), ("inverse", scipy.fft.ifft)):
        plan = nvs.fft.plan(on_gpu(x), direction=direction)
        error = relative_l2(plan(on_gpu(x)), oracle(wide))
        assert error < bound(dtype, n)
        if smooth:
            assert error < limit
        print(f"{dtype} {n} {direction}: {error:.2e}")


# The larger first: the second then fits into the memory that JAX keeps.
@pytest.mark.parametrize("rows", [2**19 + 1, 2**19 - 1])
def test_inverse_on_both_sides_of_two_to_the_31_elements(rows):
    n = 4096

    @jax.jit
    def values(i, k):  # elementwise, so that nothing else of this size is needed
        i, k = i.astype("float32"), k.astype("float32")
        return jax.lax.complex(jnp.sin(i * 12.9898 + k * 78.233), jnp.cos(i * 39.346 - k * 11.135))

    @jax.jit
    def whole():
        shape = (rows, n)
        return values(
            jax.lax.broadcasted_iota("int32", shape, 0), jax.lax.broadcasted_iota("int32", shape, 1)
        )

    plan = nvs.fft.plan(
        jax.ShapeDtypeStruct((rows, n), "complex64"), axes=(1,), direction="inverse"
    )
    picked = jnp.array([0, rows // 2, rows - 2, rows - 1])
    y = jax.jit(lambda: plan(whole())[picked])()
    x = np.asarray(values(picked[:, None], jnp.arange(n)[None]))
    assert relative_l2(y, scipy.fft.ifft(x.astype("complex128"))) < 5e-7


def test_unwritten_results_are_never_returned(rng):
    shapes = [(64, 256), (128, 128), (64, 256), (32, 512)]
    for shape in shapes * 2:
        nan = on_gpu(np.full(shape, np.nan, "complex64"))
        del nan  # its memory is what the next result gets
        x = random(shape, "complex64")(rng)
        plan = nvs.fft.plan(on_gpu(x), axes=(1,))
        for _ in range(2):
            assert relative_l2(plan(on_gpu(x)), np.fft.fft(x.astype("complex128"))) < 1e-6


def test_c2r_leaves_its_operand_alone(rng):
    for shape, axes in [((8, 4097), (1,)), ((64, 33), (0, 1)), ((16, 16, 9), None)]:
        x = random(shape, "complex64")(rng)
        operand = on_gpu(x)
        plan = nvs.fft.plan(operand, axes=axes, kind="c2r")
        bound_ = nvs.bind(plan, x=operand)
        first, second = nvs.execute(bound_), nvs.execute(bound_)
        assert (np.asarray(operand) == x).all()
        assert (np.asarray(first) == np.asarray(second)).all()
        donated = jax.jit(lambda x, plan=plan: plan(x * 1), donate_argnums=0, keep_unused=True)
        with pytest.warns(UserWarning, match="donated"):  # a real result cannot take its memory
            assert relative_l2(donated(on_gpu(x)), np.asarray(first)) < 1e-6


def test_c2r_of_one_axis_ignores_what_numpy_ignores(rng):
    # Without the Hermitian pass cuFFT 12 reads these imaginary parts at 8192 and 16384 points.
    for dtype, limit in (("complex64", 1e-6), ("complex128", 1e-14)):
        for n in [2, 3, 4, 5, 8, 127, 128, 1000, 4096, 8192, 16384, 32768, 65536, 2 * 4099]:
            x = random((3, n // 2 + 1), dtype)(rng)
            y = nvs.fft.irfft(on_gpu(x), n=n)
            assert relative_l2(y, scipy.fft.irfft(x.astype("complex128"), n=n)) < limit


def test_slices_with_odd_addresses(rng):
    base = random((7, 3, 5), "float32")(rng)
    plan = nvs.fft.plan(jax.ShapeDtypeStruct((3, 5), "float32"), axes=(1,))
    want = np.fft.rfft(base.astype("float64"))
    for i in range(7):
        assert relative_l2(jax.jit(lambda xs, i=i: plan(xs[i]))(on_gpu(base)), want[i]) < 1e-6
    ys = jax.jit(lambda xs: jax.lax.scan(lambda c, x: (c, plan(x)), 0, xs)[1])(on_gpu(base))
    assert relative_l2(ys, want) < 1e-6


def test_infinities_stay_infinite(rng):
    x = np.zeros((4, 8), "complex64")
    x[0, 0] = np.inf
    y = np.asarray(nvs.fft.ifft(on_gpu(x)))
    assert np.isinf(y[0].real).all()
    assert (y[1:] == 0).all()


def test_in_place_keeps_the_address(rng):
    x = random((64, 256), "complex64")(rng)
    want = np.fft.fft(x.astype("complex128"))
    operand = on_gpu(x)
    address = operand.unsafe_buffer_pointer()
    plan = nvs.fft.plan(operand, axes=(1,), inplace=True)
    y = plan(operand)
    assert operand.is_deleted()
    assert y.unsafe_buffer_pointer() == address
    assert relative_l2(y, want) < 1e-6
    with pytest.raises(nvs.errors.OperandError, match="was consumed"):
        plan(operand)
    kept = on_gpu(x)
    assert relative_l2(jax.jit(lambda x: plan(x))(kept), want) < 1e-6
    assert (np.asarray(kept) == x).all()


def test_equal_transforms_and_both_directions_share_one_native_plan(rng):
    nvs.cache.clear()
    x = on_gpu(random((7, 33), "complex64")(rng))
    plan = nvs.fft.plan(x, axes=(1,))
    inverse = plan.inverse()
    before = nvs.cache.info().made

    @jax.jit
    def many(x):
        for _ in range(20):
            x = inverse(plan(x) * 1.0)
        return x

    assert relative_l2(many(x), np.asarray(x)) < 1e-5
    plan(x)
    assert nvs.cache.info().made == before + 1


def test_changing_addresses_in_command_buffers(rng):
    values = [random((64, 256), "complex64")(rng) for _ in range(30)]
    plan = nvs.fft.plan(on_gpu(values[0]), axes=(1,))

    @jax.jit
    def chain(x):
        for i in range(8):
            x = plan(x) * np.float32(1 / 16 + i * 1e-3)
        return x

    operands = [on_gpu(v) for v in values]
    results = [chain(x) for x in operands * 3]  # enqueued without waiting
    for i, y in enumerate(results):
        want = values[i % 30].astype("complex128")
        for k in range(8):
            want = np.fft.fft(want) * (1 / 16 + k * 1e-3)
        assert relative_l2(y, want) < 1e-5


def test_threads_share_a_plan(rng):
    values = [random((32, 1024), "complex64")(rng) for _ in range(8)]
    plan = nvs.fft.plan(on_gpu(values[0]), axes=(1,))
    wrong = []

    def work(value):
        x = on_gpu(value)
        want = np.fft.fft(value.astype("complex128"))
        for _ in range(50):
            if relative_l2(plan(x), want) > 1e-6:
                wrong.append(1)

    threads = [threading.Thread(target=work, args=(v,)) for v in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def used_bytes():
    """Device memory in use, JAX's pool and everything else."""
    from cuda.bindings import runtime

    status, free, total = runtime.cudaMemGetInfo()
    assert status == runtime.cudaError_t.cudaSuccess
    return total - free


def test_a_thousand_plans_leave_memory_flat(rng):
    nvs.cache.limit(plans=8)
    try:

        def make(count, start):
            for n in range(start, start + count):
                x = on_gpu(np.ones((3, n), "complex64"))
                nvs.fft.plan(x, axes=(1,))(x).block_until_ready()
            gc.collect()
            nvs.cache.clear()

        make(20, 16)
        executables = len(jax.devices("cuda")[0].client.live_executables())
        info, used = nvs.cache.info(), used_bytes()
        start = time.perf_counter()
        make(1000, 40)
        print(f"1000 plans: {time.perf_counter() - start:.1f} s")
        after = nvs.cache.info()
        assert after.made == info.made + 1000
        assert (after.native, after.held, after.recent) == (info.native, info.held, info.recent)
        assert used_bytes() - used < 32 << 20
        assert len(jax.devices("cuda")[0].client.live_executables()) <= executables + 2
    finally:
        nvs.cache.limit(plans=64)


def test_free_destroys_and_a_jitted_function_keeps_its_own(rng):
    x = on_gpu(random((5, 129), "complex64")(rng))
    plan = nvs.fft.plan(x, axes=(1,))
    want = np.fft.fft(np.asarray(x).astype("complex128"))
    nvs.cache.clear()
    before = nvs.cache.info()
    plan(x)
    assert nvs.cache.info().native == before.native + 1
    nvs.free(plan)
    gc.collect()
    assert nvs.cache.info().native == before.native
    mine = jax.jit(lambda x: plan(x))
    mine(x)
    nvs.free(plan)
    assert nvs.cache.info().held == before.held + 1
    assert relative_l2(mine(x), want) < 1e-6
    assert relative_l2(plan(x), want) < 1e-6


def test_resources_end_what_was_made_inside(rng):
    x = on_gpu(random((5, 130), "complex64")(rng))
    before = nvs.cache.info().native
    plan = nvs.fft.plan(x, axes=(1,))

    def fail():
        with nvs.resources():
            plan(x)
            assert nvs.cache.info().native == before + 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    gc.collect()
    assert nvs.cache.info().native == before
    plan(x)


def test_a_workspace_that_is_too_small_is_replaced(rng, monkeypatch):
    x = random((3, 4099), "complex64")(rng)
    monkeypatch.setattr(workspace, "needed", lambda *_: 0)
    before = nvs.cache.info().own_workspaces
    plan = nvs.fft.plan(on_gpu(x), axes=(1,))
    exported = jax.export.export(
        jax.jit(lambda x: plan(x)),
        disabled_checks=[jax.export.DisabledSafetyCheck.custom_call("nvstate_cufft_v1")],
    )(on_gpu(x))
    y = exported.call(on_gpu(x))
    assert relative_l2(y, np.fft.fft(x.astype("complex128"))) < 2e-6
    assert nvs.cache.info().own_workspaces > before


def test_workspace_estimates(rng):
    x = on_gpu(random((4, 4099), "complex64")(rng))
    plan = nvs.fft.plan(x, axes=(1,))
    assert plan.backend == "cufft"
    assert plan.workspace_exact
    sizes = {
        t: nvs.fft.estimate_workspace(plan, technique=t) for t in ("bound", "default", "refined")
    }
    print(sizes, plan.workspace_bytes)
    assert 0 < plan.workspace_bytes <= sizes["bound"]
    assert sizes["refined"] > 0
    assert sizes["default"] > 0
    memory = jax.jit(lambda x: plan(x)).lower(x).compile().memory_analysis()
    assert memory.temp_size_in_bytes <= plan.workspace_bytes + 1024


def test_operands_of_another_place_are_refused(rng):
    x = on_gpu(random((4, 8), "complex64")(rng))
    bound_ = nvs.bind(nvs.fft.plan(x, axes=(1,)), x=x)
    cpu = jax.device_put(x, jax.devices("cpu")[0])
    with pytest.raises(nvs.errors.OperandError, match=r"got:      complex64\[4,8\] on cpu:0"):
        nvs.reset(bound_, x=cpu)
    pinned = jax.device_put(x, x.sharding.with_memory_kind("pinned_host"))
    with pytest.raises(nvs.errors.OperandError, match=r"on cuda:0 \(pinned_host\)"):
        nvs.reset(bound_, x=pinned)
    with pytest.raises(nvs.errors.OperandError, match=r"numpy\.ndarray"):
        nvs.reset(bound_, x=np.asarray(x))
    assert nvs.execute(bound_).shape == (4, 8)


def test_numpy_plans_run_on_the_cpu(rng):
    x = random((4, 8), "complex64")(rng)
    plan = nvs.fft.plan(x, axes=(1,))
    assert plan.backend == "xla"
    assert relative_l2(plan(x), np.fft.fft(x.astype("complex128"))) < 1e-6


def test_dropped_aliases_on_a_partitioned_program(rng):
    devices = jax.devices("cuda")
    mesh = jax.sharding.Mesh(np.array(devices), ("d",))
    x = random((4 * len(devices), 64, 33), "complex64")(rng)
    sharded = jax.device_put(x, jax.NamedSharding(mesh, jax.P("d")))
    plan = nvs.fft.plan(jax.ShapeDtypeStruct(x.shape, x.dtype), axes=(1, 2), kind="c2r")
    y = jax.jit(lambda x: plan(x))(sharded)
    want = scipy.fft.irfftn(x.astype("complex128"), axes=(1, 2))
    assert relative_l2(y, want) < 1e-6
    assert (np.asarray(sharded) == x).all()


def test_an_export_runs_in_a_process_that_compiles_nothing(rng, tmp_path):
    x = random((4, 96), "complex64")(rng)
    plan = nvs.fft.plan(jax.ShapeDtypeStruct(x.shape, x.dtype), axes=(1,))
    checks = [jax.export.DisabledSafetyCheck.custom_call(target) for target in plan.targets]
    exported = jax.export.export(
        jax.jit(lambda x: plan(x)), platforms=["cuda"], disabled_checks=checks
    )(x)
    (tmp_path / "program").write_bytes(exported.serialize())
    np.save(tmp_path / "x.npy", x)
    script = f"""
import jax, numpy as np, nvstate as nvs
nvs.register()
program = jax.export.deserialize(open({str(tmp_path / "program")!r}, "rb").read())
x = np.load({str(tmp_path / "x.npy")!r})
y = program.call(jax.device_put(x, jax.devices("cuda")[0]))
assert np.allclose(y, np.fft.fft(x), atol=1e-4)
assert nvs.cache.info().made == 1
"""
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
