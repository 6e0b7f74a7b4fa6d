"""Izhikevich's neuron, with the named firing patterns of his papers."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..constraints import non_negative, positive
from ..fire import Fire
from ..parameters import Input, Noise, Param, State
from .integration import bounded
from .neuron import Neuron
from .presets import Preset, chosen
from .quadratic import riccati

# 0.04 v^2 + 5 v + 140 = 0.04 (v - CENTRE)^2 + LEAST
CENTRE, LEAST = -62.5, -16.25
# The recovery variable sees no membrane below this, so that it stays finite whatever is learned.
V_FLOOR = -1000.0


def _preset(a: float, b: float, c: float, d: float, v_init: float, current: float = 0.0) -> Preset:
    return Preset({"a": a, "b": b, "c": c, "d": d, "v_init": v_init}, current)


class Izhikevich(Neuron):
    """Izhikevich's neuron: quadratic membrane and linear recovery.

        dv/dt = 0.04 v^2 + 5 v + 140 - u + I + bias;   du/dt = a (b v - u);   a spike of weight w: v += w
        v > v_peak: fire, v = c, u = u + d

    Units are the paper's, so that its parameter sets can be typed: v in mV, time in these equations in ms; I and u in
    mV/ms. Only dt, as everywhere, is in s. The papers use steps of 0.25 to 1 ms. Ports: `impulse` (default), `current`
    (held over the step). A surrogate's width is in mV too: give the layer one of some mV, `sl.SuperSpike(width=10.0)`.

    Integration: u moves on by half a step with v held, v by a whole one with u held, exactly (see `QIF`; no half steps
    are needed), u by the whole step with the mean of v before and after: second order. Where v passes infinity within
    the step it stays at v_peak + 100.

    Args:
        shape, refractory, comparator, learn, dt: see `Neuron`.
        preset: name of a firing pattern, a key of `Izhikevich.presets`, which holds its parameters and the current of
            the figure. Cells of the 2003 paper: regular spiking, intrinsically bursting, chattering, fast spiking,
            low-threshold spiking, thalamo-cortical, resonator. Features of the 2004 paper: tonic spiking, phasic
            spiking, tonic bursting, phasic bursting, mixed mode, spike frequency adaptation, class 2, spike latency,
            subthreshold oscillations, rebound spike, rebound burst, bistability. Other arguments replace its values.
            (Of 2004's twenty, those are left out that have another equation, a negative `a`, or need Euler's errors.)
        a: rate of recovery, in 1/ms, above zero (0.02).
        b: sensitivity of recovery to v, in 1/ms (0.2).
        c: v after a spike, in mV (-65).
        d: what a spike adds to u, in mV/ms (8).
        v_peak: where a spike is seen, in mV (30).
        bias: constant current, in mV/ms (absent unless given or learned).
        noise: standard deviation that noise adds to v in one second, in mV, growing with the square root of time
            (absent).
        v_init: v before the first step, in mV (-65). u_init: u before it (b v_init).

    Raises:
        TypeError, ValueError: see `Neuron`.
        ValueError: no preset of that name.

    Source: Izhikevich 2003, doi:10.1109/TNN.2003.820440; 2004, doi:10.1109/TNN.2004.832719.

    >>> import torch, spikeloom as sl
    >>> layer = sl.Layer(None, sl.Izhikevich(1, preset="fast spiking"), port="current")
    >>> spikes, state = layer(torch.full((200, 1, 1), sl.Izhikevich.presets["fast spiking"].current))
    >>> int(spikes.sum()) > 20
    True
    """

    presets: ClassVar[dict[str, Preset]] = {
        "regular spiking": _preset(0.02, 0.2, -65, 8, -63, 14),
        "intrinsically bursting": _preset(0.02, 0.2, -55, 4, -70, 11),
        "chattering": _preset(0.02, 0.2, -50, 2, -70, 10),
        "fast spiking": _preset(0.1, 0.2, -65, 2, -70, 10),
        "low-threshold spiking": _preset(0.02, 0.25, -65, 2, -63, 10),
        "thalamo-cortical": _preset(0.02, 0.25, -65, 0.05, -63, 1.5),
        "resonator": _preset(0.1, 0.26, -65, 2, -70),
        "tonic spiking": _preset(0.02, 0.2, -65, 6, -70, 14),
        "phasic spiking": _preset(0.02, 0.25, -65, 6, -64, 0.5),
        "tonic bursting": _preset(0.02, 0.2, -50, 2, -70, 15),
        "phasic bursting": _preset(0.02, 0.25, -55, 0.05, -64, 0.6),
        "mixed mode": _preset(0.02, 0.2, -55, 4, -70, 10),
        "spike frequency adaptation": _preset(0.01, 0.2, -65, 8, -70, 30),
        "class 2": _preset(0.2, 0.26, -65, 0, -64),
        "spike latency": _preset(0.02, 0.2, -65, 6, -70),
        "subthreshold oscillations": _preset(0.05, 0.26, -60, 0, -62),
        "rebound spike": _preset(0.03, 0.25, -60, 4, -64),
        "rebound burst": _preset(0.03, 0.25, -52, 0, -64),
        "bistability": _preset(0.1, 0.26, -60, 0, -61, 0.24),
    }
    resets = ("zero",)
    many_spikes = False
    a = Param(0.02, unit="1/ms", constraint=positive)
    b = Param(0.2, unit="1/ms")
    c = Param(-65.0, unit="mV")
    d = Param(8.0, unit="mV/ms")
    v_peak = Param(30.0, unit="mV")
    bias = Param(0.0, unit="mV/ms", optional=True)
    noise = Param(10.0, unit="mV/sqrt(s)", constraint=non_negative, optional=True)
    v = State(-65.0, unit="mV")
    u = State(lambda neuron: neuron.b * neuron.v_init, unit="mV/ms")
    impulse = Input()
    current = Input("current")
    xi = Noise("normal", amplitude="noise")

    def __init__(self, shape: int | tuple[int, ...] | None = None, *, preset: str | None = None, **options: Any):
        super().__init__(shape, **{**chosen(type(self), self.presets, preset), **options})

    def coefficients(self, dt: float) -> dict[str, Any]:
        h = 1e3 * dt
        half, whole = (-torch.expm1(-self.a * h * part) for part in (0.5, 1.0))
        return {
            "half": half,
            "whole": whole,
            "b": self.b,
            "d": self.d,
            "drive": 0.04 * (LEAST + self.bias),
            "h": h,
            "top": 0.04 * (self.v_peak + 100 - CENTRE),
            "sigma": dt**0.5 * self.noise,
            "v_peak": self.v_peak,
            "v_reset": self.c,
        }

    @staticmethod
    def step(c: Any, z: Any, x: Any, fire: Fire) -> tuple[Tensor, dict[str, Tensor]]:
        v = z.v + x.impulse + c.sigma * x.xi
        before = bounded(v, V_FLOOR, c.v_peak)
        u = z.u + c.half * (c.b * before - z.u)
        new = CENTRE + 25 * riccati(0.04 * (v - CENTRE), 0.04 * (x.current - u) + c.drive, c.h, c.top)
        after = bounded(new, V_FLOOR, c.v_peak)
        u = z.u + c.whole * (c.b * (0.5 * (before + after)) - z.u)
        s, v = fire(new, c.v_peak)
        return s, {"v": v, "u": u + c.d * fire.edge(s)}
