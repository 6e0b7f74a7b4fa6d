"""The floor: the same training step with the connections and no neurons; for the neuron alone, a copy of memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..work import Case
from .torch_training import Stage, TorchSystem, Trained, linear


class Floor(TorchSystem):
    """What the matrix products, the loss and the optimiser cost in torch, with dense input."""

    def spiking(self, shape: tuple[int, ...]) -> nn.Module:
        return nn.Identity()

    def readout(self, features: int) -> nn.Module:
        return nn.Identity()

    def recurrent(self, weight: Tensor, feedback: Tensor) -> Stage:
        # The feedback as one product of all steps, which is what it would cost if time had no order.
        return Stage(nn.Sequential(linear(weight), linear(feedback)), nn.Identity())

    def build(self, case: Case) -> Copy | Connections:
        return Copy(case) if case.network == "neuron" else Connections(self, case)


class Connections(Trained):
    """A training step in which nothing fires."""

    def calibrate(self) -> None:
        pass

    def hidden(self, x: np.ndarray) -> None:
        return None


class Copy:
    """A copy of a large array, which gives the bandwidth of the memory: bytes read plus bytes written."""

    def __init__(self, case: Case):
        self.source = torch.rand(case.copy)
        self.target = torch.zeros_like(self.source)

    def step(self) -> None:
        self.target.copy_(self.source)

    def calibrate(self) -> None:
        pass

    def hidden(self, x: np.ndarray) -> None:
        return None

    def remark(self) -> str:
        return "a copy of memory"


def load(threads: int) -> Floor:
    """The floor in this process."""
    return Floor(threads)
