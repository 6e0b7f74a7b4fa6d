"""What to train: settings, data, network, loss and decoding in one dataclass. Recipes are its subclasses."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import nn

from spikeloom.connections import anneal_delays
from spikeloom.datasets import Images
from spikeloom.datasets.batches import BatchLoader
from spikeloom.network import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Optimiser = Literal["adam", "adamw", "adamax", "sgd"]
Schedule = Literal["constant", "cosine", "linear", "exponential"]


@dataclass(frozen=True)
class Splits:
    """The parts of a data set: `train` to learn from, `validation` to choose settings by, `test` to look at once.

    Arguments:
        train: batches for learning, shuffled.
        test: batches that nothing is chosen by.
        validation: batches held out of the training data, or None.
        classes: the names of the classes, or None if the task is not a classification.
    """

    train: BatchLoader
    test: BatchLoader
    validation: BatchLoader | None = None
    classes: tuple[str, ...] | None = None

    @classmethod
    def of(cls, load: Callable[..., BatchLoader], train: Images, test: Images, validation: float) -> Splits:
        """Batches of images, with a part of the training set held out; `load(images, shuffle=False)` makes batches."""
        held_out = None
        if validation:
            train, held_out = train.hold_out(validation)
        return cls(load(train, shuffle=True), load(test), load(held_out) if held_out else None, test.classes)


@dataclass(kw_only=True)
class Experiment(ABC):
    """Everything that decides a training run. Subclass it with more settings and the four methods below.

    Every field is a setting that the command line can override (``--set lr=0.01``); a field's type says how its text
    is read, and a ``Literal`` lists its choices.

    Arguments:
        epochs: passes over the training data.
        batch_size: samples in a batch.
        lr: learning rate of the weights, at its highest.
        time_constant_lr: learning rate of time constants and delays; as `lr` if None.
        weight_decay: weight decay, for weights only.
        optimiser: which of torch's optimisers.
        schedule: how the learning rate falls, batch by batch: not at all, as half a cosine wave, in a line to zero,
            or exponentially to 0.6 % (0.95 an epoch, where there are 100).
        gradient_clip: the gradient's norm is cut to this; 0 for no limit.
        validation: part of the training data to hold out, 0 for none. Choose settings by it, never by the test set.
        patience: stop after so many epochs without a better validation loss; 0 to train for all epochs.
        test: look at the test set, once, after the last epoch. Turn it off while choosing settings.
        seed: fixes the initial weights, the order of the samples and all noise.
        seeds: train so many times, with seed, seed + 1, ..., and report mean and spread.
        threads: CPU threads of torch; 0 leaves it to torch. Small networks are fastest with 1. Sums may round
            differently with another number, so that runs are equal bit for bit only if this is equal too.
    """

    name: ClassVar[str] = "experiment"
    # Settings of a recipe's own that must be above 0, and those that must lie from 0 to 1.
    positive: ClassVar[tuple[str, ...]] = ()
    parts: ClassVar[tuple[str, ...]] = ()
    # What the network records in training, for `activity_cost`; without a name there is none.
    record: ClassVar[tuple[str, ...]] = ()

    epochs: int = 10
    batch_size: int = 128
    lr: float = 1e-3
    time_constant_lr: float | None = None
    weight_decay: float = 0.0
    optimiser: Optimiser = "adam"
    schedule: Schedule = "constant"
    gradient_clip: float = 0.0
    validation: float = 0.0
    patience: int = 0
    test: bool = True
    seed: int = 0
    seeds: int = 1
    threads: int = 0

    @abstractmethod
    def network(self) -> nn.Module:
        """The network before training. Called after torch's generator is seeded with `seed`."""

    def gradient(self) -> Any:
        """The gradient rule, as `spikeloom.run` takes it; None for its default."""
        return None

    def anneal(self, network: nn.Module, done: float) -> None:
        """Called before each training batch with the part of the training that is done, 0 to 1: make the delays'
        Gaussians narrower, where there are any."""
        anneal_delays(network, done)

    def activity_cost(self, run: Run, target: torch.Tensor) -> torch.Tensor:
        """What a training batch costs beside its loss, from its run with the names in `record`."""
        return torch.zeros(())

    @abstractmethod
    def data(self, data_dir: str | Path | None = None) -> Splits:
        """The data; files are looked for in `data_dir`, or where `spikeloom.datasets.data_directories` says."""

    @abstractmethod
    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """A scalar to make small, from the network's output [T, B, *N] and the batch's targets."""

    def decode(self, output: torch.Tensor) -> torch.Tensor:
        """Scores [B, classes], the highest of which is the prediction, from the network's output [T, B, classes].

        Where each step has a label, the scores are [T, classes, B] for targets [T, B].
        """
        return output.amax(0)

    def penalty(self, network: nn.Module) -> torch.Tensor | None:
        """A scalar that training adds to the loss, a cost on the network's parameters; None for none."""
        return None

    def findings(self, network: nn.Module, splits: Splits) -> Mapping[str, float]:
        """Numbers beyond loss and accuracy, measured once on the trained network."""
        return {}

    def figures(self, before: nn.Module, after: nn.Module, splits: Splits) -> Sequence[Figure]:
        """Pictures of the recipe's own for the report, from the network before and after training."""
        return ()

    def trials(self) -> Sequence[tuple[str, Experiment]]:
        """The runs that this experiment stands for, with a name each: one for each seed."""
        if self.seeds == 1:
            return [("", self)]
        return [(f"seed-{s}", replace(self, seed=s, seeds=1)) for s in range(self.seed, self.seed + self.seeds)]

    def check(self) -> None:
        """Raise ValueError, with a sentence, if settings are out of range or do not go together."""
        for key in ("epochs", "batch_size", "seeds", "lr", *self.positive):
            value = getattr(self, key)
            if not 0 < value < math.inf:
                raise ValueError(f"{self.name} got {key}={value}; expected a number above 0.")
        for key in self.parts:
            value = getattr(self, key)
            if not 0 <= value <= 1:
                raise ValueError(f"{self.name} got {key}={value}; expected a number from 0 to 1.")
        if self.threads < 0:
            raise ValueError(
                f"{self.name} got threads={self.threads}; expected 1 or more, or 0 for torch's own choice."
            )
        if not 0 <= self.validation < 1:
            raise ValueError(f"{self.name} got validation={self.validation}; expected a part from 0 to below 1.")
        if self.patience and not self.validation:
            raise ValueError(
                f"{self.name} got patience={self.patience} without validation data: write validation=0.1 as well, "
                "for the test set must not decide when to stop."
            )
