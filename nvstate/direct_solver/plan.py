"""SolverPlan: a problem, its choices, and the arrays that every call reads."""

from __future__ import annotations

import dataclasses
import functools
import html
import operator
import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np

from nvstate._core import aval, placement, stored
from nvstate._core.aval import OperandType
from nvstate._core.placement import Placement
from nvstate._core.plan import Plan
from nvstate.direct_solver import (
    analysis,
    arrays,
    choices as choices_,
    edge,
    engine as engines,
    operands,
    pattern as patterns,
    phases,
    primitive,
    report,
    support,
    tuning,
)
from nvstate.direct_solver.arguments import WHERE, operand_error
from nvstate.direct_solver.spec import Leaves, SolverSpec

if TYPE_CHECKING:
    from nvstate._core.selftest import Sample
    from nvstate.direct_solver.analysis import Analysis

_interning = threading.Lock()


def solved(spec: SolverSpec, *given: Any, choices: Any = None) -> Any:
    """X of leaves, values and b: what a plan runs."""
    *own, values, b = given
    leaves = Leaves(*own)
    ordered = edge.in_order(leaves, values)[None]
    transposed, conjugate = edge.way(spec, "none")
    if transposed:
        support.require_transpose(spec, choices, "none")

    def run(columns: Any) -> Any:
        return primitive.fused(spec, leaves, ordered, columns, choices, transposed=transposed)

    return edge.through(run, b, conjugate)


