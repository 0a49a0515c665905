"""What a plan runs: traced, and compiled for eager calls."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from nvstate._core import aval, dtypes, operands
from nvstate._core.aval import Device, OperandType
from nvstate._core.primitive import Operation


@dataclasses.dataclass(frozen=True)
class Program:
    """A plan's function of its leaves and operands, checked again wherever it is traced.

    It knows its plan's data, not the plan: a cycle would keep executables until the garbage
    collector runs.
    """

    operation: Operation
    where: str
    spec: Any
    types: tuple[OperandType, ...]
    choices: Any

    @property
    def __name__(self) -> str:
        return self.where.replace(".", "_")

    def __call__(self, *arrays: Any) -> Any:
        values = arrays[len(arrays) - len(self.types) :]  # a plan's leaves precede them
        for t in self.types:
            dtypes.require(self.where, t.dtype)
        got = tuple(map(aval.type_of, values))
        same = all(g.dtype == t.dtype for g, t in zip(got, self.types, strict=True))
        if not same or not self.spec.accepts(self.types, got):
            raise operands.mismatched(self.where, self.types, got)
        return self.operation(self.spec, *arrays, choices=self.choices)


class Compiled:
    """A program as eager calls run it.

    Attributes:
        call: the jitted program.
        device: where NumPy's arrays go; None: JAX's arrays, which know their devices.
    """

    __slots__ = ("call", "device")

    def __init__(self, program: Program, consumed: tuple[str, ...], device: Device | None) -> None:
        donated = [i for i, name in enumerate(program.spec.names) if name in consumed]  # no leaves
        if device is None:
            self.call: Any = jax.jit(program, donate_argnums=donated)
        else:
            there = jax.sharding.SingleDeviceSharding(device)
            self.call = jax.jit(program, donate_argnums=donated, in_shardings=there)
        self.device = device
