"""The fused CPU engine: a whole loop over time in one compiled kernel, forward and backward."""

import functools
import math
from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import memory, threads
from .generated import Wanted, constants, kernel, row_functions
from .layout import order_of
from .matrix import Matrix
from .program import Program
from .row_table import LENGTH

ROWS = 8 * LENGTH  # as in kernels.py, which is imported where Numba is
FIELDS = (
    *("next", "slot", "size", "steps", "lanes", "neurons", "every", "block", "groups", "per", "scratch", "room"),
    *("constants", "replay_constants", "kept", "lengths", "parts", "coefficients", "states", "ports", "records"),
    *("wanted_ports", "wanted", "fed", "fed_gradient", "feed", "send_back", "recurrent", "step", "replay", "pitch"),
    *("span", "past", "piece"),
)
RECURRENT_FIELDS = ("pitch", "neurons", "size", "weight", "vectors", "width", "tile", "bias", "back")
NONE = (0,) * len(FIELDS)
ZEROS = {dtype: torch.zeros((), dtype=dtype, device="cpu") for dtype in (torch.float32, torch.float64)}
SPARE = 4  # rows that a recurrent layer needs beside the others
SPAN = 8  # steps of a call where no state is kept
PIECE = 512  # bytes of a row that a call computes, and twice as many of a long one
PAST = 1 << 23  # bytes of results from which on they are written past the caches
# Samples of a recurrent layer that a thread takes at a time, at least: each row of weights serves them all.
SAMPLES = 16
# Lanes that a thread takes at a time, at most: their states, and where steps are taken one by one what is recomputed of
# them, stay in its own caches.
BLOCK_BYTES, BLOCK_LANES = 65536, 4096


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
    """All steps of a program: output, final states, records, and the states every `keep` steps (0: none), in one row.

    Args:
        lengths: steps of each sample, or None.
        coefficients: [*N] each, or what broadcasts to it. states: [B, *N]. inputs: [T, B, *N].
        fed: which port receives the last output by way of `weight` [N, N] (to, from) and `bias` [N]; -1: none.
        last: output before the first step [B, *N].
    """
    layout = layout_of(inputs[0].shape, inputs[0].stride())
    steps, total, count = layout.steps, layout.lanes, len(program.states)
    y, *records = layout.empty_rows(program.dtype, 1 + len(program.records), inputs)
    finals = [layout.empty_row(program.dtype) for _ in states]
    kept = memory.empty((-(-steps // keep) * count * total if keep else 0,), program.dtype)
    call = Call(program, layout, program.forward, lengths, coefficients, keep)
    call.row(*states)
    call.rows(*inputs, y, *records)
    call.row(*finals)
    call.feedback(fed, weight, bias, last)
    call.cut(count, [y, *records])
    call.header |= {"kept": kept.data_ptr(), "step": row_functions(program.key, Wanted(), False)[0].address}
    call.run("forward", len(coefficients) + count + len(inputs) + 2 + SPARE, -(-total // call.block))
    return y if output_dtype in (None, y.dtype) else y.to(output_dtype), finals, records, kept


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
    bias: Tensor | None = None,
    y: Tensor | None = None,
    last: Tensor | None = None,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The transpose of `forward`: gradients of the wanted ports, of the first states, and of the wanted coefficients
    ([*N] each, in double precision). Here `kept` is all that is needed of the states, and their gradients
    are there in any case."""
    layout = layout_of(inputs[0].shape, inputs[0].stride())
    total, neurons = layout.lanes, layout.neurons
    read = [x for x in (*inputs, g_y, *g_records) if x is not None]
    d_inputs = layout.empty_rows(program.dtype, len(wanted.ports), read)
    d_states = [layout.empty_row(program.dtype) for _ in program.states]
    graph = program.transpose(wanted.coefficients, wanted.ports)
    call = Call(program, layout, graph, lengths, coefficients, keep)
    call.rows(*inputs, g_y, *g_records)
    call.row(*g_finals)
    call.rows(*d_inputs)
    call.row(*d_states)
    call.rows(y)
    call.feedback(fed, weight, bias, last)
    call.cut(len(program.states) * (1 if call.steady else keep), d_inputs)
    blocks = -(-total // call.block)
    # Sums over a group of blocks are added up in one order, whichever threads computed them.
    per = max(1, blocks // (4 * torch.get_num_threads()))
    groups = -(-blocks // per) if blocks else 0
    shape = (groups, len(wanted.coefficients), neurons)
    parts = torch.zeros(shape, dtype=torch.float64, device="cpu") if wanted.coefficients else None
    replay, transpose = row_functions(program.key, wanted, True)
    call.header |= {"groups": groups, "per": per, "wanted": len(wanted.coefficients)}
    call.header["parts"] = 0 if parts is None else parts.data_ptr()
    call.header |= {"wanted_ports": len(wanted.ports), "replay": replay.address, "step": transpose.address}
    call.header |= {"kept": kept.data_ptr(), "replay_constants": constants(program.advance, program.dtype).data_ptr()}
    if fed >= 0:
        call.header["fed_gradient"] = wanted.ports.index(program.ports[fed])
    # Coefficients, lengths, gradients of states, sums in single and double, states of a chunk, inputs of it, and rows.
    rows = len(coefficients) + 1 + len(program.states) * (1 + keep) + 3 * len(wanted.coefficients)
    rows += (keep + SPARE if fed >= 0 else 0) + len(inputs) + 1 + len(program.records)
    call.run("backward", rows, groups)
    return d_inputs, d_states, [] if parts is None else [layout.neuron_shape(s) for s in parts.sum(0).unbind(0)]


class Layout:
    """How [T, B, *N] lies in memory: where all samples' neurons follow each other in an order other than that of the
    axes (channels last, say), kernels take them in that order."""

    def __init__(self, sizes: tuple[int, ...], strides: tuple[int, ...]):
        self.steps, self.batch, *shape = sizes
        self.shape, strides = tuple(shape), strides[2:]
        self.neurons = math.prod(shape)
        self.lanes = self.batch * self.neurons
        self.order = list(order_of(self.shape, strides))
        self.in_order = self.order == sorted(self.order)
        self.ordered = tuple(shape[k] for k in self.order)
        self.flat = len(shape) == 1

    def arranged(self, x: Tensor, lead: int) -> Tensor:
        """[..., *N] with N in the order of memory, as one axis: a view where it can be, a copy where it must."""
        if self.flat and x.stride(-1) == 1:
            return x
        if not self.in_order:
            x = x.permute(*range(lead), *(lead + k for k in self.order))
        if x.dim() > lead + 1:
            x = x.flatten(lead)
        elif x.dim() == lead:
            x = x.unsqueeze(lead)
        return x if x.stride(-1) in (0, 1) or x.shape[-1] == 1 else x.contiguous()

    def _empty(self, lead: tuple[int, ...], dtype: torch.dtype, beside: Sequence[Tensor] = ()) -> Tensor:
        order = None if self.in_order else (*range(len(lead)), *(len(lead) + k for k in self.order))
        return memory.empty((*lead, *self.shape), dtype, order, beside)

    def empty_rows(self, dtype: torch.dtype, count: int, beside: Sequence[Tensor]) -> list[Tensor]:
        """So many tensors [T, B, *N], which suit those that are read with them."""
        made: list[Tensor] = []
        for _ in range(count):
            made.append(self._empty((self.steps, self.batch), dtype, (*beside, *made)))
        return made

    def empty_row(self, dtype: torch.dtype) -> Tensor:
        return self._empty((self.batch,), dtype)

    def neuron_shape(self, flat: Tensor) -> Tensor:
        """[N] in the order of memory as [*N]."""
        if self.flat:
            return flat
        back = [self.order.index(k) for k in range(len(self.order))]
        return flat.reshape(self.ordered).permute(*back) if back else flat.reshape(())


layout_of = functools.lru_cache(maxsize=256)(Layout)


class Call:
    """The table of one call of a kernel (see kernels.py), and what it points to."""

    def __init__(
        self,
        program: Program,
        layout: Layout,
        graph: Any,
        lengths: Tensor | None,
        coefficients: Sequence[Tensor],
        keep: int,
    ):
        self.layout, self.size = layout, program.dtype.itemsize
        self.held: list[Tensor] = []  # alive until the kernel returns
        self.zero = ZEROS[program.dtype].data_ptr(), 0, 0, 0
        self.recurrent: dict[str, int] = {}  # what recurrent_kernels.py is to know
        self.block = 0
        self.steady = True  # whether all arrays can be taken as they are, or are the same at all steps
        self.header = {"size": self.size, "steps": layout.steps, "lanes": layout.lanes, "every": keep, "fed": -1}
        self.header |= {"neurons": max(1, layout.neurons), "coefficients": len(coefficients)}
        self.header |= {"states": len(program.states), "ports": len(program.ports), "records": len(program.records)}
        self.header["constants"] = constants(graph, program.dtype).data_ptr()
        self.entries: list[int] = []
        if lengths is not None:
            self.header["lengths"] = self.hold(lengths.to(torch.int32)).data_ptr()
        for c in coefficients:
            if c.numel() == 1:
                self.held.append(c)
                self.entries += c.data_ptr(), 0, 0, 0
                continue
            c = self.hold(layout.arranged(c.expand(layout.shape), 0))
            self.entries += c.data_ptr(), 0, 0, c.stride(-1)

    def hold(self, tensor: Tensor) -> Tensor:
        self.held.append(tensor)
        return tensor

    def rows(self, *given: Tensor | None) -> None:
        """Arrays [T, B, *N]; None: zeros."""
        self._enter(2, given)

    def row(self, *given: Tensor | None) -> None:
        """Arrays [B, *N]; None: zeros."""
        self._enter(1, given)

    def _enter(self, lead: int, given: Sequence[Tensor | None]) -> None:
        neurons, size = self.layout.neurons, self.size
        for x in given:
            if x is None:
                self.entries += self.zero
                continue
            x = self.hold(self.layout.arranged(x, lead))
            step, sample, inner = x.stride() if lead == 2 else (0, *x.stride())
            inner = 1 if neurons == 1 else inner
            sample = neurons if self.layout.batch == 1 and inner else sample
            self.steady &= step == 0 or (inner != 0 and sample == neurons)
            self.entries += x.data_ptr(), step * size, sample * size, inner

    def feedback(self, fed: int, weight: Tensor | None, bias: Tensor | None, last: Tensor | None) -> None:
        """What a recurrent layer needs."""
        self.row(last)
        if fed < 0:
            return
        assert weight is not None
        matrix = Matrix(*weight.shape)
        packed, vectors, width = matrix.packed(weight, None)
        self.recurrent = {"neurons": len(weight), "size": self.size, "vectors": vectors, "width": width}
        self.recurrent |= {"weight": self.hold(packed).data_ptr(), "tile": packed.stride(0) * self.size}
        self.recurrent["back"] = self.hold(weight.contiguous()).data_ptr()
        if bias is not None:
            self.recurrent["bias"] = self.hold(bias.contiguous()).data_ptr()
        functions = (kernel("recurrent_kernels", name).address for name in ("feed", "send_back"))
        self.header |= {"fed": fed, **dict(zip(("feed", "send_back"), functions, strict=True))}
        self.steady = False  # each step needs the one before

    def cut(self, held: int, written: Sequence[Tensor]) -> None:
        """Choose the size of the blocks, which hold so many numbers of each lane (a recurrent layer's are whole
        samples), and whether what is written goes past the caches."""
        self.block = block_size(held * self.size, self.layout.lanes)
        if self.recurrent:
            samples = max(SAMPLES, self.block // self.layout.neurons)
            share = -(-self.layout.batch // torch.get_num_threads())
            self.block = max(1, min(samples, share)) * self.layout.neurons
        self.header |= {"block": self.block, "span": (self.header["every"] or SPAN) if self.steady else 1}
        long = self.steady and self.block * self.size >= 16 * PIECE
        self.header["piece"] = PIECE * (1 + long) // self.size
        lines = all(w.data_ptr() % 64 == 0 for w in written) and self.layout.lanes * self.size % 64 == 0
        self.header["past"] = self.steady and lines and sum(w.nbytes for w in written) >= PAST

    def run(self, loop: str, rows: int, units: int) -> None:
        """Call a time loop, with room for so many rows, on as many threads as are worth it."""
        # A cache line more than a row: rows a power of two apart would crowd into the same places of the first cache.
        pitch = self.block * self.size + 64
        room = -(-(3 * ROWS + rows * pitch) // 64) * 64
        count = threads.participants(self.layout.steps * self.layout.lanes, units)
        space = threads.scratch(room * count + 64)
        start = -(-space.data_ptr() // 64) * 64
        self.header |= {"pitch": pitch, "scratch": start, "room": room}
        if self.recurrent:
            self.recurrent["pitch"] = pitch
            recurrent = array("q", [self.recurrent.get(name, 0) for name in RECURRENT_FIELDS])
            self.header["recurrent"] = recurrent.buffer_info()[0]
        table = array("q", [*map(self.header.get, FIELDS, NONE), *self.entries])
        threads.run(kernel("kernels", loop), table.buffer_info()[0], count)


def block_size(bytes_per_lane: int, lanes: int) -> int:
    """Lanes in a block: a multiple of 64 that fits, and that leaves some blocks for each thread."""
    fits, share = BLOCK_BYTES // max(1, bytes_per_lane), lanes // (2 * torch.get_num_threads())
    return max(64, min(BLOCK_LANES, fits, share) // 64 * 64)
