"""Rockpool on JAX: LIFJax, current-based, compiled; its own piecewise linear surrogate."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from rockpool.nn.modules import LIFJax

from .jax_training import JaxSystem


class RockpoolJax(JaxSystem):
    """Batch first inside; the compiler sees to the transposition."""

    packages = ("rockpool",)

    def spiking(self, x: Array) -> Array:
        return self._over_time(self._neurons(x.shape[-1]), x)

    def recurrent(self, x: Array, feedback: Array) -> Array:
        neurons = self._neurons(x.shape[-1], has_rec=True)
        return self._over_time(neurons.set_attributes({"w_rec": feedback.T}), x)  # its feedback is s W, not W s

    def _over_time(self, neurons: LIFJax, x: Array) -> Array:
        return neurons(x.swapaxes(0, 1))[0].swapaxes(0, 1)

    def _neurons(self, size: int, **options: bool) -> LIFJax:
        values = {"tau_mem": self.tau_mem * 1e-3, "tau_syn": self.tau_syn * 1e-3, "threshold": 1.0, "bias": 0.0}
        with jax.ensure_compile_time_eval():  # its constructor looks at the values of arrays
            constants = {name: jnp.asarray(value) for name, value in values.items()}
            return LIFJax((size,), **constants, **options)


def load(threads: int) -> RockpoolJax:
    """Rockpool's JAX side in this process."""
    return RockpoolJax(threads)
