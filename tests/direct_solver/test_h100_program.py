"""What an H100 will run, from the compiler alone: the calls, and nothing that moves around them."""

import re

import jax
import jax.numpy as jnp
import pytest

from nvstate import direct_solver as solver
from tests.deviceless import compile_h100
from tests.direct_solver import matrices

# Gathers there are: products with the matrix, for what a probe must solve.
MOVES = r" (transpose|pad|dynamic-slice|all-gather\S*|all-to-all|sort)\("
A = matrices.poisson(20, 20)
VALUES = jax.ShapeDtypeStruct((A.nnz,), "float64")
B = jax.ShapeDtypeStruct((400,), "float64")


def planned(**options):
    """A plan of no place."""
    return solver.plan((A.indptr, A.indices, VALUES), **options)


def compiled(function, *types, **options):
    """The program of a function of a plan, which is an argument, and operands."""
    plan = planned(**options)
    leaves, tree = jax.tree.flatten(plan)
    types = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves] + list(types)
    count = len(leaves)

    def run(*operands):
        return function(jax.tree.unflatten(tree, operands[:count]), *operands[count:])

    return compile_h100(run, *types)


def calls(hlo, target):
    """How often a target is called."""
    return hlo.count(f'custom_call_target="{target}"')


def test_a_call_of_a_plan_is_one_fused_call():
    hlo, _, _ = compiled(lambda plan, v, b: plan(v, b), VALUES, B)
    assert hlo.count('phase = "fused"') == 1
    assert not re.search(MOVES, hlo)


def test_a_newton_loop_is_fused_calls():
    def loop(plan, v, b):
        return jax.lax.fori_loop(0, 5, lambda _, x: plan(v + x[0], x), b)

    hlo, _, _ = compiled(loop, VALUES, B)
    assert hlo.count('phase = "fused"') == 1


def test_phases_are_one_call_each():
    def phases(plan, v, b):
        factor = solver.factorize(plan, v)
        return solver.solve(factor, b), solver.solve(factor, b + 1, transpose="transpose")

    hlo, _, _ = compiled(phases, VALUES, B)
    assert calls(hlo, "nvstate_cudss_v1") == 3
    assert 'phase = "fused"' not in hlo
    assert not re.search(MOVES, hlo)


def test_a_gradient_has_one_factorization_and_two_solves():
    def gradient(plan, v, b):
        def loss(v, b):
            return jnp.sum(solver.solve(solver.factorize(plan, v), b) ** 2)

        return jax.grad(loss, (0, 1))(v, b)

    hlo, _, _ = compiled(gradient, VALUES, B)
    assert calls(hlo, "nvstate_cudss_v1") == 3
    assert hlo.count('phase = "factorize"') == 1


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_fingerprints_are_read_once(dtype):
    """One variadic reduction; of what is between, at most two lanes of 32 bits are written."""
    values = jax.ShapeDtypeStruct((A.nnz,), dtype)
    plan = solver.plan((A.indptr, A.indices, values))
    b = jax.ShapeDtypeStruct((400,), dtype)

    def solve(v, b):
        return solver.solve(solver.factorize(plan, v), b)

    hlo, _, memory = compile_h100(solve, values, b)
    assert calls(hlo, "nvstate_cudss_v1") == 2
    lanes, rest = 8 * A.nnz, 2048
    if dtype != "complex128":  # whose parts XLA writes out first
        assert memory.temp_size_in_bytes < lanes + rest


def test_right_hand_sides_under_vmap_are_columns():
    """A batch in front of b is what the library takes."""

    def several(plan, v, bs):
        factor = solver.factorize(plan, v)
        return jax.vmap(lambda b: solver.solve(factor, b))(bs)

    hlo, _, _ = compiled(several, VALUES, jax.ShapeDtypeStruct((6, 400), "float64"))
    assert calls(hlo, "nvstate_cudss_v1") == 2
    assert not re.search(MOVES, hlo)


def test_batches_are_one_call():
    def several(plan, vs, bs):
        return jax.vmap(lambda v, b: solver.solve(solver.factorize(plan, v), b))(vs, bs)

    shapes = (4, A.nnz), (4, 400)
    hlo, _, _ = compiled(several, *(jax.ShapeDtypeStruct(s, "float64") for s in shapes))
    assert calls(hlo, "nvstate_cudss_v1") == 2
    assert not re.search(MOVES.replace("transpose|", ""), hlo)  # sums over rows are by columns


def test_an_unused_factorization_is_removed():
    hlo, _, _ = compiled(lambda plan, v, b: (solver.factorize(plan, v), b)[1], VALUES, B)
    assert calls(hlo, "nvstate_cudss_v1") == 0
