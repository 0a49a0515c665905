"""define(): a JAX primitive made from rules on specs. It and `compat` know JAX's machinery."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from nvstate import errors
from nvstate._core import compat, lower, scopes
from nvstate._core.spec import Spec, named


class Operation(Protocol):
    """An operation on arrays or tracers, under every transformation: what `define` returns."""

    def __call__(self, spec: Any, /, *operands: Any, choices: Any = None) -> Any: ...


def define(
    name: str,
    *,
    results: Callable[[Any, Any], Any],
    reference: Callable[[Any, Any], Any],
    transpose: Callable[[Any, Any, Any], Any],
    batch: Callable[[Any, int, int], Any],
    whole: Callable[[Any, int], tuple[int, ...]],
    gathered: Callable[[Any, Any], Any] | None = None,
    cuda: Callable[[Any, Any, Any], Any] | None = None,
) -> Operation:
    """Define an operation that is linear in its one operand, from rules that are maps on specs.

    Args:
        name: of the primitive, `nvstate_<operation>`.
        results: (spec, aval) -> aval of the result, by `aval.update`, so that sharding is kept;
            the result has the operand's rank.
        reference: (spec, x) -> y in `jax.numpy`: the definition, and the lowering of every
            platform that has no other.
        transpose: (spec, cotangent, choices) -> cotangent of the operand, without conjugation.
        batch: (spec, dim, rank) -> the spec of the batched operand, of rank `rank`, whose new batch
            axis is `dim`; the result has it in the same place.
        whole: (spec, rank) -> the axes that a device must hold whole; the others may be split over
            a mesh without a collective.
        gathered: (spec, x) -> y as `reference`, for several CPU devices where JAX's partitioners
            must gather the operand; None: they can do so with the reference itself.
        cuda: (spec, x, choices) -> y through the library, on CUDA; None: the reference.

    Returns:
        op(spec, x, choices=None) -> y. `choices` is what a plan chose: hashable, read by `cuda`
        and `transpose` only.

    Example:
        `docs/contributing.md` defines a whole operation.
    """
    primitive = Primitive(name)

    def operation(spec: Spec, /, *operands: Any, choices: Any = None) -> jax.Array:
        (x,) = operands
        return primitive.bind(x, spec=spec, choices=choices)

    def abstract_eval(x: Any, *, spec: Spec, choices: Any) -> Any:
        _refuse_split(name, x, whole(spec, x.ndim))
        return results(spec, x)

    def transpose_rule(ct: Any, x: Any, *, spec: Spec, choices: Any) -> tuple[Any]:
        return (ad.Zero(x.aval) if type(ct) is ad.Zero else transpose(spec, ct, choices),)

    def batching_rule(args: Any, dims: Any, *, spec: Spec, choices: Any) -> tuple[Any, int]:
        (x,), (dim,) = args, dims
        return operation(batch(spec, dim, x.ndim), x, choices=choices), dim

    primitive.def_abstract_eval(abstract_eval)
    ad.deflinear2(primitive, transpose_rule)
    batching.primitive_batchers[primitive] = batching_rule

    plain = register(primitive, operation, reference, cuda)
    split = _splitting_batches(reference, whole)
    partitioned = mlir.lower_fun(lambda x, *, spec, choices: split(spec, x), multiple_results=False)

    whole_operand = mlir.lower_fun(
        lambda x, *, spec, choices: (gathered or reference)(spec, x), multiple_results=False
    )

    def lower_cpu(ctx: Any, *operands: Any, **params: Any) -> Any:
        # The partitioners of jax 0.10 and 0.11 gather the operand of an XLA FFT, whichever axis is
        # split. Custom partitioning does not, but writes the address of a Python object into the
        # program: so not where the program leaves the process. Nor does it know a mesh of which
        # some axes are manual.
        if compat.device_count(ctx) == 1:
            rule = plain
        elif compat.is_exporting(ctx) or compat.is_partly_manual(ctx):
            rule = whole_operand
        else:
            results = partitioned(ctx, *operands, **params)
            compat.name_custom_partitioning(results, named(**params))
            return results
        return rule(ctx, *operands, **params)

    mlir.register_lowering(primitive, lower_cpu, platform="cpu")
    return operation


def register(
    primitive: Any,
    operation: Operation,
    reference: Callable[..., Any],
    cuda: Callable[..., Any] | None,
) -> Any:
    """Have a primitive run: alone, by its reference on each platform, by a library on CUDA.

    Returns:
        The lowering of the reference.
    """

    def impl(*operands: Any, spec: Any, choices: Any) -> Any:
        if compat.looks_for_nans():  # and runs a program again piece by piece if it finds one
            return compat.apply(primitive, *operands, spec=spec, choices=choices)
        with jax.disable_jit(False):  # there is no other way to run a primitive
            return scopes.eager(operation, spec, choices)(*operands)

    primitive.def_impl(impl)
    several: bool = primitive.multiple_results
    plain = mlir.lower_fun(lambda *x, spec, choices: reference(spec, *x), multiple_results=several)
    compat.wants_devices(primitive)
    mlir.register_lowering(primitive, plain)
    if cuda is not None:
        library = mlir.lower_fun(
            lambda *x, spec, choices: cuda(spec, *x, choices), multiple_results=several
        )
        mlir.register_lowering(primitive, library, platform="cuda")
    return plain


def _refuse_split(name: str, x: Any, axes: tuple[int, ...]) -> None:
    """Refuse an operand that is split, in an explicit mesh, along an axis that must be whole."""
    split = x.sharding.spec
    for axis in axes:
        over = split[axis] if axis < len(split) else None
        if over is not None and over is not jax.P.UNCONSTRAINED:
            where = name.replace("_", ".")
            raise errors.OperandError(
                errors.message(
                    where,
                    f"axis {axis - x.ndim} is sharded over `{over}`",
                    expected="an operand that each device holds whole along that axis",
                    got=str(x),
                    do="Gather it first: `jax.sharding.reshard(x, jax.P(…))`, "
                    "under `jax.set_mesh(mesh)`.",
                )
            )


def _splitting_batches(
    reference: Callable[[Any, Any], Any], whole: Callable[[Any, int], tuple[int, ...]]
) -> Callable[[Any, Any], Any]:
    """The reference, run on each device's own batches."""
    split = custom_partitioning(reference, static_argnums=(0,))

    def unsplit(spec: Spec, mesh: Any, type_: Any) -> Any:
        given = getattr(type_.sharding, "spec", ())  # none of what no mesh has placed
        axes = whole(spec, len(type_.shape))
        entries = [*given, *[None] * (len(type_.shape) - len(given))]
        kept = [None if axis in axes else entry for axis, entry in enumerate(entries)]
        return jax.NamedSharding(mesh, jax.P(*kept))

    def partition(spec: Spec, mesh: Any, operands: Any, result: Any) -> Any:
        shardings = tuple(unsplit(spec, mesh, x) for x in operands)
        return mesh, functools.partial(reference, spec), shardings[0], shardings

    def rule(spec: Spec, mesh: Any, operands: Any, results: Any) -> Any:
        rank = len(operands[0].shape)
        operand, result, gathered = lower.factors(rank, whole(spec, rank))
        return f"{operand} -> {result}", {"need_replication_factors": gathered}

    def infer(spec: Spec, mesh: Any, operands: Any, result: Any) -> Any:
        return unsplit(spec, mesh, operands[0])

    # The rule is Shardy's; the other is for the partitioner before it.
    split.def_partition(partition=partition, infer_sharding_from_operands=infer, sharding_rule=rule)
    return split
