"""Yin-Yang by spike times: the class is the output that spikes first, and gradients are exact (EventProp)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from spikeloom import datasets, decoding, losses, regularizers
from spikeloom.connections import Delayed
from spikeloom.distributions import Uniform
from spikeloom.events import Events
from spikeloom.gradients import BPTT, EventProp
from spikeloom.network import Layer, Run, Sequential
from spikeloom.neurons import CubaLIF
from spikeloom.training.experiment import Experiment, Schedule, Splits

CLASSES = ("yang", "yin", "dots")


@dataclass(kw_only=True)
class YinYang(Experiment):
    """Each coordinate is one spike, at 30 ms times its value, and a fifth input spikes at 0; 5-200-3, all spiking.

    The settings are those of the source, but for the time steps: there spike times are exact, here they are rounded to
    dt, and gradients are those of the continuous network. Validation is on the published validation set.

    Arguments:
        rule: "eventprop" for exact gradients, "bptt" for surrogate ones.
        hidden: number of hidden neurons.
        delays: learn a delay for each "axon" or "synapse" of both layers, at `time_constant_lr`, or "none". They begin
            between 0 and 1 ms.
        longest: the longest delay in seconds.
        input_std: standard deviation of the first layer's weights before training, around 1.5.
        output_mean: mean of the second layer's weights before training (default: the source's, 0.93 for 200 neurons).
        output_std: their standard deviation (default: the source's, 0.1 for 200 neurons).
        dt: time step in seconds.
        duration: of a trial in seconds.
        window: in which inputs spike, in seconds.
        tau0: scale of the cross-entropy on spike times in seconds.
        alpha: strength of the term that draws the right output's spike to the start.
        tau1: scale of that term in seconds.
        wake: strength of the cost of the right output's silence, by its membrane (`regularizers.silence`); where the
            right output is silent the loss itself has no gradient. The source raises all weights instead.
        wake_hidden: strength of the cost of a hidden neuron's silence, for those that are silent in over 30 % of a
            batch. 0 is as the source has it; small networks, which need all of their neurons, lose some without it.
    """

    name: ClassVar[str] = "yin-yang"
    positive: ClassVar[tuple[str, ...]] = ("hidden", "longest", "input_std", "dt", "duration", "window", "tau0", "tau1")

    epochs: int = 100
    batch_size: int = 32
    lr: float = 5e-3
    schedule: Schedule = "exponential"
    threads: int = 1

    rule: Literal["eventprop", "bptt"] = "eventprop"
    hidden: int = 200
    delays: Literal["none", "axon", "synapse"] = "none"
    longest: float = 20e-3
    input_std: float = 0.78
    output_mean: float | None = None
    output_std: float | None = None
    dt: float = 0.1e-3
    duration: float = 40e-3
    window: float = 30e-3
    tau0: float = 0.5e-3
    alpha: float = 3e-3
    tau1: float = 6.4e-3
    wake: float = 10.0
    wake_hidden: float = 0.0

    def check(self) -> None:
        super().check()
        if not self.dt <= self.window <= self.duration:
            raise ValueError(
                f"yin-yang got dt={self.dt:g}, window={self.window:g} and duration={self.duration:g} s; "
                "expected dt <= window <= duration."
            )

    @property
    def record(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What costs are computed from."""
        return ("1.v", "0.v", "0.spikes") if self.wake_hidden else ("1.v",)

    def gradient(self) -> EventProp | BPTT:
        return EventProp() if self.rule == "eventprop" else BPTT()

    def network(self) -> nn.Module:
        first, second = nn.Linear(5, self.hidden, bias=False), nn.Linear(self.hidden, 3, bias=False)
        nn.init.normal_(first.weight, 1.5, self.input_std)
        share = 200 / self.hidden
        mean = 0.93 * share if self.output_mean is None else self.output_mean
        nn.init.normal_(second.weight, mean, 0.1 * share**0.5 if self.output_std is None else self.output_std)
        neurons = [CubaLIF(n, tau_mem=20e-3, tau_syn=5e-3, reset="zero") for n in (self.hidden, 3)]
        layers = [Layer(self._delayed(m), neuron) for m, neuron in zip((first, second), neurons, strict=True)]
        return Sequential(*layers, dt=self.dt)

    def _delayed(self, connection: nn.Linear) -> nn.Module:
        if self.delays == "none":
            return connection
        # Where spikes come at all times, few neurons fire together, and little is learned.
        return Delayed(connection, self.longest, per=self.delays, initial=Uniform(1e-6, min(1e-3, self.longest / 2)))

    def data(self, data_dir: str | Path | None = None) -> Splits:
        return Splits(
            self._loader("train", shuffle=True),
            self._loader("test"),
            self._loader("validation") if self.validation else None,
            classes=CLASSES,
        )

    def _loader(self, part: Literal["train", "validation", "test"], shuffle: bool = False) -> datasets.BatchLoader:
        points, labels = datasets.yin_yang(part)
        return datasets.BatchLoader(self.encode(points), labels, self.batch_size, shuffle=shuffle, seed=self.seed)

    def encode(self, points: Tensor) -> Events:
        """Spikes of points [B, 4], as Events [T, B, 5]."""
        steps, batch = round(self.duration / self.dt), len(points)
        times = torch.cat([points * self.window, points.new_zeros(batch, 1)], 1)
        step = (times / self.dt).round().long().clamp(max=steps - 1)
        sample, channel = torch.arange(batch).repeat_interleave(5), torch.arange(5).repeat(batch)
        return Events.from_coordinates(step.flatten(), sample, channel, shape=(steps, batch, 5))

    def decode(self, output: Tensor) -> Tensor:
        return -decoding.first_spike_time(output.detach(), self.dt)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return losses.time_to_first_spike_cross_entropy(
            output,
            target,
            self.dt,
            tau0=self.tau0,
            alpha=self.alpha,
            tau1=self.tau1,
            gradient="event" if self.rule == "eventprop" else "survival",
        )

    def activity_cost(self, run: Run, target: Tensor) -> Tensor:
        right = target.reshape(1, -1, 1).expand(len(run.output), -1, 1)
        membrane, spikes = (x.gather(2, right) for x in (run.records["1.v"], run.output))
        cost = regularizers.silence(membrane, spikes, v_th=1.0, strength=self.wake)
        if not self.wake_hidden:
            return cost
        membrane, spikes = run.records["0.v"], run.records["0.spikes"]
        seldom = (spikes.detach().sum(0) == 0).float().mean(0) > 0.3
        # A sum over neurons, in place of a choice of them, needs no word from the device.
        each = torch.where(seldom, membrane, 1.0)
        return cost + regularizers.silence(each, spikes, v_th=1.0, strength=self.wake_hidden)


def yin_yang() -> YinYang:
    """The configuration of the recipe ``yin-yang``."""
    return YinYang()
