"""The native library's functions for cuBLASLt.

Most take a call as it will be made: `attributes`, the very dictionary of the FFI call, and the
types of its `operands` and `results`, (dtype's name, dimensions) each, a workspace left out.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from nvstate._native import attributes as attributes_, library, locate

Types = Sequence[tuple[str, Sequence[int]]]
Attributes = Mapping[str, Any]
WORDS = 8  # of an algorithm


class Matrix(TypedDict):
    """A matrix as cuBLASLt is told of it; steps are elements of its buffer for each loop."""

    type: str
    rows: int
    cols: int
    ld: int
    order: str
    op: str
    batch_stride: int
    steps: list[int]


class Vector(TypedDict):
    """A bias, its gradient or an aux; a mask's `ld` and `batch_stride` are in bits."""

    type: str
    ld: int
    batch_stride: int
    steps: list[int]


class MatmulLayout(TypedDict):
    """A product as cuBLASLt takes it: its A is our `b`, its B our `a`, its rows are our columns."""

    problem: list[int]  # m, n, k and batch count of one native call, in our words
    folded: int  # batch members that became rows
    loops: list[int]
    calls: int
    a: Matrix
    b: Matrix
    c: Matrix
    d: Matrix
    bias: Vector
    aux: Vector
    bgrad: Vector


class Candidate(TypedDict):
    """An algorithm that cuBLASLt proposes or accepts for a product."""

    data: bytes  # 64
    problem: tuple[int, int, int, int]
    workspace: int  # bytes that it must be given
    waves: float
    config: dict[str, int]


class Diagnosis(TypedDict):
    """Why there is no algorithm: the constraints that help if relaxed, and the library's words."""

    helps: list[str]
    reasons: list[str]


def cublaslt_version() -> int:
    """The version of the cuBLASLt in use, 120804 being 12.8.4.

    Raises:
        LibraryError: it was not found, or is too old.
    """
    locate.open_library("cublasLt")
    version = ctypes.c_int64()
    library.check(library.load().nvstate_cublaslt_version(ctypes.byref(version)))
    return version.value


def cublaslt_l2_bytes(device: int) -> int:
    """Bytes of a device's second-level cache.

    Raises:
        LibraryError: there is no driver or no such device.
    """
    count = ctypes.c_int64()
    library.check(library.load().nvstate_device_cache_bytes(device, ctypes.byref(count)))
    return count.value


def cublaslt_layout(attributes: Attributes, operands: Types, results: Types) -> MatmulLayout:
    """What cuBLASLt is told of a call's buffers; it needs neither GPU nor cuBLASLt.

    Raises:
        ValueError: attributes or buffers that do not fit.
    """
    text, types = attributes_.text(attributes), _types(operands, results)
    library.check(library.load().nvstate_cublaslt_layout(text, types), types.decode())
    return _answer()


def cublaslt_heuristic(
    device: int,
    attributes: Attributes,
    operands: Types,
    results: Types,
    *,
    workspace: int,
    limit: int,
    alignment: int = 0,
) -> list[Candidate]:
    """Algorithms that cuBLASLt's heuristic proposes, the fastest by its estimate first.

    Args:
        device: CUDA ordinal.
        attributes: of the call, with the preferences.
        operands: their types.
        results: their types.
        workspace: bytes that a candidate may need.
        limit: the most candidates to return.
        alignment: bytes that the matrices' addresses are said to be multiples of; 0: what calls
            count on and check, 16 mostly. Others are for comparison: they may not run.

    Returns:
        The candidates; none if the library has no algorithm for this product.

    Raises:
        LibraryError: no cuBLASLt, driver or device was found, or too old a one.
        ValueError: attributes or buffers that do not fit.
        RuntimeError: a status of cuBLASLt's or CUDA's, named.
    """
    problem = _asked(
        "heuristic", device, attributes, operands, results, workspace, limit, alignment
    )
    return [_candidate(row, problem) for row in _answer()]


def cublaslt_diagnose(
    device: int, attributes: Attributes, operands: Types, results: Types, *, workspace: int
) -> Diagnosis:
    """Ask which constraint keeps cuBLASLt from having an algorithm.

    Args:
        device: CUDA ordinal.
        attributes: as `cublaslt_heuristic`, like what follows.
        operands: their types.
        results: their types.
        workspace: bytes.

    Returns:
        `helps` names of "workspace", "reduction_scheme_mask", "numerical_impl_mask",
        "max_waves_count", "alignment" and "epilog" those of which one alone, relaxed, is enough.

    Raises:
        LibraryError, ValueError, RuntimeError: as `cublaslt_heuristic`.
    """
    _asked("diagnose", device, attributes, operands, results, workspace, problem=False)
    return _answer()


