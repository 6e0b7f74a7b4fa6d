"""Rockpool on PyTorch: LIFTorch, current-based, with its own piecewise linear surrogate."""

from __future__ import annotations

import rockpool.parameters as parameters
from rockpool.nn.modules import LIFTorch
from torch import Tensor, nn

from .torch_training import Stage, TorchSystem, linear


class Output(nn.Module):
    """The output of a module that returns its state and a record too."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]


class Rockpool(TorchSystem):
    """Batch first, time constants in seconds, none of them trained."""

    packages = ("rockpool",)
    time_axis = 1

    def spiking(self, shape: tuple[int, ...]) -> nn.Module:
        return Output(LIFTorch(shape, **self._constants()))

    def recurrent(self, weight: Tensor, feedback: Tensor) -> Stage:
        # Its feedback is s W, not W s.
        inner = LIFTorch((len(weight),), has_rec=True, w_rec=feedback.T.contiguous(), **self._constants())
        return Stage(linear(weight), Output(inner))

    def reset(self, net: nn.Module) -> None:
        for module in net.modules():
            if isinstance(module, LIFTorch):
                module.reset_state()

    def _constants(self) -> dict:
        values = {"tau_mem": self.tau_mem * 1e-3, "tau_syn": self.tau_syn * 1e-3, "threshold": 1.0, "bias": 0.0}
        return {name: parameters.Constant(value) for name, value in values.items()}


def load(threads: int) -> Rockpool:
    """Rockpool in this process."""
    return Rockpool(threads)
