"""The ways to multiply: ours, XLA's after its own autotuning, and those of other libraries."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

import nvstate as nvs
from nvstate._core.aval import Device
from nvstate.bench import matmul_peers
from nvstate.bench.bars import OURS
from nvstate.bench.matmul_cases import BOUNDS, DTYPES, JITTED, ONE_SHOT, RESET, XLA, Case, DType
from nvstate.bench.timing import Candidate

jax_candidate = functools.partial(Candidate, wait=jax.block_until_ready)
TUNED = {"xla_gpu_autotune_level": "4"}
SERIAL = {"xla_gpu_command_buffer_scheduling_mode": "SERIALIZE"}  # no products side by side
tuned_jit = functools.partial(jax.jit, compiler_options=TUNED)
one_by_one = functools.partial(jax.jit, compiler_options=TUNED | SERIAL)

FP8_CALL = "__cublas$lt$matmul$f8"
LONG = 3e-4  # seconds on the device that hide the enqueuing of a program …
SEEDS = 100  # more than a case's operands
ON_HOST = 2**18  # elements: compiling for a device takes longer than so many on the host
HELD = 2**29  # bytes of results that a program may have, if that is more than the fewest parts
REPEATED = (3, 32)  # … of at least and at most so many equal parts
RATES: dict[DType, float] = {  # of an H100, about, in operations per second
    "bf16": 7e14,
    "f16": 7e14,
    "f32": 5e13,
    "tf32": 4e14,
    "f64": 6e13,
    "fp8": 1.3e15,
}


class Problem(Protocol):
    """A case with operands, random but the same in every run."""

    @property
    def operands(self) -> dict[str, Any]:
        """What both sides take by name."""
        ...

    def more(self, count: int) -> list[Any]:
        """Others like the first operand."""
        ...

    def ours(self) -> Callable[..., Any]:
        """Ours, planned and tuned by the first call."""
        ...

    def theirs(self) -> Callable[..., Any]:
        """JAX's."""
        ...

    def describe(self) -> str:
        """What ours runs."""
        ...


def problem(case: Case, device: Device) -> Problem:
    """Make the operands of a case on a device."""
    return Layers.of(case, device) if case.group == "mlp" else Product.of(case, device)


@dataclasses.dataclass(frozen=True)
class Product:
    """One product, maybe with its epilog."""

    case: Case
    operands: dict[str, Any]
    platform: str

    @classmethod
    def of(cls, case: Case, device: Device) -> Product:
        """Make the operands: the elements of D are of size one."""
        m, n, k = case.extents
        batch = () if case.batch == 1 else (case.batch,)
        dtype, narrow = DTYPES[case.dtype], case.dtype == "fp8"
        scale = 2.0 ** -round(math.log2(k) / 2)
        with jax.default_device(device):
            operands = {"a": random(0, (*batch, m, k), dtype)}
            if narrow:
                operands["b"] = random(1, (*batch, n, k), dtype)
            else:
                operands["b"] = random(1, (*batch, k, n), dtype, scale)
            if case.group == "gelu_bias":
                operands["bias"] = random(2, (n,), dtype)
            if narrow:
                operands |= {"scale_a": jnp.float32(1), "scale_b": jnp.float32(scale)}
        return cls(case, jax.block_until_ready(operands), device.platform)

    @property
    def keywords(self) -> dict[str, Any]:
        """Of `nvstate.matmul.plan`, beside the operands."""
        match self.case.dtype:
            case "tf32":
                return {"compute_type": "tf32"}
            case "fp8":  # XLA's default for FP8 is fast accumulation too
                fast = nvs.matmul.Preferences(fast_accumulation=True)
                return {"transpose_b": True, "preferences": fast}
            case _:
                return {"epilog": "gelu_bias"} if self.case.group == "gelu_bias" else {}

    def more(self, count: int) -> list[Any]:
        """Others like `a`."""
        return _more(self.operands["a"], count)

    @functools.cached_property
    def plan(self) -> nvs.matmul.MatmulPlan:
        """Ours, tuned."""
        a, b, *_ = self.operands.values()
        named = {name: x for name, x in self.operands.items() if name not in ("a", "b")}
        made = nvs.matmul.plan(a, b, **named, **self.keywords)
        return nvs.autotune(made, **self.operands)  # pyright: ignore[reportReturnType]

    def ours(self) -> Callable[..., Any]:
        """The plan, called by names."""
        plan = self.plan
        return lambda a, **others: plan(a=a, **others)

    def theirs(self) -> Callable[..., Any]:
        """`jax.numpy.matmul`, in the precision that ours has."""
        if self.case.dtype == "fp8":
            return _of_fp8
        multiply = jnp.matmul
        if self.case.dtype in ("f32", "tf32"):
            loose = self.case.dtype == "tf32" and self.platform != "cpu"
            multiply = functools.partial(
                jnp.matmul, precision="TF32_TF32_F32" if loose else "highest"
            )
        if self.case.group == "gelu_bias":
            return lambda a, b, bias: jax.nn.gelu(multiply(a, b) + bias, approximate=True)
        return lambda a, b: multiply(a, b)

    def describe(self) -> str:
        """What ours runs."""
        return self.plan.describe()


