"""The benchmark runs as a user runs it, and its files hold what they promise. No time is judged."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import nvstate as nvs
from nvstate.bench import (
    bars,
    cases,
    clocks,
    libraries,
    lifecycle,
    matmul,
    matmul_candidates,
    matmul_cases,
    solver_cases,
    timing,
)
from nvstate.bench.forms import Operand
from tests import fresh
from tests.deviceless import compile_h100


def bench(*arguments):
    """A run as users start it."""
    path = os.pathsep.join(
        filter(None, [str(Path(nvs.__file__).parents[1]), os.environ.get("PYTHONPATH")])
    )
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path, "MPLBACKEND": "agg"}
    command = [sys.executable, "-m", "nvstate.bench", *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def said(*arguments, status):
    """What a run that has no work to do prints, of both streams."""
    arguments = [*map(str, arguments)]
    script = f"import sys\nfrom nvstate.bench.__main__ import main\nsys.exit(main({arguments}))"
    done = fresh.run(script, JAX_PLATFORMS="cpu")
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def reported(folder, *arguments):
    """What a run prints, and its files."""
    pytest.importorskip("matplotlib")
    files = {"json": folder / "b.json", "markdown": folder / "b.md", "plot": folder / "b.png"}
    options = [text for name, path in files.items() for text in (f"--{name}", path)]
    return bench(*arguments, "--quick", *options), files


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A run of one case of each form, and its files."""
    chosen = "^[cdf]/|h/.*-(16-axes0|32x32x32.*-assume)"
    return reported(tmp_path_factory.mktemp("fft"), "fft", "--cases", chosen)


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """The same of the lifecycle, whole."""
    return reported(tmp_path_factory.mktemp("lifecycle"), "lifecycle")


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    """The same of products, whole."""
    return reported(tmp_path_factory.mktemp("matmul"), "matmul")


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("run", ["quick", "calls", "products"])
def test_every_case_is_in_every_report(run, request):
    printed, files = request.getfixturevalue(run)
    ids = [row["id"] for row in json.loads(files["json"].read_text())["rows"]]
    table = files["markdown"].read_text()
    assert all(name in printed and name in table for name in ids)
    assert files["plot"].read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_peers_that_are_missing_are_named(quick):
    data = json.loads(quick[1]["json"].read_text())
    assert data["environment"]["missing"] == libraries.missing("cpu")
    installed = libraries.module("scipy.fft") is not None
    rows = [row for row in data["rows"] if row["id"].startswith("h/")]
    assert all(("scipy.fft" in row["timings"]) == installed for row in rows)


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_lifecycle_says_in_its_tables_what_the_clock_waited_for(calls):
    table = calls[1]["markdown"].read_text()
    assert table.startswith("# Calls on ")
    for waited in set(lifecycle.WAITED.values()):
        assert f"the clock waited for {waited}." in table


@pytest.mark.slow
def test_products_have_every_group_and_every_type(products):
    data = json.loads(products[1]["json"].read_text())
    on_cpu = [c for c in matmul_cases.all_cases(quick=True) if c.runs_on("cpu")]
    assert [row["id"] for row in data["rows"]] == [c.id for c in on_cpu]
    assert {row["form"] for row in data["rows"]} == set(matmul_cases.GROUPS.values())
    assert "overall" not in data  # a CPU has no bars
    for row, case in zip(data["rows"], on_cpu, strict=True):
        assert row["error"] is None
        assert row["refused"] == {}
        assert {"nvstate", case.reference} <= row["timings"].keys()
        assert row["describe"].startswith("product ")
        for times in row["timings"].values():
            first, third = times["quartiles"]
            assert 0 < times["low"] <= first <= times["median"] <= third <= times["high"]
    assert "[quartiles]" in products[1]["markdown"].read_text()


def test_products_measure_all_the_shapes_of_the_bars():
    made = matmul_cases.all_cases(quick=False)
    plain = [c for c in made if c.group == "plain"]
    assert len([c for c in plain if c.dtype == "bf16"]) == 20
    assert {c.dtype for c in plain} == set(matmul_cases.DTYPES)
    assert all(matmul_cases.NOT_SLOWER in c.bars for c in plain)
    narrow = [c for c in plain if c.dtype == "fp8"]
    assert all(extent % 16 == 0 for c in narrow for extent in c.extents)


def product(group, extents, dtype="bf16", batch=1):
    case = matmul_cases.Case(group, extents, dtype, batch)
    return case, matmul_candidates.problem(case, jax.devices("cpu")[0])


@pytest.mark.parametrize(
    ("group", "extents", "dtype", "batch"),
    [
        *(("plain", (48, 32, 64), dtype, 1) for dtype in matmul_cases.DTYPES),
        ("plain", (6, 5, 7), "f16", 3),
        ("gelu_bias", (6, 5, 7), "bf16", 1),
        ("mlp", (6, 5, 7, 4), "bf16", 1),
    ],
)
def test_both_sides_compute_what_numpy_does(group, extents, dtype, batch):
    case, given = product(group, extents, dtype, batch)
    ours, theirs = (f(**given.operands) for f in (given.ours(), given.theirs()))
    matmul_candidates.require_agreement(case, ours, theirs)
    x = jax.tree.map(lambda x: np.asarray(x, "float64"), given.operands)
    if group == "mlp":
        z = x["x"] @ x["weights"][0] + x["biases"][0]
        h = 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
        expected, got = h @ x["weights"][1] + x["biases"][1], ours[0]
    else:
        b = x["b"].swapaxes(-1, -2) if dtype == "fp8" else x["b"]
        z = x["a"] @ b * x.get("scale_a", 1) * x.get("scale_b", 1) + x.get("bias", 0)
        gelu = 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
        expected, got = gelu if group == "gelu_bias" else z, ours
    matmul_candidates.require_agreement(case, got, expected)
    assert 0.3 < np.std(expected) < 3  # of size one: neither lost in rounding nor infinite


