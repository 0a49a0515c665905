"""Documents are tested: every example, block and notebook runs, every public name has its entry."""

import argparse
import doctest
import importlib
import importlib.util
import inspect
import json
import pathlib
import pkgutil
import re
import subprocess
import tomllib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvstate as nvs
from nvstate.bench.__main__ import SUITES

ROOT = pathlib.Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
PAGES = [path for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))] if path.exists()]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
ENTRY = re.compile(r"^\.\. auto\w+:: (\S+)", re.MULTILINE)
TOP = {
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "nvstate",
    "tests",
    "examples",
    "notebooks",
    "docs",
}


def name_of(path):
    """A page as it is called in test ids."""
    return str(path.relative_to(ROOT))


def modules():
    """The names of all of nvstate's modules in Python, but those that run when imported."""
    found = pkgutil.walk_packages(nvs.__path__, "nvstate.")
    names = [m.name for m in found if not m.name.endswith("__main__")]
    # The native library is beside them and would pass for an extension module.
    return ["nvstate", *(n for n in names if importlib.util.find_spec(n).origin.endswith(".py"))]


def public_packages():
    """The modules that users import: no underscore in the name, and a list of names inside."""
    names = [name for name in modules() if "._" not in name]
    return [m for m in map(importlib.import_module, names) if hasattr(m, "__all__")]


def public_names():
    """(where, name) for every name in an `__all__`."""
    return [(m.__name__, name) for m in public_packages() for name in m.__all__]


def public_functions():
    """The functions among them, by their full names."""
    members = {f"{w}.{n}": getattr(importlib.import_module(w), n) for w, n in public_names()}
    return {name: member for name, member in members.items() if inspect.isfunction(member)}


# What runs


@pytest.mark.parametrize("name", modules())
def test_docstrings_hold(name):
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(verbose=False)
    printed: list[str] = []
    names = {"nvs": nvs, "jnp": jnp, "np": np, "jax": jax}
    for test in finder.find(importlib.import_module(name), name, extraglobs=names):
        runner.run(test, out=printed.append)
    assert runner.failures == 0, "".join(printed)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    namespace = {"__name__": "page"}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))
        exec(compile("\n" * line + block[1], str(page), "exec"), namespace)


@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/*.ipynb")), ids=name_of)
def test_notebooks_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "notebook"}
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        exec(
            compile("".join(cell["source"]), f"{path.name}, code cell {number}", "exec"), namespace
        )
    last = ["".join(cell["source"]).strip().splitlines()[-1] for cell in cells]
    assert all("assert" in line for line in last[1:]), (
        "each cell after the first ends in an assertion"
    )


def test_there_are_documents_to_run():
    assert [path.name for path in ROOT.glob("notebooks/*.ipynb")] == ["lifecycle.ipynb"]
    ran = {name_of(page) for page in PAGES if BLOCK.search(page.read_text())}
    assert {"README.md", "docs/tutorial.md"} <= ran


# What is covered


@pytest.mark.parametrize(("where", "name"), public_names())
def test_names_have_an_entry(where, name):
    page = REFERENCE / f"{where.split('.')[1] if '.' in where else 'nvstate'}.md"
    assert page.exists(), f"no page for {where}"
    member = getattr(importlib.import_module(where), name)
    if inspect.ismodule(member):
        page = REFERENCE / f"{name}.md"
        assert page.exists(), f"no page for {where}.{name}"
    assert f"{where}.{name}" in ENTRY.findall(page.read_text())


@pytest.mark.parametrize("page", sorted(REFERENCE.glob("*.md")), ids=name_of)
def test_entries_are_public_names(page):
    known = {f"{where}.{name}" for where, name in public_names()}
    known |= {module.__name__ for module in public_packages()}
    assert set(ENTRY.findall(page.read_text())) <= known


@pytest.mark.parametrize("name", public_functions())
def test_functions_are_described(name):
    function = public_functions()[name]
    text, signature = inspect.getdoc(function) or "", inspect.signature(function)
    summary = text.split("\n")[0]
    assert summary.endswith("."), f"the first line is no sentence: {summary!r}"
    sections = {"Example:"}
    if signature.parameters:
        sections.add("Args:")
    if not re.fullmatch(r"None|(Iterator|Generator)\[None.*", str(signature.return_annotation)):
        sections.add("Returns:")
    if re.search(r"^\s+raise ", inspect.getsource(function), re.MULTILINE):
        sections.add("Raises:")
    missing = {s for s in sections if not re.search(rf"^{s}$", text, re.MULTILINE)}
    assert not missing
    if signature.parameters:
        args = re.search(r"^Args:\n((?: .*\n|\n)+)", text + "\n", re.MULTILINE)
        listed = re.findall(r"^    \*{0,2}(\w+):", args[1], re.MULTILINE)
        assert listed == list(signature.parameters)


@pytest.mark.parametrize(("where", "name"), public_names())
def test_classes_are_described(where, name):
    member = getattr(importlib.import_module(where), name)
    assert (inspect.getdoc(member) or "").strip()
    if not inspect.isclass(member):
        return
    assert member.__doc__, f"{where}.{name} has only an inherited docstring"
    for attribute, value in vars(member).items():
        written = inspect.isfunction(value) or isinstance(value, property | classmethod)
        if written and not attribute.startswith("_"):
            assert inspect.getdoc(getattr(member, attribute)), f"{where}.{name}.{attribute}"


# What must agree


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    prose = re.sub(r"^(`{3,}).*?^\1$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in LINK.findall(prose):
        assert (page.parent / target).exists(), f"{name_of(page)} links to {target}"


def test_the_benchmark_page_has_every_option():
    page = (REFERENCE / "bench.md").read_text()
    listed = re.findall(r"^\| `(--\w+)` \|", page, re.MULTILINE)
    for name, (suite, _) in SUITES.items():
        assert f"python -m nvstate.bench {name}" in page
        parser = argparse.ArgumentParser(add_help=False)
        suite.add_arguments(parser)
        assert set(listed) == set(re.findall(r"--\w+", parser.format_usage()))


def test_the_version_is_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    changes = (ROOT / "docs" / "changelog.md").read_text()
    newest = re.search(r"^## (\d+\.\d+\.\d+)$", changes, re.MULTILINE)
    assert newest is not None
    assert newest[1] == nvs.__version__ == project["version"]


def test_the_readme_has_one_command_to_run_and_one_to_test():
    lines = [
        s for s in (ROOT / "README.md").read_text().splitlines() if s.startswith("python -m pip")
    ]
    assert lines[:2] == [
        'python -m pip install ".[cpu,examples]" && python examples/quickstart.py',
        'python -m pip install -e ".[cpu,test]" && python -m pytest',
    ]


def test_the_top_level_holds_what_it_may():
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert {name for name in top if not name.startswith(".")} <= TOP
