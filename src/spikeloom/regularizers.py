"""Costs on activity and on parameters, to be added to a loss: each returns a scalar that is 0 where all is well."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .decoding import spike_count

__all__ = ["firing_lower_bound", "firing_upper_bound", "parameter_bounds", "silence"]


def firing_lower_bound(
    spikes: Tensor,
    bound: float,
    strength: float = 1.0,
    *,
    per: Literal["neuron", "population"] = "neuron",
    norm: Literal[1, 2] = 1,
    lengths: Tensor | None = None,
) -> Tensor:
    """Cost of firing too little; through surrogate gradients it wakes silent neurons.

        R = strength * mean(max(0, bound - n)^norm)

    with n_bj the spike count of each neuron in each trial, or with per="population" its mean over neurons.

    Args:
        spikes: [T, B, *N], 0 or 1.
        bound: in spikes per neuron and trial (for a rate r in 1/s write r * T * dt).
        strength: factor.
        per: "neuron" bounds every neuron in every trial, "population" the mean over neurons in every trial.
        norm: exponent, 1 or 2.
        lengths: [B], whole numbers of steps, or None.

    Returns:
        Scalar.

    Raises:
        ValueError: another `per` or `norm`, a negative bound, or what `decoding.spike_count` refuses.

    >>> import torch, spikeloom as sl
    >>> spikes = torch.tensor([4.0, 0.0]).expand(1, 1, 2)
    >>> sl.regularizers.firing_lower_bound(spikes, bound=1.0)
    tensor(0.5000)
    >>> sl.regularizers.firing_lower_bound(spikes, bound=1.0, per="population")
    tensor(0.)

    Source: Rossbroich, Gygax & Zenke, Neuromorph. Comput. Eng. 2 (2022), doi:10.1088/2634-4386/ac97bb (strength 100,
    bound 1e-3, norm 2, per neuron).
    """
    return strength * _power(bound - _activity(spikes, bound, per, lengths), norm).mean()


def firing_upper_bound(
    spikes: Tensor,
    bound: float,
    strength: float = 1.0,
    *,
    per: Literal["neuron", "population"] = "population",
    norm: Literal[1, 2] = 1,
    lengths: Tensor | None = None,
) -> Tensor:
    """Cost of firing too much, the mirror image of `firing_lower_bound`.

        R = strength * mean(max(0, n - bound)^norm)

    Args:
        spikes: [T, B, *N], 0 or 1.
        bound: in spikes per neuron and trial.
        strength: factor; keep it small, for it costs accuracy.
        per: "neuron" bounds every neuron in every trial, "population" the mean over neurons in every trial.
        norm: exponent, 1 or 2.
        lengths: [B], whole numbers of steps, or None.

    Returns:
        Scalar.

    Raises:
        ValueError: another `per` or `norm`, a negative bound, or what `decoding.spike_count` refuses.

    >>> import torch, spikeloom as sl
    >>> sl.regularizers.firing_upper_bound(torch.ones(10, 4, 5), bound=7.0, strength=0.1, norm=2)
    tensor(0.9000)

    Source: as `firing_lower_bound` (strength 0.06 to 0.1, bound 4 to 7, norm 2, per population).
    """
    return strength * _power(_activity(spikes, bound, per, lengths) - bound, norm).mean()


def silence(v: Tensor, spikes: Tensor, v_th: Tensor | float, strength: float = 1.0) -> Tensor:
    """Cost of neurons that never fire in a trial: how far below threshold their membrane stays.

        R = strength * mean over [B, *N] of max(0, 1 - max_t v_t / v_th) where a neuron is silent, and 0 elsewhere

    Its gradient is one of membranes, and so exact under `EventProp`, which by itself gives silent neurons none; with
    surrogate gradients it works too.

    Args:
        v: recorded membranes [T, B, *N] (`run(..., record=("v", "spikes"))`).
        spikes: [T, B, *N], 0 or 1.
        v_th: threshold, above 0: a number, or what broadcasts to [*N].
        strength: factor.

    Returns:
        Scalar.

    Raises:
        ValueError: shapes that differ, a trial without steps, or a threshold of 0 or less.

    >>> import torch, spikeloom as sl
    >>> v = torch.tensor([0.2, 0.5, 0.1]).reshape(3, 1, 1)
    >>> sl.regularizers.silence(v, torch.zeros(3, 1, 1), v_th=1.0)
    tensor(0.5000)

    Source: the hinge is that of homeostatic lower bounds; that exact gradients need such a remedy, Wunderlich & Pehle,
    Sci. Rep. 11 (2021), doi:10.1038/s41598-021-91786-z, who raise all weights of a silent layer instead.
    """
    if v.shape != spikes.shape or len(v) == 0:
        raise ValueError(
            f"silence expects membranes and spikes of one shape [T, B, *N] with steps, got {tuple(v.shape)} and "
            f"{tuple(spikes.shape)}."
        )
    threshold = torch.as_tensor(v_th).detach()
    if not bool((threshold > 0).all()):  # before it goes to a GPU, where asking would wait for all that runs there
        raise ValueError(f"silence expects thresholds above 0, got {float(threshold.min()):g}.")
    threshold = threshold.to(v)
    silent = spikes.detach().sum(0) == 0
    return strength * torch.where(silent, torch.relu(1 - v.amax(0) / threshold), 0.0).mean()


def parameter_bounds(value: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    """Cost of parameters outside [low, high], 0 inside; differentiable at the bounds.

        R = mean(max(0, low - p, p - high)^2) / u^2

    with u = high - low, or the size of the only bound, so that time constants of milliseconds weigh as much as
    thresholds of 1. Parameters of neurons have ranges that they cannot leave; this is for those who want a soft bound
    well inside them, or for weights.

    Args:
        value: any shape, such as `layer.neuron.tau_mem` (s).
        low, high: bounds in the unit of the value, one of them or both.

    Returns:
        Scalar.

    Raises:
        ValueError: no bound, low >= high, or a single bound of 0, which has no size to measure by.

    >>> import torch, spikeloom as sl
    >>> sl.regularizers.parameter_bounds(torch.tensor([5e-3, 20e-3]), low=10e-3)
    tensor(0.1250)
    """
    if low is None and high is None:
        raise ValueError("parameter_bounds expects low=, high= or both, got neither.")
    if low is not None and high is not None:
        if not low < high:
            raise ValueError(f"parameter_bounds expects low < high, got low={low}, high={high}.")
        unit = high - low
    else:
        unit = abs(low if low is not None else high or 0.0)
        if unit == 0:
            raise ValueError("A single bound of 0 gives no scale for the cost: pass the other bound as well.")
    cost = torch.zeros((), dtype=value.dtype, device=value.device)
    if low is not None:
        cost = cost + (torch.relu(low - value) / unit).square().mean()
    if high is not None:
        cost = cost + (torch.relu(value - high) / unit).square().mean()
    return cost


def _activity(spikes: Tensor, bound: float, per: str, lengths: Tensor | None) -> Tensor:
    """Spikes per trial, [B, neurons] or [B]."""
    if per not in ("neuron", "population"):
        raise ValueError(f'per is "neuron" or "population", got {per!r}.')
    if not bound >= 0:
        raise ValueError(f"The bound is a spike count per trial and not negative, got {bound}.")
    count = spike_count(spikes, lengths)
    return count if per == "neuron" else count.flatten(1).mean(1)


def _power(excess: Tensor, norm: int) -> Tensor:
    if norm not in (1, 2):
        raise ValueError(f"norm is 1 or 2, got {norm!r}.")
    hinge = torch.relu(excess)
    return hinge if norm == 1 else hinge.square()
