"""One plan from many threads, programs and devices at once: right answers, and an end."""

import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvstate as nvs
from tests.case import relative_l2

RNG = np.random.default_rng(23)
VALUES = [(RNG.standard_normal((4, 6, 8)) + 1j * RNG.standard_normal((4, 6, 8))) for _ in range(8)]
WANTS = [np.fft.fft(v, axis=1) for v in VALUES]


def together(work, threads=8):
    """Run `work(i)` in as many threads at once; the first error, or a deadlock, fails the test."""
    gate = threading.Barrier(threads)

    def start(i):
        gate.wait(60)
        return work(i)

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(start, i) for i in range(threads)]
        return [future.result(timeout=120) for future in futures]


def right(y, i):
    """Whether a result is the oracle's."""
    assert relative_l2(y, WANTS[i]) < 1e-14


@pytest.mark.parametrize("package", [np.asarray, jnp.asarray])
def test_one_plan_in_many_threads(package):
    plan = nvs.fft.plan(package(VALUES[0]), axes=(1,))
    nvs.free(plan)  # so that all of them want to be the first

    def work(i):
        x = package(VALUES[i])
        bound = nvs.bind(plan, x=x)
        for _ in range(25):
            right(plan(x), i)
            right(nvs.execute(nvs.reset(bound, x=x)), i)

    together(work)


def test_one_plan_in_many_programs_on_many_devices():
    plan = nvs.fft.plan(jax.ShapeDtypeStruct((4, 6, 8), "complex128"), axes=(1,))

    def work(i):
        x = jax.device_put(VALUES[i], jax.devices()[i % 4])
        run = jax.jit(lambda x: plan(x * (i + 1)) / (i + 1))
        for _ in range(10):
            right(run(x), i)
            right(plan(x), i)

    together(work)


def test_one_plan_in_shard_map_and_beside_it():
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((4,), ("d",), axis_types=auto)
    local = nvs.fft.plan(jax.ShapeDtypeStruct((1, 6, 8), "complex128"), axes=(1,))
    spec = jax.P("d")
    spread = jax.jit(jax.shard_map(lambda x: local(x), mesh=mesh, in_specs=spec, out_specs=spec))

    def work(i):
        for _ in range(10):
            right(spread(VALUES[i]) if i % 2 else jnp.concatenate(list(map(local, parts[i]))), i)

    parts = [[jnp.asarray(part[None]) for part in value] for value in VALUES]
    together(work)


def test_plans_are_made_freed_and_used_at_once():
    ended_ones = threading.Semaphore(0)

    def work(i):
        if i == 0:
            ended = 0
            while ended < 7:
                nvs.cache.clear()
                for axis in range(3):
                    nvs.free(nvs.fft.plan(jnp.asarray(VALUES[0]), axes=(axis,)))
                ended += ended_ones.acquire(timeout=0.002)
            return
        try:
            for n in range(4):
                x, axis = jnp.asarray(VALUES[i]), (i + n) % 3
                with nvs.resources(limit="1 MiB"):
                    y = nvs.fft.fft(x, axis=axis)
                    z = nvs.fft.plan(x, axes=(axis,))(x)
                assert relative_l2(y, np.fft.fft(VALUES[i], axis=axis)) < 1e-14
                assert (np.asarray(y) == np.asarray(z)).all()
        finally:
            ended_ones.release()

    together(work)


def test_equal_plans_made_at_once_are_one():
    shapes = [(3, 5 + n) for n in range(40)]

    def work(_):
        return [nvs.fft.plan(jax.ShapeDtypeStruct(s, "complex64")) for s in shapes]

    for plans in zip(*together(work), strict=True):
        assert len(set(map(id, plans))) == 1
