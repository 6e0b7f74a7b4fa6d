"""Spikes that arrive after whole steps, one by one: for inputs that are nearly all zeros."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

LARGEST = 2**22  # arrivals that are looked at together


class Part(NamedTuple):
    """Some of the events, and where they arrive.

    Args:
        place: [E, M], into the raster of arrivals as one axis; what arrives past its end has the place behind the last.
        channel: [E].
        value: [E], or None where all are 1.
        events: which of the events these are.
    """

    place: Tensor
    channel: Tensor
    value: Tensor | None
    events: slice


class Arrivals:
    """Events among inputs that wait, each with an arrival at M neurons.

    Args:
        flat: [E] places of events in `waiting` [K + T, B, N] as one axis.
        value: [E], or None where all are 1.
        shape: of `waiting`.
        delays: in whole steps, [M, N], or [1, N] where all synapses of an axon share theirs.
        most: K.
        neurons: M.
    """

    def __init__(self, flat: Tensor, value: Tensor | None, shape: torch.Size, delays: Tensor, most: int, neurons: int):
        self.flat, self.value, self.delays, self.most, self.neurons = flat, value, delays, most, neurons
        self.events, self.batch, self.channels = shape
        self.shape = (self.events - most, self.batch, neurons)

    def parts(self) -> Iterator[Part]:
        count = max(1, LARGEST // max(1, self.neurons))
        neuron = torch.arange(self.neurons, device=self.flat.device)
        for start in range(0, len(self.flat), count):
            these = slice(start, start + count)
            index = self.flat[these].long()
            step, sample = index // (self.batch * self.channels), index // self.channels % self.batch
            channel = index % self.channels
            step = (step - self.most)[:, None] + self.delays.t()[channel]
            place = (step * self.batch + sample[:, None]) * self.neurons + neuron
            behind = self.shape[0] * self.batch * self.neurons
            place = torch.where((step < 0) | (step >= self.shape[0]), behind, place)
            yield Part(place, channel, None if self.value is None else self.value[these], these)

    def sum(self, weight: Tensor) -> Tensor:
        """The raster of arrivals [T, B, M] through weights [M, N]."""
        total = torch.zeros(torch.Size(self.shape).numel() + 1, dtype=weight.dtype, device=weight.device)
        for part in self.parts():
            each = weight.t()[part.channel]
            each = each if part.value is None else each * part.value[:, None].to(each)
            total.index_add_(0, part.place.flatten(), each.flatten())
        return total[:-1].reshape(self.shape)

    def by_synapse(self, raster: Tensor) -> Tensor:
        """Sums of a raster [T, B, M] over the arrivals at each synapse, [M, N]."""
        total = torch.zeros(self.channels, self.neurons, dtype=raster.dtype, device=raster.device)
        line = _with_zero(raster)
        for part in self.parts():
            each = line[part.place]
            each = each if part.value is None else each * part.value[:, None].to(each)
            total.index_add_(0, part.channel, each)
        return total.t()

    def by_event(self, raster: Tensor, weight: Tensor) -> Tensor:
        """Sums of a raster [T, B, M] times weights [M, N] over the arrivals of each event, [E]."""
        found = torch.zeros(len(self.flat), dtype=raster.dtype, device=raster.device)
        line = _with_zero(raster)
        for part in self.parts():
            found[part.events] = (line[part.place] * weight.t()[part.channel].to(line)).sum(-1)
        return found


def _with_zero(raster: Tensor) -> Tensor:
    return torch.cat([raster.reshape(-1), raster.new_zeros(1)])
