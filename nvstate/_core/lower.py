"""Calls of native targets: layouts instead of transposes, hidden results, sharding by batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
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
    _native.register()
    (operand,), (result,) = ctx.avals_in, ctx.avals_out
    if not all(isinstance(n, int) for n in operand.shape):
        raise errors.UnsupportedError(
            errors.message(
                call.where,
                "an operand of unknown extents",
                expected="integers: the native plan and its workspace are made for them",
                got=str(operand),
                do="Export for CUDA once per shape, or export for CPU alone.",
            )
        )
    rank, dims = len(operand.shape), tuple(range(len(operand.shape)))
    start, before = log.now(), _native.cache_info()
    nbytes = call.workspace(call, operand, result, local_device(ctx))
    after = _native.cache_info()
    if after["made"] > before["made"]:
        taken = after["bytes"] - before["bytes"]
        log.info("native plan", f"{call.target}, {operand} -> {result}", start, taken)
        scopes.trim()
    log.debug("call", call.target, operand, result, f"workspace {nbytes}", *call.attributes)
    # The hidden results have the batch axes too: the partitioner splits what has them all.
    shape = (*[1] * call.batch, nbytes + ALIGNMENT)
    # None at all if none is needed: XLA allocates temporaries in each execution.
    workspace = [jax.core.ShapedArray(shape, np.dtype(np.uint8))] if nbytes else []
    scratch = [operand] if call.destroys else []
    hidden = [*scratch, *workspace]
    types = [compat.tensor_type(a) for a in (result, *hidden)]

    whole = dims[call.batch :]
    left, right, gathered = factors(rank, whole)
    ones = " ".join([*(f"o{i}" for i in range(call.batch)), "bytes"])
    outputs = ", ".join([right, *[left for _ in scratch], *[ones for _ in workspace]])
    physical = layout(call.order)[::-1]  # from the fastest axis to the slowest
    rule = jax.ffi.ffi_lowering(
        call.target,
        operand_layouts=[physical],
        result_layouts=[physical] * (1 + len(scratch))
        + [tuple(range(call.batch, -1, -1)) for _ in workspace],
        operand_output_aliases={0: 1} if call.destroys else {0: 0} if call.inplace else None,
        extra_attributes={
            "mhlo.frontend_attributes": mlir.ir_attribute({"num_batch_dims": str(call.batch)}),
            "sdy.sharding_rule": compat.sharding_rule(
                f"{left} -> {outputs}", gathered, [x.type], types
            ),
        },
    )
    attributes = {
        k: np.array(v, np.int64) if isinstance(v, tuple) else v for k, v in call.attributes
    }
    return rule(ctx.replace(avals_out=[result, *hidden]), x, **attributes)[:1]


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
