"""What a plan says of itself: what will run, and every move of data around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nvstate.matmul import lowering, padding

if TYPE_CHECKING:
    from nvstate.matmul.plan import MatmulPlan


def rows(plan: MatmulPlan) -> list[tuple[str, str]]:
    """What will run, as a table of two columns."""
    spec = plan.spec
    table = [
        ("product", f"{at(plan)}{', c consumed' if spec.inplace else ''}"),
        ("results", ", ".join(f"{name} {t}" for name, t in plan.results.items())),
        ("computes", computes(plan)),
    ]
    if spec.epilog:
        table.append(("epilog", spec.epilog))
    if spec.scaling_a:
        table.append(
            ("scaling", " and ".join(dict.fromkeys((spec.scaling_a, str(spec.scaling_b)))))
        )
    table.append(("runs", runs(plan)))
    if plan.backend == "xla":
        return table
    if plan.is_empty:
        return [*table, ("calls", "none: XLA writes a result without a product")]
    table.append(("workspace", f"{plan.workspace_bytes} bytes, by XLA"))
    algorithm = plan.algorithm
    if algorithm is not None:
        told = ", ".join(f"{k} {v}" for k, v in algorithm.configuration.items())
        table.append(("algorithm", told))
    table.append(("calls", f"{native_calls(plan)} of cublasLtMatmul for each execution"))
    return table + [("moves", what) for what in moves(plan)]


def native_calls(plan: MatmulPlan) -> int:
    """How often the library's product is called in one execution."""
    from nvstate import _native
    from nvstate._core import lower
    from nvstate.matmul import query

    call, operands, results = query.call_of(plan)
    buffers = [[(str(t.dtype), tuple(t.shape)) for t in side] for side in (operands, results)]
    return _native.cublaslt_layout(lower.attributes_of(call), *buffers)["calls"]


def moves(plan: MatmulPlan) -> list[str]:
    """Every operand that XLA must write out first."""
    spec, found = plan.spec, list[str]()
    c = dict(zip(spec.names, plan.matrices(), strict=True)).get("c")
    if c is not None and c.shape[-1:] != (spec.n,) and spec.n > 1:
        found.append("c is broadcast along N and written out")
    there = lowering.called(spec)
    for name in ("a", "b"):
        if getattr(spec, f"conjugate_{name}") and not getattr(there, f"conjugate_{name}"):
            found.append(f"{name} is conjugated and written out")
    if there.epilog != spec.epilog:
        found.append(f"{spec.epilog} is summed by XLA, which reads the operand again")
    made = plan.matrix_spec()
    shapes = {name: t.shape for name, t in zip(made.names, plan.matrices(), strict=True)}
    wide = padding.padded(made, shapes, plan.preferences)
    if wide != made:
        names = ", ".join(padding.copied(made, wide, shapes))
        extents = f"M={wide.m}, N={wide.n}, K={wide.k}"
        found.append(f"{names}: copied by XLA from or to rows of 16 bytes, for {extents}")
    if spec.inplace:
        found.append("under `jit` a c that is not donated is copied once")
    return found


def line(plan: MatmulPlan) -> str:
    """The plan in one line, from its data alone: the library is not asked."""
    spec = plan.spec
    said = [computes(plan)]
    said += [f"epilog {spec.epilog}"] * bool(spec.epilog)
    said += [f"scaling {spec.scaling_a}, {spec.scaling_b}"] * bool(spec.scaling_a)
    said += ["in place"] * spec.inplace
    said += [f"{name}={value!r}" for name, value in plan.choices[0]]
    said += [f"algorithm {one.data.hex()}" for one in plan.pinned]
    others = len(plan.choices[1]) - len(plan.pinned)
    said += [f"{others} algorithms of derivatives"] * bool(others)
    names = list(plan.results)
    returns = plan.result if len(names) == 1 else f"MatmulResult({', '.join(names)})"
    return f"MatmulPlan({at(plan)} -> {returns}: {', '.join(said)}; {runs(plan)})"


def computes(plan: MatmulPlan) -> str:
    """Compute type, scale type, flags, α and β."""
    spec = plan.spec
    said = [spec.compute_type, f"scale type {spec.scale_type}", f"alpha {spec.alpha}"]
    said += [f"beta {spec.beta}"] * (spec.beta is not None)
    flags = ("transpose_a", "transpose_b", "conjugate_a", "conjugate_b")
    return ", ".join([*said, *(name for name in flags if getattr(spec, name))])


def at(plan: MatmulPlan) -> str:
    """The operands' types and place."""
    types = " ".join(f"{name} {t}" for name, t in plan.operands.items())
    return f"{types} on {plan.placement}" if plan.placement else types


def runs(plan: MatmulPlan) -> str:
    """The library."""
    return "XLA's dot" if plan.backend == "xla" else "XLA" if plan.is_empty else "cuBLASLt"


def arguments(plan: MatmulPlan) -> str:
    """What to type between the parentheses of `plan()` for other operands."""
    spec = plan.spec
    said = [name for name in spec.names if name in ("a", "b", "c")]
    said += [f"{name}={name}" for name in spec.names if name not in ("a", "b", "c")]
    usual: dict[str, Any] = {"alpha": 1.0, "block_scaling": ("tensor", "tensor")}
    for name, value in spec.keywords().items():
        always = name in ("epilog", "beta") or (name == "compute_type" and value == "tf32")
        derived = name in ("compute_type", "scale_type", "result_dtype", "aux_dtype")
        if always or not (derived or value is False or usual.get(name) == value):
            said.append(f"{name}={value!r}".replace("'", '"'))
    return ", ".join(said)
