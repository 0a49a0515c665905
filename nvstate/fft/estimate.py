"""estimate_workspace(): the work area that cuFFT will ask for, by three techniques."""

from __future__ import annotations

from typing import Any, Literal, Unpack

import jax

from nvstate import errors
from nvstate._core import placement
from nvstate._core.aval import Device
from nvstate.fft import arguments, memory, workspace
from nvstate.fft.arguments import WHERE
from nvstate.fft.plan import FFTPlan, plan
from nvstate.fft.specify import Problem


def estimate_workspace(
    x: Any,
    /,
    *,
    technique: Literal["bound", "default", "refined"] = "default",
    device: Device | None = None,
    **problem: Unpack[Problem],
) -> int:
    """Estimate the bytes of cuFFT's work area for one call. 0 for a plan that runs on a CPU.

    Args:
        x: a plan; or an operand, a type or a spec, as `plan` takes it.
        technique: "bound": a formula, which needs neither library nor device; "default":
            cufftEstimateMany; "refined": cufftXtGetSizeMany, what a plan will ask for.
        device: a CUDA device; None: the plan's, else the first.
        **problem: as in `plan`, if `x` is not a plan.

    Returns:
        Bytes; of the stage that needs most, if the transform is composed.

    Raises:
        SpecError: an unknown technique; or as `plan`.
        UnsupportedError: no CUDA device for "default" or "refined".
        LibraryError: cuFFT is not found.

    Example:
        >>> nvs.fft.estimate_workspace(jnp.ones((2, 8), "complex64"), axes=(1,))
        0

    Source: cufftEstimateMany, cufftXtGetSizeMany.
    """
    techniques = ("bound", "default", "refined")
    if technique not in techniques:
        raise arguments.error(
            "unknown `technique`",
            ", ".join(f'"{name}"' for name in techniques),
            repr(technique),
            "Pass one of them.",
        )
    if isinstance(x, FFTPlan) and problem:
        raise arguments.error(
            "a plan and keywords of a problem",
            "one of them",
            ", ".join(f"`{name}`" for name in problem),
            "Leave the keywords out.",
        )
    if device is not None and not isinstance(device, jax.Device):
        raise arguments.error(
            "`device` is one of JAX's", "a jax.Device", repr(device), "Pass `jax.devices()[0]`."
        )
    made = x if isinstance(x, FFTPlan) else plan(x, **problem)
    if device is None and made.backend == "xla":
        return 0
    if technique == "bound":
        return memory.most(made, lambda call, x, y, _: workspace.bound(call, x, y))
    ordinal = memory.ordinal(made) if device is None else device.local_hardware_id
    if ordinal is None or device not in {None, *placement.local_devices("cuda")}:
        raise errors.UnsupportedError(
            errors.message(
                WHERE,
                f'technique "{technique}" asks cuFFT, which needs a CUDA device',
                expected="a CUDA device of this process",
                got="none" if device is None else str(device),
                do='Use `technique="bound"`.',
            )
        )
    return memory.most(
        made, lambda call, x, y, _: workspace.estimated(call, x, y, technique, ordinal)
    )
