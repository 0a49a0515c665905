"""What `python -m nvstate` transforms to see whether transforms work."""

from __future__ import annotations

import numpy as np

from nvstate._core.selftest import Sample
from nvstate.fft.plan import plan

BOUND = 1e-6  # of single precision, whose error is about 2e-7 at these sizes


def samples() -> list[Sample]:
    """A complex transform, and one to real values of a spectrum that is not Hermitian.

    Both along axes that are not the last, so that batches are strided.
    """
    random = np.random.default_rng(0)
    x, spectrum = (
        (random.standard_normal(shape) + 1j * random.standard_normal(shape)).astype("complex64")
        for shape in ((4, 60, 6), (6, 17, 5))
    )
    return [
        Sample(
            name="c2c complex64[4,60,6], axes=(1,)",
            operands=(x,),
            run=lambda x: plan(x, axes=(1,))(x),
            oracle=lambda x: np.fft.fft(x.astype("complex128"), axis=1),
            bound=BOUND,
        ),
        Sample(
            name="c2r complex64[6,17,5], axes=(0, 1)",
            operands=(spectrum,),
            run=lambda x: plan(x, axes=(0, 1), kind="c2r")(x),
            oracle=lambda x: np.fft.irfftn(x.astype("complex128"), axes=(0, 1)),
            bound=BOUND,
        ),
    ]
