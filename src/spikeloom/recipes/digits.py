"""The demo: handwritten digits of 8 x 8 pixels as first-spike times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from spikeloom import datasets, decoding, encoding
from spikeloom.network import Dropout, Layer, Sequential
from spikeloom.neurons import LI, CubaLIF
from spikeloom.surrogates import SuperSpike
from spikeloom.training.experiment import Experiment, Schedule, Splits


@dataclass(kw_only=True)
class Digits(Experiment):
    """Each pixel spikes at most once, the earlier the brighter; the class is the output that rises highest.

    A hidden layer of current-based leaky integrate-and-fire neurons, with learned time constants, feeds leaky
    integrators.

    Arguments:
        hidden: number of hidden neurons.
        steps: time steps T of 1 ms.
        dropout: part of the input spikes that are dropped in training.
        width: width of the surrogate.
        folds: cross-validate on so many parts, each the test set once; 0 for the one fixed split of 1,437 to 360.
        fold: which part is the test set.
    """

    name: ClassVar[str] = "digits"

    epochs: int = 40
    batch_size: int = 32
    lr: float = 5e-3
    time_constant_lr: float | None = 5e-3
    schedule: Schedule = "cosine"

    hidden: int = 128
    steps: int = 50
    dropout: float = 0.1
    width: float = 0.2
    m1: float = 0.0
    s1: float = 1.5
    s2: float = 0.2
    folds: int = 0
    fold: int = 0

    def check(self) -> None:
        super().check()
        datasets.check_folds(self.folds, self.fold)

    def network(self) -> nn.Module:
        first, second = nn.Linear(64, self.hidden, bias=False), nn.Linear(self.hidden, 10, bias=False)
        # About 50 inputs spike: their weights add up to a membrane that reaches the threshold of 1 now and then.
        nn.init.normal_(first.weight, self.m1, self.s1)
        nn.init.normal_(second.weight, 0.0, self.s2)
        neuron = CubaLIF(self.hidden, tau_mem=20e-3, tau_syn=5e-3, learn=("tau_mem", "tau_syn"))
        return Sequential(
            Dropout(self.dropout),
            Layer(first, neuron, surrogate=SuperSpike(width=self.width)),
            Layer(second, LI(10, tau_mem=20e-3)),
            dt=1e-3,
        )

    def data(self, data_dir: str | Path | None = None) -> Splits:
        train = datasets.digits(train=True, folds=self.folds, fold=self.fold)
        held_out = None
        if self.validation:
            train, held_out = train.hold_out(self.validation)
        test = datasets.digits(train=False, folds=self.folds, fold=self.fold)
        return Splits(
            self._loader(train, shuffle=True),
            self._loader(test),
            self._loader(held_out) if held_out else None,
            classes=test.classes,
        )

    def _loader(self, images: datasets.Images, shuffle: bool = False) -> datasets.BatchLoader:
        spikes = encoding.latency(images.intensities.flatten(1), self.steps)
        return datasets.BatchLoader(spikes, images.labels, self.batch_size, shuffle=shuffle, seed=self.seed)

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
