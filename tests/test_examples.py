"""Every example runs as a user runs it: a script of its own process, in a directory of theirs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nvstate as nvs

pytest.importorskip("matplotlib")
pytest.importorskip("PIL")
pytest.importorskip("sklearn")

PACKAGE = Path(nvs.__file__).parents[1]
EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))

# What each example must say: a pattern, and the smallest value allowed of its last group.
PRINTS = {
    "matmul_epilog": (
        r"planned +accuracy ([\d.]+) %, \d+ us per step\njnp +accuracy ([\d.]+) %, \d+ us per step",
        85.0,
    ),
    "sparse_newton": (
        r"(\d+) steps of [\d.]+ ms\n\1 factorizations, [01] analysis .*"
        r"\ngradient .*: ([\d.]+) digits",
        5.0,
    ),
    "quickstart": (r"PSNR: out of focus ([\d.]+) dB, restored ([\d.]+) dB", 25.0),
}
PICTURES = ["quickstart", "sparse_newton"]


def run(*arguments, cwd):
    """Run Python on `arguments` with the nvstate under test, and return what it printed."""
    path = os.pathsep.join(filter(None, [str(PACKAGE), os.environ.get("PYTHONPATH")]))
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path, "MPLBACKEND": "agg"}
    for name in ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS"):  # set by tests/conftest.py
        env.pop(name, None)
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_examples_and_each_is_checked():
    assert {example.stem for example in EXAMPLES} == set(PRINTS)


QUICK = "sparse_newton"


@pytest.mark.parametrize(
    "example",
    [pytest.param(e, marks=() if e.stem == QUICK else pytest.mark.slow) for e in EXAMPLES],
    ids=lambda path: path.stem,
)
def test_example(example, tmp_path):
    pattern, least = PRINTS[example.stem]
    printed = run(example, cwd=tmp_path)
    found = re.search(pattern, printed)
    assert found is not None
    assert float(found[found.re.groups]) >= least
    if example.stem == "quickstart":
        assert "r2c forward, axes (-2, -1), lengths (600, 512)" in printed
        assert "jax.grad" in printed
    if example.stem == "matmul_epilog":  # both learn the same
        assert abs(float(found[1]) - float(found[2])) <= 2.0
    if example.stem not in PICTURES:
        return
    picture = tmp_path / f"{example.stem}.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 50_000


@pytest.mark.slow
def test_quickstart_takes_a_path(tmp_path):
    from matplotlib.image import imread

    picture = tmp_path / "elsewhere.png"
    example = next(path for path in EXAMPLES if path.stem == "quickstart")
    run(example, picture, cwd=tmp_path)
    assert imread(picture).shape[:2] == (600, 3 * 512)
    assert not (tmp_path / "quickstart.png").exists()
