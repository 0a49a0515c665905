"""Which dtypes belong together."""

from __future__ import annotations

import jax

from nvstate import errors

REAL = {"complex64": "float32", "complex128": "float64"}
COMPLEX = {real: complex_ for complex_, real in REAL.items()}
WIDE = frozenset({"complex128", "float64"})


def require(where: str, dtype: str) -> None:
    """Raise `SpecError` if JAX would narrow this dtype."""
    if is_enabled(dtype):
        return
    narrow = "float32" if dtype in COMPLEX else "complex64"
    raise errors.SpecError(
        errors.message(
            where,
            f"{dtype} needs 64-bit types, which are off",
            expected="64-bit types on, or a 32-bit operand",
            got=f"{dtype} with jax_enable_x64=False",
            do='Call `jax.config.update("jax_enable_x64", True)` first, or convert the operand '
            f'with `x.astype("{narrow}")`.',
        )
    )


def is_enabled(dtype: str) -> bool:
    """Whether JAX would keep this dtype, or narrow it because x64 is off."""
    return dtype not in WIDE or bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]
