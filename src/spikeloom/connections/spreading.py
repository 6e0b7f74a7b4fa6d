"""How a delay of d steps spreads an input over whole steps, and inputs that wait so long.

Inputs that wait are rows of `waiting` [K + T, ...]: K steps of the past, and the T steps at hand. A delay of k steps, 0
to K, makes row K + t - k arrive at step t.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def spread(d: Tensor, most: int, width: float, dtype: torch.dtype) -> Tensor:
    """What arrives after 0 to K steps of an input that is delayed by d steps, [*, K + 1]; each row sums to 1.

    With a width, a Gaussian, normalised over the steps there are. Without one, all of it at the nearest step; its
    derivative is then the central difference of the input, one-sided at either end.
    """
    steps = torch.arange(most + 1, device=d.device, dtype=torch.float64)
    if width > 0:
        return torch.softmax(-0.5 * ((steps - d[..., None]) / width).square(), -1).to(dtype)
    nearest = whole(d, most)
    rows = F.one_hot(nearest, most + 1).to(dtype)
    if not (torch.is_grad_enabled() and d.requires_grad):
        return rows
    after, before = (nearest + 1).clamp(max=most), (nearest - 1).clamp(min=0)
    span = (after - before).clamp(min=1)[..., None].to(dtype)
    slope = (F.one_hot(after, most + 1) - F.one_hot(before, most + 1)).to(dtype) / span
    return rows + (d - d.detach())[..., None].to(dtype) * slope


def whole(d: Tensor, most: int) -> Tensor:
    """Delays in the nearest whole steps, 0 to K."""
    return d.detach().round().long().clamp(0, most)


def by_axon(waiting: Tensor, d: Tensor, most: int, width: float) -> Tensor:
    """Each channel of an input late by a delay of its own.

    Args:
        waiting: [K + T, B, *N].
        d: delays in steps, broadcasts to [*N].
        most: K.
        width: of the Gaussian in steps, 0 for none.

    Returns:
        [T, B, *N].
    """
    d = d.expand(waiting.shape[2:])
    if width > 0:
        return _filtered(waiting, spread(d, most, width, waiting.dtype), most)
    nearest = whole(d, most)
    found = _late(waiting, nearest, most)
    if not (torch.is_grad_enabled() and d.requires_grad):
        return found
    after, before = (nearest + 1).clamp(max=most), (nearest - 1).clamp(min=0)
    slope = (_late(waiting, after, most) - _late(waiting, before, most)) / (after - before).clamp(min=1)
    return found + (d - d.detach()).to(waiting.dtype) * slope.detach()


def _late(waiting: Tensor, steps: Tensor, most: int) -> Tensor:
    row = torch.arange(len(waiting) - most, device=waiting.device).reshape(-1, *(1,) * steps.dim())
    index = (most + row - steps).unsqueeze(1).expand(-1, *waiting.shape[1:])
    return waiting.gather(0, index)


def _filtered(waiting: Tensor, kernel: Tensor, most: int) -> Tensor:
    """Each channel convolved with a kernel of its own, [*N, K + 1]."""
    steps, batch = len(waiting) - most, waiting.shape[1]
    flat = kernel.reshape(-1, 1, most + 1).flip(-1)
    if 0 in (steps, batch, len(flat)):
        return waiting[most:]
    x = waiting.reshape(len(waiting), batch, -1).permute(1, 2, 0)
    return F.conv1d(x, flat, groups=len(flat)).permute(2, 0, 1).reshape(steps, *waiting.shape[1:])


def by_synapse(waiting: Tensor, weight: Tensor, d: Tensor, most: int, width: float) -> Tensor:
    """What arrives at neurons whose synapses have delays of their own.

        y[t, b, m] = sum_n w[m, n] x[t - d[m, n], b, n]

    Args:
        waiting: [K + T, B, N].
        weight: [M, N].
        d: delays in steps, [M, N].
        most: K.
        width: of the Gaussian in steps, 0 for none.

    Returns:
        [T, B, M].
    """
    steps, batch = len(waiting) - most, waiting.shape[1]
    if 0 in (steps, batch, *weight.shape):
        return F.linear(waiting[most:], weight)
    kernel = weight[..., None] * spread(d, most, width, weight.dtype)
    return F.conv1d(waiting.permute(1, 2, 0), kernel.flip(-1)).permute(2, 0, 1)
