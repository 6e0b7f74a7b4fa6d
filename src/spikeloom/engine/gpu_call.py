"""What a kernel for GPUs is called with: tensors by name, their strides, and numbers that lie on the device."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..capture import capturing
from .generated import Wanted
from .layout import arrange, dense_strides, order_of
from .program import Program
from .triton_kernel import Lie, Source
from .triton_module import BLOCK, WARPS, prepare

# How the names of tensors begin that are read: those in time, and others.
TIMED, STILL = ("x_", "g_"), ("c_", "z_", "h_")


class Call:
    """A kernel's tensors by name. Little is done for each: where networks are small, this is what takes the time.

    Args:
        ordered: lanes lie as the axes do, whatever the order of the first input's.
    """

    def __init__(
        self,
        program: Program,
        lengths: Tensor | None,
        coefficients: Sequence[Tensor],
        inputs: Sequence[Tensor],
        ordered: bool = False,
    ):
        first = inputs[0]
        self.dtype, self.device = program.dtype, first.device
        self.steps, self.shape = first.shape[0], tuple(first.shape[1:])
        self.lanes = math.prod(self.shape)
        self.order = tuple(range(len(self.shape))) if ordered else order_of(self.shape, first.stride()[1:])
        self.strides = dense_strides(self.shape, self.order)
        self.given: dict[str, Tensor] = {}
        self.give("x", program.ports, inputs)
        self.give("c", program.coefficients, [place(c, self.device) for c in coefficients])
        if lengths is not None:
            self.given["lengths"] = lengths.reshape(-1, *(1,) * (len(self.shape) - 1))

    @property
    def like(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "device": self.device}

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

    def arriving(
        self,
        program: Program,
        g_y: Tensor | None,
        g_finals: Sequence[Tensor | None],
        g_records: Sequence[Tensor | None],
    ) -> None:
        """The gradients that arrive; what does not is one zero, read over and over."""
        zero = numbers((0.0,), self.dtype, self.device)
        zeros = zero.expand(self.steps, *(1,) * len(self.shape))
        self.given["g_y"] = zeros if g_y is None else g_y
        self.give("g_r", program.records, [zeros if g is None else g for g in g_records])
        self.give("h", program.states, [zero if g is None else g for g in g_finals])

    def outputs(self, program: Program, dtype: torch.dtype | None) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Output, final states and records for a forward kernel to write."""
        y = self.new("y", True, dtype or self.dtype)
        records = [self.new(f"r_{n}", True, self.dtype) for n in program.records]
        return y, [self.new(f"f_{n}", False, self.dtype) for n in program.states], records

    def gradients(
        self, program: Program, inputs: Sequence[Tensor], wanted: Wanted, states: bool
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Gradients of ports, states and coefficients, of these a sum for each lane, for a backward kernel to write."""
        dtypes = {n: x.dtype for n, x in zip(program.ports, inputs, strict=True)}
        d_inputs = [self.new(f"d_x_{n}", True, dtypes[n]) for n in wanted.ports]
        d_states = [self.new(f"d_z_{n}", False, self.dtype) for n in (program.states if states else ())]
        return d_inputs, d_states, [self.new(f"d_c_{n}", False, self.dtype) for n in wanted.coefficients]

    def lie(self) -> tuple[tuple[str, Lie], ...] | None:
        """How the lanes lie of the tensors that are read; None where one of those in time does not lie so.

        Of those that are read once it is said only if all are single numbers: a kernel is compiled for what is said.
        """
        if self.lanes % 16:
            return None
        timed: list[tuple[str, Lie]] = []
        still: list[str] = []
        single = True
        for name, tensor in self.given.items():
            if name.startswith(TIMED):
                kind = _lie(self.shape, self.strides, tensor.shape[1:], tensor.stride()[1:])
                if kind is None or (kind is Lie.LINED and (tensor.data_ptr() % 16 or tensor.stride(0) % 16)):
                    return None
                timed.append((name, kind))
            elif name.startswith(STILL):
                still.append(name)
                single = single and _lie(self.shape, self.strides, tensor.shape, tensor.stride()) is Lie.SINGLE
        return *timed, *((name, Lie.SINGLE) for name in still if single)

    def prepare(
        self,
        source: Source,
        *sizes: int,
        grid: tuple[int, ...] = (),
        constants: Sequence[int | bool | str] = (BLOCK,),
        warps: int = WARPS,
    ) -> Callable[..., None]:
        """A kernel as a function of what `source` names besides sizes; `grid` and `sizes` are those of its form."""
        tensors = {n: self.given[n] for n in (*source.timed, *source.still, *source.dense, *source.whole)}
        strided, where = arrange(self.shape, self.order, [tensors[n] for n in source.apart])
        tensors |= dict(zip(source.apart, strided, strict=True))
        steps = [tensors[n].stride(0) for n in source.timed]
        wide, known = (*steps, *where.strides), numbers(source.constants, self.dtype, self.device)
        grid = grid or (-(-self.lanes // int(constants[-1])), 1, 1)
        launch = prepare(source.text, grid, (known, *tensors.values()), wide, constants, warps)
        return functools.partial(launch, self.steps, self.lanes, where.middle, where.inner, *sizes)

    def run(self, source: Source, *sizes: int, **more: Any) -> None:
        if self.lanes:
            self.prepare(source, *sizes, **more)()


@functools.lru_cache(maxsize=4096)
def _lie(shape: tuple[int, ...], strides: tuple[int, ...], sizes: torch.Size, own: tuple[int, ...]) -> Lie | None:
    """How a tensor of these sizes and strides of its own lies beside lanes of that shape and those strides."""
    if all(step == 0 or size == 1 for size, step in zip(sizes, own, strict=True)):
        return Lie.SINGLE
    dense = sizes == shape and all(s == d or n == 1 for n, s, d in zip(shape, own, strides, strict=True))
    return Lie.LINED if dense else None


@functools.cache
def numbers(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers on a device: copied there once, so that no launch waits for a copy."""
    return torch.tensor(values or (0.0,), dtype=dtype, device=device)


@functools.lru_cache(maxsize=1024)
def _number(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """As `numbers`, forgotten again: a user's own number may be another at each step."""
    return torch.tensor([value], dtype=dtype, device=device)


def place(coefficient: Tensor, device: torch.device) -> Tensor:
    """A coefficient on the device of the input; a plain number lies with the processor until then."""
    if coefficient.device == device:
        return coefficient
    if coefficient.dim() == 0:
        value, like = float(coefficient), {"dtype": coefficient.dtype, "device": device}
        return torch.full((1,), value, **like) if capturing() else _number(value, **like)
    return coefficient.to(device)
