"""What Triton kernels of a time loop are made of: arguments, lanes, reads. Text in, text out.

Sizes, strides and constants are arguments, so that others compile nothing.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
        timed, still: names of the tensors with strides of their own, [T, B, *N] and [B, *N].
        dense: names of those in the order of the lanes.
        whole: names of those that the kernel finds its own way through.
    """

    text: str
    constants: tuple[float, ...]
    timed: tuple[str, ...]
    still: tuple[str, ...]
    dense: tuple[str, ...]
    whole: tuple[str, ...]


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


class Kernel:
    """What all kernels are made of: arguments, reads and writes.

    Args:
        chunk: steps that are written out one after the other.
        sample: an instance takes all neurons of a sample, of which BLOCK is at least as much, not BLOCK lanes.
        narrow: names of more arguments that are whole numbers.
    """

    def __init__(self, program: Program, chunk: int, sample: bool = False, narrow: Sequence[str] = ()):
        self.program, self.chunk, self.sample = program, chunk, sample
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
        self.before.append(f"{name} = tl.load(at_{name}, mask=inside, other=0)")
        return name

    def rows(self, names: Iterable[str], start: str, exists: str) -> list[str]:
        """Read the next K rows of tensors in time, from step `start` on; those that do not exist are zero."""
        lines = []
        for name in names:
            # From row to row by a sum: the product of 64 bits that a place takes is many instructions.
            lines.append(f"from_{name} = at_{name} + ({start}) * step_{name}")
            for k in range(self.chunk):
                mask = f"inside & {exists.format(step=f'{start} + {k}')}"
                lines.append(f"next{k}_{name} = tl.load(from_{name}, mask={mask}, other=0).to({self.writer.type})")
                lines += [f"from_{name} += step_{name}"] if k < self.chunk - 1 else []
        return lines

    def take(self, names: Iterable[str]) -> list[str]:
        """The rows that were read become those of this chunk."""
        return [f"row{k}_{name} = next{k}_{name}" for name, k in itertools.product(names, range(self.chunk))]

    def moments(self) -> list[str]:
        """Whether there are the later steps of a chunk, and which samples are alive at each step."""
        valid = [f"valid{k} = start + {k} + zero < T" for k in range(1, self.chunk)]
        return valid + [f"alive{k} = start + {k} + zero < lengths" for k in range(self.chunk) if self.program.alive]

    def store(self, name: str, k: int, value: str) -> str:
        """Write a row of step k at the place that has been reached."""
        mask = f"inside & valid{k}" if k else "inside"
        return f"tl.store(to_{name}, {value}, mask={mask})"

    def choose(self, k: int, name: str, new: str, old: str) -> str:
        """What step k computed where there is such a step."""
        return f"{name} = tl.where(valid{k}, {new}, {old})" if k else f"{name} = {new}"

    def variables(self, k: int, states: dict[str, str]) -> dict[str, str]:
        """The variables that hold a graph's inputs at step k."""
        ports = {f"x.{n}": f"row{k}_x_{n}" for n in self.program.ports}
        return self.names | ports | {f"z.{n}": v for n, v in states.items()} | {"alive": f"alive{k}"}

    def source(self, loop: Sequence[str], *more: str) -> Source:
        """The kernel that does these lines; `more` are constants that it is compiled for."""
        strides = [f"s{k}_{name}" for name in (*self.timed, *self.still) for k in range(3)]
        wide = ["row", *(f"step_{name}" for name in self.timed), *strides]
        narrow, tensors = self.narrow, [f"at_{n}" for n in (*self.timed, *self.still, *self.dense, *self.whole)]
        typed = [*(f'{n}: "i32"' for n in narrow), "constants", *tensors, *(f'{n}: "i64"' for n in wide)]
        typed += [f"{name}: tl.constexpr" for name in (*more, "BLOCK")]
        lines = [
            *(SAMPLE if self.sample else LINE),
            "zero = tl.full((BLOCK,), 0, tl.int32)  # makes blocks of numbers, for masks are blocks",
            *("i0 = lane // inner // middle", "i1 = lane // inner % middle", "i2 = lane % inner"),
            *(f"at_{n} += i0 * s0_{n} + i1 * s1_{n} + i2 * s2_{n}" for n in (*self.timed, *self.still)),
            *(f"at_{n} += lane" for n in self.dense),
            *(*self.writer.prologue(), *self.before, *loop),
        ]
        head = f"@triton.jit(do_not_specialize={[*narrow, 'constants', *tensors, *wide]})\ndef kernel("
        body = "".join(f"    {line}\n" for line in lines)
        text = f"{HEAD.format(name=self.program.name)}\n\n{head}{', '.join(typed)}):\n{body}"
        tensors_in_order = (tuple(self.timed), tuple(self.still), tuple(self.dense), tuple(self.whole))
        return Source(text, tuple(self.writer.constants), *tensors_in_order)
