"""Recurrent layers on GPUs, one matrix from all neurons to all.

Where its weights fit on a multiprocessor, one kernel takes all steps. Beyond, each step is a product, which cuBLAS does
best, and one small kernel; that is no work for autograd, and little for Python. The backward pass computes the states
before each step again, all chunks at once, from the input that the steps had, and then takes the steps back.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .generated import Wanted
from .gpu_call import Call
from .program import Program
from .triton_kernel import Source
from .triton_module import BLOCK
from .triton_recurrent import backward_source, forward_source, replay_source

WIDEST = 128  # neurons whose weights one multiprocessor holds
Found = tuple[Tensor, list[Tensor], list[Tensor], Tensor]


def forward(
    program: Program,
    keep: int,
    lengths: Tensor | None,
    coefficients: Sequence[Tensor],
    states: Sequence[Tensor],
    inputs: Sequence[Tensor],
    fed: int,
    weight: Tensor,
    bias: Tensor | None,
    last: Tensor,
) -> Found:
    """All steps of a loop; see `gpu.forward`.

    Kept are the states before every `keep` steps, and behind them the input of the port that is fed, [T, B N] of it.
    """
    call = _call(program, lengths, coefficients, inputs)
    whole = _fits(program, call)
    call.give("z", program.states, states)
    y = call.new("y", True, program.dtype)
    records = [call.new(f"r_{n}", True, program.dtype) for n in program.records]
    finals = [call.new(f"f_{n}", False, program.dtype) for n in program.states]
    chunks = -(-call.steps // keep) if keep else 0
    kept = torch.empty((chunks * len(states) + (call.steps if keep else 0), call.lanes), **call.like)
    call.given |= {"kept": kept, "drive": kept[chunks * len(states) :]}
    call.given |= {"last": last, "weight": weight.t().contiguous()} | ({} if bias is None else {"bias": bias})
    source = _source(program, fed, whole, None, keep or 1, bias is not None)
    if whole:
        _at_once(call, source, bool(keep))
    elif call.lanes:
        for state, final in zip(states, finals, strict=True):
            final.copy_(state)
        call.give("z", program.states, finals)
        product = call.new("product", False, program.dtype)
        step = call.prepare(source, constants=(bool(keep), BLOCK))
        rows = (last, *y.unbind(0))
        for t in range(call.steps):
            torch.mm(rows[t], call.given["weight"], out=product)
            step(t, t + 1)
    return y, finals, records, kept


def backward(
    program: Program,
    keep: int,
    lengths: Tensor | None,
    coefficients: Sequence[Tensor],
    inputs: Sequence[Tensor],
    kept: Tensor,
    g_y: Tensor | None,
    g_finals: Sequence[Tensor | None],
    g_records: Sequence[Tensor | None],
    wanted: Wanted,
    fed: int,
    weight: Tensor,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Gradients; see `gpu.backward`. The port that is fed is among those wanted."""
    call, count = _call(program, lengths, coefficients, inputs), len(program.states)
    whole = _fits(program, call)
    drive = kept[len(kept) - call.steps :].view(call.steps, *call.shape)
    call.given |= {f"x_{program.ports[fed]}": drive, "kept": kept, "weight": weight.contiguous()}
    call.given["states"] = torch.empty((call.steps * count, call.lanes), **call.like)
    blocks = -(-call.lanes // BLOCK)
    if count and call.steps:
        call.run(_replay(program, keep), grid=(blocks, -(-call.steps // keep), 1))
    call.given["kept"] = call.given["states"]
    call.arriving(program, g_y, g_finals, g_records)
    dtypes = {n: x.dtype for n, x in zip(program.ports, inputs, strict=True)}
    d_inputs = [call.new(f"d_x_{n}", True, dtypes[n]) for n in wanted.ports]
    d_states = [call.new(f"d_z_{n}", False, program.dtype) for n in program.states]
    partial = [call.new(f"d_c_{n}", False, program.dtype).zero_() for n in wanted.coefficients]
    source = _source(program, fed, whole, wanted)
    if whole:
        _at_once(call, source)
    elif call.lanes:
        for name, d_state in zip(program.states, d_states, strict=True):
            d_state.copy_(call.given[f"h_{name}"].expand(call.shape))
        call.give("h", program.states, d_states)
        product = call.new("product", False, program.dtype).zero_()
        rows = d_inputs[wanted.ports.index(program.ports[fed])].unbind(0)
        step = call.prepare(source)
        for back in range(call.steps):
            if back:
                torch.mm(rows[call.steps - back], weight, out=product)
            step(back, back + 1)
    return d_inputs, d_states, [p.sum(0) for p in partial]


def _call(program: Program, lengths: Tensor | None, coefficients: Sequence[Tensor], inputs: Sequence[Tensor]) -> Call:
    """A call whose lanes lie sample by sample, as products want them."""
    return Call(program, lengths, coefficients, inputs, ordered=True)


def _fits(program: Program, call: Call) -> bool:
    return program.dtype == torch.float32 and call.shape[1] <= WIDEST


def _at_once(call: Call, source: Source, *constants: Any) -> None:
    samples, neurons = call.shape
    block = max(16, 1 << (neurons - 1).bit_length())
    warps = 8 if block > 64 else 4
    call.run(source, neurons, 0, call.steps, grid=(samples, 1, 1), constants=(*constants, block), warps=warps)


@functools.cache
def _source(
    program: Program, fed: int, whole: bool, wanted: Wanted | None, every: int = 1, bias: bool = False
) -> Source:
    if wanted is None:
        return forward_source(program, fed, every, whole, bias)
    return backward_source(program, fed, wanted, whole)


_replay: Callable[[Program, int], Source] = functools.cache(replay_source)
