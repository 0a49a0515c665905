"""What is no product, and how it is said."""

from __future__ import annotations

from typing import Any, cast, get_args

import numpy as np

from nvstate._core.aval import OperandType
from nvstate.matmul import arguments, table
from nvstate.matmul.arguments import ComputeType, ScaleType, Scaling, error, listed, unsupported
from nvstate.matmul.epilog import Parts, parts as parts_of
from nvstate.matmul.spec import OPERAND, MatmulSpec

_BLOCKS = {  # of each mode, what M, N and K are multiples of
    "tensor": (16, 16, 16),
    "outer": (16, 16, 16),
    "1x128": (8, 8, 16),
    "128x128": (8, 8, 16),
    "mxfp8": (128, 128, 128),
    "nvfp4": (128, 128, 64),
}


def extents(
    a: OperandType, b: OperandType, turned_a: bool, turned_b: bool
) -> tuple[int, int, int, tuple[int, ...]]:
    """M, N, K and the batch axes of the product."""
    for name, t in (("a", a), ("b", b)):
        if not t.shape:
            raise error(
                f"`{name}` has no axes", "[*batch, rows, columns] or [K]", str(t), "Pass a matrix."
            )
    rows, columns = (
        _matrix(a, turned_a, vector_first=True),
        _matrix(b, turned_b, vector_first=False),
    )
    (m, k), (other, n) = rows, columns
    if k != other:
        hints = [
            f"`{flag}=True`"
            for flag, fits in (
                ("transpose_a", len(a.shape) > 1 and not turned_a and m == other),
                ("transpose_b", len(b.shape) > 1 and not turned_b and n == k),
            )
            if fits
        ]
        raise error(
            "K differs between the operands",
            f"a [..., M, K] and b [..., K, N] after transposition: K={k} of `a`",
            f"a {a}, b {b}: K={other} of `b`",
            f"Did you mean {' or '.join(hints)}?" if hints else "Pass operands that agree in K.",
        )
    return m, n, k, batch_of(a=a.shape[:-2], b=b.shape[:-2])


def _matrix(t: OperandType, turned: bool, *, vector_first: bool) -> tuple[int, int]:
    if len(t.shape) == 1:
        return (1, t.shape[0]) if vector_first else (t.shape[0], 1)
    rows, columns = t.shape[-2:]
    return (columns, rows) if turned else (rows, columns)


