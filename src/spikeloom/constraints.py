"""Ranges that a parameter can never leave, whatever an optimiser does to the tensor it sees."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Constraint:
    """A range [low, high], and the map from an unconstrained tensor into it.

    With g the identity, or the logarithm where `logarithmic`, and `room` the distance in g from the initial value to
    the bound that lies in the direction of `raw`:

        g(value) = g(initial) + m / (1 + |m| / room),    m = scale * raw   (scale = 1 where logarithmic)

    raw = 0 is the initial value, the slope there is the scale whatever the range, and far out it falls as 1 / raw^2
    only, so that a parameter thrown to its bound by one bad step finds its way back.

    Args:
        low, high: bounds in the parameter's unit, or in steps where `in_steps`.
        logarithmic: moves are relative (for quantities that span decades).
        in_steps: 1 where the bounds are multiples of dt, -1 where they are multiples of 1/dt, 0 where of neither.
    """

    low: float = -math.inf
    high: float = math.inf
    logarithmic: bool = False
    in_steps: int = 0

    def bounds(self, dt: float) -> tuple[float, float]:
        """The range in the parameter's unit at time step `dt` (s)."""
        unit = dt**self.in_steps
        return self.low * unit, self.high * unit

    def default_scale(self, value: float) -> float:
        """What one unit of the raw tensor moves, where the declaration does not say."""
        if self.logarithmic:
            return 1.0
        if math.isfinite(self.high - self.low):
            return (self.high - self.low) / 4
        return abs(value) or 1.0

    def contains(self, value: Tensor, dt: float, *, strictly: bool = False) -> bool:
        low, high = self.bounds(dt)
        inside = (value > low) & (value < high) if strictly else (value >= low) & (value <= high)
        return bool((inside & value.isfinite()).all())

    def apply(self, raw: Tensor, initial: Tensor, scale: float, dt: float) -> Tensor:
        """The constrained value, float64, differentiable in `raw`."""
        # The clamp keeps inf / inf away; no optimiser comes near it with finite gradients.
        move = scale * raw.double().clamp(-1e30, 1e30)
        low, high = self.bounds(dt)
        if self.low == -math.inf and self.high == math.inf:
            return initial + move
        centre = initial.log() if self.logarithmic else initial
        lowest, highest = (math.log(low), math.log(high)) if self.logarithmic else (low, high)
        room = torch.where(move >= 0, highest - centre, centre - lowest)
        # At a bound there is no room on one side, and 0 / 0 would be no number.
        tight = torch.where(room > 0, room, 1.0)
        moved = centre + torch.where(room > 0, move / (1 + move.abs() / tight), 0.0)
        # exp(log(x)) is not x to the last bit, and an untrained parameter is to be what was asked for, exactly.
        value = initial * torch.exp(moved - centre) if self.logarithmic else moved
        # Rounding may pass a bound by one bit. (The initial value was checked; it counts as inside.)
        return torch.minimum(torch.maximum(value, initial.clamp(max=low)), initial.clamp(min=high))

    def numbers(self) -> tuple[float, float, float, float]:
        """The constraint as numbers, to be saved and compared."""
        return self.low, self.high, float(self.logarithmic), float(self.in_steps)

    def describe(self, dt: float) -> str:
        low, high = self.bounds(dt)
        unit = {1: f"steps of dt = {dt:g} s", -1: f"in one step of dt = {dt:g} s"}.get(self.in_steps)
        steps = f", which is {self.low:g} to {self.high:g} {unit}" if unit else ""
        return f"from {low:g} to {high:g}{steps}"


unconstrained = Constraint()
non_negative = Constraint(0.0)
positive = Constraint(1e-30, 1e30, logarithmic=True)
unit_interval = Constraint(0.0, 1.0)
time_constant = Constraint(0.1, 1e4, logarithmic=True, in_steps=1)


def between(low: float, high: float, *, logarithmic: bool = False) -> Constraint:
    """The range [low, high], in the unit of the parameter.

    Args:
        low, high: the bounds.
        logarithmic: True for quantities that span decades; needs low > 0.

    Raises:
        ValueError: an empty range, or a logarithmic one that reaches zero.

    >>> import spikeloom as sl
    >>> slow = sl.Param(20e-3, unit="s", constraint=sl.between(11e-3, 1.0, logarithmic=True))
    >>> round(sl.LIF(10, tau_mem=slow, learn="tau_mem").tau_mem.item(), 6)
    0.02
    """
    if not low < high:
        raise ValueError(f"between({low}, {high}) is empty; expected low < high.")
    if logarithmic and low <= 0:
        raise ValueError(f"between({low}, {high}, logarithmic=True) reaches zero; expected low > 0.")
    return Constraint(low, high, logarithmic)
