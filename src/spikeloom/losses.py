"""Losses that torch does not have, as functions in the style of `torch.nn.functional`.

Most losses are a decoding and a loss of torch's own: `F.cross_entropy(sl.decoding.max_over_time(v), labels)`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .decoding import first_spike_time, spike_count, valid_steps

__all__ = [
    "per_step_cross_entropy",
    "spike_count_mse",
    "time_to_first_spike_cross_entropy",
    "van_rossum_distance",
]


def spike_count_mse(
    spikes: Tensor, labels: Tensor, true_count: float, false_count: float, lengths: Tensor | None = None
) -> Tensor:
    """Squared distance of spike counts from a target count for the right class and one for all others.

        L = 1 / (B C) sum_b sum_c (n_bc - n*_bc)^2,     n*_bc = true_count if c = label_b else false_count

    Args:
        spikes: [T, B, C], 0 or 1.
        labels: [B], class numbers in 0 .. C-1.
        true_count, false_count: target spikes per trial.
        lengths: [B], whole numbers of steps, or None.

    Returns:
        Scalar; its square root is in spikes per trial.

    Raises:
        ValueError: shapes that do not fit, or labels out of range.

    >>> import torch, spikeloom as sl
    >>> sl.losses.spike_count_mse(torch.ones(10, 1, 2), torch.tensor([0]), true_count=10, false_count=7)
    tensor(4.5000)

    Source: Shrestha & Orchard, NeurIPS 2018 (SLAYER), arXiv:1810.08646.
    """
    _check_classes(spikes)
    _check_labels(labels, spikes.shape[1:2], spikes.shape[2])
    right = F.one_hot(labels.long(), spikes.shape[2]).bool()
    target = torch.where(right, float(true_count), float(false_count))
    return F.mse_loss(spike_count(spikes, lengths), target.to(spikes))


def per_step_cross_entropy(membrane: Tensor, labels: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Cross-entropy at every step, averaged over all steps that are no padding (long samples so weigh more).

        L = -1 / |M| sum_{(t, b) in M} log softmax(v_tb)[label_tb]

    Args:
        membrane: [T, B, C], membrane potentials of a readout.
        labels: class numbers in 0 .. C-1, [B] for one per sample or [T, B] for one per step (padding may hold any).
        lengths: [B], whole numbers of steps, or None.

    Returns:
        Scalar.

    Raises:
        ValueError: shapes that do not fit, labels out of range, or no valid step at all.

    >>> import torch, spikeloom as sl
    >>> sl.losses.per_step_cross_entropy(torch.zeros(5, 2, 4), torch.tensor([0, 3]))  # ln 4
    tensor(1.3863)
    """
    _check_classes(membrane)
    steps, samples, classes = membrane.shape
    if labels.shape not in ((samples,), (steps, samples)):
        raise ValueError(
            f"Labels have shape [B] or [T, B], here ({samples},) or ({steps}, {samples}), got {tuple(labels.shape)}."
        )
    labels = labels.expand(steps, samples)
    if lengths is None:
        membrane, labels = membrane.flatten(0, 1), labels.flatten()
    else:
        valid = valid_steps(lengths.to(membrane.device), steps)
        if valid.shape[1] != samples:
            raise ValueError(f"lengths has {valid.shape[1]} entries for a batch of {samples}.")
        membrane, labels = membrane[valid], labels[valid]
    _check_labels(labels, labels.shape, classes)
    if len(labels) == 0:
        raise ValueError("There is no step to average over: T, B or every length is 0.")
    return F.cross_entropy(membrane, labels.long())


