"""Parts of a product on the devices of a mesh, and that together they are the product.

The split is the one that programs for CUDA have, with the definition in `jax.numpy` in the place of
the library, so that CPU devices can run it.
"""

import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import mlir

import nvstate as nvs
from nvstate._core import compat, several, splitting
from nvstate.matmul import primitive, sharding
from nvstate.matmul.reference import reference
from tests.conformance.test_sharding import COLLECTIVES
from tests.matmul import oracle
from tests.matmul.test_h100_program import planned, sharded, struct

P = jax.P
AUTO, EXPLICIT = jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit
PARTS = []


def whole(spec, *rest):
    return reference(spec, *rest[:-1])


def part(spec, extents, operands, choices):
    own = dataclasses.replace(spec, **{x: extents[x] for x in "mnk"})
    shapes = dict(zip(spec.names, map(np.shape, operands), strict=True))
    PARTS.append((own.m, own.n, own.batches(shapes)))
    if own.k != spec.k:
        own = dataclasses.replace(own, result_dtype="float32")
    return reference(own, *operands)


def _defined():
    made = jax.extend.core.Primitive("nvstate_test_split")
    made.multiple_results = True
    made.def_abstract_eval(lambda *avals, spec, choices: primitive.results(spec, *avals))
    split = splitting.Split(sharding.axes, part, sharding.fits, sharding.finish)
    mlir.register_lowering(made, several.shared(split, whole))
    compat.wants_devices(made)
    return made


SPLIT = _defined()


def run(spec, mesh, specs, x):
    """The results and the program; `PARTS` says what each device multiplied."""
    placed = [jax.device_put(v, jax.NamedSharding(mesh, s)) for v, s in zip(x, specs, strict=True)]
    f = jax.jit(lambda *v: SPLIT.bind(*v, spec=spec, choices=None))
    compiled = f.lower(*placed).compile()
    return compiled(*placed), compiled.as_text()


def operands(rng, shapes, dtype="float32"):
    return {n: jnp.asarray(oracle.random(rng, s, dtype)) for n, s in shapes.items()}


def mesh_of(*shape, kind=AUTO):
    return jax.make_mesh(shape, ("x", "y")[: len(shape)], axis_types=(kind,) * len(shape))


LAYOUTS = {
    "M": ((8, 12), P("x"), P(), (2, 16, ())),
    "N": ((8, 12), P(), P(None, "x"), (8, 4, ())),
    "batch": ((4, 8, 12), P("x"), P(), (8, 16, (1,))),
    "M-of-a-batch": ((4, 8, 12), P(None, "x"), P(), (2, 16, (4,))),
}


@pytest.mark.parametrize("kind", [AUTO, EXPLICIT])
@pytest.mark.parametrize("name", LAYOUTS)
def test_each_device_multiplies_its_part(rng, name, kind):
    shape, over_a, over_b, own = LAYOUTS[name]
    x = operands(rng, {"a": shape, "b": (12, 16), "c": (16,), "bias": (16,)})
    spec = nvs.matmul.spec(x["a"], x["b"], x["c"], beta=2.0, bias=x["bias"], epilog="gelu_bias")
    n = P("x") if name == "N" else P()
    mesh = mesh_of(4, kind=kind)
    with jax.set_mesh(mesh):
        (y,), hlo = run(spec, mesh, (over_a, over_b, n, n), x.values())
    assert PARTS[-1] == own
    assert not re.search(COLLECTIVES, hlo)
    np.testing.assert_allclose(y, reference(spec, *x.values())[0], rtol=1e-5, atol=1e-5)


def test_m_and_n_split_over_two_axes(rng):
    x = operands(rng, {"a": (8, 12), "b": (16, 12)})
    spec = nvs.matmul.spec(*x.values(), transpose_b=True)
    (y,), hlo = run(spec, mesh_of(2, 2), (P("x"), P("y")), x.values())
    assert PARTS[-1] == (4, 8, ())
    assert not re.search(COLLECTIVES, hlo)
    np.testing.assert_allclose(y, x["a"] @ x["b"].T, rtol=1e-5, atol=1e-5)


