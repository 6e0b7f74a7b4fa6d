"""EventProp's adjoint as a neuron whose time runs back, so that every engine's loop runs it."""

from typing import Any

from torch import Tensor

from ..neurons import Neuron
from ..parameters import Input, State


class Costate(Neuron):
    """p_V = dL/dV and p_I = dL/dI of a current-based neuron, from the end of a step to its start.

    In the letters of the source, p_V = -tau_mem lambda_V and p_I = -tau_syn lambda_I. At a spike, with g(t) = V - v_th,
    G what the spike's time is worth to all that it reaches, and V'- and V'+ the slopes before and after it,

        p_V- = (V'+ p_V+ - G) / g'-;      then over the step   p_V <- beta p_V,   p_I <- alpha p_I + gain p_V

    Ports: `kick` (G / g'- at spikes, else 0), `drop` (1 - V'+ / g'- at spikes, else 0), `on_v`, `on_i` (the loss's
    derivative by V and I at the end of the step), `held` (1 in the refractory period, where V stands still and p_V
    waits for the release). What of G comes back through a recurrent connection arrives at `spike`, and `jump` (1 / g'-
    at spikes, else 0) scales it. The output is what a presynaptic spike of this step has for its time,
    p_I / tau_syn - p_V / tau_mem = lambda_V - lambda_I.
    """

    spiking = False
    resets = ("none",)
    pv = State()
    pi = State()
    spike = Input()
    on_v = Input()
    on_i = Input()
    kick = Input()
    drop = Input()
    jump = Input()
    held = Input()

    @staticmethod
    def step(c: Any, z: Any, x: Any, fire: Any) -> tuple[Tensor, dict[str, Tensor]]:
        end = z.pv + x.on_v
        before = end - x.drop * end - x.kick - x.jump * x.spike
        output, pv, pi = over_the_step(c, z, x, end, before)
        return output, {"pv": pv, "pi": pi}


class AdaptiveCostate(Costate):
    """`Costate` of a neuron with an adaptive threshold, g = V - v_th - a, and p_a = dL/da.

        p_V- = ((V'+ - kept a'-) p_V+ - G - increment / tau_adapt p_a+) / g'-
        p_a- = p_a+ + kept p_V+ - p_V-;      then over the step   p_a <- rho p_a

    kept is 1 where the reset subtracts v_th, and so leaves V+ = a-, and 0 where it sets V. More ports: `on_a`, and
    `fired` (1 at spikes).
    """

    pa = State()
    on_a = Input()
    fired = Input()

    @staticmethod
    def step(c: Any, z: Any, x: Any, fire: Any) -> tuple[Tensor, dict[str, Tensor]]:
        end, adapted = z.pv + x.on_v, z.pa + x.on_a
        before = end - x.drop * end - x.kick - x.jump * (x.spike + c.lift * adapted)
        output, pv, pi = over_the_step(c, z, x, end, before)
        return output, {"pv": pv, "pi": pi, "pa": c.rho * (adapted + x.fired * (c.kept * end - before))}


def over_the_step(c: Any, z: Any, x: Any, end: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Output, p_V and p_I at the start of a step."""
    through, fed = c.beta * before, c.gain * before
    pv = through + x.held * (end - through)
    pi = c.alpha * (z.pi + x.on_i) + (fed - x.held * fed)
    return c.rate_syn * pi - c.rate_mem * (pv - x.held * pv), pv, pi
