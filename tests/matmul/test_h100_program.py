"""What an H100 will run, from the compiler alone: nothing moves around the library's calls."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies

import nvstate as nvs
from nvstate import _native
from nvstate._core import lower
from nvstate.matmul import lowering, preferences, query, scaling, table
from tests.deviceless import compile_h100, topology

MOVES = r" (transpose|copy|copy-start|pad|gather|dynamic-slice|all-gather\S*|all-to-all)\("
COLLECTIVES = r"all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter"
SLACK = 4096  # bytes that XLA adds to temporaries


def struct(*shape, dtype="bfloat16"):
    """An operand's type."""
    return jax.ShapeDtypeStruct(shape, dtype)


def calls(hlo):
    """How often cuBLASLt's target is called."""
    return hlo.count(f'custom_call_target="{lowering.TARGET}"')


def planned(a, b, *c, **problem):
    """A plan and its operands' types in the order of a call."""
    plan = nvs.matmul.plan(a, b, *c, **problem)
    return plan, [struct(*t.shape, dtype=t.dtype) for t in plan.types]


A, B, BIAS = struct(256, 128), struct(128, 512), struct(512)
MASK, AUX = struct(256, 64, dtype="uint8"), struct(256, 512)
E4M3 = {"dtype": table.E4M3}
F32 = {"dtype": "float32"}
ONE = struct(**F32)
FREE = {
    "plain": ((A, B), {}),
    "transposed": (
        (struct(128, 256), struct(512, 128)), {"transpose_a": True, "transpose_b": True},
    ),
    "batched": ((struct(8, 256, 128), struct(8, 512, 128)), {"transpose_b": True}),
    "broadcast": ((struct(2, 1, 256, 128), struct(3, 128, 512)), {}),
    "gelu-aux-bias": ((A, B), {"bias": BIAS, "epilog": "gelu_aux_bias"}),
    "dgelu-bgrad": ((A, B), {"gelu_aux": AUX, "epilog": "dgelu_bgrad"}),
    "drelu": ((A, B), {"relu_aux": MASK, "epilog": "drelu"}),
    "bgradb": ((A, B), {"epilog": "bgradb"}),
    "c-row": ((A, B, BIAS), {"beta": 2.0}),
    "traced-scalars": ((A, B, AUX), {"alpha": ONE, "beta": ONE}),
    "conjugated": (
        (struct(128, 256, dtype="complex64"), struct(512, 128, dtype="complex64")),
        {f"{flag}_{name}": True for flag in ("conjugate", "transpose") for name in "ab"},
    ),
    "vector": ((struct(128), B), {}),
    "fp8": (
        (struct(256, 128, **E4M3), struct(512, 128, **E4M3)),
        {
            "scale_a": ONE, "scale_b": ONE, "scale_d": ONE, "transpose_b": True,
            "result_dtype": table.E4M3, "result_amax": True,
        },
    ),
    "int8": (
        (struct(256, 128, dtype="int8"), struct(512, 128, dtype="int8")), {"transpose_b": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FREE)
def test_nothing_stands_around_the_call(name):
    operands, problem = FREE[name]
    plan, types = planned(*operands, **problem)
    compiled = compile_h100(lambda *x: plan(*x), *types)
    assert calls(compiled.hlo) == 1
    assert not re.search(MOVES, compiled.hlo)
    assert " dot(" not in compiled.hlo
    assert "__cublas$" not in compiled.hlo
    # The limit stands for the workspace where no GPU is visible: nothing else may be temporary.
    assert compiled.memory.temp_size_in_bytes <= preferences.DEFAULT_LIMIT + SLACK


@pytest.mark.parametrize("mode", ["mxfp8", "nvfp4", "1x128", "outer"])
def test_block_scales_are_lowered(mode):
    dtype = table.E2M1 if mode == "nvfp4" else table.E4M3
    a, b = struct(256, 256, dtype=dtype), struct(512, 256, dtype=dtype)
    scales = {
        f"scale_{n}": struct(
            *scaling.packed_shape(mode, x.shape[0], 256), dtype=scaling.dtype_of(mode)
        )
        for n, x in (("a", a), ("b", b))
    }
    plan, types = planned(a, b, transpose_b=True, block_scaling=mode, **scales)
    lowered = jax.jit(plan).trace(*types).lower(lowering_platforms=("cuda",)).as_text()
    assert f'scaling_a = "{mode}"' in lowered
    assert lowered.count(lowering.TARGET) == 1
    if mode != "nvfp4":  # XLA's compiler for the H100 has no FP4 to move
        hlo = compile_h100(lambda *x: plan(*x), *types).hlo
        assert calls(hlo) == 1
        assert not re.search(MOVES, hlo)


def test_jnp_shows_what_the_check_would_find():
    hlo = compile_h100(lambda a, b: a @ b, A, B).hlo
    assert calls(hlo) == 0
    assert re.search(r"__cublas\$|__triton|dot\(", hlo)


def test_in_place_with_donation_in_scan_copies_nothing():
    plan, (a, b, c) = planned(A, B, AUX, beta=1.0, inplace=True)

    def loop(plan):
        return lambda a, b, c: jax.lax.scan(lambda c, _: (plan(a, b, c), None), c, length=4)[0]

    compiled = compile_h100(loop(plan), a, b, c, donate_argnums=2)
    assert "output_to_operand_aliasing={{0}: (2, {})}" in compiled.hlo
    assert compiled.memory.alias_size_in_bytes == c.size * 2
    assert not re.search(r"= bf16\S* copy", compiled.hlo)
    aside, _ = planned(A, B, AUX, beta=1.0)
    copied = compile_h100(loop(aside), a, b, c, donate_argnums=2)
    assert re.search(r"= bf16\S* copy", copied.hlo)


def test_one_command_buffer_holds_the_calls():
    plan, (a, b) = planned(struct(128, 128), struct(128, 128))

    def turns(a, b):
        for i in range(6):
            a = plan(a * (i + 2), b)
        return a

    outside, inside = compile_h100(turns, a, b).thunks.split("kCommandBuffer")
    assert "kCustomCall" not in outside
    assert len(re.findall(r": kCustomCall ", inside)) == 6


def sharded(f, types, specs, shape=(4,)):
    """The program of four described H100s, with the operands split so."""
    mesh = topologies.make_mesh(topology(4), shape, ("x", "y")[: len(shape)])
    args = [
        jax.ShapeDtypeStruct(t.shape, t.dtype, sharding=jax.NamedSharding(mesh, s))
        for t, s in zip(types, specs, strict=True)
    ]
    compiled = jax.jit(f).lower(*args).compile(compiler_options={"xla_gpu_autotune_level": "0"})
    return compiled.as_text()


P = jax.P
SPLITS = {
    "batch": (struct(8, 256, 128), (P("x"), P(), P()), "bf16[2,256,512]", {}),
    "M": (struct(8, 256, 128), (P(None, "x"), P(), P()), "bf16[8,64,512]", {}),
    "M-without-batch": (struct(256, 128), (P("x"), P(), P()), "bf16[64,512]", {}),
    "M-transposed": (
        struct(128, 256),
        (P(None, "x"), P(), P()),
        "bf16[64,512]",
        {"transpose_a": True},
    ),
}


@pytest.mark.parametrize("name", SPLITS)
def test_batch_and_m_shard_without_collectives(name):
    a, specs, local, flags = SPLITS[name]
    plan, types = planned(a, B, bias=BIAS, epilog="gelu_aux_bias", **flags)
    hlo = sharded(lambda *x: plan(*x)[::2], types, specs)
    assert calls(hlo) == 1
    assert not re.search(COLLECTIVES, hlo)
    # XLA fills an axis of one element with zeros if it splits it: operands come as they are.
    assert not re.search(MOVES, hlo)
    assert f"({local}" in hlo


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("a", "m", "n", "local"),
    [
        (struct(256, 128), None, "x", "bf16[256,128]"),
        (struct(8, 256, 128), None, "x", "bf16[8,256,128]"),
        (struct(256, 128), "x", "y", "bf16[128,256]"),
    ],
)
def test_n_splits_without_collectives(a, m, n, local, turned):
    """Also beside M, on a mesh of two axes; with C, a bias and a traced α."""
    operands = (a, struct(512, 128) if turned else B, BIAS)
    problem = {"alpha": ONE, "beta": 2.0, "bias": BIAS, "epilog": "gelu_bias"}
    plan, types = planned(*operands, transpose_b=turned, **problem)
    rows = [None] * (len(a.shape) - 2)
    specs = (P(*rows, m), P(n) if turned else P(None, n), P(n), P(n), P())
    hlo = sharded(lambda *x: plan(*x), types, specs, (2, 2) if m else (4,))
    assert calls(hlo) == 1
    assert not re.search(COLLECTIVES, hlo)
    assert not re.search(MOVES, hlo)
    assert f"({local}" in hlo


def test_batches_are_split_by_xla_only_where_every_operand_has_them():
    """In exports, which hold no address of a Python object."""
    b = struct(8, 128, 512)
    for operands, batch in (
        ((struct(8, 256, 128), b), 1),
        ((A, b), 0),
        ((struct(8, 256, 128), B), 0),
    ):
        plan, types = planned(*operands)
        call, *_ = lower.several_calls(lambda *x, p=plan: lowering.cuda(p.spec, *x, None), *types)[
            0
        ]
        assert call.batch == batch


def test_gradients_of_split_rows_sum_only_what_they_must():
    plan, types = planned(struct(8, 256, 128), B, bias=BIAS, epilog="relu_bias")
    gradient = jax.grad(lambda a, b, bias: jnp.sum(plan(a, b, bias).astype("float32") ** 2))
    hlo = sharded(gradient, types, (P("x"), P(), P()))
    assert not re.search(COLLECTIVES, hlo)


def test_n_shards_in_a_shard_map():
    plan, _ = planned(struct(256, 128), struct(128, 128))
    mesh = topologies.make_mesh(topology(4), (4,), ("x",))
    run = jax.shard_map(
        lambda a, b: plan(a, b), mesh=mesh, in_specs=(P(), P(None, "x")), out_specs=P(None, "x")
    )
    hlo = sharded(run, (struct(256, 128), B), (P(), P(None, "x")))
    assert calls(hlo) == 1
    assert not re.search(COLLECTIVES, hlo)


def test_a_chain_is_its_products():
    widths = (256, 512, 512, 128)
    plans = [
        planned(struct(64, k), struct(k, n), bias=struct(n), epilog=e)[0]
        for k, n, e in zip(widths, widths[1:], ("gelu_bias", "relu_bias", "bias"), strict=False)
    ]
    weights = [struct(*t.shape) for plan in plans for t in plan.types[1:2]]
    biases = [struct(*t.shape) for plan in plans for t in plan.types[2:]]

    def loss(x, w, b):
        return jnp.sum(nvs.matmul.chain(plans, x, w, b).astype("float32") ** 2)

    mesh = topologies.make_mesh(topology(), (1,), ("x",))
    here = jax.NamedSharding(mesh, P())
    args = jax.tree.map(
        lambda t: jax.ShapeDtypeStruct(t.shape, t.dtype, sharding=here),
        (struct(64, 256), weights, biases),
    )
    gradient = jax.jit(jax.grad(loss, (1, 2)))
    hlo = gradient.lower(*args).compile(compiler_options={"xla_gpu_autotune_level": "0"}).as_text()
    assert calls(hlo) == 3 + 3 + 2  # forward; of weights; of inputs, but for x
    assert not re.search(MOVES, hlo)
    assert not re.search(r" (tanh|exponential)\(", hlo)
    for epilog in ("gelu_aux_bias", "relu_aux_bias", "drelu", "dgelu"):
        assert f'epilog = "{epilog}"' in hlo.replace("\\22", '"')


def test_attributes_hold_no_extents():
    def said(m, batch):
        plan, types = planned(struct(*batch, m, 128), B)
        made = lower.several_calls(lambda *x: lowering.cuda(plan.spec, *x, None), *types)[0][0]
        return {n: v for n, v in made.attributes if n not in ("owner", "batch")}

    one, two = said(256, ()), said(512, ())
    assert one == two
    layouts = ("layout_a", "layout_b", "layout_d")
    assert {n: v for n, v in said(64, (7,)).items() if n not in layouts} == {
        n: v for n, v in one.items() if n not in layouts
    }


def test_batches_fold_into_m_or_are_strided():
    for shape, rows in (((256, 128), 256), ((8, 256, 128), 8 * 256)):
        plan, _ = planned(struct(*shape), B)
        call, operands, results = query.call_of(plan)
        buffers = [[(str(t.dtype), t.shape) for t in side] for side in (operands, results)]
        told = _native.cublaslt_layout(lower.attributes_of(call), *buffers)
        assert tuple(told["problem"]) == (rows, 512, 128, 1)
        assert told["calls"] == 1
    plan, _ = planned(struct(6, 256, 128), struct(6, 128, 512))
    call, operands, results = query.call_of(plan)
    buffers = [[(str(t.dtype), t.shape) for t in side] for side in (operands, results)]
    told = _native.cublaslt_layout(lower.attributes_of(call), *buffers)
    assert tuple(told["problem"]) == (256, 512, 128, 6)


def test_what_the_library_cannot_do_is_done_beside_it():
    c64 = {"dtype": "complex64"}
    plan, types = planned(struct(256, 128, **c64), struct(128, 512, **c64), conjugate_a=True)
    hlo = compile_h100(lambda *x: plan(*x), *types).hlo
    assert calls(hlo) == 1
    assert "conjugate_a = 0" in hlo
    for epilog, flags in (("bgrada", {}), ("bgradb", {"transpose_b": True})):
        b = struct(512, 128) if flags else B
        plan, types = planned(A, b, epilog=epilog, **flags)
        hlo = compile_h100(lambda *x, plan=plan: plan(*x)[0], *types).hlo
        assert calls(hlo) == 1
        assert f'epilog = "{epilog}"' not in hlo.replace("\\22", '"')


def test_empty_products_call_no_library():
    for shapes in (((0, 128), (128, 4)), ((4, 0), (0, 4))):
        plan, types = planned(*(struct(*s) for s in shapes))
        assert calls(compile_h100(lambda a, b, plan=plan: plan(a, b), *types).hlo) == 0
