"""Sizes of memory as users write them."""

from __future__ import annotations

import contextlib
import math
import re

from nvstate import errors

_UNITS = {"": 1, "B": 1} | {
    prefix + unit: base ** (power + 1)
    for base, unit in ((1000, "B"), (1024, "iB"))
    for power, prefix in enumerate(("k" if base == 1000 else "K", "M", "G", "T"))
}


def parse(where: str, size: int | float | str) -> int | None:
    """Bytes of a size such as `2_000_000`, `"500 MB"` or `"2 GiB"`; None for `math.inf`.

    Raises:
        SpecError: no size, or a negative one.
    """
    if isinstance(size, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(\w*)\s*", size)
        if found and found[2] in _UNITS:
            return int(float(found[1]) * _UNITS[found[2]])
    elif size == math.inf:
        return None
    elif not isinstance(size, bool):
        with contextlib.suppress(TypeError, ValueError):  # no number, or a fraction
            number = int(size) if float(size).is_integer() else -1
            if number >= 0:
                return number
    raise errors.SpecError(
        errors.message(
            where,
            "no size of memory",
            expected='a number of bytes, a text such as "2 GiB" or "500 MB", or `math.inf`',
            got=repr(size),
            do=f"The units are {', '.join(u for u in _UNITS if u)}.",
        )
    )
