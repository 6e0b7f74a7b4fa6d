"""Synthetic spike trains whose classes are known by construction."""

from __future__ import annotations

import math

import torch

from spikeloom.events import Events


def rate_patterns(
    trials: int,
    inputs: int = 100,
    steps: int = 200,
    dt: float = 1e-3,
    rate: float = 10.0,
    generator: torch.Generator | None = None,
) -> tuple[Events, torch.Tensor]:
    """Draw trials of a two-class task: which half of the inputs is active?

    In trials of class 0 the first half of the inputs fires, in those of class 1 the second half; the rest is silent.
    Active inputs are Poisson processes, seen in steps of dt: each fires in a step with P = 1 - exp(-rate dt), as in
    `spikeloom.encoding.poisson`. The classes alternate, so that every second trial is of class 1.

    Arguments:
        trials: number of trials B.
        inputs: number of input channels N, even.
        steps: number of time steps T.
        dt: time step in seconds.
        rate: firing rate of an active input in spikes per second.
        generator: source of randomness; torch's own if None.

    Returns:
        Events [steps, trials, inputs] and the int64 labels [trials].

    Raises:
        ValueError: if `inputs` is odd or not positive, or the rate is negative.

    >>> import torch, spikeloom as sl
    >>> spikes, labels = sl.datasets.rate_patterns(4, generator=torch.Generator().manual_seed(0))
    >>> spikes.shape, labels
    (torch.Size([200, 4, 100]), tensor([0, 1, 0, 1]))

    Source: the two-class task of a thread on spiking networks in Julia's Flux; see the recipe `rate-patterns`.
    """
    if inputs < 2 or inputs % 2:
        raise ValueError(f"rate_patterns got inputs={inputs}; expected an even number, for each class has one half.")
    if not rate >= 0:
        raise ValueError(f"rate_patterns got rate={rate} spikes per second; expected 0 or more, for example 10.0.")
    probability = -math.expm1(-rate * dt)
    half = inputs // 2
    labels = torch.arange(trials) % 2
    time, trial, channel = (torch.rand(steps, trials, half, generator=generator) < probability).nonzero(as_tuple=True)
    spikes = Events.from_coordinates(time, trial, channel + half * labels[trial], shape=(steps, trials, inputs))
    return spikes, labels
