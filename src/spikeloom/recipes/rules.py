"""One network, any gradient rule: two small tasks on which the rules are compared."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from spikeloom import decoding
from spikeloom.gradients import BPTT, OTTT, RTRL, EProp, EventProp
from spikeloom.network import Layer, Sequential
from spikeloom.neurons import CubaLI, CubaLIF
from spikeloom.recipes.digits import Digits
from spikeloom.recipes.yin_yang import YinYang
from spikeloom.surrogates import SuperSpike
from spikeloom.training.experiment import Experiment, Schedule, Splits

# Mean and standard deviation of the initial weights, into the hidden neurons and out of them: most neurons fire.
WEIGHTS = {"digits": ((0.0, 1.0), (0.0, 0.2)), "yin-yang": ((1.5, 0.78), (0.0, 0.2))}


@dataclass(kw_only=True)
class Rules(Experiment):
    """Digits or Yin-Yang as spike times, one hidden layer, and a readout that every rule can learn from.

    Hidden neurons share their time constants, and weights alone are trained. The outputs are leaky integrators with a
    synapse; the class is the one whose membrane is highest on average over the trial, and the loss its cross-entropy.
    So each step has a part in the loss, which rules need that know no later step, and it is a loss on membranes, which
    EventProp needs. Settings are the same for all rules.

    Arguments:
        task: "digits", 8 x 8 pixels as spikes within 24 of 32 ms, see `Digits`; or "yin-yang", four coordinates and a
            reference as spikes within 30 of 40 ms, see `YinYang`.
        rule: "bptt", "detached" (BPTT without the way through the reset), "eventprop", "eprop" (kappa is the leak of
            the outputs' membranes), "rtrl" (likewise) or "ottt".
        hidden: number of hidden neurons.
        tau_mem: membrane time constant of all neurons in seconds.
        tau_syn: synaptic time constant of all neurons in seconds.
        width: width of the surrogate; EventProp has none.
        epsilon: of `EventProp`, the least slope of a membrane that fires, in parts of the threshold.
        scale: scores are so many times the mean membranes.
    """

    name: ClassVar[str] = "rules"
    positive: ClassVar[tuple[str, ...]] = ("hidden", "tau_mem", "tau_syn", "width", "epsilon", "scale")

    epochs: int = 20
    batch_size: int = 32
    lr: float = 1e-2
    schedule: Schedule = "cosine"
    threads: int = 1

    task: Literal["digits", "yin-yang"] = "digits"
    rule: Literal["bptt", "detached", "eventprop", "eprop", "rtrl", "ottt"] = "bptt"
    hidden: int = 200
    tau_mem: float = 20e-3
    tau_syn: float = 5e-3
    width: float = 0.1
    epsilon: float = 0.3
    scale: float = 10.0

    def gradient(self) -> Any:
        if self.rule in ("bptt", "detached"):
            return BPTT(reset="flow" if self.rule == "bptt" else "detach")
        if self.rule == "eventprop":
            return EventProp(epsilon=self.epsilon)
        # Trials are run as a whole, so no traces are carried from one run to the next.
        if self.rule == "ottt":
            return OTTT(carry=False)
        return (EProp if self.rule == "eprop" else RTRL)(kappa=math.exp(-self.dt / self.tau_mem), carry=False)

    @property
    def dt(self) -> float:
        """Time step in seconds."""
        return 1e-3 if self.task == "digits" else 0.5e-3

    def network(self) -> nn.Module:
        inputs, classes = (64, 10) if self.task == "digits" else (5, 3)
        first, second = nn.Linear(inputs, self.hidden, bias=False), nn.Linear(self.hidden, classes, bias=False)
        for connection, (mean, deviation) in zip((first, second), WEIGHTS[self.task], strict=True):
            nn.init.normal_(connection.weight, mean, deviation)
        times: dict[str, Any] = {"tau_mem": self.tau_mem, "tau_syn": self.tau_syn}
        hidden = Layer(first, CubaLIF(self.hidden, **times), surrogate=SuperSpike(width=self.width))
        return Sequential(hidden, Layer(second, CubaLI(classes, **times)), dt=self.dt)

    def data(self, data_dir: str | Path | None = None) -> Splits:
        same: dict[str, Any] = {"batch_size": self.batch_size, "seed": self.seed, "validation": self.validation}
        if self.task == "digits":
            return Digits(**same).data(data_dir)
        return YinYang(dt=self.dt, **same).data(data_dir)

    def decode(self, output: Tensor) -> Tensor:
        return self.scale * decoding.mean_over_time(output)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(self.decode(output), target)


def rules() -> Rules:
    """The configuration of the recipe ``rules``."""
    return Rules()
