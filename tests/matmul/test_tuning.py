"""What autotune pins, from times and algorithms that the tests make up: no GPU measures here."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import nvstate as nvs
from nvstate.matmul import agreement, lowering, query, tuning
from nvstate.matmul.algorithm import Algorithm, pin
from nvstate.matmul.tuning_chain import chain_products
from tests.matmul.test_chain import layers

A, B = np.ones((4, 8), "float32"), np.ones((8, 6), "float32")


def algorithm(number, problem=(4, 6, 8, 1)):
    """One that no library knows."""
    return Algorithm(bytes([number] * 64), problem)


class Library:
    """What would be asked: proposals in order, times by number, results that are wrong."""

    def __init__(self, monkeypatch, proposed, times, wrong=()):
        self.times, self.measured = times, []
        proposals = tuple(map(algorithm, proposed))

        def algorithms(plan, limit, choices=None):
            pinned = plan.pinned if choices is None else ()
            return pinned[:1] or proposals[:limit]

        def measured(plan, values, found, iterations):
            self.measured.append([one.data[0] for one in found])
            self.shapes = [x.shape for x in values]
            return np.array([[self.times[one.data[0]] for one in found]] * iterations)

        monkeypatch.setattr(nvs.matmul.MatmulPlan, "backend", "cublaslt")
        monkeypatch.setattr(query, "device_of", lambda plan: jax.devices()[0])
        monkeypatch.setattr(query, "algorithms", algorithms)
        monkeypatch.setattr(query, "checked", lambda plan, one: one)
        monkeypatch.setattr(tuning, "measured", measured)
        monkeypatch.setattr(tuning, "_agrees", lambda plan, x, one, first: one.data[0] not in wrong)


def numbers(algorithms):
    return [one.data[0] for one in algorithms]


def plan_of(*operands, **problem):
    return nvs.matmul.plan(*map(jnp.asarray, operands), **problem)


def tune(plan, *operands, **options):
    return nvs.matmul.autotune(plan, *map(jnp.asarray, operands), **options)


@pytest.mark.parametrize(("time", "winner"), [(97.0, 2), (98.0, 1), (99.0, 1)])
def test_less_than_two_percent_is_noise(monkeypatch, time, winner):
    Library(monkeypatch, [1, 2], {1: 100.0, 2: time})
    made = tune(plan_of(A, B), A, B)
    assert numbers(made.pinned) == [winner]
    assert numbers(made.algorithms) == [2, 1]
    assert [one.time_us for one in made.algorithms] == [time, 100.0]


def test_a_wrong_result_is_dropped_with_a_warning(monkeypatch):
    Library(monkeypatch, [1, 2, 3], {1: 100.0, 2: 50.0, 3: 60.0}, wrong=[2])
    with pytest.warns(UserWarning, match="differs from that of the heuristic's first"):
        made = tune(plan_of(A, B), A, B)
    assert numbers(made.pinned) == [3]


def test_the_yardstick_is_the_heuristics_first_every_time(monkeypatch):
    library = Library(monkeypatch, [1, 2, 3], {1: 100.0, 2: 99.0, 3: 200.0})
    once = tune(plan_of(A, B), A, B)
    assert (numbers(once.pinned), numbers(once.algorithms)) == ([1], [2, 1, 3])
    assert tune(once, A, B) is once
    assert library.measured[1][0] == 1
    chosen = tune(plan_of(A, B), A, B, candidates=[algorithm(3)])
    assert numbers(chosen.pinned) == [1]


def test_what_is_pinned_is_timed_too(monkeypatch):
    Library(monkeypatch, [1, 2], {1: 100.0, 2: 90.0, 7: 10.0})
    pinned = plan_of(A, B).with_algorithm(algorithm(7))
    assert numbers(tune(pinned, A, B).pinned) == [7]


def test_the_pinned_one_is_listed(monkeypatch):
    Library(monkeypatch, [1, 2, 3], {1: 100.0, 2: 99.0, 3: 98.5})
    made = tune(plan_of(A, B), A, B, prune=1)
    assert numbers(made.algorithms) == numbers(made.pinned) == [1]


def test_a_plan_of_a_spec_is_tuned_for_its_operands(monkeypatch):
    library = Library(monkeypatch, [1], {1: 1.0})
    plan = nvs.matmul.plan(nvs.matmul.spec(A, B))
    asked = []
    found = query.algorithms
    monkeypatch.setattr(
        query, "algorithms", lambda plan, *rest: (asked.append(plan.types), found(plan, *rest))[1]
    )
    made = tune(plan, np.ones((3, 4, 8), "float32"), B)
    assert made.spec == plan.spec
    assert made.types == plan.types
    assert library.shapes == [(3, 4, 8), (8, 6)]
    assert {types[0].shape for types in asked} == {(3, 4, 8)}
    other = made.with_algorithm(algorithm(9, (99, 6, 8, 1)))  # of another batch
    assert numbers(other.pinned) == [1, 9]


def test_derivatives_are_tuned_again(monkeypatch):
    library = Library(monkeypatch, [1, 2], {1: 100.0, 2: 50.0})
    plan = plan_of(A, B)
    once = tune(plan, A, B, derivatives=True)
    assert len(once.choices[1]) == 3
    assert {p[1] for p in once.choices[1]} == {algorithm(2).data.hex()}
    library.times = {1: 100.0, 2: 500.0}
    again = tune(once, A, B, derivatives=True)
    assert {p[1] for p in again.choices[1]} == {algorithm(1).data.hex()}
    assert len(again.choices[1]) == 3


@pytest.mark.parametrize("wrong", [0, -1, True, (), ["best"]])
def test_candidates_that_are_none(wrong):
    with pytest.raises(nvs.errors.SpecError, match=r"is a number|no algorithm"):
        tune(plan_of(A, B), A, B, candidates=wrong)


CHAINS = {
    "mixed": ("gelu_bias", "relu_bias", "bias"),
    "alike": ("relu_bias", "relu_bias"),
    "no biases": ("gelu", None, "relu"),
    "one": ("gelu_bias",),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_is_tuned_as_it_is_lowered(monkeypatch, name):
    epilogs = CHAINS[name]
    widths = [*[16, 24, 24, 8][: len(epilogs)], 24]
    plans = layers(epilogs, widths, dtype="float32")
    x = jnp.ones((3, 5, widths[0]), "float32")  # 15 rows to the library
    weights = [jnp.ones(s, "float32") for s in itertools.pairwise(widths)]
    biases = [
        jnp.ones(n, "float32") if e and "bias" in e else None
        for e, n in zip(epilogs, widths[1:], strict=True)
    ]
    lowered, prepared = set(), lowering.prepared

    def recorded(spec, operands, choices, whole=None):
        shapes = tuple(operands[n].shape for n in spec.names)
        lowered.add((spec, shapes, choices[0]))
        return prepared(spec, operands, choices, whole)

    # Each layer is told from the others by its preferences.
    plans = [
        nvs.matmul.MatmulPlan.of(p.spec, p.types, None, ((("limit", 9 + i),), ()))
        for i, p in enumerate(plans)
    ]

    def loss(*operands):
        return jnp.sum(nvs.matmul.chain(plans, *operands) ** 2)

    monkeypatch.setattr(lowering, "prepared", recorded)
    for f in (lambda *o: nvs.matmul.chain(plans, *o), jax.grad(loss, (0, 1, 2))):
        jax.jit(f).trace(x, weights, biases).lower(lowering_platforms=("cuda",))
    monkeypatch.setattr(lowering, "prepared", prepared)
    Library(monkeypatch, [1, 2], {1: 100.0, 2: 50.0})
    tuned, run = set(), tuning.tuned

    def tuning_of(plan, values, **options):
        tuned.add((plan.spec, tuple(v.shape for v in values), plan.choices[0]))
        return run(plan, values, **options)

    monkeypatch.setattr(tuning, "tuned", tuning_of)
    made = nvs.matmul.autotune_chain(plans, x, weights, biases, iterations=1)
    assert tuned == lowered
    assert [p.spec for p in made] == [p.spec for p in plans]
    for i, plan in enumerate(made):
        own = {spec for spec, _, choices in lowered if choices == plan.choices[0]}
        assert plan.preferences.limit == 9 + i
        assert {pin(s.digest, algorithm(2)) for s in own} == set(plan.choices[1])


def test_chain_products_know_their_layers():
    plans = layers(("gelu_bias", "relu_bias", "bias"), [8, 16, 24, 8], dtype="float32")

    def struct(*s):
        return jax.ShapeDtypeStruct(s, "float32")

    found = chain_products(
        plans,
        struct(15, 8),
        [struct(8, 16), struct(16, 24), struct(24, 8)],
        [struct(16), struct(24), struct(8)],
    )
    assert [[spec.epilog for spec, _ in products] for products in found] == [
        ["gelu_bias", "gelu_aux_bias", None, None],
        ["relu_bias", "relu_aux_bias", None, "dgelu"],
        ["bias", "bias", None, "drelu"],
    ]


def test_a_chain_on_cpus_is_as_it_was():
    plans = layers(("gelu",), [8, 16], dtype="float32")
    x, w = jnp.ones((15, 8), "float32"), jnp.ones((8, 16), "float32")
    assert nvs.matmul.autotune_chain(plans, x, [w], [None]) == plans
    with pytest.raises(nvs.errors.OperandError, match="no time to measure"):
        jax.jit(lambda x: nvs.matmul.autotune_chain(plans, x, [w], [None]))(x)
    with pytest.raises(nvs.errors.SpecError, match="`iterations` is a number"):
        nvs.matmul.autotune_chain(plans, x, [w], [None], iterations=0)


def agree(spec, values, change, at=(..., 0)):
    """Whether D, and D changed at one place, are said to agree."""
    y = np.array(nvs.matmul.plan(spec)(*map(jnp.asarray, values)))
    other = y.copy()
    other[at] = change(other[at])
    return agreement.agree(spec, tuple(map(jnp.asarray, values)), (jnp.asarray(y), other))


@pytest.mark.slow
def test_what_agrees(rng):
    a, b = rng.standard_normal((4, 8)), rng.standard_normal((8, 6))
    for dtype in ("float32", "float16", ml_dtypes.bfloat16, "complex64", "float64"):
        x, y = a.astype(dtype), b.astype(dtype)
        spec = nvs.matmul.spec(x, y)
        assert agree(spec, (x, y), lambda v: v)
        assert not agree(spec, (x, y), lambda v: v + 1)
    x, y = (m.astype("complex64") for m in (a, b))
    assert not agree(nvs.matmul.spec(x, y), (x, y), lambda v: v + 1j)
    x = a.astype("float32")
    x[0, 0] = np.nan  # the user's own, in each of the results
    assert agree(nvs.matmul.spec(x, B), (x, B), lambda v: v)
    i, j = (rng.integers(-128, 128, s).astype("int8") for s in ((4, 4096), (4096, 8)))
    spec = nvs.matmul.spec(i, j)
    assert agree(spec, (i, j), lambda v: v)
    assert not agree(spec, (i, j), lambda v: v + 1)


def test_operands_of_one_axis_agree_row_by_row(rng):
    v = rng.standard_normal(8).astype("float32")
    b = rng.standard_normal((2, 8, 3)).astype("float32") * np.float32([1, 1e6])[:, None, None]
    spec = nvs.matmul.spec(v, b)
    assert agreement.bound(spec, (v, b)).shape == (2, 3)
    assert agree(spec, (v, b), lambda y: y)
    assert not agree(spec, (v, b), lambda y: y + 0.1, at=(0, 0))
    assert dataclasses.replace(spec, vectors="").core("d") == (1, 3)
