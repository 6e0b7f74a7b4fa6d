"""SpikingJelly: LIFNode over all steps at once."""

from __future__ import annotations

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn

from .torch_training import Stage, TorchSystem, linear


class Leaky(nn.Module):
    """Its leaky integrator, whose trace it returns as a list."""

    def __init__(self, tau: float):
        super().__init__()
        self.neuron = neuron.NonSpikingLIFNode(tau)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(self.neuron(x))


class SpikingJelly(TorchSystem):
    """LIFNode with soft reset in multi-step mode, which picks its own implementation."""

    packages = ("spikingjelly",)

    def spiking(self, shape: tuple[int, ...]) -> nn.Module:
        return self._node("m")

    def readout(self, features: int) -> nn.Module:
        return Leaky(self.tau_mem)

    def recurrent(self, weight: Tensor, feedback: Tensor) -> Stage:
        size = len(feedback)
        container = layer.LinearRecurrentContainer(self._node("s"), size, size, bias=False, step_mode="m")
        # One matrix takes the input, through the identity, and the spikes that come back.
        container.rc.weight.data.copy_(torch.cat([torch.eye(size), feedback], 1))
        return Stage(linear(weight), container)

    def weights(self, stage: nn.Module) -> list[Tensor]:
        if not isinstance(stage, Stage) or not isinstance(stage.neurons, layer.LinearRecurrentContainer):
            return super().weights(stage)
        recurrent = stage.neurons.rc.weight.data
        return [*super().weights(stage.connection), recurrent[:, len(recurrent) :]]

    def reset(self, net: nn.Module) -> None:
        functional.reset_net(net)

    def _node(self, mode: str) -> nn.Module:
        return neuron.LIFNode(
            self.tau_mem,
            decay_input=False,
            v_reset=None,
            # alpha / (1 + |u|)^2: its alpha is the peak, the width is 1. A peak above 2 would let the gradients that
            # flow through the reset overflow within a hundred steps.
            surrogate_function=surrogate.SuperSpike(alpha=1.0),
            step_mode=mode,
        )


def load(threads: int) -> SpikingJelly:
    """SpikingJelly in this process."""
    return SpikingJelly(threads)
