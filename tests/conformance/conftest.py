"""Every row of every operation goes through every property of this folder."""

from operator import attrgetter

import numpy as np
import pytest

from tests.case import all_cases, to_jax


@pytest.fixture(params=all_cases(), ids=attrgetter("id"))
def case(request):
    """A row."""
    return request.param


@pytest.fixture
def value(case) -> np.ndarray:
    """The row's operand, in NumPy."""
    return case.value()


@pytest.fixture
def x(value):
    """The row's operand, in JAX."""
    return to_jax(value)


@pytest.fixture
def plan(case, x):
    """The row's plan, made from the JAX operand."""
    return case.plan(x)
