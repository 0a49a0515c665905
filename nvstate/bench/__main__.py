"""`python -m nvstate.bench NAME`."""

from __future__ import annotations

import argparse
import sys

from nvstate.bench import direct_solver, fft, lifecycle, matmul

SUITES = {
    "direct_solver": (direct_solver.SUITE, "sparse direct solves"),
    "fft": (fft.SUITE, "discrete Fourier transforms"),
    "lifecycle": (lifecycle.SUITE, "what a call costs in each form"),
    "matmul": (matmul.SUITE, "products of matrices"),
}


def main(argv: list[str]) -> int:
    """Run the benchmark that the arguments name; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m nvstate.bench", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True)
    for name, (suite, what) in SUITES.items():
        suite.add_arguments(names.add_parser(name, help=what))
    arguments = parser.parse_args(argv)
    return SUITES[arguments.name][0].main(arguments, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
