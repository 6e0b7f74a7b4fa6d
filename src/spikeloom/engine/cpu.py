"""The fused CPU engine: a whole loop over time in one compiled kernel, forward and backward."""

from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import memory, threads
from .generated import Wanted, constants, kernel, row_functions
from .matrix import Matrix
from .program import Program

ROWS = 1024  # as in kernels.py, which is imported where Numba is
FIELDS = (
    *("next", "slot", "size", "steps", "lanes", "neurons", "every", "block", "groups", "per", "scratch", "room"),
    *("constants", "replay_constants", "kept", "lengths", "parts", "coefficients", "states", "ports", "records"),
    *("wanted_ports", "wanted", "fed", "fed_gradient", "feed", "send_back", "recurrent", "step", "replay", "pitch"),
)
RECURRENT_FIELDS = ("pitch", "neurons", "size", "weight", "vectors", "width", "tile", "bias", "back")
PLACES = {name: k for k, name in enumerate(FIELDS)}
SPARE = 4  # rows that a recurrent layer needs beside the others
# Samples of a recurrent layer that a thread takes at a time, at least: each row of weights serves them all.
SAMPLES = 16
# Lanes that a thread takes at a time, at most: their states and what is recomputed of them stay in its own caches, and
# what they read of a row is long enough for the processor to foresee the rest.
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
    """All steps of a program: output, final states, records, and the states every `keep` steps (0: none).

    Args:
        lengths: steps of each sample, or None.
        coefficients: [*N] each, or what broadcasts to it. states: [B, *N]. inputs: [T, B, *N].
        fed: which port receives the last output by way of `weight` [N, N] (to, from) and `bias` [N]; -1: none.
        last: output before the first step [B, *N].
    """
    layout = Layout(inputs[0])
    steps, total, count = layout.steps, layout.lanes, len(program.states)
    y, *records = (layout.empty_rows(program.dtype) for _ in range(1 + len(program.records)))
    finals = [layout.empty_row(program.dtype) for _ in states]
    kept = memory.empty((-(-steps // keep) if keep else 0, count, total), program.dtype)
    call = Call(program, layout, program.forward, lengths, coefficients, keep, len(states))
    for state in states:
        call.row(state)
    for x in inputs:
        call.rows(x)
    for x in (y, *records):
        call.rows(x)
    for z in finals:
        call.row(z)
    call.feedback(fed, weight, bias, last)
    call.set(kept=kept.data_ptr())
    call.set(step=row_functions(program.key, Wanted(), False)[0].address)
    call.run("forward", len(coefficients) + count + len(inputs) + 2 + SPARE, -(-total // call.block))
    return y if output_dtype is None else y.to(output_dtype), finals, records, kept


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
    bias: Tensor | None = None,
    y: Tensor | None = None,
    last: Tensor | None = None,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The transpose of `forward`: gradients of the wanted ports, of the first states, and of the wanted coefficients
    ([*N] each, in double precision)."""
    layout = Layout(inputs[0])
    total, neurons = layout.lanes, layout.neurons
    d_inputs = [layout.empty_rows(program.dtype) for _ in wanted.ports]
    d_states = [layout.empty_row(program.dtype) for _ in program.states]
    graph = program.transpose(wanted.coefficients, wanted.ports)
    call = Call(program, layout, graph, lengths, coefficients, keep, len(program.states) * keep)
    for x in inputs:
        call.rows(x)
    for g in (g_y, *g_records):
        call.rows(g)
    for g in g_finals:
        call.row(g)
    for d in d_inputs:
        call.rows(d)
    for d in d_states:
        call.row(d)
    call.rows(y)
    call.feedback(fed, weight, bias, last)
    if fed >= 0:
        call.set(fed_gradient=wanted.ports.index(program.ports[fed]))
    blocks = -(-total // call.block)
    # Sums over a group of blocks are added up in one order, whichever threads computed them.
    per = max(1, blocks // (4 * torch.get_num_threads()))
    groups = -(-blocks // per) if blocks else 0
    parts = torch.zeros((groups, len(wanted.coefficients), neurons), dtype=torch.float64)
    call.set(kept=kept.data_ptr(), groups=groups, per=per, parts=parts.data_ptr())
    replay, transpose = row_functions(program.key, wanted, True)
    call.set(
        replay=replay.address, step=transpose.address, wanted=len(wanted.coefficients), wanted_ports=len(wanted.ports)
    )
    call.set(replay_constants=call.hold(constants(program.advance, program.dtype)).data_ptr())
    # Coefficients, lengths, gradients of states, sums in single and double, states of a chunk, inputs of it, and rows.
    rows = len(coefficients) + 1 + len(program.states) * (1 + keep) + 3 * len(wanted.coefficients)
    rows += (keep + SPARE if fed >= 0 else 0) + len(inputs) + 1 + len(program.records)
    call.run("backward", rows, groups)
    sums = parts.sum(0)
    return d_inputs, d_states, [layout.neuron_shape(s) for s in sums]


class Layout:
    """How [T, B, *N] lies in memory: where all samples' neurons follow each other in an order other than that of the
    axes (channels last, say), kernels take them in that order."""

    def __init__(self, x: Tensor):
        self.steps, self.batch, shape = x.shape[0], x.shape[1], x.shape[2:]
        self.shape, self.neurons = tuple(shape), shape.numel()
        self.lanes = self.batch * self.neurons
        inner = [(x.stride(k + 2), k) for k in range(len(shape))]
        self.order = [k for _, k in sorted(inner, key=lambda pair: (-pair[0], pair[1]))]
        if 0 in x.stride()[2:] or len(shape) < 2:
            self.order = list(range(len(shape)))
        self.ordered = tuple(shape[k] for k in self.order)
        self.in_order = self.order == list(range(len(shape)))

    def arranged(self, x: Tensor, lead: int) -> Tensor:
        """[..., *N] with N in the order of memory, as one axis: a view where it can be, a copy where it must."""
        if not self.in_order:
            x = x.permute(*range(lead), *(lead + k for k in self.order))
        if x.dim() > lead + 1:
            x = x.flatten(lead)
        elif x.dim() == lead:
            x = x.unsqueeze(lead)
        return x if x.stride(-1) in (0, 1) or x.shape[-1] == 1 else x.contiguous()

    def _empty(self, lead: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if self.in_order:
            return memory.empty((*lead, *self.ordered), dtype)
        back = [self.order.index(k) for k in range(len(self.order))]
        return memory.empty((*lead, *self.ordered), dtype).permute(*range(len(lead)), *(len(lead) + k for k in back))

    def empty_rows(self, dtype: torch.dtype) -> Tensor:
        return self._empty((self.steps, self.batch), dtype)

    def empty_row(self, dtype: torch.dtype) -> Tensor:
        return self._empty((self.batch,), dtype)

    def neuron_shape(self, flat: Tensor) -> Tensor:
        """[N] in the order of memory as [*N]."""
        back = [self.order.index(k) for k in range(len(self.order))]
        return flat.reshape(self.ordered).permute(*back) if back else flat.reshape(())


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
        held: int,  # numbers of each lane that a block holds
    ):
        self.layout, self.program, self.size = layout, program, program.dtype.itemsize
        self.held: list[Tensor] = []  # alive until the kernel returns
        self.zero = torch.zeros((), dtype=program.dtype)
        self.recurrent: dict[str, int] = {}  # what recurrent_kernels.py is to know
        self.table = array("q", [0] * len(FIELDS))
        self.block = block_size(held * self.size, layout.lanes)
        self.set(size=self.size, steps=layout.steps, lanes=layout.lanes, neurons=max(1, layout.neurons), every=keep)
        self.set(coefficients=len(coefficients), states=len(program.states), ports=len(program.ports))
        self.set(records=len(program.records), fed=-1)
        self.set(constants=self.hold(constants(graph, program.dtype)).data_ptr())
        if lengths is not None:
            self.set(lengths=self.hold(lengths.to(torch.int32)).data_ptr())
        for c in coefficients:
            if c.numel() == 1:
                self.entry(self.hold(c).data_ptr(), 0, 0, 0)
                continue
            c = self.hold(layout.arranged(c.expand(layout.shape), 0))
            self.entry(c.data_ptr(), 0, 0, c.stride(-1))

    def hold(self, tensor: Tensor) -> Tensor:
        self.held.append(tensor)
        return tensor

    def set(self, **values: int) -> None:
        for name, value in values.items():
            self.table[PLACES[name]] = value

    def entry(self, address: int, step: int, sample: int, inner: int) -> None:
        self.table.extend((address, step, sample, inner))

    def rows(self, x: Tensor | None) -> None:
        """An array [T, B, *N]; None: zeros."""
        if x is None:
            return self.entry(self.zero.data_ptr(), 0, 0, 0)
        x = self.hold(self.layout.arranged(x, 2))
        self._strided(x, x.stride(0), x.stride(1))

    def row(self, x: Tensor | None) -> None:
        """An array [B, *N]; None: zeros."""
        if x is None:
            return self.entry(self.zero.data_ptr(), 0, 0, 0)
        x = self.hold(self.layout.arranged(x, 1))
        self._strided(x, 0, x.stride(0))

    def _strided(self, x: Tensor, step: int, sample: int) -> None:
        inner = 1 if x.shape[-1] == 1 else x.stride(-1)
        sample = x.shape[-1] if self.layout.batch == 1 and inner else sample
        self.entry(x.data_ptr(), step * self.size, sample * self.size, inner)

    def feedback(self, fed: int, weight: Tensor | None, bias: Tensor | None, last: Tensor | None) -> None:
        """What a recurrent layer needs: its blocks are whole samples."""
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
        self.set(fed=fed, **dict(zip(("feed", "send_back"), functions, strict=True)))
        samples = max(SAMPLES, self.block // self.layout.neurons)
        share = -(-self.layout.batch // torch.get_num_threads())
        self.block = max(1, min(samples, share)) * self.layout.neurons

    def run(self, loop: str, rows: int, units: int) -> None:
        """Call a time loop, with room for so many rows, on as many threads as are worth it."""
        # A cache line more than a row: rows a power of two apart would crowd into the same places of the first cache.
        pitch = self.block * self.size + 64
        room = -(-(3 * ROWS + rows * pitch) // 64) * 64
        count = threads.participants(self.layout.steps * self.layout.lanes, units)
        space = threads.scratch(room * count + 64)
        start = -(-space.data_ptr() // 64) * 64
        self.set(block=self.block, pitch=pitch, scratch=start, room=room)
        given = {"pitch": pitch, **self.recurrent}
        recurrent = array("q", [given.get(name, 0) for name in RECURRENT_FIELDS])
        self.set(recurrent=recurrent.buffer_info()[0])
        threads.run(kernel("kernels", loop), self.table.buffer_info()[0], count)


def block_size(bytes_per_lane: int, lanes: int) -> int:
    """Lanes in a block: a multiple of 64 that fits, and that leaves some blocks for each thread."""
    fits, share = BLOCK_BYTES // max(1, bytes_per_lane), lanes // (2 * torch.get_num_threads())
    return max(64, min(BLOCK_LANES, fits, share) // 64 * 64)
