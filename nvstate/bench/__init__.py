"""Timings beside what a user would pick instead: `python -m nvstate.bench fft|lifecycle|matmul`."""
