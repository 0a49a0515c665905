"""The product as a primitive: types, `vmap`, and how it joins reference and library."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nvstate import errors
from nvstate._core.aval import Aval
from nvstate._core.several import define_several
from nvstate.matmul import derivative, lowering, sharding
from nvstate.matmul.arguments import WHERE
from nvstate.matmul.reference import reference
from nvstate.matmul.spec import MatmulResult, MatmulSpec

MATRICES = ("a", "b", "c", "relu_aux", "gelu_aux", "bias")  # operands that may have batch axes


def results(spec: MatmulSpec, *avals: Aval) -> list[Aval]:
    """Types of the results: updates, since types made anew would lose their manual axes."""
    x = dict(zip(spec.names, avals, strict=True))
    shapes = spec.result_shapes({name: t.shape for name, t in x.items()})
    made: list[Aval] = []
    for name, shape in shapes.items():
        sharding = x["a"].sharding.update(spec=jax.P(*_entries(spec, x, name, len(shape))))
        dtype = np.dtype(spec.dtype(name))
        made.append(x["a"].update(shape=shape, dtype=dtype, weak_type=False, sharding=sharding))
    return made


def _entries(spec: MatmulSpec, x: dict[str, Aval], name: str, rank: int) -> list[Any]:
    """Mesh axes of a result in an explicit mesh: of the batch and M as `a`, of N as `b`."""
    a, b = (list(x[n].sharding.spec) + [None] * x[n].ndim for n in ("a", "b"))
    a, b = a[: x["a"].ndim], b[: x["b"].ndim]
    (m, ka) = a[-2:][::-1] if spec.transpose_a else a[-2:]
    (kb, n) = b[-2:][::-1] if spec.transpose_b else b[-2:]
    if ka or kb:
        raise errors.OperandError(
            errors.message(
                WHERE,
                f"K is sharded over `{ka or kb}`",
                expected="operands that each device holds whole along K",
                got=f"a {x['a']}, b {x['b']}",
                do="Gather them first: `jax.sharding.reshard(x, jax.P(…))`. If a gradient made "
                "this product, a sum over a batch or weights that are split, compute it in "
                "`jax.shard_map`, or on a mesh with `AxisType.Auto`.",
            )
        )
    batch: list[Any] = [None] * max(x["a"].ndim, x["b"].ndim, rank)
    for entries, t in ((b, x["b"]), (a, x["a"])):
        for i in range(3, t.ndim + 1):
            if t.shape[-i] > 1 and entries[-i] is not None:
                batch[-i] = entries[-i]
    outer = batch[: len(batch) - 2]
    if name.endswith("amax") or name == "d_out_scale":
        return [None] * rank
    tail = {"d": [m, n], "bgrada": [m], "relu_aux": [m, None], "gelu_aux": [m, None]}.get(name, [n])
    if name in ("drelu_bgrad", "dgelu_bgrad") and m:
        raise errors.OperandError(
            errors.message(
                WHERE,
                f"M is sharded over `{m}`, but {name} sums over it",
                expected="an `a` that each device holds whole along M",
                got=str(x["a"]),
                do="Gather it first: `jax.sharding.reshard(x, jax.P(…))`.",
            )
        )
    count = rank - len(tail)
    entries = [*outer[len(outer) - count :], *tail] if count else tail
    over = [axis for e in entries for axis in ((e,) if isinstance(e, str) else e or ())]
    if len(set(over)) < len(over):
        raise errors.OperandError(
            errors.message(
                WHERE,
                f"two axes of {name} would be sharded over one axis of the mesh",
                expected="batch, M and N over different axes of the mesh",
                got=f"a {x['a']}, b {x['b']}",
                do="Gather one operand first: `jax.sharding.reshard(x, jax.P(…))`.",
            )
        )
    return entries


def batch(spec: MatmulSpec, operands: Any, dims: Any) -> list[Any] | None:
    """The operands with the new batch axis in front; None if the members must run one by one.

    Where it stands, a mapped operand keeps its batch axes aligned with the others': it gets axes
    of one element between the new one and those. A `c` in whose memory the result is written has
    the result's shape, mapped or not.
    """
    alone = spec.result_amax or spec.aux_amax or spec.scaling_a not in (None, "tensor")
    named = list(zip(spec.names, operands, dims, strict=True))
    if alone or any(d is not None for name, _, d in named if name not in MATRICES):
        return None
    rank = max(
        x.ndim - (d is not None) - (1 if n == "bias" else 2) for n, x, d in named if n in MATRICES
    )
    aligned: list[Any] = []
    size = next(x.shape[d] for _, x, d in named if d is not None)
    for name, x, dim in named:
        if name == "c" and spec.inplace and dim is None:
            x = jnp.broadcast_to(x, (size, *x.shape))
        elif dim is not None:
            x = jnp.moveaxis(x, dim, 0)
            missing = rank + (1 if name == "bias" else 2) - (x.ndim - 1)
            x = x.reshape(x.shape[0], *[1] * missing, *x.shape[1:])
        aligned.append(x)
    return aligned


matmul = define_several(
    "nvstate_matmul",
    results=results,
    reference=reference,
    jvp=lambda *args: derivative.jvp(*args),
    batch=batch,
    cuda=lowering.cuda,
    split=sharding.SPLIT,
)


def multiply(spec: MatmulSpec, *operands: Any, choices: Any = None) -> Any:
    """The results of a product as its plan returns them; operands of one axis become matrices."""
    vectors = spec.vectors
    operands = matrices_of(spec, operands)
    if vectors:
        spec = dataclasses.replace(spec, vectors="")
    found = dict(zip(spec.result_names, matmul(spec, *operands, choices=choices), strict=True))
    if vectors:
        axes = tuple(axis for axis, name in ((-2, "a"), (-1, "b")) if name in vectors)
        found["d"] = jnp.squeeze(found["d"], axes)
    return MatmulResult(**found) if len(found) > 1 else found["d"]


def matrices_of(spec: MatmulSpec, operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """The operands, those of one axis as matrices."""
    if not spec.vectors:
        return operands
    named = zip(spec.names, operands, strict=True)
    return tuple(_matrix(name, spec.vectors, x) for name, x in named)


def _matrix(name: str, vectors: str, x: Any) -> Any:
    if name == "a" and "a" in vectors:
        return x[..., None, :]
    if name == "b" and "b" in vectors:
        return x[..., :, None]
    if name == "c":
        x = x[..., None] if "b" in vectors else x
        return x[..., None, :] if "a" in vectors and x.ndim else x
    return x


def matrix_shape(name: str, vectors: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that an operand of one axis has as a matrix."""
    if not vectors:
        return shape
    return jax.eval_shape(
        lambda x: _matrix(name, vectors, x), jax.ShapeDtypeStruct(shape, np.float32)
    ).shape
