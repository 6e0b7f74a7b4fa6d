"""Neurons that adapt: ALIF and CubaALIF by their threshold, AdLIF by a current."""

from typing import Any

from torch import Tensor

from ..constraints import time_constant
from ..fire import Fire
from ..parameters import Param, State
from .cuba import CubaLIF, synapse_and_membrane
from .integration import decay, rise
from .lif import LIF, membrane


class ALIF(LIF):
    """Leaky integrate-and-fire neuron with adaptive threshold.

        tau_mem dV/dt = -V + I + b;   tau_adapt da/dt = -a;   V > v_th + a: fire, reset, a += increment

    Ports and integration as in `LIF`, exact over a step. reset="subtract" takes away v_th, not v_th + a, as in the
    source; the threshold that a spike is compared with has decayed to the end of the step.

    Args:
        shape, reset, refractory, max_spikes, comparator, learn, dt: see `Neuron`.
        tau_mem, v_th, v_reset, bias, noise, v_init: see `LIF`.
        tau_adapt: time constant of the adaptation in s (200 ms).
        increment: what a spike adds to the threshold (0.1).
        a_init: adaptation before the first step (0).

    Raises:
        TypeError, ValueError: see `Neuron`.

    Source: Bellec et al. 2018, arXiv:1803.09574.

    >>> import torch, spikeloom as sl
    >>> spikes, state = sl.Layer(None, sl.ALIF(1, increment=0.5), port="current")(torch.full((200, 1, 1), 3.0))
    >>> bool(spikes[:100].sum() > spikes[100:].sum())
    True
    """

    tau_adapt = Param(200e-3, unit="s", constraint=time_constant)
    increment = Param(0.1)
    a = State()

    def coefficients(self, dt: float) -> dict[str, Any]:
        return {**super().coefficients(dt), "rho": decay(dt, self.tau_adapt), "increment": self.increment}

    @staticmethod
    def step(c: Any, z: Any, x: Any, fire: Fire) -> tuple[Tensor, dict[str, Tensor]]:
        a = c.rho * z.a
        s, v = fire(membrane(c, z, x), c.v_th + a, subtract=c.v_th)
        return s, {"v": v, "a": a + c.increment * s}


class CubaALIF(CubaLIF):
    """Current-based leaky integrate-and-fire neuron with adaptive threshold.

        tau_syn dI/dt = -I;   tau_mem dV/dt = -V + I + b;   a spike of weight w: I += w
        tau_adapt da/dt = -a;   V > v_th + a: fire, reset, a += increment

    Ports and integration as in `CubaLI`, exact over a step; threshold and reset as in `ALIF`.

    Args:
        shape, reset, refractory, max_spikes, comparator, learn, dt: see `Neuron`.
        tau_mem, tau_syn, v_th, v_reset, bias, noise, i_init, v_init: see `CubaLIF`.
        tau_adapt: time constant of the adaptation in s (200 ms).
        increment: what a spike adds to the threshold (0.1).
        a_init: adaptation before the first step (0).

    Raises:
        TypeError, ValueError: see `Neuron`.

    Source: Bellec et al. 2018, arXiv:1803.09574 (threshold); Rotter & Diesmann 1999, doi:10.1007/s004220050570.

    >>> import torch, spikeloom as sl
    >>> spikes, state = sl.Layer(torch.nn.Linear(8, 3, bias=False), sl.CubaALIF(3))(torch.ones(10, 2, 8))
    >>> state.neuron._fields[:3]
    ('i', 'v', 'a')
    """

    tau_adapt = Param(200e-3, unit="s", constraint=time_constant)
    increment = Param(0.1)
    a = State()

    def coefficients(self, dt: float) -> dict[str, Any]:
        return {**super().coefficients(dt), "rho": decay(dt, self.tau_adapt), "increment": self.increment}

    @staticmethod
    def step(c: Any, z: Any, x: Any, fire: Fire) -> tuple[Tensor, dict[str, Tensor]]:
        i, v = synapse_and_membrane(c, z, x)
        a = c.rho * z.a
        s, v = fire(v, c.v_th + a, subtract=c.v_th)
        return s, {"i": i, "v": v, "a": a + c.increment * s}


class AdLIF(LIF):
    """Adaptive leaky integrate-and-fire neuron: a current fed by the membrane and by spikes.

        V' = beta (V + w_in) + (1 - beta) (I + b_0 - w);   V' > v_th: fire, reset
        w' = rho w + (1 - rho) q (a V' + b s),     beta = exp(-dt/tau_mem), rho = exp(-dt/tau_adapt)

    Ports as in `LIF`. The order is symplectic Euler: w takes the new V (after the reset) and the new spike, which is
    stable where the order with the old ones is not.

    Args:
        shape, reset, refractory, max_spikes, comparator, learn, dt: see `Neuron`.
        tau_mem, v_th, v_reset, bias (here b_0), noise, v_init: see `LIF`.
        tau_adapt: time constant of the adaptation current in s (100 ms).
        a: coupling to the membrane below threshold (0.5).
        b: coupling to spikes (1).
        q: common scale of both (120, as in the source).
        w_init: adaptation current before the first step (0).

    Raises:
        TypeError, ValueError: see `Neuron`.

    Source: Baronig et al. 2024, arXiv:2408.07517 (SE-adLIF).

    >>> import torch, spikeloom as sl
    >>> spikes, state = sl.Layer(None, sl.AdLIF(3), port="current")(torch.ones(50, 2, 3))
    >>> state.neuron._fields[:2]
    ('v', 'w')
    """

    tau_adapt = Param(100e-3, unit="s", constraint=time_constant)
    a = Param(0.5)
    b = Param(1.0)
    q = Param(120.0)
    w = State()

    def coefficients(self, dt: float) -> dict[str, Any]:
        lift = rise(dt, self.tau_adapt) * self.q
        return {
            **super().coefficients(dt),
            "rho": decay(dt, self.tau_adapt),
            "subthreshold": lift * self.a,
            "spike_triggered": lift * self.b,
        }

    @staticmethod
    def step(c: Any, z: Any, x: Any, fire: Fire) -> tuple[Tensor, dict[str, Tensor]]:
        s, v = fire(membrane(c, z, x) - c.gain * z.w, c.v_th)
        return s, {"v": v, "w": c.rho * z.w + (c.subthreshold * v + c.spike_triggered * s)}
