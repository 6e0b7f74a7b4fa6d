"""`fire`: comparator, surrogate, spikes per step, reset and refractory hold, in one place."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .surrogates import SpikeFunction


class Fire:
    """What a neuron's `step` calls to fire: `s, v = fire(v, threshold)`.

    A new one is made for every step. The spikes that cause the reset pass through `edge`, the one place where a
    gradient rule changes how gradients travel through the reset; a neuron whose reset moves other states as well
    passes them through it too: `u = u + c.d * fire.edge(s)`.

    Args:
        surrogate: the spike and its derivative.
        reset: "subtract", "zero" or "none" ("map" where the neuron gives its own reset).
        v_reset: where "zero" puts the membrane.
        reset_edge: "flow" or "detach": whether gradients pass from the reset into the spikes that caused it.
        held: (steps left in the refractory period, membrane to hold), or None.
        max_spikes: most spikes a neuron fires in a step.
        comparator: ">" or ">=".
    """

    def __init__(
        self,
        surrogate: SpikeFunction,
        *,
        reset: str,
        v_reset: Any = 0.0,
        reset_edge: str = "flow",
        held: tuple[Tensor, Tensor] | None = None,
        max_spikes: int = 1,
        comparator: str = ">",
    ):
        self.surrogate, self.reset, self.v_reset, self.reset_edge = surrogate, reset, v_reset, reset_edge
        self.held, self.max_spikes, self.comparator = held, max_spikes, comparator
        self.spikes: Tensor | None = None
        self.before_reset: Tensor | None = None
        self.fired: Tensor | None = None

    def edge(self, spikes: Tensor) -> Tensor:
        """Spikes on their way to a reset."""
        return spikes.detach() if self.reset_edge == "detach" else spikes

    def __call__(
        self,
        v: Tensor,
        threshold: Any,
        *,
        subtract: Any = None,
        reset: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Spikes of this step and the membrane after the reset.

        Args:
            v: membrane potential at the end of the step, before any reset.
            threshold: what it must pass.
            subtract: what a spike takes away under reset="subtract" (default: the threshold).
            reset: the neuron's own reset, a function (v, s) -> v, for reset="map".
        """
        if self.spikes is not None:
            raise RuntimeError("fire was called twice in one step; a neuron fires once per step.")
        if self.held is not None:
            left, before = self.held
            v = torch.where(left > 0, before, v)
        u = v - threshold
        s = self.surrogate(u, self.comparator)
        for count in range(2, self.max_spikes + 1):
            s = s + self.surrogate(v - count * threshold, self.comparator)
        if self.held is not None:
            awake = self.held[0] <= 0
            # Not s > 0: a graded output is never zero, and the refractory period begins where the threshold is passed.
            self.fired = awake & ((u >= 0) if self.comparator == ">=" else (u > 0))
            s = torch.where(awake, s, torch.zeros_like(s))
        self.spikes, self.before_reset = s, v
        return s, self._reset(v, self.edge(s), threshold if subtract is None else subtract, reset)

    def _reset(self, v: Tensor, s: Tensor, amount: Any, reset: Callable[[Tensor, Tensor], Tensor] | None) -> Tensor:
        if self.reset == "none":
            return v
        if self.reset == "map":
            if reset is None:
                raise TypeError("this neuron declares its own reset but calls fire(v, threshold) without reset=.")
            return reset(v, s)
        if self.reset == "subtract":
            return v - s * amount
        if self.max_spikes > 1:
            s = s.clamp(max=1)
        # With s in {0, 1} this is exactly v or exactly v_reset, in any precision.
        return (1 - s) * v + s * self.v_reset
