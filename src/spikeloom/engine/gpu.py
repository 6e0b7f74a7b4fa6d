"""The fused engine for GPUs: the whole time loop in one Triton kernel, forward, and one backward.

Recurrent layers are `recurrent`'s.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from . import gpu_recurrent
from .generated import Wanted
from .gpu_call import Call
from .program import Program
from .triton_kernel import Source
from .triton_module import BLOCK
from .triton_source import backward_source, forward_source

# Operations of a transpose, and how many steps of one that has more are written out: compilers take the square of it.
LONG = ((256, 1), (128, 2), (64, 4))


def every(steps: int, program: Program) -> int:
    """Steps between kept states, which are the steps of a chunk: a few kernels serve passes of all lengths."""
    size = len(program.backward.nodes)
    most = next((count for nodes, count in LONG if size > nodes), 8)
    return 1 if steps == 1 else min(most, 4 if steps <= 4 else 8)


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
        Output [T, B, *N], final states [B, *N], records [T, B, *N], and the states kept, [ceil(T / keep), S, B N]; of a
        recurrent layer what `gpu_recurrent` keeps.
    """
    call = Call(program, lengths, coefficients, inputs, ordered=fed >= 0)
    call.give("z", program.states, states)
    y, finals, records = call.outputs(program, output_dtype)
    if fed >= 0:
        assert weight is not None and last is not None
        return y, finals, records, gpu_recurrent.forward(call, program, keep, fed, weight, bias, last)
    count = -(-call.steps // keep) if keep else 0
    kept = call.given["kept"] = torch.empty((count, len(states), call.lanes), **call.like)
    call.run(_source(program, keep or every(call.steps, program), None), constants=(bool(keep), BLOCK))
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
    fed: int = -1,
    weight: Tensor | None = None,
    *_: Tensor | None,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Gradients of the wanted ports [T, B, *N], of all states [B, *N] and of the wanted coefficients [*N].

    Args:
        keep, lengths, coefficients, inputs: as in `forward`.   kept: what it kept.
        g_y, g_finals, g_records: gradients that arrive, of any strides, or None for zero.
    """
    call = Call(program, lengths, coefficients, inputs, ordered=fed >= 0)
    call.arriving(program, g_y, g_finals, g_records)
    call.given["kept"] = kept
    d_inputs, d_states, partial = call.gradients(program, inputs, wanted)
    if fed >= 0:
        assert weight is not None
        gpu_recurrent.backward(call, program, keep, wanted, fed, weight)
    else:
        call.run(_source(program, keep, wanted), constants=(BLOCK,))
    # A sum for each lane; torch adds up the batch, always in the same order.
    return d_inputs, d_states, [p.sum(0) for p in partial]


@functools.cache
def _source(program: Program, chunk: int, wanted: Wanted | None) -> Source:
    return forward_source(program, chunk) if wanted is None else backward_source(program, chunk, wanted)
