"""FFTPlan, and plan(), which makes one."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Unpack

import jax

from nvstate import _native, errors
from nvstate._core import aval, dtypes, log, placement
from nvstate._core.aval import Device, OperandType
from nvstate._core.placement import Execution, Placement
from nvstate._core.plan import Plan
from nvstate.fft import (
    arguments,
    memory,
    primitive,
    report,
    strategy as strategies,
    workspace,
)
from nvstate.fft.arguments import WHERE, Hermitian
from nvstate.fft.spec import FFTSpec
from nvstate.fft.specify import Problem, spec as make_spec, specified, typed
from nvstate.fft.strategy import Strategy

if TYPE_CHECKING:
    from nvstate._core.selftest import Sample


class FFTPlan(Plan):
    """A planned transform: call it, `y = plan(x)`. Made by `plan`; immutable; a pytree."""

    where: ClassVar[str] = WHERE
    spec_type: ClassVar[Any] = FFTSpec
    operation: ClassVar[Any] = staticmethod(primitive.fft)
    targets: ClassVar[tuple[str, ...]] = (primitive.TARGET,)
    spec: FFTSpec

    default_choices: ClassVar[Strategy] = "auto"

    @property
    def operand(self) -> OperandType:
        """Type of the operand."""
        return self.types[0]

    @property
    def consumed(self) -> tuple[str, ...]:
        """Names of the operands that an eager call consumes: `x`, in place."""
        return ("x",) if self.spec.inplace else ()

    @classmethod
    def validate(cls, spec: FFTSpec, types: tuple[OperandType, ...], choices: Any) -> None:
        """Raise unless these, read from a file, make a plan."""
        anything = OperandType((), spec.operand_dtype, open=True)
        (operand,) = types
        rank = len(operand.shape)
        between = operand.open and sorted(spec.positions(rank)) != list(range(rank))
        if between or not spec.accepts((anything,), types):
            raise ValueError(f"{operand} is no operand of {spec}")
        spec.require_countable(operand.shape)
        if choices not in strategies.names():
            raise ValueError(f"unknown strategy {choices!r}")
        if choices != cls.default_choices:
            strategies.choose(spec, operand.shape, choices)

    @property
    def result(self) -> OperandType:
        """Type of the result."""
        shape = self.spec.result_shape(self.operand.shape)
        return OperandType(shape, self.spec.result_dtype, self.operand.open)

    def inverse(self, *, hermitian: Hermitian = "numpy") -> FFTPlan:
        """Plan the transform that undoes this one on its result.

        Direction or kind is turned; lengths (so the parity too), `norm`, placement and a pinned
        strategy are kept. In "c2c" both share one cuFFT plan. With `norm="none"` the two in turn
        multiply by N; a crop is not undone.

        Args:
            hermitian: "r2c" alone: "assume" where what you do with the spectrum keeps it
                Hermitian, as multiplying by another real array's spectrum does; see `spec`.

        Returns:
            A plan for this plan's result.

        Raises:
            SpecError: `hermitian="assume"` of another kind.

        Example:
            >>> x = jnp.ones((2, 9))
            >>> plan = nvs.fft.plan(x, axes=(1,))
            >>> bool(jnp.allclose(plan.inverse()(plan(x)), x))
            True
        """
        inverse = self.spec.inverse(hermitian)
        return FFTPlan.chosen(inverse, (self.result,), self.placement, self.choices)

    @property
    def backend(self) -> Literal["cufft", "xla"]:
        """What runs where the plan was made for; for an abstract type, on the default device."""
        platform = self.placement.platform if self.placement else jax.default_backend()
        return "cufft" if platform in {"cuda", "gpu"} else "xla"

    @property
    def strategy(self) -> Strategy:
        """How cuFFT's calls are laid out, or would be on CUDA."""
        return strategies.choose(self.spec, self.operand.shape, self.choices)

    @property
    def scaling(self) -> Literal["none", "multiply"]:
        """On CUDA: "multiply" is an XLA multiply after the call, fused into what follows."""
        return "none" if self.spec.scale == 1 else "multiply"

    @property
    def workspace_bytes(self) -> int:
        """Bytes that one call needs beside operand and result; 0 on CPU.

        Where a GPU is visible this makes the native plan, which the first execution will find.
        """
        return 0 if self.backend == "xla" else memory.most(self, workspace.needed)

    @property
    def workspace_exact(self) -> bool:
        """Whether `workspace_bytes` is what cuFFT asked for, not a bound made without a GPU."""
        return self.backend == "xla" or memory.ordinal(self) is not None

    def candidates(self, platform: str) -> Sequence[FFTPlan]:
        """This plan, and on CUDA those with another strategy that its layout can have."""
        names = strategies.candidates(self.spec, self.operand.shape) if platform == "cuda" else []
        others = [name for name in names if name != self.strategy]
        return [self, *(FFTPlan.of(self.spec, self.types, self.placement, n) for n in others)]

    @classmethod
    def libraries(cls, platform: str) -> dict[str, str]:
        """Version of cuFFT on CUDA, else jaxlib's."""
        if platform != "cuda":
            return super().libraries(platform)
        try:
            number = _native.cufft_version()
        except errors.LibraryError:
            return {"cufft": "missing"}
        return {"cufft": f"{number // 1000}.{number // 100 % 10}.{number % 100}"}

    @classmethod
    def samples(cls) -> list[Sample]:
        """What `python -m nvstate` transforms."""
        from nvstate.fft import selftest  # which plans

        return selftest.samples()

    def arguments(self, rank: int) -> str:
        """What to type between the parentheses of `plan()` for another operand of this rank."""
        spec = self.spec
        said = ["x"]
        if spec.axes != tuple(range(-rank, 0)):
            said.append(f"axes={spec.axes}")
        if spec.kind == "c2r":
            said.append('kind="c2r"')
        if spec.direction == "inverse" and spec.kind == "c2c":
            said.append('direction="inverse"')
        if spec.norm != "backward":
            said.append(f'norm="{spec.norm}"')
        if spec.extents != spec.needed or (spec.kind == "c2r" and spec.lengths[-1] % 2):
            said.append(f"s={spec.lengths}")
        if spec.hermitian != "numpy":
            said.append(f'hermitian="{spec.hermitian}"')
        if spec.inplace:
            said.append("inplace=True")
        if self.choices != "auto":
            said.append(f'strategy="{self.choices}"')
        return ", ".join(said)

    def describe(self) -> str:
        """Say what will run: types, axes, scale, library, strategy, workspace and every move.

        Example:
            >>> print(nvs.fft.plan(jnp.ones((2, 8), "complex64"), axes=(1,)).describe())
            transform  c2c forward, axes (-1,), lengths (8,)
            operand    complex64[2,8] on cpu:0
            result     complex64[2,8]
            scale      1 (backward)
            runs       XLA's own FFT
            on CUDA    cuFFT, contiguous
        """
        return "\n".join(f"{name:<10} {text}" for name, text in report.rows(self))

    def __repr__(self) -> str:
        return report.line(self)

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><th style='text-align:left'>{name}</th>"
            f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
            for name, text in report.rows(self)
        )
        return f"<table><caption>FFTPlan</caption>{cells}</table>"