def _of_fp8(a: Any, b: Any, scale_a: Any, scale_b: Any) -> Any:
    """As XLA's pattern for FP8 wants it."""
    wide = [x.astype("bfloat16") * s.astype("bfloat16") for x, s in ((a, scale_a), (b, scale_b))]
    return jnp.matmul(wide[0], wide[1].mT)


@dataclasses.dataclass(frozen=True)
class Layers:
    """A perceptron's forward and backward pass, with respect to everything."""

    case: Case
    operands: dict[str, Any]

    @classmethod
    def of(cls, case: Case, device: Device) -> Layers:
        """Make the operands: of size one, but for the weights, which keep that size."""
        m, *widths = case.extents
        dtype = DTYPES[case.dtype]
        pairs = list(itertools.pairwise(widths))
        with jax.default_device(device):
            operands = {
                "x": random(0, (m, widths[0]), dtype),
                "weights": [random(2 * i + 2, p, dtype, p[0] ** -0.5) for i, p in enumerate(pairs)],
                "biases": [random(2 * i + 3, p[1:], dtype) for i, p in enumerate(pairs)],
                "g": random(1, (m, widths[-1]), dtype),
            }
        return cls(case, jax.block_until_ready(operands))

    def more(self, count: int) -> list[Any]:
        """Others like `x`."""
        return _more(self.operands["x"], count)

    @functools.cached_property
    def plans(self) -> list[nvs.matmul.MatmulPlan]:
        """Ours, those of the derivatives tuned too."""
        x, weights, biases, _ = self.operands.values()
        plans: list[nvs.matmul.MatmulPlan] = []
        for i, (w, bias) in enumerate(zip(weights, biases, strict=True)):
            epilog = "bias" if i == len(weights) - 1 else "gelu_bias"
            x = jax.ShapeDtypeStruct((x.shape[0], w.shape[0]), x.dtype)
            plans.append(nvs.matmul.plan(x, w, bias=bias, epilog=epilog))
        return nvs.matmul.autotune_chain(plans, self.operands["x"], weights, biases)

    def ours(self) -> Callable[..., Any]:
        """`nvstate.matmul.chain`, and its vector-Jacobian product."""
        return _forward_backward(functools.partial(nvs.matmul.chain, self.plans))

    def theirs(self) -> Callable[..., Any]:
        """`jax.numpy`, and its vector-Jacobian product."""

        def layers(x: Any, weights: Any, biases: Any) -> Any:
            for w, bias in list(zip(weights, biases, strict=True))[:-1]:
                x = jax.nn.gelu(x @ w + bias, approximate=True)
            return x @ weights[-1] + biases[-1]

        return _forward_backward(layers)

    def describe(self) -> str:
        """What ours runs, forward."""
        return "\n".join(plan.describe() for plan in self.plans)


def _forward_backward(layers: Callable[..., Any]) -> Callable[..., Any]:
    def run(x: Any, weights: Any, biases: Any, g: Any) -> Any:
        y, back = jax.vjp(layers, x, weights, biases)
        return y, back(g)

    return run


def random(seed: int, shape: tuple[int, ...], dtype: str, scale: float = 1.0) -> Any:
    """Normal numbers; many are made where they are used."""
    if math.prod(shape) <= ON_HOST:
        values = scale * np.random.default_rng(seed).standard_normal(shape)
        return jnp.asarray(values.astype(jnp.dtype(dtype)))
    return _random(jax.random.key(seed, impl="rbg"), shape, dtype, scale)


def _more(x: Any, count: int) -> list[Any]:
    with jax.default_device(next(iter(x.devices()))):
        made = [random(SEEDS + i, x.shape, str(x.dtype)) for i in range(count)]
    return jax.block_until_ready(made)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _random(key: Any, shape: tuple[int, ...], dtype: str, scale: float) -> Any:
    wide = "float64" if dtype == "float64" else "float32"
    return (scale * jax.random.normal(key, shape, wide)).astype(dtype)


# On the device


