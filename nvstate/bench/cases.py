"""What is measured of the FFT, and the bars: rows of data."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from nvstate._core import dtypes
from nvstate.bench.bars import OURS, THEIRS, Bar
from nvstate.fft.arguments import Direction, Hermitian, Kind

Form = Literal["jit", "strategies", "window", "product", "chain", "eager", "argument", "plans"]
FORMS: dict[Form, str] = {
    "jit": "one transform in a jitted function",
    "strategies": "one transform in a jitted function, by each strategy; CUDA only",
    "window": "the transform times a window along its axis, in one jitted function",
    "product": "the transform times an array of its size, in one jitted function",
    "chain": "100 transforms in one jitted function, each times a constant; one of them",
    "eager": "one call from Python",
    "argument": "the plan as an argument of a jitted function, and closed over",
    "plans": "many plans through one jitted function; one call",
}
CHAINED = 100
PLANS, QUICK_PLANS = 400, 40

NOT_SLOWER = Bar("ratio", 0.98)


@dataclasses.dataclass(frozen=True)
class Case:
    """A transform and a way to use it.

    Attributes:
        group: the letter of its bar.
        shape: of the operand; for "c2r", of the result.
        axes: that are transformed.
        quick: a smaller shape for `--quick`, which then has no bars; the same: as it is; None:
            left out.
        kind: "c2c", "r2c" or "c2r".
        direction: "forward" or "inverse".
        dtype: of the complex side.
        form: how it is used.
        hermitian: for "c2r", as `nvstate.fft.plan` takes it.
        bars: what is to be reached.
        count: for the form "plans", how many.
    """

    group: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] = (-1,)
    quick: tuple[int, ...] | None = None
    kind: Kind = "c2c"
    direction: Direction = "forward"
    dtype: str = "complex64"
    form: Form = "jit"
    hermitian: Hermitian = "numpy"
    bars: tuple[Bar, ...] = (NOT_SLOWER,)
    count: int = PLANS

    @property
    def id(self) -> str:
        """For example `b/jit-c2c-forward-complex64-4096x4096-axes0`."""
        axes = ",".join(str(axis % len(self.shape)) for axis in self.axes)
        what = self.kind if self.kind != "c2c" else f"c2c-{self.direction}"
        shape = "x".join(map(str, self.shape))
        text = f"{self.group}/{self.form}-{what}-{self.dtype}-{shape}-axes{axes}"
        return text + (f"-{self.hermitian}" if self.kind == "c2r" else "")

    @property
    def lengths(self) -> tuple[int, ...]:
        """Along `axes`, on the side that is not halved."""
        return tuple(self.shape[axis] for axis in self.axes)

    @property
    def reference(self) -> str:
        """The candidate that the case's ratio compares ours with."""
        return {"argument": "closed over", "plans": "one plan"}.get(self.form, THEIRS)

    @property
    def real_dtype(self) -> str:
        """Of the real side."""
        return dtypes.REAL[self.dtype]

    def made_quick(self) -> Case | None:
        """The case for `--quick`."""
        if self.quick is None:
            return None
        bars = self.bars if self.quick == self.shape and self.form != "plans" else ()
        return dataclasses.replace(self, shape=self.quick, bars=bars, count=QUICK_PLANS)


def all_cases(*, quick: bool) -> list[Case]:
    """Every case, by group."""
    cases = [*_trailing(), *_strided(), *_inverse(), *_small(), *_python(), *_others()]
    cases += _strategies()
    if quick:
        return [made for case in cases if (made := case.made_quick()) is not None]
    return cases


def _trailing() -> list[Case]:
    """64 MiB of complex64 and as much float32; twice that in double precision."""
    complex_shapes = [
        ((8192, 1024), (-1,), (512, 256)),
        ((8, 1024, 1024), (-2, -1), (2, 256, 256)),
        ((256, 256, 128), (-3, -2, -1), (64, 64, 32)),
    ]
    real_shapes = [
        ((16384, 1024), (-1,), (512, 256)),
        ((16, 1024, 1024), (-2, -1), (2, 256, 256)),
        ((256, 256, 256), (-3, -2, -1), (64, 64, 32)),
    ]
    bars = (NOT_SLOWER, Bar("ratio", 0.98, "cuda", reference="bare cuFFT"))
    kinds: list[tuple[Kind, Any]] = [("c2c", complex_shapes), ("r2c", real_shapes)]
    return [
        Case(
            "a", shape, axes, quick if dtype == "complex64" else None, kind, dtype=dtype, bars=bars
        )
        for dtype in ("complex64", "complex128")
        for kind, shapes in kinds
        for shape, axes, quick in shapes
    ]


def _strided() -> list[Case]:
    bars = (Bar("ratio", 1.7, "cuda"), NOT_SLOWER)
    return [
        Case("b", (4096, 4096), (0,), (512, 512), bars=bars),
        Case("b", (1024, 4096), (0,), bars=bars),
    ]


