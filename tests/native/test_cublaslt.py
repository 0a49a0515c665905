"""Prevents a descriptor that cuBLASLt refuses, and wrappers that fail without saying why.

No GPU: what needs a device is asked of fake_cuda.cc, what does not of the real library.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from cuda import pathfinder

from nvstate import _native, errors
from tests.native.matmul_call import EPILOGS, attributes, types
from tests.native.test_build import build_fake

ASK = """
import json, sys
import numpy as np
from nvstate import _native
from nvstate._native import library, locate
fake = sys.argv[1].encode()
for name in (b"cuda", b"cublasLt"):
    assert library.load().nvstate_library_open(name, fake) == 0
for call, operands, results in json.load(sys.stdin):
    for name, (dtype, values) in list(call.items()):
        call[name] = np.array(values, dtype) if dtype else values
    try:
        found = _native.cublaslt_heuristic(0, call, operands, results, workspace=1 << 20, limit=3)
        checked = _native.cublaslt_check(0, call, operands, results, data=found[0]["data"])
        print(len(found), found[0]["workspace"], checked == found[0])
    except Exception as error:
        print(type(error).__name__, error)
"""


def ask(folder, calls, real=None):
    """Ask a fresh process, in which CUDA and cuBLASLt are the fakes, about calls."""
    rows = []
    for call, operands, results in calls:
        plain = {
            k: (v.dtype.name, v.tolist()) if isinstance(v, np.ndarray) else ("", v)
            for k, v in call.items()
        }
        rows.append((plain, operands, results))
    run = subprocess.run(
        [sys.executable, "-c", ASK, str(build_fake(folder))],
        input=json.dumps(rows),
        env=os.environ | ({"NVSTATE_REAL_CUBLASLT": real} if real else {}),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def with_scales(m, n, k, mode, d="bfloat16", dtype="float8_e4m3fn"):
    operands, results = types(m, n, k, dtype=dtype)
    scales = {
        "tensor": [("float32", ()), ("float32", (1,))],
        "outer": [("float32", (m,)), ("float32", (n,))],
        "1x128": [("float32", (k // 128, m)), ("float32", (k // 128, n))],
        "128x128": [("float32", (m // 128, 4)), ("float32", (n // 128, 4))],
        "mxfp8": [("float8_e8m0fnu", (m * k // 32,)), ("float8_e8m0fnu", (n * k // 32,))],
        "nvfp4": [("float8_e4m3fn", (m * k // 16,)), ("float8_e4m3fn", (n * k // 16,))],
    }[mode]
    more = {"scaling_a": mode, "scaling_b": mode, "layout_b": np.array([0, 2, 1])}
    return attributes(**more), [*operands, *scales], [(d, results[0][1])]


def calls():
    """One of everything that the library can be told."""
    for epilog in EPILOGS:
        for batch, extra in [((), {}), ((3,), {}), ((3, 2), {"a": (3, 1), "b": (1, 2)})]:
            call = attributes(len(batch), epilog=epilog, conjugate_a=1)
            yield call, *types(16, 32, 8, batch, **extra, epilog=epilog)
    for dtype, scale in [
        ("complex64", "complex64"),
        ("float64", "float64"),
        ("float16", "float16"),
    ]:
        call = attributes(scale_type=scale, conjugate_a=1, alpha=np.array([-0.5, 0.0]))
        call |= {"compute_type": "float64" if scale == "float64" else "float32"}
        yield (
            call | ({"compute_type": "float16"} if dtype == "float16" else {}),
            *types(4, 5, 3, dtype=dtype),
        )
    operands, results = types(16, 32, 8, dtype="int8")
    call = attributes(compute_type="int32", scale_type="int32")
    yield call, operands, [("int32", results[0][1])]
    operands, results = types(16, 32, 8, c=((), 1))
    call = attributes(c=1, scalars=1)
    yield call, [*operands, ("float32", ()), ("float32", (1,))], results
    for mode in ("tensor", "outer", "1x128", "128x128", "mxfp8"):
        yield with_scales(256, 256, 512, mode)
    yield with_scales(256, 256, 512, "nvfp4", dtype="float4_e2m1fn")
    call, operands, results = with_scales(256, 256, 512, "tensor", "float8_e4m3fn")
    more = {"scale_d": 1, "result_amax": 1, "c_type": "bfloat16", "fast_accumulation": 1}
    yield call | more, [*operands, ("float32", ())], [*results, ("float32", ())]
    call, operands, results = with_scales(256, 256, 512, "tensor", "float8_e4m3fn")
    more |= {"epilog": "gelu_aux_bias", "scale_aux": 1, "aux_amax": 1}
    one = ("float32", ())
    operands = [*operands[:2], ("bfloat16", (1, 256)), *operands[2:], one, one]
    yield call | more, operands, [*results, results[0], one, one]
    call, operands, results = with_scales(256, 256, 512, "mxfp8", "float8_e4m3fn")
    more = {"scaling_d_out": "mxfp8", "c_type": "bfloat16"}
    yield call | more, operands, [*results, ("float8_e8m0fnu", (2048,))]
    limits = {"sm_count": 16, "reduction_mask": 0, "impl_mask": 2, "max_waves": 0.5}
    yield attributes(**limits), *types(16, 32, 8)


def test_library_takes_each_description(tmp_path):
    """Descriptors, layouts and preferences are the real ones, which check each value's size."""
    try:
        real = pathfinder.load_nvidia_dynamic_lib("cublasLt").abs_path
    except pathfinder.DynamicLibNotFoundError:
        pytest.skip("no cuBLASLt")
    all_calls = list(calls())
    answers = ask(tmp_path, all_calls, real)
    assert len(answers) == len(all_calls)
    for (call, *_), answer in zip(all_calls, answers, strict=True):
        workspace = 100 if call["epilog"] == "none" else 116
        assert answer == f"2 {workspace} True", call


