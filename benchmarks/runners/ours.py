"""spikeloom: current-based LIF, exact integration."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import spikeloom as sl

from .. import data
from ..work import Case
from .torch_training import TorchSystem, convolution, linear

# What `--systems spikeloom-sparing` runs: the option that saves most memory.
SPARING = sl.BPTT(checkpoint="time")


class Spikeloom(TorchSystem):
    """`sl.run` with an engine, on a dense tensor or on events."""

    packages = ("spikeloom",)
    dt = 1e-3

    def __init__(self, threads: int, engine: str = "auto", events: bool = False, sparing: bool = False):
        super().__init__(threads)
        self.engine, self.events = engine, events
        self.gradient = SPARING if sparing else sl.BPTT()
        self.engines: dict[str, str] = {}

    def versions(self) -> dict[str, str]:
        versions = super().versions()
        try:
            import numba
        except ImportError:
            return versions
        return versions | {"numba": numba.__version__}

    def input(self, x: np.ndarray) -> Any:
        spikes = bool(np.isin(x, (0, 1)).all())
        dense = super().input(x)
        return sl.Events.from_dense(dense) if self.events and spikes else dense

    def neuron(self, *shape: int) -> sl.CubaLIF:
        return sl.CubaLIF(shape, tau_mem=self.tau_mem * self.dt, tau_syn=self.tau_syn * self.dt)

    def layer(self, connection: nn.Module | None, neuron: sl.Neuron, recurrent: nn.Module | None = None) -> sl.Layer:
        return sl.Layer(connection, neuron, recurrent, surrogate=sl.SuperSpike(self.width))

    def stages(self, case: Case) -> list[nn.Module]:
        w = [torch.from_numpy(array) for array in data.weights(case)]
        if case.network == "neuron":
            return [self.layer(None, self.neuron(case.hidden))]
        if case.network == "convolution":
            sides = case.size - 2, (case.size - 2) // 2 - 2
            neurons = [self.neuron(c, side, side) for c, side in zip(case.channels, sides, strict=True)]
            readout = sl.CubaLI(case.outputs, tau_mem=self.tau_mem * self.dt, tau_syn=self.tau_syn * self.dt)
            return [
                self.layer(convolution(w[0]), neurons[0]),
                sl.Sequential(nn.AvgPool2d(2), self.layer(convolution(w[1]), neurons[1])),
                sl.Sequential(nn.AvgPool2d(2), nn.Flatten(), self.layer(linear(w[2]), readout)),
            ]
        feedback = linear(w[1]) if case.network == "recurrent" else None
        stages = [
            self.layer(linear(w[0]), self.neuron(case.hidden), feedback),
            self.layer(linear(w[-1]), self.neuron(case.outputs)),
        ]
        return list(stages)

    def network(self, stages: list[nn.Module]) -> nn.Module:
        flat = [m for stage in stages for m in (stage if isinstance(stage, sl.Sequential) else [stage])]
        return sl.Sequential(*flat, dt=self.dt)

    def apply(self, module: nn.Module, x: Any) -> Tensor:
        run = sl.run(module, x, engine=self.engine, gradient=self.gradient)
        self.engines = run.engines
        return run.output

    def remark(self) -> str:
        return ", ".join(sorted(set(self.engines.values())))


def load(threads: int, **options: Any) -> Spikeloom:
    """spikeloom in this process."""
    return Spikeloom(threads, **options)
