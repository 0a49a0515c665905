"""What an H100 will run, from the compiler alone: no transposes, copies or gathers around calls."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvstate as nvs
from nvstate._core import lower
from nvstate.fft import primitive
from nvstate.fft.workspace import bound
from tests.deviceless import compile_h100

MOVES = r" (transpose|copy|copy-start|gather|all-gather|all-gather-start|all-to-all)\("
COLLECTIVES = r"all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter"
SLACK = 4096  # bytes that XLA adds to temporaries


def struct(shape, dtype="complex64"):
    """An operand's type."""
    return jax.ShapeDtypeStruct(shape, dtype)


def calls(hlo):
    """How often cuFFT's target is called."""
    return len(re.findall(r'custom_call_target="nvstate_cufft_v1"', hlo))


FREE = {
    "trailing": ((64, 128), "complex64", {"axes": (1,)}),
    "trailing-3d": ((4, 16, 16, 16), "complex64", {"axes": (1, 2, 3)}),
    "leading": ((512, 256), "complex64", {"axes": (0,)}),
    "leading-two": ((8, 16, 1024), "complex64", {"axes": (0, 1)}),
    "apart": ((32, 64, 128), "complex64", {"axes": (0, 2)}),
    "middle-by-loop": ((4, 64, 128), "complex64", {"axes": (1,), "strategy": "loop"}),
    "rfft-leading": ((64, 512), "float32", {"axes": (0,)}),
    "rfft-apart": ((32, 64, 128), "float32", {"axes": (0, 2)}),
    "crop": ((64, 128), "complex64", {"axes": (1,), "n": 100}),
    "composed": ((4, 4, 8, 8), "complex64", {}),
    "inverse": ((64, 128), "complex64", {"axes": (1,), "direction": "inverse"}),
}


@pytest.mark.parametrize("name", FREE)
def test_nothing_stands_around_the_call(name):
    shape, dtype, problem = FREE[name]
    x = struct(shape, dtype)
    plan = nvs.fft.plan(x, **problem)
    compiled = compile_h100(lambda x: plan(x), x)
    assert calls(compiled.hlo) == (2 if name == "composed" else 1)
    assert not re.search(MOVES, compiled.hlo)
    # The bound stands for the workspace where no GPU is visible: nothing else may be temporary.
    made = lower.calls(lambda x: primitive.cuda(plan.spec, x, plan.choices), x)
    workspace = max(bound(*call) for call in made)
    assert compiled.memory.temp_size_in_bytes <= workspace + SLACK


def test_jnp_shows_what_the_check_would_find():
    compiled = compile_h100(lambda x: jnp.fft.fft(x, axis=0), struct((512, 256)))
    assert re.search(MOVES, compiled.hlo)


@pytest.mark.parametrize(
    ("axes", "shape", "batch_axis"),
    [((1,), (1024, 64), 0), ((1,), (1024, 64), 1), ((0,), (64, 1024), 1), ((0,), (64, 1024), 2)],
)
def test_vmap_moves_nothing(axes, shape, batch_axis):
    # Wherever the new axis leaves one run of batches.
    plan = nvs.fft.plan(struct(shape), axes=axes)
    batched = list(shape)
    batched.insert(batch_axis, 2)
    run = jax.vmap(plan, in_axes=batch_axis, out_axes=batch_axis)
    compiled = compile_h100(run, struct(tuple(batched)))
    assert calls(compiled.hlo) == 1
    assert not re.search(MOVES, compiled.hlo)


def test_a_c2r_whose_operand_is_dead_copies_nothing():
    x = struct((64, 129))
    plan = nvs.fft.plan(x, axes=(1,), kind="c2r", hermitian="assume")
    dead = compile_h100(lambda x: plan(x * 2), x)
    assert not re.search(MOVES, dead.hlo)
    alive = compile_h100(lambda x: plan(x), x)
    assert len(re.findall(r"c64\[64,129\]\S* copy\(", alive.hlo)) == 1
    assert "output_to_operand_aliasing={{1}: (0, {})}" in alive.hlo


