"""MatmulPlan, and plan(), which makes one."""

from __future__ import annotations

import dataclasses
import functools
import html
import types as python_types
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Unpack

import jax
import numpy as np

from nvstate import _native, errors
from nvstate._core import aval, dtypes, log, placement
from nvstate._core.aval import Device, OperandType
from nvstate._core.placement import Execution, Placement
from nvstate._core.plan import Plan
from nvstate.matmul import algorithm as algorithms, lowering, primitive, query, report, support
from nvstate.matmul.algorithm import Algorithm
from nvstate.matmul.arguments import WHERE, error
from nvstate.matmul.preferences import Preferences, of as preferences_of
from nvstate.matmul.spec import MatmulSpec
from nvstate.matmul.specify import ARRAYS, Problem, specified, typed

if TYPE_CHECKING:
    from nvstate._core.selftest import Sample


class MatmulPlan(Plan):
    """A planned product: call it, `d = plan(a, b)`. Made by `plan`; immutable; a pytree.

    Candidates and their times are not compared: tuning twice to one winner gives one plan.
    """

    where: ClassVar[str] = WHERE
    spec_type: ClassVar[Any] = MatmulSpec
    operation: ClassVar[Any] = staticmethod(primitive.multiply)
    targets: ClassVar[tuple[str, ...]] = (lowering.TARGET, lowering.TUNER)
    default_choices: ClassVar[Any] = ((), ())
    spec: MatmulSpec

    @property
    def consumed(self) -> tuple[str, ...]:
        """Names of the operands that an eager call consumes: `c`, in place."""
        return ("c",) if self.spec.inplace else ()

    @property
    def results(self) -> Mapping[str, OperandType]:
        """Types of the results by name; more than one come as a `MatmulResult`."""
        return python_types.MappingProxyType(self.spec.result_types(self.types))

    @property
    def result(self) -> OperandType:
        """Type of D."""
        return self.results["d"]

    @classmethod
    def validate(cls, spec: MatmulSpec, types: tuple[OperandType, ...], choices: Any) -> None:
        """Raise unless these, read from a file, make a plan."""
        given: dict[str, Any] = dict(zip(spec.names, types, strict=True))
        keywords = spec.keywords()
        for name in ("alpha", "beta"):
            if name in keywords:
                given[name] = keywords.pop(name)
        if specified(given, **keywords) != spec:
            raise ValueError(f"{', '.join(map(str, types))} are no operands of {spec}")
        preferences, pinned = choices
        if preferences_of(preferences).pinned(None) != preferences:
            raise ValueError(f"no preferences: {preferences}")
        for pin in pinned:
            algorithms.unpinned(pin)

    def check(self, values: tuple[Any, ...], new: Iterable[str] | None = None) -> None:
        """Raise `OperandError` unless these values, of which those named are new, fit."""
        if self.placement is None or self._numpy:
            for name, x in zip(self.spec.names, values, strict=True):
                if isinstance(x, np.ndarray):
                    require_contiguous(name, x)
        super().check(values, new)

    def absent(self, name: str) -> str | None:
        """What to do about an operand that this plan has not."""
        if name in ("alpha", "beta"):
            dtype = self.spec.scale_type
            return (
                f"`{name}` is static here: plan with a 0-d array, "
                f'`{name}=jax.numpy.asarray({name}, "{dtype}")`, to change it without a retrace.'
            )
        return None

    # Choices

    @property
    def preferences(self) -> Preferences:
        """What is asked of the heuristic."""
        return preferences_of(self.choices[0])

    @property
    def pinned(self) -> tuple[Algorithm, ...]:
        """The algorithms that are pinned for this problem, of which one runs where it fits."""
        return tuple(algorithms.pins_of(self.choices, self.matrix_spec().digest))

    @property
    def algorithms(self) -> tuple[Algorithm, ...]:
        """All candidates, in the heuristic's order, or by time once measured; () on CPUs.

        The first use asks cuBLASLt, for the device where the plan is placed; for the first CUDA
        device, if the plan was made from abstract types. For a device of another kind plan there:
        that is another plan, with candidates of its own.
        """
        return self.__dict__.get("_measured") or self.proposed

    @functools.cached_property
    def proposed(self) -> tuple[Algorithm, ...]:
        """The heuristic's candidates in its order, whatever is pinned; they live as the plan."""
        if self.backend == "xla" or self.is_empty:
            return ()
        return query.algorithms(self, self.preferences.limit, (self.choices[0], ()))

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to multiply: XLA writes the result, and no library is asked."""
        return 0 in (*self.result.shape, self.spec.k)

    @property
    def algorithm(self) -> Algorithm | None:
        """The one that runs; None where no GPU can be asked, and of a product without elements."""
        if self.backend == "xla" or self.is_empty or query.device_of(self) is None:
            return self.pinned[0] if self.pinned else None
        return query.algorithms(self, 1)[0]

    def with_algorithm(self, algorithm: Algorithm) -> MatmulPlan:
        """Return the plan with this algorithm pinned.

        Args:
            algorithm: of this problem, from `algorithms` or `Algorithm.from_id`.

        Raises:
            UnsupportedError: cuBLASLt refuses it for this problem.
            SpecError: no algorithm.
        """
        return self.pinning(algorithms.require_algorithms(algorithm))

    def pinning(self, several: tuple[Algorithm, ...]) -> MatmulPlan:
        """The plan with these pinned, in place of those of the same problems before."""
        digest = self.matrix_spec().digest
        if self.backend == "cublaslt" and not self.is_empty:
            several = tuple(query.checked(self, one) for one in several)
        pins = algorithms.merged(self.choices[1], [algorithms.pin(digest, one) for one in several])
        return self.with_pins(pins)

    def with_pins(self, pins: tuple[algorithms.Pin, ...]) -> MatmulPlan:
        """The plan with these pinned alone, of its own product and of those of its derivatives."""
        return MatmulPlan.of(self.spec, self.types, self.placement, (self.choices[0], pins))

    def matrix_spec(self) -> MatmulSpec:
        """The spec that the library sees: of matrices, also where an operand has one axis."""
        return dataclasses.replace(self.spec, vectors="")

    def matrices(self) -> tuple[OperandType, ...]:
        """Types of the operands that go with it."""
        return tuple(
            OperandType(primitive.matrix_shape(name, self.spec.vectors, t.shape), t.dtype)
            for name, t in self.operands.items()
        )

    @property
    def backend(self) -> Literal["cublaslt", "xla"]:
        """What runs where the plan was made for; for abstract types, on the default device."""
        platform = self.placement.platform if self.placement else jax.default_backend()
        return "cublaslt" if platform in {"cuda", "gpu"} else "xla"

    @property
    def workspace_bytes(self) -> int:
        """Bytes that one call needs beside operands and results; 0 on CPU."""
        if self.backend == "xla" or self.is_empty:
            return 0
        call, operands, results = query.call_of(self)
        device = query.device_of(self)
        ordinal = None if device is None else device.local_hardware_id
        return query.settled(call, operands, results, ordinal)[0]

    @classmethod
    def libraries(cls, platform: str) -> dict[str, str]:
        """Version of cuBLASLt on CUDA, else jaxlib's."""
        if platform != "cuda":
            return super().libraries(platform)
        try:
            return {"cublasLt": query.version()}
        except errors.LibraryError:
            return {"cublasLt": "missing"}

    @classmethod
    def samples(cls) -> list[Sample]:
        """What `python -m nvstate` multiplies."""
        from nvstate.matmul import selftest  # which plans

        return selftest.samples()

    def tuned(self, values: tuple[Any, ...], rounds: int) -> MatmulPlan | None:
        """The plan with the algorithm that is fastest on these operands; None on CPUs."""
        from nvstate.matmul import tuning  # which knows this module

        if self.backend == "xla":
            return None
        return tuning.tuned(self, values, iterations=rounds)

    def arguments(self, rank: int) -> str:
        """What to type between the parentheses of `plan()` for other operands."""
        return report.arguments(self)

    def describe(self) -> str:
        """Say what will run: types, epilog, library, algorithm, workspace and every copy.

        Example:
            >>> a, b = jnp.ones((8, 4), "float32"), jnp.ones((4, 2), "float32")
            >>> print(nvs.matmul.plan(a, b).describe())
            product    a float32[8,4] b float32[4,2] on cpu:0
            results    d float32[8,2]
            computes   float32, scale type float32, alpha 1.0
            runs       XLA's dot
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
        return f"<table><caption>MatmulPlan</caption>{cells}</table>"


def plan(
    a: Any,
    b: Any = None,
    c: Any = None,
    /,
    *,
    preferences: Preferences | None = None,
    algorithm: Algorithm | Sequence[Algorithm] | None = None,
    execution: Execution | Device | None = None,
    **problem: Unpack[Problem],
) -> MatmulPlan:
    """Plan a product of matrices.

    z = α s_a s_b op(A) op(B) + β C + bias; D = round(s_d f(z)), f the identity, relu or gelu.

    Args:
        a: [*batch, M, K] or [K]; arrays, tracers or `jax.ShapeDtypeStruct`: only types and
            placement are read. Or a `MatmulSpec` alone, whose plan takes any batch axes.
        b: [*batch, K, N] or [K].
        c: whatever broadcasts to D; goes with `beta`.
        preferences: what is asked of cuBLASLt's heuristic.
        algorithm: one that is pinned, or several of which the first that fits the problem runs:
            the heuristic is not asked. None: what `nvstate.store` holds for this problem, else the
            heuristic's first.
        execution: where NumPy operands are computed with: "cpu", which None is too; "cuda", the
            first GPU; or a `jax.Device`.
        **problem: which product it is, as in `spec`.

    Returns:
        A plan. `plan(a, b)` is D [*batch, M, N]; `plan(a, b, c, bias=bias)` takes the operands
        that it was planned with, by position or name. An epilog with more results gives a
        `MatmulResult`. From NumPy arrays it takes and returns NumPy, from JAX's JAX.

    Raises:
        SpecError: no such product.
        UnsupportedError: a fair one, but not of this library, version or device.
        OperandError: operands that live in different places; a view of NumPy's that is not dense.

    Example:
        >>> a, b, bias = jnp.ones((8, 4)), jnp.ones((4, 2)), jnp.ones(2)
        >>> plan = nvs.matmul.plan(a, b, bias=bias, epilog="relu_bias")
        >>> plan(a, b, bias=bias)[0]
        Array([5., 5.], dtype=float64)

    Source: cublasLtMatmul, cublasLtMatmulAlgoGetHeuristic; `jax.numpy.matmul` on CPUs.
    """
    start = log.now()
    if isinstance(a, MatmulSpec):
        if problem or b is not None:
            raise error(
                "a spec and what it says already",
                "`plan(spec)`, whose plan takes operands with any batch axes",
                ", ".join(f"`{name}`" for name in (*("b",) * (b is not None), *problem)),
                "Leave these out, or plan from operands: `plan(a, b)`.",
            )
        for t in a.open_types():
            dtypes.require(WHERE, t.dtype)
        return made(a, a.open_types(), {}, preferences, algorithm, execution, start)
    if unknown := problem.keys() - Problem.__annotations__:
        raise TypeError(f"plan() got an unexpected keyword argument {min(unknown)!r}")
    rest: dict[str, Any] = dict(problem)
    given = {"a": a, "b": b, "c": c}
    given |= {name: rest.pop(name) for name in list(rest) if name in ARRAYS}
    there = {name: x for name, x in given.items() if x is not None or name in "ab"}
    types = {name: typed(name, x) for name, x in there.items()}
    for name, x in there.items():
        if isinstance(x, np.ndarray):
            require_contiguous(name, x)
    spec = specified(types, **rest)
    places = {name: placement.of(x) for name, x in there.items() if aval.is_array(x)}
    return made(
        spec,
        tuple(types[name] for name in spec.names),
        places,
        preferences,
        algorithm,
        execution,
        start,
    )


def made(
    spec: MatmulSpec,
    types: tuple[OperandType, ...],
    places: Mapping[str, Placement | None],
    preferences: Any,
    algorithm: Any,
    execution: Execution | Device | None,
    start: float,
) -> MatmulPlan:
    """As `plan`, of operands of which types and places are known."""
    where = placement.shared(WHERE, places, execution)
    device = None
    if where is not None and where.platform == "cuda":
        device = next(
            (d for d in placement.local_devices("cuda") if placement.name(d) in where.devices), None
        )
    if device is not None:
        support.require(
            spec, support.capability(device), _native.cublaslt_version(), c_of(spec, types)
        )
    if not isinstance(preferences, Preferences | None):
        do = "Pass `nvstate.matmul.Preferences(…)`."
        raise error("no preferences", "`Preferences` or None", repr(preferences), do)
    chosen = (preferences or Preferences()).pinned(device)
    plan = MatmulPlan.chosen(spec, types, where, (chosen, ()))
    if algorithm is not None:
        plan = plan.pinning(algorithms.require_algorithms(algorithm))
    elif device is not None and not plan.is_empty:
        query.algorithms(plan, 1)  # a product that there is no algorithm for is found here
    log.info("planned", plan, start)
    return plan


def c_of(spec: MatmulSpec, types: tuple[OperandType, ...]) -> OperandType | None:
    """Type of `c` as a matrix."""
    c = dict(zip(spec.names, types, strict=True)).get("c")
    return c and OperandType(primitive.matrix_shape("c", spec.vectors, c.shape), c.dtype)


def require_contiguous(name: str, x: np.ndarray[Any, Any]) -> None:
    """Refuse a view of NumPy's that is not dense in row-major order: it would be copied."""
    if not x.flags.c_contiguous:
        raise errors.OperandError(
            errors.message(
                WHERE,
                f"operand `{name}` is not contiguous",
                expected=f"{aval.type_of(x)} in row-major order",
                got=f"strides {x.strides} bytes",
                do=f"Pass `numpy.ascontiguousarray({name})`.",
            )
        )
