"""A call's attributes as text, for functions of the native library that ask about the call."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np


def text(attributes: Mapping[str, Any]) -> bytes:
    """The attributes as C++ reads them: by the types that JAX would give them."""
    return "\n".join(_line(name, value) for name, value in attributes.items()).encode()


def _line(name: str, value: Any) -> str:
    if isinstance(value, str):
        return f"{name}\ts\t{value}"
    if isinstance(value, np.ndarray):
        letter = {"int64": "I", "uint64": "W", "float64": "D"}.get(value.dtype.name, "?")
        numbers: Any = value.view(np.uint64) if letter == "D" else value
        return f"{name}\t{letter}\t{' '.join(str(n) for n in numbers.tolist())}"
    if isinstance(value, float):
        return f"{name}\td\t{struct.unpack('=Q', struct.pack('=d', value))[0]}"
    return f"{name}\ti\t{int(value)}"
