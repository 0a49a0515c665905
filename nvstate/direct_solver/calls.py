"""Calls of the engines inside a program: the native targets, and SuperLU's host callback."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import mlir

from nvstate import _native
from nvstate._core import compat, lower
from nvstate.direct_solver import (
    attributes,
    choices as choices_,
    engine as engines,
    misses,
    superlu,
)
from nvstate.direct_solver.arguments import unsupported
from nvstate.direct_solver.choices import Choices
from nvstate.direct_solver.spec import SolverSpec

CUDSS, PARDISO = "nvstate_cudss_v1", "nvstate_pardiso_v1"


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of an engine; hashable, a parameter of the primitive below.

    Attributes:
        spec: the system.
        choices: of the plan.
        phase: "factorize", "solve", "factorize_solve" or "diagonal"; on CUDA also "fused", which
            keeps no factors.
        transposed: whether it solves with the transpose.
        results: (shape, dtype) of each result.
    """

    spec: SolverSpec
    choices: Choices
    phase: str
    transposed: bool
    results: tuple[tuple[tuple[int, ...], str], ...]


_call = Primitive("nvstate_direct_solver_call")
_call.multiple_results = True


def call(operands: Sequence[Any], made: Call) -> list[Any]:
    """Call the engine of the platform that the program is for.

    Args:
        operands: indptr, indices, permutation, reference, values, and what the phase has besides.
        made: which call.
    """
    return _call.bind(*compat.varying_alike(*operands), call=made)


@_call.def_abstract_eval
def _result_types(*operands: Any, call: Call) -> Any:
    first = operands[4]  # the values
    return [
        first.update(
            shape=shape,
            dtype=np.dtype(dtype),
            weak_type=False,
            sharding=first.sharding.update(spec=jax.P(*[None] * len(shape))),
        )
        for shape, dtype in call.results
    ]


def _require_local(ctx: Any) -> None:
    """Refuse programs that would gather a batch in silence: those that no rule of ours divides."""
    whole = compat.is_manual(ctx) and not compat.is_partly_manual(ctx)
    # JAX says 0 of a part of a program that a mesh was set for.
    if compat.device_count(ctx) <= 1 or whole:
        return
    raise unsupported(
        "a program for several devices that leaves the process, or has axes of its mesh that are "
        "manual and others that are not",
        "a program for one device, or `jax.shard_map` over all axes of the mesh",
        f"a program for {compat.device_count(ctx)} devices",
        "Put the solves into a `jax.shard_map` over batches.",
    )


def _native_call(ctx: Any, operands: Any, call: Call, target: str) -> Any:
    if not all(isinstance(n, int) for x in ctx.avals_in for n in x.shape):
        raise unsupported(
            "operands of unknown extents",
            "integers",
            ", ".join(map(str, ctx.avals_in)),
            "Export once per shape.",
        )
    said = attributes.attributes(call.spec, call.choices, call.phase, call.transposed)
    lowering = jax.ffi.ffi_lowering(target)
    return lowering(ctx, *operands, **{name: lower.attribute(value) for name, value in said})


def _lower_cuda(ctx: Any, *operands: Any, call: Call) -> Any:
    _require_local(ctx)
    _native.register()
    return _native_call(ctx, operands, call, CUDSS)


def _lower_cpu(ctx: Any, *operands: Any, call: Call) -> Any:
    _require_local(ctx)
    if engines.backend("cpu", call.choices) == "pardiso":
        _native.register_cpu()
        return _native_call(ctx, operands, call, PARDISO)
    if compat.is_exporting(ctx):
        raise unsupported(
            "a program for CPUs that leaves the process",
            "PARDISO: SuperLU runs behind a callback into this process",
            _native.pardiso_missing() or "knobs of SuperLU",
            "Install PARDISO with `pip install mkl`, or export for CUDA alone.",
        )
    run = functools.partial(_run, call, compat.device_count(ctx))
    return compat.python_callback(ctx, run, operands)


def _run(call: Call, devices: int, *operands: Any) -> Any:
    """SuperLU's part, on the host, with NumPy's arrays."""
    indptr, indices, _, _, values, *rest = map(np.asarray, operands)
    name = attributes.ring(call.spec, call.choices)
    own = superlu.ring(call.spec, call.choices, name, indptr, indices)
    on_stale = choices_.options(call.choices)["on_stale"]
    # A callback does not know on which CPU device it runs, so all share a ring.
    slots = choices_.options(call.choices)["factor_slots"] * devices
    if call.phase == "factorize":
        return superlu.factorize(own, values, slots)
    if call.phase == "factorize_solve":
        return superlu.factorize_solve(own, values, rest[0], slots, call.transposed)
    if call.phase == "diagonal":
        return (superlu.diagonal(own, values, rest[0], slots, on_stale),)
    ticket, b = rest
    x = superlu.solve(own, values, ticket, b, slots, call.transposed, on_stale)
    misses.look(call.spec, call.choices)
    return (x,)


mlir.register_lowering(_call, _lower_cuda, platform="cuda")
mlir.register_lowering(_call, _lower_cpu, platform="cpu")
