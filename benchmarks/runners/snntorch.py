"""snnTorch: Leaky, or LeakyParallel, which has no reset."""

from __future__ import annotations

import math

import snntorch as snn
import torch
from snntorch import surrogate
from torch import Tensor, nn

from .torch_training import Stage, TorchSystem, linear


class Stepped(nn.Module):
    """The loop over time that snnTorch leaves to its users; unbinding time costs less than indexing it."""

    def __init__(self, neuron: nn.Module):
        super().__init__()
        self.neuron = neuron

    def forward(self, x: Tensor) -> Tensor:
        # The hidden state begins afresh; a wrong-shaped one is what its own code takes for "none yet".
        self.neuron.mem = torch.zeros(0)
        if hasattr(self.neuron, "spk"):
            self.neuron.spk = torch.zeros(0)
        return torch.stack([self.neuron(x_t) for x_t in x.unbind()])


class Membrane(nn.Module):
    """The same loop for neurons whose membrane is the output."""

    def __init__(self, neuron: nn.Module):
        super().__init__()
        self.neuron = neuron

    def forward(self, x: Tensor) -> Tensor:
        membrane, trace = torch.zeros_like(x[0]), []
        for x_t in x.unbind():
            _, membrane = self.neuron(x_t, membrane)
            trace.append(membrane)
        return torch.stack(trace)


class SnnTorch(TorchSystem):
    """Leaky, reset by subtraction, the products of all steps at once."""

    packages = ("snntorch",)

    def __init__(self, threads: int, parallel: bool = False):
        super().__init__(threads)
        self.parallel = parallel
        self.beta = math.exp(-1 / self.tau_mem)
        self.spike = surrogate.fast_sigmoid(slope=1 / self.width)

    def spiking(self, shape: tuple[int, ...]) -> nn.Module:
        if self.parallel:
            size = shape[0]
            return snn.LeakyParallel(
                input_size=size, hidden_size=size, beta=self.beta, bias=False, spike_grad=self.spike
            )
        return Stepped(snn.Leaky(beta=self.beta, spike_grad=self.spike, init_hidden=True))

    def readout(self, features: int) -> nn.Module:
        return Membrane(snn.Leaky(beta=self.beta, reset_mechanism="none"))

    def recurrent(self, weight: Tensor, feedback: Tensor) -> Stage:
        size = len(feedback)
        neuron = snn.RLeaky(beta=self.beta, linear_features=size, spike_grad=self.spike, init_hidden=True)
        neuron.recurrent = linear(feedback)
        return Stage(linear(weight), Stepped(neuron))

    def trained(self, net: nn.Module) -> list[nn.Parameter]:
        # The decay is a matrix to LeakyParallel, and no weight.
        return [p for name, p in net.named_parameters() if p.dim() > 1 and "rnn" not in name]


def load(threads: int, **options: bool) -> SnnTorch:
    """snnTorch in this process."""
    return SnnTorch(threads, **options)