def cublaslt_check(
    device: int, attributes: Attributes, operands: Types, results: Types, *, data: bytes
) -> Candidate | None:
    """Ask whether an algorithm runs a product on a device.

    Args:
        device: CUDA ordinal.
        attributes: as `cublaslt_heuristic`, like what follows.
        operands: their types.
        results: their types.
        data: the algorithm's 64 bytes.

    Returns:
        It, with the workspace it needs; None if cuBLASLt refuses it.

    Raises:
        LibraryError, ValueError, RuntimeError: as `cublaslt_heuristic`.
    """
    problem = _asked("check", device, attributes, operands, results, _words(data))
    row = _answer()
    return None if row is None else _candidate(row, problem)


def cublaslt_algorithm_ids(
    device: int, attributes: Attributes, operands: Types, results: Types, *, limit: int
) -> list[int]:
    """Numbers of the algorithms that know a product's types, whether or not each runs it.

    Raises:
        LibraryError, ValueError, RuntimeError: as `cublaslt_heuristic`.
    """
    _asked("ids", device, attributes, operands, results, limit, problem=False)
    return _answer()


def cublaslt_algorithm_init(
    device: int, attributes: Attributes, operands: Types, results: Types, *, id: int
) -> bytes:
    """The algorithm of this number, its settings at their defaults, unchecked.

    Raises:
        ValueError: there is no such algorithm for these types; as `cublaslt_heuristic`.
        LibraryError, RuntimeError: as `cublaslt_heuristic`.
    """
    words = _words(bytes(8 * WORDS))
    _asked("init", device, attributes, operands, results, id, words, problem=False)
    return bytes(words)


def cublaslt_config(data: bytes) -> dict[str, int]:
    """An algorithm's settings by name, those that this version of cuBLASLt has.

    Raises:
        LibraryError: no cuBLASLt was found, or too old a one.
    """
    locate.open_library("cublasLt")
    library.check(library.load().nvstate_cublaslt_config(_words(data)))
    return _answer()


def cublaslt_configured(data: bytes, **config: int) -> bytes:
    """The same algorithm with other settings, unchecked.

    Raises:
        ValueError: an unknown setting, or a value that cuBLASLt refuses.
        LibraryError: no cuBLASLt was found, or too old a one.
    """
    locate.open_library("cublasLt")
    words = _words(data)
    for name, value in config.items():
        library.check(library.load().nvstate_cublaslt_configure(words, name.encode(), value))
    return bytes(words)


def cublaslt_capabilities(data: bytes) -> dict[str, Any]:
    """What an algorithm's settings may be: numbers, masks, and lists for "tiles" and "stages".

    Raises:
        LibraryError: no cuBLASLt was found, or too old a one.
    """
    locate.open_library("cublasLt")
    library.check(library.load().nvstate_cublaslt_capabilities(_words(data)))
    return _answer()


def _asked(
    question: str,
    device: int,
    attributes: Attributes,
    operands: Types,
    results: Types,
    *more: Any,
    problem: bool = True,
) -> tuple[int, int, int, int]:
    """Ask about a call; the answer is then `_answer()`. The problem, if wanted."""
    locate.open_library("cublasLt")
    text, types = attributes_.text(attributes), _types(operands, results)
    native = library.load()
    m = n = k = batch = 0
    if problem:
        library.check(native.nvstate_cublaslt_layout(text, types), types.decode())
        m, n, k, batch = _answer()["problem"]
    function = getattr(native, f"nvstate_cublaslt_{question}")
    library.check(function(device, text, types, *more), types.decode())
    return m, n, k, batch


def _answer() -> Any:
    """What the last function has answered, in this thread."""
    return json.loads(library.load().nvstate_last_text())


def _candidate(row: dict[str, Any], problem: tuple[int, int, int, int]) -> Candidate:
    data = bytes((ctypes.c_uint64 * WORDS)(*row["data"]))
    return Candidate(
        data=data,
        problem=problem,
        workspace=row["workspace"],
        waves=row["waves"],
        config=row["config"],
    )


def _words(data: bytes) -> Any:
    if len(data) != 8 * WORDS:
        raise ValueError(f"nvstate: an algorithm is {8 * WORDS} bytes, got {len(data)}")
    return (ctypes.c_uint64 * WORDS).from_buffer_copy(data)


def _types(operands: Types, results: Types) -> bytes:
    return " ".join(
        f"{dtype}[{','.join(str(n) for n in dims)}]" for dtype, dims in (*operands, *results)
    ).encode()
