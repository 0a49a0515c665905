"""jax.export keeps plans, closed over or as arguments; the persistent cache finds them."""

from operator import attrgetter

import jax
import pytest
from jax import export

import nvstate as nvs
from tests.case import portable_cases


@pytest.fixture(params=portable_cases(), ids=attrgetter("id"))
def case(request):
    """A row that may be exported."""
    return request.param


def round_trip(function, *args, platforms=None):
    """Export, serialise, deserialise; for the platform of the tests if no other is named."""
    checks = nvs.disabled_checks()
    exported = export.export(jax.jit(function), platforms=platforms, disabled_checks=checks)(*args)
    return export.deserialize(exported.serialize())


def test_export_with_a_plan_closed_over(case, values, xs, plan):
    restored = round_trip(lambda xs: plan(**xs), xs)
    assert case.error(restored.call(xs), values) < case.bound


def test_export_with_a_plan_as_argument(case, values, xs, plan):
    restored = round_trip(lambda plan, xs: plan(**xs), plan, xs)
    assert case.error(restored.call(plan, xs), values) < case.bound


@pytest.mark.parametrize("order", [("cpu", "cuda"), ("cuda", "cpu")])
def test_one_export_for_both_platforms(case, values, xs, plan, order):
    plan = case.planned({n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in xs.items()})
    restored = round_trip(lambda xs: plan(**xs), xs, platforms=order)
    assert restored.platforms == order
    for target in plan.targets[:1]:  # another one may be for measuring
        assert target in str(restored.mlir_module())
    y = restored.call(xs)
    assert case.error(y, values) < case.bound
    assert jax.tree.leaves(y)[0].dtype == case.result(plan, xs).dtype


@pytest.mark.parametrize("case", portable_cases(False), ids=attrgetter("id"), indirect=True)
def test_what_cannot_be_exported_says_so(xs, plan):
    with pytest.raises(nvs.errors.UnsupportedError, match="export"):
        round_trip(lambda xs: plan(**xs), xs)
