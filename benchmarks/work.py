"""The work that every system is given: sizes, and which of them are timed together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Network = Literal["feedforward", "recurrent", "neuron", "convolution"]


@dataclass(frozen=True)
class Case:
    """One network at one size. Time is T steps, the batch B samples; `density` is that of the input spikes."""

    label: str
    network: Network
    steps: int
    batch: int
    density: float = 0.05
    inputs: int = 784
    hidden: int = 128
    outputs: int = 10
    size: int = 28
    channels: tuple[int, int] = (16, 32)
    # Elements of the array whose copy gives the bandwidth that the neuron alone is held against.
    copy: int = 2**26
    seed: int = 0

    @property
    def neuron_steps(self) -> int:
        """T B N of the hidden layer, or of the neuron alone."""
        return self.steps * self.batch * self.hidden

    @property
    def sizes(self) -> str:
        """The network and its sizes, as a title."""
        time = f"T = {self.steps}, B = {self.batch}"
        if self.network == "neuron":
            return f"T = {self.steps}"
        if self.network == "convolution":
            return f"{self.size} x {self.size}, {self.channels[0]} and {self.channels[1]} channels, {time}"
        return f"{self.inputs}-{self.hidden}{'R' if self.network == 'recurrent' else ''}-{self.outputs}, {time}"

    @property
    def pooled(self) -> int:
        """Side of the images that reach the readout of the convolutional network."""
        return ((self.size - 2) // 2 - 2) // 2


@dataclass(frozen=True)
class Work:
    """A letter of the command line: cases that share a table."""

    letter: str
    title: str
    what: str
    cases: tuple[Case, ...]
    quick: tuple[Case, ...] = field(repr=False)
    measure: Literal["seconds", "bytes"] = "seconds"

    def sizes(self, quick: bool) -> tuple[Case, ...]:
        """The cases to run."""
        return self.quick if quick else self.cases


SMALL = {"inputs": 40, "hidden": 16, "outputs": 4}
# A layer of 128 neurons; the batch makes up the number of lanes. Fewer steps where a tensor would pass 100 MB.
LANES = ((2**11, 100), (2**13, 100), (2**15, 100), (2**17, 25), (2**19, 25), (2**20, 25))

WORKS = {
    work.letter: work
    for work in (
        Work(
            "a",
            "Feed-forward",
            "One training step: forward, cross entropy on the spike counts, backward, Adam.",
            tuple(Case(f"density {d:g}", "feedforward", 100, 256, d) for d in (0.01, 0.05, 0.2)),
            (Case("density 0.2", "feedforward", 12, 4, 0.2, **SMALL),),
        ),
        Work(
            "b",
            "Feed-forward, ten times the steps",
            "The same training step, a tenth of the batch.",
            (Case("density 0.05", "feedforward", 1000, 26),),
            (Case("density 0.2", "feedforward", 24, 2, 0.2, **SMALL),),
        ),
        Work(
            "c",
            "Recurrent",
            "The same training step, the hidden layer's spikes fed back to it one step later.",
            (Case("density 0.05", "recurrent", 100, 256),),
            (Case("density 0.2", "recurrent", 12, 4, 0.2, **SMALL),),
        ),
        Work(
            "d",
            "The neuron alone, forward and backward",
            "The input requires a gradient, that of the output is dense and random.",
            tuple(Case(f"{lanes:,} lanes", "neuron", steps, lanes // 128) for lanes, steps in LANES),
            tuple(Case(f"{16 * batch} lanes", "neuron", 12, batch, hidden=16, copy=2**16) for batch in (4, 8)),
        ),
        Work(
            "e",
            "Convolution",
            "One training step of Conv 3 x 3-LIF-AvgPool 2 x 2-Conv 3 x 3-LIF-AvgPool 2 x 2-Linear-LI, "
            "cross entropy on the summed membrane.",
            (Case("density 0.05", "convolution", 25, 32),),
            (Case("density 0.3", "convolution", 8, 2, 0.3, size=12, channels=(2, 4), outputs=4),),
        ),
        Work(
            "f",
            "Peak memory of a training step",
            "How far the resident memory of the process rises above what it held before the step; input, weights and "
            "the state of the optimiser are there before.",
            (Case("100 steps", "feedforward", 100, 256), Case("1000 steps", "feedforward", 1000, 26)),
            (Case("12 steps", "feedforward", 12, 4, 0.2, **SMALL),),
            measure="bytes",
        ),
    )
}
