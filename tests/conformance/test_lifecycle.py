"""The lifecycle, statement by statement: each row of the contract is a test named after it.

Three rows of the FFT's cases, one of each kind, stand for all; what is said of several operands is
in tests/core/test_two_operands.py, and what needs a GPU in test_lifecycle_cuda.py.
"""

import contextvars
import functools
import gc
import logging
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import time
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import compute_on as streams

import nvstate as nvs
from nvstate._core import scopes, stored
from tests import fresh
from tests.case import all_cases, relative_l2, to_jax
from tests.deviceless import compile_h100

ROWS = {case.id: case for case in all_cases()}
SOME = ["c2c-batch-right", "r2c-odd-axes-apart", "c2r-two-axes-not-hermitian"]


@pytest.fixture(params=SOME)
def case(request):
    """A row of each kind."""
    return ROWS[request.param]


HEAD = "import jax, jax.numpy as jnp, numpy as np, nvstate as nvs\n"


@functools.cache
def run(script):
    """What a script prints in a process of its own."""
    quiet = "import warnings\nwarnings.simplefilter('ignore')\n"
    done = fresh.run(quiet + HEAD + script)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def count_copies(call, capfd):
    """Copies between host and devices during a call, by direction, as XLA logs them."""
    capfd.readouterr()
    with jax.transfer_guard("log_explicit"):
        y = call()
    said = capfd.readouterr().err
    return y, said.count("host-to-device transfer"), said.count("device-to-host transfer")


def two_streams(plan):
    """A program that has every other of its calls on a second stream."""
    on = getattr(streams, "compute_on2", None) or streams.compute_on  # its name in jax 0.10
    beside = on(
        lambda x: plan(x) * 2,
        compute_type="gpu_stream:1",
        out_memory_spaces=jax.memory.Space.Device,
    )
    return lambda xs: [beside(x) if i % 2 else plan(x) * 2 for i, x in enumerate(xs)]


# Problem specification


def test_a_specification_validates_and_touches_no_device(case):
    spec = case.plan(case.value()).spec
    assert spec == pickle.loads(pickle.dumps(spec))
    assert hash(spec) == hash(case.plan(to_jax(case.value())).spec)
    assert repr(spec).startswith("FFTSpec(kind='")
    with pytest.raises(nvs.errors.SpecError):
        nvs.fft.spec(case.value(), axes=(0, 0))
    out = run(
        "from jax._src import xla_bridge\n"
        "x = jax.ShapeDtypeStruct((4, 8), 'complex64')\n"
        "spec = nvs.fft.spec(x, axes=(1,))\n"
        "plan = nvs.fft.plan(spec, x)\n"
        "assert plan == nvs.fft.plan(x, axes=(1,)), plan\n"
        "nvs.fft.spec(np.ones((4, 8), 'complex64'))\n"
        "print(xla_bridge.backends_are_initialized(), spec.lengths)\n"
    )
    assert out == "False (8,)\n"


# Planning


def test_planning_is_pure_and_paid_once(case, x):
    before = nvs.cache.info()
    plan = case.plan(x)
    assert case.plan(x) is plan
    assert nvs.cache.info() == before
    for _ in range(3):
        plan(x)
        case.plan(x)(x)
    assert plan._compiled.call._cache_size() == 1


def test_autotune_is_the_one_impure_verb_and_returns_a_plan(plan, x, case):
    tuned = nvs.autotune(plan, x)
    assert tuned is plan  # a CPU has one way; two ways are in test_two_operands.py
    assert relative_l2(tuned(x), case.oracle(np.asarray(x))) < case.bound


# Execution


def test_execution_is_one_custom_call(case):
    x = jax.ShapeDtypeStruct(case.value().shape, case.value().dtype)
    plan = case.plan(x)
    hlo, _, _ = compile_h100(lambda x: nvs.execute(plan, x), x)
    assert hlo.count('custom_call_target="nvstate_cufft_v1"') == 1
    assert "fft(" not in hlo.replace("nvstate_cufft", "")


def test_a_call_and_execute_are_the_same(plan, x, case):
    bound = nvs.bind(plan, x=x)
    results = [
        plan(x),
        plan(x=x),
        nvs.execute(plan, x),
        nvs.execute(plan, x=x),
        nvs.execute(bound),
    ]
    for y in results:
        assert (np.asarray(y) == np.asarray(results[0])).all()
    assert relative_l2(results[0], case.oracle(np.asarray(x))) < case.bound


