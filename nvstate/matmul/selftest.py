"""What `python -m nvstate` multiplies to see whether products work."""

from __future__ import annotations

import numpy as np

from nvstate._core.selftest import Sample
from nvstate.matmul.plan import plan

BOUND = 1e-6  # of single precision: TF32, which nobody asked for, would be at 1e-4


def samples() -> list[Sample]:
    """A batched product with a bias, of which every element differs."""
    random = np.random.default_rng(0)
    a, b, bias = (
        random.standard_normal(shape).astype("float32") for shape in ((3, 33, 64), (64, 24), (24,))
    )
    return [
        Sample(
            name="relu_bias float32[3,33,64] float32[64,24]",
            operands=(a, b, bias),
            run=lambda a, b, bias: plan(a, b, bias=bias, epilog="relu_bias")(a, b, bias=bias),
            oracle=lambda a, b, bias: np.maximum(a.astype("float64") @ b + bias, 0),
            bound=BOUND,
        )
    ]
