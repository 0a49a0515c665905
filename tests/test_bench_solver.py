"""The sparse solver's benchmark runs as a user runs it. No time is judged."""

import json

import jax
import numpy as np
import pytest

from nvstate import _native
from nvstate.bench import direct_solver, solver_candidates, solver_cases, timing
from tests.test_bench import reported

GROUPS = [group for group in solver_cases.GROUPS if group not in {"loop", "solves"}]  # for GPUs


@pytest.fixture(scope="module")
def solves(tmp_path_factory):
    """A run, and its files."""
    return reported(tmp_path_factory.mktemp("direct_solver"), "direct_solver")


def test_every_group_is_measured_without_a_miss(solves):
    printed, files = solves
    data = json.loads(files["json"].read_text())
    assert [row["group"] for row in data["rows"]] == GROUPS
    for row in data["rows"]:
        assert row["error"] is None
        assert row["id"] in printed
        assert row["note"].endswith(", 0 misses")
        assert row["describe"]
        assert {"nvstate", row["reference"]} <= row["timings"].keys()
        bars = [bar for bar in row["bars"] if bar["value"] is not None]
        assert bars
    assert len(data["overall"]) == 1
    assert files["plot"].read_bytes().startswith(b"\x89PNG")


def test_the_library_alone_is_there_where_it_is_installed(solves):
    if why := _native.pardiso_missing():
        pytest.skip(why)
    data = json.loads(solves[1]["json"].read_text())
    for row in data["rows"][:2]:
        assert solver_cases.RAW in row["timings"]


@pytest.mark.parametrize("group", ["whole", "solve"])
def test_a_solution_that_is_wrong_has_no_speed(group, monkeypatch):
    right = solver_candidates.Problem.error
    monkeypatch.setattr(
        solver_candidates.Problem,
        "error",
        lambda self, x, turn=0: right(self, np.asarray(x) * (1 + 1e-9), turn),
    )
    case = solver_cases.Case(group, (6, 6))
    row = direct_solver.SUITE.measure(case, jax.devices("cpu")[0], "cpu", 0)
    assert row.error.startswith("AssertionError: backward error ")
    assert row.timings == {}


def test_the_matrices_are_those_of_the_grid():
    matrix = solver_cases.Case("whole", (3, 4)).matrix()
    assert matrix.shape == (12, 12)
    assert matrix.nnz == 12 + 2 * (2 * 4 + 3 * 3)
    assert set(matrix.data) == {4.0, -1.1, -0.9}
    dense = matrix.toarray()
    assert ((dense != 0) == (dense.T != 0)).all()


def test_a_gradients_bar_counts_solves():
    times = {
        name: timing.Timing(0, 0, seconds, seconds, seconds, 5, 1)
        for name, seconds in (("nvstate", 3.0), ("forward alone", 2.0), ("solve alone", 0.5))
    }
    bar = direct_solver._gradient(times)
    assert bar["value"] == pytest.approx(2.0)
    assert bar["met"] is False
