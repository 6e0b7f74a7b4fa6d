"""Cues from two sides, a delay, and a question: which side had more?"""

from __future__ import annotations

import torch
from torch import Tensor

from spikeloom.events import Events


def evidence_accumulation(
    trials: int, cues: int = 7, dt: float = 1e-3, generator: torch.Generator | None = None
) -> tuple[Events, Tensor]:
    """Draw trials of evidence accumulation: on which side were more cues, asked more than a second after the last?

    A mouse runs along a corridor and meets cues on its left and right; in each trial one side has them with
    probability 0.7. Four groups of 10 input channels stand for cues on the left, cues on the right, the question, and
    noise. Each cue is 100 ms of spikes at 40 Hz in its group, after 50 ms of silence; then nothing for 1,050 ms, then
    the question, 150 ms at 40 Hz; noise is 10 Hz throughout. With 7 cues a trial has 2,250 ms.

    Arguments:
        trials: number of trials B.
        cues: cues in a trial, odd.
        dt: time step in seconds.
        generator: source of randomness; torch's own if None.

    Returns:
        Events [T, trials, 40] and the int64 labels [trials], 0 for left and 1 for right.

    Raises:
        ValueError: if the number of cues is not odd and positive.

    >>> import torch, spikeloom as sl
    >>> spikes, sides = sl.datasets.evidence_accumulation(3, generator=torch.Generator().manual_seed(0))
    >>> spikes.shape
    torch.Size([2250, 3, 40])

    Source: Morcos & Harvey 2016, doi:10.1038/nn.4403 (the experiment); Bellec et al. 2020, Nat. Commun. 11:3625 (this
    version).
    """
    sides = cue_sides(trials, cues, generator)
    return cue_spikes(sides, dt, generator), majority(sides)


def cue_sides(trials: int, cues: int = 7, generator: torch.Generator | None = None) -> Tensor:
    """The side of each cue, int64 [trials, cues]."""
    if cues < 1 or cues % 2 == 0:
        raise ValueError(f"evidence_accumulation got cues={cues}; expected an odd number, so that one side has more.")
    favoured = torch.rand(trials, 1, generator=generator) < 0.5
    agrees = torch.rand(trials, cues, generator=generator) < 0.7
    return (favoured == agrees).long()


def majority(sides: Tensor) -> Tensor:
    """The side that has more cues, int64 [trials]."""
    return (2 * sides.sum(1) > sides.shape[1]).long()


def cue_spikes(sides: Tensor, dt: float = 1e-3, generator: torch.Generator | None = None) -> Events:
    """Spikes of trials with these cues, Events [T, trials, 40]."""
    trials, cues = sides.shape
    steps, slot, silence = (round(seconds / dt) for seconds in (0.15 * cues + 1.2, 0.15, 0.05))
    group = torch.zeros(steps, trials, 4)
    for k in range(cues):
        during = slice(k * slot + silence, (k + 1) * slot)
        group[during, :, 0], group[during, :, 1] = (sides[:, k] == 0).float(), (sides[:, k] == 1).float()
    group[-slot:, :, 2] = 1.0
    group[:, :, 3] = 0.25
    probability = (-torch.expm1(-40.0 * dt * group)).repeat_interleave(10, dim=2)
    fired = torch.rand(probability.shape, generator=generator) < probability
    time, trial, channel = fired.nonzero(as_tuple=True)
    return Events.from_coordinates(time, trial, channel, shape=tuple(fired.shape))
