"""Prevents a build that only we can make, and a library that mixes with others in one process."""

import functools
import os
import pathlib
import re
import shutil
import site
import subprocess
import sys

import jax
import pytest

from nvstate._native import library

HERE = pathlib.Path(__file__).parent
NATIVE = HERE.parents[1] / "nvstate" / "_native"
WARNINGS = ["-std=c++17", "-Wall", "-Wextra", "-Werror"]
SOLVER = ["attributes", "cache", "error", "solver", "solver_digest", "solver_probe", "solver_slots"]
CUDSS = [
    *("cudss", "cudss_config", "cudss_ring", "cudss_ring_factorize", "cudss_ring_solve"),
    *("cudss_system", "device", "library", *SOLVER),
]
# By program, the sources it runs under the thread sanitizer, which compiles them with WARNINGS.
SANITIZED = {
    "cache": ["cache"],
    "site": ["attributes", "cache", "dtypes", "error", "ffi"],
    "solver": SOLVER,
    "cudss": CUDSS,
    "cudss_solver": [*CUDSS, "cudss_call", "cudss_solver", "dtypes", "ffi"],
    "matmul": [
        *("attributes", "cache", "cublaslt_operation", "cublaslt_plan", "cublaslt_query", "device"),
        *("dtypes", "error", "library", "matmul", "matmul_layout", "matmul_problem"),
    ],
}
UNSANITIZED = sorted(
    path
    for path in (NATIVE / "src").glob("*.cc")
    if path.stem not in {source for sources in SANITIZED.values() for source in sources}
)


def tool(name):
    """A program of the build, without which the test cannot run."""
    return shutil.which(name) or pytest.skip(f"no {name}")


def run(*command, **kwargs):
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, **kwargs)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_only_our_symbols_are_exported():
    out = run(tool("nm"), "-D", "--defined-only", library.find())
    names = [line.split()[-1] for line in out.splitlines()]
    assert {"nvstate_cufft_v1_execute", "nvstate_cublaslt_matmul_v1_execute"} <= set(names)
    assert [name for name in names if not name.startswith("nvstate_")] == []


def test_cuda_is_not_linked():
    out = run(tool("readelf"), "-d", library.find())
    needed = [line.split("[")[1].rstrip("]") for line in out.splitlines() if "(NEEDED)" in line]
    assert not [name for name in needed if "cu" in name or "python" in name]


@pytest.mark.slow
@pytest.mark.parametrize("source", UNSANITIZED, ids=lambda path: path.name)
def test_no_warnings(source):
    run(
        tool("g++"),
        *WARNINGS,
        "-fsyntax-only",
        f"-I{NATIVE / 'include'}",
        *("-isystem", jax.ffi.include_dir()),
        source,
    )


def test_format():
    program = shutil.which("clang-format", path=str(pathlib.Path(sys.executable).parent))
    sources = [
        *NATIVE.glob("src/*.cc"),
        *NATIVE.glob("include/**/*.h"),
        *HERE.glob("*.cc"),
        *HERE.glob("*.h"),
    ]
    assert len(sources) > 10
    run(program or tool("clang-format"), "--dry-run", "--Werror", *sources)


