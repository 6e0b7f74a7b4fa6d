"""Which side had more cues? A recurrent network with a slow memory in its thresholds, asked after a delay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikeloom import datasets
from spikeloom.datasets.evidence import cue_sides, cue_spikes, majority
from spikeloom.gradients import BPTT, RTRL, EProp, with_feedback
from spikeloom.network import Layer, Run, Sequential
from spikeloom.neurons import ALIF, LI
from spikeloom.surrogates import Triangle
from spikeloom.training.experiment import Experiment, Schedule, Splits

DT = 1e-3


@dataclass(kw_only=True)
class EvidenceAccumulation(Experiment):
    """Seven cues from two sides, a delay, and a question: 40-100-2, recurrent, 50 LIF and 50 ALIF neurons.

    Adaptive thresholds, which fade over 2 s, carry what was counted through the delay; membranes forget it in 20 ms.
    Spikes of training trials are drawn afresh in every epoch. Task, network and neurons are those of the source, but
    for the reset, which acts in the step of the spike here, and the refractory period, in which membranes are held. The
    outputs are not scaled by 1 - kappa, so that they learn faster; batches are half as large, with a cosine schedule
    and a clipped gradient, and neurons are drawn to their rate more strongly, for BPTT's gradients explode without.

    Arguments:
        rule: "eprop", "rtrl" (e-prop with the reset's derivative) or "bptt".
        feedback: how learning signals go back from the outputs under the online rules: through the transposed output
            weights ("symmetric"), a fixed random matrix ("random"), or one that learns as they do ("adaptive").
        feedback_std: standard deviation of that matrix.
        hidden: number of recurrent neurons, half of them adaptive.
        tau_mem: membrane time constant of neurons and outputs in seconds.
        tau_adapt: time constant of adaptive thresholds in seconds.
        v_th: threshold.
        increment: what a spike adds to an adaptive threshold.
        refractory: refractory period in steps of 1 ms.
        cues: number of cues in a trial.
        train_trials: trials in an epoch.
        test_trials: fresh trials for the test.
        rate: firing rate in spikes per second that neurons are drawn to.
        rate_cost: strength of that, for squared differences in spikes per millisecond.

    Source: Bellec et al., Nat. Commun. 11:3625 (2020), doi:10.1038/s41467-020-17236-y, figure 3.
    """

    name: ClassVar[str] = "evidence-accumulation"
    record: ClassVar[tuple[str, ...]] = ("0.spikes",)
    positive: ClassVar[tuple[str, ...]] = (
        *("feedback_std", "hidden", "tau_mem", "tau_adapt", "v_th", "cues", "train_trials", "test_trials", "rate"),
    )

    epochs: int = 10
    batch_size: int = 32
    lr: float = 5e-3
    schedule: Schedule = "cosine"
    gradient_clip: float = 1.0
    threads: int = 1

    rule: Literal["eprop", "rtrl", "bptt"] = "eprop"
    feedback: Literal["symmetric", "random", "adaptive"] = "symmetric"
    feedback_std: float = 0.2
    hidden: int = 100
    tau_mem: float = 20e-3
    tau_adapt: float = 2.0
    v_th: float = 0.6
    increment: float = 0.0174
    refractory: int = 5
    cues: int = 7
    train_trials: int = 1600
    test_trials: int = 1024
    rate: float = 10.0
    rate_cost: float = 5.0

    def gradient(self) -> BPTT | EProp:
        if self.rule == "bptt":
            return BPTT()
        kind = EProp if self.rule == "eprop" else RTRL
        # Trials are run as a whole, so no traces are carried from one run to the next.
        return kind(feedback=self.feedback, kappa=math.exp(-DT / self.tau_mem), carry=False)

    def network(self) -> nn.Module:
        increments = torch.zeros(self.hidden)
        increments[self.hidden // 2 :] = self.increment
        neuron = ALIF(
            self.hidden,
            tau_mem=self.tau_mem,
            tau_adapt=self.tau_adapt,
            v_th=self.v_th,
            increment=increments,
            refractory=self.refractory,
        )
        first, back = nn.Linear(40, self.hidden, bias=False), nn.Linear(self.hidden, self.hidden, bias=False)
        second = nn.Linear(self.hidden, 2, bias=False)
        for connection in (first, back):
            nn.init.normal_(connection.weight, 0.0, connection.in_features**-0.5)
        nn.init.xavier_uniform_(second.weight)
        if self.rule != "bptt" and self.feedback != "symmetric":
            with_feedback(second, std=self.feedback_std)
        surrogate = Triangle(width=self.v_th, amplitude=0.3 / self.v_th)
        hidden = Layer(first, neuron, back, self_connections=False, surrogate=surrogate)
        return Sequential(hidden, Layer(second, LI(2, tau_mem=self.tau_mem)), dt=DT)

    def data(self, data_dir: str | Path | None = None) -> Splits:
        held_out = round(self.validation * self.train_trials)
        sides = cue_sides(self.train_trials - held_out, self.cues, self._generator(0))
        train = datasets.BatchLoader(
            sides, majority(sides), self.batch_size, shuffle=True, seed=self.seed, transform=cue_spikes
        )
        fixed = [self._fixed(n, part) if n else None for n, part in ((self.test_trials, 1), (held_out, 2))]
        assert fixed[0] is not None
        return Splits(train, fixed[0], fixed[1], classes=("left", "right"))

    def _fixed(self, trials: int, part: int) -> datasets.BatchLoader:
        spikes, labels = datasets.evidence_accumulation(trials, self.cues, generator=self._generator(part))
        return datasets.BatchLoader(spikes, labels, self.batch_size)

    def _generator(self, part: int) -> torch.Generator:
        return torch.Generator().manual_seed(datasets.mix(self.seed, part))

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy at each step of the question."""
        asked = output[-round(0.15 / DT) :]
        return F.cross_entropy(asked.flatten(0, 1), target.repeat(len(asked)))

    def decode(self, output: Tensor) -> Tensor:
        return output[-round(0.15 / DT) :].mean(0)

    def activity_cost(self, run: Run, target: Tensor) -> Tensor:
        difference = run.records["0.spikes"].mean((0, 1)) - 1e-3 * self.rate
        return self.rate_cost * difference.square().sum()


def evidence_accumulation() -> EvidenceAccumulation:
    """The configuration of the recipe ``evidence-accumulation``."""
    return EvidenceAccumulation()
