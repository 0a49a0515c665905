"""The operation of `docs/contributing.md`, written out block by block and run like any other."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILE = re.compile(
    r"^[^\n]*`([\w/.]+\.\w+)`:\n\n(`{3,})(py|md)\n(.*?)^\2$", re.MULTILINE | re.DOTALL
)
HUNK = re.compile(r"^```diff\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def page():
    """The text that contributors read."""
    return (ROOT / "docs" / "contributing.md").read_text()


@pytest.fixture(scope="module")
def house(page, tmp_path_factory):
    """A copy of the package, its tests and documents, with the new operation in it."""
    copy = tmp_path_factory.mktemp("house")
    ignored = shutil.ignore_patterns("__pycache__", "build")
    for folder in ("nvstate", "tests", "docs"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", copy)
    for path, _, _, text in FILE.findall(page):
        assert not (copy / path).exists(), f"{path} is there already"
        (copy / path).parent.mkdir(exist_ok=True)
        (copy / path).write_text(text)
    (copy / "tests" / "dct" / "__init__.py").touch()
    # An editable install finds `nvstate` before any path does: not in the copy's processes.
    (copy / "sitecustomize.py").write_text(
        "import sys\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'ScikitBuild' not in type(f).__name__]\n"
    )
    init = copy / "nvstate" / "__init__.py"
    for hunk in HUNK.findall(page):
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] != "+")
        after = "".join(line[1:] for line in lines if line[0] != "-")
        assert init.read_text().count(before) == 1, f"not in nvstate/__init__.py:\n{before}"
        init.write_text(init.read_text().replace(before, after))
    return copy


def run(house, *command, **environment):
    """Run a command in the copy; the copy is what it imports."""
    environment = os.environ | {"PYTHONPATH": str(house)} | environment
    environment.pop("XLA_FLAGS", None)  # tests/conftest.py sets it
    done = subprocess.run(
        [sys.executable, *command], cwd=house, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_step_has_its_file(house):
    files = ["dct/spec.py", "dct/primitive.py", "dct/plan.py", "dct/__init__.py"]
    assert all((house / "nvstate" / file).is_file() for file in files)
    assert (house / "docs" / "reference" / "dct.md").is_file()
    assert (house / "tests" / "dct" / "cases.py").is_file()


LIFE = """
import pickle
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
import nvstate as nvs
from tests.case import relative_l2
from tests.dct.cases import CASES, oracle

for case in CASES:
    value = case.value()
    x, want = jnp.asarray(value), case.oracle(value)
    plan = case.plan(x)

    def near(got, want):
        assert relative_l2(got, np.asarray(want)) < case.bound

    near(plan(x), want)
    near(case.plan(value)(value), want)
    near(jax.jit(plan)(x), want)
    near(jax.jit(nvs.execute)(plan, x), want)
    members = jax.vmap(plan, in_axes=-1, out_axes=-1)(jnp.stack([x, 2 * x], -1))
    near(members, np.stack([want, 2 * want], -1))
    near(nvs.execute(nvs.reset(nvs.bind(plan, x=x), x=2 * x)), 2 * want)
    # grad of |A x|² / 2 is Aᵀ A x, and the transpose is the other type.
    other = {"II": "III", "III": "II"}[plan.spec.type]
    gradient = jax.grad(lambda x: (plan(x) ** 2).sum() / 2)(x)
    assert relative_l2(gradient, oracle(plan.spec.axis, other)(want)) < 4 * case.bound
    assert case.plan(x) is plan and hash(case.plan(x)) == hash(plan)
    assert pickle.loads(pickle.dumps(plan)) is plan
    assert type(plan).from_json(plan.to_json()) is plan

for wrong in (jnp.ones((2, 3), int), jnp.ones(()), "x"):
    try:
        nvs.dct.plan(wrong)
    except nvs.errors.SpecError as error:
        assert str(error).startswith("nvstate.dct: ")
    else:
        raise AssertionError(f"{wrong} was planned")
print("lived")
"""


@pytest.mark.slow
def test_it_lives(house):
    assert run(house, "-c", LIFE) == "lived\n"


@pytest.mark.slow
def test_it_conforms(house):
    # The export for both platforms is looked through for cuFFT's target, which this one has not.
    chosen = "dct and not one_export_for_both_platforms"
    printed = run(
        house,
        *("-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-k", chosen),
        *("tests/conformance", "tests/test_docs.py"),
    )
    passed = re.search(r"(\d+) passed", printed)
    assert passed is not None
    assert int(passed[1]) > 50


def test_it_is_in_style(house):
    pytest.importorskip("ruff")
    files = ("nvstate/dct", "tests/dct")
    run(house, "-m", "ruff", "check", "--no-cache", *files)
    run(house, "-m", "ruff", "format", "--check", "--no-cache", *files)
