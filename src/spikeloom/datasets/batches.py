"""Batches cut from a whole data set with one index tensor, in an order that a seed and an epoch fix."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from spikeloom.events import Events


class EpochSampler:
    """The order of the samples in each epoch: a function of the seed and the epoch, and of nothing else.

    So an interrupted run that begins an epoch again meets the same batches. `set_epoch` is the protocol of torch's
    DistributedSampler; Lightning calls it at the start of each epoch.

    Arguments:
        samples: number of samples.
        shuffle: a new order in each epoch, or else the stored order.
        seed: which sequence of orders.

    >>> import spikeloom as sl
    >>> sampler = sl.datasets.EpochSampler(5, shuffle=True, seed=1)
    >>> first = sampler.order()
    >>> sampler.set_epoch(1)
    >>> bool((sampler.order() == first).all())
    False
    """

    def __init__(self, samples: int, shuffle: bool = False, seed: int = 0) -> None:
        self.samples, self.shuffle, self.seed, self.epoch = samples, shuffle, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0, whose order comes next."""
        self.epoch = epoch

    def order(self) -> torch.Tensor:
        """The int64 indices [samples] of this epoch."""
        if not self.shuffle:
            return torch.arange(self.samples)
        generator = torch.Generator().manual_seed(mix(self.seed, self.epoch))
        return torch.randperm(self.samples, generator=generator)


class BatchLoader:
    """Batches of inputs and targets, each cut with one index tensor: for data that fits in memory.

    Samples are not fetched and collated one by one, which for sparse events is what takes the time. One pass is one
    epoch; the order is fixed by the seed and by `sampler.set_epoch(epoch)`.

    Arguments:
        inputs: Events [T, samples, *N], or a tensor whose axis `input_axis` counts the samples.
        targets: tensor whose axis `target_axis` counts the samples, for example int64 labels [samples].
        batch_size: samples in a batch; the last one may be smaller.
        shuffle: a new order in each epoch.
        seed: which sequence of orders.
        transform: applied to the inputs of each batch: an encoder, or random noise drawn from torch's own generator.
        input_axis: 0 for images and the like, 1 for dense rasters [T, samples, *N]. Events need no axis.
        target_axis: 0 for labels, 1 for target series [T, samples, *N].

    Returns:
        Pairs (inputs, targets) of a batch; Events stay Events.

    Raises:
        ValueError: if inputs and targets differ in their number of samples, or `batch_size` is not positive.

    >>> import torch, spikeloom as sl
    >>> loader = sl.datasets.BatchLoader(torch.rand(10, 3), torch.arange(10), batch_size=4)
    >>> [len(targets) for inputs, targets in loader], len(loader)
    ([4, 4, 2], 3)
    """

    def __init__(
        self,
        inputs: Events | torch.Tensor,
        targets: torch.Tensor,
        batch_size: int = 128,
        *,
        shuffle: bool = False,
        seed: int = 0,
        transform: Callable[[Any], Any] | None = None,
        input_axis: int = 0,
        target_axis: int = 0,
    ) -> None:
        samples = len(inputs) if isinstance(inputs, Events) else inputs.shape[input_axis]
        if samples != targets.shape[target_axis]:
            raise ValueError(
                f"BatchLoader got {samples} inputs and {targets.shape[target_axis]} targets; expected one target for "
                "each input. Dense rasters [T, samples, *N] need input_axis=1, target series target_axis=1."
            )
        if batch_size < 1:
            raise ValueError(f"BatchLoader got batch_size={batch_size}; expected 1 or more, for example 128.")
        self.inputs, self.targets, self.batch_size, self.transform = inputs, targets, batch_size, transform
        self.input_axis, self.target_axis = input_axis, target_axis
        self.sampler = EpochSampler(samples, shuffle, seed)
        self.batch_sampler = None  # as in a torch DataLoader that does not batch by itself; Lightning asks for it

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return math.ceil(self.sampler.samples / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Any, torch.Tensor]]:
        # The order is asked for with the first batch, not with the iterator: Lightning sets the epoch in between.
        for index in self.sampler.order().split(self.batch_size):
            yield self.batch(index)

    def batch(self, index: torch.Tensor) -> tuple[Any, torch.Tensor]:
        """The inputs and targets of the samples that an int64 tensor [B] of indices picks."""
        if isinstance(self.inputs, Events):
            inputs = self.inputs[index]
        else:
            inputs = self.inputs.index_select(self.input_axis, index)
        if self.transform is not None:
            inputs = self.transform(inputs)
        return inputs, self.targets.index_select(self.target_axis, index)


def mix(seed: int, epoch: int) -> int:
    """One seed from two numbers, so that (seed 1, epoch 0) and (seed 0, epoch 1) share nothing.

    >>> from spikeloom.datasets.batches import mix
    >>> len({mix(seed, epoch) for seed in range(50) for epoch in range(50)})
    2500
    """
    # The finaliser of SplitMix64 (Steele, Lea and Flood 2014), kept to the 63 bits that torch's seeds can have.
    value = (seed * 0x9E3779B97F4A7C15 + (epoch + 1) * 0xD1B54A32D192ED03) & (2**64 - 1)
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (value ^ (value >> 31)) >> 1