# Binding and reset


def test_binding_checks_once(plan, x, monkeypatch):
    bound = nvs.bind(plan, x=x)
    nvs.execute(bound)
    checks = []
    monkeypatch.setattr(type(plan), "check", lambda *_: checks.append(1))
    for _ in range(3):
        nvs.execute(bound)
    assert checks == []


def test_a_reset_is_a_new_binding_and_the_old_one_is_unchanged(plan, x, case):
    bound = nvs.bind(plan, x=x)
    other = case.value(seed=1)
    second = nvs.reset(bound, x=to_jax(other))
    assert second is not bound
    assert second.plan is plan
    assert bound.operands["x"] is x
    assert relative_l2(nvs.execute(second), case.oracle(other)) < case.bound
    assert relative_l2(nvs.execute(bound), case.oracle(np.asarray(x))) < case.bound


@pytest.mark.parametrize("package", ["numpy", "jax", "type"])
def test_an_execution_needs_its_operands_also_after_the_first(case, value, x, package):
    planned = {"numpy": value, "jax": x, "type": jax.ShapeDtypeStruct(x.shape, x.dtype)}[package]
    plan = case.plan(planned)
    for _ in range(2):
        for call in (plan, lambda: nvs.execute(plan), lambda: nvs.bind(plan), lambda: plan(x, x)):
            with pytest.raises(nvs.errors.OperandError, match="this plan takes one operand, `x`"):
                call()
        plan(x if package == "jax" else value)


def test_operands_are_bound_by_position_too(plan, x):
    assert nvs.bind(plan, x).operands["x"] is x
    with pytest.raises(nvs.errors.OperandError, match="1 by position, `x`"):
        nvs.bind(plan, x, x=x)
    with pytest.raises(nvs.errors.OperandError, match="`reset_unchecked` needs a bound plan"):
        nvs.reset_unchecked(plan, x=x)


def test_omitted_operands_stay(plan, x):
    bound = nvs.bind(plan, x=x)
    assert nvs.reset(bound).operands["x"] is x


def test_a_reset_is_all_or_nothing(plan, x, case):
    bound = nvs.bind(plan, x=x)
    with pytest.raises(nvs.errors.OperandError):
        nvs.reset(bound, x=x[..., :-1])
    assert relative_l2(nvs.execute(bound), case.oracle(np.asarray(x))) < case.bound


def test_an_unchecked_reset_checks_nothing(plan, x):
    bound = nvs.reset_unchecked(nvs.bind(plan, x=x), x="no array at all")
    assert bound.operands["x"] == "no array at all"
    with pytest.raises(nvs.errors.OperandError, match="got:      str"):
        nvs.execute(bound)


@pytest.mark.parametrize("reset", [nvs.reset, nvs.reset_unchecked])
def test_resets_inside_transformations(plan, x, case, reset):
    values = [case.value(seed) for seed in (1, 2)]
    wants = [case.oracle(v) for v in values]
    one, two = (to_jax(v) for v in values)
    stacked = jnp.stack([one, two])
    bound = nvs.bind(plan, x=x)

    def after(bound, x):
        return nvs.execute(reset(bound, x=x))

    assert relative_l2(jax.jit(after)(bound, one), wants[0]) < case.bound
    ys = jax.vmap(after, in_axes=(None, 0))(bound, stacked)
    zs = jax.lax.scan(lambda b, x: (reset(b, x=x), after(b, x)), bound, stacked)[1]
    for results in (ys, zs):
        for y, want in zip(results, wants, strict=True):
            assert relative_l2(y, want) < case.bound
    pick = jax.jit(
        lambda b, yes: jax.lax.cond(yes, lambda b: reset(b, x=one), lambda b: reset(b, x=two), b)
    )
    assert relative_l2(nvs.execute(pick(bound, False)), wants[1]) < case.bound


def test_the_spec_says_what_may_differ(plan, x):
    (planned,) = plan.types
    same = type(planned)((1, *planned.shape), planned.dtype)
    assert plan.spec.accepts((planned,), (planned,))
    assert plan.spec.accepts((planned,), (same,))  # a batch axis more, of one
    assert plan(x[None]).shape == (1, *plan.result.shape)
    for shape, dtype in (((*planned.shape[:-1], 99), planned.dtype), (planned.shape, "int8")):
        assert not plan.spec.accepts((planned,), (type(planned)(shape, dtype),))


