"""Recurrent layers on GPUs, one matrix from all neurons to all.

Where its weights fit on a multiprocessor, one kernel takes all steps. Beyond, each step is a product, which cuBLAS does
best, and one small kernel; that is no work for autograd, and little for Python. The backward pass computes the states
before each step again, all chunks at once, from the input that the steps had, and then takes the steps back.
"""

import functools
from collections.abc import Callable
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


def forward(
    call: Call, program: Program, keep: int, fed: int, weight: Tensor, bias: Tensor | None, last: Tensor
) -> Tensor:
    """All steps of a loop, into the outputs that the call has; the rest is as in `gpu.forward`.

    Returns:
        What the backward pass needs: the states before every `keep` steps, and behind them the input of the port that
        is fed, [T, B N] of it.
    """
    states = len(program.states)
    chunks = -(-call.steps // keep) if keep else 0
    kept = torch.empty((chunks * states + (call.steps if keep else 0)) * call.lanes, **call.like)
    call.given |= {"kept": kept, "drive": kept[chunks * states * call.lanes :]}
    call.given |= {"last": last, "weight": weight.t().contiguous()} | ({} if bias is None else {"bias": bias})
    whole = _fits(call)
    source = _source(program, fed, whole, None, keep or 1, bias is not None)
    if whole:
        _at_once(call, source, bool(keep))
    elif call.lanes:
        _in_place(call, program, "z", "f")
        product, rows = call.new("product", False, call.dtype), (last, *call.given["y"].unbind(0))
        step = call.prepare(source, constants=(bool(keep), BLOCK))
        for t in range(call.steps):
            torch.mm(rows[t], call.given["weight"], out=product)
            step(t, t + 1)
    return kept


def backward(call: Call, program: Program, keep: int, wanted: Wanted, fed: int, weight: Tensor) -> None:
    """Gradients, into those that the call has; see `gpu.backward`. The port that is fed is among those wanted."""
    count, kept, port = len(program.states), call.given["kept"], program.ports[fed]
    drive = kept[len(kept) - call.steps * call.lanes :].view(call.steps, *call.shape)
    states = torch.empty((call.steps * count, call.lanes), **call.like)
    call.given |= {f"x_{port}": drive, "states": states, "weight": weight.contiguous()}
    if count and call.steps:
        call.run(_replay(program, keep), grid=(-(-call.lanes // BLOCK), -(-call.steps // keep), 1))
    call.given["kept"] = states
    for name in wanted.coefficients:
        call.given[f"d_c_{name}"].zero_()
    whole = _fits(call)
    source = _source(program, fed, whole, wanted)
    if whole:
        _at_once(call, source)
    elif call.lanes:
        _in_place(call, program, "h", "d_z")
        product, rows = call.new("product", False, call.dtype).zero_(), call.given[f"d_x_{port}"].unbind(0)
        step = call.prepare(source)
        for back in range(call.steps):
            if back:
                torch.mm(rows[call.steps - back], weight, out=product)
            step(back, back + 1)


def _in_place(call: Call, program: Program, before: str, after: str) -> None:
    """Let a kernel of one step read the states where it writes them."""
    for name in program.states:
        place = call.given[f"{after}_{name}"].copy_(call.given[f"{before}_{name}"].expand(call.shape))
        call.given[f"{before}_{name}"] = place


def _fits(call: Call) -> bool:
    return call.dtype == torch.float32 and call.shape[1] <= WIDEST


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
