"""The product's conformance rows. The oracle is NumPy in float64, never our reference."""

import numpy as np

import nvstate as nvs
from tests.case import Case
from tests.matmul import oracle


def case(name, shapes, dtype, bound, *, linear=False, aux=None, **problem):
    """A row: operands of these shapes, and what NumPy makes of them."""

    def operand(rng):
        # Away from zero, where relu has no derivative.
        return {n: oracle.random(rng, s, dtype) for n, s in shapes.items()}

    def plan(a, b, c=None, **arrays):
        if "alpha" not in arrays and problem.get("alpha") is not None:
            arrays["alpha"] = problem["alpha"]
        said = {n: v for n, v in problem.items() if n != "alpha"}
        return nvs.matmul.plan(a, b, *([] if c is None else [c]), **arrays, **said)

    def wanted(a, b, c=None, **arrays):
        z = oracle.product(a, b, c, **{**problem, **arrays})
        d = oracle.applied(z, problem.get("epilog"))
        if aux == "gelu_aux":
            pad = -z.shape[-1] % 8
            return d, np.pad(z, [(0, 0)] * (z.ndim - 1) + [(0, pad)])
        return d

    return Case(f"matmul-{name}", operand, plan, wanted, bound, linear)


CASES = [
    case(
        "turned-conjugated-broadcast-with-c",
        {"a": (2, 1, 4, 8), "b": (3, 6, 4), "c": (8, 6)},
        "complex64",
        1e-6,
        transpose_a=True,
        transpose_b=True,
        conjugate_a=True,
        alpha=0.5 - 2j,
        beta=2.0,
    ),
    case(
        "gelu-aux-bias",
        {"a": (2, 8, 5), "b": (5, 6), "bias": (6,)},
        "float64",
        1e-15,
        aux="gelu_aux",
        epilog="gelu_aux_bias",
    ),
]