# Release


def test_a_release_drops_the_operands_and_keeps_what_was_planned(plan, case):
    x = to_jax(case.value())
    gone, nbytes = weakref.ref(x), x.nbytes
    held = sum(a.nbytes for a in jax.live_arrays())
    bound = nvs.bind(plan, x=x)
    y = nvs.execute(bound)
    compiled = plan._compiled
    del x, y
    released = nvs.release(bound)
    del bound
    gc.collect()
    assert gone() is None
    assert sum(a.nbytes for a in jax.live_arrays()) <= held - nbytes
    assert released is plan
    assert plan._compiled is compiled is not None


def test_freed_plans_are_built_again(plan, x, case):
    plan(x)
    nvs.free(plan)
    assert plan._compiled is None
    nvs.free(plan)  # twice is once
    assert relative_l2(plan(x), case.oracle(np.asarray(x))) < case.bound
    assert relative_l2(nvs.execute(nvs.bind(plan, x=x)), case.oracle(np.asarray(x))) < case.bound


def test_resources_end_what_was_made_inside_nested_and_across_exceptions(case):
    outer, inner, before = (to_jax(case.value()[None]) * 1 for _ in range(3))
    plans = []

    def used(x, *ones):
        plan = case.plan(x.reshape(*ones, *x.shape))
        plan(x.reshape(*ones, *x.shape))
        plans.append(plan)
        return plan

    old = case.plan(before)
    old(before)

    def fail():
        with nvs.resources():
            used(outer, 1)
            with nvs.resources(limit="2 GiB"):
                used(inner, 1, 1)
                raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()
    assert [plan._compiled for plan in plans] == [None, None]
    assert old._compiled is not None
    with nvs.resources():
        plan = used(outer, 1)
        with nvs.resources():
            other = used(inner, 1, 1)
        assert other._compiled is None
        assert plan._compiled is not None
    assert plan._compiled is None


@pytest.mark.parametrize("limit", ["2 GB of it", -1, "1.5.2 GiB", None, True, 1.5, "GiB"])
def test_limits_are_sizes(limit):
    with pytest.raises(nvs.errors.SpecError, match="no size of memory"):
        nvs.resources(limit=limit).__enter__()
    if limit is not None:
        with pytest.raises(nvs.errors.SpecError, match="no size of memory"):
            nvs.cache.limit(bytes=limit)


@pytest.mark.parametrize(
    ("limit", "nbytes"),
    [("2 GiB", 2**31), ("1.5 kB", 1500), (2e9, 2 * 10**9), (np.int64(5), 5), ("0", 0), ("7 B", 7)],
)
def test_limits_are_written_in_several_ways(limit, nbytes):
    try:
        nvs.cache.limit(bytes=limit)
        assert nvs.cache.info().bytes_limit == nbytes
    finally:
        nvs.cache.limit(bytes=float("inf"))


def test_a_block_that_is_left_in_another_context_ends_all_the_same(case, x):
    plan = case.plan(x)
    nvs.free(plan)
    block = nvs.resources()

    def enter():
        block.__enter__()
        plan(x)

    contextvars.copy_context().run(enter)
    assert plan._compiled is not None
    with pytest.raises(ValueError, match="different Context"):
        block.__exit__(None, None, None)
    assert plan._compiled is None


