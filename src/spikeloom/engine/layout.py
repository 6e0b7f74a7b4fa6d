"""How lanes lie in memory: one order of the neurons that suits all tensors of a pass, whatever their strides."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

Numbers = tuple[int, ...]


class Layout(NamedTuple):
    """Where the lanes of [B, *N] lie in tensors that broadcast to it, or that have an axis of time before it.

    Lane l lies at `l // (inner * middle) * s[0] + l // inner % middle * s[1] + l % inner * s[2]` of a tensor.

    Attributes:
        middle, inner: sizes of the two faster axes that are left when those that run on are joined.
        strides: s of each tensor, one after the other.
    """

    middle: int
    inner: int
    strides: Numbers


@lru_cache(maxsize=4096)
def order_of(shape: Numbers, strides: Numbers) -> Numbers:
    """The axes in the order in which a tensor has them in memory: a layout such as channels-last is kept."""
    axes = tuple(range(len(shape)))
    real = [a for a in axes if shape[a] > 1]
    ordered = sorted(real, key=lambda a: -strides[a])
    if ordered == real or any(strides[a] == 0 for a in real):
        return axes
    return (*(a for a in axes if a not in real), *ordered)


@lru_cache(maxsize=4096)
def dense_strides(shape: Numbers, order: Numbers) -> Numbers:
    """Strides of a tensor whose axes lie in that order without gaps."""
    return tuple(math.prod(shape[a] for a in order[order.index(axis) + 1 :]) for axis in range(len(shape)))


@lru_cache(maxsize=4096)
def layout(shape: Numbers, order: Numbers, tensors: tuple[tuple[Numbers, Numbers], ...]) -> Layout | None:
    """The layout of tensors of these shapes and strides in that order of the lanes; None where three axes do not do."""
    strides = [_broadcast(len(shape), *tensor) for tensor in tensors]
    joined: list[tuple[int, list[int]]] = []
    for axis in order:
        size, steps = shape[axis], [s[axis] for s in strides]
        if size == 1:
            continue
        if joined and all(before == size * step for before, step in zip(joined[-1][1], steps, strict=True)):
            joined[-1] = (joined[-1][0] * size, steps)
        else:
            joined.append((size, steps))
    if len(joined) > 3:
        return None
    joined = [(1, [0] * len(strides))] * (3 - len(joined)) + joined
    flat = tuple(step for each in zip(*(steps for _, steps in joined), strict=True) for step in each)
    return Layout(joined[1][0], joined[2][0], flat)


def _broadcast(rank: int, sizes: Numbers, strides: Numbers) -> Numbers:
    """Strides along the last axes, zero where a tensor has one number for all."""
    missing = max(0, rank - len(sizes))
    own = zip(sizes[-rank:], strides[-rank:], strict=True) if sizes else ()
    return (*(0,) * missing, *(0 if size == 1 else stride for size, stride in own))


def arrange(shape: Numbers, order: Numbers, tensors: Sequence[Tensor]) -> tuple[Sequence[Tensor], Layout]:
    """The layout of tensors, and the tensors themselves, copied where their strides have no layout together."""
    found = layout(shape, order, tuple((t.shape, t.stride()) for t in tensors))
    if found is None:
        tensors = [_dense(t, shape, order) for t in tensors]
        found = layout(shape, order, tuple((t.shape, t.stride()) for t in tensors))
        assert found is not None
    return tensors, found


def _dense(tensor: Tensor, shape: Numbers, order: Numbers) -> Tensor:
    """A copy without gaps in that order; what is the same for all samples is kept once."""
    rank = len(shape)
    rows = tensor.shape[:-rank] if tensor.dim() > rank else ()
    full = tensor.expand(*rows, *shape)
    one = full.narrow(len(rows), 0, 1) if full.stride(len(rows)) == 0 else full
    within = dense_strides(tuple(one.shape[len(rows) :]), order)
    strides = (one.numel() // max(1, math.prod(rows)), *within) if rows else within
    return torch.empty_strided(one.shape, strides, dtype=tensor.dtype, device=tensor.device).copy_(one)
