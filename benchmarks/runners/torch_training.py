"""Training steps on PyTorch, shared by all systems that run on it: they differ in their neurons only."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import data
from ..prepared import finite, gain
from ..work import Case


class Stage(nn.Module):
    """A connection and its neurons."""

    def __init__(self, connection: nn.Module, neurons: nn.Module):
        super().__init__()
        self.connection, self.neurons = connection, neurons

    def forward(self, x: Any) -> Tensor:
        return self.neurons(self.connection(x))


class Folded(nn.Module):
    """Modules that know nothing of time, applied to all steps at once: the fast way, which every system is given."""

    def __init__(self, *modules: nn.Module):
        super().__init__()
        self.inner = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class TorchSystem:
    """A system on PyTorch. A peer says what its neurons are; the rest is the same for all."""

    packages: tuple[str, ...] = ()
    time_axis = 0
    # The surrogate is 1 / (1 + |u| / width)^2 wherever a system has it or lets us pass it.
    width = 0.1
    # In steps; all neurons leak alike.
    tau_mem, tau_syn = 20.0, 5.0

    def __init__(self, threads: int):
        torch.set_num_threads(threads)
        # The first optimiser imports half of torch: now, while all workers import side by side.
        torch.optim.Adam([torch.zeros(1, requires_grad=True)])

    def versions(self) -> dict[str, str]:
        """Versions of the packages that matter."""
        return {name: importlib.metadata.version(name) for name in (*self.packages, "torch")}

    def spiking(self, shape: tuple[int, ...]) -> nn.Module:
        """Spiking neurons: a module from [T, B, *N] to spikes of the same shape, or [B, T, *N] with time_axis 1."""
        raise NotImplementedError

    def readout(self, features: int) -> nn.Module:
        """Leaky integrators that never fire; the output is their membrane."""
        raise NotImplementedError

    def recurrent(self, weight: Tensor, feedback: Tensor) -> Stage:
        """A layer whose spikes come back to it."""
        raise NotImplementedError

    def reset(self, net: nn.Module) -> None:
        """Whatever a user has to do before each batch."""

    def build(self, case: Case) -> Trained | Alone:
        """The network of a case."""
        return Alone(self, case) if case.network == "neuron" else Trained(self, case)

    def input(self, x: np.ndarray) -> Any:
        """An input [T, B, *N] as the system takes it."""
        tensor = torch.tensor(x)  # in memory of torch's own, as a DataLoader gives it
        return tensor.transpose(0, 1).contiguous() if self.time_axis else tensor

    def stages(self, case: Case) -> list[nn.Module]:
        """The network, one module per layer of neurons."""
        w = [torch.from_numpy(array) for array in data.weights(case)]
        out = (case.outputs,)
        if case.network == "neuron":
            return [Stage(nn.Identity(), self.spiking((case.hidden,)))]
        if case.network == "feedforward":
            hidden = Stage(linear(w[0]), self.spiking((case.hidden,)))
            return [hidden, Stage(linear(w[1]), self.spiking(out))]
        if case.network == "recurrent":
            return [self.recurrent(w[0], w[1]), Stage(linear(w[2]), self.spiking(out))]
        sides = case.size - 2, (case.size - 2) // 2 - 2
        first, second = (self.spiking((c, side, side)) for c, side in zip(case.channels, sides, strict=True))
        return [
            Stage(Folded(convolution(w[0])), first),
            Stage(Folded(nn.AvgPool2d(2), convolution(w[1])), second),
            Stage(Folded(nn.AvgPool2d(2), nn.Flatten(), linear(w[2])), self.readout(case.outputs)),
        ]

    def trained(self, net: nn.Module) -> list[nn.Parameter]:
        """The parameters that Adam is given."""
        return [p for p in net.parameters() if p.dim() > 1]

    def weights(self, stage: nn.Module) -> list[Tensor]:
        """The weights that set a stage's rate."""
        return [p.data for p in self.trained(stage)]

    def apply(self, module: nn.Module, x: Any) -> Tensor:
        """Run a stage, or a row of them."""
        return module(x)

    def network(self, stages: list[nn.Module]) -> nn.Module:
        """The stages in a row."""
        return nn.Sequential(*stages)

    def remark(self) -> str:
        """What ran."""
        return ""