def test_a_block_may_be_shared_by_threads():
    shapes = [(2, 8 + n) for n in range(60)]

    def use(part):
        for shape in shapes[part::3]:
            nvs.fft.plan(jnp.ones(shape, "complex64"), axes=(1,))
            scopes.enter(nvs.fft.plan(jnp.ones(shape, "complex64"), axes=(0,)))

    with nvs.resources():
        (scope,) = scopes.current.get()
        inside = [contextvars.copy_context() for _ in range(3)]
        threads = [threading.Thread(target=c.run, args=(use, i)) for i, c in enumerate(inside)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            scope._built()
        for thread in threads:
            thread.join()


def test_limits_of_the_cache_are_settable():
    nvs.cache.limit(plans=3, bytes="1.5 GiB")
    try:
        info = nvs.cache.info()
        assert (info.limit, info.bytes_limit) == (3, 3 * 2**29)
        nvs.cache.limit(bytes=2_000)
        assert (nvs.cache.info().limit, nvs.cache.info().bytes_limit) == (3, 2000)
    finally:
        nvs.cache.limit(plans=64, bytes=float("inf"))
    assert nvs.cache.info().bytes_limit == float("inf")


# In place, and in one call


def test_in_place_operand_and_result_share_memory():
    case = ROWS["c2c-batch-right"]
    x = to_jax(case.value())
    plan = nvs.fft.plan(x, axes=(0,), inplace=True)
    address = x.unsafe_buffer_pointer()
    y = jax.jit(lambda x: plan(x), donate_argnums=0)(x)
    assert x.is_deleted()
    assert y.unsafe_buffer_pointer() == address
    value = case.value()
    assert nvs.fft.plan(value, axes=(0,), inplace=True)(value) is value
    assert relative_l2(value, case.oracle(case.value())) < case.bound


def test_a_one_shot_is_spec_plan_and_execute_in_one_call():
    x = to_jax(ROWS["c2c-batch-right"].value())
    nvs.cache.clear()
    before = nvs.cache.info()
    y = [nvs.fft.fft(x, axis=0) for _ in range(4)][-1]
    after = nvs.cache.info()
    assert (after.hits - before.hits, after.misses - before.misses, after.oneshots) == (3, 1, 1)
    assert (np.asarray(y) == np.asarray(nvs.fft.plan(x, axes=(0,))(x))).all()
    nvs.cache.clear()
    assert nvs.cache.info().oneshots == 0


# A plan may be


def test_plans_are_closed_over_arguments_carries_pickled_and_exported(plan, x, case):
    want = case.oracle(np.asarray(x))
    traces = []

    @jax.jit
    def argument(plan, x):
        traces.append(1)
        return plan(x)

    again = pickle.loads(pickle.dumps(plan))
    for y in (jax.jit(lambda x: plan(x))(x), argument(plan, x), argument(again, x)):
        assert relative_l2(y, want) < case.bound
    assert len(traces) == 1
    kept, y = jax.jit(lambda p, x: jax.lax.scan(lambda p, x: (p, p(x)), p, x[None]))(plan, x)
    assert kept is plan
    assert relative_l2(y[0], want) < case.bound
    checks = nvs.disabled_checks()
    for function, args in ((lambda p, x: p(x), (plan, x)), (lambda x: plan(x), (x,))):
        exported = jax.export.export(jax.jit(function), disabled_checks=checks)(*args)
        restored = jax.export.deserialize(exported.serialize())
        assert relative_l2(restored.call(*args), want) < case.bound


def test_exports_run_in_another_process(tmp_path):
    path = tmp_path / "exported"
    script = (
        "x = jnp.arange(32, dtype='complex64').reshape(4, 8); plan = nvs.fft.plan(x, axes=(1,))\n"
    )
    run(
        script + "f = jax.jit(lambda plan, x: plan(x))\n"
        "e = jax.export.export(f, disabled_checks=nvs.disabled_checks())(plan, x)\n"
        f"open({str(path)!r}, 'wb').write(e.serialize())\n"
    )
    out = run(
        script + f"e = jax.export.deserialize(bytearray(open({str(path)!r}, 'rb').read()))\n"
        "print(np.allclose(e.call(plan, x), np.fft.fft(np.asarray(x)), atol=1e-4))\n"
    )
    assert out == "True\n"


# What a plan fixes


def test_a_plan_fixes_shape_and_dtype(plan, x):
    for wrong in (x[..., :-1], x.astype("complex128" if x.dtype != "complex128" else "complex64")):
        with pytest.raises(nvs.errors.OperandError, match="does not match its plan"):
            nvs.bind(plan, x=wrong)
        with pytest.raises(nvs.errors.OperandError):
            jax.jit(lambda x: plan(x))(wrong)


def test_a_plan_from_numpy_takes_and_returns_numpy(case, value):
    plan = case.plan(value)
    for x in (value, np.asfortranarray(value), value[::-1][::-1]):
        y = plan(x)
        assert type(y) is np.ndarray
        assert y.flags.writeable
        assert y.flags.c_contiguous
        assert y.dtype == plan.result.dtype
        y[...] = 0  # is nobody else's
        assert relative_l2(plan(x), case.oracle(value)) < case.bound
    with pytest.raises(nvs.errors.OperandError, match=r"`numpy.asarray\(x\)`"):
        plan(to_jax(value))


def test_a_plan_from_jax_takes_and_returns_jax(plan, x, value):
    assert isinstance(plan(x), jax.Array)
    with pytest.raises(nvs.errors.OperandError, match=r"`jax.numpy.asarray\(x\)`"):
        plan(value)


def test_a_plan_from_a_type_takes_either_and_returns_jax(case, x, value):
    plans = [case.plan(jax.ShapeDtypeStruct(x.shape, x.dtype))]
    jax.jit(lambda x: plans.append(case.plan(x)) or x)(x)  # a tracer
    assert plans[0] is plans[1]
    for operand in (x, value):
        y = plans[0](operand)
        assert isinstance(y, jax.Array)
        assert relative_l2(y, case.oracle(value)) < case.bound


class Lent:
    """Another package's array: it speaks DLPack."""

    def __init__(self, x):
        self.x = x

    def __dlpack__(self, **keywords):
        return self.x.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.x.__dlpack_device__()


def test_arrays_that_speak_dlpack_are_refused_with_the_line_that_converts_them(case, value, x):
    lent = Lent(value)
    for plan, line in (
        (case.plan(x), "jax.dlpack.from_dlpack"),
        (case.plan(value), "numpy.from_dlpack"),
    ):
        cure = re.escape(f"\nConvert it without a copy by `{line}(x)`.")
        with pytest.raises(nvs.errors.OperandError, match=cure):
            plan(lent)
    assert relative_l2(case.plan(x)(jax.dlpack.from_dlpack(lent)), case.oracle(value)) < case.bound
    assert relative_l2(case.plan(value)(np.from_dlpack(lent)), case.oracle(value)) < case.bound
    with pytest.raises(nvs.errors.SpecError, match=r"jax\.dlpack\.from_dlpack\(x\)"):
        nvs.fft.plan(lent)


def test_masks_are_refused_whatever_was_called_before(case, value, x):
    masked = np.ma.masked_array(value, mask=value == value.ravel()[0])
    for plan in (case.plan(value), case.plan(x), case.plan(jax.ShapeDtypeStruct(x.shape, x.dtype))):
        for _ in range(2):
            for call in (plan, lambda m, plan=plan: nvs.bind(plan, x=m)):
                with pytest.raises(nvs.errors.OperandError, match=r"got: .*MaskedArray"):
                    call(masked)
            plan(x if plan.placement and plan.placement.package == "jax" else value)


def test_the_way_between_memory_spaces_is_right(case, x):
    pinned = jax.device_put(x, x.sharding.with_memory_kind("pinned_host"))
    for plan, operand in ((case.plan(x), pinned), (case.plan(pinned), x)):
        with pytest.raises(nvs.errors.OperandError, match="move it with") as raised:
            plan(operand)
        code = re.search(r"move it with `(.*)`\.$", str(raised.value))[1]
        nvs.bind(plan, x=eval(code, {"jax": jax, "x": operand}))
    there = jax.device_put(x, jax.devices("cpu")[3])
    with pytest.raises(nvs.errors.OperandError, match="move it with") as raised:
        case.plan(there)(x)
    code = re.search(r"move it with `(.*)`\.$", str(raised.value))[1]
    nvs.bind(case.plan(there), x=eval(code, {"jax": jax, "x": x}))


def test_members_of_a_batch_are_planned_one_by_one(case, x):
    with pytest.raises(nvs.errors.OperandError, match="under `vmap`, of one member, without the"):
        jax.vmap(case.plan(jnp.stack([x, x])))(jnp.stack([x, x]))


def test_a_plan_fixes_the_memory_space(plan, x):
    bound = nvs.bind(plan, x=x)
    for wrong, text in (
        (jax.device_put(x, jax.devices("cpu")[1]), "cpu:1"),
        (jax.device_put(x, x.sharding.with_memory_kind("pinned_host")), r"cpu:0 \(pinned_host\)"),
    ):
        with pytest.raises(nvs.errors.OperandError, match=rf"got: .* on {text}"):
            nvs.reset(bound, x=wrong)
        with pytest.raises(nvs.errors.OperandError, match=rf"got: .* on {text}"):
            plan(wrong)
        assert nvs.execute(nvs.bind(nvs.fft.plan(plan.spec, wrong), x=wrong)).devices()


def test_the_execution_device_follows_the_operands(case, x):
    there = jax.device_put(x, jax.devices("cpu")[2])
    plan = case.plan(there)
    assert plan.placement.devices == ("cpu:2",)
    assert plan(there).devices() == {jax.devices("cpu")[2]}


def test_uncommitted_operands_follow_jaxs_default_device(plan, x, case):
    # As everywhere in JAX, and as the contract says: such an array may be moved by its user's word.
    there = jax.devices("cpu")[1]
    with jax.default_device(there):
        y = plan(x)
    assert y.devices() == {there}
    assert relative_l2(y, case.oracle(np.asarray(x))) < case.bound
    committed = jax.device_put(x, jax.devices("cpu")[0])
    with jax.default_device(there):
        assert plan(committed).devices() == {jax.devices("cpu")[0]}


def test_execution_overrides_it_for_numpy(value, case):
    spec = case.plan(value).spec
    device = jax.devices("cpu")[3]
    plan = nvs.fft.plan(spec, value, execution=device)
    assert str(plan.placement) == "cpu:3 (numpy)"
    assert plan._compiled is None
    assert relative_l2(plan(value), case.oracle(value)) < case.bound
    assert plan._compiled.device is device
    with jax.disable_jit():
        assert relative_l2(plan(value), case.oracle(value)) < case.bound
    assert nvs.fft.plan(spec, value, execution="cpu") is nvs.fft.plan(spec, value)
    assert nvs.fft.plan(spec, value, execution="cpu") is not plan


EXECUTION = {
    "of-jax": (lambda x: jnp.asarray(x), "cpu", nvs.errors.SpecError, "is about NumPy operands"),
    "of-a-type": (
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
        "cpu",
        nvs.errors.SpecError,
        "of no place",
    ),
    "unknown": (lambda x: x, "gpu", nvs.errors.SpecError, '"cpu", "cuda" or a jax.Device'),
    "a-number": (lambda x: x, 0, nvs.errors.SpecError, "unknown `execution`"),
}


@pytest.mark.parametrize("name", EXECUTION)
def test_execution_that_cannot_be(name, value):
    make, execution, error, text = EXECUTION[name]
    with pytest.raises(error, match=text):
        nvs.fft.plan(
            make(value), kind="c2c" if value.dtype.kind == "c" else None, execution=execution
        )


def test_execution_on_a_device_that_is_not_here():
    out = run(
        "jax.config.update('jax_platforms', 'cpu')\n"
        "x = np.ones((4, 8), 'complex64')\n"
        "for call in (lambda: nvs.fft.plan(x, execution='cuda'),\n"
        "             lambda: nvs.fft.fft(x, execution='cuda')):\n"
        "    try:\n"
        "        call()\n"
        "    except nvs.errors.UnsupportedError as error:\n"
        "        said = str(error)\n"
        "        print('no device cuda in this process' in said, 'got:      cpu:0' in said)\n"
    )
    assert out == "True True\nTrue True\n"


def test_no_other_copies_are_made(case, x, value, capfd):
    plan, host = case.plan(x), case.plan(value)
    plan(x)
    host(value)
    with jax.transfer_guard("disallow_explicit"):
        bound = nvs.reset(nvs.bind(plan, x=x), x=x)
        jax.block_until_ready([nvs.execute(bound), jax.jit(nvs.execute)(bound)])
    with jax.transfer_guard("disallow"):
        assert relative_l2(host(value), case.oracle(value)) < case.bound
    y, to_device, _ = count_copies(lambda: host(value), capfd)
    assert to_device == 1
    assert relative_l2(y, case.oracle(value)) < case.bound
    _, to_device, to_host = count_copies(lambda: jax.block_until_ready(plan(x)), capfd)
    assert (to_device, to_host) == (0, 0)


def test_a_program_may_have_one_plans_calls_on_two_streams():
    x = jax.ShapeDtypeStruct((3, 4099), "complex64")
    program = two_streams(nvs.fft.plan(x, axes=(1,)))
    hlo, thunks, _ = compile_h100(lambda *xs: program(xs), x, x, x, x)
    assert hlo.count('custom_call_target="nvstate_cufft_v1"') == 4
    assert len(re.findall(r"kAsyncStart .*stream=computation_stream\[1\]", thunks)) == 2


# Observability


def test_every_phase_is_logged_with_milliseconds_and_bytes(case, value, caplog):
    x = jnp.stack([to_jax(value)] * 7)
    with caplog.at_level(logging.INFO, "nvstate"):
        spec = nvs.fft.spec(x, axes=(1,), kind="c2r" if case.id.startswith("c2r") else None)
        plan = nvs.fft.plan(spec, x)
        plan(x)
        plan(x)
        nvs.free(plan)
        with nvs.resources():
            plan(x)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    words = [
        "specified",
        "planned",
        "first execution",
        "freed",
        "first execution",
        "end of a scope",
    ]
    assert [line.split(" in ")[0] for line in said] == words
    assert all(re.search(r" in \d+\.\d{3} ms", line) for line in said)
    assert all(", 0 bytes: " in line for line in said[2:])
    caplog.clear()
    with caplog.at_level(logging.DEBUG, "nvstate"):
        nvs.reset(nvs.bind(plan, x=x), x=x)
    assert [r.getMessage().split(":")[0] for r in caplog.records] == ["bound", "reset"]


def test_watching_changes_nothing():
    out = run(
        "import logging\n"
        "from jax._src import xla_bridge\n"
        "logging.basicConfig(level=logging.DEBUG)\n"
        "plan = nvs.fft.plan(jax.ShapeDtypeStruct((4, 8), 'complex64'), axes=(1,))\n"
        "print(xla_bridge.backends_are_initialized(), repr(plan))\n"
    )
    assert out.startswith("False FFTPlan(complex64[4,8] -> complex64[4,8]: c2c forward")


def test_importing_says_and_does_nothing():
    script = (
        "import logging, sys\n"
        "from jax._src import xla_bridge\n"
        "from nvstate._native import library\n"
        "logger = logging.getLogger('nvstate')\n"
        "print(xla_bridge.backends_are_initialized(), library.loaded(), logger.handlers,\n"
        "      logger.level, jax.config.jax_enable_x64)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", HEAD + script],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_ENABLE_X64": "0"},
    )
    assert done.stdout == "False None [] 0 False\n", done.stderr[-3000:]


