"""Spike trains of a batch as events (time, batch, channel[, value]) instead of a raster that is nearly all zeros.

Only times, channels and one offset per sample are stored (8 bytes an event): the batch index follows from the offsets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .engine.rows import Rows, rows_of_events
from .event_storage import check_range, first_at, indices, offsets_of, sizes_of, spans, weights

__all__ = ["Events"]


class Events:
    """Sparse spike trains of a batch: x[time[k], batch[k], channel[k]] = value[k], and 0 elsewhere.

    Events are immutable and kept in one canonical order, by (batch, time, channel). Make them with `Events.from_dense`,
    `Events.from_coordinates` or `Events.from_lists`: the constructor takes storage that is canonical, unchecked.

    Slicing is along the batch and copies: `events[3:7]`, `events[[5, 2, 2]]`, `events[tensor]` (any order, repeats
    allowed) or a boolean mask of length B. `events[4]` keeps the batch axis: it is a batch of one. So minibatches need
    no collate function:

        for index in torch.randperm(len(events)).split(256):
            output, state = net(events[index])

    and in a `DataLoader`, `TensorDataset(torch.arange(len(events)), labels)` carries the indices.

    Events carry no gradient: an input that requires one must go in as a dense tensor.

    Args:
        time: [nnz] int32, step indices in 0 .. T-1.
        channel: [nnz] int32, flat indices into the channel axes N.
        offsets: [B + 1] int64, events offsets[b] .. offsets[b + 1] belong to sample b.
        value: [nnz] float, or None where every event weighs 1.
        shape: (T, B, *N).

    >>> import torch, spikeloom as sl
    >>> events = sl.Events.from_coordinates([0, 2, 2], [0, 1, 0], [3, 0, 1], shape=(4, 2, 5))
    >>> events
    Events(T=4, B=2, N=(5,), 3 events, density 0.075, 1.5 events per sample, device=cpu)
    >>> events[1].to_dense().squeeze(1)[:, 0]
    tensor([0., 0., 1., 0.])
    """

    def __init__(
        self, time: Tensor, channel: Tensor, offsets: Tensor, value: Tensor | None, shape: Sequence[int]
    ) -> None:
        self._time, self._channel, self._offsets, self._value = time, channel, offsets, value
        self._shape = tuple(int(size) for size in shape)
        self._rows: tuple[Tensor, Tensor, Tensor | None] | None = None
        self._cuts: dict[int, Tensor] = {}
        self._lists: Rows | None = None

    @classmethod
    def from_coordinates(
        cls, time: Any, batch: Any, channel: Any, value: Any = None, *, shape: Sequence[int]
    ) -> Events:
        """Events from index vectors in any order.

        Args:
            time: [nnz] integers in 0 .. T-1, the step of each event.
            batch: [nnz] integers in 0 .. B-1.
            channel: [nnz] integers in 0 .. prod(N)-1, flat (row-major) over the channel axes.
            value: [nnz] finite weights, or None for 1 each. Events at one place stay apart; `to_dense` adds them.
            shape: (T, B, *N).

        Raises:
            TypeError: an index vector is not of whole numbers.
            ValueError: lengths differ, an index is out of range, a value is not finite or requires a gradient.

        >>> import spikeloom as sl
        >>> sl.Events.from_coordinates([1, 0], [0, 0], [2, 2], [0.5, 2.0], shape=(2, 1, 3)).to_dense()[:, 0]
        tensor([[0.0000, 0.0000, 2.0000],
                [0.0000, 0.0000, 0.5000]])
        """
        steps, samples, channels = sizes_of(shape)
        time, batch, channel = (
            indices(x, name) for x, name in ((time, "time"), (batch, "batch"), (channel, "channel"))
        )
        if value is not None:
            value = weights(value, time.device)
        sizes = {
            name: len(x)
            for name, x in (("time", time), ("batch", batch), ("channel", channel), ("value", value))
            if x is not None
        }
        if len(set(sizes.values())) > 1:
            raise ValueError(f"Events need index vectors of one length, got {sizes}.")
        for x, name, size in ((time, "time", steps), (batch, "batch", samples), (channel, "channel", channels)):
            check_range(x, name, size, tuple(shape))
        key = (batch * steps + time) * channels + channel
        if len(key) > 1 and bool((key[1:] < key[:-1]).any()):
            order = torch.argsort(key, stable=True)
            time, batch, channel = time[order], batch[order], channel[order]
            value = None if value is None else value[order]
        offsets = offsets_of(torch.bincount(batch, minlength=samples))
        return cls(time.int(), channel.int(), offsets, value, shape)

    @classmethod
    def from_dense(cls, raster: Tensor) -> Events:
        """Events from a raster [T, B, *N]: one event wherever it is not zero, with that value (None if all are 1).

        Raises:
            ValueError: fewer than two axes, an entry that is not finite, or a raster that requires a gradient.

        >>> import torch, spikeloom as sl
        >>> sl.Events.from_dense(torch.eye(3).unsqueeze(1)).channel
        tensor([0, 1, 2])
        """
        if raster.ndim < 2:
            raise ValueError(f"Events.from_dense expects a raster [T, B, *N], got shape {tuple(raster.shape)}.")
        if raster.requires_grad:
            raise ValueError("Events carry no gradient, but this raster requires one: pass raster.detach().")
        _, samples, channels = sizes_of(raster.shape)
        by_sample = raster.reshape(raster.shape[0], samples, channels).transpose(0, 1)
        batch, time, channel = by_sample.nonzero(as_tuple=True)
        value = by_sample[batch, time, channel]
        value = None if bool((value == 1).all()) else weights(value, value.device)
        offsets = offsets_of(torch.bincount(batch, minlength=samples))
        return cls(time.int(), channel.int(), offsets, value, raster.shape)

    @classmethod
    def from_lists(cls, samples: Iterable[Sequence[Any]], *, steps: int, channels: int | Sequence[int]) -> Events:
        """Events from one (times, channels) or (times, channels, values) tuple of arrays per sample.

        Args:
            samples: an iterable of B tuples; arrays, tensors or lists, each [n_b], in any order.
            steps: T.
            channels: the number of channels, or the sizes of the channel axes N.

        Raises:
            ValueError: a sample is no such tuple, only some samples have values, or an index is out of range.

        >>> import torch, spikeloom as sl
        >>> sl.Events.from_lists([([0, 3], [1, 1]), ([], [])], steps=4, channels=2).counts()
        tensor([2, 0])
        """
        parts = [tuple(sample) for sample in samples]
        widths = {len(part) for part in parts}
        if not widths <= {2} and not widths <= {3}:
            raise ValueError(
                "Events.from_lists expects every sample as (times, channels), or every sample as "
                f"(times, channels, values), got tuples of length {sorted(widths)}."
            )
        axes = (channels,) if isinstance(channels, int) else tuple(channels)
        columns = [[indices(part[0], "time") for part in parts], [indices(part[1], "channel") for part in parts]]
        for number, (time, channel) in enumerate(zip(*columns)):
            if len(time) != len(channel):
                raise ValueError(
                    f"Sample {number} has {len(time)} times and {len(channel)} channels: give one of each per event."
                )
        time, channel = (torch.cat(column) if column else torch.empty(0, dtype=torch.long) for column in columns)
        batch = torch.repeat_interleave(
            torch.arange(len(parts), device=time.device),
            torch.tensor([len(x) for x in columns[0]], dtype=torch.long, device=time.device),
        )
        value = torch.cat([weights(part[2], time.device) for part in parts]) if widths == {3} else None
        return cls.from_coordinates(time, batch, channel, value, shape=(steps, len(parts), *axes))

    @staticmethod
    def concatenate(parts: Sequence[Events]) -> Events:
        """The samples of several batches as one batch. All must agree in T, N and device, or `ValueError` is raised.

        >>> import torch, spikeloom as sl
        >>> one = sl.Events.from_coordinates([0], [0], [1], shape=(4, 1, 2))
        >>> sl.Events.concatenate([one, one]).shape
        torch.Size([4, 2, 2])
        """
        parts = list(parts)
        kinds = {(part._shape[0], part._shape[2:], str(part.device)) for part in parts}
        if len(kinds) != 1:
            raise ValueError(
                f"Events.concatenate expects batches that agree in (T, N, device), got {sorted(map(str, kinds))}."
            )
        weighted = any(part._value is not None for part in parts)
        return Events(
            torch.cat([part._time for part in parts]),
            torch.cat([part._channel for part in parts]),
            offsets_of(torch.cat([part.counts() for part in parts])),
            torch.cat([part.values() for part in parts]) if weighted else None,
            (parts[0]._shape[0], sum(len(part) for part in parts), *parts[0]._shape[2:]),
        )

    @property
    def shape(self) -> torch.Size:
        """(T, B, *N), the shape of the raster."""
        return torch.Size(self._shape)

    @property
    def time(self) -> Tensor:
        """[nnz] int64, the step of each event."""
        return self._time.long()

    @property
    def batch(self) -> Tensor:
        """[nnz] int64, the sample of each event."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.device), self.counts())

    @property
    def channel(self) -> Tensor:
        """[nnz] int64, the flat channel of each event."""
        return self._channel.long()

    @property
    def value(self) -> Tensor | None:
        """[nnz] float weights, or None where every event weighs 1."""
        return self._value

    def values(self) -> Tensor:
        """[nnz] float weights, ones where `value` is None."""
        return torch.ones(self.total, device=self.device) if self._value is None else self._value

    @property
    def device(self) -> torch.device:
        """Where the events are stored."""
        return self._time.device

    @property
    def total(self) -> int:
        """Number of events in the whole batch."""
        return len(self._time)

    @property
    def density(self) -> float:
        """Events per entry of the raster, total / (T B prod(N)); 0 for an empty raster."""
        return self.total / max(math.prod(self._shape), 1)

    def counts(self) -> Tensor:
        """[B] int64, events per sample."""
        return self._offsets.diff()

    def __len__(self) -> int:
        return self._shape[1]

    def __repr__(self) -> str:
        steps, samples, *axes = self._shape
        size = f"T={steps}, B={samples}, N={tuple(axes)}, {self.total} events, density {self.density:.3g}"
        weighted = "" if self._value is None else ", weighted"
        return f"Events({size}, {self.total / max(samples, 1):.3g} events per sample{weighted}, device={self.device})"

    def equal(self, other: Events) -> bool:
        """Whether both hold the same events on the same shape (a value of None equals ones)."""
        return (
            self._shape == other._shape
            and torch.equal(self._offsets, other._offsets)
            and torch.equal(self._time, other._time)
            and torch.equal(self._channel, other._channel)
            and torch.equal(self.values(), other.values().to(self.values().dtype))
        )

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Events:
        picked = self._picked(index)
        counts = self.counts()[picked]
        offsets = offsets_of(counts)
        # Event k of the result is event k + shift of its sample here.
        shift = torch.repeat_interleave(self._offsets[:-1][picked] - offsets[:-1], counts)
        source = torch.arange(len(shift), device=self.device) + shift
        value = None if self._value is None else self._value[source]
        return Events(
            self._time[source], self._channel[source], offsets, value, (self._shape[0], len(picked), *self._shape[2:])
        )

    def _picked(self, index: int | slice | Sequence[int] | Tensor) -> Tensor:
        """Sample numbers named by an index, as int64 on the events' device."""
        if isinstance(index, slice):
            numbers = range(len(self))[index]
            return torch.arange(len(numbers), device=self.device) * numbers.step + numbers.start
        if isinstance(index, int):
            index = [index]
        picked = torch.as_tensor(index, device=self.device)
        if picked.dtype == torch.bool:
            if picked.shape != (len(self),):
                raise IndexError(
                    f"A mask over {len(self)} samples has shape ({len(self)},), got {tuple(picked.shape)}."
                )
            return picked.nonzero().squeeze(1)
        if picked.numel() == 0:
            return picked.reshape(0).long()
        if picked.ndim > 1 or picked.is_floating_point():
            got = f"got shape {tuple(picked.shape)} of {picked.dtype}"
            raise IndexError(f"Events are indexed along the batch by an integer, a slice or integers in 1-D, {got}.")
        picked = picked.reshape(-1).long()
        outside = picked[(picked < -len(self)) | (picked >= len(self))]
        if len(outside):
            raise IndexError(f"Sample {int(outside[0])} is out of range for a batch of {len(self)} samples.")
        return picked % len(self)

    def to_dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The raster [T, B, *N]; events at the same place add up."""
        steps, samples, channels = sizes_of(self._shape)
        place = (self.time * samples + self.batch) * channels + self._channel
        raster = torch.zeros(steps * samples * channels, dtype=dtype, device=self.device)
        return raster.index_add_(0, place, self.values().to(dtype)).reshape(self._shape)

    def rows(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Compressed rows in time-major order: row = t * B + b.

        Returns:
            ptr: [T * B + 1] int64, row r holds entries ptr[r] .. ptr[r + 1].
            channel: [nnz] int64, ascending in each row.
            value: [nnz] float, or None where every event weighs 1.
        """
        if self._rows is None:
            steps, samples, _ = sizes_of(self._shape)
            row = self.time * samples + self.batch
            order = torch.argsort(row, stable=True)
            ptr = offsets_of(torch.bincount(row, minlength=steps * samples))
            self._rows = ptr, self.channel[order], None if self._value is None else self._value[order]
        return self._rows

    def index_lists(self) -> Rows:
        """Where the events of each step and sample lie in this storage: what event-driven products on the CPU read."""
        if self._lists is None:
            sizes = sizes_of(self._shape)
            self._lists = rows_of_events(self._time, self._channel, self._offsets, self._value, sizes)
        return self._lists

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Events:
        """The same events on another device (self, if they are there already)."""
        if torch.device(device) == self.device:
            return self

        def move(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=non_blocking)

        value = None if self._value is None else move(self._value)
        return Events(move(self._time), move(self._channel), move(self._offsets), value, self._shape)

    def with_channels(self, *axes: int) -> Events:
        """The same events seen with other channel axes N of the same total size.

        >>> import torch, spikeloom as sl
        >>> sl.Events.from_dense(torch.ones(1, 1, 2, 3)).with_channels(6).shape
        torch.Size([1, 1, 6])
        """
        if math.prod(axes) != math.prod(self._shape[2:]):
            raise ValueError(f"Channel axes {self._shape[2:]} cannot be seen as {axes}: their numbers differ.")
        return Events(self._time, self._channel, self._offsets, self._value, (*self._shape[:2], *axes))

    def reversed(self) -> Events:
        """The same events with time running back: step t becomes T - 1 - t.

        >>> import torch, spikeloom as sl
        >>> sl.Events.from_coordinates([0, 1], [0, 0], [2, 3], shape=(4, 1, 5)).reversed().time
        tensor([2, 3])
        """
        time = self._shape[0] - 1 - self.time
        return Events.from_coordinates(time, self.batch, self.channel, self._value, shape=self._shape)

    def between(self, start: int, stop: int) -> Events:
        """The steps from `start` to `stop` - 1 of all samples, as T = stop - start steps.

        >>> import torch, spikeloom as sl
        >>> sl.Events.from_dense(torch.eye(3).unsqueeze(1)).between(1, 3).time
        tensor([0, 1])
        """
        if not 0 <= start <= stop <= self._shape[0]:
            raise ValueError(
                f"Events of {self._shape[0]} steps got between({start}, {stop}); expected 0 <= start <= stop <= T."
            )
        # Cut at the same steps again, as for a second run of a piece, nothing is searched again.
        for step in {start, stop} - self._cuts.keys():
            self._cuts[step] = first_at(self._time, self._offsets, step)
        first, last = self._cuts[start], self._cuts[stop]
        kept = spans(first, last)
        value = None if self._value is None else self._value[kept]
        shape = (stop - start, *self._shape[1:])
        return Events(self._time[kept] - start, self._channel[kept], offsets_of(last - first), value, shape)

    def weighted(self, factor: Tensor) -> Events:
        """The events with their values times `factor` [nnz], those at zero left out.

        >>> import torch, spikeloom as sl
        >>> sl.Events.from_dense(torch.eye(3).unsqueeze(1)).weighted(torch.tensor([2.0, 0.0, 1.0])).value
        tensor([2., 1.])
        """
        value = self.values() * factor
        kept = value != 0
        counts = torch.zeros(len(self), dtype=torch.int64, device=self.device).index_add_(0, self.batch, kept.long())
        return Events(self._time[kept], self._channel[kept], offsets_of(counts), value[kept], self._shape)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": None, "_lists": None, "_cuts": {}}  # the cached rows are cheap to make again


# Plain tensors and tuples are all that is in it, so `torch.load(weights_only=True)` may rebuild it.
torch.serialization.add_safe_globals([Events])
