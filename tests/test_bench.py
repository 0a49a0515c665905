"""The benchmark runs as a user runs it, and its files hold what they promise. No time is judged."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nvstate as nvs
from nvstate.bench import cases, peers, timing


def bench(*arguments, status=0):
    path = os.pathsep.join(
        filter(None, [str(Path(nvs.__file__).parents[1]), os.environ.get("PYTHONPATH")])
    )
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path, "MPLBACKEND": "agg"}
    command = [sys.executable, "-m", "nvstate.bench", *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A run of one case of each form, and its files."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("bench")
    chosen = "^[cdf]/|h/.*-(16-axes0|32x32x32.*-assume)"
    files = {"json": folder / "b.json", "markdown": folder / "b.md", "plot": folder / "b.png"}
    options = [text for name, path in files.items() for text in (f"--{name}", path)]
    done = bench("fft", "--quick", "--cases", chosen, *options)
    return done.stdout, files


def test_json_has_what_a_reader_needs(quick):
    data = json.loads(quick[1]["json"].read_text())
    assert data["schema"] == 1
    assert data["command"].startswith("python -m nvstate.bench fft --quick --cases ")
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


def test_every_case_is_in_every_report(quick):
    printed, files = quick
    ids = [row["id"] for row in json.loads(files["json"].read_text())["rows"]]
    table = files["markdown"].read_text()
    assert all(name in printed and name in table for name in ids)
    assert files["plot"].read_bytes().startswith(b"\x89PNG")


def test_peers_that_are_missing_are_named(quick):
    data = json.loads(quick[1]["json"].read_text())
    assert data["environment"]["missing"] == peers.missing("cpu")
    installed = peers.module("scipy.fft") is not None
    rows = [row for row in data["rows"] if row["id"].startswith("h/")]
    assert all(("scipy.fft" in row["timings"]) == installed for row in rows)


def test_no_case_matches():
    assert "--list" in bench("fft", "--cases", "^nothing$", status=2).stderr


def test_a_directory_that_is_missing_is_told_before_the_work(tmp_path):
    path = tmp_path / "missing" / "b.json"
    assert "no such directory" in bench("fft", "--json", path, status=2).stderr


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there may be a GPU")
def test_no_gpu_is_said_and_not_replaced_by_a_cpu():
    assert "no such device" in bench("fft", "--quick", "--device", "cuda", status=2).stderr


def test_list_names_every_case_once():
    names = bench("fft", "--list").stdout.split()
    assert names == [case.id for case in cases.all_cases(quick=False)]
    assert len(set(names)) == len(names)


def test_a_foreign_refusal_is_told_and_ours_is_raised():
    def refuses():
        raise ValueError("not this layout")

    works = timing.Candidate("nvstate", lambda: lambda: None, lambda _: None)
    foreign = timing.Candidate("other", refuses, lambda _: None, foreign=True)
    times, refused = timing.measure([works, foreign], seconds=0, wait_each=True)
    assert list(times) == ["nvstate"]
    assert refused == {"other": "ValueError: not this layout"}
    ours = timing.Candidate("nvstate", refuses, lambda _: None)
    with pytest.raises(ValueError, match="not this layout"):
        timing.measure([ours], seconds=0, wait_each=True)


@pytest.mark.parametrize(
    ("bar", "value", "met"),
    [
        (cases.Bar("ratio", 2), 3, True),
        (cases.Bar("ratio", 4), 3, False),
        (cases.Bar("times", 0.5), 1 / 3, True),
        (cases.Bar("micros", 0.9e6), 1e6, False),
        (cases.Bar("excess", -1), -2e6, True),
        (cases.Bar("ratio", 2, reference="not there"), None, None),
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
