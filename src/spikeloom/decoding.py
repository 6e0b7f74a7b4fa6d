"""From an output [T, B, *N] over time to one number per neuron [B, *N].

Each takes `lengths=`, [B] whole numbers: steps of sample b from lengths[b] on are padding and count for nothing,
whatever they hold. The results are what `torch.nn.functional.cross_entropy` takes for logits (a first spike time with
its sign turned, over a scale in s).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "first_spike_time",
    "last",
    "max_over_time",
    "mean_over_time",
    "spike_count",
    "sum_of_softmax",
    "valid_steps",
]


def spike_count(spikes: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Number of spikes, n = sum_t s_t.

    Args:
        spikes: [T, B, *N], 0 or 1.
        lengths: [B], whole numbers in 0 .. T, or None for T each.

    Returns:
        Counts [B, *N]; zeros for T = 0.

    Raises:
        TypeError, ValueError: no tensor [T, B, *N], or lengths of the wrong shape, dtype or range.

    >>> import torch, spikeloom as sl
    >>> spikes = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 1.0]]).unsqueeze(-1)
    >>> sl.decoding.spike_count(spikes, lengths=torch.tensor([3, 2])).squeeze(-1)
    tensor([3., 1.])
    """
    return _padded(spikes, lengths, 0.0, least=0).sum(0)


def max_over_time(output: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Largest value over time, max_t v_t; equal maxima share the gradient.

    Args:
        output: [T, B, *N], usually a readout's membrane potential.
        lengths: [B], whole numbers in 1 .. T, or None for T each.

    Returns:
        [B, *N].

    Raises:
        TypeError, ValueError: as `spike_count`; a sample without any step.

    >>> import torch, spikeloom as sl
    >>> sl.decoding.max_over_time(torch.tensor([1.0, 3.0, 2.0]).reshape(3, 1, 1))
    tensor([[3.]])
    """
    return _padded(output, lengths, -torch.inf).amax(0)


def mean_over_time(output: Tensor, lengths: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
    """Mean over time, sum_t w_t v_t / sum_t w_t, with w_t = 1 unless given.

    A weight that favours early steps, such as exp(-t / T), keeps exact gradients from pushing spikes off the end of
    the trial (Nowotny, Turner & Knight 2025).

    Args:
        output: [T, B, *N].
        lengths: [B], whole numbers in 1 .. T, or None for T each.
        weight: [T], or None.

    Returns:
        [B, *N].

    Raises:
        TypeError, ValueError: as `spike_count`; a sample without any step, or a weight that is not of shape [T].

    >>> import torch, spikeloom as sl
    >>> output = torch.tensor([1.0, 3.0, 2.0]).reshape(3, 1, 1)
    >>> sl.decoding.mean_over_time(output), sl.decoding.mean_over_time(output, lengths=torch.tensor([1]))
    (tensor([[2.]]), tensor([[1.]]))

    Source: Nowotny, Turner & Knight, Neuromorph. Comput. Eng. 5 (2025), doi:10.1088/2634-4386/ada852.
    """
    kept = _padded(output, lengths, 0.0)
    if weight is None:
        return kept.mean(0) if lengths is None else kept.sum(0) / _per_sample(lengths, output)
    if weight.shape != output.shape[:1]:
        raise ValueError(f"weight has one entry per step, shape ({len(output)},), got {tuple(weight.shape)}.")
    weight = weight.to(output).reshape(-1, *[1] * (output.ndim - 1)).expand(*output.shape[:2], *[1] * (output.ndim - 2))
    return (weight * kept).sum(0) / _padded(weight, lengths, 0.0).sum(0)


def last(output: Tensor, lengths: Tensor | None = None) -> Tensor:
    """The value at the last step that is no padding.

    Args:
        output: [T, B, *N].
        lengths: [B], whole numbers in 1 .. T, or None for T each.

    Returns:
        [B, *N].

    Raises:
        TypeError, ValueError: as `spike_count`; a sample without any step.

    >>> import torch, spikeloom as sl
    >>> output = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).unsqueeze(-1)
    >>> sl.decoding.last(output, lengths=torch.tensor([2, 1])).squeeze(-1)
    tensor([3., 2.])
    """
    _check(output, lengths, least=1)
    if lengths is None:
        return output[-1]
    return output[lengths.to(output.device).long() - 1, torch.arange(output.shape[1], device=output.device)]


def sum_of_softmax(output: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Votes added up over time, sum_t softmax(v_t), the softmax over the last axis.

    Every step casts one vote in all, however large its membrane potentials. The sum then serves as logits, as in the
    source: `cross_entropy(sum_of_softmax(v), labels)`.

    Args:
        output: [T, B, C].
        lengths: [B], whole numbers in 0 .. T, or None for T each.

    Returns:
        [B, C], summing to T (or the sample's length) over C.

    Raises:
        TypeError, ValueError: as `spike_count`; no class axis.

    >>> import torch, spikeloom as sl
    >>> sl.decoding.sum_of_softmax(torch.zeros(6, 1, 3))
    tensor([[2., 2., 2.]])

    Source: Hammouamri, Khalfaoui-Hassani & Masquelier, ICLR 2024, arXiv:2306.17670.
    """
    if isinstance(output, Tensor) and output.ndim < 3:
        raise ValueError(f"sum_of_softmax expects [T, B, C] with a class axis C, got shape {tuple(output.shape)}.")
    # Before the softmax too, or a NaN in the padding would come back through its gradient.
    return _padded(_padded(output, lengths, 0.0, least=0).softmax(-1), lengths, 0.0, least=0).sum(0)


