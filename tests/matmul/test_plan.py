"""Plans as data: what they hold, how they print, where they are kept, what they take."""

import dataclasses
import gc
import pickle
import subprocess
import sys
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvstate as nvs
from nvstate import _native
from nvstate._core import host
from nvstate.matmul import query
from tests.matmul import oracle


@pytest.fixture
def algorithm():
    """Sixty-four bytes and a problem: no library is asked."""
    return nvs.matmul.Algorithm(bytes(range(64)), (6, 4, 8, 1), "some GPU", 130100, 1024, 0.5)


A, B = np.ones((4, 8), "float32"), np.ones((8, 6), "float32")


def test_algorithms_are_compared_by_data_and_problem(algorithm):
    same = nvs.matmul.Algorithm(algorithm.data, algorithm.problem, time_us=3.0)
    assert same == algorithm
    assert hash(same) == hash(algorithm)
    assert algorithm != nvs.matmul.Algorithm(algorithm.data, (1, 4, 8, 1))
    copy = pickle.loads(pickle.dumps(algorithm))
    assert (copy, copy.device, copy.workspace_bytes) == (algorithm, "some GPU", 1024)
    array = algorithm.to_numpy()
    assert (array.dtype, array.shape) == (np.uint64, (8,))
    assert nvs.matmul.Algorithm.from_numpy(array, algorithm.problem) == algorithm


TOLD = {
    "split_k": 1, "reduction_scheme_mask": 5, "cta_swizzling": 0, "custom_option_max": 3,
    "pointer_mode_mask": 3, "epilogue_mask": 2 | 4 | 32 | 256, "numerical_impl_flags": 2 | 1 << 9,
    "alignment_a": 8, "alignment_b": 16, "alignment_c": 1, "alignment_d": 2,
    "tiles": [1, 2, 3, 20], "stages": [], "strided_batch": 1,
}  # fmt: skip


def test_capabilities_are_in_our_words(algorithm, monkeypatch):
    monkeypatch.setattr(_native, "cublaslt_capabilities", lambda _: TOLD)
    monkeypatch.setattr(_native, "cublaslt_configured", lambda data, **_: data[::-1])
    can = algorithm.capabilities
    assert type(can) is nvs.matmul.Capabilities
    assert (can.tiles, can.stages, can.split_k) == ((1, 2, 3, 20), (), True)
    assert can.reduction_schemes == ("inplace", "output_type")
    assert can.epilogs == ("relu", "gelu", "bias", "relu_bias", "gelu_bias", "bgradb")
    assert can.pointer_modes == ("host", "device")
    assert can.numerical_impl == ("hmma", "accumulator_32f")
    assert dict(can.alignments) == {"a": 16, "b": 8, "c": 1, "d": 2}
    assert (can.cta_swizzling, can.strided_batch, can.out_of_place) == (False, True, False)
    assert "  tiles: 1-3, 20\n  stages: none\n" in repr(can)
    assert "  alignments: a 16, b 8, c 1, d 2\n" in repr(can)
    with pytest.raises(dataclasses.FrozenInstanceError):
        can.tiles = ()
    for good in ({"tile": 20}, {"stages": 7}, {"reduction_scheme": 4}, {"cluster_shape": 2}):
        assert algorithm.replace(**good).data == algorithm.data[::-1]
    for wrong, expected in (
        ({"tile": 4}, "`tile` of 1-3, 20"),
        ({"tile": 1.0}, "`tile` of 1-3, 20"),
        ({"split_k": -1}, "`split_k` of 0 or more"),
        ({"reduction_scheme": 2}, "`reduction_scheme` of 0-1, 4"),
        ({"cta_swizzling": 1}, "`cta_swizzling` of 0"),
        ({"custom_option": 4}, "`custom_option` of 0-3"),
        ({"id": 1}, "one of the settings tile, "),
    ):
        with pytest.raises(nvs.errors.SpecError, match="outside of the algorithm's cap") as raised:
            algorithm.replace(**wrong)
        assert f"expected: {expected}" in str(raised.value)


