"""`vmap` of the primitives: a batch of values is the engine's, one of b alone is more columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from nvstate.direct_solver.way import PATTERN

Rule = Callable[[Any, Any, Any, Any], tuple[Sequence[Any], Sequence[int | None]]]


def rule(names: tuple[str, ...], run: Callable[..., Sequence[Any]]) -> Rule:
    """The batching rule of a primitive with these operands.

    Args:
        names: of the operands; "b", if there is one, comes last.
        run: (way, *operands, choices=) -> the results; those of x, if any, come first.
    """

    def batched(way: Any, args: Any, dims: Any, choices: Any) -> Any:
        size = next(x.shape[d] for x, d in zip(args, dims, strict=True) if d is not None)
        given = dict(zip(names, args, strict=True))
        axes = dict(zip(names, dims, strict=True))
        for name in PATTERN:
            if axes[name] is not None:
                given[name] = _one(given[name], axes[name])
        moved = [n for n in names if n not in PATTERN and n != "b" and axes[n] is not None]
        if not moved and axes.get("b") is not None:
            return _columns(way, given, axes["b"], choices)
        if not moved:  # of the pattern alone
            ys = run(way, *given.values(), choices=choices)
            return ys, [None] * len(ys)
        for name in names:
            if name not in PATTERN:
                given[name] = _merged(given[name], axes[name], size)
        ys = run(way, *given.values(), choices=choices)
        members = given["values"].shape[0] // size if size else 1
        return [y.reshape(size, members, *y.shape[1:]) for y in ys], [0] * len(ys)

    def _columns(way: Any, given: dict[str, Any], dim: int, choices: Any) -> Any:
        b = jnp.moveaxis(given["b"], dim, 1)  # [B, V, k, n]
        members, size, columns, n = b.shape
        merged = b.reshape(members, size * columns, n)
        x, *rest = run(way, *(given | {"b": merged}).values(), choices=choices)
        return [x.reshape(b.shape), *rest], [1, *[None] * len(rest)]

    return batched


def _one(x: Any, dim: int) -> Any:
    """One of the members, which have one digest and so are equal.

    Not by a slice: of one, jax 0.11.2 on a GPU called the target with the arrays of all members.
    """
    members = x.shape[dim]
    first = jnp.arange(members) == 0
    kept = jnp.where(jnp.expand_dims(first, [i for i in range(x.ndim) if i != dim]), x, 0)
    return kept.sum(axis=dim, dtype=x.dtype)


def _merged(x: Any, dim: int | None, size: int) -> Any:
    """The batch axis, from where it is or as copies, made one with the first axis."""
    copies = dim is None
    front = jnp.broadcast_to(x, (size, *x.shape)) if copies else jnp.moveaxis(x, dim, 0)
    return front.reshape(size * front.shape[1], *front.shape[2:])
