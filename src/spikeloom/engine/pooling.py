"""Pooling of spikes over windows that do not overlap: the numbers that torch computes, without its detours.

torch fills a gradient with zeros before it adds to it, copies where the gradient comes in another memory layout than
the images, and keeps a 64-bit index for each maximum. Here the gradient is written once, in the images' own layout, and
maxima are found again.
"""

from array import array
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import memory, threads
from .generated import kernel
from .products import obstacle

# As in pooling_kernels.py, which is imported where Numba is.
FIELDS = ("next", "images", "chunk", "size", "height", "width", "lines", "columns", "inner", "x", "y", "extra")
LEAST = 2**18  # numbers under which torch is as fast
PART = 2**14  # numbers that a thread takes at a time


class Window(NamedTuple):
    """Windows that follow each other without a gap.

    Args:
        lines, columns: their size.
        divisor: of the sum; None: the window's largest number is taken.
    """

    lines: int
    columns: int
    divisor: int | None


def suited(x: Tensor, window: Window) -> bool:
    """Whether kernels pool x [T, B, C, H, W], as fast as torch or faster."""
    if x.dim() != 5 or x.numel() < LEAST or min(x.shape[3] // window.lines, x.shape[4] // window.columns) < 1:
        return False
    deep = _deep(x)
    # What is computed at a time lies side by side, and a maximum is looked for again, number by number.
    if (x.shape[2] if deep else x.shape[4] // window.columns) < 4:
        return False
    if window.divisor is None and (window.lines * window.columns > 16 or not (deep or window.columns == 2)):
        return False
    return x.dtype in (torch.float32, torch.float64) and not obstacle(x, x.dtype)


def pool(x: Tensor, window: Window) -> Tensor:
    """x [T, B, C, H, W], which must be `suited`, pooled to [T, B, C, H / lines, W / columns].

    Bit for bit what `torch.nn.functional.avg_pool2d` and `max_pool2d` compute of each step and sample, in the memory
    layout of x. Differentiable.
    """
    return _Pool.apply(x, window)


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, window: Window) -> Tensor:
        largest = window.divisor is None
        ctx.save_for_backward(x if largest else None)
        ctx.window, ctx.shape, ctx.deep = window, x.shape, _deep(x)
        images = _arranged(x, ctx.deep)
        lead, size = x.shape[:3], (x.shape[3] // window.lines, x.shape[4] // window.columns)
        y = _empty((*lead, *size), x.dtype, ctx.deep)
        _call("maximum" if largest else "average", images, y, window, ctx.deep)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (g,), (x,), window = gradients, ctx.saved_tensors, ctx.window
        if torch.is_grad_enabled() or obstacle(g, g.dtype):
            return _dense_gradient(x, g, ctx.shape, window), None
        found = _empty(ctx.shape, g.dtype, ctx.deep)
        target, gradient = _arranged(found, ctx.deep), _arranged(g, ctx.deep)
        images = None if x is None else _arranged(x, ctx.deep)
        _call("spread" if x is None else "route", target, gradient, window, ctx.deep, images)
        return found, None


def _dense_gradient(x: Tensor | None, g: Tensor, shape: torch.Size, window: Window) -> Tensor:
    """The same by torch's own operations, which can be differentiated again."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        if x is None:  # not g.new_zeros, which is a batch of images where g is a batch of gradients
            x = torch.zeros(shape, dtype=g.dtype, device=g.device, requires_grad=True)
        x = x.view_as(x)
        return torch.autograd.grad(dense(x, window), x, g, create_graph=again)[0]


def dense(x: Tensor, window: Window) -> Tensor:
    """The same by torch's own operations."""
    size = window.lines, window.columns
    if window.divisor is None:
        y = F.max_pool2d(x.flatten(0, 1), size)
    else:
        y = F.avg_pool2d(x.flatten(0, 1), size, divisor_override=window.divisor)
    return y.unflatten(0, x.shape[:2])


def _deep(x: Tensor) -> bool:
    """Whether channels are the last axis in memory."""
    return not x[:1, :1].is_contiguous() and x[:1, :1].permute(0, 1, 3, 4, 2).is_contiguous()


def _arranged(x: Tensor, deep: bool) -> Tensor:
    """[T, B, C, H, W] as it is to lie in memory: a view where it can be."""
    return (x.permute(0, 1, 3, 4, 2) if deep else x).contiguous()


def _empty(shape: tuple[int, ...], dtype: torch.dtype, deep: bool) -> Tensor:
    return memory.empty(shape, dtype, (0, 1, 3, 4, 2) if deep else None)


def _call(name: str, x: Tensor, y: Tensor, window: Window, deep: bool, images: Tensor | None = None) -> None:
    """Run a kernel on images x and what they are pooled to, or on gradients of these, as they lie in memory."""
    height, width, inner = x.shape[-3:] if deep else (*x.shape[-2:], 1)
    count = x.numel() // (height * width * inner)
    chunk = max(1, PART // (height * width * inner))
    divisor = x.new_tensor(1 if window.divisor is None else window.divisor)
    extra = divisor.data_ptr() if images is None else images.data_ptr() - x.data_ptr()
    table = {"images": count, "chunk": chunk, "size": x.element_size(), "height": height, "width": width}
    table |= {"lines": window.lines, "columns": window.columns, "inner": inner}
    table |= {"x": x.data_ptr(), "y": y.data_ptr(), "extra": extra}
    filled = array("q", [table.get(field, 0) for field in FIELDS])
    participants = threads.participants(x.numel(), -(-count // chunk))
    threads.run(kernel("pooling_kernels", name), filled.buffer_info()[0], participants)