def test_heuristic_without_the_real_library(tmp_path):
    answers = ask(tmp_path, [(attributes(), *types(4, 5, 3)), (attributes(v=2), *types(4, 5, 3))])
    assert answers[0] == "2 100 True"
    assert answers[1] == (
        "ValueError nvstate: attributes of version 1 expected "
        "(float32[4,3] float32[1,3,5] float32[4,5])"
    )


def test_settings_of_an_algorithm():
    try:
        _native.cublaslt_version()
    except errors.LibraryError:
        pytest.skip("no cuBLASLt")
    assert _native.cublaslt_version() >= 120000
    config = {"tile": 20, "split_k": 3, "reduction_scheme": 2, "stages": 5, "cluster_shape": 2}
    data = _native.cublaslt_configured(bytes(64), **config)
    read = _native.cublaslt_config(data)
    assert {name: read[name] for name in config} == config
    with pytest.raises(ValueError, match="an algorithm has no setting `colour`"):
        _native.cublaslt_configured(data, colour=1)
    with pytest.raises(ValueError, match="an algorithm has no setting `id`"):
        _native.cublaslt_configured(data, id=1)
    for value in (-1, 1 << 31, 1 << 40):
        with pytest.raises(ValueError, match=f"{value} is no value of an algorithm's tile"):
            _native.cublaslt_configured(data, tile=value)
    with pytest.raises(ValueError, match="an algorithm is 64 bytes, got 3"):
        _native.cublaslt_config(b"abc")


QUESTIONS = {
    "heuristic": lambda *call: _native.cublaslt_heuristic(0, *call, workspace=0, limit=1),
    "diagnose": lambda *call: _native.cublaslt_diagnose(0, *call, workspace=0),
    "check": lambda *call: _native.cublaslt_check(0, *call, data=bytes(64)),
    "ids": lambda *call: _native.cublaslt_algorithm_ids(0, *call, limit=1),
    "init": lambda *call: _native.cublaslt_algorithm_init(0, *call, id=1),
    "l2": lambda *call: _native.cublaslt_l2_bytes(0),
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_no_device_is_said(question):
    try:
        _native.cublaslt_l2_bytes(0)
    except errors.LibraryError:
        pass
    else:
        pytest.skip("there is a device")
    with pytest.raises(errors.LibraryError, match=r"cuda|CUDA_ERROR_NO_DEVICE|cublasLt"):
        question(attributes(), *types(4, 5, 3))


SILENT = """
import ctypes, sys
from nvstate import _native
from nvstate._native import library
from tests.native.matmul_call import attributes, types
fake = sys.argv[1]
for name in (b"cuda", b"cublasLt"):
    assert library.load().nvstate_library_open(name, fake.encode()) == 0
question = 0, attributes(impl_mask=8), *types(4, 5, 3)
said = _native.cublaslt_diagnose(*question, workspace=0)
print(said["helps"], said["reasons"], flush=True)
ctypes.CDLL(fake).cublasLtLoggerSetLevel(1)
assert not _native.cublaslt_heuristic(*question, workspace=0, limit=1)
"""


def test_a_diagnosis_prints_nothing(tmp_path):
    """The library's log comes to the callback alone; then it is where it was."""
    run = subprocess.run(
        [sys.executable, "-c", SILENT, str(build_fake(tmp_path))], capture_output=True, text=True
    )
    log = "[cublasLt][cublasLtMatmulAlgoGetHeuristic] no kernel"
    assert run.stdout.splitlines() == [
        "['numerical_impl_mask'] ['cublasLtMatmulAlgoGetHeuristic: CUBLAS_STATUS_NOT_SUPPORTED', "
        "'cublasLtMatmulAlgoGetHeuristic: no kernel']",
        log,
    ], run.stderr


def test_counting_unpinned_loads_nothing():
    out = subprocess.run(
        [
            sys.executable,
            "-c",
            "import nvstate as nvs; from nvstate._native import library;"
            "print(nvs.cache.info().unpinned, library.loaded())",
        ],
        capture_output=True,
        text=True,
    )
    assert out.stdout == "0 None\n", out.stderr
