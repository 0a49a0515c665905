"""What a plan says of itself: what will run, and every move of data around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nvstate.fft import primitive, strategy as strategies

if TYPE_CHECKING:
    from nvstate.fft.plan import FFTPlan


def rows(plan: FFTPlan) -> list[tuple[str, str]]:
    """What will run, as a table of two columns."""
    spec = plan.spec
    table = [
        ("transform", transform(plan)),
        ("operand", f"{at(plan)}{', consumed' if spec.inplace else ''}"),
        ("result", f"{plan.result}"),
        ("scale", f"{spec.scale:.6g} ({spec.norm})"),
        ("runs", runs(plan)),
    ]
    if plan.backend == "xla":
        if all(type(n) is int for n in plan.operand.shape):  # not symbolic
            table.append(("on CUDA", f"cuFFT, {plan.strategy}"))
        return table
    exact = "" if plan.workspace_exact else " at most"
    table += [
        ("scaling", {"none": "none needed", "multiply": "a multiply by XLA"}[plan.scaling]),
        ("workspace", f"{plan.workspace_bytes} bytes{exact}, by XLA"),
    ]
    return table + [("moves", what) for what in _moves(plan)]


def line(plan: FFTPlan) -> str:
    """The plan in one line, from its data alone: nothing is planned natively for it."""
    spec = plan.spec
    pinned = [f"strategy {plan.choices}"] if plan.choices != "auto" else []
    said = [transform(plan), f"norm {spec.norm}", *["in place"] * spec.inplace, *pinned]
    return f"FFTPlan({at(plan)} -> {plan.result}: {', '.join(said)}; {would_run(plan)})"


def transform(plan: FFTPlan) -> str:
    """Which transform it is."""
    spec = plan.spec
    return f"{spec.kind} {spec.direction}, axes {spec.axes}, lengths {spec.lengths}"


def at(plan: FFTPlan) -> str:
    """The operand's type and place."""
    return f"{plan.operand} on {plan.placement}" if plan.placement else str(plan.operand)


def runs(plan: FFTPlan) -> str:
    """The library."""
    return "XLA's own FFT" if plan.backend == "xla" else f"cuFFT, {plan.strategy}"


def would_run(plan: FFTPlan) -> str:
    """The library, without looking for a device if the plan has none."""
    if plan.placement:
        return runs(plan)
    exact = all(type(n) is int for n in plan.operand.shape)  # not symbolic
    return f"cuFFT on CUDA{', ' + plan.strategy if exact else ''}; XLA's own FFT on CPUs"


def _moves(plan: FFTPlan) -> list[str]:
    """Every pad, copy and transpose around cuFFT's calls."""
    spec, moves = plan.spec, []
    pads = [
        axis
        for axis, have, need in zip(spec.axes, spec.extents, spec.needed, strict=True)
        if have < need
    ]
    if pads:
        moves.append(f"axes {tuple(pads)} are padded with zeros")
    shape = plan.operand.shape
    for stage in strategies.stages(spec):
        if strategies.preferred(stage, shape, plan.choices) == "transpose":
            moves.append(f"axes {stage.axes} are transposed to the end and back")
        shape = stage.result_shape(shape)
    if spec.kind == "c2r":
        moves.append("the operand is copied if it is used again: cuFFT may overwrite it")
        if primitive.is_symmetrised(spec):
            moves.append("planes that mirror themselves are made Hermitian, as NumPy does")
    if spec.inplace:
        moves.append("under `jit` an operand that is not donated is copied once")
    return moves
