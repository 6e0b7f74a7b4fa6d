"""The reference engine: a loop over time in torch, for any operation and any device."""

from typing import Any

import torch
from torch import Tensor

from .loop import Loop, LoopState, Pass, ResetEdge
from .noise import draw


def run(loop: Loop, state: LoopState, start: int, stop: int, edge: ResetEdge) -> Pass:
    """Steps start to stop - 1 of a loop, from `state`."""
    # Unbinding makes one backward node for all steps; x[t] in the loop would make a full-size gradient for each.
    rows = {name: x[start:stop].unbind(0) for name, x in loop.inputs.items()}
    alive = loop.alive[start:stop].unbind(0) if loop.alive is not None else None
    noise: dict[str, Any] = {}
    outputs: list[Tensor] = []
    records: dict[str, list[Tensor]] = {name: [] for name in loop.record}
    for t in range(stop - start):
        for which, name in enumerate(loop.neuron.noises):
            if not noise.get(name):
                ahead = stop - start - t
                kind = loop.neuron.declared_noise[name].distribution
                noise[name] = draw(state.neuron.stream, state.neuron.clock, which, ahead, loop.shape, loop.dtype, kind)
        inputs: dict[str, Any] = {name: row[t].to(loop.dtype) for name, row in rows.items()}
        recurrent = state.recurrent
        if loop.feedback is not None:
            fed, recurrent = loop.feedback.call(state.feedback, recurrent)
            fed, port = fed.to(loop.dtype), loop.feedback.port
            inputs[port] = inputs[port] + fed if port in inputs else fed
        drawn = {name: left.pop(0) for name, left in noise.items()}
        step = loop.neuron.advance(loop.coefficients, state.neuron, inputs | drawn, loop.surrogate, edge)
        output, neuron, fire = step
        if alive is not None:
            neuron = type(neuron)(*(_hold(alive[t], new, old) for new, old in zip(neuron, state.neuron, strict=True)))
        before, output = state, _silence(alive, t, output).to(loop.output_dtype)
        fed_back: Any = ()
        if loop.feedback is not None:
            fed_back = output if alive is None else torch.where(alive[t], output, before.feedback)
        state = LoopState(neuron, fed_back, recurrent, state.rule)
        outputs.append(output)
        for name, kept in records.items():
            kept.append(_pick(name, loop, inputs, output, neuron, fire, alive, t))
    empty = torch.zeros((0, *loop.shape), dtype=loop.output_dtype, device=state.neuron[0].device)
    return Pass(
        torch.stack(outputs) if outputs else empty,
        state,
        {name: torch.stack(kept) if kept else _none(name, loop, empty) for name, kept in records.items()},
    )


def _hold(alive: Tensor, new: Any, old: Any) -> Any:
    return torch.where(alive, new, old) if isinstance(new, Tensor) else new


def _silence(alive: Any, t: int, tensor: Tensor) -> Tensor:
    return tensor if alive is None else torch.where(alive[t], tensor, torch.zeros_like(tensor))


def _none(name: str, loop: Loop, empty: Tensor) -> Tensor:
    """A record of no steps: only the output has the output's precision."""
    return empty if name in ("spikes", "output") else empty.to(loop.dtype)


def _pick(
    name: str, loop: Loop, inputs: dict[str, Any], output: Tensor, neuron: Any, fire: Any, alive: Any, t: int
) -> Tensor:
    if name in ("spikes", "output"):
        return output
    if name == "v_before_reset":
        return _silence(alive, t, fire.before_reset)
    if name == "input":
        port = loop.neuron.default_port
        return _silence(alive, t, inputs[port]) if port in inputs else torch.zeros_like(output, dtype=loop.dtype)
    return getattr(neuron, name)
