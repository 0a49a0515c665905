"""spec(), which brings the arguments of a product into canonical form."""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np

from nvstate._core import aval, dtypes, log
from nvstate._core.aval import OperandType
from nvstate.matmul import arguments, checks, epilog as epilogs, table
from nvstate.matmul.arguments import ComputeType, Epilog, ScaleType, Scaling
from nvstate.matmul.spec import MatmulSpec

Operand = Any  # an array, a tracer or a jax.ShapeDtypeStruct
ARRAYS = (  # keywords that may be operands, beside a, b and c
    "bias",
    "relu_aux",
    "gelu_aux",
    "alpha",
    "beta",
    "scale_a",
    "scale_b",
    "scale_d",
    "scale_aux",
)


class Problem(TypedDict, total=False):
    """The keywords of `spec`, for every function that passes them on."""

    alpha: Any
    beta: Any
    bias: Operand
    epilog: Epilog | None
    relu_aux: Operand
    gelu_aux: Operand
    transpose_a: bool
    transpose_b: bool
    conjugate_a: bool
    conjugate_b: bool
    compute_type: ComputeType | None
    scale_type: ScaleType | None
    result_dtype: Any
    aux_dtype: Any
    scale_a: Any
    scale_b: Any
    scale_d: Any
    scale_aux: Any
    block_scaling: Scaling | tuple[Scaling, Scaling] | bool | None
    result_amax: bool
    aux_amax: bool
    inplace: bool


def spec(
    a: Operand,
    b: Operand,
    c: Operand = None,
    /,
    *,
    alpha: Any = 1.0,
    beta: Any = None,
    bias: Operand = None,
    epilog: Epilog | None = None,
    relu_aux: Operand = None,
    gelu_aux: Operand = None,
    transpose_a: bool = False,
    transpose_b: bool = False,
    conjugate_a: bool = False,
    conjugate_b: bool = False,
    compute_type: ComputeType | None = None,
    scale_type: ScaleType | None = None,
    result_dtype: Any = None,
    aux_dtype: Any = None,
    scale_a: Any = None,
    scale_b: Any = None,
    scale_d: Any = None,
    scale_aux: Any = None,
    block_scaling: Scaling | tuple[Scaling, Scaling] | bool | None = None,
    result_amax: bool = False,
    aux_amax: bool = False,
    inplace: bool = False,
) -> MatmulSpec:
    """Specify a product of matrices. Validates; touches no device.

    z = α s_a s_b op(A) op(B) + β C + bias; D = round(s_d f(z)), f the identity, relu or gelu.

    Args:
        a: [*batch, M, K] or [K]. Of operands only types are read: arrays, tracers or
            `jax.ShapeDtypeStruct`. Batch axes broadcast as NumPy's do.
        b: [*batch, K, N] or [K].
        c: whatever broadcasts to D; goes with `beta`.
        alpha: a number, which is static; or an array [] of the scale type, an operand of each call.
        beta: the same for `c`. With β = 0, C is not read.
        bias: [N] or [*batch, N]; goes with an epilog that has "bias".
        epilog: "bias", "relu", "gelu" and the others of the reference page; None: D = z.
        relu_aux: uint8 [*batch, M, 16·⌈N/128⌉], from the forward pass, for "drelu…".
        gelu_aux: [*batch, M, 8·⌈N/8⌉], from the forward pass, for "dgelu…".
        transpose_a: `a` is stored [*batch, K, M].
        transpose_b: `b` is stored [*batch, N, K].
        conjugate_a: op(A) is conjugated; no effect on real dtypes.
        conjugate_b: op(B) is.
        compute_type: what products are summed in; None: float32 for narrower operands and the
            operands' own precision for others. Less must be asked for: "tf32", "float16", ….
        scale_type: of α and β; None: what the compute type has.
        result_dtype: of D; None: that of `c`, else of `a`; of FP8 and FP4 bfloat16, of int8 int32.
        aux_dtype: of the result gelu_aux; None: that of D.
        scale_a: scales of FP8 and FP4 operands as the library reads them, "tensor": float32 [].
        scale_b: the same for `b`.
        scale_d: float32 []; for an FP8 D under "tensor" scaling.
        scale_aux: float32 []; for an FP8 gelu_aux.
        block_scaling: which elements share a scale: "tensor" (default), "outer", "1x128",
            "128x128", "mxfp8", "nvfp4", or a pair for a and b. True: "mxfp8" or "nvfp4" by dtype.
        result_amax: max abs(f(z)) is a result, float32 []; for an FP8 D.
        aux_amax: max abs(z) is one, float32 []; for an FP8 gelu_aux.
        inplace: D takes the memory of `c`, which has D's shape and dtype.

    Returns:
        The spec: equal problems are equal, hash alike and pickle.

    Raises:
        SpecError: no such problem.
        UnsupportedError: a fair one, that cuBLASLt lacks.

    Example:
        >>> made = nvs.matmul.spec(jnp.ones((2, 8, 4)), jnp.ones((4, 3)))
        >>> made.m, made.n, made.k
        (8, 3, 4)
    """
    start = log.now()
    given = {"a": a, "b": b, "c": c, "bias": bias, "relu_aux": relu_aux, "gelu_aux": gelu_aux}
    given |= {"alpha": alpha, "beta": beta, "scale_a": scale_a, "scale_b": scale_b}
    given |= {"scale_d": scale_d, "scale_aux": scale_aux}
    made = specified(
        {name: typed(name, x) for name, x in given.items() if x is not None or name in "ab"},
        epilog=epilog,
        transpose_a=transpose_a,
        transpose_b=transpose_b,
        conjugate_a=conjugate_a,
        conjugate_b=conjugate_b,
        compute_type=compute_type,
        scale_type=scale_type,
        result_dtype=result_dtype,
        aux_dtype=aux_dtype,
        block_scaling=block_scaling,
        result_amax=result_amax,
        aux_amax=aux_amax,
        inplace=inplace,
    )
    log.info("specified", made, start)
    return made