# What may have happened meanwhile


def test_plans_live_on_after_clear_caches(plan, x, case):
    plan(x)
    bound = nvs.bind(plan, x=x)
    jax.clear_caches()
    for y in (plan(x), nvs.execute(bound), jax.jit(lambda x: plan(x))(x)):
        assert relative_l2(y, case.oracle(np.asarray(x))) < case.bound


def test_plans_live_on_after_the_backends_were_reset():
    out = run(
        "import jax.extend.backend\n"
        "value = np.random.default_rng(0).standard_normal((4, 8)).astype('complex64')\n"
        "want = np.fft.fft(value)\n"
        "x = jnp.asarray(value)\n"
        "plan, host = nvs.fft.plan(x, axes=(1,)), nvs.fft.plan(value, axes=(1,))\n"
        "plan(x), host(value), nvs.fft.fft(x), nvs.fft.fft(value)\n"
        "for _ in range(2):\n"
        "    jax.extend.backend.clear_backends()\n"
        "    x = jnp.asarray(value)\n"
        "    for y in (plan(x), host(value), nvs.fft.fft(x), nvs.fft.fft(value),\n"
        "              nvs.execute(nvs.reset(nvs.bind(plan, x=x), x=x)), jax.jit(plan)(x)):\n"
        "        assert np.allclose(y, want, atol=1e-4)\n"
        "print('lived on')\n"
    )
    assert out == "lived on\n"


