"""Products of dense matrices: cuBLASLt on CUDA, XLA's dot on CPUs."""

from nvstate.matmul import scaling
from nvstate.matmul.algorithm import Algorithm
from nvstate.matmul.capabilities import Capabilities
from nvstate.matmul.chain import chain
from nvstate.matmul.oneshot import matmul
from nvstate.matmul.plan import MatmulPlan, plan
from nvstate.matmul.preferences import Preferences
from nvstate.matmul.query import algorithm_ids
from nvstate.matmul.spec import MatmulResult, MatmulSpec
from nvstate.matmul.specify import spec
from nvstate.matmul.tuning import autotune
from nvstate.matmul.tuning_chain import autotune_chain

__all__ = [
    "Algorithm",
    "Capabilities",
    "MatmulPlan",
    "MatmulResult",
    "MatmulSpec",
    "Preferences",
    "algorithm_ids",
    "autotune",
    "autotune_chain",
    "chain",
    "matmul",
    "plan",
    "scaling",
    "spec",
]
