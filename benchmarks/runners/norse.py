"""Norse: the neurons with the least work per step, LIFBoxCell; where there is feedback, LIFRecurrent."""

from __future__ import annotations

import norse.torch as norse
import torch
from torch import Tensor, nn

from .torch_training import Stage, TorchSystem


class Stepped(nn.Module):
    """A cell in a loop. Norse's own loop (in its layers over time) indexes time, which costs more the longer it is."""

    def __init__(self, cell: nn.Module):
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = None, []
        for x_t in x.unbind():
            output, state = self.cell(x_t, state)
            outputs.append(output)
        return torch.stack(outputs)


class First(nn.Module):
    """The output of a layer that returns its state too."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]


class Norse(TorchSystem):
    """Time constants in seconds, forward Euler."""

    packages = ("norse",)

    def spiking(self, shape: tuple[int, ...]) -> nn.Module:
        return Stepped(norse.LIFBoxCell(norse.LIFBoxParameters(**self._parameters())))

    def readout(self, features: int) -> nn.Module:
        return Stepped(norse.LIBoxCell(norse.LIBoxParameters(tau_mem_inv=self._parameters()["tau_mem_inv"])))

    def recurrent(self, weight: Tensor, feedback: Tensor) -> Stage:
        parameters = norse.LIFParameters(tau_syn_inv=torch.as_tensor(1e3 / self.tau_syn), **self._parameters())
        weights = {"input_weights": nn.Parameter(weight), "recurrent_weights": nn.Parameter(feedback)}
        inner = norse.LIFRecurrent(weight.shape[1], len(weight), p=parameters, autapses=True, **weights)
        return Stage(nn.Identity(), First(inner))

    def _parameters(self) -> dict[str, Tensor]:
        return {"tau_mem_inv": torch.as_tensor(1e3 / self.tau_mem), "alpha": torch.as_tensor(1 / self.width)}


def load(threads: int) -> Norse:
    """Norse in this process."""
    return Norse(threads)
