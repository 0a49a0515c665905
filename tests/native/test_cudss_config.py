"""Prevents a knob that does nothing or another thing, and a cuDSS whose numbers are not ours.

Nothing here needs a GPU; what reads cuDSS's own answers needs its wheel.
"""

import pathlib
import shutil
import subprocess

import numpy as np
import pytest

from nvstate import _native, errors
from tests import fresh
from tests.native.cudss_call import attributes


@pytest.fixture(scope="module")
def cudss():
    try:
        return _native.cudss_version()
    except errors.LibraryError as error:
        pytest.skip(str(error))


# As the names of the official headers are numbered; tests/native/abi_cudss.cc compares those.
KNOBS = {
    "reordering": {
        "auto": 0,
        "btf_colamd": 1,
        "colamd": 2,
        "amd": 3,
        "nd": 4,
        "none": 5,
        "user": 0,
    },
    "matching": {"none": 0, "count": 1, "min": 2, "min_alt": 3, "sum": 4, "product": 5},
    "pivoting": {
        "auto": 0,
        "none": 1,
        "global_column": 2,
        "global_row": 3,
        "diagonal": 4,
        "local": 5,
        "bunch_kaufman": 6,
    },
    "factorization_algorithm": {"default": 0, "multiblock": 1, "general": 2},
    "solve_algorithm": {"default": 0, "general": 1},
    "pivot_epsilon_algorithm": {"default": 0, "scaled": 1, "static": 2},
    "pivot_threshold": {0.25: 0.25},
    "pivot_epsilon": {1e-9: 1e-9},
    "refinement_tolerance": {1e-7: 1e-7},
    "refinement_steps": {-1: 0, 0: 0, 3: 3},
    "deterministic": {0: 0, 1: 1},
    "hybrid_execute": {0: 0, 1: 1},
    "host_threads": {3: 3},
    "nd_levels": {8: 8},
    "nd_unbalance": {7: 7},
    "superpanels": {0: 0, 1: 1},
    "max_lu_nnz": {12345678901: 12345678901},
    "register_host_memory": {0: 0, 1: 1},
}
DEFAULTS = {
    "refinement_tolerance": 0.0,
    "pivot_threshold": 1.0,
    "pivot_epsilon": -1.0,
    "max_lu_nnz": -1,
    "hybrid_memory": 0,
    "hybrid_memory_limit": -1,
    "register_host_memory": 1,
    "nd_levels": 10,
    "nd_unbalance": 20,
    "superpanels": 1,
    "solve_mode": 0,
    "element": -1,
    "batch": 1,
}
WORDS = np.ones(2, np.uint64)


@pytest.mark.parametrize(
    ("knob", "value", "number"),
    [(knob, value, n) for knob, values in KNOBS.items() for value, n in values.items()],
)
@pytest.mark.usefixtures("cudss")
def test_knob_reaches_cudss_alone(knob, value, number):
    plain = _native.cudss_config(attributes(reference=WORDS))
    found = _native.cudss_config(attributes(**{"reference": WORDS, knob: value}))
    assert found[knob] == number
    assert {k: v for k, v in found.items() if k != knob} == {
        k: v for k, v in plain.items() if k != knob
    }


@pytest.mark.usefixtures("cudss")
def test_what_is_left_out_is_the_engines_own():
    found = _native.cudss_config(attributes())
    assert {k: found[k] for k in DEFAULTS} == DEFAULTS
    assert found["matching"] == 0  # never "auto", which is 6


@pytest.mark.parametrize(
    ("text", "limit"),
    [("on", -1), ("1000000", 1000000), ("80%", 8000), ("0.5%", 50)],
)
@pytest.mark.usefixtures("cudss")
def test_hybrid_memory(text, limit):
    found = _native.cudss_config(attributes(hybrid_memory=text), device_bytes=10000)
    assert (found["hybrid_memory"], found["hybrid_memory_limit"]) == (1, limit)


@pytest.mark.usefixtures("cudss")
def test_uniform_batch():
    assert _native.cudss_config(attributes(), batch=5)["batch"] == 5


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"reordering": "metis"}, "reordering `metis` is none of auto, nd, amd, colamd"),
        ({"matching": "auto"}, "matching `auto` is none of none, count, min"),
        ({"pivoting": "rook"}, "pivoting `rook` is none of auto, none, diagonal"),
        ({"factorization_algorithm": "2"}, "factorization algorithm `2` is none of default,"),
        ({"solve_algorithm": "fast"}, "solve algorithm `fast` is none of default, general"),
        ({"pivot_epsilon_algorithm": "x"}, "pivot epsilon algorithm `x` is none of default,"),
        ({"hybrid_memory": "8 GiB"}, "hybrid memory `8 GiB` is none of on, a number of bytes"),
        ({"hybrid_memory": "120%"}, "hybrid memory `120%` is none of"),
        ({"nd_levels": 1}, "CUDSS_STATUS_INVALID_VALUE for nd_levels = 1"),
    ],
)
@pytest.mark.usefixtures("cudss")
def test_bad_value_is_refused_by_name(changes, text):
    with pytest.raises(ValueError, match="nvstate: ") as raised:
        _native.cudss_config(attributes(**changes))
    assert text in str(raised.value)


def test_other_version_is_refused(tmp_path):
    """Before anything else is looked up in it."""
    compiler = shutil.which("gcc") or pytest.skip("no gcc")
    source, library = tmp_path / "old.c", tmp_path / "libcudss.so.1"
    source.write_text("int cudssGetProperty(int p, int* v) { *v = p == 1 ? 8 : 0; return 0; }")
    subprocess.run([compiler, "-shared", "-fPIC", source, "-o", library], check=True)
    result = fresh.run(
        "from nvstate import _native, errors\n"
        f"_native.load().nvstate_library_open(b'cudss', {str(library)!r}.encode())\n"
        "try:\n    _native.cudss_version()\nexcept errors.LibraryError as error: print(error)"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == (
        "nvstate: cuDSS 1.0 is needed, since its numbers are not those of other versions; found "
        f'0.8.0 in {library}. Install it with `pip install "nvidia-cudss-cu13==1.0.*"` (CUDA 13) '
        'or `pip install "nvidia-cudss-cu12==1.0.*"` (CUDA 12).'
    )


def test_missing_library_says_what_to_install():
    result = fresh.run(
        "from nvstate import _native, errors\n"
        "from nvstate._native import locate\n"
        "def nothing(name): raise locate.pathfinder.DynamicLibNotFoundError(name)\n"
        "locate.pathfinder.load_nvidia_dynamic_lib = nothing\n"
        "locate.WHEELS = {}\n"
        "locate.SONAMES['cudss'] = ('libcudss.so.1.none',)\n"
        "try:\n    _native.cudss_version()\nexcept errors.LibraryError as error: print(error)"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("nvstate: the CUDA library cudss was not found\n")
    assert '`pip install "nvidia-cudss-cu13==1.0.*"` (CUDA 13)' in result.stdout


def test_wheels_file_is_found_without_loading_it(monkeypatch, tmp_path):
    from nvstate._native import locate

    path = tmp_path / "nvidia" / "cu13" / "lib" / "libcudss.so.1"
    path.parent.mkdir(parents=True)
    path.touch()

    class File(pathlib.PurePosixPath):
        def locate(self):
            return tmp_path / self

    listed = {"nvidia-cudss-cu13": [File("nvidia/cu13/include/cudss.h"), File(path)]}
    monkeypatch.setattr(locate.importlib.metadata, "files", lambda name: listed.get(name))
    assert list(locate.in_wheels("cudss")) == [str(path)]
    assert list(locate.in_wheels("cufft")) == []
