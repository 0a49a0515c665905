"""How several devices share a batch: each factorizes and solves its own members and columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nvstate import _native
from nvstate._core.splitting import Axes, Split
from nvstate.direct_solver import engine as engines
from nvstate.direct_solver.arguments import unsupported
from nvstate.direct_solver.way import PATTERN

_AXES: dict[str, tuple[str, ...]] = {
    "values": ("members", "entries"),
    "ticket": ("members", "words"),
    "b": ("members", "columns", "rows"),
    "words": ("members", "facts"),
    "diagonal": ("members", "diagonal"),
}
_WHOLE = frozenset({"entries", "words", "rows", "facts", "diagonal", *PATTERN})


def split(
    names: tuple[str, ...],
    results: tuple[str, ...],
    run: Callable[..., Sequence[Any]],
    require: Callable[[Any, Any], None],
) -> Split:
    """The split of a primitive: along members of a batch and columns of b, never a system.

    Where columns are split, each device factorizes the values that it has whole.
    """
    axes = Axes(
        operands=tuple(_AXES.get(name, (name,)) for name in names),
        results=tuple(_AXES[name] for name in results),
        whole=_WHOLE,
    )
    return Split(
        axes=lambda way, operands: axes,
        run=lambda way, extents, operands, choices: run(way, *operands, choices),
        fits=lambda way, name, extent: True,
        finish=lambda way, sums: sums,
        require=require,
    )


def anything(spec: Any, choices: Any) -> None:
    """GPUs' calls run in every part."""


def not_superlu(spec: Any, choices: Any) -> None:
    """Refuse to divide SuperLU's calls: a part of a divided program cannot call into Python."""
    if engines.backend("cpu", choices) == "superlu":
        raise unsupported(
            "SuperLU in a program for several devices",
            "a `jax.shard_map` over batches, or PARDISO",
            _native.pardiso_missing() or "knobs of SuperLU",
            "Put the solves into a `jax.shard_map`, or install PARDISO with `pip install mkl`.",
        )
