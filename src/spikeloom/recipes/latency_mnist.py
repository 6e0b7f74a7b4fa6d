"""MNIST as first-spike times: each pixel spikes at most once, the earlier the brighter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikeloom import datasets, decoding, encoding, losses
from spikeloom.events import Events
from spikeloom.gradients import BPTT, EventProp
from spikeloom.network import Layer, Sequential
from spikeloom.neurons import LI, CubaLI, CubaLIF
from spikeloom.surrogates import SuperSpike
from spikeloom.training.experiment import Experiment, Schedule, Splits

SIDE = 28  # pixels


@dataclass(kw_only=True)
class LatencyMnist(Experiment):
    """MNIST with one spike per pixel, 784-128-10, trained with surrogate gradients.

    A pixel p in [0, 1) spikes at step floor((1 - p) T); pixels under the threshold stay silent. Spikes stay events from
    the encoder to the network. The outputs are leaky integrators, and the class is the one that rises highest; with
    loss_function=spike_count the outputs fire, with the target of SLAYER, 100 spikes for the right class and 10 for
    the others, and the class is the one that fires most, which is the weaker recipe.

    Arguments:
        loss_function: "cross_entropy" of the highest membrane potentials, or "spike_count".
        learned: train tau_mem, tau_syn and v_th of each hidden neuron too, or else the weights alone.
        hidden: number of hidden neurons.
        steps: time steps T of 1 ms.
        threshold: pixels below it are silent.
        tau_mem: membrane time constant of the hidden neurons in seconds.
        tau_readout: time constant of the outputs in seconds.
        width: width of the surrogate.
        spike_dropout: part of the input spikes that are dropped in training, drawn anew for each batch.
        shift: images are moved by up to so many pixels each way in training, drawn anew for each sample.
    """

    name: ClassVar[str] = "latency-mnist"
    positive: ClassVar[tuple[str, ...]] = ("hidden", "steps", "tau_mem", "tau_readout", "width")
    parts: ClassVar[tuple[str, ...]] = ("threshold", "spike_dropout")

    epochs: int = 12
    batch_size: int = 64
    lr: float = 2e-2
    schedule: Schedule = "cosine"
    threads: int = 1

    rule: Literal["bptt", "eventprop"] = "bptt"
    loss_function: Literal["cross_entropy", "spike_count"] = "cross_entropy"
    learned: bool = True
    hidden: int = 128
    steps: int = 100
    window: int = 0
    dt: float = 1e-3
    threshold: float = 0.25
    mean: float = 0.0
    deviation: float = 0.6
    out_mean: float = 0.0
    out_deviation: float = 0.3
    tau_mem: float = 20e-3
    tau_readout: float = 100e-3
    synapse: float = 0.0
    width: float = 0.1
    spike_dropout: float = 0.0
    shift: int = 1

    def check(self) -> None:
        super().check()
        if not 0 <= self.shift < SIDE:
            raise ValueError(f"{self.name} got shift={self.shift}; expected 0 to {SIDE - 1} pixels.")

    def gradient(self) -> EventProp | BPTT:
        return EventProp() if self.rule == "eventprop" else BPTT()

    def network(self) -> nn.Module:
        first, second = nn.Linear(784, self.hidden, bias=False), nn.Linear(self.hidden, 10, bias=False)
        nn.init.normal_(first.weight, self.mean, self.deviation)
        nn.init.normal_(second.weight, self.out_mean, self.out_deviation)
        surrogate = SuperSpike(width=self.width)
        own: dict[str, Any] = {name: torch.full((self.hidden,), value) for name, value in self._initial().items()}
        hidden = CubaLIF(self.hidden, learn=tuple(own) if self.learned else (), **own)
        firing = self.loss_function == "spike_count"
        if self.synapse:
            output = CubaLI(10, tau_mem=self.tau_readout, tau_syn=self.synapse)
        else:
            output = CubaLIF(10, tau_mem=20e-3, tau_syn=5e-3) if firing else LI(10, tau_mem=self.tau_readout)
        return Sequential(
            Layer(first, hidden, surrogate=surrogate), Layer(second, output, surrogate=surrogate), dt=self.dt
        )

    def _initial(self) -> dict[str, float]:
        return {"tau_mem": self.tau_mem, "tau_syn": 5e-3, "v_th": 1.0}

    def data(self, data_dir: str | Path | None = None) -> Splits:
        train, test = datasets.mnist(data_dir, train=True), datasets.mnist(data_dir, train=False)
        return Splits.of(self._loader, train, test, self.validation)

    def _loader(self, images: datasets.Images, shuffle: bool = False) -> datasets.BatchLoader:
        spikes = encoding.latency(images.intensities.flatten(1), self.window or self.steps, threshold=self.threshold)
        spikes = Events.from_coordinates(spikes.time, spikes.batch, spikes.channel, shape=(self.steps, *spikes.shape[1:]))
        return datasets.BatchLoader(
            spikes,
            images.labels,
            self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            transform=self._disturb if shuffle else None,
        )

    def _disturb(self, spikes: Events) -> Events:
        """Spikes of moved images, some dropped: what training sees."""
        down, across = torch.randint(-self.shift, self.shift + 1, (2, len(spikes)))
        row, column = spikes.channel // SIDE + down[spikes.batch], spikes.channel % SIDE + across[spikes.batch]
        keep = (row >= 0) & (row < SIDE) & (column >= 0) & (column < SIDE)
        keep &= torch.rand(spikes.total) >= self.spike_dropout
        channel = (SIDE * row + column)[keep]
        return Events.from_coordinates(spikes.time[keep], spikes.batch[keep], channel, shape=spikes.shape)

    def decode(self, output: Tensor) -> Tensor:
        if self.loss_function == "spike_count":
            return decoding.spike_count(output)
        return decoding.max_over_time(output)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        if self.loss_function == "spike_count":
            return losses.spike_count_mse(output, target, true_count=100, false_count=10)
        return F.cross_entropy(self.decode(output), target)


def latency_mnist() -> LatencyMnist:
    """The configuration of the recipe ``latency-mnist``."""
    return LatencyMnist()
