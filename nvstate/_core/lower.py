"""Calls of native targets: layouts instead of transposes, hidden results, sharding by batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import mlir

from nvstate import _native, errors
from nvstate._core import compat, log, placement, scopes

ALIGNMENT = 256  # of the workspace inside its buffer, by the handler


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a native target on one operand; hashable, a parameter of the primitive below.

    Attributes:
        target: the FFI target's name.
        where: the public module, for errors.
        attributes: what C++ decodes, sorted (name, value) pairs.
        order: the operand's axes as the target sees them: batch first, then the axes that must be
            whole. The buffer stays as it lies: the order becomes a layout, which XLA sees as a
            bitcast.
        batch: how many of `order` are batch axes.
        shape: of the result, in the user's order of axes.
        dtype: of the result.
        inplace: the result shares the operand's memory.
        destroys: the target may overwrite its operand, so gets a copy if that is still needed.
        workspace: (call, operand, result, device) -> bytes, 0 if none will be needed; a module's
            function, for equality. The device is None where the program is not for one GPU of
            this process.
    """

    target: str
    where: str
    attributes: tuple[tuple[str, Any], ...]
    order: tuple[int, ...]
    batch: int
    shape: tuple[int, ...]
    dtype: str
    inplace: bool
    destroys: bool
    workspace: Callable[[Call, Any, Any, int | None], int]


def call(x: Any, call: Call) -> Any:
    """Call a native target on `x`, in the order of axes that the user has."""
    order = call.order
    y = _call.bind(jax.lax.transpose(x, order), call=call)
    return jax.lax.transpose(y, tuple(np.argsort(order).tolist()))


def layout(order: tuple[int, ...]) -> tuple[int, ...]:
    """Of the axes in `order`, from the slowest in memory to the fastest, if none has moved."""
    return tuple(np.argsort(order).tolist())


def local_device(ctx: Any) -> int | None:
    """The CUDA ordinal of the one GPU a program is lowered for, if that GPU is here."""
    devices = compat.devices(ctx) or ()
    if len(devices) != 1 or compat.is_exporting(ctx):
        return None
    here = placement.local_devices("cuda")
    return next((d.local_hardware_id for d in here if d is devices[0]), None)


def factors(rank: int, whole: tuple[int, ...]) -> tuple[str, str, tuple[str, ...]]:
    """Shardy's factors of an operand and a result of equal rank, and those to keep whole.

    An axis of `whole` may differ in extent between the two, so each side has its own factor.
    """
    left = [f"d{i}" for i in range(rank)]
    right = [f"r{i}" if i in whole else name for i, name in enumerate(left)]
    # Shardy wants them in the order of appearance.
    gathered = tuple(side[i] for side in (left, right) for i in sorted(whole))
    return " ".join(left), " ".join(right), gathered


_call = Primitive("nvstate_call")


@_call.def_abstract_eval
def _result_type(x: Any, *, call: Call) -> Any:
    return x.update(
        shape=tuple(call.shape[i] for i in call.order), dtype=np.dtype(call.dtype), weak_type=False
    )


def _lower(ctx: Any, x: Any, *, call: Call) -> Any:
    (operand,), (result,) = ctx.avals_in, ctx.avals_out
    nbytes = _planned(ctx, call, call.workspace, operand, result)
    rank, dims = len(operand.shape), tuple(range(len(operand.shape)))
    scratch = [operand] if call.destroys else []
    whole = dims[call.batch :]
    left, right, gathered = factors(rank, whole)
    return emitted(
        ctx,
        (x,),
        call.target,
        call.attributes,
        batch=call.batch,
        layouts=[layout(call.order)],
        result_layouts=[layout(call.order)] * (1 + len(scratch)),
        rule=(f"{left}", [right, *[left for _ in scratch]], gathered),
        aliases={0: 1} if call.destroys else {0: 0} if call.inplace else None,
        hidden=scratch,
        nbytes=nbytes,
    )


