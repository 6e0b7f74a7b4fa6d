"""Exact propagators of linear membranes and synapses over one step, in float64; bounds within a step."""

from typing import Any

import torch
from torch import Tensor


def decay(dt: float, tau: Tensor) -> Tensor:
    """exp(-dt / tau)."""
    return torch.exp(-dt / tau)


def rise(dt: float, tau: Tensor) -> Tensor:
    """1 - exp(-dt / tau), without cancellation."""
    return -torch.expm1(-dt / tau)


def synaptic_gain(dt: float, tau_mem: Tensor, tau_syn: Tensor) -> Tensor:
    """What a synaptic current of 1 at the start of a step adds to the membrane by its end.

    gain = tau_syn / (tau_mem - tau_syn) * (exp(-dt/tau_mem) - exp(-dt/tau_syn)), whose limit at equal time constants is
    dt/tau exp(-dt/tau). Written as dt/tau_mem exp(-dt/tau_syn) phi(d) with phi(d) = (e^d - 1) / d and
    d = dt/tau_syn - dt/tau_mem, it is smooth there, and so is its gradient.
    """
    d = dt / tau_syn - dt / tau_mem
    near = d.abs() < 1e-2
    safe = torch.where(near, torch.ones_like(d), d)
    # The next term of the series is below one part in 10^15 where it is used.
    series = 1 + d / 2 * (1 + d / 3 * (1 + d / 4 * (1 + d / 5 * (1 + d / 6 * (1 + d / 7)))))
    phi = torch.where(near, series, torch.expm1(safe) / safe)
    return dt / tau_mem * torch.exp(-dt / tau_syn) * phi


def bounded(v: Tensor, low: Any, high: Any) -> Tensor:
    """`v` between coefficients: torch's clamp takes numbers alone, or changes tensors in place on the way back."""
    v = torch.where(v < high, v, high)
    return torch.where(v > low, v, low)