class Alone:
    """The neuron alone, forward and backward."""

    def __init__(self, system: TorchSystem, case: Case):
        self.system, self.case = system, case
        self.stage = system.stages(case)[0]
        self.net = system.network([self.stage])
        for parameter in self.net.parameters():
            parameter.requires_grad_(False)
        self.x = system.input(data.inputs(case)).requires_grad_()
        self.gradient = system.input(data.gradient(case))

    def step(self) -> None:
        self.x.grad = None
        self.system.reset(self.net)
        self.system.apply(self.net, self.x).backward(self.gradient)

    def calibrate(self) -> None:
        x = data.inputs(self.case)[:, :4]
        self.factor = gain(lambda factor: float(self._spikes(factor * x).mean()))
        self.x.data.mul_(self.factor)

    def hidden(self, x: np.ndarray) -> np.ndarray:
        spikes = self._spikes(self.factor * x)
        return (spikes.transpose(0, 1) if self.system.time_axis else spikes).numpy()

    @torch.no_grad()
    def _spikes(self, x: np.ndarray) -> Tensor:
        self.system.reset(self.net)
        return self.system.apply(self.net, self.system.input(x))

    def remark(self) -> str:
        return self.system.remark()


class Trained:
    """A network and one training step of it."""

    def __init__(self, system: TorchSystem, case: Case):
        self.system, self.case = system, case
        self.stages = system.stages(case)
        self.net = system.network(self.stages)
        # Weights only, in all systems: some make parameters of their time constants, others do not.
        weights = system.trained(self.net)
        for parameter in self.net.parameters():
            parameter.requires_grad_(any(parameter is weight for weight in weights))
        # A rate that leaves the activity as it is, however often the step is repeated.
        self.optimiser = torch.optim.Adam(weights, lr=1e-6)
        self.x, self.labels = system.input(data.inputs(case)), torch.from_numpy(data.labels(case))

    def step(self) -> None:
        self.optimiser.zero_grad()
        self.system.reset(self.net)
        output = self.system.apply(self.net, self.x).sum(self.system.time_axis)
        F.cross_entropy(output, self.labels).backward()
        self.optimiser.step()

    @torch.no_grad()
    def calibrate(self) -> None:
        finite([weight.numpy() for weight in self.system.weights(self.net)])
        self.system.reset(self.net)
        x = self.system.input(data.inputs(self.case)[:, :4])
        for stage in self.stages[: -1 if self.case.network == "convolution" else None]:
            scaled = self.system.weights(stage)
            base = [w.clone() for w in scaled]

            def rate_at(factor: float, stage=stage, scaled=scaled, base=base, x=x) -> float:
                for weight, original in zip(scaled, base, strict=True):
                    weight.copy_(factor * original)
                self.system.reset(self.net)
                return float(self.system.apply(stage, x).mean())

            rate_at(gain(rate_at))
            self.system.reset(self.net)
            x = self.system.apply(stage, x)

    @torch.no_grad()
    def hidden(self, x: np.ndarray) -> np.ndarray | None:
        self.system.reset(self.net)
        spikes = self.system.apply(self.stages[0], self.system.input(x))
        return (spikes.transpose(0, 1) if self.system.time_axis else spikes).numpy()

    def remark(self) -> str:
        return self.system.remark()


def linear(weight: Tensor) -> nn.Linear:
    """A Linear layer without bias, with these weights."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data.copy_(weight)
    return layer


def convolution(weight: Tensor) -> nn.Conv2d:
    """A 3 x 3 convolution without bias or padding, with these weights."""
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, bias=False)
    layer.weight.data.copy_(weight)
    return layer