def first_spike_time(
    spikes: Tensor,
    dt: float,
    lengths: Tensor | None = None,
    *,
    gradient: Literal["survival", "event"] = "survival",
) -> Tensor:
    """Time stamp of the first spike; a neuron that stays silent gets one step past the last possible stamp.

        t = dt (1 + sum_t prod_{t' <= t} (1 - s_t'))

    that is (k + 1) dt for a first spike at index k, and (T + 1) dt without one: finite, and later than any spike.

    Gradient with respect to the spikes s_t:

    - "survival" differentiates the formula above. As it is linear in each s_t, the derivative is exactly the change of
      the first spike time when that one spike is added or taken away: -(k - j) dt for a step j < k (also where the
      neuron is silent, so that it can learn to fire), minus the time to the next spike for j = k, 0 after it. For
      spikes with probabilities in place of 0 and 1 the formula is the expected first spike time. Use with surrogates.
    - "event": dL/dt at the first spike and 0 elsewhere, the form that `EventProp` reads. A silent neuron gets none.

    Args:
        spikes: [T, B, *N], 0 or 1.
        dt: time step in s (1 gives times in steps).
        lengths: [B], whole numbers in 0 .. T, or None for T each.
        gradient: "survival" or "event".

    Returns:
        Times in s, [B, *N].

    Raises:
        TypeError, ValueError: as `spike_count`; dt <= 0 or another gradient.

    >>> import torch, spikeloom as sl
    >>> spikes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]).unsqueeze(1)  # [T=3, B=1, N=2]
    >>> sl.decoding.first_spike_time(spikes, dt=1.0)
    tensor([[2., 4.]])

    Source: the survival form is that of first-to-spike decoding, Bagheri, Simeone & Rajendran, ICASSP 2018,
    arXiv:1710.10704; the event form is dL/dt_k of Wunderlich & Pehle, Sci. Rep. 11 (2021),
    doi:10.1038/s41598-021-91786-z.
    """
    if not dt > 0:
        raise ValueError(f"first_spike_time expects a time step dt in seconds above 0, got {dt}.")
    if gradient not in ("survival", "event"):
        raise ValueError(f'first_spike_time has the gradients "survival" and "event", got {gradient!r}.')
    kept = _padded(spikes, lengths, 0.0, least=0)
    silent = _padded((1 - (kept if gradient == "survival" else kept.detach())).cumprod(0), lengths, 0.0, least=0)
    time = dt * (1 + silent.sum(0))
    if gradient == "event" and len(kept):
        first = silent.sum(0).long().clamp(max=len(kept) - 1).unsqueeze(0)
        spike = kept.gather(0, first).squeeze(0)  # 1 where there is a first spike
        time = time + torch.where(spike.detach() > 0, spike - spike.detach(), 0.0)
    return time


def valid_steps(lengths: Tensor, steps: int, least: int = 0) -> Tensor:
    """Mask [T, B] that is True where a step is no padding, t < lengths[b].

    Args:
        lengths: [B], whole numbers in least .. steps.
        steps: T.
        least: the smallest length that makes sense.

    Raises:
        TypeError, ValueError: lengths that are not whole numbers, not 1-D, or out of range.

    >>> import torch, spikeloom as sl
    >>> sl.decoding.valid_steps(torch.tensor([2, 1]), 3)
    tensor([[ True,  True],
            [ True, False],
            [False, False]])
    """
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise TypeError(f"lengths must be whole numbers of steps, got {lengths.dtype}.")
    if lengths.ndim != 1:
        raise ValueError(f"lengths must have shape [B], one per sample, got {tuple(lengths.shape)}.")
    if len(lengths) and (int(lengths.min()) < least or int(lengths.max()) > steps):
        found = f"{int(lengths.min())} to {int(lengths.max())}"
        raise ValueError(f"lengths must lie in {least} .. {steps}, the number of steps, got {found}.")
    return torch.arange(steps, device=lengths.device).unsqueeze(1) < lengths


def _check(output: Tensor, lengths: Tensor | None, least: int) -> Tensor | None:
    """The mask of valid steps for an output that has been checked, None where every step is valid."""
    if not isinstance(output, Tensor):
        raise TypeError(
            f"Expected a tensor [T, B, *N], got {type(output).__name__}: for events write events.to_dense()."
        )
    if output.ndim < 2:
        raise ValueError(f"Expected a tensor [T, B, *N], got shape {tuple(output.shape)}.")
    if len(output) < least:
        raise ValueError("There is no step to decode: T is 0.")
    if lengths is None:
        return None
    mask = valid_steps(lengths.to(output.device), len(output), least)
    if mask.shape[1] != output.shape[1]:
        raise ValueError(f"lengths has {mask.shape[1]} entries for a batch of {output.shape[1]}.")
    return mask


def _padded(output: Tensor, lengths: Tensor | None, fill: float, least: int = 1) -> Tensor:
    """The output with its padded steps replaced, so that not even a NaN in them gets through."""
    mask = _check(output, lengths, least)
    return output if mask is None else output.masked_fill(~mask.reshape(*mask.shape, *[1] * (output.ndim - 2)), fill)


def _per_sample(lengths: Tensor, like: Tensor) -> Tensor:
    return lengths.to(like).reshape(-1, *[1] * (like.ndim - 2))
