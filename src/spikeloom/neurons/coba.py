"""A neuron whose synapses are conductances: CobaLIF."""

from typing import Any

from torch import Tensor

from ..constraints import non_negative, time_constant
from ..fire import Fire
from ..parameters import Input, Noise, Param, State
from .exponential import exponential
from .integration import decay, rise
from .neuron import Neuron


class CobaLIF(Neuron):
    """Conductance-based leaky integrate-and-fire neuron, excited and inhibited.

        tau_mem dV/dt = e_leak - V + g_exc (e_exc - V) + g_inh (e_inh - V) + I + b;   V > v_th: fire, reset
        tau_exc dg_exc/dt = -g_exc,   tau_inh dg_inh/dt = -g_inh;   a spike of weight w: g += w

    Conductances are in units of the leak's, potentials in mV, I and b in mV (a current times the resistance). A
    conductance is never below zero: negative weights lower it as far as that. Ports: `exc` (default), `inh` (impulses),
    `current` (held over the step). A surrogate's width is in mV too: `sl.SuperSpike(width=5.0)`.

    Integration: conductances exactly; the membrane by exponential Euler with their mean over the step, V' = V_inf +
    (V - V_inf) exp(-G dt/tau_mem), G = 1 + g_exc + g_inh: exact where conductances are constant, and never past V_inf.

    Args:
        shape, refractory, comparator, learn, dt: see `Neuron`.
        reset: "zero" (default; to v_reset), "subtract" (v_th - v_reset) or "none".
        tau_mem: membrane time constant in s (20 ms).
        tau_exc, tau_inh: time constants of the conductances in s (5 and 10 ms).
        e_leak, e_exc, e_inh: reversal potentials in mV (-60, 0, -80).
        v_th: threshold in mV (-50). v_reset: where a reset puts the membrane, in mV (-60).
        bias: constant drive b in mV (absent unless given or learned).
        noise: stationary standard deviation in mV that noise gives V without conductances (absent unless given).
        g_exc_init, g_inh_init: conductances before the first step (0).
        v_init: membrane potential before it, in mV (e_leak).

    Raises:
        TypeError, ValueError: see `Neuron`.

    Source: Vogels & Abbott 2005, doi:10.1523/JNEUROSCI.3508-05.2005; Brette et al. 2007,
    doi:10.1007/s10827-007-0038-6 (benchmark 1).

    >>> import torch, spikeloom as sl
    >>> neuron = sl.CobaLIF(3)
    >>> layer = sl.Layer({"exc": torch.nn.Linear(8, 3, bias=False), "inh": torch.nn.Linear(2, 3, bias=False)}, neuron)
    >>> spikes, state = layer({"exc": torch.ones(10, 1, 8), "inh": torch.ones(10, 1, 2)})
    >>> state.neuron._fields[:3]
    ('g_exc', 'g_inh', 'v')
    """

    resets = ("zero", "subtract", "none")
    many_spikes = False
    tau_mem = Param(20e-3, unit="s", constraint=time_constant)
    tau_exc = Param(5e-3, unit="s", constraint=time_constant)
    tau_inh = Param(10e-3, unit="s", constraint=time_constant)
    e_leak = Param(-60.0, unit="mV")
    e_exc = Param(0.0, unit="mV", scale=60.0)
    e_inh = Param(-80.0, unit="mV")
    v_th = Param(-50.0, unit="mV")
    v_reset = Param(-60.0, unit="mV")
    bias = Param(0.0, unit="mV", optional=True)
    noise = Param(1.0, unit="mV", constraint=non_negative, optional=True)
    g_exc = State()
    g_inh = State()
    v = State("e_leak", unit="mV")
    exc = Input()
    inh = Input()
    current = Input("current")
    xi = Noise("normal", amplitude="noise")

    def coefficients(self, dt: float) -> dict[str, Any]:
        return {
            "fall_exc": decay(dt, self.tau_exc),
            "fall_inh": decay(dt, self.tau_inh),
            "mean_exc": rise(dt, self.tau_exc) * self.tau_exc / dt,
            "mean_inh": rise(dt, self.tau_inh) * self.tau_inh / dt,
            "h": dt / self.tau_mem,
            "rest": self.e_leak + self.bias,
            "e_exc": self.e_exc,
            "e_inh": self.e_inh,
            "sigma": (rise(dt, self.tau_mem / 2)).sqrt() * self.noise,
            "v_th": self.v_th,
            "way": self.v_th - self.v_reset,
        }

    @staticmethod
    def step(c: Any, z: Any, x: Any, fire: Fire) -> tuple[Tensor, dict[str, Tensor]]:
        exc, inh = (z.g_exc + x.exc).clamp(min=0.0), (z.g_inh + x.inh).clamp(min=0.0)
        g_exc, g_inh = c.mean_exc * exc, c.mean_inh * inh
        total = 1 + g_exc + g_inh
        limit = (c.rest + g_exc * c.e_exc + g_inh * c.e_inh + x.current) / total
        v = limit + (z.v - limit) * exponential((-c.h * total).clamp(min=-30.0)) + c.sigma * x.xi
        s, v = fire(v, c.v_th, subtract=c.way)
        return s, {"g_exc": c.fall_exc * exc, "g_inh": c.fall_inh * inh, "v": v}
