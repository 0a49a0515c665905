"""The names of JAX that are private or may move, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax._src import core, dispatch, mesh
from jax._src.array import ArrayImpl
from jax._src.custom_partitioning_sharding_rule import (
    sdy_sharding_rule_to_mlir,
    str_to_sdy_sharding_rule,
)
from jax.interpreters import mlir

__all__ = [
    "ArrayImpl",
    "apply",
    "device_count",
    "devices",
    "guards_transfers",
    "has_mesh",
    "is_exporting",
    "is_jit_disabled",
    "is_manual",
    "is_partly_manual",
    "is_tracing",
    "looks_for_nans",
    "name_custom_partitioning",
    "python_callback",
    "sharding_rule",
    "tensor_type",
    "varying_alike",
    "wants_devices",
]


def sharding_rule(
    rule: str, whole: tuple[str, ...], operands: list[Any], results: list[Any]
) -> Any:
    """A Shardy rule as an attribute; the factors named in `whole` are gathered, not split."""
    parsed = str_to_sdy_sharding_rule(rule, need_replication_factors=whole)
    return sdy_sharding_rule_to_mlir(parsed, operands, results)


def varying_alike(*operands: Any) -> Any:
    """The operands, each varying over the manual axes over which any of them does."""
    return core.auto_insert_reshard(*operands)


def tensor_type(x: Any) -> Any:
    """The MLIR type of an array with the shape and dtype of `x`."""
    return mlir.ir.RankedTensorType.get(x.shape, mlir.dtype_to_ir_type(x.dtype))


def wants_devices(primitive: Any) -> None:
    """Have JAX tell a primitive's lowering which devices it is for."""
    dispatch.prim_requires_devices_during_lowering.add(primitive)


def is_exporting(ctx: Any) -> bool:
    """Whether a lowering is for `jax.export`, so must not name anything of this process."""
    return ctx.module_context.lowering_parameters.for_export


def apply(primitive: Any, *operands: Any, **parameters: Any) -> Any:
    """Run a primitive by itself, compiled and kept by JAX."""
    return dispatch.apply_primitive(primitive, *operands, **parameters)


def looks_for_nans() -> bool:
    """Whether JAX looks at each result for NaN or infinity."""
    config: Any = jax.config
    return config.jax_debug_nans or config.jax_debug_infs


def has_mesh() -> bool:
    """Whether `jax.set_mesh` has set one for this thread."""
    return not mesh.get_concrete_mesh().empty


def guards_transfers() -> bool:
    """Whether this thread's transfers between host and devices are logged or forbidden."""
    config: Any = jax.config
    guards = (config.jax_transfer_guard_host_to_device, config.jax_transfer_guard_device_to_host)
    return any(guard not in (None, "allow") for guard in guards)


def is_jit_disabled() -> bool:
    """Whether jitted functions run as they are written."""
    config: Any = jax.config
    return config.jax_disable_jit


def is_tracing() -> bool:
    """Whether a JAX transformation is under way in this thread."""
    return not core.trace_ctx.is_top_level()


def device_count(ctx: Any) -> int:
    """How many devices a lowering is for."""
    context = ctx.module_context.axis_context
    return context.num_devices if hasattr(context, "num_devices") else context.mesh.size


def name_custom_partitioning(results: Any, name: str) -> None:
    """Write into a program what a call that partitions itself is.

    Of its own it has but the address of a Python object. A compilation cache would take it for
    another's that lay there before.
    """
    value = results[0]
    operation: Any = (value if hasattr(value, "owner") else value[0]).owner
    said = mlir.ir_attribute({"nvstate": name})
    getattr(operation, "opview", operation).attributes["mhlo.frontend_attributes"] = said


def python_callback(ctx: Any, function: Any, operands: Any) -> Any:
    """Lower a call of a function of NumPy's arrays on the host, without side effects.

    Not in a part of a custom partitioning: JAX drops the functions that such a part calls, and the
    process dies.
    """
    results, _, _ = mlir.emit_python_callback(
        ctx,
        function,
        None,
        list(operands),
        ctx.avals_in,
        ctx.avals_out,
        has_side_effect=False,
        returns_token=False,
    )
    return results


def is_manual(ctx: Any) -> bool:
    """Whether a lowering is inside a `shard_map`."""
    return bool(getattr(ctx.module_context.axis_context, "manual_axes", ()))


def is_partly_manual(ctx: Any) -> bool:
    """Whether a lowering is inside a `shard_map` that leaves some axes of its mesh to JAX."""
    context = ctx.module_context.axis_context
    manual = getattr(context, "manual_axes", frozenset())
    return bool(manual) and set(manual) != set(context.mesh.axis_names)


def devices(ctx: Any) -> Sequence[Any] | None:
    """The devices that a lowering is for; None if they are not known yet."""
    context = ctx.module_context.axis_context
    if hasattr(context, "num_devices"):
        return context.device_assignment
    return tuple(context.mesh.devices.flat)
