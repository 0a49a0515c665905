"""Operations of several operands, each device running its own part of a mesh's arrays."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.experimental.custom_partitioning import custom_partitioning

Names = tuple[str, ...]
_NO_MESH = jax.sharding.AbstractMesh((), ())


@dataclasses.dataclass(frozen=True)
class Axes:
    """Names of all axes, equal where they are split alike.

    Attributes:
        operands: of each operand.
        results: of each result.
        whole: those that a device must hold whole.
        summed: those of operands alone that may be split: the results are summed over the devices.
    """

    operands: tuple[Names, ...]
    results: tuple[Names, ...]
    whole: frozenset[str]
    summed: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Split:
    """How an operation may be split.

    Attributes:
        axes: (spec, operands), of which only shapes are read.
        run: (spec, extents, operands, choices) -> the results of a device's part, from the extents
            of its axes by name; of parts that are summed, the terms.
        fits: (spec, name, extent) -> whether a device's part of an axis may have this extent.
        finish: (spec, sums) -> the results, where terms were summed.
        require: (spec, choices) -> raises what is to be said if parts cannot run.
    """

    axes: Callable[[Any, Sequence[Any]], Axes]
    run: Callable[[Any, Mapping[str, int], Sequence[Any], Any], Sequence[Any]]
    fits: Callable[[Any, str, int], bool]
    finish: Callable[[Any, Sequence[Any]], Sequence[Any]]
    require: Callable[[Any, Any], None] = lambda spec, choices: None


def divided(split: Split, whole: Callable[..., Sequence[Any]]) -> Callable[..., Any]:
    """The operation for the partitioner of several devices.

    What it writes into a program is the address of a Python object: so not for one that leaves the
    process.

    Args:
        split: how.
        whole: (spec, *operands, choices) -> the results on one device.

    Returns:
        ((spec, choices), *operands) -> the results.
    """

    def run(static: Any, *operands: Any) -> Any:
        spec, choices = static
        return tuple(whole(spec, *operands, choices))

    made = custom_partitioning(run, static_argnums=(0,))

    def partition(static: Any, mesh: Any, operands: Any, results: Any) -> Any:
        spec, choices = static
        axes = split.axes(spec, operands)
        over = _over(axes, [*results, *operands])
        extents: dict[str, int] = {}
        for x, names in zip(operands, axes.operands, strict=True):
            for name, extent in zip(names, x.shape, strict=True):
                own = -(-extent // math.prod(mesh.shape[a] for a in over.get(name, ())))
                if own != extent and not split.fits(spec, name, own):
                    del over[name]
                    own = extent
                extents[name] = own
        terms = tuple(itertools.chain(*(over.get(name, ()) for name in axes.summed)))
        place = functools.partial(_sharding, mesh, over)

        def part(*own: Any) -> Any:
            with jax.sharding.use_abstract_mesh(_NO_MESH):  # an explicit one is not the part's
                ys = split.run(spec, extents, own, choices)
            return tuple(split.finish(spec, jax.lax.psum(list(ys), terms)) if terms else ys)

        return mesh, part, tuple(map(place, axes.results)), tuple(map(place, axes.operands))

    def infer(static: Any, mesh: Any, operands: Any, results: Any) -> Any:
        axes = split.axes(static[0], operands)
        over = _over(dataclasses.replace(axes, results=()), operands)
        return tuple(_sharding(mesh, over, names) for names in axes.results)

    def rule(static: Any, mesh: Any, operands: Any, results: Any) -> Any:
        axes = split.axes(static[0], operands)
        left, right = (", ".join(map(" ".join, side)) for side in (axes.operands, axes.results))
        order = dict.fromkeys(itertools.chain(*axes.operands, *axes.results))
        said = {"need_replication_factors": axes.whole, "reduction_factors": axes.summed}
        in_order = {key: tuple(n for n in order if n in names) for key, names in said.items()}
        return f"{left} -> {right}", in_order

    # The rule is Shardy's; `infer` is for the partitioner before it.
    made.def_partition(partition=partition, infer_sharding_from_operands=infer, sharding_rule=rule)
    return made


def _over(axes: Axes, types: Sequence[Any]) -> dict[str, Names]:
    """The mesh axes over which each axis is split: as the first that says so, each but once."""
    found: dict[str, Names] = {}
    for x, names in zip(types, (*axes.results, *axes.operands), strict=True):
        given: Any = getattr(x.sharding, "spec", ())  # none of what no mesh has placed
        for name, entry in zip(names, given, strict=False):
            over = (entry,) if isinstance(entry, str) else tuple(entry or ())
            taken = set(itertools.chain(*found.values()))
            if over and name not in axes.whole | found.keys() and not taken.intersection(over):
                found[name] = over
    return found


def _sharding(mesh: Any, over: Mapping[str, Names], names: Names) -> Any:
    return jax.NamedSharding(mesh, jax.P(*(over.get(name) for name in names)))