def test_what_must_be_whole_is_gathered(rng):
    """K beside an epilog; N beside an auxiliary array; M that is summed."""
    x = operands(rng, {"a": (8, 12), "b": (12, 128)})
    for over in ((P(None, "x"), P("x")), (P(None, "x"), P()), (P(), P("x"))):
        spec = nvs.matmul.spec(*x.values(), epilog="relu")
        (y,), _ = run(spec, mesh_of(4), over, x.values())
        assert PARTS[-1] == (8, 128, ())
        np.testing.assert_allclose(y, reference(spec, *x.values())[0], rtol=1e-5, atol=1e-5)
    spec = nvs.matmul.spec(*x.values(), epilog="gelu_aux")
    run(spec, mesh_of(4), (P(), P(None, "x")), x.values())
    assert PARTS[-1] == (8, 128, ())
    run(spec, mesh_of(4), (P("x"), P()), x.values())
    assert PARTS[-1] == (2, 128, ())
    x |= operands(rng, {"gelu_aux": (8, 128)})
    spec = nvs.matmul.spec(x["a"], x["b"], gelu_aux=x["gelu_aux"], epilog="dgelu_bgrad")
    ys, _ = run(spec, mesh_of(4), (P("x"), P(), P("x")), x.values())
    assert PARTS[-1] == (8, 128, ())
    for y, want in zip(ys, reference(spec, *x.values()), strict=True):
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)


def test_products_of_parts_of_k_are_summed(rng):
    """As the cotangent of weights is, where the rows of a batch are split."""
    x = operands(rng, {"a": (12, 8), "b": (12, 16)})
    spec = nvs.matmul.spec(*x.values(), transpose_a=True, alpha=0.5)
    (y,), hlo = run(spec, mesh_of(4), (P("x"), P("x")), x.values())
    assert set(re.findall(COLLECTIVES, hlo)) == {"all-reduce"}
    np.testing.assert_allclose(y, 0.5 * x["a"].T @ x["b"], rtol=1e-5, atol=1e-5)
    (y,), hlo = run(spec, mesh_of(2, 2), (P("x", "y"), P("x")), x.values())
    assert set(re.findall(COLLECTIVES, hlo)) == {"all-reduce"}
    np.testing.assert_allclose(y, 0.5 * x["a"].T @ x["b"], rtol=1e-5, atol=1e-5)


def test_terms_are_summed_in_float32():
    a = jnp.repeat(jnp.asarray([250.0, -250.0], "float16"), 512)[None].repeat(8, 0)
    b = jnp.ones((1024, 4), "float16")
    (y,), _ = run(nvs.matmul.spec(a, b), mesh_of(4), (P(None, "x"), P("x")), (a, b))
    assert y.dtype == "float16"
    assert not np.asarray(y).any()
    plan, types = planned(struct(64, 1024, dtype="float16"), struct(1024, 64, dtype="float16"))
    hlo = sharded(lambda *x: plan(*x), types, (P(None, "x"), P("x")))
    assert re.search(r"f32\[64,64\]\S* all-reduce", hlo)


@pytest.mark.parametrize(
    ("dtype", "shapes", "over", "local"),
    [
        ("float8_e4m3fn", ((32, 64), (32, 64)), (P("x"), P()), "32,32"),
        ("float8_e4m3fn", ((64, 64), (32, 64)), (P("x"), P()), "16,32"),
        ("int8", ((32, 8), (8, 8)), (P(), P("x")), "32,8"),
        ("int8", ((32, 8), (8, 8)), (P(None, "x"), P(None, "x")), "32,8"),
        ("int8", ((32, 8), (16, 8)), (P(), P("x")), "32,4"),
    ],
)
def test_parts_have_extents_that_the_library_takes(dtype, shapes, over, local):
    one = {n: struct(dtype="float32") for n in ("scale_a", "scale_b")} if "float8" in dtype else {}
    plan, types = planned(*(struct(*s, dtype=dtype) for s in shapes), transpose_b=True, **one)
    hlo = sharded(lambda *x: plan(*x), types, (*over, *[P()] * len(one)))
    assert re.search(rf"\[{local}\]\S*, u8\S* custom-call", hlo)


