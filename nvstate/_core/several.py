"""define_several(): a primitive of several operands and results, and maps linear in tangents."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from nvstate._core import compat, scopes, splitting
from nvstate._core.primitive import Operation, register
from nvstate._core.spec import named
from nvstate._core.splitting import Split


def define_several(
    name: str,
    *,
    results: Callable[..., Sequence[Any]],
    reference: Callable[..., Sequence[Any]],
    jvp: Callable[[Any, Any, Any, Any], tuple[Sequence[Any], Sequence[Any]]],
    batch: Callable[[Any, Any, Any], Sequence[Any] | None] | None = None,
    vmap: Callable[[Any, Any, Any, Any], tuple[Sequence[Any], Sequence[Any]]] | None = None,
    transpose: Callable[[Any, Any, Any, Any], Any] | None = None,
    cpu: Callable[..., Sequence[Any]] | None = None,
    cuda: Callable[..., Sequence[Any]] | None = None,
    split: Split | None = None,
    cpu_split: Split | None = None,
) -> Operation:
    """Define an operation of several operands and results, from rules that are maps on specs.

    XLA's partitioners must know how to split the reference, as they do a dot: it is lowered as it
    is. For an operation that is linear in one operand there is `define`.

    Args:
        name: of the primitive, `nvstate_<operation>`.
        results: (spec, *avals) -> avals of the results.
        reference: (spec, *operands) -> the results in `jax.numpy`.
        jvp: (spec, operands, tangents, choices) -> (results, their tangents); None is a tangent
            that is zero, on both sides.
        batch: (spec, operands, dims) -> the operands with the batch axis of those that have one in
            front, as it will be in each result; None: the members must run one by one. No rule:
            `cuda` is made of primitives that have one.
        vmap: (spec, operands, dims, choices) -> results and their batch axes, None where a result
            has none; in place of `batch`.
        transpose: (spec, operands but the last, cotangents, choices) -> the cotangent of the last
            operand, in which alone the results are linear; None: they are linear in none.
        cpu: (spec, *operands, choices) -> the results through a library; None: the reference.
        cuda: the same on CUDA.
        split: how several GPUs share it; None: `cuda` is made of primitives that say so.
        cpu_split: the same of `cpu`.

    Returns:
        op(spec, *operands, choices=None) -> a list of results.
    """
    primitive = Primitive(name)
    primitive.multiple_results = True

    def operation(spec: Any, /, *operands: Any, choices: Any = None) -> Any:
        return primitive.bind(*compat.varying_alike(*operands), spec=spec, choices=choices)

    def abstract_eval(*avals: Any, spec: Any, choices: Any) -> Any:
        return results(spec, *avals)

    def jvp_rule(primals: Any, tangents: Any, *, spec: Any, choices: Any) -> Any:
        primals = [p if hasattr(p, "shape") else jax.numpy.asarray(p) for p in primals]
        given = tuple(None if type(t) is ad.Zero else jax.numpy.asarray(t) for t in tangents)
        ys, dys = jvp(spec, primals, given, choices)
        zeros = [ad.Zero(jax.typeof(y).to_tangent_aval()) for y in ys]
        return ys, [zero if dy is None else dy for dy, zero in zip(dys, zeros, strict=True)]

    def batching_rule(args: Any, dims: Any, *, spec: Any, choices: Any) -> Any:
        if vmap is not None:
            return vmap(spec, args, dims, choices)
        if batch is None:
            run: Any = cuda or reference
            ys = jax.vmap(lambda *x: run(spec, *x, choices), in_axes=tuple(dims))(*args)
            return ys, [0] * len(ys)
        aligned = batch(spec, args, dims)
        if aligned is not None:
            ys = operation(spec, *aligned, choices=choices)
            return zip(*map(_unaligned, ys, _members(operation, spec, args, dims)), strict=True)
        else:
            mapped = [i for i, dim in enumerate(dims) if dim is not None]

            def one(members: Any) -> Any:
                operands = list(args)
                for i, member in zip(mapped, members, strict=True):
                    operands[i] = member
                return operation(spec, *operands, choices=choices)

            ys = jax.lax.map(one, [jax.numpy.moveaxis(args[i], dims[i], 0) for i in mapped])
        return ys, [0] * len(ys)

    def transpose_rule(cts: Any, *args: Any, spec: Any, choices: Any) -> Any:
        *rest, last = args
        if not ad.is_undefined_primal(last) or any(map(ad.is_undefined_primal, rest)):
            raise NotImplementedError(f"{name} is linear in its last operand alone")
        zero = all(type(ct) is ad.Zero for ct in cts)
        ct = ad.Zero(last.aval) if zero else transpose(spec, rest, cts, choices)  # pyright: ignore
        return [None] * len(rest) + [ct]

    primitive.def_abstract_eval(abstract_eval)
    ad.primitive_jvps[primitive] = jvp_rule
    batching.primitive_batchers[primitive] = batching_rule
    if transpose is not None:
        ad.primitive_transposes[primitive] = transpose_rule
    register(primitive, operation, reference, cuda)
    if cuda is not None and split is not None:
        mlir.register_lowering(primitive, shared(split, cuda), platform="cuda")
    if cpu is not None and cpu_split is not None:
        mlir.register_lowering(primitive, shared(cpu_split, cpu), platform="cpu")
    return operation


def shared(split: Split, run: Callable[..., Sequence[Any]]) -> Any:
    """The lowering for a platform, also for several devices."""
    library = mlir.lower_fun(
        lambda *x, spec, choices: run(spec, *x, choices), multiple_results=True
    )
    divided = splitting.divided(split, run)
    several = mlir.lower_fun(
        lambda *x, spec, choices: divided((spec, choices), *x), multiple_results=True
    )

    def lower(ctx: Any, *operands: Any, **params: Any) -> Any:
        # As on CPUs: not what leaves the process, nor beside manual axes.
        alone = compat.device_count(ctx) == 1 or compat.is_manual(ctx) or compat.is_exporting(ctx)
        if alone:
            return library(ctx, *operands, **params)
        split.require(params["spec"], params["choices"])
        results = several(ctx, *operands, **params)
        compat.name_custom_partitioning(results, named(**params))
        return results

    return lower


def _members(operation: Any, spec: Any, args: Any, dims: Any) -> list[tuple[int, ...]]:
    """Shapes of the results of one member."""
    structs: list[Any] = []
    for x, dim in zip(args, dims, strict=True):
        shape = list(x.shape)
        if dim is not None:
            del shape[dim]
        structs.append(jax.ShapeDtypeStruct(tuple(shape), x.dtype))
    return [y.shape for y in jax.eval_shape(functools.partial(operation, spec), *structs)]


def _unaligned(y: Any, member: tuple[int, ...]) -> tuple[Any, int | None]:
    """A result with the batch axis in front, if it has got one, and the axes of a member."""
    if y.ndim == len(member):
        return y, None
    return y.reshape(y.shape[0], *member), 0


class Tangent(Protocol):
    """A map that is linear in tangents, given residuals: what `define_tangent` returns."""

    def __call__(
        self, spec: Any, residuals: Sequence[Any], tangents: Sequence[Any], choices: Any = None, /
    ) -> Any: ...


def define_tangent(
    name: str,
    *,
    result: Callable[[Any, Any, Any], Any],
    function: Callable[[Any, Any, Any, Any], Any],
    transpose: Callable[[Any, Any, Any, Any, Any], Sequence[Any]],
) -> Tangent:
    """Define a linear map of several tangents, which is transposed as a whole.

    So that one library call can give the cotangents of several. Under every other transformation
    it is what `function` is made of.

    Args:
        name: of the primitive.
        result: (spec, avals of residuals, avals of tangents) -> aval of the result.
        function: (spec, residuals, tangents, choices) -> the result; None is a zero tangent.
        transpose: (spec, residuals, types of the tangents, cotangent, choices) -> cotangents of
            the tangents, without conjugation; None where the tangent was zero.

    Returns:
        op(spec, residuals, tangents, choices=None) -> the result.
    """
    primitive = Primitive(name)

    def parted(args: Any, present: tuple[bool, ...]) -> tuple[Any, Any]:
        count = len(args) - sum(present)
        rest = iter(args[count:])
        return tuple(args[:count]), tuple(next(rest) if there else None for there in present)

    def run(*args: Any, spec: Any, choices: Any, present: tuple[bool, ...]) -> Any:
        residuals, tangents = parted(args, present)
        return function(spec, residuals, tangents, choices)

    def operation(
        spec: Any, residuals: Sequence[Any], tangents: Sequence[Any], choices: Any = None, /
    ) -> Any:
        present = tuple(t is not None for t in tangents)
        args = compat.varying_alike(*residuals, *(t for t in tangents if t is not None))
        return primitive.bind(*args, spec=spec, choices=choices, present=present)

    def abstract_eval(*avals: Any, spec: Any, choices: Any, present: tuple[bool, ...]) -> Any:
        return result(spec, *parted(avals, present))

    def jvp_rule(primals: Any, tangents: Any, **params: Any) -> Any:
        there = [i for i, t in enumerate(tangents) if type(t) is not ad.Zero]

        def along(*moving: Any) -> Any:
            args = list(primals)
            for i, x in zip(there, moving, strict=True):
                args[i] = x
            return run(*args, **params)

        return jax.jvp(along, [primals[i] for i in there], [tangents[i] for i in there])

    def transpose_rule(ct: Any, *args: Any, spec: Any, choices: Any, present: Any) -> Any:
        residuals, tangents = parted(args, present)
        types = [None if t is None else t.aval for t in tangents]
        if type(ct) is ad.Zero:
            cts = [None if t is None else ad.Zero(t) for t in types]
        else:
            cts = transpose(spec, residuals, types, ct, choices)
        return [None] * len(residuals) + [
            c for c, t in zip(cts, types, strict=True) if t is not None
        ]

    def batching_rule(args: Any, dims: Any, **params: Any) -> Any:
        return jax.vmap(functools.partial(run, **params), in_axes=tuple(dims))(*args), 0

    def again(static: Any, *args: Any, choices: Any) -> Any:
        spec, present = static
        return primitive.bind(*args, spec=spec, choices=choices, present=present)

    def impl(*args: Any, spec: Any, choices: Any, present: tuple[bool, ...]) -> Any:
        with jax.disable_jit(False):
            return scopes.eager(again, (spec, present), choices)(*args)

    primitive.def_impl(impl)
    primitive.def_abstract_eval(abstract_eval)
    ad.primitive_jvps[primitive] = jvp_rule
    ad.primitive_transposes[primitive] = transpose_rule
    batching.primitive_batchers[primitive] = batching_rule
    compat.wants_devices(primitive)
    mlir.register_lowering(primitive, mlir.lower_fun(run, multiple_results=False))
    return operation
