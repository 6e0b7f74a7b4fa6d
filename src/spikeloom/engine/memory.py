"""Memory for what kernels write, kept and used again.

torch asks the system for fresh memory for every large tensor and gives it back when the tensor dies, and the first
touch of each of its pages costs more than a kernel's work on it: a copy of 100 MB takes 13 ms into memory that was
used before, 150 ms into new. So blocks are kept when their tensors die, as torch itself does on GPUs.
"""

import itertools
import math
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

SMALL = 1 << 20  # bytes from which on memory is kept
MOST = 1 << 31  # bytes of unused memory that are kept at most
HUGE = 1 << 21  # the size of a large page
PAGE = 1 << 12
LINE = 1 << 6  # bytes of a cache line
_free: list[np.ndarray] = []
_turn = itertools.cycle(range(0, PAGE, PAGE // 4))  # where in a page tensors begin that nothing is known of


class _Lease(np.ndarray):
    """Memory in use; its block returns when the tensor on it has died."""

    block: Any = None

    def __del__(self) -> None:
        if self.block is not None:
            give_back(self.block)


def give_back(block: np.ndarray) -> None:
    """Keep a block for the next that fits, and let the oldest go where too much is kept."""
    _free.append(block)
    while sum(b.nbytes for b in _free) > MOST:
        _free.pop(0)


def clear() -> None:
    """Give unused memory back to the system."""
    _free.clear()


def empty(
    shape: tuple[int, ...], dtype: torch.dtype, order: tuple[int, ...] | None = None, beside: Sequence[Tensor] = ()
) -> Tensor:
    """A tensor on the CPU whose values are not set.

    Args:
        shape, dtype: of the tensor.
        order: of its axes in memory, if it is another.
        beside: tensors that will be read and written with it. Processors take addresses with the same last twelve bits
            for the same place, until they know better; so it begins elsewhere in its page than these do in theirs.
    """
    size = math.prod(shape) * dtype.itemsize
    if size < SMALL and order is None:
        return torch.empty(shape, dtype=dtype, device="cpu")
    order = tuple(range(len(shape))) if order is None else order
    if size < SMALL:
        return torch.empty_permuted(shape, order, dtype=dtype, device="cpu")
    # The best fit, if it wastes no more than an eighth.
    fits = [k for k, block in enumerate(_free) if size + PAGE <= block.nbytes <= size * 9 // 8 + HUGE]
    block = _free.pop(min(fits, key=lambda k: _free[k].nbytes)) if fits else _new_block(size)
    start = _apart([tensor.data_ptr() for tensor in beside])
    lease = block[start : start + size].view(_Lease)
    lease.block = block
    strides = [math.prod(shape[a] for a in order[order.index(axis) + 1 :]) for axis in range(len(shape))]
    # Not a view, which could not be written in place where a custom autograd Function returns it.
    fresh: Any = torch.empty(0, dtype=dtype, device="cpu")
    return fresh.set_(torch.from_numpy(lease).untyped_storage(), 0, shape, strides)


def _apart(taken: list[int]) -> int:
    """Where in a page to begin: as far as can be from where these addresses are in theirs."""
    if not taken:
        return next(_turn)
    places = sorted(t % PAGE for t in taken)
    width, start = max((b - a, a) for a, b in zip(places, [*places[1:], places[0] + PAGE], strict=True))
    return (start + width // 2) % PAGE // LINE * LINE


def _new_block(size: int) -> np.ndarray:
    # With room for a little more, which takes no memory until it is used.
    whole = -(-(size + PAGE) // HUGE) * HUGE
    # Private, where it can be said: a process that forks shares nothing with its child, as with all other memory.
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    region = mmap.mmap(-1, whole + HUGE, **private)
    block = np.frombuffer(region, dtype=np.uint8)
    start = -block.ctypes.data % HUGE
    if hasattr(mmap, "MADV_HUGEPAGE") and size >= HUGE:
        region.madvise(mmap.MADV_HUGEPAGE, start, size // HUGE * HUGE)
    return block[start : start + whole]
