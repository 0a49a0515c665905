"""Where a plan's operands live: whose arrays, on which devices, in which memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax

from nvstate import errors
from nvstate._core import aval
from nvstate._core.aval import Device

Execution = Literal["cpu", "cuda"]  # or a jax.Device


@dataclasses.dataclass(frozen=True, slots=True)
class Placement:
    """Package, devices and memory kind of the arrays that a plan takes and returns.

    NumPy's arrays are in the host's memory; `devices` is then where they are computed with: `cpu`,
    the first CPU of the process, if nothing else was said.
    """

    package: aval.Package
    devices: tuple[str, ...]
    memory_kind: str | None = None  # None: the devices' default memory

    def __str__(self) -> str:
        """For example `cuda:0`, `cuda:0 (pinned_host)`, `cpu (numpy)`."""
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
        return Placement("numpy", ("cpu",))
    devices = sorted(sharding.device_set, key=lambda d: d.id)
    kind = sharding.memory_kind
    if kind == devices[0].default_memory().kind:
        kind = None
    return Placement("jax", tuple(map(name, devices)), kind)


def shared(
    where: str,
    places: Mapping[str, Placement | None],
    execution: Execution | Device | None = None,
) -> Placement | None:
    """The one placement of a plan made from operands that live in these places.

    Args:
        where: the public module, for errors.
        places: by name of the operand; None for tracers and abstract types.
        execution: where NumPy's arrays are computed with; None: on the CPU.

    Returns:
        The placement; None if no operand is concrete.

    Raises:
        OperandError: operands of several packages, devices or memory spaces.
        SpecError: `execution` of other operands than NumPy's, or not one of its choices.
        UnsupportedError: no such device in this process.
    """
    found = {name: place for name, place in places.items() if place is not None}
    if len(set(found.values())) > 1:
        raise errors.OperandError(
            errors.message(
                where,
                "operands that live in different places",
                expected="one package, one device, one memory",
                got=", ".join(f"`{name}` on {place}" for name, place in found.items()),
                do="Move them together with `jax.device_put` first.",
            )
        )
    place = next(iter(found.values()), None)
    if execution is None:
        return place
    if place is None or place.package != "numpy" or len(found) < len(places):
        kinds = ", ".join(
            f"`{name}` {'on ' + str(p) if p else 'of no place'}" for name, p in places.items()
        )
        raise errors.SpecError(
            errors.message(
                where,
                "`execution` is about NumPy operands",
                expected="every operand a numpy.ndarray",
                got=kinds,
                do="Leave `execution` out: a plan runs where its operand is. "
                "Move the operand with `jax.device_put(x, device)`.",
            )
        )
    if execution == "cpu":
        return place
    return Placement("numpy", (name(_chosen(where, execution)),))


def _chosen(where: str, execution: Any) -> Device:
    if isinstance(execution, jax.Device):
        if execution in local_devices(execution.platform):
            return execution
        raise _absent(where, name(execution))
    if execution not in ("cpu", "cuda"):
        raise errors.SpecError(
            errors.message(
                where,
                "unknown `execution`",
                expected='"cpu", "cuda" or a jax.Device',
                got=repr(execution),
                do="Pass one of them.",
            )
        )
    if found := local_devices(execution):
        return found[0]
    raise _absent(where, execution)


def device(where: str, place: Placement) -> Device:
    """The device of this process where NumPy's arrays of this placement are computed with.

    Raises:
        UnsupportedError: it is not here, or no longer.
    """
    wanted = place.devices[0]
    for found in local_devices(place.platform):
        if wanted in (place.platform, name(found)):  # without a number: the first
            return found
    raise _absent(where, wanted)


def local_devices(platform: str) -> list[Device]:
    """The devices of this process and platform; none if JAX has no such platform."""
    try:
        return jax.local_devices(backend=platform)
    except RuntimeError:  # JAX's word for a platform that is not there
        return []


def _absent(where: str, wanted: str) -> errors.UnsupportedError:
    here = [name(d) for platform in ("cpu", "cuda") for d in local_devices(platform)]
    return errors.UnsupportedError(
        errors.message(
            where,
            f"no device {wanted} in this process",
            expected=wanted,
            got=", ".join(here),
            do="Plan again for a device that is here. `python -m nvstate` says what is, and what "
            "CUDA would need.",
        )
    )


def name(device: Device) -> str:
    """A device as users write it: `cuda:0`, `cpu:0`."""
    platform = "cuda" if device.platform == "gpu" else device.platform
    return f"{platform}:{device.id}"


def at(operand: aval.OperandType, where: Placement | None) -> str:
    """A type and its place, for messages."""
    return f"{operand} on {where}" if where else str(operand)


def way_to(where: Placement, now: Placement) -> str:
    """What to type to bring an operand there from where it is now."""
    first, *others = where.devices
    if others:
        return f"to {where} with `jax.device_put`"
    if where.memory_kind != now.memory_kind:
        kind = where.memory_kind or "device"
        return f'with `jax.device_put(x, x.sharding.with_memory_kind("{kind}"))`'
    for ordinal, found in enumerate(local_devices(where.platform)):
        if name(found) == first:
            device = f'jax.local_devices(backend="{where.platform}")[{ordinal}]'
            return f"with `jax.device_put(x, {device})`"
    return f"to {where}, in the process that has it"


def fits(planned: Placement, got: Placement) -> bool:
    """Whether devices and memory agree; packages are compared before. NumPy's have one memory."""
    if planned.package == "numpy":
        return True
    return planned.devices == got.devices and planned.memory_kind == got.memory_kind
