"""Random numbers from a counter: the same whichever engine draws them, in whatever order, however often.

Philox 4x32-10 (Salmon et al. 2011, doi:10.1145/2063384.2063405) with the counter (lane, step, layer, which) and the
seed as its key. A lane is the position of a neuron in the flattened [B, *N].
"""

import math

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
CHUNK = 1 << 20


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a * b for 32-bit numbers held in int64, without overflow."""
    low = a * (b & 0xFFFF)
    high = a * (b >> 16) + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four 32-bit words, in int64, for each counter of four 32-bit words and a 64-bit key."""
    c0, c1, c2, c3 = counter
    k0, k1 = key & MASK, (key >> 32) & MASK
    for _ in range(10):
        high0, low0 = _multiply(0xD2511F53, c0)
        high1, low1 = _multiply(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def normal(seed: int, layer: int, which: int, clock: Tensor, steps: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers, float64 [steps, B, *N], for the steps that follow `clock`.

    Args:
        seed: 64 bits. layer: number of the layer in its network. which: number of the noise in its neuron.
        clock: steps already taken, int64 [B, 1, ...]. shape: [B, *N].
    """
    lanes = torch.arange(math.prod(shape), dtype=torch.int64, device=clock.device).reshape(shape)
    rows = max(1, CHUNK // max(1, lanes.numel()))
    parts = [torch.zeros((0, *shape), dtype=torch.float64, device=clock.device)]
    for first in range(0, steps, rows):
        ahead = torch.arange(first, min(first + rows, steps), device=clock.device)
        step = clock + ahead.reshape(-1, *(1,) * len(shape))
        where = torch.broadcast_tensors(lanes & MASK, step & MASK, torch.tensor(layer), torch.tensor(which))
        a, b, _, _ = philox(where, seed)
        # Box and Muller; the half keeps the logarithm's argument off zero.
        radius = torch.sqrt(-2 * torch.log((a.double() + 0.5) / 2**32))
        parts.append(radius * torch.cos(2 * math.pi * ((b.double() + 0.5) / 2**32)))
    return torch.cat(parts)