def _inverse() -> list[Case]:
    fused = (Bar("ratio", 1.45, "cuda"), NOT_SLOWER)
    rows = [((8192, 1024), (512, 256)), ((4096, 4096), None)]
    # Passes over memory, theirs to ours: 6 to 4 with a window; with an array of the result's size
    # only 7 to 5, which is below the bar whatever we do.
    forms: list[tuple[Form, tuple[Bar, ...]]] = [
        ("jit", (NOT_SLOWER,)),
        ("window", fused),
        ("product", (NOT_SLOWER,)),
    ]
    return [
        Case("c", shape, (-1,), quick, direction="inverse", form=form, bars=bars)
        for shape, quick in rows
        for form, bars in forms
    ]


def _small() -> list[Case]:
    bars = (Bar("ratio", 2.8, "cuda"), Bar("micros", 3.9, "cuda"), NOT_SLOWER)
    return [
        Case("d", (64, 256), quick=(64, 256), form="chain", bars=bars),
        Case("d", (1_000_000,), form="chain"),
    ]


def _python() -> list[Case]:
    ways = (OURS, "reset, execute", "execute(bound)", "one-shot")
    bars = (
        *(Bar("micros", 35, "cuda", way) for way in ways),
        Bar("ratio", 3, "cuda", "reset, execute", "nvmath reset, execute"),
        Bar("ratio", 10, "cuda", OURS, "nvmath function"),
    )
    return [
        Case("f", (64,), quick=(64,), form="eager", bars=(*bars, Bar("times", 1.3, "cpu"))),
        Case("f", (64, 256), quick=(64, 256), form="eager", bars=bars),
        Case(
            "f",
            (8,),  # the least work: on CPUs more is handed to a thread, whose start varies more
            quick=(8,),
            form="argument",
            bars=(Bar("excess", 1, "cpu", reference="closed over"),),
        ),
        Case("f", (8,), quick=(8,), form="plans", bars=(Bar("micros", 20, "cpu"),)),
    ]


def _others() -> list[Case]:
    real_results = [
        ((4096, 4096), (-2, -1), (256, 256)),
        ((256, 256, 256), (-3, -2, -1), (32, 32, 32)),
    ]
    promises: tuple[Hermitian, ...] = ("numpy", "assume")
    return [
        *(Case("h", (n,), quick=(n,)) for n in (16, 1024)),
        *(Case("h", (n, n), (-2, -1), (n, n)) for n in (32, 256)),
        Case("h", (64, 1024), kind="r2c", quick=(64, 1024)),
        Case("h", (1_000_000,), quick=(1_000_000,), bars=(Bar("ratio", 1.86, "cuda"), NOT_SLOWER)),
        *(Case("h", (256, n), quick=(16, n)) for n in (4099, 7919)),
        *(
            Case("h", shape, axes, quick, "c2r", "inverse", hermitian=hermitian)
            for shape, axes, quick in real_results
            for hermitian in promises
        ),
        Case("h", (8192, 1024), (-1,), (512, 256), "c2r", "inverse"),
        *(Case("h", (n, 4096), (0,)) for n in (1000, 1009)),
        Case("h", (4096, 4096), (0,), (512, 512), "r2c"),
        Case("h", (512, 4096), (0,), kind="r2c"),
        Case("h", (64, 128, 1024), (0, 2)),
        Case("h", (4, 512, 4096), (1,)),
        Case("h", (64, 512, 256), (1,), (8, 256, 64)),
        Case("h", (48, 48, 48, 48), (0, 1, 2, 3), (16, 16, 16, 16)),
        Case("h", (512, 512, 16), (0, 1), (128, 128, 16)),
        Case("h", (256, 256, 256), (-3, -2, -1), (32, 32, 32)),
        Case("h", (4096, 4096), (-2, -1), (256, 256), direction="inverse"),
    ]


def _strategies() -> list[Case]:
    """What the rule of `fft/strategy.py` rests on: both sides of each of its thresholds."""
    complex_rows: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        *(((n, 8388608 // n), (0,)) for n in (256, 1024, 2048, 4096, 8192, 16384)),
        *(((n, 262144 // n), (0,)) for n in (64, 4096, 16384)),
        *(((n, n, 64), (0, 1)) for n in (64, 256)),
        *(((n, 16, 1024), (0, 2)) for n in (16, 512)),
        *(((outer, 512, 4096), (1,)) for outer in (4, 16)),
        *(((outer, 512, 256), (1,)) for outer in (4, 64)),
        ((8, 128, 128, 64), (1, 2)),
    ]
    real_rows: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        *(((n, 4096), (0,)) for n in (512, 1024, 2048, 4096)),
        ((64, 128, 1024), (0, 2)),
        ((64, 64, 32), (0, 1)),
        ((4, 512, 4096), (1,)),
    ]
    kinds: list[tuple[Kind, Any]] = [("c2c", complex_rows), ("r2c", real_rows)]
    return [
        Case("s", shape, axes, None, kind, form="strategies", dtype=dtype)
        for dtype in ("complex64", "complex128")
        for kind, rows in kinds
        for shape, axes in rows
        if dtype == "complex64" or axes == (0,)
    ]
