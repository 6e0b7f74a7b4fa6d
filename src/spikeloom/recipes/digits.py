"""The demo: handwritten digits of 8 x 8 pixels as first-spike times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikeloom import datasets, decoding, encoding
from spikeloom.events import Events
from spikeloom.network import Layer, Sequential
from spikeloom.neurons import LI, CubaLIF
from spikeloom.surrogates import SuperSpike
from spikeloom.training.experiment import Experiment, Schedule, Splits


@dataclass(kw_only=True)
class Digits(Experiment):
    """Each pixel that is not black spikes once, the earlier the brighter; the class is the output that rises highest.

    A hidden layer of current-based leaky integrate-and-fire neurons, with learned time constants, feeds leaky
    integrators.

    Arguments:
        hidden: number of hidden neurons.
        steps: time steps T of 1 ms.
        window: steps in which pixels spike; the rest is for the network to answer.
        jitter: standard deviation of the noise on pixels (from 0 to 1) in training, which shifts spikes in time.
        width: width of the surrogate.
        folds: cross-validate on so many parts, each the test set once; 0 for the one fixed split of 1,437 to 360.
        fold: which part is the test set.
    """

    name: ClassVar[str] = "digits"
    positive: ClassVar[tuple[str, ...]] = ("hidden", "width")
    parts: ClassVar[tuple[str, ...]] = ("jitter",)

    epochs: int = 30
    batch_size: int = 64
    lr: float = 1e-2
    time_constant_lr: float | None = 1e-2
    schedule: Schedule = "cosine"
    threads: int = 1

    hidden: int = 256
    steps: int = 32
    window: int = 24
    jitter: float = 0.15
    width: float = 0.5
    folds: int = 0
    fold: int = 0

    def check(self) -> None:
        super().check()
        datasets.check_folds(self.folds, self.fold)
        if not 0 < self.window <= self.steps:
            raise ValueError(f"digits got window={self.window}, steps={self.steps}; expected 0 < window <= steps.")

    def network(self) -> nn.Module:
        first, second = nn.Linear(64, self.hidden, bias=False), nn.Linear(self.hidden, 10, bias=False)
        # Half of the 64 inputs spike, and one spike of weight 1 moves the membrane by 0.16 at most. So with these
        # weights most neurons reach the threshold of 1 for some digits, and none for all.
        nn.init.normal_(first.weight, 0.0, 1.0)
        nn.init.normal_(second.weight, 0.0, 0.2)
        neuron = CubaLIF(self.hidden, tau_mem=20e-3, tau_syn=5e-3, learn=("tau_mem", "tau_syn"))
        return Sequential(
            Layer(first, neuron, surrogate=SuperSpike(width=self.width)),
            Layer(second, LI(10, tau_mem=20e-3)),
            dt=1e-3,
        )

    def data(self, data_dir: str | Path | None = None) -> Splits:
        train = datasets.digits(train=True, folds=self.folds, fold=self.fold)
        test = datasets.digits(train=False, folds=self.folds, fold=self.fold)
        return Splits.of(self._loader, train, test, self.validation)

    def _loader(self, images: datasets.Images, shuffle: bool = False) -> datasets.BatchLoader:
        encode = partial(self._encode, jitter=self.jitter if shuffle else 0.0)
        pixels = images.intensities.flatten(1)
        return datasets.BatchLoader(
            pixels, images.labels, self.batch_size, shuffle=shuffle, seed=self.seed, transform=encode
        )

    def _encode(self, pixels: Tensor, jitter: float) -> Events:
        """A pixel p spikes at step floor((1 - p) window), and a black one never."""
        noisy = (pixels + jitter * torch.randn_like(pixels)).clamp(0, 1) if jitter else pixels
        spikes = encoding.latency(torch.where(pixels > 0, noisy, 0.0), self.window)
        shape = (self.steps, *spikes.shape[1:])  # the steps after the window are silent
        return Events.from_coordinates(spikes.time, spikes.batch, spikes.channel, shape=shape)

    def decode(self, output: Tensor) -> Tensor:
        return decoding.max_over_time(output)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(self.decode(output), target)

    def trials(self) -> Sequence[tuple[str, Experiment]]:
        if not self.folds:
            return super().trials()
        return [(f"fold-{k}", replace(self, fold=k)) for k in range(self.folds)]


def digits() -> Digits:
    """The configuration of the recipe ``digits``."""
    return Digits()
