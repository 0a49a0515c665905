"""Discrete Fourier transforms: cuFFT on CUDA, XLA's own kernels on CPUs."""

from nvstate.fft.estimate import estimate_workspace
from nvstate.fft.oneshot import (
    fft,
    fft2,
    fftn,
    ifft,
    ifft2,
    ifftn,
    irfft,
    irfft2,
    irfftn,
    rfft,
    rfft2,
    rfftn,
)
from nvstate.fft.plan import FFTPlan, plan
from nvstate.fft.spec import FFTSpec
from nvstate.fft.specify import spec

__all__ = [
    "FFTPlan",
    "FFTSpec",
    "estimate_workspace",
    "fft",
    "fft2",
    "fftn",
    "ifft",
    "ifft2",
    "ifftn",
    "irfft",
    "irfft2",
    "irfftn",
    "plan",
    "rfft",
    "rfft2",
    "rfftn",
    "spec",
]
