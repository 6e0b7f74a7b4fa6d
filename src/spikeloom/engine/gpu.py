"""The fused engine for GPUs: the whole time loop in one Triton kernel, forward, and one backward."""

import contextlib
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .generated import Wanted
from .layout import arrange, empty, order_of
from .program import Program
from .triton_kernel import Source
from .triton_module import kernel
from .triton_source import backward_source, forward_source

CHUNK = 8  # steps that are written out one after the other, and between the states that are kept
BLOCK, WARPS = 128, 4


def forward(
    program: Program,
    keep: int,
    lengths: Tensor | None,
    coefficients: Sequence[Tensor],
    states: Sequence[Tensor],
    inputs: Sequence[Tensor],
    output_dtype: torch.dtype | None = None,
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    """All steps of a loop.

    Args:
        keep: keep the states before every so many steps, for the backward pass; 0 keeps none.
        lengths: int64 [B], steps of each sample, or None.
        coefficients: in the program's order, each broadcasting to [*N].
        states: [B, *N] each.   inputs: [T, B, *N] each, of any strides.
        output_dtype: of the output (default: the program's).

    Returns:
        Output [T, B, *N], final states [B, *N], records [T, B, *N], and the states kept, [ceil(T / keep), S, B N].
    """
    dtype = program.dtype
    call = _Call(_source(program, keep or CHUNK, None), program, lengths, coefficients, inputs)
    call.given |= dict(zip((f"z_{n}" for n in program.states), states, strict=True))
    y = call.new("y", True, output_dtype or dtype)
    records = [call.new(f"r_{n}", True, dtype) for n in program.records]
    finals = [call.new(f"f_{n}", False, dtype) for n in program.states]
    chunks = -(-call.steps // keep) if keep else 0
    kept = torch.empty((chunks, len(states), call.lanes), dtype=dtype, device=call.device)
    call.given["kept"] = kept
    call.launch(KEEP=bool(keep))
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
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Gradients of the wanted ports [T, B, *N], of all states [B, *N] and of the wanted coefficients [*N].

    Args:
        keep, lengths, coefficients, inputs: as in `forward`.   kept: what it kept.
        g_y, g_finals, g_records: gradients that arrive, of any strides, or None for zero.
    """
    call = _Call(_source(program, keep, wanted), program, lengths, coefficients, inputs)
    zero = constants((0.0,), program.dtype, call.device)[0]
    arriving = {"g_y": g_y, **{f"g_r_{n}": g for n, g in zip(program.records, g_records, strict=True)}}
    finals = {f"h_{n}": g for n, g in zip(program.states, g_finals, strict=True)}
    # What does not arrive is one zero, read over and over.
    call.given |= {n: zero.expand(call.steps, *call.shape) if g is None else g for n, g in arriving.items()}
    call.given |= {n: zero.expand(call.shape) if g is None else g for n, g in finals.items()}
    dtypes = {n: x.dtype for n, x in zip(program.ports, inputs, strict=True)}
    d_inputs = [call.new(f"d_x_{n}", True, dtypes[n]) for n in wanted.ports]
    d_states = [call.new(f"d_z_{n}", False, program.dtype) for n in program.states]
    partial = [call.new(f"d_c_{n}", False, program.dtype) for n in wanted.coefficients]
    call.given["kept"] = kept
    call.launch()
    # A sum for each lane; torch adds up the batch, always in the same order.
    return d_inputs, d_states, [p.sum(0) for p in partial]


class _Call:
    """A kernel's arguments, gathered by name."""

    def __init__(
        self,
        source: Source,
        program: Program,
        lengths: Tensor | None,
        coefficients: Sequence[Tensor],
        inputs: Sequence[Tensor],
    ):
        first = inputs[0]
        self.source, self.dtype, self.device = source, program.dtype, first.device
        self.steps, self.shape = first.shape[0], tuple(first.shape[1:])
        self.lanes = math.prod(self.shape)
        self.order = order_of(self.shape, first.stride()[1:])
        placed = [place(c, self.device).expand(self.shape) for c in coefficients]
        self.given = dict(zip((f"x_{n}" for n in program.ports), inputs, strict=True))
        self.given |= dict(zip((f"c_{n}" for n in program.coefficients), placed, strict=True))
        if lengths is not None:
            self.given["lengths"] = lengths.reshape(-1, *(1,) * (len(self.shape) - 1)).expand(self.shape)

    def new(self, name: str, in_time: bool, dtype: torch.dtype) -> Tensor:
        """A tensor for the kernel to write."""
        rows = (self.steps,) if in_time else ()
        self.given[name] = empty(rows, self.shape, self.order, dtype, self.device)
        return self.given[name]

    def launch(self, **options: Any) -> None:
        if self.lanes == 0:
            return
        source = self.source
        strided, where = arrange(self.shape, self.order, [self.given[n] for n in (*source.timed, *source.still)])
        tensors = [*strided, *(self.given[n] for n in source.dense)]
        wide = [self.lanes, *(t.stride(0) for t in strided[: len(source.timed)]), *itertools.chain(*where.strides)]
        numbers = constants(source.constants, self.dtype, self.device)
        run = kernel(source.text)[(-(-self.lanes // BLOCK),)]
        with _on(self.device):
            run(
                *(self.steps, self.lanes, where.middle, where.inner, numbers, *tensors, *wide),
                **options,
                BLOCK=BLOCK,
                num_warps=WARPS,
                enable_fp_fusion=False,  # multiply, then add: as every engine does
            )


def _on(device: torch.device) -> Any:
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


@functools.cache
def _source(program: Program, chunk: int, wanted: Wanted | None) -> Source:
    return forward_source(program, chunk) if wanted is None else backward_source(program, chunk, wanted)


@functools.lru_cache(maxsize=1024)
def constants(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers on a device: copied there once, so that no launch waits for a copy."""
    return torch.tensor(values or (0.0,), dtype=dtype, device=device)


def place(coefficient: Tensor, device: torch.device) -> Tensor:
    """A coefficient on the device of the input; a plain number lies with the processor until then."""
    if coefficient.device == device:
        return coefficient
    if coefficient.dim() == 0:
        return constants((float(coefficient),), coefficient.dtype, device)[0]
    return coefficient.to(device)
