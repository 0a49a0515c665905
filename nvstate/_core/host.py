"""NumPy's arrays through a device and back, with the copies that this takes and no other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from nvstate._core import compat, log
from nvstate._core.aval import Device

PATIENCE = 5e-5  # seconds


def through(run: Callable[..., Any], device: Device, values: tuple[Any, ...]) -> Any:
    """Run a function of JAX's arrays on NumPy's.

    On the CPU the result is copied once, so that it can be written to; a device with memory of its
    own gets one copy of each operand, and its result comes back in one.
    """
    with contextlib.ExitStack() as stack:
        if compat.is_tracing():  # values that a trace computes are constants of it
            stack.enter_context(jax.ensure_compile_time_eval())
        if compat.has_mesh():  # whose devices need not be this one
            stack.enter_context(jax.set_mesh(jax.make_mesh((1,), ("_",), devices=[device])))
        return _through(run, device, values)


def _through(run: Callable[..., Any], device: Device, values: tuple[Any, ...]) -> Any:
    # jit moves NumPy's arrays faster than `device_put` does, but not where it is disabled, and not
    # where users forbid transfers that nobody asked for: these were asked for.
    guarded = compat.guards_transfers() or compat.is_jit_disabled()
    if guarded:
        values = tuple(jax.device_put(x, device) for x in values)
    y = run(values, device)
    patience = PATIENCE if device.platform == "cpu" else 0.0
    if isinstance(y, tuple):  # of results, by name
        return jax.tree.map(lambda part: _brought(part, guarded, patience), y)
    return _brought(y, guarded, patience)


def _brought(y: Any, guarded: bool, patience: float) -> Any:
    # A sleeping thread wakes later than a small result is there: look for it first.
    end = log.now() + patience
    while log.now() < end and not y.is_ready():
        pass
    y = jax.device_get(y) if guarded else np.asarray(y)
    try:
        y.setflags(write=True)  # memory of its own, if it came from another device
    except ValueError:  # NumPy's word for a view of what is XLA's
        y = y.copy()
    return y