def plan(
    x: Any,
    operand: Any = None,
    /,
    *,
    strategy: Strategy = "auto",
    execution: Execution | Device | None = None,
    **problem: Unpack[Problem],
) -> FFTPlan:
    """Plan a discrete Fourier transform over any axes.

    Forward, y[k] = c Σₙ x[n] exp(-2πi Σⱼ kⱼ nⱼ / Nⱼ); inverse has +. `norm` says which c is not 1.

    Args:
        x: complex64|complex128 [...], float32|float64 [...] for "r2c"; only its type and placement
            are read: a `jax.ShapeDtypeStruct` or a tracer will do. Or an `FFTSpec`, with no keyword
            of a problem beside it.
        operand: the operand, if `x` is a spec. Without it the transform's axes must be the last
            ones, and any number of batch axes may come before them.
        strategy: pins how cuFFT's calls are laid out: "contiguous", "strided", "loop",
            "transpose", "composed"; "auto" takes what `nvstate.store` holds for this problem, else
            the rule of `docs/explanation/fft-strategies.md`. CPUs have one way.
        execution: where NumPy operands are computed with: "cpu", which None is too; "cuda", the
            first GPU; or a `jax.Device`. On another device than the CPU each call copies the
            operand there and the result back.
        **problem: which transform it is, as in `spec`: `axes`, `n`, `s`, `kind`, `direction`,
            `norm`, `last_axis_parity`, `hermitian`, `inplace`.

    Returns:
        A plan. `plan(x)` is y, [..., *lengths] along `axes`; for "r2c" the last of `axes` is
        N//2 + 1 long. From a NumPy array it takes and returns NumPy, in row-major order, on the
        CPU unless `execution` says otherwise; from a `jax.Array` it takes and returns JAX, on that
        device; from a type either, and returns JAX.

    Raises:
        SpecError: no such transform; `execution` of other operands than NumPy's.
        UnsupportedError: float16 and bfloat16; a pinned strategy that the layout cannot have; no
            such device.
        OperandError: `operand` does not fit the spec.

    Example:
        >>> x = jnp.ones((2, 8), "complex64")
        >>> nvs.fft.plan(x, axes=(1,))(x)[0, 0]
        Array(8.+0.j, dtype=complex64)

    Source: cufftXtMakePlanMany, cufftXtExec; `jax.numpy.fft` on CPUs.
    """
    if unknown := problem.keys() - Problem.__annotations__:
        raise TypeError(f"plan() got an unexpected keyword argument {min(unknown)!r}")
    if isinstance(x, FFTSpec):
        if problem:
            raise arguments.error(
                "a spec and keywords of a problem",
                "one of them",
                ", ".join(f"`{name}`" for name in problem),
                "Leave the keywords out, or make another spec.",
            )
        start, where = log.now(), None if operand is None else placement.of(operand)
        return _made(x, typed(x, operand), where, strategy, execution, start)
    if operand is not None:
        raise arguments.error(
            "the second argument is the operand of a spec",
            "`plan(x, axes=…)` or `plan(spec, x)`",
            f"`plan(x, {type(operand).__name__})`",
            "Name the keywords, for example `axes=(1,)`.",
        )
    if not aval.is_array(x):
        make_spec(x)  # refuses it
    keywords: Any = problem
    return planned(
        aval.type_of(x), placement.of(x), strategy=strategy, execution=execution, **keywords
    )


def planned(
    operand: OperandType,
    where: Placement | None,
    *,
    strategy: Strategy = "auto",
    execution: Execution | Device | None = None,
    **problem: Unpack[Problem],
) -> FFTPlan:
    """As `plan`, of an operand of which type and place are known."""
    start = log.now()
    return _made(specified(operand, **problem), operand, where, strategy, execution, start)


def _made(
    spec: FFTSpec,
    operand: OperandType,
    where: Placement | None,
    strategy: Strategy,
    execution: Execution | Device | None,
    start: float,
) -> FFTPlan:
    if strategy not in strategies.names():
        listed = ", ".join(f'"{name}"' for name in strategies.names())
        raise arguments.error("unknown `strategy`", f"one of {listed}", repr(strategy), "Pass one.")
    dtypes.require(WHERE, spec.operand_dtype)
    spec.require_countable(operand.shape)
    if strategy != "auto":
        strategies.choose(spec, operand.shape, strategy)
    where = placement.shared(WHERE, {"x": where}, execution)
    made = FFTPlan.chosen(spec, (operand,), where, strategy)
    log.info("planned", made, start)
    return made
