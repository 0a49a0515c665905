"""Options that only one engine has."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from nvstate.direct_solver import arguments

FactorizationAlgorithm = Literal["default", "multiblock", "general"]
SolveAlgorithm = Literal["default", "general"]
PivotEpsilonAlgorithm = Literal["default", "scaled", "static"]
Permutation = Literal["NATURAL", "MMD_ATA", "MMD_AT_PLUS_A", "COLAMD"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CuDSS:
    """What only cuDSS can be told; None and "default" leave it to the library.

    Attributes:
        nd_levels: least levels of nested dissection, CUDSS_CONFIG_ND_NLEVELS.
        nd_unbalance: unbalance of its halves in percent, CUDSS_CONFIG_ND_UBFACTOR.
        superpanels: whether to use them, CUDSS_CONFIG_USE_SUPERPANELS.
        max_lu_nnz: most nonzeros of the factors, CUDSS_CONFIG_MAX_LU_NNZ; with the reorderings
            "colamd" and "btf_colamd" only.
        factorization_algorithm: CUDSS_CONFIG_FACTORIZATION_ALG.
        solve_algorithm: CUDSS_CONFIG_SOLVE_ALG.
        pivot_epsilon_algorithm: CUDSS_CONFIG_PIVOT_EPSILON_ALG.
        refinement_tolerance: where refinement stops, CUDSS_CONFIG_IR_TOL.
        register_host_memory: whether hybrid memory is page-locked,
            CUDSS_CONFIG_USE_CUDA_REGISTER_MEMORY; with `hybrid_memory` only.

    Example:
        >>> nvs.direct_solver.CuDSS(superpanels=False).superpanels
        False
    """

    nd_levels: int | None = None
    nd_unbalance: int | None = None
    superpanels: bool | None = None
    max_lu_nnz: int | None = None
    factorization_algorithm: FactorizationAlgorithm = "default"
    solve_algorithm: SolveAlgorithm = "default"
    pivot_epsilon_algorithm: PivotEpsilonAlgorithm = "default"
    refinement_tolerance: float | None = None
    register_host_memory: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what is no value of an option."""
        _integer("nd_levels", self.nd_levels, 0, 2**31 - 1)
        _integer("nd_unbalance", self.nd_unbalance, 0, 100)
        _integer("max_lu_nnz", self.max_lu_nnz, 1, 2**63 - 1)
        _flags(superpanels=self.superpanels, register_host_memory=self.register_host_memory)
        choice = arguments.choice
        choice("factorization_algorithm", self.factorization_algorithm, FactorizationAlgorithm)
        choice("solve_algorithm", self.solve_algorithm, SolveAlgorithm)
        choice("pivot_epsilon_algorithm", self.pivot_epsilon_algorithm, PivotEpsilonAlgorithm)
        arguments.real("refinement_tolerance", self.refinement_tolerance)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuperLU:
    """What only SciPy's SuperLU can be told; None leaves it to the library.

    A plan with these runs on SuperLU also where `mkl` is installed.

    Attributes:
        permc_spec: how columns are permuted; in place of `reordering`.
        relax: columns of a relaxed supernode.
        panel_size: columns of a panel.
        equilibrate: whether rows and columns are scaled first.

    Example:
        >>> nvs.direct_solver.SuperLU(permc_spec="NATURAL").permc_spec
        'NATURAL'
    """

    permc_spec: Permutation | None = None
    relax: int | None = None
    panel_size: int | None = None
    equilibrate: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what is no value of an option."""
        if self.permc_spec is not None:
            arguments.choice("permc_spec", self.permc_spec, Permutation)
        _integer("relax", self.relax, 1, 2**31 - 1)
        _integer("panel_size", self.panel_size, 1, 2**31 - 1)
        _flags(equilibrate=self.equilibrate)


Knobs = CuDSS | SuperLU
ENGINES: dict[type[Any], str] = {CuDSS: "cudss", SuperLU: "superlu"}


def pairs(knobs: Knobs | None) -> dict[str, Any]:
    """The engine's name and the options that are not its own defaults, as plain values."""
    if knobs is None:
        return {}
    if type(knobs) not in ENGINES:
        raise arguments.error(
            "no `knobs`",
            "`CuDSS(…)`, `SuperLU(…)` or None",
            repr(knobs),
            "Pass one of nvstate.direct_solver's, or leave it out.",
        )
    said: dict[str, Any] = {
        f.name: getattr(knobs, f.name)
        for f in dataclasses.fields(knobs)
        if getattr(knobs, f.name) != f.default
    }
    if "refinement_tolerance" in said:
        said["refinement_tolerance"] = arguments.real("", said["refinement_tolerance"])
    return {"engine": ENGINES[type(knobs)], **said}


def of(options: dict[str, Any]) -> Knobs | None:
    """The knobs that `pairs` made these of, among other names."""
    for cls, engine in ENGINES.items():
        if options.get("engine") == engine:
            names = {f.name for f in dataclasses.fields(cls)}
            said = {name: value for name, value in options.items() if name in names}
            if "refinement_tolerance" in said:
                said["refinement_tolerance"] = float.fromhex(said["refinement_tolerance"])
            return cls(**said)
    return None


def _integer(name: str, value: Any, least: int, most: int) -> None:
    if value is not None:
        arguments.integer(name, value, least, most)


def _flags(**flags: Any) -> None:
    for name, value in flags.items():
        if value is not None:
            arguments.flag(name, value)
