"""A neuron that fires by chance: StochasticLIF."""

from typing import Any

import torch
from torch import Tensor

from ..constraints import positive
from ..fire import Fire
from ..parameters import Noise, Param
from .lif import LIF, membrane


class StochasticLIF(LIF):
    """Leaky integrate-and-fire neuron with escape noise: below threshold it fires seldom, above it often.

        tau_mem dV/dt = -V + I + b;   a spike of weight w: V += w
        rate of firing rho(V) = rho_th exp((V - v_th) / delta_u);   P(spike in a step) = 1 - exp(-rho(V) dt)

    Ports and integration as in `LIF`; the probability is taken with V at the end of the step. The spike is drawn as
    V + delta_u G > v_th - delta_u ln(rho_th dt), G a number from the Gumbel distribution, which gives just this
    probability: so it is a LIF whose threshold is drawn afresh in each step, the surrogate is taken at the distance
    from that, and its mean over the noise is a smooth function of V. As delta_u goes to zero it becomes `LIF`.
    `sl.run(..., seed=)` repeats the spikes, in every engine.

    Args:
        shape, reset, refractory, comparator, learn, dt: see `Neuron`.
        tau_mem, v_th, v_reset, bias, noise, v_init: see `LIF`.
        rho_th: rate of firing at threshold in 1/s, above zero (100).
        delta_u: how far V must rise for e times the rate, in units of V, above zero (0.1).

    Raises:
        TypeError, ValueError: see `Neuron`.

    Source: Gerstner et al. 2014, Neuronal Dynamics, section 9.1; Jolivet et al. 2006, doi:10.1007/s00422-006-0067-7.

    >>> import torch, spikeloom as sl
    >>> layer = sl.Layer(None, sl.StochasticLIF(100), port="current")
    >>> counts = sl.run(layer, torch.tensor([0.6, 0.9]).reshape(1, 2, 1).expand(500, 2, 100), seed=0).output.sum((0, 2))
    >>> bool(0 < 2 * counts[0] < counts[1])  # and LIF would not fire at all
    True
    """

    many_spikes = False
    rho_th = Param(100.0, unit="1/s", constraint=positive)
    delta_u = Param(0.1, constraint=positive)
    escape = Noise("gumbel")

    def coefficients(self, dt: float) -> dict[str, Any]:
        level = self.v_th - self.delta_u * torch.log(self.rho_th * dt)
        return {**super().coefficients(dt), "delta_u": self.delta_u, "level": level}

    @staticmethod
    def step(c: Any, z: Any, x: Any, fire: Fire) -> tuple[Tensor, dict[str, Tensor]]:
        s, v = fire(membrane(c, z, x), c.level - c.delta_u * x.escape, subtract=c.v_th)
        return s, {"v": v}
