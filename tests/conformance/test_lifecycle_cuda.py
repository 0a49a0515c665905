"""The lifecycle's statements that need a GPU: memory that is freed, copies, streams, devices."""

import gc
import logging
import os
import re
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

import nvstate as nvs
from nvstate import _native
from tests.case import relative_l2
from tests.conformance.test_lifecycle import count_copies, two_streams
from tests.core.test_threads import together

pytestmark = pytest.mark.gpu

LARGE = 1013 * 1019  # two primes above 127: cuFFT makes tables of megabytes for it


def gpu(n=0):
    """A CUDA device; skips where there is one GPU and two are needed."""
    devices = jax.devices("cuda")
    if n >= len(devices):
        pytest.skip(f"needs {n + 1} GPUs")
    return devices[n]


def value(*shape, seed=0):
    """Random complex64."""
    real, imag = np.random.default_rng(seed).standard_normal((2, *shape))
    return (real + 1j * imag).astype("complex64")


def want(x, axis=-1):
    """The oracle."""
    return np.fft.fft(np.asarray(x).astype("complex128"), axis=axis)


def free_bytes():
    """Device memory outside XLA's pool, as the driver counts it."""
    runtime = pytest.importorskip("cupy").cuda.runtime
    return runtime.memGetInfo()[0]


