"""Which library runs a plan: cuDSS on CUDA; on CPUs PARDISO where MKL is, else SciPy's SuperLU."""

from __future__ import annotations

from typing import Literal

from nvstate import _native
from nvstate.direct_solver import choices as choices_
from nvstate.direct_solver.choices import Choices

Engine = Literal["cudss", "pardiso", "superlu"]


def backend(platform: str, choices: Choices) -> Engine:
    """The engine for a platform, the same in a process for good.

    Args:
        platform: "cpu", "cuda" or "gpu"; others have no engine, and are told as a CPU.
        choices: of the plan: knobs of SuperLU's choose it on CPUs.
    """
    if platform in ("cuda", "gpu"):
        return "cudss"
    if choices_.options(choices)["engine"] == "superlu" or _native.pardiso_missing():
        return "superlu"
    return "pardiso"