def test_a_device_that_is_gone_is_named(value, case):
    plan = nvs.fft.plan(case.plan(value).spec, value, execution=jax.devices("cpu")[1])
    text = plan.to_json().replace('"cpu:1"', '"cpu:77"')
    gone = type(plan).from_json(text)
    with pytest.raises(nvs.errors.UnsupportedError, match=r"no device cpu:77(.*\n)*.*cpu:0, cpu:1"):
        gone(value)
    there = type(plan).from_json(case.plan(to_jax(value)).to_json().replace('"cpu:0"', '"cuda:5"'))
    with pytest.raises(
        nvs.errors.OperandError, match=r"expected: .* on cuda:5\n  got: .* on cpu:0"
    ):
        there(to_jax(value))


def test_pickles_of_a_newer_version_are_refused(plan):
    for restore, arguments in (plan.__reduce__(), plan.spec.__reduce__()):
        assert restore(*arguments) == (plan if len(arguments) == 1 else plan.spec)
    restore, (kind, fields) = plan.spec.__reduce__()
    with pytest.raises(nvs.errors.StoreError, match="unknown or missing: prolog"):
        restore(kind, {**fields, "prolog": "window"})
    with pytest.raises(nvs.errors.SpecError, match="unknown `kind`"):
        restore(kind, {**fields, "kind": "hartley"})


