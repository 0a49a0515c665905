"""Where a plan's operands live: whose arrays, on which devices, in which memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from nvstate._core import aval
from nvstate._core.aval import Device


@dataclasses.dataclass(frozen=True, slots=True)
class Placement:
    """Package, devices and memory kind of the arrays that a plan takes and returns."""

    package: aval.Package
    devices: tuple[str, ...]
    memory_kind: str | None = None  # None: the devices' default memory

    def __str__(self) -> str:
        """For example `cuda:0`, `cuda:0 (pinned_host)`, `numpy on cpu:0`."""
        where = ",".join(self.devices)
        kind = f" ({self.memory_kind})" if self.memory_kind else ""
        return f"{where}{kind}" + (" (numpy)" if self.package == "numpy" else "")

    @property
    def platform(self) -> str:
        """`"cpu"`, `"cuda"`, or what JAX calls the devices' platform."""
        return self.devices[0].split(":")[0]


def of(x: Any) -> Placement | None:
    """The placement of a concrete array; None for tracers and abstract types."""
    package = aval.package_of(x)
    return None if package is None else on(None if package == "numpy" else x.sharding)


def on(sharding: jax.sharding.Sharding | None) -> Placement:
    """The placement of JAX arrays with this sharding; for None, of NumPy's."""
    if sharding is None:
        return Placement("numpy", ("cpu:0",))
    devices = sorted(sharding.device_set, key=lambda d: d.id)
    kind = sharding.memory_kind
    if kind == devices[0].default_memory().kind:
        kind = None
    return Placement("jax", tuple(map(name, devices)), kind)


def name(device: Device) -> str:
    """A device as users write it: `cuda:0`, `cpu:0`."""
    platform = "cuda" if device.platform == "gpu" else device.platform
    return f"{platform}:{device.id}"


def at(operand: aval.OperandType, where: Placement | None) -> str:
    """A type and its place, for messages."""
    return f"{operand} on {where}" if where else str(operand)


def way_to(where: Placement) -> str:
    """What to type to bring an operand there."""
    first, *others = where.devices
    if others or where.memory_kind:
        return f"to {where} with `jax.device_put`"
    platform, ordinal = first.split(":")
    return f'with `jax.device_put(x, jax.devices("{platform}")[{ordinal}])`'


def is_same(expected: Placement, got: Placement) -> bool:
    """Whether devices and memory agree; packages are compared before."""
    return expected.devices == got.devices and expected.memory_kind == got.memory_kind
