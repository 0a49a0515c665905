"""Which dtypes belong together."""

from __future__ import annotations

import jax

REAL = {"complex64": "float32", "complex128": "float64"}
COMPLEX = {real: complex_ for complex_, real in REAL.items()}
WIDE = frozenset({"complex128", "float64"})


def is_enabled(dtype: str) -> bool:
    """Whether JAX would keep this dtype, or narrow it because x64 is off."""
    return dtype not in WIDE or bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]
