"""Neurons with an exponential upstroke: EIF, and AdEx, which adapts."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..constraints import non_negative, positive, time_constant
from ..fire import Fire
from ..parameters import Input, Noise, Param, State
from .exponential import exponential
from .integration import bounded, decay, rise
from .neuron import Neuron
from .presets import Preset, chosen

# Of the exponent; what is left of the exponential there is nothing.
LOWEST = -30.0


class EIF(Neuron):
    """Exponential integrate-and-fire neuron.

        tau_mem dV/dt = -(V - e_leak) + delta_t exp((V - v_t) / delta_t) + I + b;   a spike of weight w: V += w
        V > v_peak: fire, V = v_reset

    Potentials are in mV, as published, and so is I (a current times the resistance). A constant I fires it above the
    rheobase v_t - e_leak - delta_t. Ports: `impulse` (default), `current` (held over the step). A surrogate's width
    is in mV too: give the layer one of some mV, `sl.SuperSpike(width=5.0)`.

    Integration: second-order exponential Runge-Kutta (Cox & Matthews' ETD2RK), the leak exact, in equal sub-steps. Once
    past v_peak the membrane stands still until the step's end. The exponent is kept where one sub-step raises V by no
    more than 2 |v_peak - v_t| or 7 delta_t, so that values and gradients are finite whatever is learned.

    Args:
        shape, refractory, comparator, learn, dt: see `Neuron`.
        substeps: how many sub-steps the membrane is integrated in within a step (2).
        tau_mem: membrane time constant in s (10 ms).
        e_leak: leak potential in mV (-65).
        v_t: threshold of the upstroke in mV (-59.9). delta_t: its slope factor in mV, above zero (3.48).
        v_peak: where a spike is seen, in mV (-30). v_reset: V after a spike, in mV (-68).
        bias: constant drive b in mV (absent unless given or learned).
        noise: stationary standard deviation in mV that noise gives V far below v_t (absent unless given).
        v_init: membrane potential before the first step, in mV (e_leak).

    Raises:
        TypeError, ValueError: see `Neuron`.
        ValueError: sub-steps that are no whole number above zero.

    Source: Fourcaud-Trocmé et al. 2003, doi:10.1523/JNEUROSCI.23-37-11628.2003; Cox & Matthews 2002,
    doi:10.1006/jcph.2002.6995.

    >>> import torch, spikeloom as sl
    >>> drive = torch.tensor([1.0, 3.0]).expand(500, 1, 2)  # mV; the rheobase is 1.62 mV
    >>> spikes, state = sl.Layer(None, sl.EIF(2), port="current")(drive)
    >>> spikes.sum((0, 1)) > 0
    tensor([False,  True])
    """

    resets = ("zero",)
    many_spikes = False
    structure = ("substeps",)
    tau_mem = Param(10e-3, unit="s", constraint=time_constant)
    e_leak = Param(-65.0, unit="mV")
    v_t = Param(-59.9, unit="mV")
    delta_t = Param(3.48, unit="mV", constraint=positive)
    v_peak = Param(-30.0, unit="mV")
    v_reset = Param(-68.0, unit="mV")
    bias = Param(0.0, unit="mV", optional=True)
    noise = Param(1.0, unit="mV", constraint=non_negative, optional=True)
    v = State("e_leak", unit="mV")
    impulse = Input()
    current = Input("current")
    xi = Noise("normal", amplitude="noise")

    def __init__(self, shape: int | tuple[int, ...] | None = None, *, substeps: int = 2, **options: Any):
        super().__init__(shape, **options)
        if not isinstance(substeps, int) or substeps < 1:
            raise ValueError(f"{type(self).__name__} got substeps={substeps!r}; expected a whole number of 1 or more.")
        self.substeps = substeps

    def coefficients(self, dt: float) -> dict[str, Any]:
        return {**upstroke(self, dt, self.tau_mem, self.bias), "v_peak": self.v_peak}

    @staticmethod
    def step(c: Any, z: Any, x: Any, fire: Fire) -> tuple[Tensor, dict[str, Tensor]]:
        s, v = fire(climb(c, z.v + x.impulse, c.drive + x.current) + c.sigma * x.xi, c.v_peak)
        return s, {"v": v}


def _preset(
    c_m: float, g_leak: float, e_leak: float, a: float, tau_w: float, b: float, v_reset: float, current: float
) -> Preset:
    given = {"c_m": c_m, "g_leak": g_leak, "e_leak": e_leak, "a": a, "tau_w": tau_w, "b": b, "v_reset": v_reset}
    return Preset({**given, "v_t": -50.0, "delta_t": 2.0, "v_peak": 0.0}, current)


class AdEx(EIF):
    """Adaptive exponential integrate-and-fire neuron.

        c_m dV/dt = -g_leak (V - e_leak) + g_leak delta_t exp((V - v_t) / delta_t) - w + I + bias
        tau_w dw/dt = a (V - e_leak) - w;   a spike of weight J: V += J;   V > v_peak: fire, V = v_reset, w = w + b

    Units are those of the papers, so that their parameter sets can be typed: mV, pF, nS, pA; time constants, as
    everywhere, in s. Ports: `impulse` (default, in mV), `current` (in pA, held over the step). A surrogate's width is
    in mV: give the layer one of some mV, `sl.SuperSpike(width=5.0)`.

    Integration: w moves on by half a step with V held, V by a whole one with w held, as in `EIF`, w by the whole step
    with the mean of V before and after: second order. w sees V between v_peak and as far below e_leak as ten times
    the way from e_leak to v_peak, so that it is finite whatever is learned.

    Args:
        shape, refractory, comparator, learn, dt: see `Neuron`.
        substeps: how many sub-steps the membrane is integrated in within a step (2).
        preset: name of a firing pattern, a key of `AdEx.presets`, which holds its parameters and the current in pA:
            tonic spiking, adaptation, initial burst, regular bursting, delayed accelerating, delayed regular
            bursting, transient spiking, irregular spiking. Other arguments replace its values. The values are Naud et
            al.'s as adjusted by P. Müller to match their figures (the set that Brian's example has).
        c_m: capacitance in pF, above zero (281). g_leak: leak conductance in nS, above zero (30).
        e_leak: leak potential in mV (-70.6).
        v_t: threshold of the upstroke in mV (-50.4). delta_t: its slope factor in mV, above zero (2).
        tau_w: time constant of adaptation in s (144 ms).
        a: coupling of adaptation to V in nS (4). b: what a spike adds to w in pA (80.5).
        v_peak: where a spike is seen, in mV (0). v_reset: V after a spike, in mV (-70.6).
        bias: constant current in pA (absent unless given or learned).
        noise: stationary standard deviation in mV that noise gives V far below v_t (absent unless given).
        v_init: V before the first step, in mV (e_leak). w_init: w before it, in pA (0).

    Raises:
        TypeError, ValueError: see `Neuron`.
        ValueError: no preset of that name; sub-steps that are no whole number above zero.

    Source: Brette & Gerstner 2005, doi:10.1152/jn.00686.2005; Naud et al. 2008, doi:10.1007/s00422-008-0264-7.

    >>> import torch, spikeloom as sl
    >>> layer = sl.Layer(None, sl.AdEx(1, preset="adaptation"), port="current")
    >>> spikes, state = layer(torch.full((500, 1, 1), sl.AdEx.presets["adaptation"].current))
    >>> gaps = spikes.flatten().nonzero().flatten().diff()
    >>> bool(gaps[-1] > 2 * gaps[0])
    True
    """

    presets: ClassVar[dict[str, Preset]] = {
        "tonic spiking": _preset(200, 10, -70, 2, 30e-3, 0, -58, 500),
        "adaptation": _preset(200, 12, -70, 2, 300e-3, 60, -58, 500),
        "initial burst": _preset(130, 18, -58, 4, 150e-3, 120, -50, 400),
        "regular bursting": _preset(200, 10, -58, 2, 120e-3, 100, -46, 210),
        "delayed accelerating": _preset(200, 12, -70, -10, 300e-3, 0, -58, 300),
        "delayed regular bursting": _preset(100, 10, -65, -10, 90e-3, 30, -47, 110),
        "transient spiking": _preset(100, 10, -65, 10, 90e-3, 100, -47, 180),
        "irregular spiking": _preset(100, 12, -60, -11, 130e-3, 30, -48, 160),
    }
    tau_mem = None  # c_m / g_leak
    c_m = Param(281.0, unit="pF", constraint=positive)
    g_leak = Param(30.0, unit="nS", constraint=positive)
    e_leak = Param(-70.6, unit="mV")
    v_t = Param(-50.4, unit="mV")
    delta_t = Param(2.0, unit="mV", constraint=positive)
    tau_w = Param(144e-3, unit="s", constraint=time_constant)
    a = Param(4.0, unit="nS")
    b = Param(80.5, unit="pA")
    v_peak = Param(0.0, unit="mV", scale=20.0)
    v_reset = Param(-70.6, unit="mV")
    bias = Param(0.0, unit="pA", optional=True, scale=100.0)
    w = State(Param(0.0, unit="pA", scale=100.0), unit="pA")

    def __init__(self, shape: int | tuple[int, ...] | None = None, *, preset: str | None = None, **options: Any):
        super().__init__(shape, **{**chosen(type(self), self.presets, preset), **options})

    def coefficients(self, dt: float) -> dict[str, Any]:
        # pF / nS = ms; a capacitance that is learned may make the membrane as fast as it likes.
        tau = (1e-3 * self.c_m / self.g_leak).clamp(0.1 * dt, 1e4 * dt)
        return {
            **upstroke(self, dt, tau, self.bias / self.g_leak),
            "resistance": 1 / self.g_leak,
            "half": rise(dt / 2, self.tau_w),
            "whole": rise(dt, self.tau_w),
            "a": self.a,
            "b": self.b,
            "e_leak": self.e_leak,
            "v_floor": self.e_leak - 10 * (self.v_peak - self.e_leak).abs(),
            "v_peak": self.v_peak,
        }

    @staticmethod
    def step(c: Any, z: Any, x: Any, fire: Fire) -> tuple[Tensor, dict[str, Tensor]]:
        v = z.v + x.impulse
        before = bounded(v, c.v_floor, c.v_peak)
        w = z.w + c.half * (c.a * (before - c.e_leak) - z.w)
        v = climb(c, v, c.drive + c.resistance * (x.current - w))
        after = bounded(v, c.v_floor, c.v_peak)
        w = z.w + c.whole * (c.a * (0.5 * (before + after) - c.e_leak) - z.w)
        s, v = fire(v + c.sigma * x.xi, c.v_peak)
        return s, {"v": v, "w": w + c.b * fire.edge(s)}


def upstroke(neuron: EIF, dt: float, tau: Tensor, bias: Any) -> dict[str, Any]:
    """The coefficients of `climb`, for sub-steps of `dt`."""
    h, delta = dt / neuron.substeps, neuron.delta_t
    gain = rise(h, tau)
    way = 2 * (neuron.v_peak - neuron.v_t).abs()
    return {
        "beta": decay(h, tau),
        "gain": gain,
        "second": 1 - gain * tau / h,  # of the nonlinear current's change within the sub-step
        "drive": neuron.e_leak + bias,
        "v_t": neuron.v_t,
        "delta_t": delta,
        "slope": 1 / delta,
        "highest": torch.log(way / (gain * delta) + 1e-9).clamp(2.0, 20.0),
        "sigma": torch.sqrt(rise(dt, tau / 2)) * neuron.noise,
    }


def climb(c: Any, v: Tensor, drive: Tensor) -> Tensor:
    """The membrane after c.substeps sub-steps under a constant drive in mV."""

    def surge(v: Tensor) -> Tensor:
        return c.delta_t * exponential(bounded((v - c.v_t) * c.slope, LOWEST, c.highest))

    for _ in range(c.substeps):
        now = surge(v)
        first = c.beta * v + c.gain * (drive + now)
        new = first + c.second * (surge(first) - now)
        v = torch.where(v > c.v_peak, v, new)
    return v
