"""The FFT's reference, derivative and library call: rules that are maps on specs."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nvstate._core import lower
from nvstate._core.primitive import define
from nvstate.fft import strategy, workspace
from nvstate.fft.arguments import WHERE
from nvstate.fft.spec import FFTSpec

TARGET = "nvstate_cufft_v1"


def reference(spec: FFTSpec, x: jax.Array) -> jax.Array:
    """The transform by `jax.numpy`: its definition, and what CPUs run."""
    function = {
        ("c2c", "forward"): jnp.fft.fftn,
        ("c2c", "inverse"): jnp.fft.ifftn,
        ("r2c", "forward"): jnp.fft.rfftn,
        ("c2r", "inverse"): jnp.fft.irfftn,
    }[spec.kind, spec.direction]
    # Not by `norm=`, whose array constants custom partitioning cannot take.
    return _scaled(function(x, s=spec.lengths, axes=spec.axes), spec.scale_over_numpys)


def gathered(spec: FFTSpec, x: jax.Array) -> jax.Array:
    """The same, with no forward c2c: jax 0.10 aborts where one is split along its axis.

    Its partitioner would transform by parts, and checks lengths by an assertion. Every other kind
    it gathers.
    """
    if (spec.kind, spec.direction) != ("c2c", "forward"):
        return reference(spec, x)
    y = jnp.conj(jnp.fft.ifftn(jnp.conj(x), s=spec.lengths, axes=spec.axes))
    return _scaled(y, spec.scale * math.prod(spec.lengths))


def transpose(spec: FFTSpec, ct: jax.Array, choices: Any) -> jax.Array:
    """The transposed map, without conjugation, as JAX has it.

    A DFT matrix is symmetric. For the real kinds, with z_k = conj(ȳ_k)/w_k,
    x̄[n] = Re Σ_k ȳ_k exp(-2πi kn/N) = Σ_k w_k Re(z_k exp(+2πi kn/N)), which is a c2r of z; and the
    other way round. w is 2 where a stored frequency has a mirror image, else 1.
    """
    turned = spec.transposed()
    if spec.kind == "c2c":
        y = fft(turned, ct, choices=choices)
    elif spec.kind == "r2c":
        y = fft(turned, jnp.conj(ct) / _mirrored(spec, ct), choices=choices)
    else:
        y = fft(turned, ct, choices=choices)
        y = jnp.conj(y * _mirrored(spec, y))
    return _fitted(y, spec.axes, spec.extents)


def _mirrored(spec: FFTSpec, x: jax.Array) -> jax.Array:
    """1 at frequency zero and, for an even length, at the last; else 2. Along the halved axis."""
    n = spec.lengths[-1]
    # By comparison, not as an array: a constant of n/2 elements would be kept in the program.
    k = jax.lax.broadcasted_iota(np.int32, x.shape, spec.axes[-1] + x.ndim)
    alone = (k == 0) | (2 * k == n)
    return jnp.where(alone, 1, 2).astype(x.real.dtype)


def _fitted(x: jax.Array, axes: tuple[int, ...], extents: tuple[int, ...]) -> jax.Array:
    """Crop `x` or pad it with zeros to `extents` along `axes`: a map that is its own transpose."""
    config = [(0, 0, 0)] * x.ndim
    for axis, extent in zip(axes, extents, strict=True):
        config[axis] = (0, extent - x.shape[axis], 0)
    if not any(high for _, high, _ in config):
        return x
    return jax.lax.pad(x, jnp.zeros((), x.dtype), config)


# On CUDA


def cuda(spec: FFTSpec, x: jax.Array, choices: Any) -> jax.Array:
    """The transform by cuFFT, unscaled, then the scale, which XLA fuses with what follows."""
    for stage in strategy.stages(spec):
        x = _stage(stage, x, choices or "auto", spec.family)
    return _scaled(x, spec.scale)


def _stage(spec: FFTSpec, x: jax.Array, choices: Any, owner: int) -> jax.Array:
    # cuFFT can skip elements of an operand that is too long, but not invent missing ones.
    spec = strategy.padded(spec)
    x = _fitted(x, spec.axes, spec.extents)
    if is_symmetrised(spec):
        x = symmetrised(spec, x)
    rank = x.ndim
    positions = spec.positions(rank)
    rest = tuple(axis for axis in range(rank) if axis not in positions)
    order = (*rest, *positions)
    if strategy.preferred(spec, x.shape, choices) != "transpose":
        return lower.call(x, _call(spec, x.shape, order, owner))
    trailing = dataclasses.replace(spec, axes=tuple(range(-len(positions), 0)))
    x = jax.lax.transpose(x, order)
    y = lower.call(x, _call(trailing, x.shape, tuple(range(rank)), owner))
    return jax.lax.transpose(y, lower.layout(order))


def _call(spec: FFTSpec, shape: tuple[int, ...], order: tuple[int, ...], owner: int) -> lower.Call:
    attributes = {
        "v": np.int64(1),
        "owner": np.int64(owner),
        "kind": spec.kind,
        "inverse": np.int64(spec.direction == "inverse"),
        "lengths": spec.lengths,
        "layout": lower.layout(order),
    }
    return lower.Call(
        target=TARGET,
        where=WHERE,
        attributes=tuple(attributes.items()),
        order=order,
        batch=len(order) - len(spec.axes),
        shape=spec.result_shape(shape),
        dtype=spec.result_dtype,
        inplace=spec.inplace,
        destroys=spec.kind == "c2r",
        workspace=workspace.needed,
    )


def is_symmetrised(spec: FFTSpec) -> bool:
    """Whether a pass makes the operand's self-mirrored planes Hermitian first."""
    return spec.kind == "c2r" and spec.hermitian == "numpy"


