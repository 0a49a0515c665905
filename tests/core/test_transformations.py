"""Where JAX's machinery meets a primitive: contexts, meshes, modes and processes."""

import pickle
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import nvstate as nvs
from nvstate._core import scopes
from tests import fresh
from tests.case import relative_l2

Z = jnp.asarray(np.random.default_rng(3).standard_normal((4, 6, 8)) + 0j)


def mesh(shape, names):
    """An automatic mesh of fake devices."""
    kinds = (jax.sharding.AxisType.Auto,) * len(names)
    return jax.make_mesh(shape, names, axis_types=kinds)


def run(script):
    """Run a script in a process of its own, since what it tests once ended the process."""
    head = (
        "import jax, jax.numpy as jnp, numpy as np, nvstate as nvs\n"
        "from jax import export\n"
        "x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 6, 8)).astype('complex64'))\n"
        "want = np.fft.fft(np.asarray(x))\n"
        "auto = (jax.sharding.AxisType.Auto,)\n"
        "mesh = jax.make_mesh((4,), ('d',), axis_types=auto)\n"
    )
    done = fresh.run(head + script, JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_exported_programs_gather_a_split_transform_axis():
    run(
        "s = jax.device_put(x, jax.NamedSharding(mesh, jax.P(None, None, 'd')))\n"
        "made = export.export(jax.jit(nvs.fft.fft), platforms=['cpu'])(s).serialize()\n"
        "y = jax.jit(export.deserialize(made).call)(s)\n"
        "assert np.allclose(y, want, atol=1e-4)\n"
    )


def test_the_partitioner_before_shardy():
    run(
        "jax.config.update('jax_use_shardy_partitioner', False)\n"
        "for spec in (jax.P('d'), jax.P(None, None, 'd')):\n"
        "    s = jax.device_put(x, jax.NamedSharding(mesh, spec))\n"
        "    assert np.allclose(jax.jit(nvs.fft.fft)(s), want, atol=1e-4)\n"
    )


@pytest.mark.parametrize("function", [nvs.fft.fft, nvs.fft.ifft])
def test_partly_manual_shard_map(function):
    both = mesh((2, 2), ("a", "b"))
    local = jax.shard_map(
        lambda x: function(x),
        mesh=both,
        in_specs=jax.P("a"),
        out_specs=jax.P("a"),
        axis_names={"a"},
    )
    oracle = np.fft.fft if function is nvs.fft.fft else np.fft.ifft
    assert relative_l2(jax.jit(local)(Z), oracle(np.asarray(Z))) < 1e-14
    split = jax.device_put(Z, jax.NamedSharding(both, jax.P("a", None, "b")))
    assert relative_l2(jax.jit(local)(split), oracle(np.asarray(Z))) < 1e-14


def test_without_jit():
    plan = nvs.fft.plan(Z, axes=(1,))
    with jax.disable_jit():
        assert relative_l2(plan(Z), np.fft.fft(Z, axis=1)) < 1e-14
        gradient = jax.grad(lambda x: jnp.sum(jnp.abs(plan(x)) ** 2))(Z)
    assert relative_l2(gradient, 2 * 6 * np.conj(Z)) < 1e-13


def test_scopes_nest_and_belong_to_their_thread():
    plan, other = nvs.fft.plan(Z, axes=(1,)), nvs.fft.plan(Z, axes=(0,))
    nvs.free(plan)
    nvs.free(other)

    def elsewhere():
        other(Z)

    with nvs.resources():
        with nvs.resources():
            pass
        plan(Z)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert "_compiled" in vars(plan)
    assert "_compiled" not in vars(plan)
    assert "_compiled" in vars(other)
    assert scopes.current.get() == ()


def test_the_end_of_a_scope_does_not_hide_an_exception():
    def fail():
        with nvs.resources(), nvs.resources():
            nvs.fft.plan(Z, axes=(2,))(Z)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()


def test_free_and_scopes_end_what_eager_derivatives_compiled():
    plan = nvs.fft.plan(Z, axes=(1,))

    def use():
        jax.grad(lambda x: jnp.sum(jnp.abs(plan(x)) ** 2))(Z)
        jax.vmap(plan)(jnp.stack([Z, Z]))
        assert scopes.eager.cache_info().currsize > 0

    use()
    nvs.free(plan)
    assert scopes.eager.cache_info().currsize == 0
    with nvs.resources():
        use()
    assert scopes.eager.cache_info().currsize == 0


def test_eager_derivatives_keep_a_few_programs():
    for n in range(67):
        x = jax.ShapeDtypeStruct((8 + n,), "complex64")
        jax.vmap(nvs.fft.plan(x))(jnp.asarray(np.ones((2, *x.shape), x.dtype)))
    assert scopes.eager.cache_info().currsize == 64


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_inside_a_mesh(kind):
    value, want = np.asarray(Z), np.fft.fft(np.asarray(Z), axis=1)
    plan, host = nvs.fft.plan(Z, axes=(1,)), nvs.fft.plan(value, axes=(1,))
    free = jnp.asarray(value)  # committed to no device
    kinds = (getattr(jax.sharding.AxisType, kind),)
    with jax.set_mesh(jax.make_mesh((4,), ("d",), axis_types=kinds)):
        for y in (
            host(value),
            nvs.fft.fft(value, axis=1),
            plan(free),
            nvs.fft.fft(free, axis=1),
            jax.jit(lambda x: nvs.fft.fft(x, axis=1))(free),
            jax.jit(lambda: nvs.fft.fft(jnp.asarray(value), axis=1))(),
        ):
            assert relative_l2(y, want) < 1e-14
        with pytest.raises(nvs.errors.OperandError, match=r"got:      jax\.Array"):
            host(free)


def test_looking_for_nans():
    x = jnp.full((4, 8), jnp.inf, "complex64")
    plan = nvs.fft.plan(x, axes=(1,))
    jax.config.update("jax_debug_nans", True)
    try:
        for call in (plan, jax.jit(lambda x: plan(x)), nvs.fft.fft):
            with pytest.raises(FloatingPointError, match="nan"):
                call(x)
        assert relative_l2(plan(jnp.ones((4, 8), "complex64")), np.fft.fft(np.ones((4, 8)))) < 1e-6
    finally:
        jax.config.update("jax_debug_nans", False)
    assert np.isnan(np.asarray(plan(x))).any()


def test_results_are_not_weakly_typed():
    weak = jnp.full((8,), 1 / 3)
    assert weak.weak_type
    y = nvs.fft.rfft(weak)
    assert not y.weak_type
    assert (y * jnp.ones(5, "complex64")).dtype == "complex128"


def test_plans_made_before_x64_was_turned_off():
    wide = Z
    plan, open_plan = nvs.fft.plan(wide, axes=(1,)), nvs.fft.spec(wide, axes=(2,))
    numpy_plan = nvs.fft.plan(np.asarray(wide))
    nvs.fft.fft(wide)
    jax.config.update("jax_enable_x64", False)
    try:
        for call in (
            lambda: plan(wide),
            lambda: numpy_plan(np.asarray(wide)),
            lambda: nvs.fft.plan(open_plan),
            lambda: nvs.fft.fft(wide),
            lambda: nvs.fft.fft(np.asarray(wide)),
        ):
            with pytest.raises(nvs.errors.SpecError, match="jax_enable_x64"):
                call()
    finally:
        jax.config.update("jax_enable_x64", True)
    assert relative_l2(plan(wide), np.fft.fft(wide, axis=1)) < 1e-14


def test_numpy_plans_make_constants_inside_a_trace():
    window = np.hanning(8) + 0j
    plan = nvs.fft.plan(window)
    y = jax.jit(lambda a: a * plan(window) * nvs.fft.fft(window))(2.0)
    assert relative_l2(y, 2 * np.fft.fft(window) ** 2) < 1e-14


def test_bindings_are_exported():
    bound = nvs.bind(nvs.fft.plan(Z, axes=(1,)), x=Z)
    made = export.export(jax.jit(nvs.execute))(bound).serialize()
    assert relative_l2(export.deserialize(made).call(bound), np.fft.fft(Z, axis=1)) < 1e-14


def test_extents_of_numpys_integers():
    x = jax.ShapeDtypeStruct((np.int64(4), np.int64(8)), "complex64")
    plan = nvs.fft.plan(x, axes=(1,))
    assert plan is nvs.fft.plan(jax.ShapeDtypeStruct((4, 8), "complex64"), axes=(1,))
    assert pickle.loads(pickle.dumps(plan)) is plan


@pytest.mark.parametrize(("shape", "axes"), [("b, 8", (1,)), ("64, b", (0,)), ("a, 8, b", (1,))])
def test_symbolic_batches_are_exported_for_cpus(shape, axes):
    x = jax.ShapeDtypeStruct(export.symbolic_shape(shape), "complex128")
    plan = nvs.fft.plan(x, axes=axes)
    assert "b" in repr(plan)
    exported = export.export(jax.jit(lambda x: plan(x)), platforms=["cpu"])(x)
    dims = {"b": 3, "a": 2}
    value = np.random.default_rng(1).standard_normal(
        [dims.get(n.strip()) or int(n) for n in shape.split(",")]
    )
    y = export.deserialize(exported.serialize()).call(value + 0j)
    assert relative_l2(y, np.fft.fft(value, axis=axes[0])) < 1e-14


def test_symbolic_lengths_are_refused():
    x = jax.ShapeDtypeStruct(export.symbolic_shape("b, 8"), "complex128")
    with pytest.raises(nvs.errors.UnsupportedError, match="a transformed axis of unknown extent"):
        nvs.fft.plan(x, axes=(0,))


def test_symbolic_batches_are_refused_for_cuda():
    x = jax.ShapeDtypeStruct(export.symbolic_shape("b, 8"), "complex128")
    plan = nvs.fft.plan(x, axes=(1,))
    checks = [export.DisabledSafetyCheck.custom_call(t) for t in plan.targets]
    with pytest.raises(nvs.errors.UnsupportedError, match="an operand of unknown extents"):
        export.export(jax.jit(lambda x: plan(x)), platforms=["cuda"], disabled_checks=checks)(x)


def test_bindings_of_unknown_operations_are_refused():
    from nvstate._core import export as exports

    data = exports._written((0, nvs.fft.plan(Z)))
    assert exports._read(data)[1] is nvs.fft.plan(Z)
    with pytest.raises(nvs.errors.StoreError, match=r"unknown operation(.*\n)*.*nvstate\.fht"):
        exports._read(data.replace(b"nvstate.fft.FFTPlan", b"nvstate.fht.FHTPlan"))


def test_trees_of_bindings_are_printed():
    bound = nvs.bind(nvs.fft.plan(Z), x=Z)
    assert repr(jax.tree.map(lambda _: None, bound)).endswith("x=None)")
    assert "x=complex128[4,6,8]" in repr(bound)


def test_infinities_keep_their_parts():
    x = np.array([np.inf, 0, 0, 0], "complex64")
    for norm in ("ortho", "forward"):
        y = nvs.fft.fft(x, norm=norm)
        assert np.isposinf(y.real).all()
        assert not np.isnan(y).any()


def test_a_plain_inverse_is_one_operation():
    x = jnp.ones(49, "complex128")
    text = jax.jit(lambda x: nvs.fft.ifft(x)).lower(x).as_text()
    assert "stablehlo.multiply" not in text


def test_specs_that_were_replaced_are_checked():
    import dataclasses

    spec = nvs.fft.spec(Z, axes=(1,))
    for change in ({"kind": "bogus"}, {"axes": (1,)}, {"lengths": (6, 8)}, {"inplace": 1}):
        with pytest.raises(nvs.errors.SpecError):
            dataclasses.replace(spec, **change)


def test_one_shots_do_not_take_floats_for_integers():
    nvs.fft.fft(Z, n=8)
    nvs.fft.fftn(Z, (4, 6), (0, 1))
    for call in (
        lambda: nvs.fft.fft(Z, n=8.0),
        lambda: nvs.fft.fftn(Z, (4.0, 6), (0, 1)),
        lambda: nvs.fft.fftn(Z, (4, 6), (0, 1.0)),
        lambda: nvs.fft.fft(Z, norm=["ortho"]),
        lambda: nvs.fft.fft(Z, axis=[0.5]),
    ):
        with pytest.raises(nvs.errors.SpecError):
            call()


def test_a_pin_that_vmap_or_a_derivative_cannot_keep_is_dropped():
    x = jnp.ones((2, 4, 3), "float32")
    plan = nvs.fft.plan(x, axes=(1,), s=(4,), strategy="transpose")
    assert plan.strategy == "transpose"
    with pytest.raises(nvs.errors.UnsupportedError):
        nvs.fft.plan(x, axes=(1,), s=(5,), strategy="loop")
    with pytest.raises(nvs.errors.UnsupportedError):
        nvs.fft.plan(jnp.ones((4, 1, 8), "complex64"), axes=(1,), s=(5,), strategy="strided")


def test_masked_and_foreign_byte_orders_are_refused():
    masked = np.ma.masked_array(np.ones(4) + 0j, mask=[1, 0, 0, 0])
    with pytest.raises(nvs.errors.SpecError, match="MaskedArray"):
        nvs.fft.plan(masked)
    with pytest.raises(nvs.errors.SpecError, match=r'x.astype\("complex64"\)'):
        nvs.fft.fft(np.ones(4, ">c8"))


def test_keywords_beside_a_plan_are_refused():
    with pytest.raises(nvs.errors.SpecError, match="a plan and keywords"):
        nvs.fft.estimate_workspace(nvs.fft.plan(Z), axes=(9,))
    with pytest.raises(nvs.errors.OperandError, match="got:      list"):
        nvs.fft.plan(nvs.fft.spec(Z), [1, 2])
