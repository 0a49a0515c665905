"""Way, a system and which way it is solved, and the operands of each primitive by name."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp

from nvstate.direct_solver.spec import SolverSpec

# Leaves that programs read, then what each primitive has besides.
PATTERN = ("indptr", "indices", "rows", "permutation", "reference")
FACTORIZE = (*PATTERN, "values")
SOLVE = (*PATTERN, "values", "ticket", "b")
WHOLE = (*PATTERN, "values", "b")
DIAGONAL = (*PATTERN, "values", "ticket")
WORDS = 8  # of a ticket, and of what is known of the pivots


@dataclasses.dataclass(frozen=True)
class Way:
    """A system and which way it is solved: what the primitives call a spec."""

    spec: SolverSpec
    transposed: bool = False

    @functools.cached_property
    def digest(self) -> int:
        """A name that is the same in every process."""
        return self.spec.digest * 2 + self.transposed

    def turned(self) -> Way:
        """The way of the transpose; of a hermitian matrix, of its conjugate's."""
        general = self.spec.matrix_type == "general"
        return dataclasses.replace(self, transposed=not self.transposed) if general else self

    @property
    def is_hermitian(self) -> bool:
        """Whether the transpose is the conjugate."""
        return self.spec.matrix_type in ("hermitian", "hpd")


def pattern(leaves: Any) -> tuple[Any, ...]:
    """The leaves that programs read, in their order.

    A zero stands for those without elements: jax 0.11 ends the process over such an array where it
    goes in or out of a `shard_map` over several CPUs, as what a gradient keeps does.
    """
    read = (getattr(leaves, name) for name in PATTERN)
    return tuple(x if x.size else jnp.zeros((*x.shape[:-1], 1), x.dtype) for x in read)
