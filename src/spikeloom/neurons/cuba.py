"""Current-based neurons: input spikes raise a synaptic current that decays and drives the membrane."""

from typing import Any

import torch
from torch import Tensor

from ..constraints import non_negative, time_constant
from ..fire import Fire
from ..parameters import Input, Noise, Param, State
from .integration import decay, rise, synaptic_gain
from .neuron import Neuron


class CubaLI(Neuron):
    """Current-based leaky integrator: a synapse and a membrane that never fires, for readouts. Its output is V.

        tau_syn dI/dt = -I;   tau_mem dV/dt = -V + I + b;   a spike of weight w: I += w

    Ports: `impulse` (default), `current` (enters the synapse, tau_syn dI/dt = -I + x, held over the step). Exact over a
    step, also at tau_syn = tau_mem: V' = beta V + gain (I + w) + (1 - beta) b and I' = alpha (I + w), with
    alpha = exp(-dt/tau_syn), beta = exp(-dt/tau_mem), gain = tau_syn / (tau_mem - tau_syn) (beta - alpha).

    Args:
        shape, learn, dt: see `Neuron`.
        tau_mem: membrane time constant in s (20 ms).
        tau_syn: synaptic time constant in s (5 ms).
        bias: constant current b, in units of V (absent unless given or learned).
        noise: stationary standard deviation that noise gives V (absent unless given).
        i_init, v_init: current and membrane potential before the first step (0).

    Raises:
        TypeError, ValueError: see `Neuron`.

    Source: Rotter & Diesmann 1999, doi:10.1007/s004220050570 (exact integration).

    >>> import torch, spikeloom as sl
    >>> v, state = sl.Layer(torch.nn.Linear(8, 3, bias=False), sl.CubaLI(3))(torch.ones(10, 2, 8))
    >>> v.shape
    torch.Size([10, 2, 3])
    """

    spiking = False
    resets = ("none",)
    tau_mem = Param(20e-3, unit="s", constraint=time_constant)
    tau_syn = Param(5e-3, unit="s", constraint=time_constant)
    bias = Param(0.0, optional=True)
    noise = Param(0.1, constraint=non_negative, optional=True)
    i = State()
    v = State()
    impulse = Input()
    current = Input("current")
    xi = Noise("normal", amplitude="noise")

    def coefficients(self, dt: float) -> dict[str, Any]:
        gain, lift = synaptic_gain(dt, self.tau_mem, self.tau_syn), rise(dt, self.tau_mem)
        return {
            "alpha": decay(dt, self.tau_syn),
            "beta": decay(dt, self.tau_mem),
            "gain": gain,
            "fill": rise(dt, self.tau_syn),
            "direct": lift - gain,
            "drive": lift * self.bias,
            # An Ornstein-Uhlenbeck process of stationary deviation sigma, exact over a step.
            "sigma": torch.sqrt(rise(dt, self.tau_mem / 2)) * self.noise,
        }

    @staticmethod
    def step(c: Any, z: Any, x: Any, fire: Fire) -> tuple[Tensor, dict[str, Tensor]]:
        i, v = synapse_and_membrane(c, z, x)
        return v, {"i": i, "v": v}


class CubaLIF(CubaLI):
    """Current-based leaky integrate-and-fire neuron.

        tau_syn dI/dt = -I;   tau_mem dV/dt = -V + I + b;   a spike of weight w: I += w;   V > v_th: fire, reset

    Ports and integration as in `CubaLI`; fires and resets in the same step.

    Args:
        shape, reset, refractory, max_spikes, comparator, learn, dt: see `Neuron`.
        tau_mem: membrane time constant in s (20 ms).
        tau_syn: synaptic time constant in s (5 ms).
        v_th: threshold (1). v_reset: where reset="zero" puts the membrane (0).
        bias: constant current b, in units of V (absent unless given or learned).
        noise: stationary standard deviation that noise gives V (absent unless given).
        i_init, v_init: current and membrane potential before the first step (0).

    Raises:
        TypeError, ValueError: see `Neuron`.

    Source: Rotter & Diesmann 1999, doi:10.1007/s004220050570 (exact integration).

    >>> import torch, spikeloom as sl
    >>> neuron = sl.CubaLIF(3, tau_mem=sl.LogNormal(20e-3, 0.2), learn=("tau_mem", "v_th"))
    >>> spikes, state = sl.Layer(torch.nn.Linear(8, 3, bias=False), neuron)(torch.ones(10, 2, 8))
    >>> spikes.shape, state.neuron.i.shape
    (torch.Size([10, 2, 3]), torch.Size([2, 3]))
    """

    spiking = True
    resets = ("subtract", "zero", "none")
    v_th = Param(1.0)
    v_reset = Param(0.0)

    def coefficients(self, dt: float) -> dict[str, Any]:
        return {**super().coefficients(dt), "v_th": self.v_th}

    @staticmethod
    def step(c: Any, z: Any, x: Any, fire: Fire) -> tuple[Tensor, dict[str, Tensor]]:
        i, v = synapse_and_membrane(c, z, x)
        s, v = fire(v, c.v_th)
        return s, {"i": i, "v": v}


def synapse_and_membrane(c: Any, z: Any, x: Any) -> tuple[Tensor, Tensor]:
    """Synaptic current and membrane potential at the end of a step, before any spike."""
    i = z.i + x.impulse
    v = c.beta * z.v + c.gain * i + c.direct * x.current + c.drive + c.sigma * x.xi
    return c.alpha * i + c.fill * x.current, v
