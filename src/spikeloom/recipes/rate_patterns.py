"""Which half of the inputs is active? Two outputs, read out from their membranes or from their spikes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikeloom import datasets, decoding
from spikeloom.network import Layer, Sequential
from spikeloom.neurons import CubaLI, CubaLIF
from spikeloom.surrogates import SuperSpike
from spikeloom.training.experiment import Experiment, Splits


@dataclass(kw_only=True)
class RatePatterns(Experiment):
    """Two classes of Poisson spike trains, told apart by one layer of two neurons.

    In a trial, one half of the inputs fires at 10 spikes per second. The class is the output with the higher mean
    membrane potential, or with more spikes. With spikes, training needs a surrogate for their derivative, which is
    0 almost everywhere.

    Arguments:
        readout: "membrane" for neurons that do not fire, "spikes" for neurons that do.
        inputs: number of inputs.
        steps: time steps T of 1 ms.
        rate: firing rate of the active inputs in spikes per second.
        train_trials: number of training trials.
        test_trials: number of fresh trials for the test.
        gain: the initial weights have the standard deviation gain (1 - exp(-dt / tau_mem)) / sqrt(inputs), divided by
            the same factor, since a neuron's input is scaled by it here.
    """

    name: ClassVar[str] = "rate-patterns"
    positive: ClassVar[tuple[str, ...]] = ("inputs", "steps", "rate", "train_trials", "test_trials", "gain")

    epochs: int = 5
    batch_size: int = 32
    lr: float = 2e-2
    threads: int = 1

    readout: Literal["membrane", "spikes"] = "membrane"
    inputs: int = 100
    steps: int = 200
    rate: float = 10.0
    train_trials: int = 1000
    test_trials: int = 1000
    gain: float = 7.0

    def network(self) -> nn.Module:
        connection = nn.Linear(self.inputs, 2, bias=False)
        nn.init.normal_(connection.weight, 0.0, self.gain / math.sqrt(self.inputs))
        kind = CubaLIF if self.readout == "spikes" else CubaLI
        neuron = kind(2, tau_mem=10e-3, tau_syn=5e-3)
        return Sequential(Layer(connection, neuron, surrogate=SuperSpike(width=0.1)), dt=1e-3)

    def data(self, data_dir: str | Path | None = None) -> Splits:
        held_out = round(self.validation * self.train_trials)
        return Splits(
            self._loader(0, self.train_trials - held_out, shuffle=True),
            self._loader(1, self.test_trials),
            self._loader(2, held_out) if held_out else None,
            classes=("first half", "second half"),
        )

    def _loader(self, part: int, trials: int, shuffle: bool = False) -> datasets.BatchLoader:
        generator = torch.Generator().manual_seed(datasets.mix(self.seed, part))
        spikes, labels = datasets.rate_patterns(
            trials, self.inputs, self.steps, dt=1e-3, rate=self.rate, generator=generator
        )
        return datasets.BatchLoader(spikes, labels, self.batch_size, shuffle=shuffle, seed=self.seed)

    def decode(self, output: Tensor) -> Tensor:
        return decoding.spike_count(output) if self.readout == "spikes" else decoding.mean_over_time(output)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(self.decode(output), target)


def rate_patterns() -> RatePatterns:
    """The configuration of the recipe ``rate-patterns``."""
    return RatePatterns()
