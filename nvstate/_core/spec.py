"""Spec, the problem as data: what every operation's specification has in common."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from typing import Any

from nvstate import errors
from nvstate._core.aval import OperandType


@dataclasses.dataclass(frozen=True)
class Spec:
    """A problem in canonical form: plain values only, so that equal problems are equal keys.

    An operation derives a frozen dataclass whose fields are strings, integers, booleans and tuples
    of these. It holds no batch sizes and no device.
    """

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the operands, in the order of a call."""
        return ("x",)

    @functools.cached_property
    def digest(self) -> int:
        """63 bits that are the same in every process: a name for caches and native code."""
        return digest(type(self).__name__, self.fields())

    @property
    def family(self) -> int:
        """A digest that derived specs share: what `free` drops together. Here, the digest."""
        return self.digest

    def __reduce__(self) -> Any:  # through the checks: an older version must not drop a field
        return _restored, (type(self), self.fields())

    def fields(self) -> dict[str, Any]:
        """The fields by name, as plain values."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def accepts(self, planned: tuple[OperandType, ...], got: tuple[OperandType, ...]) -> bool:
        """Whether operands of the types `got` may stand where a plan was made for `planned`."""
        return planned == got


def _restored(cls: type[Spec], fields: dict[str, Any]) -> Spec:
    """What a pickle holds of a spec, made again and so checked again."""
    if known := fields.keys() ^ {f.name for f in dataclasses.fields(cls)}:
        raise errors.StoreError(
            errors.message(
                "nvstate",
                f"a pickled {cls.__name__} of another version",
                expected=f"the fields of this version's {cls.__name__}",
                got=f"unknown or missing: {', '.join(sorted(known))}",
                do="Make the spec again with this version.",
            )
        )
    return cls(**fields)


def digest(*values: Any) -> int:
    """A digest of plain values that does not depend on the process."""
    text = json.dumps(values, sort_keys=True, default=str)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def named(spec: Spec, choices: Any) -> str:
    """What runs, as a name that is the same in every process with this version."""
    from nvstate import __version__  # of the package that imports this

    return f"{__version__} {spec.digest:x} {digest(choices):x}"


def frozen(value: Any) -> Any:
    """Plain values as JSON returns them, with lists as the tuples they were."""
    return tuple(map(frozen, value)) if isinstance(value, list) else value  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