def repeats(case: Case, platform: str) -> int:
    """How many products, or passes, a program has."""
    if platform == "cpu":
        return 1
    itemsize = jnp.dtype(DTYPES[case.dtype]).itemsize
    if case.group == "mlp":
        results = case.extents[0] * max(case.extents[1:])
        moved = 6 * results
    else:
        m, n, k = case.extents
        results = case.batch * m * n
        moved = results + case.batch * (m * k + k * n)
    t = max(case.operations / RATES[case.dtype], moved * itemsize / 3e12, 4e-6)
    fewest, most = REPEATED
    return max(min(math.ceil(LONG / t), most, HELD // (results * itemsize)), fewest)


def repeated(function: Callable[..., Any]) -> Callable[[list[Any], dict[str, Any]], Any]:
    """Call for each of several first operands, one call after the other.

    XLA drops an `optimization_barrier` late, and then merges calls that are equal and drops those
    whose result nobody has: so the first operands differ, and all results are returned. Until then
    it keeps XLA from making one large product of several that share an operand.
    """

    def many(firsts: list[Any], others: dict[str, Any]) -> Any:
        results: list[Any] = []
        for first in firsts:
            y = function(first, **others)
            others, y = jax.lax.optimization_barrier((others, y))
            results.append(y)
        return results

    return many


def on_device(case: Case, given: Problem, platform: str) -> list[Candidate]:
    """Ours and XLA's, several times in one program."""
    first, *_ = given.operands
    others = {name: x for name, x in given.operands.items() if name != first}
    firsts = [given.operands[first], *given.more(repeats(case, platform) - 1)]

    def ours() -> Callable[[], Any]:
        function = one_by_one(repeated(given.ours()))
        return lambda: function(firsts, others)

    def theirs() -> Callable[[], Any]:
        function: Any = one_by_one(repeated(given.theirs()))
        if case.dtype == "fp8" and platform != "cpu":
            function = function.lower(firsts, others).compile()
            if FP8_CALL not in function.as_text():
                raise NotImplementedError(f"XLA did not make {FP8_CALL} of it")
        return lambda: function(firsts, others)

    return [
        jax_candidate(OURS, ours, per=len(firsts)),
        jax_candidate(XLA, theirs, per=len(firsts), foreign=case.dtype == "fp8"),
    ]


def once(given: Problem) -> list[Candidate]:
    """Ours, its algorithm in the plan, and XLA's, in functions that nobody has called yet."""
    operands = given.operands

    def ours() -> Callable[[], Any]:
        planned = given.ours()
        return lambda: tuned_jit(lambda operands: planned(**operands))(operands)

    def theirs() -> Callable[[], Any]:
        function = given.theirs()
        return lambda: tuned_jit(lambda operands: function(**operands))(operands)

    return [jax_candidate(OURS, ours), jax_candidate(XLA, theirs)]


# From Python


def calls(given: Product, device: Device) -> list[Candidate]:
    """One call in every form."""
    a, b = given.operands.values()

    def planned() -> Callable[[], Any]:
        plan = given.plan
        return lambda: plan(a, b)

    def resetting() -> Callable[[], Any]:
        bound = nvs.bind(given.plan, a=a, b=b)
        return lambda: nvs.execute(nvs.reset(bound, a=a, b=b))

    def one_shot() -> Callable[[], Any]:
        return lambda: nvs.matmul.matmul(a, b, **given.keywords)

    def jitted() -> Callable[[], Any]:
        function = jax.jit(given.theirs())
        return lambda: function(a, b)

    return [
        jax_candidate(OURS, planned),
        jax_candidate(RESET, resetting),
        jax_candidate(ONE_SHOT, one_shot),
        jax_candidate(JITTED, jitted),
        *matmul_peers.candidates(a, b, device),
    ]


# Agreement


def require_agreement(case: Case, got: Any, expected: Any) -> None:
    """Raise unless two results are one but for rounding: a wrong answer has no speed.

    Raises:
        ValueError: they are not; or they are not finite.
    """
    bound = BOUNDS[case.dtype] * (3 if case.group == "mlp" else 1)
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
    for i, (x, y) in enumerate(pairs):
        error = float((_distance if x.size > ON_HOST else _distance_on_host)(x, y))
        if not error <= bound:
            raise ValueError(f"result {i}: relative L2 distance to XLA's {error:.1e} > {bound:g}")


def _distance_on_host(x: Any, y: Any) -> Any:
    x, y = (np.asarray(z).astype("float64") for z in (x, y))
    return np.linalg.norm((x - y).ravel()) / np.linalg.norm(y.ravel())


@jax.jit
def _distance(x: Any, y: Any) -> Any:
    wide = "float64" if x.dtype == np.float64 else "float32"
    x, y = x.astype(wide), y.astype(wide)
    return jnp.sqrt(jnp.sum((x - y) ** 2) / jnp.sum(y**2))