def _planned(ctx: Any, call: Any, plan: Callable[..., Any], operands: Any, results: Any) -> Any:
    """What a call's own function says, for operands of known extents; it may plan natively."""
    _native.register()
    several = operands if isinstance(operands, tuple) else (operands,)
    if not all(isinstance(n, int) for operand in several for n in operand.shape):
        raise errors.UnsupportedError(
            errors.message(
                call.where,
                "an operand of unknown extents",
                expected="integers: the native plan and its workspace are made for them",
                got=", ".join(map(str, several)),
                do="Export for CUDA once per shape, or export for CPU alone.",
            )
        )
    start, before = log.now(), _native.cache_info()
    made = plan(call, operands, results, local_device(ctx))
    after = _native.cache_info()
    if after["made"] > before["made"]:
        taken = after["bytes"] - before["bytes"]
        log.info("native plan", f"{call.target}, {operands} -> {results}", start, taken)
        scopes.trim()
    log.debug("call", call.target, operands, results, f"workspace {made}", *call.attributes)
    return made


def emitted(
    ctx: Any,
    operands: Sequence[Any],
    target: str,
    attributes: tuple[tuple[str, Any], ...],
    *,
    batch: int,
    layouts: Sequence[tuple[int, ...]],
    result_layouts: Sequence[tuple[int, ...]],
    rule: tuple[str, Sequence[str], tuple[str, ...]],
    aliases: dict[int, int] | None,
    hidden: Sequence[Any],
    nbytes: int,
) -> Any:
    """Emit the call of a target, with hidden results and the workspace after those of `ctx`.

    Args:
        ctx: of the lowering.
        operands: values of MLIR.
        target: the FFI target's name.
        attributes: what C++ decodes; tuples become arrays, of float64 if they hold a float, and
            bytes arrays of uint64.
        batch: how many leading axes of each operand and result are batch axes.
        layouts: of the operands, axes from major to minor.
        result_layouts: of the results and of `hidden`.
        rule: Shardy's factors of the operands, of each result, and those to keep whole.
        aliases: results that take an operand's memory.
        hidden: types of further results, which are dropped.
        nbytes: of the workspace; 0: none at all, since XLA allocates temporaries in each execution.
    """
    # The hidden results have the batch axes too: the partitioner splits what has them all.
    shape = (*[1] * batch, nbytes + ALIGNMENT)
    workspace = [jax.core.ShapedArray(shape, np.dtype(np.uint8))] if nbytes else []
    results = [*ctx.avals_out, *hidden, *workspace]
    left, right, gathered = rule
    ones = " ".join([*(f"o{i}" for i in range(batch)), "bytes"])
    outputs = ", ".join([*right, *[ones for _ in workspace]])
    lowering = jax.ffi.ffi_lowering(
        target,
        operand_layouts=[order[::-1] for order in layouts],  # from the fastest axis to the slowest
        result_layouts=[order[::-1] for order in result_layouts]
        + [tuple(range(batch, -1, -1)) for _ in workspace],
        operand_output_aliases=aliases,
        extra_attributes={
            "mhlo.frontend_attributes": mlir.ir_attribute({"num_batch_dims": str(batch)}),
            "sdy.sharding_rule": compat.sharding_rule(
                f"{left} -> {outputs}",
                gathered,
                [x.type for x in operands],
                [compat.tensor_type(a) for a in results],
            ),
        },
    )
    said = {name: attribute(value) for name, value in attributes}
    return lowering(ctx.replace(avals_out=results), *operands, **said)[: len(ctx.avals_out)]


def attributes_of(call: Several) -> dict[str, Any]:
    """The attributes of a call as C++ gets them."""
    return {name: attribute(value) for name, value in call.attributes}


def attribute(value: Any) -> Any:
    """An attribute as JAX takes it: tuples as arrays, of float64 if they hold a float."""
    if isinstance(value, bytes):
        return np.frombuffer(value, np.uint64)
    if isinstance(value, tuple):
        return np.array(value, np.float64 if any(type(v) is float for v in value) else np.int64)  # pyright: ignore[reportUnknownVariableType]
    return value


