"""Where a raster is not zero: what stays of spikes between the passes."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..engine import memory
from ..engine.rows import Rows


class Places(NamedTuple):
    """The places of a raster [T, B, *N] that are not zero.

    Args:
        flat: [K], ascending, into the raster as one axis; int32 where that suffices.
        value: [K], or None where all are 1.
        shape: the raster's.
    """

    flat: Tensor
    value: Tensor | None
    shape: torch.Size

    @classmethod
    def of(cls, raster: Tensor) -> "Places":
        line = raster.detach().reshape(-1)
        if line.device.type == "cpu":
            flat = torch.from_numpy(np.flatnonzero(_nonzero(line)))
        else:
            flat = line.nonzero().squeeze(1)
        value = line[flat]
        flat = flat.int() if len(line) < 2**31 else flat
        return cls(flat, None if bool((value == 1).all()) else value, raster.shape)

    @property
    def row(self) -> int:
        """Places in a step."""
        return self.shape[1:].numel()

    def reversed(self) -> "Places":
        """The same with time running back; the index no longer ascends."""
        if not self.shape.numel():
            return self
        step = self.flat // self.row
        return self._replace(flat=self.flat + (self.shape[0] - 1 - 2 * step) * self.row)

    @property
    def device(self) -> torch.device:
        return self.flat.device

    @property
    def total(self) -> int:
        """How many there are."""
        return len(self.flat)

    def index_lists(self) -> Rows:
        """The same of a raster [T, B, N] on the CPU, as event-driven products read it."""
        steps, batch, channels = self.shape
        ends = torch.searchsorted(self.flat, torch.arange(steps * batch + 1, dtype=self.flat.dtype) * channels).int()
        shape = (steps, batch, channels)
        return Rows(ends[:-1], ends[1:], (self.flat % channels).int(), self.value, shape, True)

    def dense(self, value: Tensor | None, like: Tensor) -> Tensor:
        """A raster with these values at the places (None: their own), in the precision of `like` and on its device."""
        value = self.value if value is None else value
        size = (self.shape.numel(),)
        if like.device.type == "cpu":
            # Into memory that was used before: fresh pages cost more than what is written to them.
            found = memory.empty(size, like.dtype).zero_()
        else:
            found = torch.zeros(size, dtype=like.dtype, device=like.device)
        found[self.flat.long()] = (
            torch.ones((), dtype=like.dtype, device=like.device) if value is None else value.to(like)
        )
        return found.reshape(self.shape)

    def take(self, raster: Tensor) -> Tensor:
        """What another raster of this shape holds at the places, [K]."""
        return raster.reshape(-1)[self.flat.long()]

    def of_neuron(self, number: Tensor, dtype: torch.dtype) -> Tensor:
        """A neuron's number (one, or [*N]) for each place, [K]."""
        neurons = self.shape[2:]
        wide = number.detach().to(device=self.flat.device, dtype=dtype).expand(neurons).reshape(-1)
        return wide[self.flat.long() % max(1, neurons.numel())]


def count(raster: Tensor) -> int:
    """How many places of a raster are not zero."""
    return int(np.count_nonzero(_nonzero(raster)) if raster.device.type == "cpu" else torch.count_nonzero(raster))


def _nonzero(raster: Tensor) -> np.ndarray:
    """On booleans NumPy is many times as fast as on numbers, and as torch."""
    raster = raster.detach()
    # Of half precision NumPy knows one kind of two.
    return (raster != 0).numpy() if raster.dtype == torch.bfloat16 else raster.numpy() != 0
