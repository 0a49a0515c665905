"""One process for all tests: four fake CPU devices, x64 on, no GPU unless one is asked for."""

import importlib.metadata
import os
import zlib

GPU = os.environ.get("NVSTATE_REQUIRE_GPU") == "1"
os.environ.setdefault("JAX_PLATFORMS", "cuda,cpu" if GPU else "cpu")
# XLA would take most of the tests' time to optimize programs that run once; "0" lets it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "0" if GPU else "1")
flags = ["--xla_force_host_platform_device_count=4"]
OPTIMIZED = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "0"
if not OPTIMIZED and importlib.metadata.version("jaxlib").startswith("0.10."):
    # The older ones take half the time. Later versions do not know the flag, and end the process.
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags])

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvstate as nvs

jax.config.update("jax_enable_x64", True)
CI = bool(os.environ.get("CI"))
for name, examples in (("quick", 50), ("thorough", 200), ("nightly", 5000)):
    hypothesis.settings.register_profile(
        name, max_examples=examples, deadline=None, derandomize=CI and name != "nightly"
    )
hypothesis.settings.load_profile("quick")  # `--hypothesis-profile=thorough` is for another


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark half of the rows of what has many as slow, by their names: `.ci/run` takes them all."""
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        conforms = "case" in parameters and item.path.parent.name == "conformance"
        thinned = conforms or item.get_closest_marker("thinned")
        if thinned and zlib.crc32(item.nodeid.encode()) % 2:
            item.add_marker("slow")
        if item.get_closest_marker("optimized") and not OPTIMIZED:
            item.add_marker(pytest.mark.skip(reason="of programs as users compile them"))


@pytest.fixture(autouse=True)
def _gpu(request):
    """Skip GPU tests where there is no GPU, unless that must not happen."""
    if request.node.get_closest_marker("gpu") is None:
        return
    try:
        jax.devices("cuda")
    except RuntimeError:
        if GPU:
            pytest.fail("NVSTATE_REQUIRE_GPU=1, but there is no CUDA device")
        pytest.skip("no CUDA device")


@pytest.fixture
def rng():
    """Random numbers that are the same in every run."""
    return np.random.default_rng(2026)


@pytest.fixture(autouse=True)
def _namespace(doctest_namespace):
    doctest_namespace.update(nvs=nvs, jnp=jnp, np=np, jax=jax)
