"""Prevents a lost CPU backend, a library loaded by being counted, and errors without a cure."""

import pathlib

import jax
import pytest

from nvstate import _native, errors
from nvstate._native import library
from tests import fresh


def run(code):
    """A fresh process, since a library once loaded stays."""
    result = fresh.run(code)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_counting_does_not_load():
    out = run(
        "from nvstate import _native as n; from nvstate._native import library;"
        "n.cache_limits(plans=5);"
        "n.cache_drop(1); n.cache_clear(); n.cache_drop_since(n.cache_generation());"
        "print(n.cache_info()['limit'], n.cache_info()['plans'], library.loaded());"
        "n.load(); print(n.cache_info())"
    )
    before, after = out.splitlines()
    assert before == "5 0 None"
    limits = {"limit": 5, "bytes_limit": _native.UNLIMITED}
    assert after == str(dict.fromkeys(_native.cache_info(), 0) | limits)


def test_registering_twice_is_registering_once():
    assert run("from nvstate import _native as n; n.register(); n.register(); print(1)") == "1"


def test_older_runtime_is_refused_before_registration(monkeypatch, tmp_path):
    header = tmp_path / "xla" / "ffi" / "api" / "c_api.h"
    header.parent.mkdir(parents=True)
    header.write_text("#define XLA_FFI_API_MAJOR 0\n#define XLA_FFI_API_MINOR 2\n")
    monkeypatch.setattr(jax.ffi, "include_dir", lambda: str(tmp_path))
    monkeypatch.setattr(library, "_loaded", None)
    with pytest.raises(errors.LibraryError) as raised:
        _native.load()
    assert str(raised.value) == (
        "nvstate: this jaxlib is older than the one that nvstate was built with\n"
        "  expected: XLA FFI API 0.3 or newer\n"
        "  got:      0.2\n"
        "Upgrade it with `pip install --upgrade jax jaxlib`."
    )
    header.write_text("#define XLA_FFI_API_MINOR 5\n")
    assert _native.load() is not None


def test_missing_library_says_how_to_build_it(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    monkeypatch.setattr(library.importlib.metadata, "files", lambda name: None)
    with pytest.raises(errors.LibraryError) as raised:
        library.find()
    text = str(raised.value)
    assert text.startswith("nvstate: the native library `libnvstate.so` is missing\n")
    assert f"expected: {tmp_path / 'libnvstate.so'}, or a file of the installed" in text
    assert "`pip install .`" in text


def test_editable_install_is_found(monkeypatch, tmp_path):
    (tmp_path / "libnvstate.so").touch()
    monkeypatch.setattr(library, "__file__", str(tmp_path / "elsewhere" / "library.py"))

    class File(pathlib.PurePosixPath):
        def locate(self):
            return tmp_path / self.name

    files = [File("nvstate/errors.py"), File("nvstate/_native/libnvstate.so")]
    monkeypatch.setattr(library.importlib.metadata, "files", lambda name: files)
    assert library.find() == tmp_path / "libnvstate.so"


@pytest.mark.parametrize(
    ("name", "wheel", "newest", "older"),
    [("cufft", "cufft", 12, 11), ("cublasLt", "cublas", 13, 12)],
)
def test_missing_library_says_what_to_install(name, wheel, newest, older):
    """In a process where no plugin of JAX has loaded it."""
    script = f"""
from nvstate import _native, errors
from nvstate._native import locate

def nothing(name):
    raise locate.pathfinder.DynamicLibNotFoundError(name)

locate.pathfinder.load_nvidia_dynamic_lib = nothing
try:
    _native.open_library("{name}")
except errors.LibraryError as error:
    print(error)
"""
    assert run(script) == (
        f"nvstate: the CUDA library {name} was not found\n"
        f"  expected: lib{name}.so.{newest} or lib{name}.so.{older}\n"
        "  got:      nothing in this process, in NVIDIA's wheels, in conda, below CUDA_PATH and "
        "CUDA_HOME, or on the loader's path\n"
        f"Install it with `pip install nvidia-{wheel}` (CUDA 13) or "
        f"`pip install nvidia-{wheel}-cu12` (CUDA 12)."
    )


def test_ranks_must_agree():
    with pytest.raises(ValueError, match="ranks differ: 2, 1, layout 2"):
        _native.cufft_layout(kind="c2c", x_dims=[2, 3], y_dims=[3], lengths=[3], layout=[0, 1])
