"""The reference engine: a loop over time in torch, for any operation and any device."""

from typing import Any

import torch
from torch import Tensor

from .loop import Edge, Loop, LoopState, Pass


def run(loop: Loop, state: LoopState, start: int, stop: int, edge: Edge) -> Pass:
    """Steps start to stop - 1 of a loop, from `state`."""
    # Unbinding makes one backward node for all steps; x[t] in the loop would make a full-size gradient for each.
    rows = {name: x[start:stop].unbind(0) for name, x in loop.inputs.items()}
    alive = loop.alive[start:stop].unbind(0) if loop.alive is not None else None
    outputs: list[Tensor] = []
    records: dict[str, list[Tensor]] = {name: [] for name in loop.record}
    for t in range(stop - start):
        inputs: dict[str, Any] = {name: row[t] for name, row in rows.items()}
        recurrent = state.recurrent
        if loop.feedback is not None:
            fed, recurrent = loop.feedback.call(state.feedback, recurrent)
            port = loop.feedback.port
            inputs[port] = inputs[port] + fed if port in inputs else fed
        output, neuron, fire = loop.neuron.advance(loop.coefficients, state.neuron, inputs, loop.surrogate, edge)
        if alive is not None:
            output = torch.where(alive[t], output, torch.zeros_like(output))
            neuron = type(neuron)(*(_hold(alive[t], new, old) for new, old in zip(neuron, state.neuron, strict=True)))
        output = output.to(loop.output_dtype)
        fed_back: Any = ()
        if loop.feedback is not None:
            fed_back = output if alive is None else torch.where(alive[t], output, state.feedback)
        state = LoopState(neuron, fed_back, recurrent)
        outputs.append(output)
        for name, kept in records.items():
            kept.append(_pick(name, loop, inputs, output, neuron, fire))
    shape = (0, *loop.shape)
    empty = torch.zeros(shape, dtype=loop.output_dtype, device=_device(state))
    return Pass(
        torch.stack(outputs) if outputs else empty,
        state,
        {name: torch.stack(kept) if kept else empty for name, kept in records.items()},
    )


def _hold(alive: Tensor, new: Any, old: Any) -> Any:
    return torch.where(alive, new, old) if isinstance(new, Tensor) else new


def _pick(name: str, loop: Loop, inputs: dict[str, Any], output: Tensor, neuron: Any, fire: Any) -> Tensor:
    if name in ("spikes", "output"):
        return output
    if name == "v_before_reset":
        return fire.before_reset
    if name == "input":
        port = loop.neuron.default_port
        return inputs[port] if port in inputs else torch.zeros_like(output)
    return getattr(neuron, name)


def _device(state: LoopState) -> torch.device:
    return state.neuron[0].device
