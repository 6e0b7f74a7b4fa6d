"""Training steps on JAX, compiled whole; shared by all systems that run on it."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from .. import data
from ..prepared import finite, gain
from ..work import Case

# Weights and an input [T, B, *N] to an output of that kind.
Stage = Callable[[list[Array], Array], Array]


class JaxSystem:
    """A system on JAX. A peer says what its neurons are; products are taken for all steps at once."""

    packages: tuple[str, ...] = ()
    width = 0.1
    tau_mem, tau_syn = 20.0, 5.0

    def __init__(self, threads: int):
        # The compiler's pool takes the cores that the process may use; it has no setting that always holds.
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])

    def versions(self) -> dict[str, str]:
        """Versions of the packages that matter."""
        return {name: importlib.metadata.version(name) for name in (*self.packages, "jax")}

    def spiking(self, x: Array) -> Array:
        """Spikes [T, B, *N] for the input current [T, B, *N]."""
        raise NotImplementedError

    def readout(self, x: Array) -> Array:
        """Membrane [T, B, N] of leaky integrators that never fire."""
        raise NotImplementedError

    def recurrent(self, x: Array, feedback: Array) -> Array:
        """Spikes of neurons whose spikes come back to them through weights [N, N]."""
        raise NotImplementedError

    def build(self, case: Case) -> Trained | Alone:
        """The network of a case."""
        return Alone(self, case) if case.network == "neuron" else Trained(self, case)

    def stages(self, case: Case) -> list[tuple[int, Stage]]:
        """Each stage, with the number of weights that it takes."""
        if case.network == "recurrent":
            hidden: Stage = lambda w, x: self.recurrent(product(x, w[0]), w[1])  # noqa: E731
            return [(2, hidden), (1, lambda w, x: self.spiking(product(x, w[0])))]
        if case.network == "feedforward":
            return [(1, lambda w, x: self.spiking(product(x, w[0])))] * 2
        return [
            (1, lambda w, x: self.spiking(convolution(x, w[0]))),
            (1, lambda w, x: self.spiking(convolution(pooled(x), w[0]))),
            (1, lambda w, x: self.readout(product(pooled(x).reshape(*x.shape[:2], -1), w[0]))),
        ]


class Alone:
    """The neuron alone, forward and backward."""

    def __init__(self, system: JaxSystem, case: Case):
        self.case, self.spiking = case, jax.jit(system.spiking)
        self.x, self.gradient = jnp.asarray(data.inputs(case)), jnp.asarray(data.gradient(case))
        self.both = jax.jit(lambda x, g: _forward_and_backward(system.spiking, x, g))

    def step(self) -> None:
        jax.block_until_ready(self.both(self.x, self.gradient))

    def calibrate(self) -> None:
        x = data.inputs(self.case)[:, :4]
        self.factor = np.float32(gain(lambda factor: float(self.spiking(np.float32(factor) * x).mean())))
        self.x = self.x * self.factor

    def hidden(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.spiking(self.factor * x))

    def remark(self) -> str:
        return ""


def _forward_and_backward(function: Callable[[Array], Array], x: Array, g: Array) -> tuple[Array, Array]:
    output, transpose = jax.vjp(function, x)
    return output, transpose(g)[0]


class Trained:
    """A network and one training step of it."""

    def __init__(self, system: JaxSystem, case: Case):
        self.case, self.stages = case, system.stages(case)
        self.weights = [jnp.asarray(w) for w in data.weights(case)]
        optimiser = optax.adam(1e-6)
        self.state = optimiser.init(self.weights)
        self.x, self.labels = jnp.asarray(data.inputs(case)), jnp.asarray(data.labels(case))

        def loss(weights: list[Array], x: Array, labels: Array) -> Array:
            for count, stage in self.stages:
                x, weights = stage(weights[:count], x), weights[count:]
            return optax.softmax_cross_entropy_with_integer_labels(x.sum(0), labels).mean()

        def update(weights: list[Array], state: Any, x: Array, labels: Array) -> tuple[list[Array], Any]:
            changes, state = optimiser.update(jax.grad(loss)(weights, x, labels), state)
            return optax.apply_updates(weights, changes), state

        self.update = jax.jit(update, donate_argnums=(0, 1))
        self.first = jax.jit(self.stages[0][1])

    def step(self) -> None:
        self.weights, self.state = self.update(self.weights, self.state, self.x, self.labels)
        jax.block_until_ready(self.weights)

    def calibrate(self) -> None:
        finite([np.asarray(weight) for weight in self.weights])
        x, begin = jnp.asarray(data.inputs(self.case)[:, :4]), 0
        for count, function in self.stages[: -1 if self.case.network == "convolution" else None]:
            stage, base = jax.jit(function), self.weights[begin : begin + count]

            def scaled(factor: float, base=base) -> list[Array]:
                return [np.float32(factor) * w for w in base]

            factor = gain(lambda factor, stage=stage, x=x: float(stage(scaled(factor), x).mean()))
            self.weights[begin : begin + count] = scaled(factor)
            x, begin = stage(scaled(factor), x), begin + count

    def hidden(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(self.first(self.weights[: self.stages[0][0]], x))

    def remark(self) -> str:
        return ""


def product(x: Array, weight: Array) -> Array:
    """[T, B, in] with weights [out, in]."""
    return x @ weight.T


def convolution(x: Array, weight: Array) -> Array:
    """[T, B, C, H, W] with weights [out, C, 3, 3], without padding."""
    steps, batch, *axes = x.shape
    y = jax.lax.conv(x.reshape(steps * batch, *axes), weight, (1, 1), "VALID")
    return y.reshape(steps, batch, *y.shape[1:])


def pooled(x: Array) -> Array:
    """Means over 2 x 2 pixels; an odd last row or column is left out, as in torch."""
    *outer, height, width = x.shape
    even = x[..., : height // 2 * 2, : width // 2 * 2]
    return even.reshape(*outer, height // 2, 2, width // 2, 2).mean((-3, -1))
