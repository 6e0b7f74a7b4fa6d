"""The fused engine for GPUs: the whole time loop in one Triton kernel, forward, and one backward.

Recurrent layers are `recurrent`'s.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import gpu_recurrent
from .generated import Wanted
from .gpu_call import Call
from .program import Program
from .triton_kernel import Lie, Source
from .triton_module import BLOCK
from .triton_source import backward_source, forward_source

# Operations of a transpose, and how many steps of one that has more are written out: compilers take the square of it.
LONG = ((256, 1), (128, 2), (64, 4), (32, 8))
# Lanes from which on there are enough of them at work to hide the memory's latency with STEPS written out. Fewer take
# AHEAD, and have a thread for each; more have one for TOGETHER, where they lie in memory one after the other.
MANY, TOGETHER, STEPS, AHEAD = 1 << 16, 2, 8, 16


def every(steps: int, lanes: int, program: Program) -> int:
    """Steps between kept states, which are the steps of a chunk: a few kernels serve passes of all lengths."""
    size = len(program.backward.nodes)
    most = next((count for nodes, count in LONG if size > nodes), AHEAD if lanes < MANY else STEPS)
    return 1 if steps == 1 else min(most, 4 if steps <= 4 else 8 if steps <= 8 else AHEAD)


def written(steps: int, lanes: int, keep: int) -> int:
    """Steps that the forward kernel has written out: twice as many where lanes are few, for it holds less of each."""
    return 2 * keep if lanes < MANY and steps > keep and 2 * keep <= AHEAD else keep


def forward(
    program: Program,
    keep: int,
    lengths: Tensor | None,
    coefficients: Sequence[Tensor],
    states: Sequence[Tensor],
    inputs: Sequence[Tensor],
    fed: int = -1,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    last: Tensor | None = None,
    output_dtype: torch.dtype | None = None,
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    """All steps of a loop.

    Args:
        keep: keep the states before every so many steps, for the backward pass; 0 keeps none.
        lengths: int64 [B], steps of each sample, or None.
        coefficients: in the program's order, each broadcasting to [*N].
        states: [B, *N] each.   inputs: [T, B, *N] each, of any strides.
        fed, weight, bias, last: the port that a recurrent connection feeds, or -1; its weight [N, N], its bias [N] or
            None, and the output before the first step [B, N].
        output_dtype: of the output (default: the program's).

    Returns:
        Output [T, B, *N], final states [B, *N], records [T, B, *N], and the states kept before all chunks of `keep`
        steps but the first, (ceil(T / keep) - 1) S B N of them in a row; of a recurrent layer what `gpu_recurrent`
        keeps.
    """
    call = Call(program, lengths, coefficients, inputs, ordered=fed >= 0)
    call.give("z", program.states, states)
    y, finals, records = call.outputs(program, output_dtype)
    if fed >= 0:
        assert weight is not None and last is not None
        return y, finals, records, gpu_recurrent.forward(call, program, keep, fed, weight, bias, last)
    count = max(0, -(-call.steps // keep) - 1) if keep else 0
    kept = call.given["kept"] = torch.empty(count * len(states) * call.lanes, **call.like)
    each = keep or every(call.steps, call.lanes, program)
    _run(call, _forward_source, program, written(call.steps, call.lanes, each), each, constants=(bool(keep),))
    return y, finals, records, kept


def backward(
    program: Program,
    keep: int,
    lengths: Tensor | None,
    coefficients: Sequence[Tensor],
    states: Sequence[Tensor],
    inputs: Sequence[Tensor],
    kept: Tensor,
    g_y: Tensor | None,
    g_finals: Sequence[Tensor | None],
    g_records: Sequence[Tensor | None],
    wanted: Wanted,
    first: bool = True,
    fed: int = -1,
    weight: Tensor | None = None,
    *_: Tensor | None,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Gradients of the wanted ports [T, B, *N], of the states [B, *N] and of the wanted coefficients [*N].

    Args:
        keep, lengths, coefficients, states, inputs: as in `forward`.   kept: what it kept.
        first: whether those of the states are wanted; else they may be absent.
        g_y, g_finals, g_records: gradients that arrive, of any strides, or None for zero.
    """
    call = Call(program, lengths, coefficients, inputs, ordered=fed >= 0)
    call.arriving(program, g_y, g_finals, g_records)
    call.give("z", program.states, states)
    # What is saved for the backward pass may come back at another address, by way of hooks.
    call.given["kept"] = kept.clone() if kept.data_ptr() % 16 else kept
    states_too = first or fed >= 0  # where recurrent layers keep what flows back
    d_inputs, d_states, partial = call.gradients(program, inputs, wanted, states_too)
    if fed >= 0:
        assert weight is not None
        gpu_recurrent.backward(call, program, keep, wanted, fed, weight)
    else:
        _run(call, _backward_source, program, keep, wanted, first)
    # A sum for each lane; torch adds up the batch, always in the same order.
    return d_inputs, d_states, [p.sum(0) for p in partial]


def _run(call: Call, source: Callable[..., Source], *given: Any, constants: Any = ()) -> None:
    """Run a kernel in the form that suits how its tensors lie."""
    lie = call.lie() if call.lanes >= MANY else None
    call.run(source(*given, lie), constants=(*constants, BLOCK if lie is None else TOGETHER * BLOCK))


@functools.cache
def _forward_source(program: Program, chunk: int, every: int, lie: tuple[tuple[str, Lie], ...] | None) -> Source:
    return forward_source(program, chunk, every, None if lie is None else dict(lie))


@functools.cache
def _backward_source(
    program: Program, chunk: int, wanted: Wanted, first: bool, lie: tuple[tuple[str, Lie], ...] | None
) -> Source:
    return backward_source(program, chunk, wanted, first, None if lie is None else dict(lie))
