"""Neurons that resonate: RF, and the balanced BRF."""

from typing import Any

import torch
from torch import Tensor

from ..constraints import Constraint, non_negative, time_constant
from ..fire import Fire
from ..parameters import Input, Noise, Param, State
from .integration import decay
from .neuron import Neuron

# Slower than half a turn a step, beyond which a sampled oscillation looks slower again.
TURNING = Constraint(1e-6, 3.14, logarithmic=True, in_steps=-1)
# Slower than one radian a step, beyond which Euler's method has no damping at which it stands.
BALANCED = Constraint(1e-6, 0.999, logarithmic=True, in_steps=-1)
OFFSET = Constraint(0.0, 1.0, in_steps=-1)


class RF(Neuron):
    """Resonate-and-fire neuron: a damped oscillation that fires when it swings past a threshold.

        dz/dt = (-1/tau + i omega) z + I + b,   z = u + i v;   a spike of weight w: u += w
        v > v_th: fire, z = u_reset + i v_reset

    v is the voltage-like variable, u the current-like one, which input moves; so an impulse is felt a quarter of a
    period later. Ports: `impulse` (default), `current` (1/s, held over the step). Exact over a step: a decay and a
    turn.

    Args:
        shape, reset ("zero", to u_reset and v_reset, or "none"), refractory, comparator, learn, dt: see `Neuron`.
        omega: angular frequency in rad/s, below 3.14 / dt (100 rad/s, 16 Hz).
        tau: time constant of the decay in s; the paper's b is -1 / tau (50 ms).
        v_th: threshold (1).
        u_reset, v_reset: where a spike puts z (0 and 1, the paper's z = i).
        bias: constant current b in 1/s (absent unless given or learned).
        noise: standard deviation that noise adds to v in one second, growing with the square root of time (absent).
        u_init, v_init: z before the first step (0).

    Raises:
        TypeError, ValueError: see `Neuron`.

    Source: Izhikevich 2001, doi:10.1016/S0893-6080(01)00078-8.

    >>> import math, torch, spikeloom as sl
    >>> x = torch.zeros(40, 1, 2)
    >>> x[0], x[10, :, 0], x[20, :, 1] = 0.8, 0.8, 0.8
    >>> layer = sl.Layer(None, sl.RF(2, omega=2 * math.pi * 50))  # a period of 20 ms
    >>> layer(x)[0].sum((0, 1)).tolist()  # two spikes half a period apart, and a whole one
    [0.0, 1.0]
    """

    resets = ("zero", "none")
    many_spikes = False
    omega = Param(100.0, unit="rad/s", constraint=TURNING)
    tau = Param(50e-3, unit="s", constraint=time_constant)
    v_th = Param(1.0)
    u_reset = Param(0.0)
    v_reset = Param(1.0)
    bias = Param(0.0, unit="1/s", optional=True)
    noise = Param(1.0, unit="1/sqrt(s)", constraint=non_negative, optional=True)
    u = State()
    v = State()
    impulse = Input()
    current = Input("current")
    xi = Noise("normal", amplitude="noise")

    def coefficients(self, dt: float) -> dict[str, Any]:
        damping, size = 1 / self.tau, (1 / self.tau) ** 2 + self.omega**2
        cos, sin = decay(dt, self.tau) * torch.cos(self.omega * dt), decay(dt, self.tau) * torch.sin(self.omega * dt)
        # (e^(lambda dt) - 1) / lambda, lambda = -damping + i omega
        into_u = (damping * (1 - cos) + self.omega * sin) / size
        into_v = (self.omega * (1 - cos) - damping * sin) / size
        zero = {"u_reset": self.u_reset} if self.reset == "zero" else {}
        return {
            "cos": cos,
            "sin": sin,
            "into_u": into_u,
            "into_v": into_v,
            "drive_u": into_u * self.bias,
            "drive_v": into_v * self.bias,
            "sigma": dt**0.5 * self.noise,
            "v_th": self.v_th,
            **zero,
        }

    @staticmethod
    def step(c: Any, z: Any, x: Any, fire: Fire) -> tuple[Tensor, dict[str, Tensor]]:
        u = z.u + x.impulse
        v = c.sin * u + c.cos * z.v + c.into_v * x.current + c.drive_v + c.sigma * x.xi
        u = c.cos * u - c.sin * z.v + c.into_u * x.current + c.drive_u
        s, v = fire(v, c.v_th)
        if fire.reset == "zero":
            u = (1 - fire.edge(s)) * u + fire.edge(s) * c.u_reset
        return s, {"u": u, "v": v}