def van_rossum_distance(
    spikes: Tensor,
    target: Tensor,
    tau: float,
    dt: float,
    lengths: Tensor | None = None,
    *,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Tensor:
    """Squared van Rossum distance of spike trains: of the trains filtered by a causal exponential.

        D^2 = 1 / tau int_0^inf (f - g)^2 dt,     f(t) = sum_{t_i <= t} exp(-(t - t_i) / tau), g likewise for the target

    The integral is exact, and runs on after the trial. One spike too many costs 1/2, a spike moved by delta
    1 - exp(-delta / tau).

    Args:
        spikes, target: [T, B, *N], 0 or 1.
        tau: time constant of the filter in s.
        dt: time step in s.
        lengths: [B], whole numbers of steps, or None.
        reduction: "mean" over samples and neurons, "sum", or "none" for one distance per spike train.

    Returns:
        Scalar, or [B, *N] with "none".

    Raises:
        ValueError: different shapes, tau or dt of 0 or less, another reduction.

    >>> import torch, spikeloom as sl
    >>> sl.losses.van_rossum_distance(torch.eye(3).unsqueeze(1), torch.zeros(3, 1, 3), tau=10e-3, dt=1e-3)
    tensor(0.5000)

    Source: van Rossum, Neural Computation 13 (2001), doi:10.1162/089976601300014321.
    """
    if spikes.shape != target.shape or spikes.ndim < 2:
        raise ValueError(
            f"Spikes and target have one shape [T, B, *N], got {tuple(spikes.shape)} and {tuple(target.shape)}."
        )
    if not (tau > 0 and dt > 0):
        raise ValueError(f"van_rossum_distance expects tau and dt in seconds above 0, got tau={tau}, dt={dt}.")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'The reduction is "mean", "sum" or "none", got {reduction!r}.')
    difference = spikes - target
    if lengths is not None:
        valid = valid_steps(lengths.to(spikes.device), len(spikes))
        difference = difference.masked_fill(~valid.reshape(*valid.shape, *[1] * (spikes.ndim - 2)), 0.0)
    decay = math.exp(-dt / tau)
    # Over a step the filtered difference decays as e exp(-t / tau), so that 1 / tau int e^2 = (1 - decay^2) e^2 / 2.
    trace = distance = difference.new_zeros(difference.shape[1:])
    for change in difference.unbind(0):
        distance = distance - math.expm1(-2 * dt / tau) / 2 * trace**2
        trace = decay * trace + change
    distance = distance + trace**2 / 2
    return distance if reduction == "none" else distance.mean() if reduction == "mean" else distance.sum()


def time_to_first_spike_cross_entropy(
    spikes: Tensor,
    labels: Tensor,
    dt: float,
    *,
    tau0: float = 0.5e-3,
    alpha: float = 3e-3,
    tau1: float = 6.4e-3,
    lengths: Tensor | None = None,
    gradient: Literal["survival", "event"] = "survival",
) -> Tensor:
    """Cross-entropy on first spike times, plus a term that draws the right neuron's spike to the start.

        L = 1 / B sum_b [ -log softmax(-t_b / tau0)[label_b] + alpha (exp(t_b,label_b / tau1) - 1) ]

    Spike times are those of `decoding.first_spike_time`: a silent neuron counts as one step after the last possible
    stamp.

    Args:
        spikes: [T, B, C], 0 or 1, of the output neurons.
        labels: [B], class numbers in 0 .. C-1.
        dt: time step in s.
        tau0: scale of the softmax in s.
        alpha: strength of the second term, no unit.
        tau1: scale of the second term in s; it grows exponentially, so choose it not far below the trial's length.
        lengths: [B], whole numbers of steps, or None.
        gradient: "survival" for surrogate gradients, "event" under `EventProp`; then samples whose right neuron is
            silent have no gradient, as in the source.

    Returns:
        Scalar.

    Raises:
        ValueError: shapes that do not fit, labels out of range, a tau of 0 or less, or a trial over 80 tau1 long, for
            which the second term overflows.

    >>> import torch, spikeloom as sl
    >>> silent = torch.zeros(30, 1, 3)
    >>> sl.losses.time_to_first_spike_cross_entropy(silent, torch.tensor([1]), dt=1e-3, alpha=0.0)  # ln 3
    tensor(1.0986)

    Source: Wunderlich & Pehle, Sci. Rep. 11 (2021), doi:10.1038/s41598-021-91786-z.
    """
    _check_classes(spikes)
    _check_labels(labels, spikes.shape[1:2], spikes.shape[2])
    if not (tau0 > 0 and tau1 > 0):
        raise ValueError(f"tau0 and tau1 are in seconds and above 0, got tau0={tau0}, tau1={tau1}.")
    if alpha and (len(spikes) + 1) * dt > 80 * tau1:
        raise ValueError(
            f"A trial of {len(spikes) * dt:g} s is over 80 times tau1={tau1:g} s, so that exp(t / tau1) overflows: "
            "pass a larger tau1, or alpha=0."
        )
    times = first_spike_time(spikes, dt, lengths, gradient=gradient)
    right = times.gather(1, labels.long().unsqueeze(1))
    if gradient == "event" and len(spikes):
        # Where the right neuron is silent, all that would be learned is to silence the others too.
        answered = spike_count(spikes.detach(), lengths).gather(1, labels.long().unsqueeze(1)) > 0
        times = torch.where(answered, times, times.detach())
    return F.cross_entropy(-times / tau0, labels.long()) + alpha * torch.expm1(right / tau1).mean()


def _check_classes(output: Tensor) -> None:
    if output.ndim != 3:
        raise ValueError(f"This loss expects an output [T, B, C], got shape {tuple(output.shape)}.")


def _check_labels(labels: Tensor, shape: torch.Size, classes: int) -> None:
    if labels.shape != shape or labels.is_floating_point():
        raise ValueError(
            f"Labels are class numbers of shape {tuple(shape)}, got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        found = f"{int(labels.min())} to {int(labels.max())}"
        raise ValueError(f"Labels must lie in 0 .. {classes - 1} for {classes} output neurons, got {found}.")
