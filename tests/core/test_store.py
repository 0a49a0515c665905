"""Plans on disk: what is saved comes back, what is foreign is not used, what is hostile is refused.

Only `StoreError` may leave `load`, or a warning.
"""

import builtins
import copy
import dataclasses
import inspect
import json
import os
import pathlib
import pickle
import re
import resource
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from jax import export

import nvstate as nvs
from nvstate._core import fields, oneshot, placement, stored
from nvstate.errors import NvstateError, SpecError, StoreError
from nvstate.fft import FFTPlan
from nvstate.fft.strategy import candidates
from tests.case import all_cases, relative_l2, to_jax_each

X = jnp.asarray(np.random.default_rng(5).standard_normal((4, 6, 8)) + 0j)
FEW = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def path(tmp_path):
    """Where a file of plans may be."""
    return tmp_path / "plans.json"


@pytest.fixture
def default(path, monkeypatch):
    """The same path as the file that `plan` reads at first use, which is yet to come."""
    monkeypatch.setenv("NVSTATE_STORE", str(path))
    stored._default.cache_clear()
    oneshot.clear()
    yield path
    stored._default.cache_clear()
    oneshot.clear()


def rows(**keywords):
    """A plan of rows."""
    return nvs.fft.plan(X, axes=(2,), **keywords)


def edited(path, change, name="rows"):
    """Change the entry of a plan in a file."""
    whole = json.loads(path.read_text())
    change(whole["plans"][name])
    path.write_text(json.dumps(whole))


def elsewhere(entry):
    """As if the plan had been saved with another version and on another device."""
    entry["environment"] = {"device": "NVIDIA H100", "cufft": "12.4.1"}


# Round trips


def every_plan():
    """Plans of every conformance row: of JAX, NumPy and types, open and pinned."""
    plans = {}
    for case in all_cases():
        values = case.values()
        made = case.planned(to_jax_each(values))
        plans[f"{case.id} of JAX"] = made
        plans[f"{case.id} of NumPy"] = case.planned(values)
        types = {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in values.items()}
        plans[f"{case.id} of types"] = case.planned(types)
        if not isinstance(made, FFTPlan):
            continue
        (value,) = values.values()
        for name in candidates(made.spec, made.operand.shape):
            pinned = nvs.fft.plan(made.spec, value, strategy=name)
            plans[f"{case.id}, {name}"] = pinned
            plans[f"{case.id}, {name}, inverse"] = pinned.inverse()
        if sorted(made.spec.axes) == list(range(-len(made.spec.axes), 0)):
            plans[f"{case.id}, open"] = nvs.fft.plan(made.spec)
    return plans


def test_every_plan_comes_back_as_itself(path):
    plans = every_plan()
    assert len(plans) > 6 * len(all_cases())
    assert nvs.store.save(plans, path) == path
    loaded = nvs.store.load(path)
    assert list(loaded) == list(plans)
    assert all(loaded[name] is plan.storable() for name, plan in plans.items())


