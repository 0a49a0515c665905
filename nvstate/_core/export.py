"""Programs that leave the process: plans and bindings inside them, and the targets they call."""

from __future__ import annotations

import json
from typing import Any

import jax

from nvstate import _native
from nvstate._core import stored
from nvstate._core.plan import Plan, plan_types
from nvstate._core.verbs import Bound


def _written(aux: tuple[int, Plan]) -> bytes:
    _, plan = aux
    return json.dumps([plan.serialized_name(), plan.to_static()]).encode()


def _read(data: bytes | bytearray) -> tuple[int, Plan]:
    name, text = json.loads(bytes(data))
    if name not in plan_types:
        stored.refuse(
            "a binding of an unknown operation",
            ", ".join(plan_types),
            name,
            "Import what defines it, upgrade nvstate, or export the program again.",
        )
    return plan_types[name].from_static(text).static


jax.export.register_pytree_node_serialization(
    Bound,
    serialized_name="nvstate.Bound",
    serialize_auxdata=_written,
    deserialize_auxdata=_read,
)


def disabled_checks() -> list[Any]:
    """Say to `jax.export` that programs may call nvstate's targets.

    Returns:
        One `DisabledSafetyCheck` for each target of each operation.

    Example:
        >>> x = jnp.ones((2, 8), "complex64")
        >>> function = jax.jit(nvs.fft.plan(x, axes=(1,)))
        >>> exported = jax.export.export(function, disabled_checks=nvs.disabled_checks())(x)
        >>> exported.call(x).shape
        (2, 8)
    """
    targets = sorted({target for plan in plan_types.values() for target in plan.targets})
    return [jax.export.DisabledSafetyCheck.custom_call(target) for target in targets]


def register() -> None:
    """Register nvstate's targets with XLA, as the first compilation does by itself.

    For a process that compiles nothing and runs exported programs, on CUDA or on CPUs. Calling it
    again is harmless; it touches no device. It opens MKL if that is installed.

    Raises:
        LibraryError: the native library is missing, or newer than this jaxlib.

    Example:
        >>> nvs.register()
    """
    _native.register()
    _native.register_cpu()
