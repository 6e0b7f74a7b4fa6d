"""JAX without a library of spiking neurons: a jitted lax.scan of the very step that spikeloom's CubaLIF takes."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

from .jax_training import JaxSystem


class Scan(JaxSystem):
    """Current-based LIF, exact integration, reset by subtraction. Unrolling the scan made it slower on a CPU."""

    def __init__(self, threads: int):
        super().__init__(threads)
        self.alpha, self.beta = math.exp(-1 / self.tau_syn), math.exp(-1 / self.tau_mem)
        self.gain = self.tau_syn / (self.tau_mem - self.tau_syn) * (self.beta - self.alpha)

    def spiking(self, x: Array) -> Array:
        return jax.lax.scan(self._step, self._rest(x), x)[1]

    def readout(self, x: Array) -> Array:
        def step(state: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], Array]:
            i, v = state
            i = i + x
            v = self.beta * v + self.gain * i
            return (self.alpha * i, v), v

        return jax.lax.scan(step, self._rest(x), x)[1]

    def recurrent(self, x: Array, feedback: Array) -> Array:
        def step(state: tuple, x: Array) -> tuple:
            inner, spikes = state
            inner, spikes = self._step(inner, x + spikes @ feedback.T)
            return (inner, spikes), spikes

        return jax.lax.scan(step, (self._rest(x), jnp.zeros_like(x[0])), x)[1]

    def _rest(self, x: Array) -> tuple[Array, Array]:
        return jnp.zeros_like(x[0]), jnp.zeros_like(x[0])

    def _step(self, state: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], Array]:
        i, v = state
        i = i + x
        v = self.beta * v + self.gain * i
        s = spike(v - 1, self.width)
        return (self.alpha * i, v - s), s


@jax.custom_vjp
def spike(u: Array, width: float) -> Array:
    """1 where u > 0, with the derivative 1 / (1 + |u| / width)^2."""
    return (u > 0).astype(u.dtype)


spike.defvjp(
    lambda u, width: (spike(u, width), (u, width)),
    lambda kept, g: (g / (1 + jnp.abs(kept[0]) / kept[1]) ** 2, None),
)


def load(threads: int) -> Scan:
    """The scan in this process."""
    return Scan(threads)