def test_missing_compiler_is_a_sentence(tmp_path):
    ninja = f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"
    result = subprocess.run(
        [tool("cmake"), "-G", "Ninja", ninja, "-S", NATIVE, "-B", tmp_path],
        env={"CXX": "/nonexistent", "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    text = " ".join(result.stderr.split())
    assert "no C++17 compiler was found" in text
    assert "`apt install g++`" in text
    assert "`dnf install gcc-c++`" in text


def test_missing_headers_are_a_sentence(tmp_path):
    """A build without isolation, in an environment without jaxlib."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')
    python.chmod(0o755)
    result = subprocess.run(
        [tool("cmake"), "-S", NATIVE, "-B", tmp_path / "build", f"-DPython_EXECUTABLE={python}"],
        capture_output=True,
        text=True,
    )
    assert result.returncode != 0
    assert "has no jaxlib with FFI headers" in " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Compiles a file for the thread sanitizer; each is compiled once."""
    folder = tmp_path_factory.mktemp("sanitized")

    @functools.cache
    def compile(source):
        made = folder / f"{source.stem}.o"
        run(
            tool("g++"),
            *WARNINGS,
            *("-O1", "-g1", "-fsanitize=thread"),
            f"-I{NATIVE / 'include'}",
            *("-isystem", jax.ffi.include_dir()),
            *("-c", source, "-o", made),
        )
        return made

    return compile


@pytest.mark.slow
@pytest.mark.parametrize("program", ["cache", "site", "solver"])
def test_threads(tmp_path, compiled, program):
    """Threads that make, find and drop plans, under the thread sanitizer."""
    assert sanitized(tmp_path, compiled, program) == "ok\n"


@pytest.mark.slow
def test_threads_that_multiply(tmp_path, compiled):
    """With a driver and a cuBLASLt in which nothing runs."""
    assert sanitized(tmp_path, compiled, "matmul", build_fake(tmp_path)) == "ok\n"


@pytest.mark.slow
@pytest.mark.parametrize("program", ["cudss", "cudss_solver"])
def test_rings_of_cudss(tmp_path, compiled, program):
    """With a driver whose memory is the host's, and a cuDSS that factorizes densely."""
    assert sanitized(tmp_path, compiled, program, build_fake(tmp_path, "fake_cudss")) == "ok\n"


def sanitized(folder, compiled, program, *args):
    """What a test program prints under the thread sanitizer."""
    binary = folder / program
    sources = [NATIVE / "src" / f"{name}.cc" for name in SANITIZED[program]]
    objects = map(compiled, [HERE / f"test_{program}.cc", *sources])
    run(tool("g++"), *("-fsanitize=thread", "-pthread"), *objects, *("-ldl", "-o", binary))
    # Some kernels randomize addresses more widely than the sanitizer can bear.
    prefix = [shutil.which("setarch"), "-R"] if shutil.which("setarch") else []
    return run(*prefix, binary, *args)


def build_fake(folder, name="fake_cuda"):
    """The library of fake_cuda.cc, fake_cudss.cc or failing_mkl.cc."""
    library = folder / "libfake.so"
    run(
        tool("g++"),
        *WARNINGS,
        *("-O1", "-g", "-fPIC", "-shared", f"-I{NATIVE / 'include'}"),
        HERE / f"{name}.cc",
        *("-ldl", "-o", library),
    )
    return library


def official_headers(source):
    """Folders with the official headers that a comparison includes; NVIDIA's wheels split them."""
    roots = [pathlib.Path(path) for path in site.getsitepackages()]
    folders = [folder for root in roots for folder in root.glob("nvidia/*/include")]
    home = os.environ.get("CUDA_HOME")
    folders += [pathlib.Path(home) / "include"] if home else []
    folders += [pathlib.Path("/usr/local/cuda/include"), pathlib.Path(sys.prefix) / "include"]
    for name in re.findall(r"#include <(.*)>", source.read_text()):
        if not any((folder / name).exists() for folder in folders):
            wheels = "nvidia-cufft nvidia-cublas nvidia-cuda-runtime nvidia-cudss-cu13 mkl-include"
            pytest.skip(f"no official {name}: `pip install {wheels}`")
    return [folder for folder in folders if folder.is_dir()]


HEADERS = sorted((NATIVE / "include" / "nvstate" / "abi").glob("*.h"))


@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.stem)
def test_declarations_are_the_official_ones(header):
    """Each header of ours has a file that compares every name in it."""
    source = HERE / f"abi_{header.stem}.cc"
    declared = re.findall(
        r"^[\w ]*\w (cu\w+|pardiso\w*|MKL_\w+)\(|\b([A-Z][A-Z0-9_]{4,}\w*) = ",
        header.read_text(),
        re.M,
    )
    compared = source.read_text()
    assert [name for pair in declared for name in pair if name and name not in compared] == []
    folders = [option for folder in official_headers(source) for option in ("-isystem", folder)]
    run(
        tool("g++"),
        *WARNINGS,
        "-fsyntax-only",
        f"-I{NATIVE / 'include'}",
        f"-I{HERE}",
        *folders,
        source,
    )
