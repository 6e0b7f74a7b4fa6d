"""Random numbers from a counter: the same whichever engine draws them, in whatever order, however often.

Philox 4x32-10 (Salmon et al. 2011, doi:10.1145/2063384.2063405). The key is a row's stream, made of the seed, the
layer and the row of the batch when a state begins, and carried in it; the counter is (group of four lanes, step, which
noise, 0), where a lane is the position of a neuron in the flattened *N. So a state goes on with the noise that would
have come.
"""

import math
import zlib

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
# Numbers drawn at a time: enough to make torch's overhead small, little enough to stay in the cache.
CHUNK = 1 << 18


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a * b for 32-bit numbers held in int64, without overflow."""
    low = a * (b & 0xFFFF)
    high = a * (b >> 16) + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Four 32-bit words, in int64, for each counter of four 32-bit words and key of two."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _multiply(0xD2511F53, c0)
        high1, low1 = _multiply(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def streams(seed: int | Tensor, layer: str, batch: int, device: torch.device) -> Tensor:
    """A key of 62 bits for each row of a batch, int64 [batch]."""
    zero = torch.zeros(batch, dtype=torch.int64, device=device)
    rows = torch.arange(batch, dtype=torch.int64, device=device)
    key = (zero + (seed & MASK), zero + ((seed >> 32) & MASK))
    low, high, _, _ = philox((rows, zero + zlib.crc32(layer.encode()), zero, zero), key)
    return ((high & 0x3FFFFFFF) << 32) | low


def draw(
    stream: Tensor,
    clock: Tensor,
    which: int,
    steps: int,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    distribution: str = "normal",
) -> list[Tensor]:
    """Numbers [B, *N] for each of the next steps, at most `steps` of them.

    Args:
        stream, clock: key and steps already taken, int64 [B, 1, ...].
        which: number of the noise in its neuron. shape: (B, *N).
        distribution: "normal" or "gumbel", as `Noise` has it.
    """
    batch, lanes = shape[0], math.prod(shape[1:])
    groups = torch.arange(-(-lanes // 4), dtype=torch.int64, device=clock.device)
    rows = min(steps, max(1, CHUNK // max(1, batch * lanes)))
    ahead = torch.arange(rows, device=clock.device).reshape(-1, 1, 1)
    step = (clock.reshape(1, batch, 1) + ahead) & MASK
    key = stream.reshape(1, batch, 1)
    counter = torch.broadcast_tensors(groups, step, torch.full_like(step, which), torch.zeros_like(step))
    words = [(word.double() + 0.5) / 2**32 for word in philox(counter, (key & MASK, key >> 32))]  # type: ignore[arg-type]
    # The half keeps the logarithm's argument off zero.
    flat = torch.stack(DISTRIBUTIONS[distribution](words), -1).flatten(-2)[..., :lanes]
    return list(flat.to(dtype).reshape(rows, *shape).unbind(0))


def _normal(words: list[Tensor]) -> list[Tensor]:
    """Box and Muller."""
    found = []
    for radius, angle in ((words[0], words[1]), (words[2], words[3])):
        length, turn = torch.sqrt(-2 * torch.log(radius)), 2 * math.pi * angle
        found += [length * torch.cos(turn), length * torch.sin(turn)]
    return found


def _gumbel(words: list[Tensor]) -> list[Tensor]:
    return [-torch.log(-torch.log(word)) for word in words]


DISTRIBUTIONS = {"normal": _normal, "gumbel": _gumbel}
