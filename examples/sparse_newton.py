"""Heat that feeds itself: Newton's method on a sparse system, as one jitted program.

A plate burns at a rate that grows with its temperature u, and its rim is kept at u = 0:

    -Δu = r(x) exp(u)

Each step of Newton's method solves with a Jacobian of one pattern and new values. So the pattern is
planned once, and the loop factorizes and solves on the device. Afterwards: which places heat the
centre most? That is a gradient in all of r. By `implicit` it takes one more solve, whatever the
number of steps. Takes the number of points along a side, and a path for the picture.
"""

import sys
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import scipy.sparse as sp

import nvstate as nvs

jax.config.update("jax_enable_x64", True)

SIDE = int(sys.argv[1]) if len(sys.argv) > 1 else 80
PICTURE = sys.argv[2] if len(sys.argv) > 2 else "sparse_newton.png"
H, STEPS = 1 / (SIDE + 1), 20

# The Jacobian's pattern, planned once: five points, symmetric, positive definite while it is cool.
line = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(SIDE, SIDE))
laplacian = sp.csr_array(sp.kron(line, sp.eye_array(SIDE)) + sp.kron(sp.eye_array(SIDE), line))
laplacian.sort_indices()
values, indices = jnp.asarray(laplacian.data), laplacian.indices
rows = np.repeat(np.arange(SIDE**2), np.diff(laplacian.indptr))
diagonal = np.flatnonzero(rows == indices)
plan = nvs.direct_solver.plan((laplacian.indptr, indices, values), matrix_type="spd")


def residual(u, r):
    return jax.ops.segment_sum(values * u[indices], rows, SIDE**2) - H**2 * r * jnp.exp(u)


def jacobian(u, r):
    return values.at[diagonal].add(-(H**2) * r * jnp.exp(u))


@jax.jit
def newton(u, r):
    """The temperature, the number of steps, and the largest residual before each."""

    def go_on(state):
        u, count, _ = state
        return (jnp.abs(residual(u, r)).max() > 1e-13) & (count < STEPS)

    def step(state):
        u, count, history = state
        f = residual(u, r)
        return u - plan(jacobian(u, r), f), count + 1, history.at[count].set(jnp.abs(f).max())

    return jax.lax.while_loop(go_on, step, (u, 0, jnp.zeros(STEPS)))


find = nvs.direct_solver.implicit(plan, residual, jacobian, lambda u, r: newton(u, r)[0])


def centre(r):
    """The temperature in the middle, for rates r."""
    return find(jnp.zeros(SIDE**2), r)[SIDE * (SIDE // 2) + SIDE // 2]


x, y = np.meshgrid(*2 * [np.linspace(H, 1 - H, SIDE)])
spots = [(0.25, 0.3, 38.0), (0.7, 0.35, 22.0), (0.45, 0.75, 28.0)]
r = 1 + sum(s * np.exp(-((x - p) ** 2 + (y - q) ** 2) / 0.01) for p, q, s in spots)
r = jnp.asarray(r.ravel())

jax.block_until_ready(newton(jnp.zeros(SIDE**2), r))  # compiles
before, start = nvs.cache.info().factorizations, time.perf_counter()
u, count, history = jax.block_until_ready(newton(jnp.zeros(SIDE**2), r))
took, made = time.perf_counter() - start, nvs.cache.info().factorizations - before
print(plan)
for i in range(int(count)):
    print(f"step {i}: residual {history[i]:.1e}")
print(f"{SIDE**2} unknowns by {plan.backend}: {count} steps of {1e3 * took / int(count):.2f} ms")
print(f"{made} factorizations, {nvs.cache.info().analyses} analysis of the pattern")

gradient = jax.jit(jax.grad(centre))(r)
where, step = int(jnp.argmax(gradient)), 1e-4
ends = [centre(r.at[where].add(sign * step)) for sign in (1, -1)]
difference = (ends[0] - ends[1]) / (2 * step)
digits = -np.log10(abs(float(gradient[where] / difference) - 1) + 1e-16)
print(f"gradient {gradient[where]:.6e}, by differences {difference:.6e}: {digits:.1f} digits agree")

figure, axes = plt.subplots(1, 2, figsize=(10, 4))
titles = "temperature", "what each rate adds to the centre"
for axis, title, field in zip(axes, titles, (u, gradient), strict=True):
    image = axis.imshow(np.reshape(field, (SIDE, SIDE)), origin="lower", extent=(0, 1, 0, 1))
    figure.colorbar(image, ax=axis)
    axis.set_title(title)
figure.savefig(PICTURE, dpi=150)
