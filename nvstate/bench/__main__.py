"""`python -m nvstate.bench OPERATION`."""

from __future__ import annotations

import argparse
import sys

from nvstate.bench import fft


def main(argv: list[str]) -> int:
    """Run the benchmark that the arguments name; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m nvstate.bench", description=__doc__)
    operations = parser.add_subparsers(dest="operation", required=True)
    fft.add_arguments(operations.add_parser("fft", help="discrete Fourier transforms"))
    return fft.main(parser.parse_args(argv), argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
