"""What events are stored as: checks of indices, values and sizes that come from outside."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

LARGEST = 2**31 - 1  # times and channels are stored as int32


def sizes_of(shape: Sequence[int]) -> tuple[int, int, int]:
    if len(shape) < 2 or any(int(size) != size or size < 0 for size in shape):
        raise ValueError(f"The shape of events is (T, B, *N) in whole numbers, got {tuple(shape)}.")
    channels = math.prod(shape[2:])
    if shape[0] > LARGEST or channels > LARGEST:
        raise ValueError(f"Events hold at most {LARGEST} steps and as many channels, got shape {tuple(shape)}.")
    return int(shape[0]), int(shape[1]), int(channels)


def indices(x: Any, name: str) -> Tensor:
    x = torch.as_tensor(x)
    if x.ndim != 1:
        raise ValueError(f"{name} must be a vector with one index per event, got shape {tuple(x.shape)}.")
    if x.numel() and (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool):
        raise TypeError(
            f"{name} must hold whole-number indices, got {x.dtype}: for times in s write (time / dt).long()."
        )
    return x.long()


def weights(x: Any, device: torch.device) -> Tensor:
    x = torch.as_tensor(x, device=device)
    if x.requires_grad:
        raise ValueError("Events carry no gradient, but value requires one: pass value.detach(), or a dense input.")
    x = x if x.is_floating_point() else x.float()
    if not bool(torch.isfinite(x).all()):
        raise ValueError("Events have finite values, got NaN or infinity: replace them before making events.")
    return x


def check_range(x: Tensor, name: str, size: int, shape: tuple[int, ...]) -> None:
    if len(x) and (int(x.min()) < 0 or int(x.max()) >= size):
        found = f"{int(x.min())} to {int(x.max())}"
        raise ValueError(f"{name} must lie in 0 .. {size - 1} for shape {shape}, got values from {found}.")


def offsets_of(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def first_at(time: Tensor, offsets: Tensor, step: int) -> Tensor:
    """Where the events of each sample at `step` or later begin [B].

    Sample b's are offsets[b] .. offsets[b + 1] of time, ascending. Found by bisection, which allocates nothing that is
    as long as the events are many.
    """
    ends = offsets.tolist()
    key = torch.tensor([step], dtype=time.dtype, device=time.device)
    found = [torch.searchsorted(time[a:b], key) + a for a, b in itertools.pairwise(ends)]
    return torch.cat(found) if found else offsets[:0]


def spans(starts: Tensor, stops: Tensor) -> Tensor:
    """Indices starts[0] .. stops[0], starts[1] .. stops[1], and so on, one behind the other."""
    counts = stops - starts
    return torch.arange(int(counts.sum()), device=starts.device) + (
        starts - counts.cumsum(0) + counts
    ).repeat_interleave(counts)
