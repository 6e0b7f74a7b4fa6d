"""Backpropagation through time."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from ..engine import Engine, Loop, LoopState, Pass


@dataclass(frozen=True)
class BPTT:
    """Backpropagation through time with surrogate gradients.

    Args:
        reset: "flow" lets gradients pass through the reset, "detach" cuts them there, which steep surrogates and deep
            or recurrent networks often need.
        truncate: cut the state's gradient every so many steps (whole number), or None.
        checkpoint: a number keeps each layer's state every so many steps only, and computes the rest again in the
            backward pass; "time" runs the whole network in pieces of about sqrt(T) steps and keeps the states between
            them, which costs the least memory (with `sl.run`). Both take about a third more time and give the same
            gradients. Or None.

    Raises:
        ValueError: another word for `reset`, or a length that is no whole number of 1 or more.

    Source: Neftci, Mostafa & Zenke 2019, doi:10.1109/MSP.2019.2931595.

    >>> import torch, spikeloom as sl
    >>> net = sl.Sequential(sl.Layer(torch.nn.Linear(4, 3), sl.LIF(3)))
    >>> run = sl.run(net, torch.ones(20, 2, 4), gradient=sl.BPTT(reset="detach", truncate=10))
    >>> run.output.shape
    torch.Size([20, 2, 3])
    """

    # False: the layer applies its connection under autograd, and the rule sees its product only.
    owns_connection: ClassVar[bool] = False

    reset: Literal["flow", "detach"] = "flow"
    truncate: int | None = None
    checkpoint: int | Literal["time"] | None = None

    def __post_init__(self) -> None:
        if self.reset not in ("flow", "detach"):
            raise ValueError(f"BPTT got reset={self.reset!r}; expected 'flow' or 'detach'.")
        for name, value in (("truncate", self.truncate), ("checkpoint", self.checkpoint)):
            if value is None or (name == "checkpoint" and value == "time"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                hint = ", 'time'" if name == "checkpoint" else ""
                raise ValueError(f"BPTT got {name}={value!r}; expected a whole number of steps{hint}, or None.")
        if self.truncate and self.checkpoint == "time":
            raise ValueError("BPTT got truncate= and checkpoint='time'; give the checkpoint as a number of steps.")

    def __call__(self, loop: Loop, state: LoopState, engine: Engine) -> Pass:
        """Run a loop with an engine, so that gradients travel back by this rule."""
        state = state._replace(rule=())  # another rule's traces know nothing of the steps to come
        if not self.truncate and self.checkpoint in (None, "time"):
            return engine(loop, state, 0, loop.steps, self.reset)
        span = self.truncate or max(1, loop.steps)
        every = None if self.checkpoint == "time" else self.checkpoint
        piece = min(every or span, span)
        # T = 0 is one empty piece.
        starts = [
            (a, b)
            for a in range(0, max(1, loop.steps), span)
            for b in range(a, min(a + span, max(1, loop.steps)), piece)
        ]
        passes: list[Pass] = []
        for window, start in starts:
            if self.truncate and start == window > 0:
                state = detach(state)
            stop = min(start + piece, window + span, loop.steps)
            if every and torch.is_grad_enabled():
                one = checkpoint(engine, loop, state, start, stop, self.reset, use_reentrant=False)
            else:
                one = engine(loop, state, start, stop, self.reset)
            assert isinstance(one, Pass)
            passes.append(one)
            state = one.state
        if len(passes) == 1:
            return passes[0]
        records = {name: torch.cat([p.records[name] for p in passes]) for name in loop.record}
        return Pass(torch.cat([p.output for p in passes]), state, records)


def detach(state: Any) -> Any:
    """The same state, cut from the graph that led to it: pass it on to go on without gradients into the past.

    Args:
        state: any state that a layer or network returned; nested tuples, lists and dictionaries are walked.

    Returns:
        The same structure with detached tensors.

    >>> import torch, spikeloom as sl
    >>> layer = sl.Layer(torch.nn.Linear(4, 3), sl.LIF(3))
    >>> _, state = layer(torch.ones(5, 2, 4))
    >>> sl.detach(state).neuron.v.requires_grad
    False
    """
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf, state)
