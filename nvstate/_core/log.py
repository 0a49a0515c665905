"""The logger `nvstate`: INFO says what happened once and what it cost, DEBUG what was decided."""

from __future__ import annotations

import logging
import time

logger = logging.getLogger("nvstate")
now = time.perf_counter


def info(what: str, subject: object, start: float, nbytes: int | None = None) -> None:
    """Log what was done to what, in how many milliseconds since `start`, and of how many bytes."""
    if logger.isEnabledFor(logging.INFO):
        bytes_ = "" if nbytes is None else f", {nbytes} bytes"
        logger.info("%s in %.3f ms%s: %s", what, 1e3 * (now() - start), bytes_, subject)


def debug(what: str, *facts: object) -> None:
    """Log a decision and the facts that it followed from."""
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("%s: %s", what, ", ".join(map(str, facts)))