compat.wants_devices(_call)
mlir.register_lowering(_call, _lower, platform="cuda")


def calls(function: Callable[[Any], Any], operand: Any) -> list[tuple[Call, Any, Any]]:
    """The native calls that `function` makes of an operand of this type, with their own types."""
    traced = jax.make_jaxpr(function)(operand)
    return [
        (equation.params["call"], equation.invars[0].aval, equation.outvars[0].aval)
        for equation in traced.jaxpr.eqns
        if equation.primitive is _call
    ]


Settled = tuple[int, tuple[tuple[str, Any], ...]]


@dataclasses.dataclass(frozen=True)
class Several:
    """One call of a native target on several operands; hashable, a parameter of a primitive.

    Attributes:
        target: the FFI target's name.
        where: the public module, for errors.
        attributes: what C++ decodes, (name, value) pairs.
        batch: how many leading axes of each operand and result are batch axes.
        layouts: of each operand, its axes from major to minor: a transposition is a bitcast.
        factors: of each operand, Shardy's names of its axes.
        results: (shape, dtype) of each result.
        result_factors: of each result, the names of its axes.
        whole: factors that must not be split.
        aliases: (operand, result) pairs that share memory.
        settle: (call, operands, results, device) -> bytes of workspace, as for `Call`, and the
            attributes with what was chosen for this device.
        hints: what `settle` needs to know and C++ does not.
    """

    target: str
    where: str
    attributes: tuple[tuple[str, Any], ...]
    batch: int
    layouts: tuple[tuple[int, ...], ...]
    factors: tuple[tuple[str, ...], ...]
    results: tuple[tuple[tuple[int, ...], str], ...]
    result_factors: tuple[tuple[str, ...], ...]
    whole: tuple[str, ...]
    aliases: tuple[tuple[int, int], ...]
    settle: Callable[[Several, tuple[Any, ...], tuple[Any, ...], int | None], Settled]
    hints: tuple[tuple[str, Any], ...] = ()


def call_several(operands: Sequence[Any], call: Several) -> list[Any]:
    """Call a native target on operands in the target's own order of axes."""
    return _several.bind(*operands, call=call)


_several = Primitive("nvstate_calls")
_several.multiple_results = True


@_several.def_abstract_eval
def _result_types(*operands: Any, call: Several) -> Any:
    first = operands[0]
    return [
        first.update(
            shape=shape,
            dtype=np.dtype(dtype),
            weak_type=False,
            sharding=first.sharding.update(spec=jax.P(*[None] * len(shape))),
        )
        for shape, dtype in call.results
    ]


def _lower_several(ctx: Any, *operands: Any, call: Several) -> Any:
    types = tuple(ctx.avals_in), tuple(ctx.avals_out)
    nbytes, attributes = _planned(ctx, call, call.settle, *types)
    order = {f: None for axes in (*call.factors, *call.result_factors) for f in axes}
    return emitted(
        ctx,
        operands,
        call.target,
        attributes,
        batch=call.batch,
        layouts=call.layouts,
        result_layouts=[tuple(range(len(shape))) for shape, _ in call.results],
        rule=(
            ", ".join(" ".join(axes) for axes in call.factors),
            [" ".join(axes) for axes in call.result_factors],
            tuple(f for f in order if f in call.whole),  # in the order of appearance
        ),
        aliases=dict(call.aliases) or None,
        hidden=[],
        nbytes=nbytes,
    )


compat.wants_devices(_several)
mlir.register_lowering(_several, _lower_several, platform="cuda")


def several_calls(function: Callable[..., Any], *operands: Any) -> list[tuple[Several, Any, Any]]:
    """The calls that `function` makes of operands of these types, with their own types."""
    traced = jax.make_jaxpr(function)(*operands)
    return [
        (
            equation.params["call"],
            tuple(v.aval for v in equation.invars),
            tuple(v.aval for v in equation.outvars),
        )
        for equation in traced.jaxpr.eqns
        if equation.primitive is _several
    ]
