"""What a GPU's clock was while something ran."""

from __future__ import annotations

import statistics
import subprocess

from nvstate._core.aval import Device

QUERY = ["nvidia-smi", "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits"]


class Clocks:
    """Samples of a GPU's clock and power between `start` and the end of a `with` block.

    Attributes:
        said: the medians, in words; empty where there is no `nvidia-smi`.
    """

    def __init__(self, device: Device) -> None:
        """Watch a device; a CPU has nothing to say."""
        self.said = ""
        self._command = [*QUERY, "-i", str(device.local_hardware_id or 0), "-lms", "100"]
        self._on = device.platform != "cpu"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Begin to sample."""
        if not self._on:
            return
        try:
            self._process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError:
            self._on = False

    def __enter__(self) -> Clocks:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            text = self._process.communicate(timeout=10)[0]
        except subprocess.TimeoutExpired:
            self._process.kill()
            return
        self.said = summary(text)


def summary(text: str) -> str:
    """Medians of the lines that `nvidia-smi` wrote; the last may be cut off."""
    rows: list[list[float]] = []
    for line in text.splitlines(keepends=True):
        try:
            row = [float(cell) for cell in line.split(",")]
        except ValueError:
            continue
        if len(row) == 2 and line.endswith("\n"):
            rows.append(row)
    if not rows:
        return ""
    mhz, watts = (statistics.median(column) for column in zip(*rows, strict=True))
    return f"SM clock {mhz:.0f} MHz, {watts:.0f} W"
