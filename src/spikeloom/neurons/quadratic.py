"""The quadratic integrate-and-fire neuron, and the solution of its equation over a step, which Izhikevich's shares."""

from typing import Any

import torch
from torch import Tensor

from ..constraints import non_negative, positive, time_constant
from ..fire import Fire
from ..parameters import Input, Noise, Param, State
from .neuron import Neuron

# Of the tangent below: its pole is at pi^2 / 4, and from there to -12 it rises with x and keeps below 1 / sqrt(-x).
LOWEST, HIGHEST = -12.0, 2.0


class QIF(Neuron):
    """Quadratic integrate-and-fire neuron.

        tau_mem dV/dt = a_0 (V - v_rest) (V - v_crit) + I + b;   a spike of weight w: V += w
        V > v_peak: fire, V = v_reset

    Without input V returns to v_rest from below v_crit, and fires from above it. Ports: `impulse` (default), `current`
    (held over the step).

    Integration: with y = a_0 (V - (v_rest + v_crit) / 2) the equation is tau_mem dy/dt = y^2 + J, whose solution over a
    step is y' = (y + J k) / (1 - y k) with k = tan(sqrt(J) dt/tau_mem) / sqrt(J). It is exact but for the tangent, a
    rational approximation within 1e-9 where |J| (dt/tau_mem)^2 < 0.3 and 1e-6 where it is below 1; J is kept between
    -12 and 2 (tau_mem/dt)^2, beyond which a neuron fires in every other step. Where V passes infinity within the step
    it stays above v_peak: at twice the way from v_reset to v_peak.

    Args:
        shape, refractory, comparator, learn, dt: see `Neuron`.
        tau_mem: membrane time constant in s (20 ms).
        v_rest, v_crit: the resting and the critical potential (0 and 1).
        a_0: curvature, more than zero, in 1 / unit of V (1).
        v_peak: where a spike is seen (10). v_reset: where the membrane goes after it (0).
        bias: constant current b, in units of V (absent unless given or learned).
        noise: standard deviation that noise adds to V in one second, growing with the square root of time (absent).
        v_init: membrane potential before the first step (v_rest).

    Raises:
        TypeError, ValueError: see `Neuron`.

    Source: Gerstner et al. 2014, Neuronal Dynamics, section 5.3; Ermentrout & Kopell 1986, doi:10.1137/0146017.

    >>> import torch, spikeloom as sl
    >>> spikes, state = sl.Layer(None, sl.QIF(1), port="current")(torch.full((100, 1, 1), 1.0))
    >>> int(spikes.sum())
    2
    """

    resets = ("zero",)
    many_spikes = False
    tau_mem = Param(20e-3, unit="s", constraint=time_constant)
    v_rest = Param(0.0)
    v_crit = Param(1.0)
    a_0 = Param(1.0, constraint=positive)
    v_peak = Param(10.0)
    v_reset = Param(0.0)
    bias = Param(0.0, optional=True)
    noise = Param(1.0, unit="1/sqrt(s)", constraint=non_negative, optional=True)
    v = State("v_rest")
    impulse = Input()
    current = Input("current")
    xi = Noise("normal", amplitude="noise")

    def coefficients(self, dt: float) -> dict[str, Any]:
        way = (self.v_peak - self.v_reset).abs()
        return {
            "a_0": self.a_0,
            "centre": (self.v_rest + self.v_crit) / 2,
            "drive": self.a_0 * self.bias - (self.a_0 * (self.v_crit - self.v_rest) / 2) ** 2,
            "h": dt / self.tau_mem,
            "v_top": self.v_peak + way,
            "sigma": dt**0.5 * self.noise,
            "v_peak": self.v_peak,
        }

    @staticmethod
    def step(c: Any, z: Any, x: Any, fire: Fire) -> tuple[Tensor, dict[str, Tensor]]:
        y = c.a_0 * (z.v + x.impulse + c.sigma * x.xi - c.centre)
        v = c.centre + riccati(y, c.a_0 * x.current + c.drive, c.h, c.a_0 * (c.v_top - c.centre)) / c.a_0
        s, v = fire(v, c.v_peak)
        return s, {"v": v}


def riccati(y: Tensor, j: Tensor, h: Tensor, top: Tensor) -> Tensor:
    """The solution of dy/dt = y^2 + j after a time h, or `top` where it is above that or has passed infinity."""
    x = (j * (h * h)).clamp(LOWEST, HIGHEST)
    j = x / (h * h)
    square = x * x
    k = h * ((945 - 105 * x + square) / (945 - 420 * x + 15 * square))  # tan(sqrt(x)) / sqrt(x), also where x < 0
    numerator, denominator = y + j * k, 1 - y * k
    passed = (denominator <= 0) | (numerator > top * denominator)
    return torch.where(passed, top, numerator / torch.where(passed, torch.ones_like(denominator), denominator))