def test_plans_of_a_newer_version_are_refused(plan):
    text = plan.to_json().replace('"axes"', '"turns": 3, "axes"', 1)
    with pytest.raises(
        nvs.errors.StoreError, match=r"turns(.*\n)*.*of another version of nvstate: up"
    ):
        type(plan).from_json(text)


def test_a_consumed_operand_is_named(case):
    x = to_jax(case.value())
    plan = case.plan(x)
    bound = nvs.bind(plan, x=x)
    plan(x)
    x.delete()
    for call in (lambda: nvs.execute(bound), lambda: plan(x), lambda: nvs.reset(bound, x=x)):
        with pytest.raises(
            nvs.errors.OperandError, match=r"`x` was consumed\n.*\n.*a deleted or do"
        ):
            call()
    again = nvs.reset(bound, x=to_jax(case.value()))
    assert relative_l2(nvs.execute(again), case.oracle(case.value())) < case.bound


def test_stale_files_are_planned_anew(plan, tmp_path):
    path = nvs.store.save({"mine": plan}, tmp_path / "plans.json")
    assert nvs.store.load(path) == {"mine": plan}
    now = stored.environment(type(plan), plan.placement)["jaxlib"]
    path.write_text(path.read_text().replace(f'"jaxlib": "{now}"', '"jaxlib": "0.1.2"'))
    with pytest.warns(UserWarning, match=rf"jaxlib.*0\.1\.2.*here.*{re.escape(now)}"):
        assert nvs.store.load(path)["mine"].choices == "auto"


