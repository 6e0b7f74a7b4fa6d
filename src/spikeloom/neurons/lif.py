"""Neurons whose membrane the input reaches directly: IF, LI, LIF."""

from typing import Any

import torch
from torch import Tensor

from ..constraints import non_negative, time_constant
from ..fire import Fire
from ..parameters import Input, Noise, Param, State
from .integration import decay, rise
from .neuron import Neuron


class IF(Neuron):
    """Integrate-and-fire neuron without leak.

        dV/dt = I + b;   a spike of weight w: V += w;   V > v_th: fire, reset

    Ports: `impulse` (default), `current` (1/s, held over the step). Exact over a step.

    Args:
        shape, reset, refractory, max_spikes, comparator, learn, dt: see `Neuron`.
        v_th: threshold (default 1). v_reset: where reset="zero" puts the membrane (0).
        bias: constant drive b in 1/s (absent unless given or learned).
        noise: standard deviation that noise adds to V in one second, growing with the square root of time (absent).
        v_init: membrane potential before the first step (0).

    Raises:
        TypeError, ValueError: see `Neuron`.

    Source: Abbott 1999, doi:10.1016/S0361-9230(99)00161-6.

    >>> import torch, spikeloom as sl
    >>> spikes, state = sl.Layer(None, sl.IF(1))(torch.full((4, 1, 1), 0.6))
    >>> spikes.flatten()
    tensor([0., 1., 0., 1.])
    """

    v_th = Param(1.0)
    v_reset = Param(0.0)
    bias = Param(0.0, unit="1/s", optional=True)
    noise = Param(0.1, unit="1/sqrt(s)", constraint=non_negative, optional=True)
    v = State()
    impulse = Input()
    current = Input("current")
    xi = Noise("normal", amplitude="noise")

    def coefficients(self, dt: float) -> dict[str, Any]:
        return {"dt": dt, "drive": dt * self.bias, "sigma": dt**0.5 * self.noise, "v_th": self.v_th}

    @staticmethod
    def step(c: Any, z: Any, x: Any, fire: Fire) -> tuple[Tensor, dict[str, Tensor]]:
        v = z.v + x.impulse + c.dt * x.current + c.drive + c.sigma * x.xi
        s, v = fire(v, c.v_th)
        return s, {"v": v}


class LI(Neuron):
    """Leaky integrator: a membrane that never fires, for readouts. Its output is V.

        tau_mem dV/dt = -V + I + b;   a spike of weight w: V += w

    Ports: `impulse` (default), `current` (held over the step). Exact over a step of dt:
    V' = beta (V + w) + (1 - beta) (I + b), beta = exp(-dt/tau_mem).

    Args:
        shape, learn, dt: see `Neuron`.
        tau_mem: membrane time constant in s (20 ms).
        bias: constant current b, in units of V (absent unless given or learned).
        noise: stationary standard deviation that noise gives V (absent unless given).
        v_init: membrane potential before the first step (0).

    Raises:
        TypeError, ValueError: see `Neuron`.

    Source: Gerstner et al. 2014, Neuronal Dynamics, section 1.3.

    >>> import torch, spikeloom as sl
    >>> v, state = sl.Layer(None, sl.LI(1, tau_mem=1e-3))(torch.ones(1, 1, 1))
    >>> round(v.item(), 4)
    0.3679
    """

    spiking = False
    resets = ("none",)
    tau_mem = Param(20e-3, unit="s", constraint=time_constant)
    bias = Param(0.0, optional=True)
    noise = Param(0.1, constraint=non_negative, optional=True)
    v = State()
    impulse = Input()
    current = Input("current")
    xi = Noise("normal", amplitude="noise")

    def coefficients(self, dt: float) -> dict[str, Any]:
        beta, gain = decay(dt, self.tau_mem), rise(dt, self.tau_mem)
        # An Ornstein-Uhlenbeck process of stationary deviation sigma, exact over a step.
        sigma = torch.sqrt(rise(dt, self.tau_mem / 2)) * self.noise
        return {"beta": beta, "gain": gain, "drive": gain * self.bias, "sigma": sigma}

    @staticmethod
    def step(c: Any, z: Any, x: Any, fire: Fire) -> tuple[Tensor, dict[str, Tensor]]:
        v = membrane(c, z, x)
        return v, {"v": v}


class LIF(LI):
    """Leaky integrate-and-fire neuron.

        tau_mem dV/dt = -V + I + b;   a spike of weight w: V += w;   V > v_th: fire, reset

    Ports: `impulse` (default), `current` (held over the step). Exact over a step of dt:
    V' = beta (V + w) + (1 - beta) (I + b), beta = exp(-dt/tau_mem); then fire and reset in the same step.

    Args:
        shape, reset, refractory, max_spikes, comparator, learn, dt: see `Neuron`.
        tau_mem: membrane time constant in s (20 ms).
        v_th: threshold (1). v_reset: where reset="zero" puts the membrane (0).
        bias: constant current b, in units of V (absent unless given or learned).
        noise: stationary standard deviation that noise gives V (absent unless given).
        v_init: membrane potential before the first step (0).

    Raises:
        TypeError, ValueError: see `Neuron`.

    Source: Gerstner et al. 2014, Neuronal Dynamics, section 1.3.

    >>> import torch, spikeloom as sl
    >>> spikes, state = sl.Layer(None, sl.LIF(5), port="current")(torch.full((100, 2, 5), 1.5))
    >>> spikes.shape, state.neuron.v.shape
    (torch.Size([100, 2, 5]), torch.Size([2, 5]))
    """

    spiking = True
    resets = ("subtract", "zero", "none")
    v_th = Param(1.0)
    v_reset = Param(0.0)

    def coefficients(self, dt: float) -> dict[str, Any]:
        return {**super().coefficients(dt), "v_th": self.v_th}

    @staticmethod
    def step(c: Any, z: Any, x: Any, fire: Fire) -> tuple[Tensor, dict[str, Tensor]]:
        s, v = fire(membrane(c, z, x), c.v_th)
        return s, {"v": v}


def membrane(c: Any, z: Any, x: Any) -> Tensor:
    """The membrane potential at the end of a step, before any spike."""
    return c.beta * (z.v + x.impulse) + c.gain * x.current + c.drive + c.sigma * x.xi
