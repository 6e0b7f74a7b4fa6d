"""Rows of events convolved with a kernel."""

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import memory, threads
from .matrix import shares, work
from .rows import Rows, call, strided


@dataclass(frozen=True)
class Convolution:
    """x [T, B, C_in, H, W] -> [T, B, C_out, H_out, W_out], in memory [T, B, H_out, W_out, C_out].

    Args:
        shape: (C_in, H, W).
        weight: (C_out, C_in / groups, K_h, K_w).
        stride, padding, dilation: pairs.
        deep: a channel of the events counts over (H, W, C_in) instead of (C_in, H, W).
    """

    shape: tuple[int, int, int]
    weight: tuple[int, int, int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    deep: bool = False

    @staticmethod
    def of(
        x: tuple[int, ...], weight: tuple[int, ...], stride: Any, padding: Any, dilation: Any, groups: int
    ) -> "Convolution | None":
        """The convolution of these, or None where only torch has it."""
        if len(x) != 5 or len(weight) != 4 or weight[1] * groups != x[2] or weight[0] % groups:
            raise ValueError(
                f"conv2d got input of shape {x} for a weight of shape {weight} and groups={groups}; expected "
                f"[T, B, {weight[1] * groups if len(weight) > 1 else 'C'}, H, W]."
            )
        stride, dilation = _pair(stride), _pair(dilation)
        if isinstance(padding, str):
            whole = [d * (k - 1) for d, k in zip(dilation, weight[2:])]
            if padding == "same" and (stride != (1, 1) or any(n % 2 for n in whole)):
                return None
            padding = tuple(n // 2 for n in whole) if padding == "same" else 0
        operation = Convolution(x[2:], weight, stride, _pair(padding), dilation, groups)  # type: ignore[arg-type]
        return operation if min(operation.image) > 0 else None

    @property
    def image(self) -> tuple[int, int]:
        """(H_out, W_out)."""
        sizes = zip(self.shape[1:], self.weight[2:], self.stride, self.padding, self.dilation)
        height, width = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
        return height, width

    def flat(self, x: Tensor) -> tuple[Tensor, "Convolution"]:
        """A raster with its rows in one piece, as [T, B, channels], and the order in which they are counted."""
        last = x.permute(0, 1, 3, 4, 2)
        if not x[:1, :1].is_contiguous() and last[:1, :1].is_contiguous():
            return _rows(last), replace(self, deep=True)
        return _rows(x), self

    def seen(self, y: Tensor) -> Tensor:
        """[T, B, H_out, W_out, C_out] as [T, B, C_out, H_out, W_out]."""
        return y.permute(0, 1, 4, 2, 3)

    def raster(self, rows: Rows, dtype: torch.dtype) -> Tensor:
        channels, height, width = self.shape
        x = rows.to_dense(dtype)
        if self.deep:
            return x.unflatten(2, (height, width, channels)).permute(0, 1, 4, 2, 3)
        return x.unflatten(2, (channels, height, width))

    def dense(self, x: Tensor, weight: Tensor) -> Tensor:
        y = F.conv2d(x.flatten(0, 1), weight, None, self.stride, self.padding, self.dilation, self.groups)
        return y.unflatten(0, x.shape[:2])

    def forward(self, rows: Rows, weight: Tensor, bias: Tensor | None) -> Tensor:
        size, (steps, batch, _) = weight.element_size(), rows.shape
        # [groups, C_out / groups, C_in / groups, K_h, K_w] -> [C_in, K_h, K_w, C_out / groups]
        packed = weight.unflatten(0, (self.groups, -1))[..., list(self._order)].permute(0, 2, 3, 4, 1).contiguous()
        y = memory.empty((steps, batch, *self.image, self.weight[0]), weight.dtype)
        begin = None if bias is None else bias.contiguous()
        chunk = max(1, min(32, len(rows.start) // (8 * torch.get_num_threads())))
        call(
            *("conv2d", threads.participants(y.numel(), -(-len(rows.start) // chunk))),
            *(*strided(y, rows.time_first), *self._events(rows, size)),
            *(("chunk", chunk), ("packed", packed), ("begin", begin), ("tile", self.weight[0] * size)),
            ("image", self.image[0] * self.image[1] * self.weight[0] * size),
        )
        return y

    def input_gradient(self, g: Tensor, weight: Tensor) -> Tensor:
        images = self.seen(g).flatten(0, 1)
        x = g.new_empty(()).expand(len(images), *self.shape)  # of which torch reads the shape alone
        found = torch.ops.aten.convolution_backward(
            *(images, x, weight, None, self.stride, self.padding, self.dilation, False, [0, 0]),
            *(self.groups, [True, False, False]),
        )[0]
        return found.unflatten(0, g.shape[:2])

    def weight_gradient(self, rows: Rows, g: Tensor, weight: Tensor) -> Tensor:
        size, (channels, lines, columns) = weight.element_size(), self.weight[1:]
        if not g[:1, :1].is_contiguous():
            g = g.contiguous()
        count = self.weight[0] // self.groups
        parts = shares(rows, self.shape[0], 1)
        packed = memory.empty((parts, self.groups, channels, lines, columns, count), weight.dtype)
        call(
            *("conv2d_gradient", threads.participants(work(rows, count * lines * columns), parts)),
            *(*strided(g, rows.time_first), *self._events(rows, size)),
            *(("parts", parts), ("packed", packed), ("tile", packed[0].numel() * size)),
        )
        total = packed.sum(0) if parts > 1 else packed[0]
        back = [self._order.index(k) for k in range(columns)]
        return total.permute(0, 4, 1, 2, 3)[..., back].reshape(self.weight)

    def _events(self, rows: Rows, size: int) -> tuple[tuple[str, Any], ...]:
        (channels, height, width), count = self.shape, self.weight[0] // self.groups
        plane, last = (width * channels, channels) if self.deep else (height * width, width)
        lines, runs = _lists(self, size)
        return (
            *(("rows", len(rows.start)), ("start", rows.start), ("stop", rows.stop), ("channel", rows.channel)),
            *(("value", rows.value), ("columns", count), ("kernel", self.weight[2] * self.weight[3] * count * size)),
            *(("lines", lines), ("runs", runs), ("plane", plane), ("last", last), ("deep", int(self.deep))),
            ("per_group", self.weight[1]),
        )

    @property
    def _order(self) -> tuple[int, ...]:
        """The kernel's columns in an order in which those that one event meets follow each other, as do the columns of
        the image where it meets them."""
        stride, dilation = self.stride[1], self.dilation[1]
        return tuple(sorted(range(self.weight[3]), key=lambda k: (k * dilation % stride, -k)))


@functools.lru_cache(maxsize=64)
def _lists(conv: Convolution, size: int) -> tuple[Tensor, Tensor]:
    """For each line and each column of an event, where the kernel meets it (see `convolve` in product_kernels.py).

    Columns that follow each other in the image and in the kernel are one run, which only whole sets of channels (one
    group) can do.
    """
    wide, count = conv.weight[0] * size, conv.weight[0] // conv.groups
    line = conv.image[1] * wide
    lines = [
        [(place * line, k * conv.weight[3] * count * size) for k, place in _met(conv, 0, h, range(conv.weight[2]))]
        for h in range(conv.shape[1])
    ]
    runs = []
    for w in range(conv.shape[2]):
        found: list[tuple[int, int, int]] = []
        for k, place in _met(conv, 1, w, conv._order):
            image, kernel = place * wide, k * count * size
            before = found[-1] if found else (0, 0, 0)
            if (before[0] + before[2] * size, before[1] + before[2] * size) == (image, kernel) and found:
                found[-1] = (before[0], before[1], before[2] + count)
            else:
                found.append((image, kernel, count))
        runs.append(found)
    return _listed(lines), _listed(runs)


def _met(conv: Convolution, axis: int, n: int, order: Any) -> list[tuple[int, int]]:
    """(place in `order`, place in the image) of the kernel's elements that meet number n of an axis."""
    met = []
    for k, element in enumerate(order):
        place, rest = divmod(n + conv.padding[axis] - element * conv.dilation[axis], conv.stride[axis])
        if rest == 0 and 0 <= place < conv.image[axis]:
            met.append((k, place))
    return met


def _listed(lists: list[list[tuple[int, ...]]]) -> Tensor:
    """Where each list begins and the last ends, and the lists."""
    numbers: list[int] = []
    begins = []
    for entries in lists:
        begins.append(len(lists) + 1 + len(numbers))
        numbers.extend(number for entry in entries for number in entry)
    return torch.tensor([*begins, len(lists) + 1 + len(numbers), *numbers], dtype=torch.int64, device="cpu")


def _rows(x: Tensor) -> Tensor:
    """[T, B, ...] as [T, B, channels], a view where it can be."""
    return (x if x[:1, :1].is_contiguous() else x.contiguous()).flatten(2)


def _pair(n: Any) -> tuple[int, int]:
    return (int(n), int(n)) if isinstance(n, int) else (int(n[0]), int(n[-1]))