@pytest.mark.slow
def test_every_process_of_a_program_runs_its_own_plans():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    script = (
        "import pickle, sys\n"
        f"jax.distributed.initialize('localhost:{port}', 2, int(sys.argv[1]))\n"
        "value = np.random.default_rng(0).standard_normal((4, 8)).astype('complex64')\n"
        "x, want = jnp.asarray(value), np.fft.fft(value)\n"
        "assert jax.process_count() == 2 and jax.local_devices()[0].id == 2048 * int(sys.argv[1])\n"
        "plan = nvs.fft.plan(value, axes=(1,))\n"
        "assert plan is nvs.fft.plan(value, axes=(1,), execution='cpu')\n"
        "mine = nvs.fft.plan(x, axes=(1,))\n"
        "for y in (plan(value), nvs.fft.fft(value), mine(x), nvs.fft.fft(x)):\n"
        "    assert np.allclose(y, want, atol=1e-4)\n"
        "print(hash(plan))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HEAD + script, str(i)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    done = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], done
    assert len({out.splitlines()[-1] for out, _ in done}) == 1  # one plan everywhere


@pytest.mark.slow
def test_nothing_is_left_of_ten_thousand_rounds():
    client = jax.devices("cpu")[0].client
    x = jnp.ones((4, 64), "complex64")

    def rounds(n):
        for _ in range(n):
            plan = nvs.fft.plan(x, axes=(1,))
            plan(x)
            nvs.free(plan)
        gc.collect()
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE"), len(client.live_executables())

    memory, executables = rounds(500)
    start = time.perf_counter()
    after, left = rounds(10_000)
    print(
        f"{after - memory} bytes more, {left - executables} executables more,"
        f" {time.perf_counter() - start:.0f} s"
    )
    assert left <= executables
    assert after - memory < 32 * 2**20
