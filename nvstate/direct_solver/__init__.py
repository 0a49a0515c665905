"""Sparse direct solver: cuDSS on CUDA; PARDISO or SciPy's SuperLU on CPUs."""