def symmetrised(spec: FFTSpec, x: jax.Array) -> jax.Array:
    """Replace the planes that hold their own mirror images by their Hermitian part.

    NumPy's irfftn takes the real part of these planes after transforming the other axes, which is
    the transform of (X[k] + conj(X[-k])) / 2. cuFFT's C2R reads half of each and trusts the rest;
    of one axis, it should ignore two imaginary parts, but for complex64 it reads them at 8192 and
    16384 points (cuFFT 12). A new array in one pass: it is also the copy that cuFFT may overwrite.
    """
    n, outer = spec.lengths[-1], list(zip(spec.positions(x.ndim)[:-1], spec.lengths, strict=False))
    last = spec.axes[-1] + x.ndim
    k = jax.lax.broadcasted_iota(np.int32, x.shape, last)
    if not outer:
        return jnp.where((k == 0) | (2 * k == n), x.real.astype(x.dtype), x)
    y = x
    for plane in [0, n // 2] if n % 2 == 0 else [0]:
        part = jax.lax.slice_in_dim(x, plane, plane + 1, axis=last)
        mirror = part
        for axis, length in outer:  # the operand may be longer than what is read
            zero, rest, unread = jnp.split(mirror, [1, length], axis)
            mirror = jnp.concatenate([zero, jax.lax.rev(rest, (axis,)), unread], axis)
        y = jnp.where(k == plane, (part + jnp.conj(mirror)) / 2, y)
    return y


def _scaled(x: jax.Array, scale: float) -> jax.Array:
    if scale == 1:
        return x
    if not jnp.iscomplexobj(x):
        return x * x.dtype.type(scale)
    # By parts: a complex product would turn an infinity into NaN.
    c = np.dtype(x.real.dtype).type(scale)
    return jax.lax.complex(x.real * c, x.imag * c)


def whole(spec: FFTSpec, rank: int) -> tuple[int, ...]:
    """The axes that a device must hold whole."""
    return spec.positions(rank)


fft = define(
    "nvstate_fft",
    results=FFTSpec.results,
    reference=reference,
    transpose=transpose,
    batch=FFTSpec.shifted,
    whole=whole,
    gathered=gathered,
    cuda=cuda,
)
