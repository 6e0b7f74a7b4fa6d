"""A small experiment for the tests of training, with everything random that training has."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

import spikeloom as sl
from spikeloom.datasets import BatchLoader, rate_patterns
from spikeloom.training import Experiment, Splits


@dataclass(kw_only=True)
class Small(Experiment):
    """Rate patterns with eight inputs, dropout and input noise."""

    name = "small"

    epochs: int = 3
    batch_size: int = 16
    lr: float = 0.05
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    hidden: tuple[int, ...] = (6,)
    noise: float = 0.1

    def network(self) -> nn.Module:
        first, second = nn.Linear(8, self.hidden[0], bias=False), nn.Linear(self.hidden[0], 2, bias=False)
        nn.init.normal_(first.weight, 0.5, 1.0)
        neuron = sl.CubaLIF(self.hidden[0], learn="tau_mem")
        return sl.Sequential(nn.Dropout(0.2), sl.Layer(first, neuron), sl.Layer(second, sl.LI(2)))

    def data(self, data_dir: str | Path | None = None) -> Splits:
        def part(seed: int, trials: int, shuffle: bool = False) -> BatchLoader:
            spikes, labels = rate_patterns(trials, 8, 20, rate=60.0, generator=torch.Generator().manual_seed(seed))
            noisy = (lambda x: x.to_dense() + self.noise * torch.randn(x.shape)) if shuffle else None
            return BatchLoader(spikes, labels, self.batch_size, shuffle=shuffle, seed=self.seed, transform=noisy)

        validation = part(3, 16) if self.validation else None
        return Splits(part(1, 40, shuffle=True), part(2, 50), validation, classes=("first", "second"))

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.decode(output), target)


@dataclass(kw_only=True)
class Folds(Small):
    """Two named trials."""

    def trials(self) -> Sequence[tuple[str, Experiment]]:
        return [("fold-0", Small(epochs=1)), ("fold-1", Small(epochs=1, seed=1))]
