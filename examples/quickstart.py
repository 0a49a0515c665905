"""Sharpen a photograph that is out of focus, by a jitted, differentiable loop of planned FFTs.

`python quickstart.py [output.png]`, on a CPU or a GPU, needs the extra `nvstate[examples]`.
"""

import statistics
import sys
import time

import jax
import jax.numpy as jnp
import matplotlib.cbook
import matplotlib.pyplot as plt
import numpy as np

import nvstate as nvs

STEPS = 60

# 1. A photograph, and a lens that spreads each of its points over a disc with a soft edge.
with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
    sharp = jnp.asarray(plt.imread(file, "jpg").mean(axis=-1) / 255, "float32")
height, width = sharp.shape


def disc(radius):
    y, x = jnp.fft.fftfreq(height, 1 / height)[:, None], jnp.fft.fftfreq(width, 1 / width)
    spread = jax.nn.sigmoid(2 * (radius - jnp.hypot(y, x + 1e-3)))
    return spread / spread.sum()


# 2. Specify the transform, plan it, bind an operand. A plan is a value; so is its inverse.
spec = nvs.fft.spec(sharp, kind="r2c", axes=(0, 1))
plan = nvs.fft.plan(spec, sharp)
inverse = plan.inverse()
bound = nvs.bind(plan, x=sharp)
print(plan.describe())


def planned_fft(image):
    return nvs.execute(nvs.reset(bound, x=image))  # another operand of the same plan


noise = 0.005 * np.random.default_rng(0).standard_normal(sharp.shape, "float32")
photo = inverse(planned_fft(disc(5.0)) * nvs.execute(bound)) + noise


# 3. Restore: accelerated projected gradients of |lens * image - photo|² / 2. The transforms are
#    arguments, so that `jnp.fft` can take the same loop.
def restore(photo, radius, fft=planned_fft, ifft=inverse):
    lens, seen = fft(disc(radius)), fft(photo)

    def step(state, i):
        image, ahead = state
        gradient = ifft(jnp.conj(lens) * (lens * fft(ahead) - seen))
        better = jnp.clip(ahead - gradient, 0, 1)
        return (better, better + i / (i + 3) * (better - image)), None

    return jax.lax.scan(step, (photo, photo), jnp.arange(1.0, STEPS + 1))[0][0]


def error(image):
    return jnp.mean((image - sharp) ** 2)


planned = jax.jit(restore)
restored = planned(photo, 5.0)
before, after = (-10 * jnp.log10(error(image)) for image in (photo, restored))
made = nvs.cache.info().made or "none, since XLA's own FFT runs on CPUs"
print(f"native plans made for {STEPS} steps: {made}")
print(f"PSNR: out of focus {before:.2f} dB, restored {after:.2f} dB")

# 4. Differentiate through the loop: what would another radius than the assumed 4.8 do?
slope = jax.jit(jax.grad(lambda radius: error(restore(photo, radius))))(4.8)
difference = (error(planned(photo, 4.85)) - error(planned(photo, 4.75))) / 0.1
print(f"d error / d radius: {slope:.4e} by jax.grad, {difference:.4e} by finite difference")

# 5. Time it, in turn with the same loop on `jnp.fft`; the first, compiling round does not count.
theirs = jax.jit(lambda *args: restore(*args, jnp.fft.rfft2, jnp.fft.irfft2))
seconds = {planned: [], theirs: []}
for _ in range(8):
    for function, times in seconds.items():
        start = time.perf_counter()
        function(photo, 5.0).block_until_ready()
        times.append(time.perf_counter() - start)
ms = [1e3 * statistics.median(times[1:]) / STEPS for times in seconds.values()]
print(f"a step takes {ms[0]:.3f} ms as planned, {ms[1]:.3f} ms with jnp.fft")

# 6. Drop the operand and keep the plan; then drop what was built natively for it.
assert nvs.release(bound) is plan
nvs.free(plan)

path = sys.argv[1] if len(sys.argv) > 1 else "quickstart.png"
plt.imsave(path, np.hstack([sharp, photo, restored]), cmap="gray", vmin=0, vmax=1)
print(f"{path}: the photograph sharp, out of focus, and restored")
assert after > before + 3
assert jnp.isclose(slope, difference, rtol=0.02)
