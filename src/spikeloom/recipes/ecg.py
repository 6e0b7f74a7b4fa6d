"""Which wave of the heartbeat is it? A label for each step of an electrocardiogram."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from spikeloom import datasets, initializers
from spikeloom.distributions import LogNormal
from spikeloom.network import Layer, Sequential
from spikeloom.neurons import LI, CubaLIF
from spikeloom.surrogates import SuperSpike
from spikeloom.training.experiment import Experiment, Schedule, Splits


@dataclass(kw_only=True)
class Ecg(Experiment):
    """Electrocardiograms as spikes of 4 channels, 4-36-6 with recurrence; the network names the wave at every step.

    The recurrent neurons have time constants and thresholds of their own, drawn from log-normal distributions, and so
    have the leaky integrators that are the outputs; all are learned, or left as they were drawn.

    Arguments:
        learned: train tau_mem, tau_syn and v_th of the recurrent neurons and tau_mem of the outputs.
        hidden: number of recurrent neurons.
        tau_mem: median of the recurrent neurons' membrane time constants in seconds, each step taken as 1 ms.
        tau_syn: median of their synaptic time constants in seconds.
        tau_readout: median of the outputs' time constants in seconds.
        spread: standard deviation of the logarithm of time constants and thresholds (median 1).
        width: width of the surrogate.
        gain: standard deviation that the input gives the membrane potential before training.
    """

    name: ClassVar[str] = "ecg"
    positive: ClassVar[tuple[str, ...]] = ("hidden", "tau_mem", "tau_syn", "tau_readout", "width", "gain")

    epochs: int = 40
    batch_size: int = 32
    lr: float = 5e-2
    time_constant_lr: float | None = 5e-2
    schedule: Schedule = "cosine"
    threads: int = 1

    learned: bool = True
    hidden: int = 36
    tau_mem: float = 10e-3
    tau_syn: float = 5e-3
    tau_readout: float = 5e-3
    spread: float = 0.5
    width: float = 0.3
    gain: float = 1.0

    def check(self) -> None:
        super().check()
        if not 0 <= self.spread < 2:
            raise ValueError(f"ecg got spread={self.spread}; expected a number from 0 to below 2.")

    def network(self) -> nn.Module:
        neuron = CubaLIF(
            self.hidden,
            tau_mem=LogNormal(self.tau_mem, self.spread),
            tau_syn=LogNormal(self.tau_syn, self.spread),
            v_th=LogNormal(1.0, self.spread),
            learn=("tau_mem", "tau_syn", "v_th") if self.learned else (),
        )
        hidden = Layer(
            nn.Linear(4, self.hidden, bias=False),
            neuron,
            recurrent=nn.Linear(self.hidden, self.hidden, bias=False),
            surrogate=SuperSpike(width=self.width),
        )
        # A channel spikes in 8 of 100 steps.
        initializers.fluctuation_driven_(hidden, rate=80.0, membrane_std=self.gain)
        readout = LI(6, tau_mem=LogNormal(self.tau_readout, self.spread), learn=("tau_mem",) if self.learned else ())
        return Sequential(hidden, Layer(nn.Linear(self.hidden, 6), readout, port="current"), dt=1e-3)

    def data(self, data_dir: str | Path | None = None) -> Splits:
        train, test = datasets.ecg(data_dir, train=True), datasets.ecg(data_dir, train=False)
        held_out = None
        if self.validation:
            train, held_out = train.hold_out(self.validation)
        return Splits(
            self._loader(train, shuffle=True),
            self._loader(test),
            self._loader(held_out) if held_out else None,
            classes=train.classes,
        )

    def _loader(self, data: datasets.Recordings, shuffle: bool = False) -> datasets.BatchLoader:
        return datasets.BatchLoader(
            data.inputs,
            data.labels,
            self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            input_axis=1,
            target_axis=1,
        )

    def decode(self, output: Tensor) -> Tensor:
        return output.movedim(2, 1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(self.decode(output), target)


def ecg() -> Ecg:
    """The configuration of the recipe ``ecg``."""
    return Ecg()
