"""Every row of every operation goes through every property of this folder."""

from operator import attrgetter

import pytest

from tests.case import all_cases, to_jax, to_jax_each


@pytest.fixture(params=all_cases(), ids=attrgetter("id"))
def case(request):
    """A row."""
    return request.param


@pytest.fixture
def values(case):
    """The row's operands by name, in NumPy."""
    return case.values()


@pytest.fixture
def xs(values):
    """The row's operands by name, in JAX."""
    return to_jax_each(values)


@pytest.fixture
def value(case):
    """The only operand of a row, in NumPy."""
    return case.value()


@pytest.fixture
def x(value):
    """The only operand of a row, in JAX."""
    return to_jax(value)


@pytest.fixture
def plan(case, xs):
    """The row's plan, made from the JAX operands."""
    return case.planned(xs)
