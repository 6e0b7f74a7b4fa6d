"""How lanes lie in memory: one order of the neurons that suits all tensors of a pass, whatever their strides."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

Strides = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """An order of the lanes of [B, *N] and where each tensor has them.

    Lane l lies at `l // (inner * middle) * s[0] + l // inner % middle * s[1] + l % inner * s[2]` of a tensor.

    Attributes:
        order: the axes of [B, *N], the slowest first; what is written anew lies in this order without gaps.
        middle, inner: sizes of the two faster axes that are left when those that run on are joined.
        strides: s of each tensor.
    """

    order: tuple[int, ...]
    middle: int
    inner: int
    strides: tuple[Strides, ...]


def order_of(shape: Strides, strides: Strides) -> tuple[int, ...]:
    """The axes in the order in which a tensor has them in memory: a layout such as channels-last is kept."""
    axes = tuple(range(len(shape)))
    real = [a for a in axes if shape[a] > 1]
    ordered = sorted(real, key=lambda a: -strides[a])
    if ordered == real or any(strides[a] == 0 for a in real):
        return axes
    return (*(a for a in axes if a not in real), *ordered)


@lru_cache(maxsize=4096)
def layout(shape: Strides, order: Strides, strides: tuple[Strides, ...]) -> Layout | None:
    """The layout in this order, with axes joined where they run on in all tensors; None where more than 3 are left."""
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
    return Layout(order, joined[1][0], joined[2][0], tuple(zip(*(steps for _, steps in joined), strict=True)))


def arrange(shape: Strides, order: Strides, tensors: Sequence[Tensor]) -> tuple[list[Tensor], Layout]:
    """A layout of tensors whose last axes are [B, *N], and the tensors, copied where three axes do not do."""
    rank = len(shape)
    found = layout(shape, order, tuple(t.stride()[t.dim() - rank :] for t in tensors))
    if found is not None:
        return list(tensors), found
    dense = [_dense(t, rank, order) for t in tensors]
    found = layout(shape, order, tuple(t.stride()[t.dim() - rank :] for t in dense))
    assert found is not None
    return dense, found


def _dense(tensor: Tensor, rank: int, order: Strides) -> Tensor:
    """The tensor without gaps in that order; what is the same for all samples is kept once."""
    first = tensor.dim() - rank
    one = tensor.narrow(first, 0, 1) if tensor.stride(first) == 0 else tensor
    copy = empty(one.shape[:first], one.shape[first:], order, one.dtype, one.device).copy_(one)
    return copy.expand_as(tensor)


def empty(
    rows: Sequence[int], shape: Sequence[int], order: Strides, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """A new tensor [*rows, *shape] whose last axes lie in that order without gaps."""
    first = len(rows)
    back = [*range(first), *(first + order.index(a) for a in range(len(shape)))]
    return torch.empty((*rows, *(shape[a] for a in order)), dtype=dtype, device=device).permute(back)
