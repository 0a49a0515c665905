"""The engine that a test runs on."""

import pytest

from tests.direct_solver.engines import ENGINES, Engine


@pytest.fixture(params=ENGINES)
def engine(request):
    """Each engine that is installed here."""
    return Engine.of(request.param)
