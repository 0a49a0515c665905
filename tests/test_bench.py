"""The benchmark runs as a user runs it, and its files hold what they promise. No time is judged."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import nvstate as nvs
from nvstate.bench import bars, cases, libraries, lifecycle, timing
from nvstate.bench.forms import Operand


def bench(*arguments, status=0):
    path = os.pathsep.join(
        filter(None, [str(Path(nvs.__file__).parents[1]), os.environ.get("PYTHONPATH")])
    )
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path, "MPLBACKEND": "agg"}
    command = [sys.executable, "-m", "nvstate.bench", *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done


def reported(folder, *arguments):
    """What a run prints, and its files."""
    pytest.importorskip("matplotlib")
    files = {"json": folder / "b.json", "markdown": folder / "b.md", "plot": folder / "b.png"}
    options = [text for name, path in files.items() for text in (f"--{name}", path)]
    return bench(*arguments, "--quick", *options).stdout, files


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A run of one case of each form, and its files."""
    chosen = "^[cdf]/|h/.*-(16-axes0|32x32x32.*-assume)"
    return reported(tmp_path_factory.mktemp("fft"), "fft", "--cases", chosen)


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """The same of the lifecycle, whole."""
    return reported(tmp_path_factory.mktemp("lifecycle"), "lifecycle")


def test_json_has_what_a_reader_needs(quick):
    data = json.loads(quick[1]["json"].read_text())
    assert data["schema"] == 1
    assert data["command"].startswith("python -m nvstate.bench fft --cases ")
    assert data["quick"] is True
    assert data["environment"]["platform"] == "cpu"
    assert data["environment"]["device"]
    assert {"python", "numpy", "jax", "jaxlib"} <= data["environment"]["versions"].keys()
    assert {row["group"] for row in data["rows"]} == {"c", "d", "f", "h"}
    on_cpu = set(cases.FORMS.values()) - {cases.FORMS["strategies"]}
    assert {row["form"] for row in data["rows"]} == on_cpu


def test_json_times_are_positive_and_ordered(quick):
    for row in json.loads(quick[1]["json"].read_text())["rows"]:
        assert row["error"] is None
        assert {"nvstate", row["reference"]} <= row["timings"].keys()
        assert row["describe"].startswith("transform ")
        for times in row["timings"].values():
            assert 0 < times["low"] <= times["median"] <= times["high"]
            assert times["planning"] > 0
            assert times["first"] > 0
            assert times["rounds"] >= timing.ROUNDS[0]
        ours, theirs = (row["timings"][name]["median"] for name in ("nvstate", row["reference"]))
        assert row["ratio"] == pytest.approx(theirs / ours)
        for bar in row["bars"]:
            assert bar["text"]
            assert bar["met"] is None or bar["met"] == (
                bar["value"] >= bar["limit"]
                if bar["quantity"] == "ratio"
                else bar["value"] <= bar["limit"]
            )


@pytest.mark.parametrize("run", ["quick", "calls"])
def test_every_case_is_in_every_report(run, request):
    printed, files = request.getfixturevalue(run)
    ids = [row["id"] for row in json.loads(files["json"].read_text())["rows"]]
    table = files["markdown"].read_text()
    assert all(name in printed and name in table for name in ids)
    assert files["plot"].read_bytes().startswith(b"\x89PNG")


def test_peers_that_are_missing_are_named(quick):
    data = json.loads(quick[1]["json"].read_text())
    assert data["environment"]["missing"] == libraries.missing("cpu")
    installed = libraries.module("scipy.fft") is not None
    rows = [row for row in data["rows"] if row["id"].startswith("h/")]
    assert all(("scipy.fft" in row["timings"]) == installed for row in rows)


def test_the_lifecycle_has_every_form_of_a_call_and_every_bar(calls):
    data = json.loads(calls[1]["json"].read_text())
    assert [row["id"] for row in data["rows"]] == [c.id for c in lifecycle.all_cases(quick=True)]
    assert {row["form"] for row in data["rows"]} == set(lifecycle.FORMS.values())
    with_nvmath = libraries.module("nvmath.fft") is not None
    for row, case in zip(data["rows"], lifecycle.all_cases(quick=True), strict=True):
        assert row["error"] is None
        assert row["waited"] == lifecycle.WAITED[case.package, case.form]
        assert row["subject"] in row["timings"]
        foreign = [name for name in row["timings"] if name.startswith("nvmath")]
        assert bool(foreign) == with_nvmath
        assert row["refused"] == {}
        for times in row["timings"].values():
            assert 0 < times["low"] <= times["median"] <= times["high"]
        assert len(row["bars"]) == sum(bar.on in {"any", "cpu"} for bar in case.bars)
        for bar in row["bars"]:
            assert {bar["subject"], bar["reference"]} & row["timings"].keys()
            measured = {bar["subject"], bar["reference"]} <= row["timings"].keys()
            assert (bar["value"] is not None) == measured


