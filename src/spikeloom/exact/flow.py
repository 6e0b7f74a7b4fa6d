"""Between two events: the closed form of membrane, current and adaptation, and where it meets its threshold."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray
Function = Callable[[Array], Array]


class Rates(NamedTuple):
    """Numbers of N neurons, [N] each: 1 / tau_mem, 1 / tau_syn, 1 / tau_adapt, bias and threshold."""

    mem: Array
    syn: Array
    adapt: Array
    bias: Array
    v_th: Array


def response(h: Tensor, tau_mem: Tensor, tau_syn: Tensor) -> Tensor:
    """What a current of 1 makes of a membrane of 0 after a time h: tau_syn / (tau_mem - tau_syn) (e^(-h/tau_mem) -
    e^(-h/tau_syn)), smooth where the time constants are equal, and without overflow."""
    slow, gap = torch.maximum(tau_mem, tau_syn), h * (1 / tau_syn - 1 / tau_mem).abs()
    near = gap < 1e-2
    if not bool(near.any()):
        return h / tau_mem * torch.exp(-h / slow) * -torch.expm1(-gap) / gap
    safe = torch.where(near, torch.ones_like(gap), gap)
    series = 1 - gap / 2 * (1 - gap / 3 * (1 - gap / 4 * (1 - gap / 5 * (1 - gap / 6 * (1 - gap / 7)))))
    return h / tau_mem * torch.exp(-h / slow) * torch.where(near, series, -torch.expm1(-safe) / safe)


def first_crossing(v: Array, i: Array, a: Array, r: Rates, free: Array, span: float) -> tuple[float, int] | None:
    """When, within `span`, which of the free neurons first meets its threshold from below.

    With one sum of exponentials for each neuron,

        f(t) = V(t) - v_th - a e^(-t/tau_adapt),   f' e^(t/tau_mem) = h(t),   h' = two exponentials,

    h' has at most one root, which is known; between it and the ends h is monotone, so each root of h is bracketed; and
    between those f is monotone. So no crossing is missed, however short.
    """
    free = free & (_highest(v, i, r) >= r.v_th + np.minimum(a, 0.0))
    if span <= 0 or not free.any():
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        bend = np.log(-a * r.adapt * (r.adapt - r.mem) / (i * r.mem * r.syn)) / (r.adapt - r.syn)
    bend = np.where(np.isfinite(bend), np.clip(bend, 0.0, span), span)
    zero, end = np.zeros_like(v), np.full_like(v, span)

    def slope(t: Array) -> Array:
        fall = np.exp(-r.mem * t) * r.mem
        return (
            fall * (r.bias - v)
            + i * r.mem * (np.exp(-r.syn * t) - r.mem * _kappa(t, r))
            + a * r.adapt * np.exp(-r.adapt * t)
        )

    def f(t: Array) -> Array:
        membrane = r.bias + (v - r.bias) * np.exp(-r.mem * t) + i * r.mem * _kappa(t, r)
        return membrane - r.v_th - a * np.exp(-r.adapt * t)

    first, second = _turn(slope, zero, bend), _turn(slope, bend, end)
    found = np.full_like(v, np.inf)
    for low, high in ((second, end), (first, second), (zero, first)):
        crosses = free & (f(low) < 0) & (f(high) >= 0)
        if crosses.any():
            found = np.where(crosses, _rise(f, slope, low, high, crosses), found)
    n = int(np.argmin(found))
    return (float(found[n]), n) if np.isfinite(found[n]) else None


def _highest(v: Array, i: Array, r: Rates) -> Array:
    """A bound of the membrane: the peak of a current's response is q^(-q/(q-1)), q = tau_mem / tau_syn."""
    q = r.syn / r.mem
    q = np.where(np.abs(q - 1) < 1e-3, 1.001, q)
    return np.maximum(v, r.bias) + 1.01 * np.maximum(i, 0.0) * q ** (-q / (q - 1))


def _kappa(t: Array, r: Rates) -> Array:
    """(e^(-r_mem t) - e^(-r_syn t)) / (r_syn - r_mem)."""
    gap = np.abs(r.syn - r.mem) * t
    safe = np.where(gap < 1e-8, 1.0, gap)
    return t * np.exp(-np.minimum(r.mem, r.syn) * t) * np.where(gap < 1e-8, 1 - gap / 2, -np.expm1(-safe) / safe)


def _turn(slope: Function, low: Array, high: Array) -> Array:
    """Where slopes that are monotone change sign, or else the upper end. f is flat there: 1e-10 of the interval will
    do."""
    begin = slope(low) < 0
    changes = begin != (slope(high) < 0)
    bottom = high
    for _ in range(34 if changes.any() else 0):
        middle = 0.5 * (low + bottom)
        same = (slope(middle) < 0) == begin
        low, bottom = np.where(same, middle, low), np.where(same, bottom, middle)
    return np.where(changes, bottom, high)


def _rise(f: Function, slope: Function, low: Array, high: Array, wanted: Array) -> Array:
    """Where functions rise through 0, by Newton's steps, and halves of the interval where those lead out of it."""
    t = 0.5 * (low + high)
    for _ in range(200):
        value = f(t)
        low, high = np.where(value < 0, t, low), np.where(value < 0, high, t)
        with np.errstate(divide="ignore", invalid="ignore"):
            after = t - value / slope(t)
        after = np.where((after > low) & (after < high), after, 0.5 * (low + high))
        small = np.abs(after - t) <= 1e-10 * high  # Newton's next step would be the square of it
        t = after
        if small[wanted].all():
            break
    return t