def run(script, **environment):
    """What a script prints in a process of its own."""
    head = "import jax, jax.numpy as jnp, numpy as np, nvstate as nvs\n"
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | environment
    done = subprocess.run(
        [sys.executable, "-c", head + script], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# Planning and resetting


def test_a_reset_plans_nothing_anew():
    x = jax.device_put(value(12, 77), gpu())
    bound = nvs.bind(nvs.fft.plan(x, axes=(1,)), x=x)
    nvs.execute(bound)
    made = nvs.cache.info().made
    for seed in range(5):
        other = value(12, 77, seed=seed)
        bound = nvs.reset(bound, x=jax.device_put(other, gpu()))
        assert relative_l2(nvs.execute(bound), want(other)) < 1e-6
    assert nvs.cache.info().made == made


def test_autotune_measures_the_strategies_of_a_layout(caplog):
    x = jax.device_put(value(64, 300, 40), gpu())
    plan = nvs.fft.plan(x, axes=(1,))
    with caplog.at_level(logging.INFO, "nvstate"):
        tuned = nvs.autotune(plan, x)
    timed = [r.getMessage() for r in caplog.records if r.getMessage().startswith("autotune")]
    print(timed, tuned.choices)
    assert len(timed) == 2
    seconds = {line.rsplit(" ", 1)[1]: float(line.split()[1]) for line in timed}
    best = min(seconds, key=seconds.get)
    assert tuned.choices == (best if seconds[best] < 0.98 * seconds["auto"] else "auto")
    assert relative_l2(tuned(x), want(x, 1)) < 1e-6
    slow = nvs.fft.plan(x, axes=(1,), strategy="loop")  # five times slower on an H100
    fast = nvs.autotune(slow, x)
    assert (slow.choices, fast.choices) == ("loop", "transpose")
    assert relative_l2(fast(x), want(x, 1)) < 1e-6
    host = nvs.autotune(
        nvs.fft.plan(value(64, 300, 40), axes=(1,), execution="cuda"), value(64, 300, 40)
    )
    assert host.placement.devices == ("cuda:0",)


def test_what_was_tuned_is_stored_and_found_by_another_process(tmp_path):
    path = tmp_path / "plans.json"
    x = jax.device_put(value(4096, 128), gpu())
    pinned = nvs.fft.plan(x, axes=(0,), strategy="transpose")
    assert nvs.fft.plan(x, axes=(0,)).strategy == "strided"
    nvs.store.save({"columns": pinned}, path)
    text = path.read_text()
    assert f'"device": "{gpu().device_kind}"' in text
    assert re.search(r'"cufft": "\d+\.\d+\.\d+"', text)
    assert nvs.store.load(path)["columns"] is pinned
    script = (
        "x = jnp.ones((4096, 128), 'complex64')\n"
        "plan = nvs.fft.plan(x, axes=(0,))\n"
        "print(plan.strategy, plan.choices)\n"
    )
    assert run(script, NVSTATE_STORE=str(path)) == "transpose transpose\n"
    assert run(script) == "strided auto\n"
    path.write_text(text.replace(gpu().device_kind, "NVIDIA Z9"))
    with pytest.warns(UserWarning, match="NVIDIA Z9"):
        assert nvs.store.load(path)["columns"] is nvs.fft.plan(x, axes=(0,))
    assert run(script, NVSTATE_STORE=str(path), PYTHONWARNINGS="ignore") == "strided auto\n"


# Places


def test_a_plan_fixes_the_gpu():
    x, y = (jax.device_put(value(4, 8), gpu(n)) for n in (0, 1))
    for mine, other, place in ((x, y, "cuda:1"), (y, x, "cuda:0")):
        plan = nvs.fft.plan(mine, axes=(1,))
        bound = nvs.bind(plan, x=mine)
        with pytest.raises(
            nvs.errors.OperandError, match=rf"got:      complex64\[4,8\] on {place}"
        ):
            nvs.reset(bound, x=other)
        assert nvs.execute(bound).devices() == mine.devices()
        assert relative_l2(nvs.execute(bound), want(x)) < 1e-6


def test_a_plan_of_pinned_memory_is_right_or_refused():
    x = jax.device_put(value(4, 8), gpu())
    pinned = jax.device_put(x, x.sharding.with_memory_kind("pinned_host"))
    plan = nvs.fft.plan(pinned, axes=(1,))
    assert str(plan.placement) == "cuda:0 (pinned_host)"
    with pytest.raises(nvs.errors.OperandError, match=r"expected: .*\(pinned_host\)"):
        plan(x)
    try:
        y = plan(pinned)
    except jax.errors.JaxRuntimeError as error:
        print("pinned_host:", str(error)[:300])
    else:
        print("pinned_host: runs, result in", y.sharding.memory_kind)
        assert relative_l2(y, want(x)) < 1e-6


@pytest.mark.parametrize("n", [0, 1])
def test_execution_copies_once_in_each_direction(n, capfd):
    x = value(256, 1024)
    plan = nvs.fft.plan(x, axes=(1,), execution=gpu(n))
    assert str(plan.placement) == f"cuda:{n} (numpy)"
    assert plan.backend == "cufft"
    plan(x)
    y, to_device, to_host = count_copies(lambda: plan(x), capfd)
    assert (to_device, to_host) == (1, 1)
    assert type(y) is np.ndarray
    assert y.flags.writeable
    assert y.flags.c_contiguous
    assert relative_l2(y, want(x)) < 1e-6
    bound = nvs.bind(plan, x=x)
    with jax.transfer_guard("disallow"):
        assert relative_l2(nvs.execute(nvs.reset(bound, x=2 * x)), 2 * want(x)) < 1e-6
    y[...] = 0
    assert relative_l2(plan(x), want(x)) < 1e-6


def test_execution_in_words_and_in_place():
    x = value(8, 32)
    first = nvs.fft.plan(x, axes=(1,), execution="cuda")
    assert first.placement.devices == ("cuda:0",)
    assert nvs.fft.plan(x, axes=(1,)).backend == "xla"
    assert relative_l2(nvs.fft.fft(x, execution="cuda"), want(x)) < 1e-6
    mine = x.copy()
    inplace = nvs.fft.plan(mine, axes=(1,), inplace=True, execution="cuda")
    assert inplace(mine) is mine
    assert relative_l2(mine, want(x)) < 1e-6
    with pytest.raises(nvs.errors.OperandError, match=r"numpy\.ndarray"):
        first(jax.device_put(x, gpu()))


def test_no_other_copies_are_made(capfd):
    x = jax.device_put(value(64, 256), gpu())
    plan = nvs.fft.plan(x, axes=(0,))
    bound = nvs.bind(plan, x=x)
    with jax.transfer_guard("disallow_explicit"):
        nvs.execute(nvs.reset(bound, x=x))
        nvs.fft.fft(x)
        jax.jit(nvs.execute)(bound)
    _, to_device, to_host = count_copies(lambda: jax.block_until_ready(plan(x)), capfd)
    assert (to_device, to_host) == (0, 0)


@pytest.mark.parametrize("package", ["cupy", "torch"])
def test_other_packages_are_refused_with_the_line_that_copies_nothing(package):
    other = pytest.importorskip(package)
    x = value(4, 8)
    lent = other.asarray(x) if package == "cupy" else other.from_numpy(x).cuda()
    plan = nvs.fft.plan(jax.device_put(x, gpu()), axes=(1,))
    with pytest.raises(nvs.errors.OperandError, match=r"`jax\.dlpack\.from_dlpack\(x\)`"):
        plan(lent)
    mine = jax.dlpack.from_dlpack(lent)
    address = lent.data.ptr if package == "cupy" else lent.data_ptr()
    assert mine.unsafe_buffer_pointer() == address
    assert relative_l2(plan(mine), want(x)) < 1e-6


# Streams and threads


def test_a_second_stream_of_one_program():
    # XLA owns streams. A program may put calls of one plan on two of them; the native plan is
    # locked while it enqueues, and each call has a work area of its own.
    values = [value(3, 4099, seed=s) for s in range(4)]  # a length that needs a work area
    xs = [jax.device_put(v, gpu()) for v in values]
    plan = nvs.fft.plan(xs[0], axes=(1,))
    assert plan.workspace_bytes > 0

    for options in ({}, {"xla_gpu_enable_command_buffer": ""}):  # with a CUDA graph, and without
        program = jax.jit(two_streams(plan), compiler_options=options)
        for _ in range(20):
            for y, v in zip(program(xs), values, strict=True):
                assert relative_l2(y, 2 * want(v)) < 2e-6


def test_another_librarys_stream_waits_for_the_result():
    torch = pytest.importorskip("torch")
    plan = nvs.fft.plan(jax.ShapeDtypeStruct((512, 4096), "complex64"), axes=(1,))
    stream = torch.cuda.Stream()
    for seed in range(5):
        x = value(512, 4096, seed=seed)
        y = plan(jax.device_put(x, gpu()))
        with torch.cuda.stream(stream):
            there = (torch.from_dlpack(y) * 2).cpu().numpy()
        assert relative_l2(there, 2 * want(x)) < 1e-6


def test_one_plan_in_many_threads_programs_and_devices():
    values = [value(16, 300, seed=s) for s in range(8)]
    wants = [want(v) for v in values]
    plan = nvs.fft.plan(jax.ShapeDtypeStruct((16, 300), "complex64"), axes=(1,))
    devices = jax.devices("cuda")
    stop = threading.Event()

    def work(i):
        if i == 0:
            while not stop.wait(0.01):
                nvs.cache.clear()
                nvs.free(plan)
            return
        try:
            x = jax.device_put(values[i], devices[i % len(devices)])
            program = jax.jit(lambda x: plan(x * (i + 1)) / (i + 1))
            for _ in range(40):
                assert relative_l2(program(x), wants[i]) < 1e-6
                assert relative_l2(plan(x), wants[i]) < 1e-6
        finally:
            stop.set()

    together(work)


def test_one_plan_on_two_gpus_at_once():
    gpu(1)
    devices = jax.devices("cuda")[:2]
    x = value(8, 64, 33)
    mesh = jax.sharding.Mesh(np.array(devices), ("d",))
    spread = jax.device_put(x, jax.NamedSharding(mesh, jax.P("d")))
    plan = nvs.fft.plan(jax.ShapeDtypeStruct((4, 64, 33), "complex64"), axes=(1,))
    spec = jax.P("d")
    local = jax.jit(jax.shard_map(lambda x: plan(x), mesh=mesh, in_specs=spec, out_specs=spec))
    for _ in range(20):
        assert relative_l2(local(spread), want(x, 1)) < 1e-6
    made = nvs.cache.info().made
    for d in devices:
        assert relative_l2(plan(jax.device_put(x[:4], d)), want(x[:4], 1)) < 1e-6
    assert nvs.cache.info().made == made  # one native plan for each device, and no more


# Release


def test_a_release_gives_the_operands_memory_back():
    def in_use():
        gc.collect()
        return gpu().memory_stats()["bytes_in_use"]

    x = jax.block_until_ready(jax.device_put(value(64, 1 << 17), gpu()))  # 64 MiB
    bound = nvs.bind(nvs.fft.plan(x, axes=(1,)), x=x)
    jax.block_until_ready(nvs.execute(bound))
    nbytes = x.nbytes
    del x
    before = in_use()
    plan = nvs.release(bound)
    del bound
    assert before - in_use() == nbytes
    assert (
        relative_l2(plan(jax.device_put(value(64, 1 << 17), gpu())), want(value(64, 1 << 17)))
        < 1e-6
    )


def test_free_gives_native_memory_back_now():
    x = jax.device_put(value(2, LARGE), gpu())
    plan = nvs.fft.plan(x, axes=(1,))
    for _ in range(2):  # what the first one of a process loads is counted as its own, and stays
        nvs.free(plan)
        jax.block_until_ready(plan(x))
    gc.collect()
    counted, free = nvs.cache.info(), free_bytes()
    assert counted.bytes > 1 << 20
    nvs.free(plan)
    gc.collect()
    after = nvs.cache.info()
    print(f"free() gave {free_bytes() - free} bytes back; counted {counted.bytes - after.bytes}")
    assert after.native == counted.native - 1
    assert after.bytes < counted.bytes
    assert free_bytes() - free >= counted.bytes - after.bytes
    assert relative_l2(plan(x), want(x)) < 2e-6  # legal: built again
    assert nvs.cache.info().made == counted.made + 1


def test_resources_bound_what_is_made_inside():
    lengths = [1000003, 1000033, 1000037, 1000039, 1000081, 1000099]  # primes, as LARGE has
    nvs.cache.clear()
    gc.collect()
    before = nvs.cache.info()
    with nvs.resources(limit="1 GiB"):  # what one of them takes
        x = jax.device_put(value(1, lengths[0]), gpu())
        nvs.fft.plan(x, axes=(1,))(x)
        one = nvs.cache.info().bytes - before.bytes
    gc.collect()
    assert nvs.cache.info().native == before.native
    assert one > 0
    most, kept = 0, []
    with nvs.resources(limit=3 * one):
        for n in lengths:
            x = jax.device_put(value(1, n), gpu())
            plan = nvs.fft.plan(x, axes=(1,))
            assert relative_l2(plan(x), want(x)) < 2e-6
            gc.collect()
            most = max(most, nvs.cache.info().bytes - before.bytes)
            kept.append(plan)
        built = [plan._compiled is not None for plan in kept]
        assert (
            relative_l2(
                kept[0](jax.device_put(value(1, lengths[0]), gpu())), want(value(1, lengths[0]))
            )
            < 2e-6
        )
    gc.collect()
    print(f"one {one}, most {most}, kept {built}")
    assert built[-1]
    assert not all(built)
    assert most <= 4 * one + (8 << 20)
    assert nvs.cache.info().native == before.native
    assert [plan._compiled for plan in kept] == [None] * len(kept)


def test_a_limit_spares_the_latest_of_a_family_and_counts_what_others_hold():
    nvs.cache.clear()
    gc.collect()
    before = nvs.cache.info()
    small, large, other = (jax.device_put(value(n, LARGE), gpu()) for n in (1, 2, 3))
    for _ in range(2):  # what the first one of a process loads is counted as its own
        with nvs.resources():
            nvs.fft.plan(small, axes=(1,))(small)
            one = nvs.cache.info().bytes - before.bytes
        gc.collect()
    assert one > 0
    with nvs.resources(limit=one + one // 2):
        first, second = nvs.fft.plan(small, axes=(1,)), nvs.fft.plan(large, axes=(1,))
        first(small)
        assert relative_l2(second(large), want(large)) < 2e-6
        gc.collect()
        assert first._compiled is None
        assert second._compiled is not None  # of the same lengths, so of the same family
        made = nvs.cache.info().made
        second(large)
        assert nvs.cache.info().made == made
        assert relative_l2(first(small), want(small)) < 2e-6
        assert nvs.cache.info().made == made + 1
    gc.collect()
    assert nvs.cache.info().native == before.native
    with nvs.resources(limit=2 * one + one // 2):
        mine = jax.jit(lambda x: nvs.fft.fft(x))
        mine(small)
        first, second = nvs.fft.plan(large, axes=(1,)), nvs.fft.plan(other, axes=(1,))
        first(large)
        assert first._compiled is not None
        second(other)
        gc.collect()
        assert first._compiled is None  # used later than mine, which holds its own and is counted
        assert nvs.cache.info().native == before.native + 2
        assert relative_l2(mine(small), want(small)) < 2e-6


def test_the_cache_is_bounded_by_bytes():
    nvs.cache.clear()
    gc.collect()
    before = nvs.cache.info()
    try:
        nvs.cache.limit(bytes=0)
        x = jax.device_put(value(1, LARGE), gpu())
        plan = nvs.fft.plan(x, axes=(1,))
        assert relative_l2(plan(x), want(x)) < 2e-6
        info = nvs.cache.info()
        assert (info.recent_bytes, info.bytes_limit) == (0, 0)
        assert info.native == before.native + 1  # held by the compiled call
        nvs.free(plan)
        gc.collect()
        assert nvs.cache.info().native == before.native
    finally:
        nvs.cache.limit(bytes=float("inf"))


def test_nothing_is_left_of_ten_thousand_native_plans():
    nvs.cache.clear()
    gc.collect()
    problem = {"kind": "c2c", "dtype": "complex64", "lengths": [512], "layout": [0, 1], "owner": 1}

    def rounds(n):
        for i in range(n):
            dims = [1 + i % 7, 512]
            _native.cufft_plan(0, x_dims=dims, y_dims=dims, **problem)
            nvs.cache.clear()

    rounds(200)
    free, info = free_bytes(), nvs.cache.info()
    rounds(10_000)
    after = nvs.cache.info()
    print(f"{free - free_bytes()} bytes more after 10000 plans")
    assert (after.made - info.made, after.native) == (10_000, info.native)
    assert free - free_bytes() < 4 << 20


def test_nothing_is_left_of_a_thousand_rounds():
    x = jax.device_put(value(4, 64), gpu())

    def rounds(n):
        for _ in range(n):
            plan = nvs.fft.plan(x, axes=(1,))
            plan(x)
            nvs.free(plan)
        gc.collect()
        return (
            free_bytes(),
            len(gpu().client.live_executables()),
            gpu().memory_stats()["bytes_in_use"],
        )

    before = rounds(50)
    after = rounds(1000)
    print(
        f"{before[0] - after[0]} bytes more after 1000 rounds, executables {before[1]}, {after[1]}"
    )
    assert after[1] <= before[1]
    assert after[2] <= before[2]
    assert before[0] - after[0] < 8 << 20


# Observability, other processes, what happened meanwhile


def test_native_plans_are_logged_with_their_bytes(caplog):
    nvs.cache.clear()
    x = jax.device_put(value(3, LARGE), gpu())
    with caplog.at_level(logging.DEBUG, "nvstate"):
        plan = nvs.fft.plan(x, axes=(1,))
        plan(x)
        nvs.free(plan)
    said = {r.getMessage().split(" in ")[0]: r.getMessage() for r in caplog.records}
    print("\n".join(r.getMessage() for r in caplog.records))
    for phase in ("native plan", "first execution", "freed"):
        assert int(re.search(r", (\d+) bytes: ", said[phase])[1]) > 1 << 20
    assert "call: nvstate_cufft_v1" in " ".join(said.values())


def test_plans_live_on_after_the_backends_were_reset():
    out = run(
        "import jax.extend.backend\n"
        "value = np.random.default_rng(0).standard_normal((4, 8)).astype('complex64')\n"
        "want = np.fft.fft(value)\n"
        "x = jnp.asarray(value)\n"
        "plan = nvs.fft.plan(x, axes=(1,))\n"
        "host = nvs.fft.plan(value, axes=(1,), execution='cuda')\n"
        "plan(x), host(value), nvs.fft.fft(x)\n"
        "del x\n"
        "jax.clear_caches()\n"
        "jax.extend.backend.clear_backends()\n"
        "x = jnp.asarray(value)\n"
        "for y in (plan(x), host(value), nvs.fft.fft(x), jax.jit(plan)(x)):\n"
        "    assert np.allclose(y, want, atol=1e-4)\n"
        "print('lived on')\n",
        JAX_PLATFORMS="cuda,cpu",
    )
    assert out == "lived on\n"


def test_the_persistent_cache_is_hit_by_a_second_process(tmp_path):
    script = (
        f"jax.config.update('jax_compilation_cache_dir', {str(tmp_path)!r})\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)\n"
        "jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)\n"
        "events = []\n"
        "jax.monitoring.register_event_listener(lambda name, **_: events.append(name))\n"
        "x = jnp.arange(384, dtype='complex64').reshape(4, 96)\n"
        "plan = nvs.fft.plan(x, axes=(1,))\n"
        "y = jax.jit(lambda plan, x: plan(x))(plan, x)\n"
        "assert np.allclose(y, np.fft.fft(x), rtol=1e-3)\n"
        "print(sum(name.endswith('cache_hits') for name in events))\n"
    )
    first, second = run(script), run(script)
    assert int(first) == 0
    assert int(second) > 0
