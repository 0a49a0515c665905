"""What is measured of products, and the bars: rows of data."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Literal

from nvstate.bench.bars import OURS, Bar

Group = Literal["plain", "gelu_bias", "mlp", "first", "call"]
DType = Literal["bf16", "f16", "f32", "tf32", "f64", "fp8"]
Extents = tuple[int, int, int]  # M, N, K

GROUPS: dict[Group, str] = {
    "plain": "one product among equal ones in a jitted function, on the device",
    "gelu_bias": "one gelu(a @ b + bias) among equal ones in a jitted function, on the device",
    "mlp": "one forward and backward pass among equal ones in a jitted function, on the device",
    "first": "the first call of a new jitted function: tracing, compiling and running it",
    "call": "one call from Python",
}
DTYPES: dict[DType, str] = {
    "bf16": "bfloat16",
    "f16": "float16",
    "f32": "float32",
    "tf32": "float32",
    "f64": "float64",
    "fp8": "float8_e4m3fn",
}
BOUNDS: dict[DType, float] = {  # on the relative L2 distance of two right answers
    "bf16": 1e-2,
    "f16": 2e-3,
    "f32": 2e-5,
    "tf32": 3e-3,
    "f64": 1e-12,
    "fp8": 3e-2,
}
XLA = "jnp, XLA tuned"
ON_CPU = 2e10  # operations: a CPU is spared cases with more of them

# The ways of a call from Python
RESET = "execute(reset(bound, a=a, b=b))"
ONE_SHOT = "nvs.matmul.matmul(a, b)"
JITTED = "jit, jnp.matmul"
NVMATH_RESET = "nvmath reset_operands, execute"
NVMATH_FUNCTION = "nvmath function"

NOT_SLOWER = Bar("ratio", 0.98, "cuda", OURS, XLA)
MLP = Bar("ratio", 1.08, "cuda", OURS, XLA)
FIRST = Bar("ratio", 3, "cuda", OURS, XLA)
CALL = tuple(Bar("micros", 35, "cuda", way) for way in (OURS, RESET))
MEANS = {"plain": 1.0, "gelu_bias": 1.04}  # the least geometric means of a group's ratios


@dataclasses.dataclass(frozen=True)
class Case:
    """A product, or layers of them, and a way to look at it.

    Attributes:
        group: what is looked at.
        extents: M, N, K; of layers: M and the widths.
        dtype: of the operands, or for "tf32" what float32 is multiplied in.
        batch: how many products of these extents are one; 1: no batch axis.
        bars: what is to be reached.
        on: where it is measured.
    """

    group: Group
    extents: tuple[int, ...]
    dtype: DType = "bf16"
    batch: int = 1
    bars: tuple[Bar, ...] = ()
    on: Literal["any", "cuda"] = "any"

    @property
    def id(self) -> str:
        """For example `plain/bf16-64x(512,512,64)`."""
        extents = ",".join(map(str, self.extents))
        batch = "" if self.batch == 1 else f"{self.batch}x"
        return f"{self.group}/{self.dtype}-{batch}({extents})"

    @property
    def reference(self) -> str:
        """The candidate that the case's ratio compares ours with."""
        return JITTED if self.group == "call" else XLA

    @property
    def operations(self) -> float:
        """Multiplications and additions; of layers, forward and backward."""
        if self.group == "mlp":
            m, *widths = self.extents
            return 6.0 * m * sum(a * b for a, b in itertools.pairwise(widths))
        return 2.0 * self.batch * math.prod(self.extents)

    def runs_on(self, platform: str) -> bool:
        """Whether it is measured there."""
        return platform == "cuda" or (self.on == "any" and self.operations <= ON_CPU)


CUBES: list[Extents] = [(n, n, n) for n in (512, 1024, 2048, 4096, 8192)]
ROWS: list[Extents] = [(m, 4096, 4096) for m in (1, 16, 64, 256)]
LAYERS: list[Extents] = [
    (8192, 14336, 4096),
    (8192, 4096, 14336),
    (4096, 4096, 1024),
    (2048, 3072, 768),
    (512, 512, 65536),
]
# From nvmath-python's test_perf.py
ODD: list[Extents] = [
    (10777, 1352, 2407),
    (14320, 307, 7266),
    (10277, 576, 20463),
    (6710, 12849, 2262),
]
BATCHED: list[tuple[int, Extents]] = [(64, (512, 512, 64)), (256, (128, 128, 128))]
SHAPES: list[tuple[int, Extents]] = [*((1, e) for e in (*CUBES, *ROWS, *LAYERS, *ODD)), *BATCHED]
OTHERS: dict[DType, list[tuple[int, Extents]]] = {
    "f16": [(1, (4096, 4096, 4096)), (1, (16, 4096, 4096)), (1, (2048, 3072, 768)), BATCHED[0]],
    "f32": [(1, (1024, 1024, 1024)), (1, (4096, 4096, 4096)), BATCHED[1]],
    "tf32": [(1, (4096, 4096, 4096)), (1, (16, 4096, 4096)), (1, (2048, 3072, 768))],
    "f64": [(1, (1024, 1024, 1024)), (1, (4096, 4096, 4096))],
    "fp8": [
        (1, (4096, 4096, 4096)),
        (1, (8192, 8192, 8192)),
        (1, (16, 4096, 4096)),
        (1, (2048, 3072, 768)),
    ],
}
FUSED: list[tuple[int, Extents]] = [
    *((1, e) for e in (*CUBES, *ROWS[1:], *LAYERS[:1], *LAYERS[2:4], *ODD[3:])),
    BATCHED[0],
]
MLPS = [(8192, 4096, 14336, 4096), (8192, 1024, 4096, 1024), (2048, 768, 3072, 768)]


def all_cases(*, quick: bool) -> list[Case]:
    """Every case, by group."""
    if quick:
        return _quick()
    return [
        *(Case("plain", e, "bf16", batch, (NOT_SLOWER,)) for batch, e in SHAPES),
        *(
            Case("plain", e, dtype, batch, (NOT_SLOWER,))
            for dtype, shapes in OTHERS.items()
            for batch, e in shapes
        ),
        *(Case("gelu_bias", e, "bf16", batch) for batch, e in FUSED),
        *(Case("mlp", widths, bars=(MLP,)) for widths in MLPS),
        Case("first", (4096, 4096, 4096), bars=(FIRST,)),
        Case("first", (16, 4096, 4096), bars=(FIRST,)),
        Case("first", (256, 256, 256), "f32", bars=(FIRST,)),
        *_calls(),
    ]


_FEW: tuple[DType, ...] = ("bf16", "tf32", "f64", "fp8")


def _quick() -> list[Case]:
    """Small enough for any machine, and on GPUs a few that matter."""
    return [
        *(Case("plain", (64, 48, 32), dtype) for dtype in _FEW),
        Case("plain", (32, 32, 16), batch=4),
        Case("gelu_bias", (64, 48, 32)),
        Case("mlp", (64, 32, 64, 32)),
        Case("first", (64, 64, 64)),
        *_calls()[:1],
        *(Case("plain", (m, 4096, 4096), bars=(NOT_SLOWER,), on="cuda") for m in (16, 4096)),
        Case("gelu_bias", (2048, 3072, 768), on="cuda"),
        Case("mlp", MLPS[-1], bars=(MLP,), on="cuda"),
    ]


def _calls() -> list[Case]:
    return [
        Case("call", (64, 64, 64), "f32", bars=CALL),
        Case("call", (256, 256, 256), "bf16", bars=CALL),
        Case("call", (16, 1024, 1024), "bf16", bars=CALL),
    ]