def test_a_pinned_algorithm_lives_in_the_plan(algorithm, tmp_path):
    plan = nvs.matmul.plan(A, B)
    pinned = plan.with_algorithm(algorithm)
    assert pinned != plan
    assert pinned.spec == plan.spec
    assert pinned is nvs.matmul.plan(A, B, algorithm=algorithm)
    assert pinned is nvs.matmul.plan(A, B, algorithm=[algorithm])
    assert pinned is plan.with_algorithm(nvs.matmul.Algorithm(algorithm.data, algorithm.problem))
    assert pinned.algorithm == algorithm
    assert pinned.pinned == (algorithm,)
    assert plan.algorithm is None
    assert plan.algorithms == ()
    assert algorithm.data.hex() in repr(pinned)
    assert pickle.loads(pickle.dumps(pinned)) is pinned
    path = nvs.store.save({"one": pinned}, tmp_path / "plans.json")
    assert algorithm.data.hex() in path.read_text()
    assert nvs.store.load(path)["one"] is pinned
    assert (pinned(A, B) == plan(A, B)).all()


def test_a_stored_algorithm_is_found_by_plan(algorithm, tmp_path):
    plan = nvs.matmul.plan(A, B).with_algorithm(algorithm)
    path = nvs.store.save({"one": plan}, tmp_path / "plans.json")
    script = (
        "import numpy as np, nvstate as nvs;"
        "plan = nvs.matmul.plan(np.ones((4, 8), 'float32'), np.ones((8, 6), 'float32'));"
        "print(plan.algorithm.data.hex(), plan.digest)"
    )
    environment = {**__import__("os").environ, "NVSTATE_STORE": str(path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == [algorithm.data.hex(), str(plan.digest)], done.stderr


def test_a_damaged_plan_is_refused(algorithm):
    plan = nvs.matmul.plan(A, B, epilog="relu").with_algorithm(algorithm)
    text = plan.to_json()
    assert type(plan).from_json(text) is plan
    for old, new in (
        ('"m": 4', '"m": 5'),
        ('"relu"', '"elu"'),
        (algorithm.data.hex(), "00"),
        ('"float32"', '"float16"'),
        ("[[], ", '[[["limit", 0]], '),
    ):
        assert old in text
        with pytest.raises(nvs.errors.StoreError):
            type(plan).from_json(text.replace(old, new, 1))


def test_candidates_are_asked_once_and_live_as_their_plan(algorithm, monkeypatch):
    asked = []

    def found(plan, limit, choices):
        asked.append(plan.placement)
        return (dataclasses.replace(algorithm),)

    monkeypatch.setattr(query, "algorithms", found)
    monkeypatch.setattr(nvs.matmul.MatmulPlan, "backend", "cublaslt")
    A, B = np.ones((31, 8)), np.ones((8, 29))  # of which no plan lives yet
    plan = nvs.matmul.plan(A, B)
    assert plan.algorithms == nvs.matmul.plan(A, B).algorithms == (algorithm,)
    assert len(asked) == 1
    here, there = (
        nvs.matmul.plan(*(jax.device_put(x, device) for x in (A, B)))
        for device in jax.devices("cpu")[:2]
    )
    assert here.algorithms == there.algorithms
    assert len(asked) == 3  # each device is asked, of whatever kind it is
    assert str(asked[1]) != str(asked[2])
    kept = weakref.ref(plan.algorithms[0])
    del plan
    gc.collect()
    assert kept() is None


def test_preferences_are_in_the_plan():
    preferences = nvs.matmul.Preferences(
        memory_limit="8 MiB", reduction_scheme_mask=(), max_waves_count=1.5, fast_accumulation=True
    )
    plan = nvs.matmul.plan(A, B, preferences=preferences)
    assert plan != nvs.matmul.plan(A, B)
    assert plan.preferences.memory_limit == 8 * 2**20
    assert plan.preferences.max_waves_count == 1.5
    assert plan.preferences.reduction_scheme_mask == ()
    assert type(plan).from_json(plan.to_json()) is plan
    assert "memory_limit=8388608" in repr(plan)
    assert nvs.matmul.plan(A, B, preferences=nvs.matmul.Preferences()) is nvs.matmul.plan(A, B)


def test_the_repr_says_what_runs():
    a, b = jnp.ones((4, 8), "complex64"), jnp.ones((6, 8), "complex64")
    plan = nvs.matmul.plan(a, b, transpose_b=True, conjugate_a=True, compute_type="tf32", alpha=2j)
    assert repr(plan) == (
        "MatmulPlan(a complex64[4,8] b complex64[6,8] on cpu:0 -> complex64[4,6]: tf32, scale type "
        "complex64, alpha 2j, transpose_b, conjugate_a; XLA's dot)"
    )
    assert "computes   tf32" in plan.describe()
    assert "<th" in plan._repr_html_()
    assert plan.workspace_bytes == 0
    assert plan.backend == "xla"


C64 = np.ones((2, 2), "complex64")
MOVES = {
    "nothing": ((A, B), {}, []),
    "column of c": ((A, B, np.ones((4, 1), "float32")), {"beta": 1.0}, ["c is broadcast along N"]),
    "one element of c": ((A, B, np.ones((), "float32")), {"beta": 1.0}, ["c is broadcast along N"]),
    "row of c": ((A, B, np.ones(6, "float32")), {"beta": 1.0}, []),
    "c of a vector": ((A, B[:, 0].copy(), np.ones(4, "float32")), {"beta": 1.0}, []),
    "conjugate": ((C64, C64), {"conjugate_a": True, "conjugate_b": True},
                  ["a is conjugated", "b is conjugated"]),
    "turned conjugate": ((C64, C64), {"conjugate_a": True, "transpose_a": True}, []),
    "sum": ((A, B), {"epilog": "bgrada"}, ["bgrada is summed by XLA"]),
    "in place": ((A, B, np.ones((4, 6), "float32")), {"beta": 1.0, "inplace": True},
                 ["under `jit` a c that is not donated"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVES)
def test_describe_tells_calls_and_what_is_written_out(monkeypatch, name):
    operands, problem, moves = MOVES[name]
    types = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in operands]
    monkeypatch.setattr(nvs.matmul.MatmulPlan, "backend", "cublaslt")
    lines = nvs.matmul.plan(*types, **problem).describe().splitlines()
    assert any(line == "calls      1 of cublasLtMatmul for each execution" for line in lines)
    told = [line.removeprefix("moves").strip() for line in lines if line.startswith("moves")]
    assert len(told) == len(moves)
    assert all(line.startswith(move) for line, move in zip(told, moves, strict=True))


def test_describe_tells_every_call_of_a_loop(monkeypatch):
    monkeypatch.setattr(nvs.matmul.MatmulPlan, "backend", "cublaslt")
    a, b = (jax.ShapeDtypeStruct(s, "float32") for s in ((2, 1, 5, 8), (3, 8, 6)))
    assert "calls      2 of cublasLtMatmul" in nvs.matmul.plan(a, b).describe()


def test_a_product_without_elements_asks_nothing(monkeypatch):
    monkeypatch.setattr(nvs.matmul.MatmulPlan, "backend", "cublaslt")
    a, b = (jax.ShapeDtypeStruct(s, "float32") for s in ((4, 0), (0, 6)))
    plan = nvs.matmul.plan(a, b)
    assert (plan.workspace_bytes, plan.algorithms, plan.algorithm) == (0, (), None)
    assert "calls      none: XLA writes a result without a product" in plan.describe()


def test_equal_problems_are_equal():
    spec = nvs.matmul.spec(A, B)
    assert spec == nvs.matmul.spec(np.ones((3, 4, 8), "float32"), B)  # batches are no problem's
    assert spec == nvs.matmul.spec(A, B, conjugate_a=True, compute_type="float32", alpha=1)
    assert spec != nvs.matmul.spec(A, B, alpha=2.0)
    assert spec != nvs.matmul.spec(A, B, transpose_b=False, compute_type="tf32")
    assert nvs.matmul.spec(A, B, alpha=np.float32(2)) == nvs.matmul.spec(A, B, alpha=2)


def test_a_plan_of_a_spec_takes_any_batch(rng):
    plan = nvs.matmul.plan(nvs.matmul.spec(A, B, np.ones((4, 6), "float32"), beta=1.0))
    for batch in ((), (3,), (2, 1)):
        a, b, c = (oracle.random(rng, s, "float32") for s in ((*batch, 4, 8), (8, 6), (6,)))
        assert np.allclose(
            plan(jnp.asarray(a), jnp.asarray(b), jnp.asarray(c)), a @ b + c, atol=1e-5
        )
    with pytest.raises(nvs.errors.OperandError):
        plan(jnp.ones((5, 8), "float32"), jnp.asarray(B), jnp.ones(6, "float32"))


def test_one_shot_calls_plan_once():
    nvs.cache.clear()
    before = nvs.cache.info()
    for _ in range(4):
        nvs.matmul.matmul(A, B, epilog="relu")
    after = nvs.cache.info()
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 3)
    assert np.allclose(nvs.matmul.matmul(A, B, alpha=3.0), 24)
    assert np.allclose(nvs.matmul.matmul(A, B, alpha=2.0), 16)


def test_equal_numbers_of_different_types_are_different_arguments():
    nvs.cache.clear()
    c64 = np.ones((2, 2), "complex64")
    assert np.signbit(nvs.matmul.matmul(A, B, alpha=-0.0)).all()
    assert not np.signbit(nvs.matmul.matmul(A, B, alpha=0.0)).any()
    assert np.allclose(nvs.matmul.matmul(c64, c64, alpha=1 + 0j), 2)
    nvs.matmul.matmul(A, B, alpha=1.0, transpose_a=False)
    for wrong in (
        {"alpha": 1 + 0j},
        {"alpha": True},
        {"transpose_a": 0},
        {"transpose_b": np.False_},
        {"inplace": 0},
    ):
        with pytest.raises(nvs.errors.SpecError):
            nvs.matmul.matmul(A, B, **wrong)
    x = np.ones((4, 8), "complex64")
    nvs.fft.fft(x.copy(), inplace=True)
    with pytest.raises(nvs.errors.SpecError):
        nvs.fft.fft(x.copy(), inplace=1)


def test_a_byte_is_not_all_memory():
    one, whole = (nvs.matmul.Preferences(memory_limit=limit) for limit in (1, 1.0))
    assert one != whole
    assert len({one, whole}) == 2
    assert one == pickle.loads(pickle.dumps(one))
    assert hash(one) == hash(nvs.matmul.Preferences(memory_limit=1))
    assert one != 1
    nvs.matmul.matmul(A, B, preferences=one)
    with pytest.raises(nvs.errors.SpecError, match="no CUDA device is visible"):
        nvs.matmul.matmul(A, B, preferences=whole)


def test_two_plans_in_turn_share_no_state(rng):
    a, b, bias = (oracle.random(rng, s, "float32") for s in ((4, 8), (8, 6), (6,)))
    sums = nvs.matmul.plan(a, b, epilog="bgradb")
    plain = nvs.matmul.plan(a, b)
    turned = nvs.matmul.plan(a, b.T.copy(), bias=bias, epilog="relu_bias", transpose_b=True)
    for _ in range(2):
        assert np.allclose(sums(a, b).bgradb, b.sum(0), atol=1e-5)
        assert np.allclose(plain(a, b), a @ b, atol=1e-5)
        got = turned(a, b.T.copy(), bias=bias)
        assert np.allclose(got, np.maximum(a @ b + bias, 0), atol=1e-5)


def test_keywords_take_the_fast_path(monkeypatch):
    a, b, bias = (jnp.ones(s, "float32") for s in ((4, 8), (8, 6), (6,)))
    plan = nvs.matmul.plan(a, b, bias=bias, epilog="bias")
    plan(a, b, bias=bias)
    monkeypatch.setattr(type(plan), "check", lambda *_: 1 / 0)
    assert (plan(a, b, bias=bias) == 9).all()


@pytest.mark.parametrize("forbidden", [False, True])
def test_numpys_results_are_brought_together(forbidden):
    a, b = A.copy(), B.copy()
    plan = nvs.matmul.plan(a, b, epilog="gelu_aux")
    with jax.transfer_guard("disallow" if forbidden else "allow"):
        r = plan(a, b)
    assert all(type(x) is np.ndarray and x.flags.writeable for x in (r.d, r.gelu_aux))
    assert r.relu_aux is None
    assert host.PATIENCE > 0


def test_the_self_test_passes():
    for sample in nvs.matmul.MatmulPlan.samples():
        got, want = np.asarray(sample.run(*sample.operands)), sample.oracle(*sample.operands)
        assert np.linalg.norm(got - want) < sample.bound * np.linalg.norm(want)
