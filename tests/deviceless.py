"""The H100 program without an H100: what XLA makes of a function for a described device."""

import functools
import pathlib
import tempfile
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from jax.experimental import topologies


class Compiled(NamedTuple):
    hlo: str  # optimized
    thunks: str  # the final sequence, with command buffers if any were formed
    memory: Any  # jax's memory analysis


@functools.cache
def topology(devices: int = 1) -> Any:
    """That many described H100s; skips where the wheels that compile for them are missing."""
    target = pathlib.Path(__file__).with_name("h100.txtpb").read_text()
    try:
        return topologies.get_topology_desc(
            platform="cuda", target_config=target, topology=f"1x1x{devices}"
        )
    except (RuntimeError, NotImplementedError) as error:  # JAX's words for no such compiler
        pytest.skip(f"no compiler for CUDA: {error}")


def compile_h100(
    f: Any, *args: Any, devices: int = 1, spec: Any = None, options: Any = None, **jit: Any
) -> Compiled:
    """Compile `f` for described H100s; `args` are types, sharded by `spec`."""
    mesh = topologies.make_mesh(topology(devices), (devices,), ("x",))
    sharding = jax.NamedSharding(mesh, spec or jax.P())
    args = tuple(jax.ShapeDtypeStruct(a.shape, np.dtype(a.dtype), sharding=sharding) for a in args)
    with tempfile.TemporaryDirectory() as dump:
        compiled = (
            jax.jit(f, **jit)
            .lower(*args)
            .compile(
                compiler_options={
                    "xla_dump_to": dump,
                    "xla_gpu_autotune_level": "0",
                    # XLA's defaults, whatever tests/conftest.py says.
                    "xla_backend_optimization_level": "3",
                    "xla_llvm_disable_expensive_passes": "False",
                    **(options or {}),
                }
            )
        )
        thunks = {
            path.name.split(".")[-2]: path.read_text()
            for path in pathlib.Path(dump).glob("*.thunk_sequence*.txt")
        }
    final = thunks.get("thunk_sequence_after_thunk_passes", thunks.get("thunk_sequence", ""))
    return Compiled(compiled.as_text(), final, compiled.memory_analysis())
