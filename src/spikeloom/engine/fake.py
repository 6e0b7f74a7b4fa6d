"""What the operators return, without its values: for compilers, which have to know how it will lie in memory.

Sizes may be symbols that stand for any number.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .layout import dense_strides, order_of
from .program import known_program

# Symbols have no hash, for which a cache would ask.
_order_of, _dense_strides = order_of.__wrapped__, dense_strides.__wrapped__


class _Laid:
    """Makes tensors that lie as kernels lay them beside an input [T, B, *N]."""

    def __init__(self, x: Tensor, fed: int):
        self.steps, self.device, self.shape = x.shape[0], x.device, tuple(x.shape[1:])
        self.lanes = math.prod(self.shape)
        order, strides = tuple(range(len(self.shape))), x.stride()[1:]
        if x.device.type != "cuda":  # where each sample's neurons are together
            order = 0, *(1 + axis for axis in _order_of(self.shape[1:], strides[1:]))
        elif fed < 0:
            order = _order_of(self.shape, strides)
        self.strides = _dense_strides(self.shape, order)

    def rows(self, dtype: torch.dtype) -> Tensor:
        """[T, B, *N]"""
        shape, strides = (self.steps, *self.shape), (self.lanes, *self.strides)
        return torch.empty_strided(shape, strides, dtype=dtype, device=self.device)

    def row(self, dtype: torch.dtype) -> Tensor:
        """[B, *N]"""
        return torch.empty_strided(self.shape, self.strides, dtype=dtype, device=self.device)


def loop(
    key: str,
    keep: int,
    fed: int,
    coefficients: Sequence[Tensor],
    states: Sequence[Tensor],
    inputs: Sequence[Tensor],
    lengths: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    last: Tensor | None,
    output_dtype: torch.dtype,
) -> list[Tensor]:
    """Output, records, final states and kept states."""
    program, laid = known_program(key), _Laid(inputs[0], fed)
    rows = [laid.rows(d) for d in (output_dtype, *(program.dtype for _ in program.records))]
    finals = [laid.row(program.dtype) for _ in states]
    count: Any = -(-laid.steps // keep) if keep else 0
    if laid.device.type == "cuda" and fed < 0:
        count = torch.sym_max(0, count - 1)
    kept = count * len(states) * laid.lanes
    if laid.device.type == "cuda" and fed >= 0 and keep:
        kept += laid.steps * laid.lanes
    return [*rows, *finals, torch.empty(kept, dtype=program.dtype, device=laid.device)]


def loop_backward(
    key: str,
    keep: int,
    fed: int,
    ports: Sequence[int],
    wanted: Sequence[int],
    first: bool,
    coefficients: Sequence[Tensor],
    states: Sequence[Tensor],
    inputs: Sequence[Tensor],
    *_: Any,
) -> list[Tensor]:
    """Gradients of ports, of first states if wanted, and of coefficients."""
    program, laid = known_program(key), _Laid(inputs[0], fed)
    found = [laid.rows(inputs[k].dtype) for k in ports]
    found += [laid.row(program.dtype) for _ in (program.states if first else ())]
    return [*found, *(torch.empty(coefficients[k].shape, dtype=program.dtype, device=laid.device) for k in wanted)]
