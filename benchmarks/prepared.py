"""What a runner makes of a case, and what is checked before anything is timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from . import data
from .work import Case

PLAUSIBLE = (0.005, 0.5)
# Products of different batch sizes round differently, which may move a spike now and then.
SLIPS = 2e-3


class Prepared(Protocol):
    """One system's network for one case, with everything that is not timed already done."""

    def step(self) -> None:
        """The work that is timed, finished when it returns."""

    def calibrate(self) -> None:
        """Scale the weights of each spiking layer so that it fires at `data.RATE`."""

    def hidden(self, x: np.ndarray) -> np.ndarray | None:
        """Spikes of the first layer [T, B, *N] for an input [T, B, *N]; None where there are no neurons."""

    def remark(self) -> str:
        """What ran, where that is only known afterwards (the engine, for one)."""


class Runner(Protocol):
    """A system inside its worker process."""

    def versions(self) -> dict[str, str]: ...

    def build(self, case: Case) -> Prepared: ...


def finite(weights: list[np.ndarray]) -> None:
    """Check the weights after a training step.

    Raises:
        ProbeError: they overflowed, so that what comes after would be timed on numbers that are none.
    """
    if not all(np.isfinite(w).all() for w in weights):
        raise ProbeError("the weights are not finite after one training step: the gradients overflowed")


class ProbeError(AssertionError):
    """The system does not do the work that it would be timed for."""


def gain(rate_at: Callable[[float], float], rate: float = data.RATE) -> float:
    """The factor on a layer's weights at which it fires at a rate, by bisection between 2**-12 and 2**12."""
    low, high = -12.0, 12.0
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (middle, high) if rate_at(2**middle) < rate else (low, middle)
    return 2 ** ((low + high) / 2)


def probe(prepared: Prepared, case: Case) -> float | None:
    """Check that time is stepped and that samples do not mix; return the rate of the first layer.

    Raises:
        ProbeError: an input at step k changes nothing after it, or something before it; a sample alone behaves unlike
            the same sample in a batch; the rate is not plausible.
    """
    x = data.inputs(case)[:, : min(4, case.batch)]
    spikes = prepared.hidden(x)
    if spikes is None:
        return None
    if spikes.shape[:2] != x.shape[:2]:
        raise ProbeError(f"an input [T, B] of {x.shape[:2]} gave an output of {spikes.shape[:2]}")
    at = case.steps // 3
    changed = x.copy()
    changed[at] = 1 - changed[at] if case.network != "neuron" else changed[at] + 4
    differs = (prepared.hidden(changed) != spikes).reshape(case.steps, -1).mean(1)
    if differs[:at].mean() > SLIPS:
        raise ProbeError(f"an input at step {at} changed spikes before it")
    if not differs[at + 2 :].any():  # two, because some neurons fire one step after their input
        raise ProbeError(f"an input at step {at} changed no spike after it: time is not stepped")
    if (prepared.hidden(x[:, :1]) != spikes[:, :1]).mean() > SLIPS:
        raise ProbeError("a sample alone gave other spikes than in a batch")
    rate = float(spikes.mean())
    if not PLAUSIBLE[0] <= rate <= PLAUSIBLE[1]:
        raise ProbeError(f"the first layer fires in {rate:.2%} of its steps, outside of 0.5 % to 50 %")
    return rate