class SolverPlan(Plan):
    """A planned linear system: call it, `x = plan(values, b)`. Made by `plan`; immutable.

    A pytree whose leaves are the pattern and what goes with it: pass it to a jitted function as an
    argument. Closed over, the leaves become constants of the program. They are the spec's own, and
    nobody else's: arrays that were computed from them, as `jax.tree.map` over a factor makes, are
    put back to what they were. Only a program that edits a pattern itself gets an error, or, of its
    derivatives, nothing that can be relied on.

    Two plans of one structure share a plan without leaves, `static[1]`, which is what is compared,
    hashed and compiled for.
    """

    where: ClassVar[str] = WHERE
    spec_type: ClassVar[Any] = SolverSpec
    operation: ClassVar[Any] = staticmethod(solved)
    targets: ClassVar[tuple[str, ...]] = ("nvstate_cudss_v1", "nvstate_pardiso_v1")
    default_choices: ClassVar[Any] = ()
    array_fields: ClassVar[frozenset[str]] = frozenset({"arrays"})
    spec: SolverSpec

    _bare: SolverPlan | None = None  # the plan without leaves; None: this is it
    _sharding: Any = None  # of the leaves, where the placement alone does not say it

    # As data

    @classmethod
    def chosen(
        cls, spec: Any, types: tuple[OperandType, ...], where: Placement | None, choices: Any
    ) -> Self:
        """The plan without leaves, with what was measured for this problem and stored.

        Never with what changes results, such as `on_stale`: only `plan()` says that.
        """
        found = dict(stored.choices(cls, spec, types, where, cls.default_choices))
        return cls.of(spec, types, where, choices_.with_measured(choices, found))

    def with_host(self, host: Leaves, sharding: Any = None) -> Self:
        """The one plan of this structure with these arrays, of which its digests are."""
        bare = self.static[1]
        kept = choices_.stored(self.choices)
        if kept is not None:
            host = host._replace(permutation=kept)
        with _interning:
            plan = bare._known.get(sharding)
            if plan is None:
                plan = bare._known[sharding] = bare._copy(host=host, _sharding=sharding)
        return plan

    def with_leaves(self, leaves: tuple[Any, ...]) -> Self:
        """The plan with these leaves: the one that `plan` made, if they stand for its own.

        So an edit of them, which would be another matrix than the spec's, is undone.
        """
        bare = self.static[1]
        known = [p for p in tuple(bare._known.values()) if p.__dict__.get("_leaves")]
        for same in (operator.is_, _stands_for):
            for plan in known:
                if all(map(same, leaves, plan.__dict__["_leaves"])):
                    return plan
        return bare._copy(_leaves=Leaves(*leaves))

    def with_choices(self, **said: Any) -> Self:
        """The plan of the same problem with these choices in place of its own."""
        options = {**choices_.options(self.choices), **said}
        bare = self.of(self.spec, self.types, self.placement, choices_.pinned(**options))
        host = self.host
        if not options["stored_permutation"] and not self.spec.permutation:
            host = host._replace(permutation=patterns.NONE)
        return bare.with_host(host, self._sharding)

    def unpinned(self) -> Self:
        """The plan without what was measured, for a place where that may not hold."""
        return self.with_choices(**choices_.unmeasured(self.choices))

    @functools.cached_property
    def _known(self) -> weakref.WeakValueDictionary[Any, Self]:
        """Of a plan without leaves: those that were made with some, by their sharding."""
        return weakref.WeakValueDictionary()

    def _copy(self, **attributes: Any) -> Self:
        plan = type(self)(self.spec, self.types, self.placement, self.choices)
        plan.__dict__.update(_bare=self, digest=self.digest, **attributes)
        return plan

    def fields(self) -> dict[str, Any]:
        """The plan as dictionaries, lists, strings and numbers."""
        return {**self.static_fields(), "arrays": arrays.written(self.spec, self.host)}

    def with_arrays(self, fields: dict[str, Any]) -> Self:
        """The one plan with these arrays, from a file."""
        return self.with_host(arrays.read(self.spec, fields["arrays"]))

    @classmethod
    def validate(cls, spec: SolverSpec, types: tuple[OperandType, ...], choices: Any) -> None:
        """Raise unless these, read from a file, make a plan."""
        if types != spec.types:
            raise ValueError(f"{', '.join(map(str, types))} are no operands of {spec}")
        choices_.validate(spec, choices)

    # As a pytree

    @property
    def static(self) -> tuple[int, Self]:
        """The digest and the plan without leaves."""
        return self.digest, self._bare or self  # pyright: ignore[reportReturnType]

    def __reduce__(self) -> Any:
        batch = np.shape(self.leaves.indptr)[:-1]  # of what came out of `vmap`: all alike
        if not batch:
            return super().__reduce__()
        one = tuple(x[(0,) * len(batch)] for x in self.host)
        return _of_a_batch, (self.static[1]._copy(_leaves=Leaves(*one)), batch)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SolverPlan) and self.static[1] is other.static[1]

    def __hash__(self) -> int:
        return self.digest

    @property
    def memory(self) -> dict[str, Any]:
        """Where what was compiled and accepted is kept: with the plan without leaves."""
        return (self._bare or self).__dict__

    @property
    def _compiled(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.memory.get("_compiled")

    @property
    def _accepted(self) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.memory.get("_accepted", ())

    @property
    def _avals(self) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.memory.get("_avals", ())

    @property
    def leaves(self) -> Leaves:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The arrays, on the plan's device; replicated, if its operands are on several.

        On the process's first device they are not committed to it, so that a program whose other
        arguments are on several devices may take them there.

        A program that they were donated to, as with a factor, has deleted them: then they are put
        there again.
        """
        leaves = self.__dict__.get("_leaves")
        if leaves is None or ("host" in self.__dict__ and any(x.is_deleted() for x in leaves)):
            with jax.ensure_compile_time_eval():
                leaves = _put(self.host, self._sharding or _home(self.placement))
            self.__dict__["_leaves"] = leaves
        return leaves

    @functools.cached_property
    def host(self) -> Leaves:
        """The arrays on the host."""
        return Leaves(*map(np.asarray, jax.device_get(tuple(self.leaves))))

    # Operands

    def check(self, values: tuple[Any, ...], new: Iterable[str] | None = None) -> None:
        """Raise `OperandError` unless these values, of which those named are new, fit."""
        self.require_leaves()
        operands.require_values(self.spec.nnz, self.spec.dtype, values[0])
        operands.require_b(self.spec.n, self.spec.dtype, values[1])
        super().check(values, new)

    def _passed(self, values: tuple[Any, ...]) -> bool:
        self.require_leaves()
        return super()._passed(values)

    def require_leaves(self) -> None:
        """Raise `OperandError` unless the leaves have the shapes and types of a plan's."""
        if "host" in self.__dict__:  # they are its own
            return
        wanted = OperandType((self.spec.nnz,), "int32")
        got = aval.type_of(self.leaves.indices)
        if got == wanted:
            return
        if got.shape != wanted.shape and got.shape[-1:] == wanted.shape:
            batch = list(got.shape[:-1])
            raise operand_error(
                "the leaves of this plan have a batch, as what comes out of `vmap` has",
                f"`indices` {wanted}",
                f"{got}, batch {batch}",
                "Map it: `jax.vmap(nvs.direct_solver.solve)(factors, b)`. Where a plan alone is "
                "wanted, take the one that `plan` returned.",
            )
        raise operand_error(
            "the leaves of this plan were computed with",
            f"`indices` {wanted}",
            str(got),
            "Leave the plan as it is, and change a factor's values alone: "
            "`dataclasses.replace(factor, values=values)`.",
        )

    def values_of(self, A: Any) -> Any:
        """The values of a matrix in the order that this plan takes them.

        Args:
            A: [n, n] with the pattern of this plan, in any format that stores rows as it does; its
                values may be tracers.

        Returns:
            values [nnz], of A's package; A's own array unless its entries come in another order.

        Raises:
            OperandError: another pattern; the first row that differs is named.
            SpecError: no sparse matrix with concrete indices.

        Example:
            >>> import scipy.sparse as sp
            >>> A = sp.eye_array(3, format="csr")
            >>> nvs.direct_solver.plan(A).values_of(2 * A)
            array([2., 2., 2.])
        """
        self.require_leaves()
        if any(map(aval.is_traced, self.leaves)):
            raise operand_error(
                "`values_of` inside a transformation, of a plan that is its argument",
                "a plan whose pattern is known",
                "a plan whose pattern is traced",
                "Call `plan.values_of(A)` outside, or pass `A.data`.",
            )
        return patterns.values_of(self.spec.storage, self.host, A)

    def absent(self, name: str) -> str | None:
        """What to do about an operand that this plan has not."""
        return "Pass `values=plan.values_of(A)`." if name == "A" else None

    def of_jax(self, name: str) -> str:
        """What to plan with, instead of a matrix with NumPy's values, for JAX's arrays."""
        return "`(A.indptr, A.indices, jax.numpy.asarray(A.data))`"

    def arguments(self, rank: int) -> str:
        """What to type between the parentheses of `plan()` for other operands."""
        return report.arguments(self)

    # The engine

    @property
    def platform(self) -> str:
        """Where it runs: where it was planned for, or the default platform."""
        platform = self.placement.platform if self.placement else jax.default_backend()
        return "cuda" if platform == "gpu" else platform

    @property
    def backend(self) -> Literal["cudss", "pardiso", "superlu"]:
        """What runs where the plan was made for; for abstract types, on the default device."""
        return engines.backend(self.platform, self.choices)  # pyright: ignore[reportReturnType]

    @property
    def info(self) -> Analysis:
        """What the engine's analysis found; analyses if that was not done yet, or was dropped."""
        return analysis.of(self)

    @classmethod
    def samples(cls) -> list[Sample]:
        """What `python -m nvstate` solves."""
        from nvstate.direct_solver import selftest  # which plans

        return selftest.samples()

    @classmethod
    def libraries(cls, platform: str) -> dict[str, str]:
        """Versions of the engines of this platform."""
        return analysis.versions(platform)

    def drop(self) -> None:
        """Drop what was compiled for eager calls and phases, and what is known of the analysis."""
        self.memory.pop(analysis.FACTS, None)
        phases.drop(self)
        super().drop()

    def storable(self) -> Self:
        """This plan with the reordering that its analysis found."""
        return analysis.kept(self)

    def candidates(self, platform: str) -> Sequence[Self]:
        """This plan, and those with another reordering or other options of its engine."""
        return tuning.candidates(self)  # pyright: ignore[reportReturnType]

    # For people

    def describe(self) -> str:
        """Say what will run: the system, the engine, what its analysis found, and every copy.

        Example:
            >>> import scipy.sparse as sp
            >>> plan = nvs.direct_solver.plan(sp.eye_array(3, format="csr"), matrix_type="spd")
            >>> print(plan.describe().splitlines()[0])
            system     A float64[3,3] with 3 entries, spd, csr, full view, on cpu (numpy)
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
        return f"<table><caption>SolverPlan</caption>{cells}</table>"


def _stands_for(x: Any, own: Any) -> bool:
    """Whether an array is where one of a plan's leaves is, and as large, whatever is in it."""
    return (
        isinstance(x, jax.Array)
        and not aval.is_traced(x)
        and x.shape == own.shape
        and x.sharding == own.sharding
    )


def _of_a_batch(plan: SolverPlan, batch: tuple[int, ...]) -> SolverPlan:
    """The plan as it comes out of `vmap`."""
    return plan.with_leaves(tuple(jnp.broadcast_to(x, (*batch, *x.shape)) for x in plan.leaves))


def _put(host: Leaves, there: Any) -> Leaves:
    first = jax.local_devices()[0]
    if there == jax.sharding.SingleDeviceSharding(first):
        with jax.default_device(first):  # whatever it is where this is called
            return Leaves(*jax.device_put(tuple(host)))
    return Leaves(*jax.device_put(tuple(host), there))


def _home(where: Placement | None) -> Any:
    """Where the leaves of a plan with this placement go; None: on the default device."""
    if where is None:
        return None
    if len(where.devices) == 1:
        return jax.sharding.SingleDeviceSharding(placement.device(WHERE, where))
    each = [dataclasses.replace(where, devices=(name,)) for name in where.devices]
    devices = np.array([placement.device(WHERE, one) for one in each])
    return jax.NamedSharding(jax.sharding.Mesh(devices, ("devices",)), jax.P())
