"""What a pass over time is made of, whichever engine runs it and whichever rule sends gradients back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from ..neurons import Neuron

ResetEdge = Literal["flow", "detach"]


class LoopState(NamedTuple):
    """What is carried from step to step: the neuron's state, the output that is fed back, the recurrent connection's
    own state, and what a gradient rule keeps (traces). What is not in use is ()."""

    neuron: Any
    feedback: Any = ()
    recurrent: Any = ()
    rule: Any = ()


@dataclass(frozen=True)
class Source:
    """Where a port's input comes from, for the rules that own a connection as well as its neuron.

    Args:
        module: the connection, or None where the input is passed on.
        presynaptic: what went into it, [T, B, *N_in], a tensor or `Events`.
        state: its state before the call, or ().
        call: applies the connection to such an input: y [T, B, *N].
    """

    module: nn.Module | None
    presynaptic: Any
    state: Any = ()
    call: Callable[[Any], Tensor] = lambda x: x


def is_matrix(module: nn.Module | None) -> TypeGuard[nn.Linear]:
    """Whether a connection is an nn.Linear and nothing else: no hooks, and no class of its own."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return type(module) is nn.Linear and not any(getattr(module, kind) for kind in kinds)


@dataclass(frozen=True)
class Feedback:
    """A recurrent connection: maps the output of the last step to input of this one.

    Args:
        module: the connection.
        weight: its effective weight (without self-connections, say), or None where it is not a plain matrix.
        call: (output [B, *N], state) -> (input [B, *N], state).
        port: the port that it feeds.
    """

    module: nn.Module
    weight: Tensor | None
    call: Callable[[Tensor, Any], tuple[Tensor, Any]]
    port: str


@dataclass(frozen=True)
class Loop:
    """A neuron, its numbers, and its input for all steps.

    Args:
        neuron: whose step it is.
        coefficients: named tuple of tensors, rounded to the state's precision.
        surrogate: the spike.
        inputs: port -> [T, B, *N]; a port that nothing drives is left out.
        sources: port -> the connection and what went into it.
        shape: (B, *N).
        steps: T.
        dtype: of the state.
        output_dtype: of what leaves.
        feedback: recurrent connection, or None.
        alive: [T, B, 1, ...] booleans, False past the end of a sample, or None: there the state stands still and output
            and records are zero.
        record: names to record: "spikes", "output", "input", "v_before_reset", or a state.
    """

    neuron: Neuron
    coefficients: Any
    surrogate: Any
    inputs: dict[str, Tensor]
    shape: tuple[int, ...]
    steps: int
    dtype: torch.dtype
    output_dtype: torch.dtype
    sources: dict[str, Source] = field(default_factory=dict)
    feedback: Feedback | None = None
    alive: Tensor | None = None
    record: tuple[str, ...] = ()


class Pass(NamedTuple):
    """What a pass yields: output [T, B, *N], the state after it, the records, and what a rule counted."""

    output: Tensor
    state: LoopState
    records: dict[str, Tensor]
    counts: dict[str, int] = {}  # noqa: RUF012 (never written to)


Engine = Callable[[Loop, LoopState, int, int, ResetEdge], Pass]
