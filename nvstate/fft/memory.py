"""What one execution of a plan needs beside operand and result, call by call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax

from nvstate._core import lower, placement
from nvstate.fft import primitive

if TYPE_CHECKING:
    from nvstate.fft.plan import FFTPlan


def ordinal(plan: FFTPlan) -> int | None:
    """The CUDA ordinal of the plan's device, or of the first one; None if it is not here."""
    wanted = plan.placement.devices[0] if plan.placement else None
    here = placement.local_devices("cuda")
    ordinals = [d.local_hardware_id for d in here if wanted in {None, placement.name(d)}]
    return ordinals[0] if ordinals else None


def most(plan: FFTPlan, measure: Callable[[lower.Call, Any, Any, int | None], int]) -> int:
    """The most that one of a plan's calls needs: XLA reuses the memory of the others."""
    spec, choices, device = plan.spec, plan.choices, ordinal(plan)
    operand = jax.ShapeDtypeStruct(plan.operand.shape, plan.operand.dtype)
    calls = lower.calls(lambda x: primitive.cuda(spec, x, choices), operand)
    return max(measure(*call, device) for call in calls)