def batch_of(**shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The batch axes that these broadcast to."""
    try:
        return np.broadcast_shapes(*shapes.values())
    except ValueError:  # NumPy's word for shapes that do not broadcast
        rank = max(map(len, shapes.values()))
        full = {name: (1,) * (rank - len(s)) + s for name, s in shapes.items()}
        axis = next(i for i in range(rank) if len({s[i] for s in full.values()} - {1}) > 1)
        raise error(
            "batch axes do not broadcast",
            "equal extents, or 1, in each batch axis",
            ", ".join(f"{name} {list(s)}" for name, s in shapes.items())
            + f": batch axis {axis - rank} differs",
            "Reshape one of the operands.",
        ) from None


def compute(
    a: str, b: str, compute_type: ComputeType | None, scale_type: ScaleType | None
) -> tuple[ComputeType, ScaleType]:
    """Compute and scale type: those given, if they go with the operands, or the defaults."""
    allowed = table.compute_types(a, b)
    chosen = compute_type or allowed[0]
    if chosen not in allowed:
        raise error(
            f'`compute_type="{chosen}"` of {a} and {b}',
            f"one of {listed(allowed)}",
            f'"{chosen}"',
            "Leave `compute_type` out, or pass one of them.",
        )
    scales = table.scale_types(a, chosen)
    scale = scale_type or scales[0]
    if scale not in scales:
        raise error(
            f'`scale_type="{scale}"` with `compute_type="{chosen}"` of {a}',
            f"one of {listed(scales)}",
            f'"{scale}"',
            "Leave `scale_type` out: the compute type has one.",
        )
    return cast(ComputeType, chosen), cast(ScaleType, scale)


def c(c: OperandType | None, beta: Any, a: str) -> None:
    """C and β go together, and C's dtype with the operands'."""
    if (c is None) != (beta is None):
        raise error(
            "`c` without `beta`" if c else "`beta` without `c`",
            "both or neither",
            f"c {c}" if c else f"beta {beta}",
            "Pass `beta=1.0` for C as it is." if c else "Pass `c`, or leave `beta` out.",
        )
    if c is not None and c.dtype not in table.c_types(a):
        raise error(
            f"`c` of {c.dtype} with operands of {a}",
            f"one of {listed(table.c_types(a))}",
            str(c),
            f'Convert it with `c.astype("{table.c_types(a)[0]}")`.',
        )


def result(a: str, b: str, compute: str, scale: str, c: str | None, wanted: Any) -> str:
    """Dtype of D: the one given, if it goes with the others, or the default."""
    allowed = table.result_types(a, b, compute, scale, c)
    name = table.default_result(a, scale, c) if wanted is None else _dtype("result_dtype", wanted)
    if name not in allowed:
        of_c = f" and c of {c}" if c else ""
        raise error(
            f"a result of {name} from {a} and {b}{of_c}",
            f"one of {listed(allowed)}" if allowed else "another dtype of `c`",
            f'{name}, compute type "{compute}", scale type "{scale}"',
            "Leave `result_dtype` out, or pass one of them.",
        )
    return name


def _dtype(name: str, value: Any) -> str:
    try:
        return np.dtype(value).name
    except TypeError:  # NumPy's word for what is no dtype
        raise error(
            f"`{name}` is no dtype", "a dtype or its name", repr(value), "Pass one."
        ) from None


def scalar(name: str, value: Any, scale: str) -> str | None:
    """α or β as a spec has it: "operand", or the number as text."""
    if value is None:
        return None
    if isinstance(value, OperandType):
        if scale == "int32":
            raise error(
                f"`{name}` of an int32 product is a number",
                "0 or 1",
                str(value),
                'Pass one of them, or `scale_type="float32"` for an int8 result.',
            )
        if value.shape or value.dtype != scale:
            raise error(
                f"`{name}` of another type",
                f"a number, or an array {scale}[]",
                str(value),
                f'Pass `jax.numpy.asarray({name}, "{scale}")`: the scale type is {scale}.',
            )
        return OPERAND
    if isinstance(value, complex) and table.real(scale):
        raise error(
            f"`{name}` is complex, but the product is real",
            f"a number of the scale type, {scale}",
            repr(value),
            "Pass a real number.",
        )
    if scale == "int32":
        if value not in (0, 1):
            raise error(
                f"`{name}` of an int32 product",
                "0 or 1",
                repr(value),
                'Pass one of them, or `scale_type="float32"` for an int8 result.',
            )
        return str(int(value))
    number: Any = value
    return repr(float(number)) if table.real(scale) else repr(complex(number))


def scalings(a: str, block_scaling: Any) -> tuple[Scaling | None, Scaling | None]:
    """How a and b are scaled."""
    if a not in table.NARROW:
        if block_scaling not in (None, False):
            raise error(
                f"`block_scaling` of {a}",
                "FP8 or FP4 operands",
                repr(block_scaling),
                "Leave it out, or convert the operands with `nvstate.matmul.scaling.quantize`.",
            )
        return None, None
    default = "nvfp4" if a == table.E2M1 else "mxfp8" if block_scaling is True else "tensor"
    given = default if block_scaling is None or isinstance(block_scaling, bool) else block_scaling
    pair: Any = given if isinstance(given, tuple) else (given, given)
    allowed: tuple[Any, ...] = ("nvfp4",) if a == table.E2M1 else get_args(Scaling)[:-1]
    hopper = ("1x128", "128x128")
    known = len(pair) == 2 and all(mode in allowed for mode in pair)
    if not known or (pair[0] != pair[1] and not all(mode in hopper for mode in pair)):
        raise error(
            "unknown `block_scaling`",
            f'one of {listed(allowed)}, or a pair of "1x128" and "128x128"',
            repr(block_scaling),
            "Pass one of them.",
        )
    if pair == ("128x128", "128x128"):
        raise error(
            '"128x128" of both operands',
            '"1x128" for at least one of them',
            repr(block_scaling),
            'Pass `block_scaling=("1x128", "128x128")`.',
        )
    return pair


def aux_dtype(
    parts: Parts, operand: OperandType | None, wanted: Any, result: str, c: str | None, a: str
) -> str | None:
    """Dtype of gelu_aux, which the epilog gives or takes."""
    own = table.bias_type(result, c, a) if result in table.NARROW else result
    if parts.takes == "gelu_aux" and wanted is None:
        name = operand.dtype if operand else own
        allowed = (own, *(t for t in ("bfloat16", "float16") if a in table.FP8 and t != own))
        if name not in allowed:
            raise error(
                "`gelu_aux` of the wrong type",
                f"one of {listed(allowed)}",
                str(operand),
                f'Pass what epilog "gelu_aux" made for a result of {own}.',
            )
        return name
    if parts.gives != "gelu_aux":
        if wanted is not None:
            raise error(
                "`aux_dtype` is about the result gelu_aux",
                '`epilog="gelu_aux"` or "gelu_aux_bias"',
                f"aux_dtype={wanted!r}",
                "Leave `aux_dtype` out.",
            )
        return None
    name = own if wanted is None else _dtype("aux_dtype", wanted)
    allowed = {own, *(("bfloat16", "float16", *sorted(table.FP8)) if a in table.FP8 else ())}
    if name not in allowed:
        raise error(
            f"gelu_aux of {name}",
            f"one of {listed(sorted(allowed))}",
            name,
            "Leave `aux_dtype` out, or pass one of them.",
        )
    return name


def narrow(made: MatmulSpec, batch: tuple[int, ...]) -> None:
    """Scales, extents and maxima of FP8 and FP4."""
    fp8_result = made.result_dtype in table.FP8 and made.scaling_a == "tensor"
    fp8_aux = made.aux_dtype in table.FP8 and made.parts.gives == "gelu_aux"
    for name, needed, what in (
        ("scale_d", fp8_result, 'an FP8 result under "tensor" scaling'),
        ("scale_aux", fp8_aux, "an FP8 gelu_aux"),
    ):
        if getattr(made, name) != needed:
            raise error(
                f"`{name}` is missing" if needed else f"`{name}` without its use",
                f"`{name}`, float32[], for {what} and for nothing else",
                f"result {made.result_dtype}, gelu_aux {made.aux_dtype}",
                f"Pass `{name}`." if needed else f"Leave `{name}` out.",
            )
    for name, needed, what in (
        ("result_amax", fp8_result, 'an FP8 result under "tensor" scaling'),
        ("aux_amax", fp8_aux, "an FP8 gelu_aux"),
    ):
        if getattr(made, name) and not needed:
            raise error(
                f"`{name}` without its use",
                what,
                f"result {made.result_dtype}, gelu_aux {made.aux_dtype}",
                f"Leave `{name}` out.",
            )
    if made.scaling_a is None or made.scaling_b is None:
        return
    multiples = [max(p) for p in zip(_BLOCKS[made.scaling_a], _BLOCKS[made.scaling_b], strict=True)]
    for name, extent, multiple in zip("MNK", (made.m, made.n, made.k), multiples, strict=True):
        if extent % multiple:
            raise error(
                f"{name}={extent} under {_modes(made)} scaling",
                f"a multiple of {multiple}",
                f"M={made.m}, N={made.n}, K={made.k}",
                f"{name}={extent}: pad to {-(-extent // multiple) * multiple}.",
            )
    if {made.scaling_a, made.scaling_b} & {"1x128", "128x128"}:
        if made.result_dtype in table.NARROW:
            raise error(
                f"a result of {made.result_dtype} under {_modes(made)} scaling",
                listed(("bfloat16", "float16", "float32")),
                made.result_dtype,
                "Pass one of them as `result_dtype`.",
            )
        if batch:
            raise unsupported(
                f"batch axes under {_modes(made)} scaling",
                "a [M, K] and b [K, N]",
                f"batch {list(batch)}",
                "Multiply one by one, under `jax.vmap` or `jax.lax.map`.",
            )


def _modes(made: MatmulSpec) -> str:
    return " and ".join(f'"{m}"' for m in dict.fromkeys((made.scaling_a, made.scaling_b)))


def epilog(made: MatmulSpec) -> None:
    """Epilogs that cuBLASLt has not got for these types or extents."""
    if made.epilog is None:
        return
    allowed: tuple[str, ...] | None = None
    if made.a_dtype == "int8" or made.a_dtype.startswith("complex"):
        allowed = ()
    elif {made.scaling_a, made.scaling_b} & {"1x128", "128x128"}:
        allowed = ("bias", "dgelu")
    elif made.a_dtype == table.E2M1:
        allowed = ("bias", "relu", "gelu", "relu_bias", "gelu_bias")
    if allowed is not None and made.epilog not in allowed:
        of = f"{made.a_dtype} under {_modes(made)} scaling" if allowed else made.a_dtype
        raise unsupported(
            f'cuBLASLt has no epilog "{made.epilog}" for {of}',
            f"one of {listed(allowed)}, or none" if allowed else "no epilog",
            f'"{made.epilog}"',
            "Leave it out, and write it in `jax.numpy` after the product: XLA fuses that.",
        )
    if made.parts.takes and made.k == 1:
        raise unsupported(
            f'K = 1 with epilog "{made.epilog}"',
            "K of at least 2: cuBLASLt gave wrong results there",
            "K=1",
            "Write the outer product in `jax.numpy`.",
        )


def operands(made: MatmulSpec, types: dict[str, OperandType], batch: tuple[int, ...]) -> None:
    """The operands beside a and b: those the problem has, with the shapes that it needs."""
    missing = [name for name in made.names if name not in types]
    extra = [name for name in types if name not in made.names]
    if missing or extra:
        raise _operands_of(made, missing, extra)
    batches = {name: made.batch(name, types[name].shape) for name in "ab"}
    if made.scaling_a in ("mxfp8", "nvfp4") and batches["a"] != batches["b"]:
        raise error(
            f"batch axes that broadcast under {_modes(made)} scaling",
            "equal batch axes of `a` and `b`, or none",
            f"a {types['a']}, b {types['b']}",
            "Broadcast the operand and its scales first.",
        )
    for name in made.names[2:]:
        t, dtype, core = types[name], made.dtype(name), made.core(name)
        if name == "c":
            _c(made, t, batch)
            continue
        if name in ("alpha", "beta"):
            continue
        outer = t.shape[: len(t.shape) - len(core)]
        fits = t.shape[len(outer) :] == core
        if name.startswith("scale"):
            single = core == ()
            ok = t.shape in ((), (1,)) if single else fits and _within(outer, batch)
            if t.dtype != dtype or not ok:
                mode = getattr(made, f"scaling_{name[-1]}", None) if name[-2] == "_" else None
                raise error(
                    f"`{name}` of the wrong type",
                    f"{OperandType(core, dtype)}" + (f' for "{mode}" scaling' if mode else ""),
                    str(t),
                    _scale_advice(mode),
                )
        elif name == "bias" and (not fits or not _within(outer, batch)):
            runs = " M fits, but a bias does not run along M." if t.shape[-1:] == (made.m,) else ""
            raise error(
                "`bias` of the wrong shape",
                f"{OperandType(core, dtype)}, or with the batch axes before it",
                str(t),
                f"A bias runs along N={made.n}.{runs}",
            )
        elif not fits or not _within(outer, batch) or t.dtype != dtype:
            do = f'Pass what epilog "{name}" made with the same M={made.m}, N={made.n}.'
            if name == "bias":
                do = f'Convert it with `bias.astype("{dtype}")`.'
            raise error(f"`{name}` of the wrong type", str(OperandType(core, dtype)), str(t), do)


def _scale_advice(mode: str | None) -> str:
    if mode in (None, "tensor"):
        return (
            "Pass a float32 array of one element; for a scale of each row or block, say which: "
            '`block_scaling="outer"`, "1x128", "128x128", "mxfp8" or "nvfp4".'
        )
    return f"Make it with `nvstate.matmul.scaling.pack_scales(scales, {mode!r})`."


def _within(outer: tuple[int, ...], batch: tuple[int, ...]) -> bool:
    """Whether these batch axes broadcast to those."""
    try:
        return np.broadcast_shapes(outer, batch) == batch
    except ValueError:  # NumPy's word for shapes that do not
        return False


def _operands_of(made: MatmulSpec, missing: list[str], extra: list[str]) -> Exception:
    name = (missing or extra)[0]
    if name.startswith("scale_"):
        kind = "FP8 and FP4 operands have scales" if missing else "only FP8 and FP4 have scales"
        return error(
            f"`{name}` is {'missing' if missing else 'not used'}",
            f"the operands {', '.join(made.names)}",
            f"a of {made.a_dtype}, b of {made.b_dtype}, result of {made.result_dtype}",
            f"{'Pass' if missing else 'Leave out'} `{name}`: {kind}.",
        )
    said = f'epilog "{made.epilog}"' if made.epilog else "no epilog"
    others = [e for e in get_args(arguments.Epilog) if _has(e, name)]
    return error(
        f"`{name}` is missing" if missing else f"`{name}` without its epilog",
        f"{said}: the operands {', '.join(made.names)}",
        f"no `{name}`" if missing else f"`{name}`",
        f"Pass `{name}`." if missing else f"Use `epilog=` one of {listed(others)}.",
    )


def _has(epilog: Any, name: str) -> bool:
    return parts_of(epilog).bias if name == "bias" else parts_of(epilog).takes == name


def _c(made: MatmulSpec, t: OperandType, batch: tuple[int, ...]) -> None:
    d = (*batch, *made.core("d"))
    if not _within(t.shape, d):
        raise error(
            "`c` does not broadcast to the result",
            f"what broadcasts to {list(d)}",
            str(t),
            "Reshape it.",
        )
    if made.inplace and (t.shape != d or t.dtype != made.result_dtype):
        raise error(
            "in place, but `c` and the result differ in type",
            str(OperandType(d, made.result_dtype)),
            str(t),
            "Leave `inplace` out, or broadcast `c` first.",
        )


def inplace_needs_c(made: MatmulSpec) -> None:
    """Refuse a result in the memory of a C that is not there."""
    if made.inplace and made.c_dtype is None:
        raise error(
            "in place without `c`",
            "`c` of the result's shape and dtype, whose memory the result takes",
            "no `c`",
            "Pass `c` and `beta`, or leave `inplace` out.",
        )