def test_another_process_loads_an_equal_plan(path):
    plan = nvs.fft.plan(jax.ShapeDtypeStruct((4, 8), "complex64"), axes=(0,), strategy="strided")
    nvs.store.save({"columns": plan}, path)
    script = (
        "import sys, jax, nvstate as nvs\n"
        "(plan,) = nvs.store.load(sys.argv[1]).values()\n"
        "type_ = jax.ShapeDtypeStruct((4, 8), 'complex64')\n"
        "assert plan is nvs.fft.plan(type_, axes=(0,), strategy='strided')\n"
        "print(hash(plan))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) == hash(plan)


def test_the_text_is_readable(path):
    nvs.store.save({"Zeilen, größer": rows(strategy="transpose")}, path)
    lines = [line.strip() for line in path.read_text().splitlines()]
    for line in (
        '"format": "nvstate plans",',
        '"version": 1,',
        f'"nvstate": "{nvs.__version__}",',
        '"Zeilen, größer": {',
        '"operation": "nvstate.fft.FFTPlan",',
        '"device": "cpu",',
        f'"jaxlib": "{jax.lib.__version__}"',
        '"shape": [4, 6, 8],',
        '"axes": [-1],',
        '"choices": "transpose"',
    ):
        assert line in lines


def test_names_may_be_anything_that_is_text(path):
    names = ["", "a\nb", '"', "[\n1, 2\n]", "\x1b[31m", "\u2028", "😀", "[  1,  2]"]
    plans = dict.fromkeys(names, rows())
    nvs.store.save(plans, path)
    assert nvs.store.load(path) == plans
    with pytest.raises(StoreError, match="a name that is no text"):
        nvs.store.save({"\ud800": rows()}, path)


def test_more_plans_are_added(path):
    nvs.store.save({"rows": rows()}, path)
    columns = nvs.fft.plan(X, axes=(0,))
    nvs.store.save({**nvs.store.load(path), "columns": columns}, path)
    assert nvs.store.load(path) == {"rows": rows(), "columns": columns}


def test_no_plans_are_some(path):
    nvs.store.save({}, path)
    assert nvs.store.load(path) == {}


# Writing


def test_a_failure_while_writing_leaves_the_old_file(path):
    nvs.store.save({"rows": rows()}, path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # bytes of a file
    try:
        with pytest.raises(StoreError, match="cannot be written"):
            nvs.store.save({str(n): rows() for n in range(50)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_readers_see_the_old_file_or_the_new_one(path):
    nvs.store.save({"rows": rows()}, path)
    before = path.read_bytes()
    with path.open("rb") as reader:
        nvs.store.save({"other": rows()}, path)
        assert reader.read() == before
    assert list(nvs.store.load(path)) == ["other"]


def test_links_are_followed(path):
    link = path.with_name("link.json")
    link.symlink_to(path)
    nvs.store.save({"rows": rows()}, link)
    assert link.is_symlink()
    assert path.is_file()
    assert not path.is_symlink()
    assert nvs.store.load(link) == nvs.store.load(path) == {"rows": rows()}


@pytest.mark.parametrize("where", ["missing/plans.json", "file/plans.json", ".", "a\0b"])
def test_places_that_cannot_be_written_or_read(tmp_path, where):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot be written\n  expected: .*\n.*\nMake the folder"):
        nvs.store.save({"rows": rows()}, tmp_path / where)
    with pytest.raises(StoreError, match="cannot be read"):
        nvs.store.load(tmp_path / where)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_what_is_no_plan_is_not_saved(path):
    abstract = jax.ShapeDtypeStruct(export.symbolic_shape("b, 8"), "complex64")
    deep = nvs.fft.plan(jax.ShapeDtypeStruct((1,) * 65, "complex64"), axes=(64,))
    for plans, text in (
        (rows(), 'no plans to save\n.*\n  got:      FFTPlan\nPass `{"name": plan}`'),
        ([rows()], "no plans to save"),
        ({"rows": rows().spec}, "no plan to save"),
        ({1: rows()}, "no plan to save"),
        ({"b": nvs.fft.plan(abstract, axes=(1,))}, "'b' has symbolic extents\n(.*\n)*.*extents"),
        ({"deep": deep}, "at most 64 extents"),  # `load` would refuse it
    ):
        with pytest.raises(StoreError, match=text):
            nvs.store.save(plans, path)
    assert not path.exists()


def test_no_path_at_all(monkeypatch):
    monkeypatch.delenv("NVSTATE_STORE", raising=False)
    for call in (lambda: nvs.store.save({}), nvs.store.load):
        with pytest.raises(StoreError) as raised:
            call()
        assert str(raised.value) == inspect.cleandoc("""
            nvstate.store: no file is named
              expected: a path, or the environment variable NVSTATE_STORE
              got:      neither
            Pass a path, or set NVSTATE_STORE.
        """)


# Other devices and versions


def test_choices_of_another_environment_are_not_used(path):
    plans = {"rows": rows(strategy="transpose"), "here": rows(norm="ortho", strategy="transpose")}
    nvs.store.save(plans, path)
    edited(path, elsewhere)
    with pytest.warns(UserWarning, match="choices of plan 'rows'") as caught:
        loaded = nvs.store.load(path)
    assert loaded == {"rows": rows(), "here": plans["here"]}
    (warning,) = caught
    assert warning.filename == __file__
    for text in (
        str(path),
        "'device': 'NVIDIA H100', here 'cpu'",
        "'cufft': '12.4.1', here 'missing'",
        f"'jaxlib': 'missing', here '{jax.lib.__version__}'",
        "`nvstate.autotune`",
    ):
        assert text in str(warning.message)


@pytest.mark.parametrize("other", [{}, {"device": "cpu"}, {"device": "cpu", "jaxlib": "0.0.1"}])
def test_any_difference_is_one(path, other):
    nvs.store.save({"rows": rows(strategy="transpose")}, path)
    edited(path, lambda entry: entry.update(environment=other))
    with pytest.warns(UserWarning, match=rf"'jaxlib': .*, here '{jax.lib.__version__}'"):
        assert nvs.store.load(path) == {"rows": rows()}


def test_a_cuda_plan_on_a_machine_without_cuda(path):
    nvs.store.save({"rows": rows(strategy="transpose")}, path)

    def moved(entry):
        elsewhere(entry)
        entry["placement"]["devices"] = ["cuda:0"]

    edited(path, moved)
    if placement.local_devices("cuda"):
        pytest.skip("there is a CUDA device")
    with pytest.warns(UserWarning, match="'device': 'NVIDIA H100', here 'missing'"):
        plan = nvs.store.load(path)["rows"]
    assert plan.choices == "auto"
    with pytest.raises(nvs.errors.OperandError, match=r"expected: .* on cuda:0\n.* on cpu:0"):
        plan(X)
    nvs.store.save({"rows": plan}, path)  # a plan as any other
    assert nvs.store.load(path)["rows"] is plan


# The default file


def test_stored_choices_are_taken_for_the_same_problem_only(default):
    nvs.store.save({"rows": rows(strategy="transpose")})
    assert rows().choices == "transpose"
    assert nvs.fft.plan(np.asarray(X), axes=(2,)).choices == "transpose"
    assert nvs.fft.plan(jax.ShapeDtypeStruct(X.shape, X.dtype), axes=(2,)).choices == "transpose"
    assert nvs.fft.plan(nvs.fft.spec(X, axes=(2,)), X).choices == "transpose"
    assert rows(strategy="contiguous").choices == "contiguous"  # pinned
    for other in (
        rows(norm="ortho"),
        rows(direction="inverse"),
        rows(n=9),
        rows(inplace=True),
        nvs.fft.plan(X, axes=(1,)),
        nvs.fft.plan(X[1:], axes=(2,)),
        nvs.fft.plan(X.astype("complex64"), axes=(2,)),
        nvs.fft.plan(nvs.fft.spec(X, axes=(2,))),  # open
    ):
        assert other.choices == "auto"
    assert relative_l2(rows()(X), np.fft.fft(X)) < 1e-14


def test_one_shots_take_stored_choices(default, monkeypatch):
    nvs.store.save({"rows": rows(strategy="transpose")})
    ran = []
    call = FFTPlan.__call__
    monkeypatch.setattr(FFTPlan, "__call__", lambda *a, **k: (ran.append(a[0]), call(*a, **k))[1])
    y = nvs.fft.fft(X)
    assert relative_l2(y, np.fft.fft(X)) < 1e-14
    assert [plan.choices for plan in ran] == ["transpose"]


def test_the_arguments_of_save_and_load(path):
    assert nvs.store.save({"rows": rows()}, path=path) == path
    assert nvs.store.load(path=path) == {"rows": rows()}
    for call, text in (
        (lambda: nvs.store.save("plans.json", {"rows": rows()}), "a mapping, and then a path"),
        (lambda: nvs.store.save({"rows": nvs.bind(rows(), X)}, path), r"nvstate\.release\(bound\)"),
        (lambda: nvs.store.save({"rows": rows()}, path / "no" / "plans.json"), "Make the folder"),
        (lambda: nvs.store.load(5), "no path"),
    ):
        with pytest.raises(nvs.errors.StoreError, match=text):
            call()


def test_warnings_point_at_whose_call_it_was(default):
    nvs.store.save({"rows": rows(strategy="transpose")})
    edited(default, elsewhere)
    for call in (lambda: nvs.fft.plan(X, axes=(2,)), lambda: nvs.fft.fft(X), nvs.store.load):
        nvs.cache.clear()
        with pytest.warns(UserWarning, match="save again") as warned:
            call()
        assert warned[0].filename == __file__


def test_inverses_take_stored_choices(default):
    nvs.store.save({"back": rows(direction="inverse", strategy="transpose")})
    assert rows().inverse().choices == "transpose"
    assert rows(strategy="contiguous").inverse().choices == "contiguous"


def test_foreign_choices_are_not_taken(default):
    nvs.store.save({"rows": rows(strategy="transpose")})
    edited(default, elsewhere)
    with pytest.warns(UserWarning, match="'NVIDIA H100', here 'cpu'"):
        assert rows().choices == "auto"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rows(norm="ortho").choices == "auto"  # another problem: nothing to say
        assert rows(strategy="contiguous").choices == "contiguous"


def test_foreign_defaults_are_no_loss(default):
    nvs.store.save({"rows": rows(strategy="auto")})
    edited(default, elsewhere)
    stored._default.cache_clear()
    assert rows().choices == "auto"


def test_one_file_for_two_machines_warns_on_neither(default):
    nvs.store.save({"rows": rows(strategy="transpose"), "mine": rows(strategy="contiguous")})
    edited(default, elsewhere)
    stored._default.cache_clear()
    assert rows().choices == "contiguous"


def test_the_latest_of_two_choices_is_taken(default):
    nvs.store.save({"b": rows(strategy="transpose"), "a": rows(strategy="contiguous")})
    assert rows().choices == "contiguous"


def test_a_missing_file_is_none_at_all(default):
    assert rows().choices == "auto"
    nvs.store.save({"rows": rows(strategy="transpose")})
    assert rows().choices == "auto"  # what was once planned is planned again


def test_plan_is_a_function_though_its_file_changes(default):
    nvs.store.save({"rows": rows(strategy="transpose")})
    assert rows().choices == "transpose"
    nvs.store.save({"rows": rows(strategy="contiguous")})
    assert rows().choices == "transpose"
    default.unlink()
    assert rows().choices == "transpose"
    assert nvs.fft.plan(X, axes=(0,)).choices == "auto"


def test_a_damaged_default_file_is_an_error_each_time(default):
    default.write_text('{"format": "nvstate plans"')
    for _ in range(2):
        with pytest.raises(StoreError, match="is damaged, or no file of plans"):
            rows()
        with pytest.raises(StoreError, match="is damaged, or no file of plans"):
            nvs.fft.fft(X)
    assert rows(strategy="contiguous").choices == "contiguous"  # nothing is looked up
    nvs.store.save({"rows": rows(strategy="transpose")})
    assert rows().choices == "transpose"


def test_a_default_file_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for where in (tmp_path, tmp_path / "file" / "plans.json"):
        monkeypatch.setenv("NVSTATE_STORE", str(where))
        with pytest.raises(StoreError, match="cannot be read"):
            rows()


# Hostile files


@pytest.fixture
def small(path):
    """The file of one plan, as data."""
    nvs.store.save({"rows": rows(strategy="transpose")}, path)
    return path.read_bytes()


def loaded(path, data):
    """The plans of these bytes, which nothing but `StoreError` and warnings may come of."""
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            return nvs.store.load(path)
        except StoreError as error:
            said = str(error)
    assert said.startswith("nvstate.store: ")
    assert "\x1b" not in said
    assert len(said) < 5000
    return None


def usable(plan):
    """Show that a plan which passed is consistent: what it transforms, it transforms right."""
    assert repr(plan)
    spec, t = plan.spec, plan.operand
    assert FFTPlan.from_json(plan.to_json()) is plan
    shape = (2,) * t.open + t.shape
    if max(*shape, *spec.lengths) > 64 or len(shape) > 6:
        return
    value = np.random.default_rng(0).standard_normal(shape)
    value = value.astype(t.dtype) if spec.kind == "r2c" else (value + 0.5j).astype(t.dtype)
    try:
        got = plan(value * 1)  # a copy, which a plan in place overwrites
    except NvstateError:
        abstract = FFTPlan.of(spec, plan.types, None, plan.choices)
        got = abstract(jnp.asarray(value))
    name = {"c2c": "fftn", "r2c": "rfftn", "c2r": "irfftn"}[spec.kind]
    name = "ifftn" if (spec.kind, spec.direction) == ("c2c", "inverse") else name
    norm = spec.norm
    if norm == "none":
        norm = "forward" if name.startswith("i") else "backward"
    want = getattr(np.fft, name)(value, s=spec.lengths, axes=spec.axes, norm=norm)
    assert relative_l2(got, want) < 1e-5


def test_truncated_at_every_byte(path, small):
    for end in range(len(small)):
        found = loaded(path, small[:end])
        assert found is None or (end == len(small) - 1 and found == loaded(path, small))


@FEW
@given(data=st.data())
def test_mutated_bytes(path, small, data):
    changed = bytearray(small)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        with_ = data.draw(st.binary(max_size=3) | st.sampled_from([b"9", b"-", b"e", b'"', b"["]))
        changed[at : at + data.draw(st.integers(0, 3))] = with_
    for plan in (loaded(path, bytes(changed)) or {}).values():
        usable(plan)


@FEW
@given(data=st.binary(max_size=200))
def test_random_bytes(path, data):
    assert not loaded(path, data)


WORDS = [*"0123", "", "numpy", "jax", "cpu:0", "cuda:0", "cpu:1", "pinned_host", "x", "complex64"]
WORDS += ["complex128", "float32", "c2c", "r2c", "c2r", "forward", "inverse", "ortho", "none"]
WORDS += ["numpy", "assume", "auto", "strided", "loop", "composed", "contiguous", "i4,f8", "O"]
NUMBERS = st.integers(-9, 9) | st.sampled_from([2**31, 2**62, 2**63 - 1, 2**63, -(2**63), 10**99])
LEAVES = st.none() | st.booleans() | NUMBERS | st.sampled_from(WORDS) | st.text(max_size=5)
LISTS = st.lists(NUMBERS, max_size=4) | st.lists(st.sampled_from(WORDS), max_size=3)
VALUES = LEAVES | LISTS | st.dictionaries(st.sampled_from(WORDS), LEAVES, max_size=3) | st.floats()


def places(tree, here=()):
    """Paths to all values of a tree."""
    yield here
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield from places(tree[key], (*here, key))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_replaced_values(path, small, data):
    whole = json.loads(small)
    for _ in range(data.draw(st.integers(1, 3))):
        found = [p for p in places(whole) if p]
        *inner, last = data.draw(st.sampled_from(found))
        node = whole
        for key in inner:
            node = node[key]
        node[last] = data.draw(VALUES)
    for plan in (loaded(path, json.dumps(whole).encode()) or {}).values():
        usable(plan)


SMALL = st.lists(st.integers(0, 5), min_size=1, max_size=4)
AXES = st.lists(st.integers(-4, -1), min_size=1, max_size=3)
OTHERS = {
    ("spec", "kind"): st.sampled_from(["c2c", "r2c", "c2r"]),
    ("spec", "direction"): st.sampled_from(["forward", "inverse"]),
    ("spec", "norm"): st.sampled_from(["backward", "ortho", "forward", "none"]),
    ("spec", "axes"): AXES,
    ("spec", "lengths"): SMALL,
    ("spec", "extents"): SMALL,
    ("spec", "dtype"): st.sampled_from(["complex64", "complex128", "float32"]),
    ("spec", "hermitian"): st.sampled_from(["numpy", "assume"]),
    ("spec", "inplace"): st.booleans(),
    ("operands", "x", "shape"): SMALL,
    ("operands", "x", "dtype"): st.sampled_from(["complex64", "complex128", "float32", "float64"]),
    ("operands", "x", "open"): st.booleans(),
    ("placement",): st.sampled_from(
        [
            {"package": p, "devices": [d], "memory_kind": None}
            for p, d in (
                ("numpy", "cpu:0"),
                ("jax", "cpu:0"),
                ("numpy", "cuda:7"),
                ("jax", "cpu:3"),
            )
        ]
    ),
    ("choices",): st.sampled_from(
        ["auto", "contiguous", "strided", "loop", "transpose", "composed"]
    ),
}


@st.composite
def plausible(draw):
    """A plan's fields, of which up to three are replaced by what others have there."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    axes = draw(st.permutations(range(-len(shape), 0)))[: draw(st.integers(1, 4))]
    kind = draw(st.sampled_from(["c2c", "r2c", "c2r"]))
    dtype = {"r2c": "float32"}.get(kind, "complex64")
    lengths = draw(st.lists(st.integers(1, 5), min_size=len(axes), max_size=len(axes)))
    x = draw(st.sampled_from([np.ones, jax.ShapeDtypeStruct]))(tuple(shape), dtype)
    plan = nvs.fft.plan(x, axes=tuple(axes), kind=kind, s=tuple(lengths))
    made = json.loads(plan.to_json())
    for where in draw(st.lists(st.sampled_from(list(OTHERS)), max_size=3)):
        node = made
        for key in where[:-1]:
            node = node[key]
        node[where[-1]] = draw(OTHERS[where])
    return made


@FEW
@given(made=plausible())
def test_fields_that_do_not_agree(made):
    try:
        plan = FFTPlan.from_json(json.dumps(made))
    except StoreError:
        return
    usable(plan)


def changed(path, small, *where, value):
    """The text of the `StoreError` for a file with one value replaced."""
    whole = json.loads(small)
    node = whole
    for key in where[:-1]:
        node = node[key]
    node[where[-1]] = value
    path.write_text(json.dumps(whole))
    with pytest.raises(StoreError) as raised:
        nvs.store.load(path)
    assert len(str(raised.value)) < 5000
    return str(raised.value)


ENTRY = ("plans", "rows")
REFUSED = {
    "version-newer": (("version",), 2, "of another version of the format\n.*1\n.*version 2, nv"),
    "version-true": (("version",), True, "version True"),
    "version-text": (("version",), "1", "version '1'"),
    "version-huge": (("version",), 10**4000, "of another version"),
    "format": (("format",), "pickle", "is no file of plans"),
    "head-more": (("signature",), "", r"unknown \['signature'\]"),
    "plans-list": (("plans",), [], r"the plans: no object, but \[\]"),
    "plan-list": (ENTRY, [], "plan 'rows' of .* cannot be read"),
    "field-unknown": ((*ENTRY, "workspace"), 1, r"unknown \['workspace'\], missing \[\]"),
    "os-system": ((*ENTRY, "operation"), "os.system", "an unknown operation, 'os.system'"),
    "operation-list": ((*ENTRY, "operation"), ["a"], "an unknown operation"),
    "environment-list": ((*ENTRY, "environment"), [], "no names and versions"),
    "environment-long": (
        (*ENTRY, "environment"),
        {str(n): "" for n in range(99)},
        "no names and versions",
    ),
    "environment-number": ((*ENTRY, "environment", "device"), 1, "no names and versions"),
    "spec-null": ((*ENTRY, "spec"), None, "a spec: no object, but None"),
    "spec-class": ((*ENTRY, "spec", "__class__"), "os", r"unknown \['__class__'\]"),
    "kind": ((*ENTRY, "spec", "kind"), "c2x", "unknown `kind`"),
    "kind-list": ((*ENTRY, "spec", "kind"), ["c2c"], "unknown `kind`"),
    "axes-number": ((*ENTRY, "spec", "axes"), -1, "`axes` needs a tuple"),
    "axes-true": ((*ENTRY, "spec", "axes"), [True], "`axes` needs integers"),
    "axes-float": ((*ENTRY, "spec", "axes"), [-1.0], "is damaged(.*\n)*.*only integers"),
    "axes-object": ((*ENTRY, "spec", "axes"), {}, "a list is expected"),
    "axes-repeated": ((*ENTRY, "spec", "axes"), [-1, -1], "not in canonical form"),
    "axes-positive": ((*ENTRY, "spec", "axes"), [2], "not in canonical form"),
    "axes-many": ((*ENTRY, "spec", "axes"), [1] * 10**5, "not in canonical form"),
    "axes-beyond": ((*ENTRY, "spec", "axes"), [-4], "is no operand of"),
    "axes-elsewhere": ((*ENTRY, "spec", "axes"), [-2], "is no operand of"),
    "lengths-more": ((*ENTRY, "spec", "lengths"), [8, 8], "not in canonical form"),
    "lengths-zero": ((*ENTRY, "spec", "lengths"), [0], "no transform"),
    "lengths-2^62": ((*ENTRY, "spec", "lengths"), [2**62], "more bytes than any library counts"),
    "extents": ((*ENTRY, "spec", "extents"), [9], "is no operand of"),
    "spec-dtype": ((*ENTRY, "spec", "dtype"), "complex64", "is no operand of"),
    "spec-dtype-real": ((*ENTRY, "spec", "dtype"), "float64", "no transform"),
    "r2c-of-complex": ((*ENTRY, "spec", "kind"), "r2c", "is no operand of"),
    "c2r-forward": ((*ENTRY, "spec", "kind"), "c2r", "runs inverse only"),
    "norm-none": ((*ENTRY, "spec", "norm"), None, "unknown `norm`"),
    "hermitian-of-c2c": ((*ENTRY, "spec", "hermitian"), "assume", "no transform"),
    "inplace-1": ((*ENTRY, "spec", "inplace"), 1, "`inplace` is a choice"),
    "operand-y": ((*ENTRY, "operands"), {"y": {}}, r"unknown \['y'\], missing \['x'\]"),
    "shape-text": ((*ENTRY, "operands", "x", "shape"), "48", "`shape` is a list"),
    "shape-true": ((*ENTRY, "operands", "x", "shape"), [True, 6, 8], "`shape` is a list"),
    "shape-negative": ((*ENTRY, "operands", "x", "shape"), [-4, 6, 8], "`shape` is a list"),
    "shape-long": ((*ENTRY, "operands", "x", "shape"), [1] * 65, "at most 64 extents"),
    "shape-huge": ((*ENTRY, "operands", "x", "shape"), [2**62, 2, 8], "more bytes than any"),
    "shape-none": ((*ENTRY, "operands", "x"), None, "an operand: no object"),
    "open-but-apart": ((*ENTRY, "operands", "x", "open"), True, "is no operand of"),
    "open-number": ((*ENTRY, "operands", "x", "open"), 0, "`open` is true or false"),
    "dtype-surrogate": ((*ENTRY, "operands", "x", "dtype"), "\ud800", r"not '\\ud800'"),
    "dtype-language": ((*ENTRY, "operands", "x", "dtype"), "(1__1)i4,", "name of one"),
    "dtype-alias": ((*ENTRY, "operands", "x", "dtype"), "c16", "name of one"),
    "dtype-other-alias": ((*ENTRY, "operands", "x", "dtype"), "cdouble", "name of one"),
    "dtype-deprecated": ((*ENTRY, "operands", "x", "dtype"), "a4", "name of one"),
    "dtype-list": ((*ENTRY, "operands", "x", "dtype"), [], "name of one"),
    "package": ((*ENTRY, "placement", "package"), "cupy", "`package` is"),
    "package-list": ((*ENTRY, "placement", "package"), [[]], "`package` is"),
    "no-devices": ((*ENTRY, "placement", "devices"), [], "`devices` is a list"),
    "devices-text": ((*ENTRY, "placement", "devices"), "cpu:0", "`devices` is a list"),
    "devices-of-two": ((*ENTRY, "placement", "devices"), ["cpu:0", "cuda:1"], "of one platform"),
    "devices-twice": ((*ENTRY, "placement", "devices"), ["cpu:0", "cpu:0"], "ascending"),
    "device-arabic": ((*ENTRY, "placement", "devices"), ["cpu:٠"], "`devices` is a list"),
    "device-umlaut": ((*ENTRY, "placement", "devices"), ["cpü:0"], "`devices` is a list"),
    "device-zeros": ((*ENTRY, "placement", "devices"), ["cpu:00"], "`devices` is a list"),
    "memory-number": ((*ENTRY, "placement", "memory_kind"), 1, "`memory_kind` is a word"),
    "memory-escape": ((*ENTRY, "placement", "memory_kind"), "\x1b[2J", r"not '\\x1b\[2J'"),
    "choices": ((*ENTRY, "choices"), "fastest", "unknown strategy 'fastest'"),
    "choices-null": ((*ENTRY, "choices"), None, "unknown strategy None"),
    "choices-list": ((*ENTRY, "choices"), ["auto"], "unknown strategy"),
    "choices-impossible": ((*ENTRY, "choices"), "loop", 'strategy "loop" cannot transform'),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(path, small, name):
    where, value, text = REFUSED[name]
    said = changed(path, small, *where, value=value)
    assert re.search(text, said), said
    assert str(path) in said
    assert re.match(r"nvstate\.store: .*\n  expected: .+\n  got:      .+\n(.*\n)*.+\.$", said)


def test_numpys_arrays_have_one_device_and_one_memory(path, small):
    for change in ({"devices": ["cpu:0", "cpu:1"]}, {"memory_kind": "pinned_host"}):
        value = {"package": "numpy", "devices": ["cpu:0"], "memory_kind": None, **change}
        said = changed(path, small, *ENTRY, "placement", value=value)
        assert "on one device, in its memory" in said


def test_axes_in_another_order_are_another_form(path):
    nvs.store.save({"rows": nvs.fft.plan(X[0])}, path)
    said = changed(path, path.read_bytes(), *ENTRY, "spec", "axes", value=[-1, -2])
    assert "distinct negative axes in order" in said


@pytest.mark.parametrize("shape", [[], [3, 8], [8, 1]])
def test_open_operands_have_no_axes_but_the_transforms(path, shape):
    nvs.store.save({"rows": nvs.fft.plan(nvs.fft.spec(X, axes=(2,)))}, path)
    said = changed(path, path.read_bytes(), *ENTRY, "operands", "x", "shape", value=shape)
    assert "is no operand of" in said


TEXTS = {
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "not-utf-8": b'{"format": "\xff"}',
    "utf-16": '{"format": "nvstate plans"}'.encode("utf-16"),
    "mark": b'\xef\xbb\xbf{"format": "nvstate plans"}',
    "nan": b'{"format": "nvstate plans", "version": NaN}',
    "infinity": b'{"format": "nvstate plans", "version": -Infinity}',
    "float": b'{"format": "nvstate plans", "version": 1.0}',
    "exponent": b'{"format": "nvstate plans", "version": 1e400}',
    "digits": b'{"format": "nvstate plans", "version": ' + b"9" * 10**6 + b"}",
    "string": b'{"format": "' + b"a" * 10**6 + b'"}',
    "pickle": pickle.dumps({"format": "nvstate plans", "version": 1}),
    "comment": b'{"format": "nvstate plans"} // version 1',
}


@pytest.mark.parametrize("name", TEXTS)
def test_no_file_of_plans(path, name):
    assert loaded(path, TEXTS[name]) is None


@pytest.mark.parametrize("opening", [b"[", b'{"format":'])
def test_nested_at_every_depth(path, opening):
    # Not all depths that the reader bears are borne by what prints a value.
    depths = [10, 100, *range(900, 1010), 10**5]
    for depth in depths:
        close = b"]" if opening == b"[" else b"}"
        deep = opening * depth + b"0" + close * depth
        assert loaded(path, deep) is None
        head = b'{"format": "nvstate plans", "version": '
        assert loaded(path, head + deep + b"}") is None


def test_a_name_twice_in_one_object(path, small):
    for twice in (b'"choices": "auto", "choices"', b'"choices": "transpose", "choices"'):
        path.write_bytes(small.replace(b'"choices"', twice))
        with pytest.raises(StoreError, match="a name twice in one object"):
            nvs.store.load(path)


@pytest.mark.parametrize("number", [b"NaN", b"-Infinity", b"1.5", b"1e9"])
def test_numbers_that_are_no_integers(path, small, number):
    path.write_bytes(small.replace(f'"{nvs.__version__}"'.encode(), number))
    with pytest.raises(StoreError, match="where only integers are written"):
        nvs.store.load(path)


def test_a_file_above_the_limit(path):
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(StoreError, match=r"is too large\n  expected: at most \d+ bytes"):
        nvs.store.load(path)


def test_devices_without_end():
    with pytest.raises(StoreError, match="is too large"):
        nvs.store.load("/dev/zero")


def test_nothing_is_imported_or_executed(path, small, monkeypatch):
    whole = json.loads(small)
    entry = whole["plans"]["rows"]
    hostile = []
    for name in ("os.system", "__import__('os').system('false')", "nvstate.fft.FFTPlan.__init__"):
        for field in entry:
            hostile.append(copy.deepcopy(whole))
            hostile[-1]["plans"]["rows"][field] = name
        for word in ("__class__", "__reduce__", "py/object", "$type"):
            hostile.append(copy.deepcopy(whole))
            hostile[-1]["plans"]["rows"]["spec"][word] = name
    loaded(path, small)  # what is imported lazily, is by now
    modules, imported = set(sys.modules), builtins.__import__

    def watched(name, *args, **keywords):
        assert name in sys.modules or args[3:] == (1,), name
        return imported(name, *args, **keywords)

    def forbidden(*args, **keywords):
        raise AssertionError("a file was executed")

    monkeypatch.setattr(builtins, "__import__", watched)
    for owner, name in (
        (builtins, "eval"),
        (builtins, "exec"),
        (os, "system"),
        (pickle, "loads"),
        (pickle, "load"),
        (pickle, "Unpickler"),
    ):
        monkeypatch.setattr(owner, name, forbidden)
    found = [loaded(path, json.dumps(one).encode()) for one in hostile]
    monkeypatch.undo()
    assert found == [None] * len(hostile)
    assert set(sys.modules) == modules


def test_no_pickle_on_this_path():
    for module in (nvs.store, stored, fields):
        text = pathlib.Path(module.__file__).read_text()
        assert "pickle" not in text
        assert "eval(" not in text
        assert "import_module" not in text


def test_calls_of_what_passes_are_refused_clearly(path, small):
    """Well-formed files that name what is not here: each call says what was expected."""
    nvs.store.save({"rows": nvs.fft.plan(np.asarray(X), axes=(2,))}, path)
    edited(path, lambda entry: entry["placement"].update(devices=["cuda:9"]))
    with pytest.warns(UserWarning, match="here 'missing'"):
        plan = nvs.store.load(path)["rows"]
    with pytest.raises(nvs.errors.UnsupportedError, match="no device cuda:9 in this process"):
        plan(np.asarray(X))
    path.write_bytes(small)
    edited(path, lambda entry: entry["placement"].update(memory_kind="elsewhere"))
    plan = nvs.store.load(path)["rows"]
    with pytest.raises(nvs.errors.OperandError, match=r"expected: .* on cpu:0 \(elsewhere\)"):
        plan(X)


# Beside files


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "null", "[" * 10**5, '{"spec": NaN}', '{"choices": "auto"}'],
    ids=lambda text: text[:20],
)
def test_one_plans_text_is_checked_alike(text):
    with pytest.raises(StoreError, match=r"^nvstate\.store: no plan"):
        FFTPlan.from_json(text)


def test_one_plans_fields_are_checked_alike():
    text = rows().to_json()
    assert FFTPlan.from_json(text) is rows()
    for old, new in (
        ('"c2c"', '"c2x"'),
        ("[4, 6, 8]", "[4, 6, 9]"),
        ('"cpu:0"', '"cpu"'),
        ('"auto"', '"loop"'),
        ("complex128", "float64"),
    ):
        assert old in text
        with pytest.raises(StoreError, match=r"no plan of nvstate.fft"):
            FFTPlan.from_json(text.replace(old, new))


def test_transforms_that_no_library_counts_are_refused_not_fatal():
    with pytest.raises(SpecError, match="more bytes than any library counts"):
        nvs.fft.fft(X, n=2**62)
    with pytest.raises(SpecError, match="more bytes than any library counts"):
        jax.eval_shape(lambda x: nvs.fft.fft(x, n=2**57), X)


def test_replaced_specs_are_as_strict_as_files():
    for change in ({"hermitian": "assume"}, {"axes": (-1, -2)}):
        with pytest.raises(SpecError):
            dataclasses.replace(nvs.fft.spec(X[0]), **change)
