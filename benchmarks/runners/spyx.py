"""Spyx: LIF under its own scan, compiled; the products outside of it, where they are one call for all steps."""

from __future__ import annotations

import math
from typing import Any

import spyx.axn
import spyx.nn
from flax import nnx
from jax import Array

from .jax_training import JaxSystem


class Spyx(JaxSystem):
    """LIF, reset by subtraction; it fires one step after the crossing."""

    packages = ("spyx", "flax")

    def __init__(self, threads: int):
        super().__init__(threads)
        self.beta = math.exp(-1 / self.tau_mem)
        self.spike = spyx.axn.superspike(1 / self.width)

    def spiking(self, x: Array) -> Array:
        return spyx.nn.run(spyx.nn.LIF(x.shape[2:], activation=self.spike, **self._options()), x)[0]

    def readout(self, x: Array) -> Array:
        return spyx.nn.run(spyx.nn.LI(x.shape[2:], **self._options()), x)[0]

    def recurrent(self, x: Array, feedback: Array) -> Array:
        neuron = spyx.nn.RLIF(x.shape[2:], activation=self.spike, **self._options())
        neuron.recurrent_w = nnx.Param(feedback.T)  # its feedback is s W, not W s
        return spyx.nn.run(neuron, x)[0]

    def _options(self) -> dict[str, Any]:
        # A generator of random numbers belongs to the trace that it was made in.
        return {"beta": self.beta, "rngs": nnx.Rngs(0)}


def load(threads: int) -> Spyx:
    """Spyx in this process."""
    return Spyx(threads)
