"""Scripts in fresh processes, forked from one that has imported nvstate and no more: a quick start.

What happens on import, and the seed of `hash`, is shared by all of them: a test of that needs
`subprocess`.
"""

import multiprocessing
import os
import pathlib
import sys
import tempfile
from typing import NamedTuple

import jax

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["nvstate", "nvstate.__main__"])


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def run(script: str, **environment: str) -> Done:
    """Run a script to its end, with `environment` added."""
    environment = os.environ | environment
    with tempfile.TemporaryDirectory() as folder:
        process = PROCESSES.Process(target=_run, args=(script, environment, folder))
        process.start()
        process.join()
        out, err = (pathlib.Path(folder, name).read_text() for name in ("out", "err"))
    return Done(process.exitcode, out, err)


def _run(script: str, environment: dict[str, str], folder: str) -> None:
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(pathlib.Path(folder, name), os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    os.environ.clear()
    os.environ.update(environment)
    jax.config.update("jax_platforms", environment["JAX_PLATFORMS"])  # was read on import
    exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})
