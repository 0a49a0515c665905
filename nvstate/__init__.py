"""Stateful math libraries for JAX: planning paid once and reused, as values."""

from nvstate import cache, direct_solver, errors, fft, matmul, store
from nvstate._core.autotune import autotune
from nvstate._core.export import disabled_checks, register
from nvstate._core.plan import Plan
from nvstate._core.verbs import (
    Bound,
    bind,
    execute,
    free,
    release,
    reset,
    reset_unchecked,
    resources,
)

__version__ = "0.4.2"

__all__ = [
    "Bound",
    "Plan",
    "autotune",
    "bind",
    "cache",
    "direct_solver",
    "disabled_checks",
    "errors",
    "execute",
    "fft",
    "free",
    "matmul",
    "register",
    "release",
    "reset",
    "reset_unchecked",
    "resources",
    "store",
]