class BRF(Neuron):
    """Balanced resonate-and-fire neuron: damped beyond the point of divergence, and by its own spikes.

        b = p(omega) - b_offset - q,   p(omega) = (-1 + sqrt(1 - (dt omega)^2)) / dt
        v' = v + dt (b v - omega u + I + bias),   u' = u + dt (omega v + b u);   a spike of weight w: v += w
        v' > v_th + q: fire;   q' = exp(-dt/tau_q) q + s

    The membrane is not reset: a spike raises the threshold and the damping by one, both of which decay. Here v is the
    real part of the paper's oscillator (its x, which input moves and the threshold is compared with) and u the
    imaginary one. Ports: `impulse` (default), `current` (1/s, held over the step; the paper's input).

    Integration: Euler's method is part of the model, as p(omega) is the damping at which it neither grows nor decays.
    Damping is bounded by 1 / dt, so that |z| never grows without input, whatever is learned.

    Args:
        shape, refractory, max_spikes, comparator, learn, dt: see `Neuron`. The paper's dt is 10 ms.
        omega: angular frequency in rad/s, below 0.999 / dt (10 rad/s).
        b_offset: damping beyond the point of divergence in 1/s, from 0 to 1 / dt (1).
        tau_q: time constant of the refractory variable q in s (94.91 ms: a factor of 0.9 in 10 ms).
        v_th: threshold (1).
        bias: constant current in 1/s (absent unless given or learned).
        noise: standard deviation that noise adds to v in one second, growing with the square root of time (absent).
        u_init, v_init, q_init: state before the first step (0).

    Raises:
        TypeError, ValueError: see `Neuron`.

    Source: Higuchi et al. 2024, arXiv:2402.14603.

    >>> import torch, spikeloom as sl
    >>> neuron = sl.BRF(256, omega=sl.Uniform(15.0, 85.0), b_offset=sl.Uniform(0.1, 1.0), learn=("omega", "b_offset"))
    >>> net = sl.Sequential(sl.Layer(torch.nn.Linear(4, 256, bias=False), neuron, port="current"), dt=0.01)
    >>> net(torch.rand(20, 2, 4))[0].shape
    torch.Size([20, 2, 256])
    """

    resets = ("none",)
    omega = Param(10.0, unit="rad/s", constraint=BALANCED)
    b_offset = Param(1.0, unit="1/s", constraint=OFFSET, scale=1.0)
    tau_q = Param(94.912e-3, unit="s", constraint=time_constant)
    v_th = Param(1.0)
    bias = Param(0.0, unit="1/s", optional=True)
    noise = Param(1.0, unit="1/sqrt(s)", constraint=non_negative, optional=True)
    u = State()
    v = State()
    q = State()
    impulse = Input()
    current = Input("current")
    xi = Noise("normal", amplitude="noise")

    def coefficients(self, dt: float) -> dict[str, Any]:
        turn = dt * self.omega
        return {
            "dt": dt,
            "turn": turn,
            "stay": torch.sqrt(1 - turn**2) - dt * self.b_offset,  # 1 + dt b, but for q
            "gamma": decay(dt, self.tau_q),
            "drive": dt * self.bias,
            "sigma": dt**0.5 * self.noise,
            "v_th": self.v_th,
        }

    @staticmethod
    def step(c: Any, z: Any, x: Any, fire: Fire) -> tuple[Tensor, dict[str, Tensor]]:
        stay, v = (c.stay - c.dt * z.q).clamp(min=0.0), z.v + x.impulse
        u = c.turn * v + stay * z.u
        s, v = fire(stay * v - c.turn * z.u + c.dt * x.current + c.drive + c.sigma * x.xi, c.v_th + z.q)
        return s, {"u": u, "v": v, "q": c.gamma * z.q + fire.edge(s)}
