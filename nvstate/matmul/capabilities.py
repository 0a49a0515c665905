"""Capabilities, what an algorithm can be configured to, in this package's words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from nvstate.matmul.arguments import error
from nvstate.matmul.preferences import IMPLEMENTATIONS, SCHEMES

CONFIGURABLE = (
    "tile",
    "stages",
    "split_k",
    "reduction_scheme",
    "cta_swizzling",
    "custom_option",
    "inner_shape",
    "cluster_shape",
)
_POINTERS = {
    "host": 1,
    "device": 2,
    "device_vector": 4,
    "alpha_device_vector_beta_zero": 8,
    "alpha_device_vector_beta_host": 16,
}
_EPILOGS = {  # as cublasLt.h numbers them, whose A is our b
    "relu": 2,
    "gelu": 32,
    "bias": 4,
    "relu_bias": 6,
    "gelu_bias": 36,
    "relu_aux": 130,
    "relu_aux_bias": 134,
    "gelu_aux": 160,
    "gelu_aux_bias": 164,
    "drelu": 136,
    "dgelu": 192,
    "drelu_bgrad": 152,
    "dgelu_bgrad": 208,
    "bgrada": 512,
    "bgradb": 256,
}


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """What an algorithm can be configured to. Not all of it goes with each problem.

    Attributes:
        tiles: numbers that `tile` may have; () where the library names none.
        stages: the same of `stages`.
        split_k: whether K can be split.
        reduction_schemes: of "inplace", "compute_type" and "output_type", which join its parts.
        cta_swizzling: whether `cta_swizzling` may be 1.
        custom_options: the largest `custom_option`.
        epilogs: those that it has.
        pointer_modes: where α and β may be.
        numerical_impl: what it computes with, in the words of `Preferences`.
        alignments: least bytes that the addresses of a, b, c and d are multiples of, by name.
        strided_batch: whether it multiplies batches.
        out_of_place: whether C and D may be different buffers.
    """

    tiles: tuple[int, ...] = ()
    stages: tuple[int, ...] = ()
    split_k: bool = False
    reduction_schemes: tuple[str, ...] = ()
    cta_swizzling: bool = False
    custom_options: int = 0
    epilogs: tuple[str, ...] = ()
    pointer_modes: tuple[str, ...] = ()
    numerical_impl: tuple[str, ...] = ()
    alignments: tuple[tuple[str, int], ...] = ()
    strided_batch: bool = False
    out_of_place: bool = False

    def __repr__(self) -> str:
        rows = [f"  {f.name}: {_told(getattr(self, f.name))}" for f in dataclasses.fields(self)]
        return "\n".join(["Capabilities", *rows])

    def allowed(self, name: str) -> tuple[int, ...] | range | None:
        """Numbers that a setting may have; None: the library says nothing of it."""
        schemes = (0, *(SCHEMES[scheme] for scheme in self.reduction_schemes))
        known: dict[str, Any] = {
            "tile": self.tiles or None,
            "stages": self.stages or None,
            "split_k": None if self.split_k else (0, 1),
            "reduction_scheme": schemes,
            "cta_swizzling": range(2 if self.cta_swizzling else 1),
            "custom_option": range(self.custom_options + 1),
        }
        return known.get(name)

    def require(self, name: str, value: Any) -> None:
        """Refuse a setting that is not among them.

        Raises:
            SpecError: no such setting, or not this number.
        """
        allowed = self.allowed(name)
        known = name in CONFIGURABLE
        if known and type(value) is int and value >= 0 and (allowed is None or value in allowed):
            return
        raise error(
            f"`{name}={value!r}` is outside of the algorithm's capabilities",
            f"one of the settings {', '.join(CONFIGURABLE)}"
            if not known
            else f"`{name}` of {_told(tuple(allowed))}"
            if allowed is not None
            else f"`{name}` of 0 or more",
            f"{name}={value!r}",
            "See `algorithm.capabilities`.",
        )


def of(told: Mapping[str, Any]) -> Capabilities:
    """The capabilities that the library tells, in its words; what it does not know is not there."""

    def named(mask: str, words: Mapping[str, int]) -> tuple[str, ...]:
        bits = told.get(mask, 0)
        return tuple(word for word, bit in words.items() if bits & bit == bit)

    alignments = {"a": "alignment_b", "b": "alignment_a", "c": "alignment_c", "d": "alignment_d"}
    return Capabilities(
        tiles=tuple(told.get("tiles", ())),
        stages=tuple(told.get("stages", ())),
        split_k=bool(told.get("split_k", 0)),
        reduction_schemes=named("reduction_scheme_mask", SCHEMES),
        cta_swizzling=bool(told.get("cta_swizzling", 0)),
        custom_options=told.get("custom_option_max", 0),
        epilogs=named("epilogue_mask", _EPILOGS),
        pointer_modes=named("pointer_mode_mask", _POINTERS),
        numerical_impl=named("numerical_impl_flags", IMPLEMENTATIONS),
        alignments=tuple((name, told[key]) for name, key in alignments.items() if key in told),
        strided_batch=bool(told.get("strided_batch", 0)),
        out_of_place=bool(told.get("out_of_place", 0)),
    )


def _told(value: Any) -> str:
    """A value as text; numbers in a row as ranges."""
    if not isinstance(value, tuple):
        return str(value)
    runs: list[list[Any]] = []
    for one in value:
        if isinstance(one, int) and runs and runs[-1][-1] == one - 1:
            runs[-1].append(one)
        else:
            runs.append([" ".join(map(str, one)) if isinstance(one, tuple) else one])
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return ", ".join(texts) or "none"