def typed(name: str, x: Any) -> Any:
    """The type of an operand; a number stays one, and stands for an array [] as a scale."""
    if aval.is_array(x):
        return aval.type_of(x)
    if isinstance(x, int | float | complex | np.number) and not isinstance(x, bool):
        if name in ("alpha", "beta"):
            return x.item() if isinstance(x, np.generic) else x
        if name.startswith("scale") and not isinstance(x, complex):
            return OperandType((), "float32")
    if x is None:
        raise arguments.error(
            f"`{name}` is missing",
            "two operands, `a` and `b`",
            "None",
            "Pass the other matrix too.",
        )
    number = " or a number" if name in (*ARRAYS[3:],) else ""
    raise arguments.error(
        f"`{name}` is no operand",
        f"an array or a jax.ShapeDtypeStruct{number}",
        aval.foreign(x),
        "Pass `jax.numpy.asarray(x)` or `numpy.asarray(x)`.",
    )


def specified(
    given: dict[str, Any],
    *,
    epilog: Epilog | None = None,
    transpose_a: bool = False,
    transpose_b: bool = False,
    conjugate_a: bool = False,
    conjugate_b: bool = False,
    compute_type: ComputeType | None = None,
    scale_type: ScaleType | None = None,
    result_dtype: Any = None,
    aux_dtype: Any = None,
    block_scaling: Any = None,
    result_amax: bool = False,
    aux_amax: bool = False,
    inplace: bool = False,
) -> MatmulSpec:
    """As `spec`, of operands of which the types are known."""
    arguments.choice("epilog", epilog, Epilog)
    arguments.choice("compute_type", compute_type, ComputeType)
    arguments.choice("scale_type", scale_type, ScaleType)
    flags = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    flags |= {"conjugate_a": conjugate_a, "conjugate_b": conjugate_b}
    flags |= {"result_amax": result_amax, "aux_amax": aux_amax, "inplace": inplace}
    for name, value in flags.items():
        arguments.flag(name, value)
    types = {name: t for name, t in given.items() if isinstance(t, OperandType)}
    a, b, c = types["a"], types["b"], types.get("c")
    table.require_pair(a.dtype, b.dtype)
    for t in types.values():
        dtypes.require(arguments.WHERE, t.dtype)
    vectors = "a" * (len(a.shape) == 1) + "b" * (len(b.shape) == 1)
    turned_a, turned_b = transpose_a and "a" not in vectors, transpose_b and "b" not in vectors
    m, n, k, batch = checks.extents(a, b, turned_a, turned_b)
    compute, scale = checks.compute(a.dtype, b.dtype, compute_type, scale_type)
    checks.c(c, given.get("beta"), a.dtype)
    result = checks.result(a.dtype, b.dtype, compute, scale, c and c.dtype, result_dtype)
    parts = epilogs.parts(epilog)
    scalings = checks.scalings(a.dtype, block_scaling)
    is_complex = a.dtype.startswith("complex")
    aux = checks.aux_dtype(parts, types.get("gelu_aux"), aux_dtype, result, c and c.dtype, a.dtype)
    made = MatmulSpec(
        m=m,
        n=n,
        k=k,
        a_dtype=a.dtype,
        b_dtype=b.dtype,
        c_dtype=c and c.dtype,
        result_dtype=result,
        compute_type=compute,
        scale_type=scale,
        alpha=checks.scalar("alpha", given.get("alpha", 1.0), scale) or "1.0",
        beta=checks.scalar("beta", given["beta"], scale) if "beta" in given else None,
        epilog=epilog,
        aux_dtype=aux,
        transpose_a=turned_a,
        transpose_b=turned_b,
        conjugate_a=conjugate_a and is_complex,
        conjugate_b=conjugate_b and is_complex,
        scaling_a=scalings[0],
        scaling_b=scalings[1],
        scale_d="scale_d" in given,
        scale_aux="scale_aux" in given,
        result_amax=result_amax,
        aux_amax=aux_amax,
        inplace=inplace,
        vectors=vectors,
    )
    checks.narrow(made, batch)
    checks.inplace_needs_c(made)
    checks.epilog(made)
    checks.operands(made, types, batch)
    return made
