"""Which axes of a product are split over a mesh without a collective: batch, M and N."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from nvstate._core.splitting import Axes, Split
from nvstate.matmul import lowering, reference, table
from nvstate.matmul.spec import MatmulSpec

_CORES = {"bgrada": "m", "bgradb": "n", "drelu_bgrad": "n", "dgelu_bgrad": "n", "bias": "n"}


def axes(spec: MatmulSpec, operands: Sequence[Any]) -> Axes:
    """Names of all axes.

    What is split along K is summed over the devices, where D is nothing but α op(A) op(B).
    N stays whole where there is an auxiliary array, whose rows are padded; M where D is summed over
    it; all where a maximum of D is wanted, or scales are packed.
    """
    shapes = {name: x.shape for name, x in zip(spec.names, operands, strict=True)}
    batch = spec.batches(shapes)
    whole: set[str] = set()

    def named(name: str, shape: Sequence[int]) -> tuple[str, ...]:
        core = _core(spec, name)
        count = len(spec.core(name)) if core is not None else len(shape)
        lead = range(max(len(shape) - count, 0))
        names = [f"b{len(shape) - count - i}" for i in lead] + [*(core or "?" * len(shape))]
        names = names[len(names) - len(shape) :]
        extents = {"m": spec.m, "n": spec.n, "k": spec.k}
        extents |= {f"b{len(batch) - i}": extent for i, extent in enumerate(batch)}
        for i, n in enumerate(names):
            if extents.get(n) != shape[i]:  # its own: of one element, or padded
                names[i] = f"{name.replace('_', '')}{i}x"
                whole.add(names[i])
        return tuple(names)

    left = tuple(named(name, x.shape) for name, x in zip(spec.names, operands, strict=True))
    right = tuple(named(name, shape) for name, shape in spec.result_shapes(shapes).items())
    if spec.parts.takes or spec.parts.gives:
        whole.add("n")
    if spec.parts.sums in ("drelu_bgrad", "dgelu_bgrad"):
        whole.add("m")
    if spec.result_amax or spec.aux_amax or spec.scaling_a not in (None, "tensor", "outer"):
        whole |= {"m", "n", *(f"b{i + 1}" for i in range(len(batch)))}
    summed = {"k"} if _sums_of_parts(spec) else set[str]()
    return Axes(left, right, frozenset(whole | ({"k"} - summed)), frozenset(summed))


def _sums_of_parts(spec: MatmulSpec) -> bool:
    """Whether D is the sum of products over parts of K."""
    alone = spec.epilog is None and spec.c_dtype is None
    return alone and spec.result_dtype not in table.NARROW | {"int8"} and spec.scaling_a is None


def _core(spec: MatmulSpec, name: str) -> str | None:
    """One letter for each axis beyond the batch; None of an array that no axis goes through."""
    if name == "a":
        return "km" if spec.transpose_a else "mk"
    if name == "b":
        return "nk" if spec.transpose_b else "kn"
    if name in ("c", "d"):
        return "mn"
    if name in ("relu_aux", "gelu_aux"):
        return "m?"
    if name in ("scale_a", "scale_b") and spec.scaling_a == "outer":
        return "m" if name == "scale_a" else "n"
    return _CORES.get(name)


def part(
    spec: MatmulSpec, extents: Mapping[str, int], operands: Sequence[Any], choices: Any
) -> Sequence[Any]:
    """A device's part of the results: a smaller product, with what was chosen for the whole.

    Products over parts of K are summed in float32, if operands of 16 bits are.
    """
    own = dataclasses.replace(spec, m=extents["m"], n=extents["n"], k=extents["k"])
    if own.k != spec.k and spec.compute_type.startswith("float32"):
        own = dataclasses.replace(own, result_dtype=reference.wide(spec))
    return lowering.run(spec, own, operands, choices)


def fits(spec: MatmulSpec, name: str, extent: int) -> bool:
    """Whether the library takes parts of this extent: of 8-bit operands, only even ones."""
    step = 16 if spec.a_dtype in table.NARROW else 4 if spec.a_dtype == "int8" else 1
    return name not in ("m", "n", "k") or extent % step == 0


def finish(spec: MatmulSpec, sums: Sequence[Any]) -> Sequence[Any]:
    """The results of products over parts of K."""
    return [y.astype(spec.result_dtype) for y in sums]


SPLIT = Split(axes, part, fits, finish)
