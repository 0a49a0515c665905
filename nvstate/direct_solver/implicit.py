"""implicit(): roots of sparse systems of equations, whose derivatives are solves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from nvstate._core import aval
from nvstate.direct_solver.arguments import error, operand_error
from nvstate.direct_solver.functions import factorize, solve
from nvstate.direct_solver.plan import SolverPlan


def implicit(
    plan: SolverPlan,
    residual: Callable[..., Any],
    jacobian: Callable[..., Any],
    find: Callable[..., Any],
) -> Callable[..., Any]:
    """Make a function of the root that a loop finds, whose derivative is not the loop's.

    With F(x, θ) = 0 and A = ∂F/∂x it is ẋ = -A⁻¹ (∂F/∂θ) θ̇: one factorization, at the root, for
    forward and reverse mode and any loop. Where A comes from `jacobian` and x from the function
    itself, so do the derivatives of every order.

    Args:
        plan: of A, from `plan`, with JAX's arrays or a `jax.ShapeDtypeStruct` for the values.
        residual: (x, *theta) -> F, dtype [n]; for complex dtypes holomorphic in x.
        jacobian: (x, *theta) -> ∂F/∂x, dtype [nnz], in the order of A's own entries.
        find: (x0, *theta) -> x, dtype [n], with F = 0; any loop, `jax.lax.while_loop` too.

    Returns:
        root(x0, *theta) -> x. `theta` are pytrees; x0 is whatever `find` starts from, and x does
        not depend on it. What is differentiated goes through `theta`: JAX refuses to differentiate
        with respect to what `residual`, `jacobian` or `find` close over.

    Raises:
        SpecError: a plan for NumPy's arrays, which JAX cannot differentiate.
        OperandError: x, F or the entries of another length or dtype.

    Example:
        >>> pattern = (np.arange(4), np.arange(3), jax.ShapeDtypeStruct((3,), "float32"))
        >>> plan = nvs.direct_solver.plan(pattern)
        >>> root = nvs.direct_solver.implicit(
        ...     plan,
        ...     residual=lambda x, a: x**3 - a,
        ...     jacobian=lambda x, a: 3 * x**2,
        ...     find=lambda x0, a: jax.lax.fori_loop(
        ...         0, 30, lambda _, x: x - (x**3 - a) / (3 * x**2), x0),
        ... )
        >>> a = jnp.full(3, 8.0, "float32")
        >>> ones = jnp.ones(3, "float32")
        >>> gradient = jax.grad(lambda a: root(ones, a).sum())(a)
        >>> bool(jnp.allclose(gradient, 1 / 12))
        True

    Source: as `factorize` and `solve`, in derivatives alone.
    """
    if plan.placement is not None and plan.placement.package == "numpy":
        raise error(
            "`implicit` takes a plan for JAX's arrays",
            "a plan of a jax.Array, or of a jax.ShapeDtypeStruct",
            "a plan for NumPy's arrays",
            "Plan from a matrix whose values are `jax.numpy.asarray(A.data)`.",
        )
    n, nnz, dtype = plan.spec.n, plan.spec.nnz, plan.spec.dtype

    # The plan is an operand: closed over, its leaves would be constants.
    @jax.custom_jvp
    def root(plan: SolverPlan, x0: Any, *theta: Any) -> Any:
        del plan
        return _required("find", find(x0, *theta), n, dtype)

    @root.defjvp
    def moved(primals: Any, tangents: Any) -> Any:
        plan, x0, *theta = primals
        x = root(plan, x0, *theta)
        _, change = jax.jvp(
            lambda *theta: _required("residual", residual(x, *theta), n, dtype),
            tuple(theta),
            tuple(tangents[2:]),
        )
        values = _required("jacobian", jacobian(x, *theta), nnz, dtype)
        return x, -solve(factorize(plan, values), change)

    return lambda x0, *theta: root(plan, x0, *theta)


def _required(name: str, y: Any, size: int, dtype: str) -> Any:
    """What a user's function returned, if it fits."""
    if not aval.is_array(y):
        got, do = aval.named(y), "Return one array."
    elif y.shape != (size,):
        of = "stored entry" if name == "jacobian" else "row"
        got, do = str(aval.type_of(y)), f"Return one number for each {of} of A."
    elif y.dtype != dtype:
        got, do = str(aval.type_of(y)), f'Convert it with `.astype("{dtype}")`.'
    else:
        return y
    raise operand_error(
        f"`{name}` returned what does not match the plan", f"{dtype}[{size}]", got, do
    )
