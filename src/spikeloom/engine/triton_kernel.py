"""What Triton kernels of a time loop are made of: arguments, lanes, reads. Text in, text out.

Sizes, strides and constants are arguments, so that others compile nothing. Where there are many lanes, one after the
other in memory, the compiler is told that much: it then moves two lanes of a thread at once, which halves what the GPU
has to do for each.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from .program import Program
from .triton_writer import Writer

HEAD = '''"""Written by spikeloom: a kernel of {name}."""

import triton
import triton.language as tl
from triton.language.extra import libdevice
'''


@dataclass(frozen=True)
class Source:
    """A kernel's text, and what it is to be given.

    Attributes:
        text: a module with one function, `kernel`.
        constants: numbers of the graphs that are an argument.
        timed, still: names of the tensors that are read, [T, B, *N] and [B, *N].
        dense: names of those that are written, in the order of the lanes.
        whole: names of those that the kernel finds its own way through.
        apart: names of those of the first two that come with strides of their own from lane to lane.
        aligned: arguments of which the compiler is told that they are multiples of 16: bytes of an address, or numbers.
    """

    text: str
    constants: tuple[float, ...]
    timed: tuple[str, ...]
    still: tuple[str, ...]
    dense: tuple[str, ...]
    whole: tuple[str, ...]
    apart: tuple[str, ...]
    aligned: tuple[str, ...]


# The lanes of an instance: a run of them, or all neurons of a sample, for what mixes a sample's neurons.
LINE = [
    "lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)",
    "inside = lane < lanes",
]
SAMPLE = [
    "neuron = tl.arange(0, BLOCK)",
    "lane = tl.program_id(0) * neurons + neuron",
    "inside = neuron < neurons",
]


class Lie(Enum):
    """How the lanes of a tensor in time lie in memory, where a kernel makes use of it."""

    LINED = "one after the other, rows a multiple of 16 numbers apart, from a multiple of 16 bytes on"
    SINGLE = "one number for all"


class Kernel:
    """What all kernels are made of: arguments, reads and writes.

    Args:
        chunk: steps that are written out one after the other.
        sample: an instance takes all neurons of a sample, of which BLOCK is at least as much, not BLOCK lanes.
        narrow: names of more arguments that are whole numbers.
        lie: of every tensor in time, and of others that are single numbers, where the compiler is to read and write
            several lanes at once; else they lie anywhere.
    """

    def __init__(
        self,
        program: Program,
        chunk: int,
        sample: bool = False,
        narrow: Sequence[str] = (),
        lie: Mapping[str, Lie] | None = None,
    ):
        self.program, self.chunk, self.sample, self.lie = program, chunk, sample, lie
        self.writer = Writer(program.dtype)
        self.narrow = ("T", "lanes", "middle", "inner", *(("neurons",) if sample else ()), *narrow)
        self.timed: list[str] = []
        self.still: list[str] = []
        self.dense: list[str] = []
        self.whole: list[str] = []
        self.before: list[str] = []
        self.names: dict[str, str] = {}
        if program.alive:
            self.still.append("lengths")
            self.before.append("lengths = tl.load(at_lengths, mask=inside, other=0)")
        for name in program.coefficients:
            self.names[f"c.{name}"] = self.read(f"c_{name}")

    def read(self, name: str) -> str:
        """Read a tensor without time, once."""
        self.still.append(name)
        one = self.lie is not None and self.lie.get(name) is Lie.SINGLE
        found = f"tl.broadcast_to(tl.load(at_{name}), (BLOCK,))" if one else f"tl.load(at_{name}, mask=inside, other=0)"
        self.before.append(f"{name} = {found}")
        return name

    def rows(self, names: Iterable[str], count: str) -> list[str]:
        """Read the next K rows of tensors in time, of `count` that are left; those that are not there are zero."""
        lines = [f"there = tl.where(inside, {count}, 0)"]
        for name, k in itertools.product(names, range(self.chunk)):
            one = self.lie is not None and self.lie[name] is Lie.SINGLE
            mask = f"{count} > {k}" if one else f"there > {k}"
            found = f"tl.load(from_{name} + {k} * step_{name}, mask={mask}, other=0).to({self.writer.type})"
            lines.append(f"next{k}_{name} = " + (f"tl.broadcast_to({found}, (BLOCK,))" if one else found))
        return lines

    def move(self, names: Iterable[str], steps: str) -> list[str]:
        """Go on to other rows: what is read from `from_`."""
        return [f"from_{name} += ({steps}) * step_{name}" for name in names]

    def take(self, names: Iterable[str]) -> list[str]:
        """The rows that were read become those of this chunk."""
        return [f"row{k}_{name} = next{k}_{name}" for name, k in itertools.product(names, range(self.chunk))]

    def moments(self, left: str) -> list[str]:
        """Which steps of a chunk there are, of `left` from `start` on, and which samples are alive at each."""
        lines = [f"left = tl.where(inside, {left}, 0)", *(f"valid{k} = left > {k}" for k in range(self.chunk))]
        return lines + [f"alive{k} = start + {k} + zero < lengths" for k in range(self.chunk) if self.program.alive]

    def store(self, name: str, k: int, value: str) -> str:
        """Write a row of step k of the chunk that `at_` has come to."""
        return f"tl.store(at_{name} + {k} * row, {value}, mask=valid{k})"

    def choose(self, k: int, name: str, new: str, old: str) -> str:
        """What step k computed where there is such a step."""
        return f"{name} = tl.where(valid{k}, {new}, {old})" if k else f"{name} = {new}"

    def variables(self, k: int, states: dict[str, str]) -> dict[str, str]:
        """The variables that hold a graph's inputs at step k."""
        ports = {f"x.{n}": f"row{k}_x_{n}" for n in self.program.ports}
        return self.names | ports | {f"z.{n}": v for n, v in states.items()} | {"alive": f"alive{k}"}

    def source(self, loop: Sequence[str], *more: str) -> Source:
        """The kernel that does these lines; `more` are constants that it is compiled for."""
        known = self.lie or {}
        lined = [n for n in self.timed if known.get(n) is Lie.LINED]
        apart = [n for n in (*self.timed, *self.still) if n not in known]
        strides = [f"s{k}_{name}" for name in apart for k in range(3)]
        wide = [*(f"step_{name}" for name in self.timed), *strides]
        narrow, tensors = self.narrow, [f"at_{n}" for n in (*self.timed, *self.still, *self.dense, *self.whole)]
        typed = [*(f'{n}: "i32"' for n in narrow), "constants", *tensors, *(f'{n}: "i64"' for n in wide)]
        typed += [f"{name}: tl.constexpr" for name in (*more, "BLOCK")]
        lines = [
            *(SAMPLE if self.sample else LINE),
            "zero = tl.full((BLOCK,), 0, tl.int32)  # makes blocks of numbers, for masks are blocks",
            "row = lanes.to(tl.int64)",
            *("i0 = lane // inner // middle", "i1 = lane // inner % middle", "i2 = lane % inner"),
            *(f"at_{n} += i0 * s0_{n} + i1 * s1_{n} + i2 * s2_{n}" for n in apart),
            *(f"at_{n} += lane" for n in (*lined, *self.dense)),
            *(f"from_{n} = at_{n}" for n in self.timed),
            *(*self.writer.prologue(), *self.before, *loop),
        ]
        aligned = ("lanes", *(f"at_{n}" for n in (*lined, *self.dense)), *(f"step_{n}" for n in lined))
        aligned = aligned if self.lie else ()
        plain = [n for n in (*narrow, "constants", *tensors, *wide) if n not in aligned]
        head = f"@triton.jit(do_not_specialize={plain})\ndef kernel("
        body = "".join(f"    {line}\n" for line in lines)
        text = f"{HEAD.format(name=self.program.name)}\n\n{head}{', '.join(typed)}):\n{body}"
        tensors_in_order = (tuple(self.timed), tuple(self.still), tuple(self.dense), tuple(self.whole))
        return Source(text, tuple(self.writer.constants), *tensors_in_order, tuple(apart), aligned)
