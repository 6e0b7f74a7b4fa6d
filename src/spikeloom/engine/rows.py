"""Lists of the events of each row of a raster: what event-driven products read."""

import functools
from array import array
from typing import NamedTuple

import torch
from torch import Tensor

from . import memory, threads
from .generated import kernel

FIELDS = (  # as in product_kernels.py, which is imported where Numba is
    *("next", "rows", "chunk", "size", "inner", "outer_step", "inner_step", "dense", "start", "stop", "channel"),
    *("value", "packed", "columns", "tile", "vectors", "width", "begin", "parts", "filled", "room", "note", "slot"),
    *("scratch", "steps", "offsets", "time", "lines", "runs", "kernel", "plane", "last", "per_group", "image"),
    "deep",
)
PLACES = {name: k for k, name in enumerate(FIELDS)}
LARGEST = 2**31 - 1  # lists are of 32-bit integers
SAMPLE = 64  # rows that an estimate looks at


class Rows(NamedTuple):
    """The events of each row (t, b) of a raster.

    Args:
        start, stop: [R] int32; row r holds entries start[r] .. stop[r], ascending in their channel. R = T B.
        channel: [nnz] int32.
        value: [nnz] floats, or None where every event weighs 1.
        shape: (T, B, channels).
        time_first: row r is r = t B + b; or else r = b T + t.
    """

    start: Tensor
    stop: Tensor
    channel: Tensor
    value: Tensor | None
    shape: tuple[int, int, int]
    time_first: bool

    def reversed(self) -> "Rows":
        """The same events with time running back."""
        steps, batch, _ = self.shape
        shape, time = ((steps, batch), 0) if self.time_first else ((batch, steps), 1)
        start, stop = (x.reshape(shape).flip(time).reshape(-1) for x in (self.start, self.stop))
        return self._replace(start=start, stop=stop)

    def to_dense(self, dtype: torch.dtype) -> Tensor:
        """The raster [T, B, channels]; events at one place add up."""
        steps, batch, channels = self.shape
        counts = self.stop.long() - self.start
        row = torch.repeat_interleave(torch.arange(len(counts), device="cpu"), counts)
        entry = torch.arange(len(row), device="cpu") - (counts.cumsum(0) - counts)[row] + self.start[row]
        value = torch.ones(len(row), dtype=dtype, device="cpu") if self.value is None else self.value[entry].to(dtype)
        flat = torch.zeros(len(counts) * channels, dtype=dtype, device="cpu")
        flat.index_add_(0, row * channels + self.channel[entry], value)
        if self.time_first:
            return flat.reshape(steps, batch, channels)
        return flat.reshape(batch, steps, channels).transpose(0, 1)


def rows_of_events(
    time: Tensor, channel: Tensor, offsets: Tensor, value: Tensor | None, shape: tuple[int, int, int]
) -> Rows:
    """Lists of events that are in order of (sample, step): their own storage, and where each row begins in it.

    Args:
        time, channel: [nnz] int32.
        offsets: [B + 1] int64, events offsets[b] .. offsets[b + 1] are sample b's.
        value: [nnz] floats, or None.
        shape: (T, B, channels).
    """
    steps, batch, _ = shape
    ends = torch.empty(steps * batch + 1, dtype=torch.int32, device="cpu")
    ends[-1] = len(time)
    time, offsets, channel = time.contiguous(), offsets.contiguous(), channel.contiguous()
    count = threads.participants(len(time) + steps * batch, batch)
    call(
        *("rows_of_events", count),
        *(("rows", batch), ("steps", steps), ("start", ends), ("time", time), ("offsets", offsets)),
    )
    return Rows(ends[:-1], ends[1:], channel, value, shape, False)


def rows_of_raster(x: Tensor, density: float | None = None) -> Rows:
    """Lists of what is not zero in x [T, B, channels], whose last axis is contiguous.

    Args:
        x: float32 or float64, any strides of time and batch.
        density: an estimate, if there is one already.
    """
    steps, batch, channels = x.shape
    start, stop = (torch.empty(steps * batch, dtype=torch.int32, device="cpu") for _ in range(2))
    density = estimated_density(x) if density is None else density
    room = min(x.numel(), int(1.25 * density * x.numel()) + 16 * channels)
    # Rows whose lists fit in the second cache, whatever their density.
    chunk = max(1, min(256, 65536 // (4 * max(1, channels))))
    count = threads.participants(x.numel(), -(-steps * batch // chunk))
    tile = -(-chunk * channels * 4 // 64) * 64 + 128
    scratch = threads.scratch(tile * count + 64)
    aligned = -(-scratch.data_ptr() // 64) * 64
    while True:
        channel = memory.empty((room,), torch.int32)
        table = call(
            *("rows_of_raster", count, *strided(x, True)),
            *(("rows", steps * batch), ("chunk", chunk), ("columns", channels), ("start", start), ("stop", stop)),
            *(("channel", channel), ("room", room), ("scratch", aligned), ("tile", tile)),
        )
        total = table[PLACES["filled"]]
        if total <= room:
            break
        room = total
    rows = Rows(start, stop, channel[:total], None, (steps, batch, channels), True)
    if not table[PLACES["note"]]:
        return rows
    value = memory.empty((total,), x.dtype)
    call(
        *("values_of_raster", count, *strided(x, True)),
        *(("rows", steps * batch), ("chunk", chunk), ("start", start), ("stop", stop)),
        *(("channel", channel), ("value", value)),
    )
    return rows._replace(value=value)


def estimated_density(x: Tensor) -> float:
    """The share of x [T, B, channels] that is not zero, from some of its rows."""
    total = x.shape[0] * x.shape[1]
    if total == 0 or x.shape[2] == 0:
        return 0.0
    step, sample = _spread(x.shape[0], x.shape[1])
    some = x.detach()[step, sample]
    return int(some.count_nonzero()) / some.numel()


@functools.lru_cache(maxsize=64)
def _spread(steps: int, batch: int) -> tuple[Tensor, Tensor]:
    """(step, sample) of some rows, all over both."""
    total = steps * batch
    rows = torch.arange(min(total, SAMPLE), device="cpu")
    if total > SAMPLE:
        # Multiples of an irrational number spread evenly and keep step with neither axis.
        rows = (rows * 0.6180339887498949 % 1 * total).long()
    return rows // batch, rows % batch


def strided(x: Tensor, time_first: bool) -> tuple[tuple[str, int | Tensor], ...]:
    """How rows (t, b) lie in [T, B, ...], for a table."""
    size = x.element_size()
    outer, inner = (0, 1) if time_first else (1, 0)
    return (
        *(("dense", x), ("size", size), ("inner", max(1, x.shape[inner]))),
        *(("outer_step", x.stride(outer) * size), ("inner_step", x.stride(inner) * size)),
    )


def call(name: str, participants: int, *entries: tuple[str, int | Tensor | None]) -> "array[int]":
    """Run a kernel of product_kernels.py on a table of these entries (a tensor stands for its address, None for 0), and
    return the table as it was left."""
    table = [0] * len(FIELDS)
    for field, value in entries:
        if value is not None:
            table[PLACES[field]] = value.data_ptr() if isinstance(value, Tensor) else value
    filled = array("q", table)
    threads.run(kernel("product_kernels", name), filled.buffer_info()[0], participants)
    return filled
