"""What the primitives are made of where an engine runs them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nvstate.direct_solver import choices as choices_, probes, product
from nvstate.direct_solver.calls import Call, call
from nvstate.direct_solver.choices import Choices
from nvstate.direct_solver.fingerprint import fingerprint
from nvstate.direct_solver.way import WORDS, Way

RIGHT = 0.1  # a probe that is farther off has no right digit
# Backward errors beyond which a system is solved again with refinement: some fifty roundoffs, where
# one or two are usual. A replaced pivot, or entries that grew, give any; refinement lowers them.
POOR = {"float32": 5e-6, "complex64": 5e-6, "float64": 1e-14, "complex128": 1e-14}
# With more, less than half of the digits are there: as native code has it.
HOPELESS = {name: float(np.sqrt(np.finfo(name).eps)) for name in POOR}


def factorize(way: Way, *operands: Any, on_cuda: bool = False) -> list[Any]:
    """(ticket, words) of the pattern, values and choices."""
    *pattern, values, choices = operands
    members = values.shape[0]
    if not members:
        return [jnp.zeros((0, WORDS), np.uint32), jnp.zeros((0, WORDS), np.int32)]
    values, _, _ = _in_units(way, values, on_cuda)
    given = (*_told(way, choices, pattern), values, *_beside(way, pattern, values, on_cuda))
    return call(given, _call(way, choices, "factorize", _tickets(members)))


def solve(way: Way, *operands: Any, on_cuda: bool = False) -> list[Any]:
    """(x,) of the pattern, values, ticket, b and choices."""
    *pattern, values, ticket, b, choices = operands
    if 0 in b.shape:
        return [jnp.zeros_like(b)]
    said = _solution(b)
    if not on_cuda:
        given = (*_told(way, choices, pattern), values, ticket, b)
        return call(given, _call(way, choices, "solve", said))
    values, unit, _ = _in_units(way, values, on_cuda)
    prints = fingerprint(values)
    given = (*_told(way, choices, pattern), values, _check(ticket, prints), b)
    if choices_.options(choices)["on_stale"] != "nan":
        (x,) = call(given, _call(way, choices, "solve", said))
        return [_times(x, unit)]
    seen_type = (((values.shape[0], 4), "uint32"),)
    x, seen = call(given, _call(way, choices, "solve", said + seen_type))
    same = (seen[:, :2] == ticket[:, 4:6]) & (seen[:, 2:] == prints[:, :2])
    return [jnp.where(same.all(1)[:, None, None], _times(x, unit), jnp.nan)]


def factorize_solve(way: Way, *operands: Any, on_cuda: bool = False) -> list[Any]:
    """(x, ticket, words) of the pattern, values, b and choices."""
    *pattern, values, b, choices = operands
    if 0 in b.shape:
        return [jnp.zeros_like(b), *factorize(way, *pattern, values, choices, on_cuda=on_cuda)]
    values, unit, _ = _in_units(way, values, on_cuda)
    given = (*_told(way, choices, pattern), values, *_beside(way, pattern, values, on_cuda), b)
    said = _solution(b) + _tickets(values.shape[0])
    x, *outcome = call(given, _call(way, choices, "factorize_solve", said))
    return [_times(x, unit), *outcome]


def diagonal(way: Way, *operands: Any, on_cuda: bool = False) -> list[Any]:
    """(the diagonal,) of the pattern, values, ticket and choices."""
    *pattern, values, ticket, choices = operands
    if not values.shape[0]:
        return [jnp.zeros((0, way.spec.n), values.dtype)]
    values, _, inverse = _in_units(way, values, on_cuda)
    named = _check(ticket, fingerprint(values)) if on_cuda else ticket
    said = (((values.shape[0], way.spec.n), str(values.dtype)),)
    given = (*_told(way, choices, pattern), values, named)
    (found,) = call(given, _call(way, choices, "diagonal", said))
    return [_times(found, inverse)]


def waiting(way: Way, *operands: Any, on_cuda: bool = False) -> list[Any]:
    """(x,) by the call that waits for the engine."""
    return factorize_solve(way, *operands, on_cuda=on_cuda)[:1]


def fused(way: Way, *operands: Any) -> list[Any]:
    """(x,) on CUDA, by the call that waits for nothing, where there can be one."""
    *pattern, values, b, choices = operands
    spec = way.spec
    if 0 in b.shape or values.shape[0] != 1 or not _needs_no_answer(spec, choices):
        return waiting(way, *operands, on_cuda=True)
    _, indices, rows, *_ = pattern
    held, unit, _ = _in_units(way, values, True)
    signs, image = _probe(way, pattern, held)
    given = jnp.concatenate([b, image], axis=1)
    made = _call(way, choices, "fused", _solution(given))
    (whole,) = call((*_told(way, choices, pattern), held, given), made)
    x, probe = _times(whole[:, :-1], unit), whole[:, -1:]
    right = jnp.abs(probe - signs).max() <= RIGHT  # not where it is NaN
    x = jnp.where(right, x, jnp.nan)
    if spec.refinement_steps == 0:
        return [x]
    error = backward_error(way, rows, indices, values, x, b)
    if spec.refinement_steps > 0:  # they help the probe; where they do not help b, too few did
        return [jnp.where((error <= HOPELESS[spec.dtype])[..., None], x, jnp.nan)]
    fine = jnp.all(error <= POOR[spec.dtype])
    again = lambda: waiting(way, *operands, on_cuda=True)[0]  # noqa: E731
    return [jax.lax.cond(fine, lambda: x, again)]


def backward_error(way: Way, rows: Any, indices: Any, values: Any, x: Any, b: Any) -> Any:
    """max|b - M x| / (‖M‖∞ max|x| + max|b|) of each column, real [B, k]; NaN if x is."""
    residual = b - product.product(way.spec, rows, indices, values, x, transposed=way.transposed)
    of, to = (rows, indices) if way.transposed else (indices, rows)
    norm = product.absolute_rows(way.spec, to, of, values).max(-1)[:, None]
    scale = norm * jnp.abs(x).max(-1) + jnp.abs(b).max(-1)
    size = jnp.abs(residual).max(-1)
    return jnp.where(size == 0, size, size / jnp.where(scale == 0, 1, scale))


def _in_units(way: Way, values: Any, on_cuda: bool) -> tuple[Any, Any, Any]:
    """Values as an engine takes them, what each member [B] was multiplied with, and its inverse.

    cuDSS replaces pivots of symmetric matrices below a number, whatever the entries are: so it gets
    them times a power of two, with which the largest is from 1 to 2. None: as they are. PARDISO's
    are multiplied in native code.

    The power is made of bits: what `ldexp` compiles to for a GPU is not exact, and then a program
    whose values are constants, which XLA computes on the host, would have other fingerprints.
    """
    if not on_cuda or way.spec.matrix_type not in ("symmetric", "hermitian"):
        return values, None, None
    parts = [values.real, values.imag] if jnp.iscomplexobj(values) else [values]
    largest = jnp.stack([jnp.abs(part).max(1, initial=0) for part in parts]).max(0)
    about = np.finfo(values.dtype)
    bias, whole = about.maxexp - 1, np.dtype(f"int{about.bits}").type
    exponent = jax.lax.bitcast_convert_type(largest, whole) >> whole(about.nmant)
    # Neither it nor its inverse is subnormal.
    biased = jnp.clip(2 * bias - exponent, 1, 2 * bias - 1).astype(whole)
    unit, inverse = (
        jax.lax.bitcast_convert_type(bits << whole(about.nmant), largest.dtype)
        for bits in (biased, whole(2 * bias) - biased)
    )
    return values * unit[:, None].astype(values.dtype), unit, inverse


def _times(x: Any, unit: Any) -> Any:
    """Each member [B, ...] times its unit."""
    if unit is None:
        return x
    return x * unit.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)


def _needs_no_answer(spec: Any, choices: Choices) -> bool:
    """Whether cuDSS can factorize and solve without being asked what happened.

    Its error indicator for a matrix that is not definite stays until the host resets it.
    """
    said = choices_.options(choices)
    return (
        spec.matrix_type not in ("spd", "hpd")
        and spec.matching in ("none", "auto")
        and not (spec.reuse_pivots or spec.deterministic)
        and not (said["hybrid_memory"] or said["hybrid_execute"])
    )


def _probe(way: Way, pattern: Any, values: Any) -> tuple[Any, Any]:
    """The vector e of ±1 [1, 1, n], and M e [B, 1, n], which a solve must bring back to it."""
    _, indices, rows, *_ = pattern
    signs = jnp.where(probes.ups(way.spec.n, jnp.arange), 1, -1).astype(values.dtype)[None, None]
    every = jnp.broadcast_to(signs, (values.shape[0], 1, way.spec.n))
    of = product.product(way.spec, rows, indices, values, every, transposed=way.transposed)
    return signs, of


def _told(way: Way, choices: Choices, pattern: Any) -> tuple[Any, ...]:
    """What engines read of a pattern; an array without elements where there is none."""
    indptr, indices, _, permutation, reference = pattern
    if not choices_.permutation(way.spec, choices):
        permutation = jnp.zeros(0, np.int32)
    if not way.spec.reference:
        reference = jnp.zeros(0, way.spec.dtype)
    return indptr, indices, permutation, reference


def _beside(way: Way, pattern: Any, values: Any, on_cuda: bool) -> tuple[Any, ...]:
    """What cuDSS's factorizations take besides: fingerprints, and what a probe's solve must solve.

    Cholesky's finds by itself what it cannot factorize.
    """
    if not on_cuda:
        return ()
    if way.spec.matrix_type in ("spd", "hpd"):
        return fingerprint(values), jnp.zeros((values.shape[0], 0), values.dtype)
    return fingerprint(values), _probe(Way(way.spec), pattern, values)[1][:, 0]


def _check(ticket: Any, prints: Any) -> Any:
    return jnp.concatenate([ticket, prints], axis=1)


def _call(way: Way, choices: Choices, phase: str, results: Any) -> Call:
    return Call(way.spec, choices, phase, way.transposed, results)


def _tickets(members: int) -> tuple[Any, ...]:
    return ((members, WORDS), "uint32"), ((members, WORDS), "int32")


def _solution(b: Any) -> tuple[Any, ...]:
    return ((tuple(b.shape), str(b.dtype)),)
