"""From a loop to the fused operator and back: what a fused engine is to a layer and to a gradient rule."""

import functools
import importlib.util
import math
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..neurons import Neuron
from . import gpu
from .loop import Feedback, Loop, LoopState, Pass, ResetEdge, is_matrix
from .noise import draw
from .operator import run as fused_loop
from .program import NoElementwiseForm, program_of
from .transforms import transformed

# What makes the kernels, by the kind of device.
MODULES = {"cpu": "numba", "cuda": "triton"}


class Unsuited(ValueError):
    """A loop that a fused engine does not run; the message says why and what does."""


class NotInstalled(Unsuited):
    """What makes the kernels is not there, or broken."""


def check(loop: Loop, device: str | None = None) -> None:
    """Whether a fused engine runs a loop on the device that its input is on.

    Args:
        device: the only kind of device that will do, or None for any.

    Raises:
        Unsuited: no, and why.
    """
    found = next(iter(loop.inputs.values())).device.type
    if device is not None and found != device:
        raise Unsuited(f"its input is on {found!r}; this engine runs on {device!r}")
    if found not in MODULES:
        raise Unsuited(f"its input is on {found!r}, for which this version has no fused engine")
    if loop.dtype not in (torch.float32, torch.float64):
        raise Unsuited(f"its state has {loop.dtype}; fused engines take float32 and float64")
    if transformed():
        raise Unsuited("a functorch transform (torch.func) or a forward-mode derivative is at work")
    if not loop.shape or 0 in loop.shape[1:]:
        raise Unsuited("it has no neurons")
    # Not imported here: where kernels lie ready on disk, it need not be.
    if not _installed(MODULES[found]):
        raise NotInstalled(f"{MODULES[found]} is not installed, which makes its kernels")


def takes(
    neuron: Neuron, surrogate: Any, recurrent: nn.Module | None, recurrent_port: str, ports: Sequence[str], device: str
) -> bool:
    """Whether all steps of such a layer outside of a run are one operator on that kind of device."""
    if device not in MODULES or not _installed(MODULES[device]):
        return False
    if recurrent is not None and not (is_matrix(recurrent) and neuron.shape is not None and len(neuron.shape) == 1):
        return False
    feedback = None if recurrent is None else Feedback(recurrent, None, lambda *_: None, recurrent_port)  # type: ignore
    loop = Loop(
        neuron=neuron,
        coefficients=neuron.rounded_coefficients(torch.float32),
        surrogate=surrogate,
        inputs=dict.fromkeys(ports),  # type: ignore[arg-type]
        shape=(),
        steps=0,
        dtype=torch.float32,
        output_dtype=torch.float32,
        feedback=feedback,
    )
    try:
        program_of(loop, "flow")
    except NoElementwiseForm:
        return False
    return True


def _installed(module: str) -> bool:
    return sys.modules[module] is not None if module in sys.modules else _findable(module)


