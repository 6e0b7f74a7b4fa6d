"""Online rules: e-prop, OTTT, and diagonal real-time recurrent learning."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..engine import Engine, Loop, LoopState, Pass
from ..engine.loop import ResetEdge
from ..neurons import IF, LI, LIF, CubaLI, CubaLIF
from ..zero import ZERO
from .online import Call

# Steps that are linear between spikes, and whose spikes subtract.
LINEAR = (IF, LI, LIF, CubaLI, CubaLIF)


@dataclass(frozen=True)
class EProp:
    """E-prop."""

    owns_connection: ClassVar[bool] = True
    edge: ClassVar[ResetEdge] = "detach"

    feedback: Literal["symmetric", "random", "adaptive"] = "symmetric"
    kappa: float = 0.0
    carry: bool = True

    def __post_init__(self) -> None:
        name = type(self).__name__
        choice = ("symmetric", "random", "adaptive")
        if self.feedback not in choice:
            raise ValueError(f"{name} got feedback={self.feedback!r}; expected one of {', '.join(map(repr, choice))}.")
        if not (isinstance(self.kappa, int | float) and 0 <= self.kappa < 1):
            raise ValueError(
                f"{name} got kappa={self.kappa!r}; expected the filter's leak per step, 0 <= kappa < 1, such as "
                "math.exp(-dt / tau_out)."
            )
        if not isinstance(self.carry, bool):
            raise ValueError(f"{name} got carry={self.carry!r}; expected True or False.")

    def __call__(self, loop: Loop, state: LoopState, engine: Engine) -> Pass:
        """Run a loop with an engine, so that gradients travel by this rule."""
        check(self, loop, state)
        call = Call(
            loop,
            state,
            engine,
            edge=self.edge,
            kappa=self.kappa,
            feedback=self.feedback,
            carry=self.carry,
            shared=shares_traces(loop, self.edge),
        )
        if not (torch.is_grad_enabled() and call.learns):
            found = engine(loop, state, 0, loop.steps, self.edge)
            return found._replace(state=found.state._replace(rule=()))
        return call.run()


@dataclass(frozen=True)
class RTRL(EProp):
    """RTRL."""

    edge: ClassVar[ResetEdge] = "flow"


@dataclass(frozen=True)
class OTTT(EProp):
    """OTTT."""


def shares_traces(loop: Loop, edge: ResetEdge) -> bool:
    """Whether the derivatives of a neuron's state by its input are the same for all neurons, whatever they do."""
    neuron, c = loop.neuron, loop.coefficients
    linear = any(type(neuron).step is kind.step for kind in LINEAR)
    free = neuron.reset == "none" or (neuron.reset == "subtract" and edge == "detach")
    still = [n for n in c._fields if n not in ("v_th", "v_reset", "drive", "sigma")]
    alike = all(v is ZERO or not isinstance(v, Tensor) or v.numel() == 1 for v in (getattr(c, n) for n in still))
    return linear and free and not neuron.refractory and alike


def check(rule: EProp, loop: Loop, state: LoopState) -> None:
    pass
