"""The exceptions of nvstate, and the one template of their messages."""

__all__ = [
    "LibraryError",
    "NvstateError",
    "OperandError",
    "SpecError",
    "StoreError",
    "UnsupportedError",
]


class NvstateError(Exception):
    """Any error that nvstate raises by itself."""


class SpecError(NvstateError, ValueError):
    """There is no such problem. Raised by `spec()`, and by `plan()` given a problem's keywords."""


class OperandError(NvstateError, TypeError, ValueError):
    """This operand is not the one its plan was made for. Raised before anything has run."""


class UnsupportedError(NvstateError, NotImplementedError):
    """A fair problem, but not on this library, version or device. Raised by `plan()`."""


class StoreError(NvstateError, ValueError):
    """A text or a file does not hold the plans that it should, or those of a newer version."""


class LibraryError(NvstateError, ImportError):
    """A native library is missing or too old. Raised on first use."""


def message(where: str, what: str, *, expected: str, got: str, do: str) -> str:
    """Fill in the template that every message follows.

    Args:
        where: the public module that refuses, for example `"nvstate.fft"`.
        what: what is wrong, in one line.
        expected: what would have been accepted.
        got: what came instead.
        do: what to type or to install, a sentence.

    Returns:
        Four lines: what, expected, got, do.
    """
    return f"{where}: {what}\n  expected: {expected}\n  got:      {got}\n{do}"
