"""Prevents a ring that is broken, or answers wrongly, once PARDISO or memory has failed."""

import subprocess
import sys

import pytest

from nvstate import _native
from tests.native.test_build import build_fake

pytestmark = pytest.mark.skipif(
    _native.pardiso_missing() is not None, reason=str(_native.pardiso_missing())
)


def failures(argument):
    """How many there were, all of them told and got over."""
    command = [sys.executable, "-m", "tests.native.pardiso_failures", str(argument)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return int(result.stdout.splitlines()[-1])


def test_each_call_may_fail(tmp_path):
    assert failures(build_fake(tmp_path, "failing_mkl")) > 50


@pytest.mark.slow
def test_memory_may_run_out():
    assert failures("memory") == 1
