"""A neuron without spikes: Rate."""

from typing import Any

from torch import Tensor

from ..fire import Fire
from .exponential import exponential
from .lif import LI, membrane

ACTIVATIONS = ("relu", "tanh", "sigmoid")


class Rate(LI):
    """Leaky rate neuron: a rate-coded network of the same layers. Its output is a rate, not spikes.

        tau_mem dV/dt = -V + I + b;   r = phi(V)

    Ports: `impulse` (default), `current` (held over the step), as in `LI`, exact over a step. Most rate networks mean
    `current`; with a recurrent connection, name the port it feeds: `sl.Layer(connection, sl.Rate(100), back,
    port="current", recurrent_port="current")`. A recurrent connection sees the rates of the step before.

    Args:
        shape, learn, dt: see `Neuron`.
        activation: phi, "relu" (default), "tanh" or "sigmoid".
        tau_mem: membrane time constant in s (20 ms).
        bias: constant current b, in units of V (absent unless given or learned).
        noise: stationary standard deviation that noise gives V (absent unless given).
        v_init: membrane potential before the first step (0).

    Raises:
        TypeError, ValueError: see `Neuron`.
        ValueError: an unknown activation.

    Source: Gerstner et al. 2014, Neuronal Dynamics, section 15.3; Wilson & Cowan 1972,
    doi:10.1016/S0006-3495(72)86068-5.

    >>> import torch, spikeloom as sl
    >>> rates, state = sl.Layer(None, sl.Rate(2), port="current")(torch.tensor([-1.0, 1.0]).expand(200, 1, 2))
    >>> rates[-1, 0].round(decimals=3)
    tensor([0., 1.])
    """

    structure = ("activation",)

    def __init__(self, shape: int | tuple[int, ...] | None = None, *, activation: str = "relu", **options: Any):
        super().__init__(shape, **options)
        if activation not in ACTIVATIONS:
            choice = " or ".join(map(repr, ACTIVATIONS))
            raise ValueError(f"{type(self).__name__} got activation={activation!r}; expected {choice}.")
        self.activation = activation

    @staticmethod
    def step(c: Any, z: Any, x: Any, fire: Fire) -> tuple[Tensor, dict[str, Tensor]]:
        v = membrane(c, z, x)
        if c.activation == "relu":
            return v.clamp(min=0.0), {"v": v}
        # 1 / (1 + e^-y), and tanh(v) = 2 sigmoid(2 v) - 1.
        y = v if c.activation == "sigmoid" else 2 * v
        r = 1 / (1 + exponential((-y).clamp(-40.0, 20.0)))
        return (r if c.activation == "sigmoid" else 2 * r - 1), {"v": v}
