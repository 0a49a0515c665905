"""Where a benchmark ran: device, driver, versions, and what was not there."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

from nvstate import _native, errors
from nvstate._core.aval import Device
from nvstate.bench import libraries
from nvstate.matmul import query

PACKAGES = (
    r"(nvstate|numpy|scipy|jax.*|cupy.*|torch|nvmath-python|nvidia-cublas.*|nvidia-cufft.*|nvidia-cudss.*|mkl|"
    r"matplotlib)"
)
CPUINFO = Path("/proc/cpuinfo")


@dataclasses.dataclass(frozen=True)
class Environment:
    """What every report says of its machine.

    Attributes:
        platform: "cpu" or "cuda".
        device: as its maker calls it.
        driver: of the GPU; None on a CPU, or if `nvidia-smi` is not there.
        cores: that this process may use.
        versions: by package, of Python, cuFFT and cuBLASLt too.
        missing: libraries that would have been compared.
    """

    platform: str
    device: str
    driver: str | None
    cores: int
    versions: dict[str, str]
    missing: list[str]

    def lines(self) -> list[str]:
        """As text."""
        return [
            f"device    {self.device} ({self.platform}), {self.cores} CPU cores",
            *([f"driver    {self.driver}"] if self.driver else []),
            "versions  " + ", ".join(f"{name} {v}" for name, v in self.versions.items()),
            "missing   " + (", ".join(self.missing) or "none"),
        ]


def observe(device: Device) -> Environment:
    """Look at a device, and at what is installed."""
    on_cpu = device.platform == "cpu"
    where = "cpu" if on_cpu else "cuda"
    versions = {"python": platform.python_version(), **_installed()}
    if not on_cpu:
        try:
            number = _native.cufft_version()
        except errors.LibraryError as error:
            versions["cuFFT"] = f"not found: {error}".splitlines()[0]
        else:
            versions["cuFFT"] = f"{number // 1000}.{number // 100 % 10}.{number % 100}"
        try:
            versions["cuBLASLt"] = query.version()
        except errors.LibraryError as error:
            versions["cuBLASLt"] = f"not found: {error}".splitlines()[0]
    return Environment(
        where,
        _processor() if on_cpu else device.device_kind,
        None if on_cpu else _driver(device),
        len(os.sched_getaffinity(0)),
        versions,
        libraries.missing(where),
    )


def _installed() -> dict[str, str]:
    found = {d.name.lower(): d.version for d in metadata.distributions() if d.name}
    return {name: found[name] for name in sorted(found) if re.fullmatch(PACKAGES, name)}


def _processor() -> str:
    if CPUINFO.exists():
        named = re.search(r"^model name\s*:\s*(.+)$", CPUINFO.read_text(), re.MULTILINE)
        if named:
            return named[1]
    return platform.processor() or platform.machine()


def _driver(device: Device) -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    drivers = done.stdout.split()
    return drivers[min(device.local_hardware_id or 0, len(drivers) - 1)] if drivers else None