def test_the_lifecycle_says_in_its_tables_what_the_clock_waited_for(calls):
    table = calls[1]["markdown"].read_text()
    assert table.startswith("# Calls on ")
    for waited in set(lifecycle.WAITED.values()):
        assert f"the clock waited for {waited}." in table


@pytest.mark.parametrize("package", ["numpy", "jax"])
def test_an_operand_whose_result_is_wrong_has_no_speed(package, monkeypatch):
    operand = Operand.of((4, 8), 1, package, jax.devices("cpu")[0])
    assert operand.disagreement() is None
    twice = nvs.fft.plan(operand.first, axes=(1,), norm="none", direction="inverse")
    monkeypatch.setattr(Operand, "plan", lambda self: twice)
    assert operand.disagreement().startswith("plan(x): relative L2 distance to numpy.fft ")


def test_a_library_that_breaks_on_its_way_in_is_missing(tmp_path, monkeypatch):
    (tmp_path / "breaks_on_import.py").write_text("raise OSError('no such\\n driver')")
    monkeypatch.syspath_prepend(tmp_path)
    names = {"one": "breaks_on_import", "other": "not_installed.fft"}
    monkeypatch.setitem(libraries.NAMES, "cpu", names)
    assert libraries.missing("cpu") == ["one (OSError: no such driver)", "other"]


def test_no_case_matches():
    assert "--list" in bench("fft", "--cases", "^nothing$", status=2).stderr


def test_a_directory_that_is_missing_is_told_before_the_work(tmp_path):
    path = tmp_path / "missing" / "b.json"
    assert "no such directory" in bench("fft", "--json", path, status=2).stderr


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there may be a GPU")
def test_no_gpu_is_said_and_not_replaced_by_a_cpu():
    assert "no such device" in bench("fft", "--quick", "--device", "cuda", status=2).stderr


@pytest.mark.parametrize(("name", "suite"), [("fft", cases), ("lifecycle", lifecycle)])
def test_list_names_every_case_once(name, suite):
    names = bench(name, "--list").stdout.split()
    assert names == [case.id for case in suite.all_cases(quick=False)]
    assert len(set(names)) == len(names)


def test_a_foreign_refusal_is_told_and_ours_is_raised():
    def refuses():
        raise ValueError("not this layout")

    def refuses_again():
        return [None].pop

    works = timing.Candidate("nvstate", lambda: lambda: None, lambda _: None)
    foreign = [
        timing.Candidate("other", refuses, lambda _: None, foreign=True),
        timing.Candidate("once", refuses_again, lambda _: None, foreign=True),
    ]
    times, refused = timing.measure([works, *foreign], seconds=0, wait_each=True)
    assert list(times) == ["nvstate"]
    assert refused == {
        "other": "ValueError: not this layout",
        "once": "IndexError: pop from empty list",
    }
    ours = timing.Candidate("nvstate", refuses, lambda _: None)
    with pytest.raises(ValueError, match="not this layout"):
        timing.measure([ours], seconds=0, wait_each=True)


@pytest.mark.parametrize(
    ("bar", "value", "met"),
    [
        (bars.Bar("ratio", 2), 3, True),
        (bars.Bar("ratio", 4), 3, False),
        (bars.Bar("times", 0.5), 1 / 3, True),
        (bars.Bar("micros", 0.9e6), 1e6, False),
        (bars.Bar("excess", -1), -2e6, True),
        (bars.Bar("ratio", 2, reference="not there"), None, None),
    ],
)
def test_bars(bar, value, met):
    times = {
        name: timing.Timing(0, 0, seconds, seconds, seconds, 5, 1)
        for name, seconds in (("nvstate", 1.0), ("jnp.fft", 3.0))
    }
    data = bar.data(times)
    assert data["value"] == (None if value is None else pytest.approx(value))
    assert data["met"] is met
