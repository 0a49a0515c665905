"""`python -m nvstate` as users run it. Prevents a diagnosis that says all is well, or that dies."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import nvstate as nvs
from nvstate._core import diagnose
from tests import fresh

MAIN = "import sys; from nvstate import __main__ as m; sys.exit(m.main(['--json']))"
MISSING = """
from nvstate._native import locate
def nothing(name):
    raise locate.pathfinder.DynamicLibNotFoundError(name)
locate.pathfinder.load_nvidia_dynamic_lib = nothing
locate.SONAMES["cufft"] = ("libcufft.so.0",)
"""


def python(*arguments, status=0, **environment):
    """A process as users start it."""
    path = os.pathsep.join(
        filter(None, [str(Path(nvs.__file__).parents[1]), os.environ.get("PYTHONPATH")])
    )
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    env.pop("NVSTATE_STORE", None)
    done = subprocess.run(
        [sys.executable, *arguments], env=env | environment, capture_output=True, text=True
    )
    return printed(done, status)


def forked(script, status=0, **environment):
    """A process of its own: what JAX sees and what is loaded is settled once."""
    return printed(fresh.run(script, **{"JAX_PLATFORMS": "cpu"} | environment), status)


def printed(done, status):
    """What a process printed, which must have ended with this status."""
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def report(before="", status=0, **environment):
    """What `--json` prints, after some code has broken something."""
    found = json.loads(forked(before + "\n" + MAIN, status=status, **environment))
    assert found["ok"] == (status == 0)
    return found


def report_of_devices(status, **environment):
    """The devices that it finds, which JAX reads from the environment when it is imported."""
    found = json.loads(python("-m", "nvstate", "--json", status=status, **environment))
    assert found["ok"] == (status == 0)
    return found


def by_name(facts):
    """Facts by their names."""
    return {fact["name"]: fact for fact in facts}


@pytest.fixture
def _no_cufft_yet():
    """Skip where JAX's plugin loads its wheels' cuFFT by being found: nobody looks for another."""
    if by_name(report()["libraries"])["cufft"]["loaded_by"] == "XLA":
        pytest.skip("JAX has loaded cuFFT")


def test_json_has_the_facts():
    found = json.loads(python("-m", "nvstate", "--json"))
    assert list(found) == ["ok", "versions", "store", "devices", "libraries", "self_tests"]
    assert found["ok"] is True
    versions = found["versions"]
    assert versions["nvstate"] == nvs.__version__
    assert versions["jax"] == jax.__version__
    assert {"python", "jaxlib", "numpy", "cuda-pathfinder"} <= versions.keys()
    assert versions["ffi_api_built"] == "0.3"
    assert versions["ffi_api_runtime"] >= "0.3"
    assert found["store"] == []
    devices = by_name(found["devices"])
    assert list(devices) == ["cpu:0", "cpu:1", "cpu:2", "cpu:3", "cuda"]
    assert devices["cpu:0"]["kind"] == "cpu"
    assert devices["cuda"]["message"] == "JAX_PLATFORMS=cpu leaves it out."
    native = by_name(found["libraries"])["libnvstate"]
    assert native["status"] == "found"
    assert Path(native["path"]).name == "libnvstate.so"
    assert native["loaded_by"] == "nvstate"


def test_self_tests_are_of_every_operation_on_one_cpu():
    tests = report()["self_tests"]
    assert {test["name"] for test in tests} == {
        plan.where for plan in diagnose.plan_types.values() if plan.where.startswith("nvstate.")
    }
    assert {test["device"] for test in tests} == {"cpu:0"}
    assert {test["sample"][:3] for test in tests if test["name"] == "nvstate.fft"} == {"c2c", "c2r"}
    for test in tests:
        assert test["status"] == "passed"
        assert 0 < test["relative_error"] < test["bound"]
        assert test["milliseconds"] > 0


def test_text_has_the_facts():
    text = python("-m", "nvstate")
    titles = [line for line in text.splitlines() if line and not line.startswith(" ")]
    assert titles == [
        "versions",
        "devices",
        "libraries",
        "self tests",
        "all that is installed works",
    ]
    for fact in (nvs.__version__, jax.__version__, "cpu:3", "libnvstate.so", "cufft", "c2c", "c2r"):
        assert fact in text
    numbers = [re.search(r"ffi_api_\w+ +(?=0\.)", line) for line in text.splitlines()]
    assert len({found.end() for found in numbers if found}) == 1


def test_arguments():
    assert "--json" in python("-m", "nvstate", "--help")
    assert forked(MAIN.replace("--json", "--jsn"), status=2) == ""


@pytest.mark.usefixtures("_no_cufft_yet")
def test_missing_cufft_is_told_and_fails_only_beside_a_gpu():
    cufft = by_name(report(MISSING)["libraries"])["cufft"]
    assert cufft["status"] == "missing"
    assert not cufft["failed"]
    assert "`pip install nvidia-cufft` (CUDA 13)" in cufft["message"]
    code = "import types; from nvstate._core import diagnose\n"
    code += "gpu = types.SimpleNamespace(platform='gpu')\n"
    code += "print([(f.name, f.failed) for f in diagnose.libraries([gpu]) if f.name == 'cufft'])"
    assert forked(MISSING + code) == "[('cufft', True)]\n"


@pytest.mark.usefixtures("_no_cufft_yet")
def test_a_cuda_library_that_does_not_load_is_broken(tmp_path):
    """The real finder, shown a wheel whose library is damaged."""
    folder = tmp_path / "nvidia" / "cu13" / "lib"
    folder.mkdir(parents=True)
    (folder / "libcufft.so.12").write_bytes(b"no library")
    code = f"import site; site.getsitepackages = lambda: [{str(tmp_path)!r}]\n"
    cufft = by_name(report(code, status=1)["libraries"])["cufft"]
    assert cufft["status"] == "broken"
    assert str(folder / "libcufft.so.12") in cufft["message"]


@pytest.mark.parametrize("damage", ["not a library", "a library of other functions"])
def test_a_native_library_that_does_not_load_is_broken(tmp_path, damage):
    other = __import__("_ctypes").__file__
    data = b"\x7fELF" if damage == "not a library" else Path(other).read_bytes()
    (tmp_path / "libnvstate.so").write_bytes(data)
    code = f"from nvstate._native import library; library.__file__ = {str(tmp_path / 'l.py')!r}\n"
    found = report(code, status=1)
    libraries = by_name(found["libraries"])
    assert libraries["libnvstate"]["status"] == "broken"
    assert str(tmp_path / "libnvstate.so") in libraries["libnvstate"]["message"]
    assert libraries["cufft"]["status"] == "unknown"
    assert found["versions"]["ffi_api_built"] is None
    assert all(test["status"] == "passed" for test in found["self_tests"])


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("y * 1.00001", "the relative error is 1.0e-05, above 1.0e-06"),
        ("y * float('nan')", "the relative error is nan, above 1.0e-06"),
        ("y[:1]", "the result has shape (1, 60, 6) instead of (4, 60, 6)"),
        ("1 // 0", "ZeroDivisionError: integer division or modulo by zero"),
    ],
)
def test_a_self_test_that_fails_leaves_the_others(result, message):
    code = f"""