@pytest.mark.parametrize("group", ["plain", "first", "call"])
def test_a_product_that_is_wrong_has_no_speed(group, monkeypatch):
    case, _ = product(group, (48, 32, 64))
    right = matmul_candidates.Product.theirs
    wrong = lambda self: lambda a, b: 1.1 * right(self)(a, b)  # noqa: E731
    monkeypatch.setattr(matmul_candidates.Product, "theirs", wrong)
    row = matmul.SUITE.measure(case, jax.devices("cpu")[0], "cpu", 0)
    assert row.error.startswith("ValueError: result 0: relative L2 distance to XLA's ")
    assert row.timings == {}


def test_an_fp8_product_that_xla_does_not_leave_to_cublaslt_is_no_reference():
    case, _ = product("plain", (48, 32, 64), "fp8")
    row = matmul.SUITE.measure(case, jax.devices("cpu")[0], "cuda", 0)
    assert row.error is None
    assert list(row.timings) == ["nvstate"]
    assert list(row.refused) == [matmul_cases.XLA]
    assert "__cublas$lt$matmul$f8" in row.refused[matmul_cases.XLA]
    assert row.losing is False


def test_equal_products_of_one_program_are_not_merged():
    case, given = product("plain", (48, 32, 64), "f32")
    for function in (given.ours(), given.theirs()):
        many = jax.jit(matmul_candidates.repeated(function))
        firsts = [given.operands["a"], *given.more(4)]
        others = {"b": given.operands["b"]}
        text = many.lower(firsts, others).compile().as_text()
        assert text.count(" dot(") == 5
        for x, got in zip(firsts, many(firsts, others), strict=True):
            matmul_candidates.require_agreement(case, got, function(x, **others))


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_equal_products_of_an_h100_program_are_not_merged(side):
    _, given = product("gelu_bias", (256, 256, 256))
    a, b, bias = given.operands.values()
    function = given.theirs()
    if side == "ours":  # planned for no device: the described one is not here
        types = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (a, b, bias)]
        plan = nvs.matmul.plan(*types[:2], bias=types[2], epilog="gelu_bias")
        function = lambda a, **others: plan(a=a, **others)  # noqa: E731

    def three(a, a1, a2, b, bias):
        return matmul_candidates.repeated(function)([a, a1, a2], {"b": b, "bias": bias})

    options = {"xla_gpu_enable_triton_gemm": "False", **matmul_candidates.SERIAL}
    hlo = compile_h100(three, a, a, a, b, bias, options=options).hlo
    target = "nvstate_cublaslt_matmul" if side == "ours" else "__cublas$lt$matmul"
    assert hlo.count(f'custom_call_target="{target}') == 3
    assert " copy(" not in hlo
    if side == "theirs":
        assert hlo.count('"epilogue":"BIAS_GELU"') == 3  # XLA at its best


def test_the_mean_of_a_group_is_geometric_and_a_gpus_bar():
    def row(group, ratio):
        times = {"nvstate": timing.Timing(0, 0, 1, 1, 1, 5, 1)}
        if ratio:
            times[matmul_cases.XLA] = timing.Timing(0, 0, ratio, ratio, ratio, 5, 1)
        return matmul.Row(id=group, group=group, form="", reference=matmul_cases.XLA, timings=times)

    rows = [
        row(*given)
        for given in [
            ("plain/bf16", 0.5),
            ("plain/bf16", 8),
            ("plain/fp8", None),
            ("gelu_bias", 1.03),
            ("mlp", 2),
        ]
    ]
    assert matmul.overall(rows, "cpu") == []
    made = matmul.overall(rows, "cuda")
    assert [bar["value"] for bar in made] == pytest.approx([2, 1.03])
    assert [bar["met"] for bar in made] == [True, False]
    assert made[0]["text"].startswith("plain/bf16: geometric mean of 2 ratios ≥ 1x ")


def test_a_first_call_is_of_a_problem_that_nobody_had():
    seen = []

    def candidates(turn):
        def make(name):
            seen.append((turn, name))
            return lambda: None

        return [
            timing.Candidate(name, lambda name=name: make(name), lambda _: None)
            for name in ("nvstate", "other")
        ]

    times = timing.measure_first(candidates, rounds=2)
    assert list(times) == ["nvstate", "other"]
    assert all(t.rounds == 2 and t.calls == 1 and t.median == t.first for t in times.values())
    assert seen == [
        (0, "nvstate"),
        (0, "other"),
        (1, "other"),
        (1, "nvstate"),
        (2, "nvstate"),
        (2, "other"),
    ]


def test_clocks_are_medians_of_whole_lines():
    assert clocks.summary("1980, 120.5\n1755, 690.1\n1740, 700.0\n17") == "SM clock 1755 MHz, 690 W"
    assert clocks.summary("No devices were found\n") == ""


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
    assert "--list" in said("fft", "--cases", "^nothing$", status=2)


def test_a_directory_that_is_missing_is_told_before_the_work(tmp_path):
    path = tmp_path / "missing" / "b.json"
    assert "no such directory" in said("fft", "--json", path, status=2)


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there may be a GPU")
def test_no_gpu_is_said_and_not_replaced_by_a_cpu():
    assert "no such device" in said("fft", "--quick", "--device", "cuda", status=2)


@pytest.mark.parametrize(
    ("name", "suite"),
    [
        ("direct_solver", solver_cases),
        ("fft", cases),
        ("lifecycle", lifecycle),
        ("matmul", matmul_cases),
    ],
)
def test_list_names_every_case_once(name, suite):
    names = said(name, "--list", status=0).split()
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
