"""One process for all tests: four fake CPU devices, x64 on, no GPU unless one is asked for."""

import os

GPU = os.environ.get("NVSTATE_REQUIRE_GPU") == "1"
os.environ.setdefault("JAX_PLATFORMS", "cuda,cpu" if GPU else "cpu")
# XLA would take most of the tests' time to optimize programs that run once; "0" lets it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "0" if GPU else "1")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvstate as nvs

jax.config.update("jax_enable_x64", True)
hypothesis.settings.register_profile("local", max_examples=50, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True)
hypothesis.settings.register_profile("nightly", max_examples=5000, deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


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
