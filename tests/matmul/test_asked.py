"""What plans ask of the library: each call's attributes and buffers, taken by the native side.

CUDA and cuBLASLt are the fakes of tests/native in a process of its own, so that no GPU is needed.
"""

import os
import subprocess
import sys

from tests.native.test_build import build_fake

SCRIPT = """
import sys
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
import nvstate as nvs
from nvstate import _native
from nvstate._core import lower
from nvstate._native import library
from nvstate.matmul import query, tuning
from tests.matmul.test_h100_program import FREE, E4M3, struct, planned
from tests.matmul.test_scaling import PAIRS
from nvstate.matmul import scaling, table

for name in (b"cuda", b"cublasLt"):
    assert library.load().nvstate_library_open(name, sys.argv[1].encode()) == 0
rows = dict(FREE)
for modes in PAIRS:
    dtype = table.E2M1 if "nvfp4" in modes else table.E4M3
    scales = {
        f"scale_{n}": struct(*scaling.packed_shape(mode, rows_, 640), dtype=scaling.dtype_of(mode))
        for n, rows_, mode in zip("ab", (128, 256), modes)
    }
    ab = (struct(128, 640, dtype=dtype), struct(256, 640, dtype=dtype))
    rows[str(modes)] = (ab, {"transpose_b": True, "block_scaling": modes, **scales})
    if modes[0] in ("mxfp8", "nvfp4"):
        rows[f"{modes[0]} result"] = (ab, {**rows[str(modes)][1], "result_dtype": dtype})
one = struct(dtype="float32")
rows["fp8 aux"] = (FREE["fp8"][0], {
    "scale_a": one, "scale_b": one, "scale_aux": one, "transpose_b": True, "epilog": "gelu_aux",
    "aux_dtype": table.E4M3, "aux_amax": True,
})
rows["masks"] = (FREE["plain"][0], {"preferences": nvs.matmul.Preferences(
    reduction_scheme_mask=(), numerical_impl_mask=("hmma", "accumulator_32f"),
    max_waves_count=2.0, sm_count_target=16, memory_limit="8 MiB",
)})
for name, (operands, problem) in rows.items():
    plan, _ = planned(*operands, **problem)
    call, given, made = query.call_of(plan)
    nbytes, attributes = query.settled(call, given, made, 0)
    settled = dict(attributes)
    assert len(settled["algorithms"]) == 64 and len(settled["problems"]) == 4, name
    first = query.candidates(call, query.buffers(given), query.buffers(made), 0, 8)[0]
    assert first["data"] == settled["algorithms"] and first["workspace"] == nbytes, name
    algorithm = nvs.matmul.Algorithm(first["data"], tuple(first["problem"]))
    pinned = plan.with_algorithm(algorithm)
    call, given, made = query.call_of(pinned)
    assert dict(call.attributes)["algorithms"] == first["data"], name
    assert query.settled(call, given, made, 0) == (nbytes, call.attributes), name
    # The products of its derivatives, where there are any.
    count = 0
    if not name.startswith(("int8", "(", "mxfp8", "nvfp4")):
        for spec, types in tuning.gradient_products(plan):
            derived = nvs.matmul.MatmulPlan.of(spec, types, None, plan.choices)
            call, given, made = query.call_of(derived)
            query.settled(call, given, made, 0)
            count += 1
        assert count >= 2, name
print(len(rows), "asked")
"""


def test_every_kind_of_call_is_understood(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(build_fake(tmp_path))],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    count, said = run.stdout.split()
    assert said == "asked"
    assert int(count) > 20
