"""The native library: loaded once, registered with XLA once, its functions as Python's own."""

from nvstate._native.cache import (
    cache_clear,
    cache_drop,
    cache_drop_made,
    cache_drop_since,
    cache_generation,
    cache_info,
    cache_limits,
    cache_rows,
)
from nvstate._native.cublaslt import (
    Candidate,
    Diagnosis,
    MatmulLayout,
    cublaslt_algorithm_ids,
    cublaslt_algorithm_init,
    cublaslt_capabilities,
    cublaslt_check,
    cublaslt_config,
    cublaslt_configured,
    cublaslt_diagnose,
    cublaslt_heuristic,
    cublaslt_l2_bytes,
    cublaslt_layout,
    cublaslt_version,
)
from nvstate._native.cufft import (
    Layout,
    Side,
    cufft_estimate,
    cufft_layout,
    cufft_plan,
    cufft_version,
)
from nvstate._native.library import UNLIMITED, load
from nvstate._native.locate import open_library
from nvstate._native.targets import register

__all__ = [
    "UNLIMITED",
    "Candidate",
    "Diagnosis",
    "Layout",
    "MatmulLayout",
    "Side",
    "cache_clear",
    "cache_drop",
    "cache_drop_made",
    "cache_drop_since",
    "cache_generation",
    "cache_info",
    "cache_limits",
    "cache_rows",
    "cublaslt_algorithm_ids",
    "cublaslt_algorithm_init",
    "cublaslt_capabilities",
    "cublaslt_check",
    "cublaslt_config",
    "cublaslt_configured",
    "cublaslt_diagnose",
    "cublaslt_heuristic",
    "cublaslt_l2_bytes",
    "cublaslt_layout",
    "cublaslt_version",
    "cufft_estimate",
    "cufft_layout",
    "cufft_plan",
    "cufft_version",
    "load",
    "open_library",
    "register",
]