def test_the_hermitian_pass_is_the_copy():
    x = struct((64, 129))
    plan = nvs.fft.plan(x, axes=(1,), kind="c2r")
    compiled = compile_h100(lambda x: plan(x), x)
    assert not re.search(MOVES, compiled.hlo)
    assert len(re.findall(r"= c64\[64,129\]\S* fusion\(", compiled.hlo)) == 1


def test_the_scale_fuses_with_an_elementwise_neighbour():
    x = struct((64, 128))
    plan = nvs.fft.plan(x, axes=(1,), direction="inverse")
    hlo = compile_h100(lambda x: jnp.exp(plan(x)) * 3, x).hlo
    entry = hlo[hlo.index("ENTRY") :]
    assert len(re.findall(r" fusion\(", entry)) == 1


def test_in_place_with_donation_in_scan_copies_nothing():
    x = struct((32, 64, 128))
    plan = nvs.fft.plan(x, axes=(1, 2), inplace=True)

    def loop(x):
        return jax.lax.scan(lambda c, _: (plan(c), None), x, length=4)[0]

    compiled = compile_h100(loop, x, donate_argnums=0)
    assert "output_to_operand_aliasing={{0}: (0, {})}" in compiled.hlo
    assert compiled.memory.alias_size_in_bytes == x.size * 8
    assert not re.search(r"= c64\S* copy", compiled.hlo)
    aside = nvs.fft.plan(x, axes=(1, 2))
    copied = compile_h100(
        lambda x: jax.lax.scan(lambda c, _: (aside(c), None), x, length=4)[0], x, donate_argnums=0
    )
    assert re.search(r"= c64\S* copy", copied.hlo)


def test_one_command_buffer_holds_the_calls():
    x = struct((64, 256))
    plan = nvs.fft.plan(x, axes=(1,))

    def chain(x):
        for i in range(6):
            x = plan(x * (i + 2))
        return x

    outside, inside = compile_h100(chain, x).thunks.split("kCommandBuffer")
    assert "kCustomCall" not in outside
    assert len(re.findall(r": kCustomCall ", inside)) == 6


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("kind", ["c2c", "r2c", "c2r"])
def test_batches_shard_without_collectives(kind, axis):
    dtype = "float32" if kind == "r2c" else "complex64"
    x = struct((32, 64, 16), dtype)
    plan = nvs.fft.plan(x, axes=(1,), kind=kind)
    split = jax.P(*["x" if a == axis else None for a in range(3)])
    compiled = compile_h100(lambda x: plan(x) * 2, x, devices=4, spec=split)
    assert calls(compiled.hlo) == 1
    assert not re.search(COLLECTIVES, compiled.hlo)


def test_gradients_shard_without_collectives():
    x = struct((32, 64, 64), "float32")
    plan = nvs.fft.plan(x, axes=(1, 2))
    gradient = jax.grad(lambda x: jnp.sum(jnp.abs(plan(x)) ** 2))
    compiled = compile_h100(gradient, x, devices=4, spec=jax.P("x"))
    assert calls(compiled.hlo) == 2
    assert not re.search(COLLECTIVES, compiled.hlo)


def test_attributes_do_not_hold_batch_sizes():
    x, twice = struct((32, 128)), struct((64, 128))
    plan = nvs.fft.plan(nvs.fft.spec(x, axes=(1,)))

    def attributes(x):
        hlo = compile_h100(lambda x: plan(x), x).hlo
        return re.search(r"backend_config=(\{.*?\})(, |\n)", hlo)[1]

    assert attributes(x) == attributes(twice)


def test_constants_are_not_kept_in_the_program():
    x = struct((4, 2**16), "float32")
    plan = nvs.fft.plan(x, axes=(1,))
    hlo = compile_h100(lambda x: jax.vjp(plan, x)[1](jnp.ones((4, 2**15 + 1), "complex64")), x).hlo
    assert not re.search(r"\[32769\]\S* constant", hlo)


def test_the_plan_is_the_same_program_on_both_sides_of_jit():
    x = struct((64, 128))
    plan = nvs.fft.plan(x, axes=(1,))
    inside = compile_h100(lambda x: plan(x), x).hlo
    argument = compile_h100(lambda x: nvs.execute(plan, x=x), x).hlo
    assert calls(inside) == calls(argument) == 1
    assert np.dtype(plan.result.dtype) == np.complex64
