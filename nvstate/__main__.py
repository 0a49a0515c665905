"""Say what is installed, what is missing, and whether it works.

Versions, devices, each library with its path and version or what to install, and a self test of
every operation on every device. The exit status is 0 if all that is installed works, else 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Iterator

from nvstate._core import diagnose, selftest
from nvstate._core.diagnose import Fact


def main(argv: list[str]) -> int:
    """Report as the arguments ask; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m nvstate", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object, and only that")
    as_json = parser.parse_args(argv).json
    # JAX would take three quarters of every GPU, from programs that are at work there.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    versions, failed = diagnose.versions(), 0
    report: dict[str, object] = {"versions": versions}
    if not as_json:
        _show("versions", ([name, version or "unknown"] for name, version in versions.items()))
    for title, facts in sections():
        failed += sum(fact.failed for fact in facts)
        report[title.replace(" ", "_")] = [dataclasses.asdict(fact) for fact in facts]
        if not as_json and facts:
            _show(title, (fact.cells() for fact in facts), [fact.message for fact in facts])
    if as_json:
        print(json.dumps({"ok": not failed, **report}, indent=2, allow_nan=False))
    else:
        print(f"{failed} of these failed" if failed else "all that is installed works")
    return 1 if failed else 0


def sections() -> Iterator[tuple[str, list[Fact]]]:
    """All but the versions, by heading; each is looked at when the one before it was taken."""
    yield "store", list(diagnose.store())
    devices, seen = diagnose.devices()
    yield "devices", seen
    # Before the self tests: they open the libraries, and here it is asked who has.
    yield "libraries", list(diagnose.libraries(devices))
    yield "self tests", list(selftest.run(devices))


def _show(
    title: str, rows: Iterable[Iterable[str]], messages: list[str | None] | None = None
) -> None:
    """Print aligned columns under a title; below a row, its message."""
    table = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    print(title)
    for row, message in zip(table, messages or [None] * len(table), strict=True):
        line = "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True) if w)
        print(f"  {line}".rstrip())
        for text in (message or "").splitlines():
            print(f"      {text}")
    # What is known is out before what follows, which might end the process.
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
