"""Sinabs: LIF without a synapse, one spike per step at most."""

from __future__ import annotations

import sinabs.layers
from sinabs.activation import MembraneSubtract, SingleSpike
from torch import Tensor, nn

from .torch_training import Stage, TorchSystem, linear


class Sinabs(TorchSystem):
    """Batch first. Its loop indexes time, and nothing else is offered for a CPU."""

    packages = ("sinabs",)
    time_axis = 1

    def spiking(self, shape: tuple[int, ...]) -> nn.Module:
        return sinabs.layers.LIF(**self._options())

    def readout(self, features: int) -> nn.Module:
        return sinabs.layers.ExpLeak(self.tau_mem, norm_input=False)

    def recurrent(self, weight: Tensor, feedback: Tensor) -> Stage:
        return Stage(linear(weight), sinabs.layers.LIFRecurrent(rec_connect=linear(feedback), **self._options()))

    def reset(self, net: nn.Module) -> None:
        for module in net.modules():
            if isinstance(module, sinabs.layers.StatefulLayer) and module.is_state_initialised():
                module.zero_grad()
                module.reset_states()

    def _options(self) -> dict:
        return {
            "tau_mem": self.tau_mem,
            "spike_fn": SingleSpike,
            "reset_fn": MembraneSubtract(),
            "surrogate_grad_fn": self._surrogate,
            "norm_input": False,
        }

    def _surrogate(self, v: Tensor, threshold: Tensor) -> Tensor:
        return 1 / (1 + (v - threshold).abs() / self.width).square()


def load(threads: int) -> Sinabs:
    """Sinabs in this process."""
    return Sinabs(threads)
