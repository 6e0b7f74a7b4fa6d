"""Rows of events times a matrix."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import memory, threads
from .processor import lanes
from .rows import Rows, call, strided

# Vectors of a tile, as in product_primitives.py: as many as leave the tile in the second cache with room to spare, but
# so many that sums need not wait for each other.
MOST_VECTORS, LEAST_VECTORS, TILE_BYTES = 8, 4, 1 << 17
THIN = 16  # outputs up to which a product of our own is faster than torch's
CHUNK = 128  # rows that a thread takes at a time


@dataclass(frozen=True)
class Matrix:
    """x [T, B, inputs] -> [T, B, outputs].

    Kernels take columns in tiles of a few vectors. Weights are packed as [tiles, inputs + 1, width], where the last row
    is the bias.
    """

    outputs: int
    inputs: int

    def flat(self, x: Tensor) -> tuple[Tensor, "Matrix"]:
        """A raster with its rows in one piece."""
        return (x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()), self

    def seen(self, y: Tensor) -> Tensor:
        """The output with its axes in order, from how it lies in memory."""
        return y

    def raster(self, rows: Rows, dtype: torch.dtype) -> Tensor:
        return rows.to_dense(dtype)

    def dense(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight)

    def tiles(self, size: int) -> tuple[int, int, int]:
        """Vectors of a tile, numbers of a tile, and how many tiles."""
        needed = -(-self.outputs // lanes(size))
        vectors = min(MOST_VECTORS, 1 << (needed - 1).bit_length())
        while vectors > LEAST_VECTORS and self.inputs * vectors * lanes(size) * size > TILE_BYTES:
            vectors //= 2
        width = vectors * lanes(size)
        return vectors, width, -(-self.outputs // width)

    def packed(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, int, int]:
        """Weights in tiles, a tile's vectors, and its numbers."""
        vectors, width, tiles = self.tiles(weight.element_size())
        packed = memory.empty((tiles, self.inputs + 1, width), weight.dtype)
        if bias is None:
            packed[:, -1].zero_()
        # All whole tiles at once, then the rest of a row.
        whole = self.outputs // width * width
        if whole:
            packed[: whole // width, :-1] = weight[:whole].reshape(-1, width, self.inputs).transpose(1, 2)
            if bias is not None:
                packed[: whole // width, -1] = bias[:whole].reshape(-1, width)
        if whole < self.outputs:
            packed[-1].zero_()
            packed[-1, :-1, : self.outputs - whole] = weight[whole:].t()
            if bias is not None:
                packed[-1, -1, : self.outputs - whole] = bias[whole:]
        return packed, vectors, width

    def forward(self, rows: Rows, weight: Tensor, bias: Tensor | None) -> Tensor:
        size, (steps, batch, _) = weight.element_size(), rows.shape
        packed, vectors, width = self.packed(weight, bias)
        y = memory.empty((steps, batch, self.outputs), weight.dtype)
        units = -(-steps * batch // CHUNK)
        call(
            *("linear", threads.participants(work(rows, self.outputs), units), *strided(y, rows.time_first)),
            *self._events(rows, vectors, width),
            *(("chunk", CHUNK), ("packed", packed)),
            *(("tile", (self.inputs + 1) * width * size), ("begin", self.inputs * width * size)),
        )
        return y

    def input_gradient(self, g: Tensor, weight: Tensor) -> Tensor:
        # Into memory that was used before: fresh pages would cost more than the product.
        found = memory.empty((*g.shape[:-1], self.inputs), weight.dtype)
        g = g.flatten(0, 1)
        if self.outputs > THIN:
            torch.mm(g, weight, out=found.flatten(0, 1))
            return found
        g, weight, rows = g.contiguous(), weight.contiguous(), len(g)
        call(
            *("input_gradient", threads.participants(found.numel(), -(-rows // CHUNK))),
            *(("rows", rows), ("chunk", CHUNK), ("size", weight.element_size()), ("columns", self.inputs)),
            *(("dense", found), ("packed", g), ("scratch", weight), ("room", self.outputs)),
        )
        return found

    def weight_gradient(self, rows: Rows, g: Tensor, weight: Tensor) -> Tensor:
        size = weight.element_size()
        vectors, width, tiles = self.tiles(size)
        if g.stride(-1) != 1 and self.outputs > 1:
            g = g.contiguous()
        parts = shares(rows, self.inputs, tiles)
        packed = memory.empty((parts, tiles, self.inputs, width), weight.dtype)
        call(
            *("linear_gradient", threads.participants(work(rows, self.outputs), parts * tiles)),
            *(*strided(g, rows.time_first), *self._events(rows, vectors, width)),
            *(("parts", parts), ("packed", packed), ("tile", self.inputs * width * size)),
        )
        total = packed.sum(0) if parts > 1 else packed[0]
        return total.transpose(1, 2).reshape(tiles * width, self.inputs)[: self.outputs]

    def _events(self, rows: Rows, vectors: int, width: int) -> tuple[tuple[str, Any], ...]:
        return (
            *(("rows", len(rows.start)), ("start", rows.start), ("stop", rows.stop), ("channel", rows.channel)),
            *(("value", rows.value), ("columns", self.outputs), ("vectors", vectors), ("width", width)),
        )


def work(rows: Rows, numbers: int) -> int:
    """Numbers that a product touches, with so many at each event."""
    return (len(rows.channel) + len(rows.start)) * numbers


def shares(rows: Rows, channels: int, tiles: int) -> int:
    """Into how many parts of the rows a weight's gradient is split, so that all threads have work. Each has sums of its
    own, which must be worth it; the sums are added up in one order, whichever thread computed them."""
    wanted = -(-4 * torch.get_num_threads() // tiles)
    worth = len(rows.channel) // (4 * max(1, channels))
    return max(1, min(wanted, worth, len(rows.start)))
