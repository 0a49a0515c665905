"""What is measured of sparse solves, and the bars: rows of data."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import scipy.sparse

from nvstate.bench.bars import OURS, Bar

Group = Literal["whole", "solve", "loop", "solves", "gradient"]

GROUPS: dict[Group, str] = {
    "whole": "one factorization of new values and one solve, in a jitted function",
    "solve": "one solve with a factorization that is there, in a jitted function",
    "loop": "one factorization of new values and one solve, of ten in one jitted loop",
    "solves": "one solve with a factorization that is there, of ten in one jitted loop",
    "gradient": "one solve and its gradients in values and b, or parts of it, jitted",
}
LOOPED = 10

# Candidates
SPSOLVE = "jax spsolve"
SPLU = "scipy splu"
RAW = "the library, bare"
TICKET = "factorize, solve"
BY_NEED = "refinement by need"
UNCHECKED = 'on_stale="nan"'
CALL = "b + 1, jitted"
REBUILT = "free, plan, factorize, solve"
NVMATH = "nvmath reset, plan, factorize, solve"
FORWARD = "forward alone"
EXTRA = "solve alone"

BARS: dict[Group, tuple[Bar, ...]] = {
    "whole": (
        Bar("ratio", 3, "cpu", OURS, SPSOLVE),
        Bar("ratio", 100, "cuda", OURS, SPSOLVE),
        Bar("times", 1.1, "any", OURS, RAW),
        Bar("ratio", 50, "cuda", OURS, NVMATH),
    ),
    "solve": (
        Bar("ratio", 20, "cpu", OURS, SPSOLVE),
        Bar("ratio", 500, "cuda", OURS, SPSOLVE),
        Bar("excess", 30, "cuda", OURS, RAW),
    ),
    "loop": (Bar("times", 1.1, "cuda", OURS, RAW),),
    "solves": (Bar("excess", 30, "cuda", OURS, UNCHECKED),),  # the ticket's
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A matrix of the Laplacian on a grid with a drift, and a way to look at solves with it.

    Attributes:
        group: what is looked at.
        extents: of the grid.
        on: where it is measured.
        spsolve: whether JAX's own solver takes part: it needs minutes for the largest.
    """

    group: Group
    extents: tuple[int, ...]
    on: Literal["any", "cuda"] = "any"
    spsolve: bool = True

    @property
    def id(self) -> str:
        """For example `whole/200x200`."""
        return f"{self.group}/{'x'.join(map(str, self.extents))}"

    @property
    def bars(self) -> tuple[Bar, ...]:
        """What is to be reached."""
        return BARS.get(self.group, ())

    def runs_on(self, platform: str) -> bool:
        """Whether it is measured there."""
        in_loops = self.group in {"loop", "solves"}
        return self.on in {"any", platform} and (not in_loops or platform == "cuda")

    def matrix(self) -> Any:
        """The matrix, `scipy.sparse.csr_array` of float64: -Δ u + drift · ∇u."""
        whole = scipy.sparse.csr_array((1, 1))
        for extent in self.extents:
            one: Any = scipy.sparse.diags_array(
                [np.full(extent - 1, -1.1), np.full(extent, 2.0), np.full(extent - 1, -0.9)],
                offsets=[-1, 0, 1],  # pyright: ignore[reportArgumentType]
            )
            whole = scipy.sparse.kronsum(whole, one, format="csr")
        matrix = scipy.sparse.csr_array(whole)
        matrix.sort_indices()
        return matrix


GRIDS: tuple[tuple[tuple[int, ...], str, bool], ...] = (
    ((100, 100), "any", True),
    ((200, 200), "any", True),
    ((400, 400), "any", False),
    ((1000, 1000), "cuda", False),
    ((30, 30, 30), "any", True),
    ((50, 50, 50), "cuda", False),
)


def all_cases(*, quick: bool) -> list[Case]:
    """Every case, group by group."""
    grids = (((20, 20), "any", True),) if quick else GRIDS
    return [Case(group, *grid) for group in GROUPS for grid in grids]  # pyright: ignore[reportArgumentType]