from nvstate.fft import FFTPlan
right = FFTPlan.operation
def wrong(spec, x, *, choices):
    y = right(spec, x, choices=choices)
    return {result} if spec.kind == "c2c" else y
FFTPlan.operation = staticmethod(wrong)
"""
    tests = report(code, status=1)["self_tests"]
    c2c, c2r, *more = [test for test in tests if test["name"] == "nvstate.fft"]
    others = [*more, *(test for test in tests if test["name"] != "nvstate.fft")]
    assert (c2c["status"], c2c["failed"]) == ("failed", True)
    # JAX puts the place of an error below its text.
    assert c2c["message"].startswith(message)
    assert all(test["status"] == "passed" for test in (c2r, *others))


def test_text_counts_failures_and_shows_their_messages():
    code = "from nvstate.fft import FFTPlan; FFTPlan.operation = None\n"
    text = forked(code + MAIN.replace("'--json'", ""), status=1)
    assert "      TypeError: 'NoneType' object is not callable" in text
    assert text.endswith("2 of these failed\n")


def test_an_operation_without_samples_is_told():
    code = "from nvstate import Plan\nclass Other(Plan): where = 'nvstate.other'\n"
    assert by_name(report(code)["self_tests"])["nvstate.other"]["status"] == "none"


def test_a_store(tmp_path):
    path = tmp_path / "plans.json"
    absent = report(NVSTATE_STORE=str(path))["store"]
    assert [(fact["name"], fact["status"]) for fact in absent] == [(str(path), "absent")]
    plan = nvs.fft.plan(jax.ShapeDtypeStruct((2, 8), "complex64"))
    nvs.store.save({"one": plan}, path)
    (read,) = report(NVSTATE_STORE=str(path))["store"]
    assert (read["status"], read["plans"]) == ("read", 1)
    path.write_text(path.read_text()[:-9])
    (broken,) = report(status=1, NVSTATE_STORE=str(path))["store"]
    assert (broken["status"], broken["failed"]) == ("broken", True)
    assert f"{path} is damaged, or no file of plans" in broken["message"]


def test_jax_without_a_device_is_told():
    found = report_of_devices(1, JAX_PLATFORMS="none_such")
    (jax_,) = found["devices"]
    assert jax_["status"] == "broken"
    assert "Unable to initialize backend 'none_such'" in jax_["message"]
    assert found["self_tests"] == []


@pytest.mark.skipif(any(diagnose.NODES.glob("nvidia[0-9]*")), reason="there is a GPU")
@pytest.mark.parametrize(("platforms", "status"), [("", 0), ("cuda", 1)])
def test_what_a_plugin_without_a_gpu_logs_is_told(platforms, status):
    pytest.importorskip("jax_cuda13_plugin")
    jax_ = by_name(report_of_devices(status, JAX_PLATFORMS=platforms)["devices"])["jax"]
    assert "Unable to load cuDNN" in jax_["message"]


@pytest.mark.parametrize(
    ("environment", "failed"),
    [
        ({}, True),
        ({"JAX_PLATFORMS": "cuda,cpu"}, True),
        ({"JAX_PLATFORMS": "cpu"}, False),
        ({"CUDA_VISIBLE_DEVICES": ""}, False),
    ],
)
def test_a_gpu_that_jax_does_not_see_is_a_failure(tmp_path, monkeypatch, environment, failed):
    pytest.importorskip("jax_cuda13_plugin")
    if any(d.platform == "gpu" for d in jax.local_devices()):
        pytest.skip("JAX sees one")
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(diagnose, "NODES", tmp_path)
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    _, facts = diagnose.devices()
    assert [fact.failed for fact in facts if fact.name == "cuda"] == [failed]
    with monkeypatch.context() as without:
        without.setattr(diagnose, "PLUGIN", "not installed")
        _, facts = diagnose.devices()
        assert not any(fact.failed for fact in facts)
    (tmp_path / "nvidia0").unlink()
    _, facts = diagnose.devices()
    assert not any(fact.failed for fact in facts)


@pytest.mark.gpu
def test_cuda_is_found_and_works():
    found = json.loads(python("-m", "nvstate", "--json", JAX_PLATFORMS="cuda,cpu"))
    device = by_name(found["devices"])["cuda:0"]
    assert "NVIDIA" in device["kind"]
    assert device["memory_bytes"] > 2**30
    cufft = by_name(found["libraries"])["cufft"]
    assert cufft["status"] == "found"
    assert cufft["loaded_by"] in {"XLA", "nvstate"}
    assert "libcufft.so" in cufft["path"]
    assert int(cufft["version"].split(".")[0]) >= 11
    tests = [test for test in found["self_tests"] if test["device"] == "cuda:0"]
    assert {test["status"] for test in tests} == {"passed"}
    assert {"c2c", "c2r"} <= {test["sample"][:3] for test in tests}
