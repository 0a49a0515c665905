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
    "Layout",
    "Side",
    "cache_clear",
    "cache_drop",
    "cache_drop_made",
    "cache_drop_since",
    "cache_generation",
    "cache_info",
    "cache_limits",
    "cache_rows",
    "cufft_estimate",
    "cufft_layout",
    "cufft_plan",
    "cufft_version",
    "load",
    "open_library",
    "register",
]
