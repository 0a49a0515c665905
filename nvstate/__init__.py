"""Stateful math libraries for JAX: planning paid once and reused, as values."""

from nvstate import cache, errors, fft
from nvstate._core.plan import Plan
from nvstate._core.verbs import (
    Bound,
    bind,
    execute,
    free,
    register,
    release,
    reset,
    reset_unchecked,
    resources,
)

__version__ = "0.1.0"

__all__ = [
    "Bound",
    "Plan",
    "bind",
    "cache",
    "errors",
    "execute",
    "fft",
    "free",
    "register",
    "release",
    "reset",
    "reset_unchecked",
    "resources",
]
