"""Sparse direct solver: cuDSS on CUDA; PARDISO or SciPy's SuperLU on CPUs."""

from nvstate.direct_solver.analysis import Analysis
from nvstate.direct_solver.factor import Factor, Numerics
from nvstate.direct_solver.functions import diagonal, factorize, factorize_solve, solve
from nvstate.direct_solver.implicit import implicit
from nvstate.direct_solver.knobs import CuDSS, SuperLU
from nvstate.direct_solver.oneshot import spsolve
from nvstate.direct_solver.plan import SolverPlan
from nvstate.direct_solver.planning import plan
from nvstate.direct_solver.residual import backward_error
from nvstate.direct_solver.spec import SolverSpec
from nvstate.direct_solver.specify import spec

__all__ = [
    "Analysis",
    "CuDSS",
    "Factor",
    "Numerics",
    "SolverPlan",
    "SolverSpec",
    "SuperLU",
    "backward_error",
    "diagonal",
    "factorize",
    "factorize_solve",
    "implicit",
    "plan",
    "solve",
    "spec",
    "spsolve",
]