def test_programs_say_what_they_run(rng):
    """Not by the address of a Python object alone, which another may have had before."""
    x = operands(rng, {"a": (8, 12), "b": (12, 16)})
    mesh = mesh_of(4)
    placed = [jax.device_put(v, jax.NamedSharding(mesh, P())) for v in x.values()]

    def text(f):
        return re.sub(r'backend_config = "\d+"', "", jax.jit(f).lower(*placed).as_text())

    def product(alpha, choices=None):
        spec = nvs.matmul.spec(*x.values(), alpha=alpha)
        return text(lambda *v: SPLIT.bind(*v, spec=spec, choices=choices))

    assert product(2.0) == product(2.0)
    assert len({product(2.0), product(3.0), product(3.0, ((("limit", 4),), ()))}) == 3
    wave = jax.device_put(x["a"] + 0j, jax.NamedSharding(mesh, P("x")))
    texts = {
        re.sub(r'backend_config = "\d+"', "", jax.jit(f).lower(wave).as_text())
        for f in (nvs.fft.fft, nvs.fft.ifft)
    }
    assert len(texts) == 2
    assert all("nvstate = " in t for t in texts)


EPILOGS = [None, "relu_aux_bias", "gelu_aux", "drelu", "dgelu_bgrad", "bgrada", "bgradb"]
C = [None, (8, 16), (16,), (8, 1), (4, 1, 16), ()]
OVER = [P(), P("x"), P(None, "x"), P("y", "x"), P("x", "y"), P(("x", "y"))]


@pytest.mark.parametrize("epilog", EPILOGS)
def test_parts_are_the_product(rng, epilog):
    """However its operands are split: every axis has the name of what it goes with."""
    every = list(enumerate(itertools.product(OVER, OVER)))
    for i, (over_a, over_b) in every[EPILOGS.index(epilog) % 5 :: 5]:
        ta, tb, c = i % 2 == 1, i % 3 == 1, C[i % len(C)]
        batch = (4,) if i % 4 < 2 else ()
        c = c if epilog not in ("bgrada", "bgradb") and (batch or c is None or len(c) < 3) else None
        x = operands(rng, {
            "a": (*batch, 12, 8) if ta else (*batch, 8, 12),
            "b": (16, 12) if tb else (12, 16),
        })  # fmt: skip
        more = operands(rng, {"c": c}) if c is not None else {}
        problem = {"transpose_a": ta, "transpose_b": tb, "epilog": epilog}
        if epilog and "bias" in epilog:
            problem["bias"] = operands(rng, {"bias": (16,)})["bias"]
        if epilog == "drelu":
            problem["relu_aux"] = jnp.asarray(rng.integers(0, 256, (8, 16), dtype="uint8"))
        if epilog == "dgelu_bgrad":
            problem["gelu_aux"] = operands(rng, {"aux": (*batch, 8, 16)})["aux"]
        if c is not None:
            problem["beta"] = jnp.float32(0.5)
        spec = nvs.matmul.spec(*x.values(), *more.values(), **problem)
        named = x | more | {n: v for n, v in problem.items() if isinstance(v, jax.Array)}
        values = [named[name] for name in spec.names]
        rank = len(values[0].shape)
        rest = [P() for _ in values[2:]]
        shift = [None] * (rank - 2)
        a = over_a if rank == 2 or i % 5 == 0 else P(*shift, *over_a)
        specs = (P(*a[:rank]), P(*over_b[:2]), *rest)
        ys, _ = run(spec, mesh_of(2, 2), specs, values)
        for name, y, want in zip(spec.result_names, ys, reference(spec, *values), strict=True):
            if name == "relu_aux":
                assert np.mean(oracle.bits(y, 16) != oracle.bits(want, 16)) < 0.01
            else:
                np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4, err_msg=f"{i} {name}")
