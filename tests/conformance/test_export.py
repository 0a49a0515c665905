"""jax.export keeps plans, closed over or as arguments; the persistent cache finds them."""

import jax
import numpy as np
import pytest
from jax import export

from tests.case import relative_l2


def round_trip(function, *args, platforms=None):
    """Export, serialise, deserialise; for the platform of the tests if no other is named."""
    checks = [export.DisabledSafetyCheck.custom_call("nvstate_cufft_v1")]
    exported = export.export(jax.jit(function), platforms=platforms, disabled_checks=checks)(*args)
    return export.deserialize(exported.serialize())


def test_export_with_a_plan_closed_over(case, value, x, plan):
    restored = round_trip(lambda x: plan(x), x)
    assert relative_l2(restored.call(x), case.oracle(value)) < case.bound


def test_export_with_a_plan_as_argument(case, value, x, plan):
    restored = round_trip(lambda plan, x: plan(x), plan, x)
    assert relative_l2(restored.call(plan, x), case.oracle(value)) < case.bound


@pytest.mark.parametrize("order", [("cpu", "cuda"), ("cuda", "cpu")])
def test_one_export_for_both_platforms(case, value, x, plan, order):
    plan = case.plan(jax.ShapeDtypeStruct(x.shape, x.dtype))
    restored = round_trip(lambda x: plan(x), x, platforms=order)
    assert restored.platforms == order
    for target in plan.targets:
        assert target in str(restored.mlir_module())
    assert relative_l2(restored.call(x), case.oracle(value)) < case.bound
    assert np.asarray(restored.call(x)).dtype == plan.result.dtype
