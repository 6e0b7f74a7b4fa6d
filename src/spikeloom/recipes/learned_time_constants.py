"""MNIST through constant-current encoders and 100 recurrent neurons that learn their time constants and thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikeloom import datasets, decoding, encoding, initializers
from spikeloom.distributions import LogNormal
from spikeloom.events import Events
from spikeloom.gradients import BPTT, EventProp
from spikeloom.network import Dropout, Layer, Sequential
from spikeloom.neurons import LI, CubaLI, CubaLIF
from spikeloom.surrogates import SuperSpike
from spikeloom.training.experiment import Experiment, Schedule, Splits


@dataclass(kw_only=True)
class LearnedTimeConstants(Experiment):
    """MNIST, each pixel a neuron driven by a constant current; 784-100-10 with recurrence, neuron parameters learned.

    A pixel p drives a leaky integrate-and-fire neuron with the current (p - 0.1307) / 0.3081, and its spikes are the
    input. Each of the recurrent neurons, none of which feeds itself, has a tau_mem and a threshold of its own, drawn
    from log-normal distributions and learned. The outputs are leaky integrators; the class is the one that rises
    highest, or with loss_function=mean the one that is highest on average.

    Arguments:
        rule: "bptt" for surrogate gradients, "eventprop" for exact ones.
        epsilon: of `EventProp`, the least slope of a membrane that fires, in parts of the threshold.
        loss_function: "cross_entropy" of the highest membrane potentials, or "mean" for that of their means over time.
        learned: train tau_mem and v_th of each recurrent neuron, or else leave them as they were drawn.
        hidden: number of recurrent neurons.
        steps: time steps T of 1 ms.
        tau_mem: median of the recurrent neurons' membrane time constants in seconds.
        threshold: median of their thresholds.
        spread: standard deviation of the logarithm of both.
        tau_readout: membrane time constant of the outputs in seconds.
        tau_synapse: synaptic time constant of the outputs in seconds; 0 for none, which EventProp cannot differentiate,
            for there a spike moves the membrane itself.
        width: width of the surrogate.
        gain: standard deviation that the input gives the membrane potential before training, in medians of the
            threshold.
        dropout: part of the pixels that are dropped in training, drawn anew for each sample of each batch.
        images: use the first so many training images, and as many test images at most.
        shift: images are moved by up to so many pixels each way in training, drawn anew for each sample.
    """

    name: ClassVar[str] = "learned-time-constants"
    positive: ClassVar[tuple[str, ...]] = (
        "epsilon",
        "hidden",
        "steps",
        "tau_mem",
        "threshold",
        "tau_readout",
        "width",
        "gain",
        "images",
    )
    parts: ClassVar[tuple[str, ...]] = ("dropout",)

    epochs: int = 12
    batch_size: int = 128
    lr: float = 5e-3
    time_constant_lr: float | None = 1e-2
    schedule: Schedule = "cosine"
    threads: int = 1

    rule: Literal["bptt", "eventprop"] = "bptt"
    epsilon: float = 3.0
    loss_function: Literal["cross_entropy", "mean"] = "cross_entropy"
    learned: bool = True
    hidden: int = 100
    steps: int = 32
    tau_mem: float = 20e-3
    threshold: float = 0.5
    spread: float = 0.2
    tau_readout: float = 20e-3
    tau_synapse: float = 0.0
    width: float = 0.1
    gain: float = 1.0
    dropout: float = 0.0
    images: int = 60_000
    shift: int = 1

    def check(self) -> None:
        super().check()
        if not 0 <= self.spread < 2 or not 0 <= self.shift < 28:
            raise ValueError(
                f"{self.name} got spread={self.spread}, shift={self.shift}; expected a spread from 0 to below 2 and a "
                "shift from 0 to 27 pixels."
            )
        if self.tau_synapse < 0 or (self.rule == "eventprop" and not self.tau_synapse):
            raise ValueError(
                f"{self.name} got rule={self.rule} and tau_synapse={self.tau_synapse:g}; EventProp needs outputs with "
                "a synapse: write tau_synapse=0.005."
            )

    def gradient(self) -> EventProp | BPTT:
        return EventProp(epsilon=self.epsilon) if self.rule == "eventprop" else BPTT()

    def network(self) -> nn.Module:
        neuron = CubaLIF(
            self.hidden,
            tau_mem=LogNormal(self.tau_mem, self.spread),
            tau_syn=5e-3,
            v_th=LogNormal(self.threshold, self.spread),
            learn=("tau_mem", "v_th") if self.learned else (),
        )
        hidden = Layer(
            nn.Linear(784, self.hidden, bias=False),
            neuron,
            recurrent=nn.Linear(self.hidden, self.hidden, bias=False),
            self_connections=False,
            surrogate=SuperSpike(width=self.width),
        )
        # A fifth of the pixels fire, every fifth step or so: 35 spikes per second on average.
        initializers.fluctuation_driven_(hidden, rate=35.0, membrane_std=self.gain * self.threshold)
        second = nn.Linear(self.hidden, 10, bias=False)
        initializers.scaled_normal_(second.weight, 1.0)
        tau = self.tau_readout
        output = CubaLI(10, tau_mem=tau, tau_syn=self.tau_synapse) if self.tau_synapse else LI(10, tau_mem=tau)
        return Sequential(Dropout(self.dropout), hidden, Layer(second, output), dt=1e-3)

    def data(self, data_dir: str | Path | None = None) -> Splits:
        train, test = datasets.mnist(data_dir, train=True), datasets.mnist(data_dir, train=False)
        return Splits.of(self._loader, train[: self.images], test[: self.images], self.validation)

    def _loader(self, images: datasets.Images, shuffle: bool = False) -> datasets.BatchLoader:
        levels = (torch.arange(256) / 255 - 0.1307) / 0.3081
        encode = GreyLevels(encoding.constant_current(levels[:, None], self.steps)[:, :, 0])

        def moved(pixels: Tensor) -> Events:
            return encode(datasets.shifted(pixels, self.shift))

        return datasets.BatchLoader(
            images.images,
            images.labels,
            self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            transform=moved if shuffle and self.shift else encode,
        )

    def decode(self, output: Tensor) -> Tensor:
        if self.loss_function == "mean":
            return decoding.mean_over_time(output)
        return decoding.max_over_time(output)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(self.decode(output), target)


class GreyLevels:
    """Spikes of images whose pixels have few levels: each level's spike train is computed once and looked up.

    Arguments:
        trains: spikes [T, levels], 0 or 1.

    Returns (from a call with integer images [B, *N]):
        Events [T, B, pixels].
    """

    def __init__(self, trains: Tensor) -> None:
        level, self.times = trains.T.nonzero(as_tuple=True)
        self.steps, self.counts = len(trains), torch.bincount(level, minlength=trains.shape[1])
        self.starts = self.counts.cumsum(0) - self.counts

    def __call__(self, images: Tensor) -> Events:
        levels = images.flatten(1).long()
        sample, pixel = (self.counts[levels] > 0).nonzero(as_tuple=True)
        found = levels[sample, pixel]
        counts = self.counts[found]
        # Spike number k of the batch belongs to active pixel `owner`, and is its spike number `within`.
        owner = torch.repeat_interleave(torch.arange(len(found)), counts)
        within = torch.arange(len(owner)) - (counts.cumsum(0) - counts)[owner]
        times = self.times[self.starts[found][owner] + within]
        return Events.from_coordinates(times, sample[owner], pixel[owner], shape=(self.steps, *levels.shape))


def learned_time_constants() -> LearnedTimeConstants:
    """The configuration of the recipe ``learned-time-constants``."""
    return LearnedTimeConstants()