@functools.cache  # to look is to ask the disk
def _findable(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def run(loop: Loop, state: LoopState, start: int, stop: int, edge: ResetEdge, device: str | None = None) -> Pass:
    """Steps start to stop - 1 of a loop, from `state`, on the device that its input is on.

    Raises:
        Unsuited, NoElementwiseForm: a loop that this engine does not run, said in a sentence.
    """
    check(loop, device)
    plain = loop.feedback is None or _plain(loop.feedback, loop.shape)
    try:
        return (_whole if plain else _step_by_step)(loop, state, start, stop, edge)
    except ImportError as error:
        raise NotInstalled(f"what makes its kernels cannot be imported ({error})") from error


def _plain(feedback: Feedback, shape: tuple[int, ...]) -> bool:
    """Whether a recurrent connection is one matrix on [B, N] and nothing else."""
    weight = feedback.weight
    return is_matrix(feedback.module) and weight is not None and len(shape) == 2 and weight.shape == (shape[1],) * 2


def _whole(loop: Loop, state: LoopState, start: int, stop: int, edge: ResetEdge) -> Pass:
    program, steps = program_of(loop, edge), stop - start
    neuron, shape = state.neuron, (steps, *loop.shape)
    c = loop.coefficients
    coefficients = [getattr(c, name) for name in program.coefficients]
    states = [getattr(neuron, name) for name in program.states]
    lengths = None if loop.alive is None else loop.alive[start:stop].sum(0).flatten()
    # A kernel for GPUs reads and writes any precision; those for processors and of recurrent layers have one.
    on_gpu = states[0].device.type == "cuda"
    mixed = on_gpu and loop.feedback is None
    output_dtype = loop.output_dtype if mixed else loop.dtype
    inputs = [_input(loop, state, name, start, stop) for name in program.ports]
    inputs = inputs if mixed else [x if x.dtype == loop.dtype else x.to(loop.dtype) for x in inputs]
    if not inputs:
        inputs = [states[0].new_zeros(()).expand(shape)]
    fed, weight, bias, last = -1, None, None, None
    if loop.feedback is not None:
        module = loop.feedback.module
        assert isinstance(module, nn.Linear) and loop.feedback.weight is not None
        fed, weight = program.ports.index(loop.feedback.port), loop.feedback.weight.to(loop.dtype)
        bias = None if module.bias is None else module.bias.to(loop.dtype)
        last = state.feedback.to(loop.dtype)
    tensors = (*coefficients, *states, *inputs, weight, bias, last)
    learning = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    keep = (gpu.every(steps, math.prod(loop.shape), program) if on_gpu else every(len(states))) if learning else 0
    found = fused_loop(program.key, keep, fed, coefficients, states, inputs, lengths, weight, bias, last, output_dtype)
    y, *rest = found
    recorded = dict(zip(program.records, rest, strict=False))
    finals = dict(zip(program.states, rest[len(recorded) : len(recorded) + len(states)], strict=True))
    if loop.neuron.noises:
        taken = steps if lengths is None else lengths.reshape(neuron.clock.shape)
        finals |= {"clock": neuron.clock + taken, "stream": neuron.stream}
    output = y if y.dtype == loop.output_dtype else y.to(loop.output_dtype)
    back: Any = () if loop.feedback is None else last_output(output, state.feedback, lengths)
    records = {n: output if n in ("spikes", "output") else recorded[n] for n in loop.record}
    return Pass(output, LoopState(type(neuron)(**finals), back, state.recurrent, state.rule), records)


def every(states: int) -> int:
    """Steps between kept states: so many that they cost a byte for each neuron and step, at most."""
    return max(8, 4 * states)


def _input(loop: Loop, state: LoopState, name: str, start: int, stop: int) -> Tensor:
    """What a port or a noise gives to steps start to stop - 1."""
    if name in loop.neuron.noises:
        which, rows = loop.neuron.noises.index(name), []
        while len(rows) < stop - start:
            clock = state.neuron.clock + len(rows)
            ahead, kind = stop - start - len(rows), loop.neuron.declared_noise[name].distribution
            rows += draw(state.neuron.stream, clock, which, ahead, loop.shape, loop.dtype, kind)
        device = state.neuron.clock.device
        return torch.stack(rows) if rows else torch.zeros((0, *loop.shape), dtype=loop.dtype, device=device)
    if name in loop.inputs:
        x = loop.inputs[name]
        # A slice's gradient is a copy into zeros, even where the slice is the whole.
        return x if (start, stop) == (0, x.shape[0]) else x[start:stop]
    # The port is fed by the recurrent connection alone.
    like = next(iter(loop.inputs.values()))
    return torch.zeros((), dtype=loop.dtype, device=like.device).expand(stop - start, *loop.shape)


def last_output(output: Tensor, before: Tensor, lengths: Tensor | None) -> Tensor:
    """The last output of each sample."""
    if output.shape[0] == 0:
        return before
    if lengths is None:
        return output[-1].clone()  # whoever changes the output in place leaves the state alone
    index = (lengths - 1).clamp(min=0)
    found = output[index, torch.arange(len(index), device=index.device)]
    return torch.where((lengths > 0).reshape(-1, *(1,) * (found.dim() - 1)), found, before)


def _step_by_step(loop: Loop, state: LoopState, start: int, stop: int, edge: ResetEdge) -> Pass:
    """A recurrent connection that is more than a matrix: its module, and one fused step, for each step."""
    feedback = loop.feedback
    assert feedback is not None
    rows = {name: x[start:stop].unbind(0) for name, x in loop.inputs.items()}
    passes: list[Pass] = []
    for t in range(stop - start):
        fed, recurrent = feedback.call(state.feedback, state.recurrent)
        inputs = {name: row[t].to(loop.dtype)[None] for name, row in rows.items()}
        fed = fed.to(loop.dtype)[None]
        inputs[feedback.port] = inputs[feedback.port] + fed if feedback.port in inputs else fed
        alive = None if loop.alive is None else loop.alive[start + t : start + t + 1]
        single = _single(loop, inputs, alive)
        one = _whole(single, LoopState(state.neuron, rule=state.rule), 0, 1, edge)
        back = one.output[0] if alive is None else torch.where(alive[0], one.output[0], state.feedback)
        state = LoopState(one.state.neuron, back, recurrent, state.rule)
        passes.append(one)
    if not passes:
        return _whole(_single(loop, loop.inputs, loop.alive), state, start, stop, edge)._replace(state=state)
    records = {name: torch.cat([p.records[name] for p in passes]) for name in loop.record}
    return Pass(torch.cat([p.output for p in passes]), state, records)


def _single(loop: Loop, inputs: dict[str, Tensor], alive: Tensor | None) -> Loop:
    from dataclasses import replace

    return replace(loop, inputs=inputs, alive=alive, steps=1, feedback=None)


__all__ = ["NoElementwiseForm", "Unsuited", "check", "every", "run", "transformed"]
