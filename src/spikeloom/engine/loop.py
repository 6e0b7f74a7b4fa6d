"""What a pass over time is made of, whichever engine runs it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ..neurons import Neuron

Edge = Callable[[Tensor], Tensor]


class LoopState(NamedTuple):
    """What is carried from step to step: the neuron's state and what its own output feeds back."""

    neuron: Any
    feedback: Any = ()
    recurrent: Any = ()


@dataclass(frozen=True)
class Feedback:
    """A recurrent connection: maps the output of the last step to input of this one.

    Args:
        call: (output [B, *N], state) -> (input [B, *N], state).
        port: the port that it feeds.
    """

    call: Callable[[Tensor, Any], tuple[Tensor, Any]]
    port: str


@dataclass(frozen=True)
class Loop:
    """A neuron, its numbers and its input for all steps.

    Args:
        neuron: whose step it is.
        coefficients: named tuple, rounded to the state's precision.
        surrogate: the spike.
        inputs: port or noise -> [T, B, *N]; a port that nothing drives is left out.
        output_dtype: dtype of the spikes that leave.
        feedback: recurrent connection, or None.
        alive: [T, B, 1, ...] booleans, False past the end of a sample, or None: there the state stands still and the
            output is zero.
        record: names to record: "spikes", "output", "input", "v_before_reset", or a state.
    """

    neuron: Neuron
    coefficients: Any
    surrogate: Any
    inputs: dict[str, Tensor]
    output_dtype: Any
    shape: tuple[int, ...]
    steps: int
    feedback: Feedback | None = None
    alive: Tensor | None = None
    record: tuple[str, ...] = ()


class Pass(NamedTuple):
    """What a pass yields: output [T, B, *N], the state after it, and the records, [T, B, *N] each."""

    output: Tensor
    state: LoopState
    records: dict[str, Tensor]


Engine = Callable[[Loop, LoopState, int, int, Edge], Pass]
