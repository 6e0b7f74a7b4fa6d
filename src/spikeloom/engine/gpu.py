"""The fused engine for GPUs: the whole time loop in one Triton kernel, forward, and one backward."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .generated import Wanted
from .layout import arrange, dense_strides, order_of
from .program import Program
from .triton_kernel import Source
from .triton_module import launch
from .triton_source import backward_source, forward_source


def every(steps: int) -> int:
    """Steps between kept states, which are the steps of a chunk: a few kernels serve passes of all lengths."""
    return 1 if steps == 1 else 4 if steps <= 4 else 8


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
        fed, weight, bias, last: -1 and None, for recurrent connections are not of this kernel.
        output_dtype: of the output (default: the program's).

    Returns:
        Output [T, B, *N], final states [B, *N], records [T, B, *N], and the states kept, [ceil(T / keep), S, B N].
    """
    assert fed < 0
    dtype = program.dtype
    call = _Call(program, lengths, coefficients, inputs)
    call.give("z", program.states, states)
    y = call.new("y", True, output_dtype or dtype)
    records = [call.new(f"r_{n}", True, dtype) for n in program.records]
    finals = [call.new(f"f_{n}", False, dtype) for n in program.states]
    count = -(-call.steps // keep) if keep else 0
    kept = call.given["kept"] = torch.empty((count, len(states), call.lanes), dtype=dtype, device=call.device)
    call.run(_source(program, keep or every(call.steps), None), bool(keep))
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
    *_: Tensor | None,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Gradients of the wanted ports [T, B, *N], of all states [B, *N] and of the wanted coefficients [*N].

    Args:
        keep, lengths, coefficients, inputs: as in `forward`.   kept: what it kept.
        g_y, g_finals, g_records: gradients that arrive, of any strides, or None for zero.
    """
    assert fed < 0
    call = _Call(program, lengths, coefficients, inputs)
    # What does not arrive is one zero, read over and over.
    zero = numbers((0.0,), program.dtype, call.device)
    zeros = zero.expand(call.steps, *(1,) * len(call.shape))
    call.given["g_y"] = zeros if g_y is None else g_y
    call.give("g_r", program.records, [zeros if g is None else g for g in g_records])
    call.give("h", program.states, [zero if g is None else g for g in g_finals])
    call.given["kept"] = kept
    dtypes = {n: x.dtype for n, x in zip(program.ports, inputs, strict=True)}
    d_inputs = [call.new(f"d_x_{n}", True, dtypes[n]) for n in wanted.ports]
    d_states = [call.new(f"d_z_{n}", False, program.dtype) for n in program.states]
    partial = [call.new(f"d_c_{n}", False, program.dtype) for n in wanted.coefficients]
    call.run(_source(program, keep, wanted))
    # A sum for each lane; torch adds up the batch, always in the same order.
    return d_inputs, d_states, [p.sum(0) for p in partial]


class _Call:
    """A kernel's tensors by name. Little is done for each: where networks are small, this is what takes the time."""

    def __init__(
        self, program: Program, lengths: Tensor | None, coefficients: Sequence[Tensor], inputs: Sequence[Tensor]
    ):
        first = inputs[0]
        self.dtype, self.device = program.dtype, first.device
        self.steps, self.shape = first.shape[0], tuple(first.shape[1:])
        self.lanes = math.prod(self.shape)
        self.order = order_of(self.shape, first.stride()[1:])
        self.strides = dense_strides(self.shape, self.order)
        self.given: dict[str, Tensor] = {}
        self.give("x", program.ports, inputs)
        self.give("c", program.coefficients, [_place(c, self.device) for c in coefficients])
        if lengths is not None:
            self.given["lengths"] = lengths.reshape(-1, *(1,) * (len(self.shape) - 1))

    def give(self, kind: str, names: Sequence[str], tensors: Sequence[Tensor]) -> None:
        for name, tensor in zip(names, tensors, strict=True):
            self.given[f"{kind}_{name}"] = tensor

    def new(self, name: str, in_time: bool, dtype: torch.dtype) -> Tensor:
        """A tensor for the kernel to write, in the order in which the first input has its lanes."""
        shape, strides = self.shape, self.strides
        if in_time:
            shape, strides = (self.steps, *shape), (self.lanes, *strides)
        made = self.given[name] = torch.empty_strided(shape, strides, dtype=dtype, device=self.device)
        return made

    def run(self, source: Source, *options: Any) -> None:
        if self.lanes == 0:
            return
        count = len(source.timed)
        strided, where = arrange(self.shape, self.order, [self.given[n] for n in (*source.timed, *source.still)])
        tensors = [
            numbers(source.constants, self.dtype, self.device),
            *strided,
            *[self.given[n] for n in source.dense],
        ]
        sizes = (self.steps, self.lanes, where.middle, where.inner)
        wide = (self.lanes, *[t.stride(0) for t in strided[:count]], *where.strides)
        launch(source.text, self.lanes, sizes, tensors, wide, options)


@functools.cache
def _source(program: Program, chunk: int, wanted: Wanted | None) -> Source:
    return forward_source(program, chunk) if wanted is None else backward_source(program, chunk, wanted)


@functools.lru_cache(maxsize=1024)
def numbers(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers on a device: copied there once, so that no launch waits for a copy."""
    return torch.tensor(values or (0.0,), dtype=dtype, device=device)


def _place(coefficient: Tensor, device: torch.device) -> Tensor:
    """A coefficient on the device of the input; a plain number lies with the processor until then."""
    if coefficient.device == device:
        return coefficient
    if coefficient.dim() == 0:
        return numbers((float(coefficient),), coefficient.dtype, device)
    return coefficient.to(device)
