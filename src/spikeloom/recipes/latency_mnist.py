"""MNIST as first-spike times: each pixel spikes at most once, the earlier the brighter."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikeloom import datasets, decoding, encoding, losses, regularizers
from spikeloom.events import Events
from spikeloom.gradients import BPTT, EventProp
from spikeloom.network import Layer, Run, Sequential
from spikeloom.neurons import LI, CubaLI, CubaLIF
from spikeloom.surrogates import SuperSpike
from spikeloom.training.experiment import Experiment, Schedule, Splits

SIDE = 28  # pixels


@dataclass(kw_only=True)
class LatencyMnist(Experiment):
    """MNIST with one spike per pixel, 784-128-10, trained with surrogate gradients.

    A pixel p in [0, 1) spikes at step floor((1 - p) window); pixels under the threshold stay silent. Spikes stay
    events from the encoder to the network. The outputs are leaky integrators, and the class is the one that rises
    highest; with loss_function=spike_count the outputs fire, with the target of SLAYER, 100 spikes for the right class
    and 10 for the others, and the class is the one that fires most, which is the weaker recipe.

    Arguments:
        rule: "bptt" for surrogate gradients, "eventprop" for exact ones; the recipe latency-mnist-eventprop has
            settings for these.
        epsilon: of `EventProp`, the least slope of a membrane that fires, in parts of the threshold.
        loss_function: "cross_entropy" of the highest membrane potentials, "mean" for that of their means over time, or
            "spike_count".
        learned: train tau_mem, tau_syn and v_th of each hidden neuron too, or else the weights alone.
        hidden: number of hidden neurons.
        steps: time steps of a trial.
        window: steps in which pixels spike; 0 for all.
        dt: time step in seconds.
        threshold: pixels below it are silent.
        weights: mean and standard deviation of the first initial weights.
        readout_weights: the same of the weights to the outputs.
        tau_mem: membrane time constant of the hidden neurons in seconds.
        tau_readout: membrane time constant of the outputs in seconds.
        tau_synapse: synaptic time constant of the outputs in seconds; 0 for none, which EventProp cannot differentiate,
            for there a spike moves the membrane itself.
        width: width of the surrogate.
        spike_dropout: part of the input spikes that are dropped in training, drawn anew for each batch.
        shift: images are moved by up to so many pixels each way in training, drawn anew for each sample.
    """

    name: ClassVar[str] = "latency-mnist"
    positive: ClassVar[tuple[str, ...]] = ("epsilon", "hidden", "steps", "dt", "tau_mem", "tau_readout", "width")
    parts: ClassVar[tuple[str, ...]] = ("threshold", "spike_dropout")

    epochs: int = 12
    batch_size: int = 128
    lr: float = 2e-2
    schedule: Schedule = "cosine"
    threads: int = 1

    rule: Literal["bptt", "eventprop"] = "bptt"
    epsilon: float = 1e-2
    loss_function: Literal["cross_entropy", "mean", "spike_count"] = "cross_entropy"
    learned: bool = True
    hidden: int = 128
    steps: int = 100
    window: int = 0
    dt: float = 1e-3
    threshold: float = 0.25
    weights: tuple[float, ...] = (0.0, 0.6)
    readout_weights: tuple[float, ...] = (0.0, 0.3)
    tau_mem: float = 20e-3
    tau_readout: float = 100e-3
    tau_synapse: float = 0.0
    width: float = 0.1
    spike_dropout: float = 0.0
    shift: int = 1

    def check(self) -> None:
        super().check()
        if not 0 <= self.shift < SIDE:
            raise ValueError(f"{self.name} got shift={self.shift}; expected 0 to {SIDE - 1} pixels.")
        if not 0 <= self.window <= self.steps:
            raise ValueError(
                f"{self.name} got window={self.window}, steps={self.steps}; expected 0 <= window <= steps."
            )
        for key in ("weights", "readout_weights"):
            if len(getattr(self, key)) != 2:
                raise ValueError(f"{self.name} got {key}={getattr(self, key)}; expected mean,deviation, such as 0,0.3.")
        if self.rule == "eventprop" and (self.loss_function == "spike_count" or self.tau_synapse <= 0):
            raise ValueError(
                f"{self.name} got rule=eventprop, loss_function={self.loss_function}, "
                f"tau_synapse={self.tau_synapse:g}; EventProp has no gradient of counts, and needs outputs with a "
                "synapse: write loss_function=cross_entropy tau_synapse=0.005, or start from latency-mnist-eventprop."
            )

    def gradient(self) -> EventProp | BPTT:
        return EventProp(epsilon=self.epsilon) if self.rule == "eventprop" else BPTT()

    def network(self) -> nn.Module:
        first, second = nn.Linear(784, self.hidden, bias=False), nn.Linear(self.hidden, 10, bias=False)
        for connection, (mean, deviation) in zip((first, second), (self.weights, self.readout_weights), strict=True):
            nn.init.normal_(connection.weight, mean, deviation)
        surrogate = SuperSpike(width=self.width)
        own: dict[str, Any] = {name: torch.full((self.hidden,), value) for name, value in self._initial().items()}
        hidden = CubaLIF(self.hidden, learn=tuple(own) if self.learned else (), **own)
        return Sequential(
            Layer(first, hidden, surrogate=surrogate), Layer(second, self._output(), surrogate=surrogate), dt=self.dt
        )

    def _output(self) -> CubaLI | LI:
        if self.loss_function == "spike_count":
            return CubaLIF(10, tau_mem=20e-3, tau_syn=5e-3)
        if self.tau_synapse:
            return CubaLI(10, tau_mem=self.tau_readout, tau_syn=self.tau_synapse)
        return LI(10, tau_mem=self.tau_readout)

    def _initial(self) -> dict[str, float]:
        return {"tau_mem": self.tau_mem, "tau_syn": 5e-3, "v_th": 1.0}

    def data(self, data_dir: str | Path | None = None) -> Splits:
        train, test = datasets.mnist(data_dir, train=True), datasets.mnist(data_dir, train=False)
        return Splits.of(self._loader, train, test, self.validation)

    def _loader(self, images: datasets.Images, shuffle: bool = False) -> datasets.BatchLoader:
        early = encoding.latency(images.intensities.flatten(1), self.window or self.steps, threshold=self.threshold)
        shape = (self.steps, *early.shape[1:])  # the steps after the window are silent
        spikes = Events.from_coordinates(early.time, early.batch, early.channel, shape=shape)
        return datasets.BatchLoader(
            spikes,
            images.labels,
            self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            transform=self._disturb if shuffle else None,
        )

    def _disturb(self, spikes: Events) -> Events:
        """Spikes of moved images, some dropped: what training sees."""
        down, across = torch.randint(-self.shift, self.shift + 1, (2, len(spikes))) + self.shift
        moves = SIDE * SIDE * (down * (2 * self.shift + 1) + across)
        channel = _moved(self.shift)[torch.repeat_interleave(moves, spikes.counts()) + spikes.channel]
        keep = channel >= 0
        keep &= torch.rand(spikes.total) >= self.spike_dropout
        # A sample's spikes move together, so they stay in order.
        before, ends = F.pad(keep.cumsum(0), (1, 0)), F.pad(spikes.counts().cumsum(0), (1, 0))
        return Events(spikes.time[keep].int(), channel[keep], before[ends], None, spikes.shape)

    def decode(self, output: Tensor) -> Tensor:
        if self.loss_function == "spike_count":
            return decoding.spike_count(output)
        if self.loss_function == "mean":
            return decoding.mean_over_time(output)
        return decoding.max_over_time(output)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        if self.loss_function == "spike_count":
            return losses.spike_count_mse(output, target, true_count=100, false_count=10)
        return F.cross_entropy(self.decode(output), target)


@functools.cache
def _moved(shift: int) -> Tensor:
    """Where pixels go by moves of -shift .. shift down, and across: [moves down x moves across x pixels], flat, int32;
    -1 where they leave the image."""
    moves, places = torch.arange(-shift, shift + 1), torch.arange(SIDE)
    to = moves[:, None] + places  # [moves, places]
    row, column = to[:, None, :, None], to[None, :, None, :]
    inside = (row >= 0) & (row < SIDE) & (column >= 0) & (column < SIDE)
    return torch.where(inside, SIDE * row + column, -1).int().flatten()


@dataclass(kw_only=True)
class LatencyMnistEventProp(LatencyMnist):
    """MNIST with one spike per pixel within 20 ms, 784-350-10, trained with exact gradients (EventProp).

    Time constants and code are those of the source; see `LatencyMnist` for the settings. Weights begin with a positive
    mean, so that every hidden neuron fires, for a silent one gets no exact gradient, and `wake` keeps it so. The class
    is the output whose membrane is highest on average, over the 20 ms of the code, where the source took the highest
    at any time: then every spike before the end has a part in the loss, and 15 epochs do where the source took 100.
    Batches are larger than the source's 5, which keeps an epoch cheap, and the learning rate higher. Images are moved
    in training, where the source dropped a fifth of the input spikes (spike_dropout=0.2); both change events before
    the network, and so are data augmentation to the rule.

    Arguments:
        wake: strength of the cost of hidden neurons that are silent in a whole batch, by their membranes
            (`regularizers.silence`); without it a third of them falls silent, and for good.

    Source: Wunderlich & Pehle, Sci. Rep. 11:12829 (2021), doi:10.1038/s41598-021-91786-z: 97.58 +- 0.12 %.
    """

    name: ClassVar[str] = "latency-mnist-eventprop"
    record: ClassVar[tuple[str, ...]] = ("0.v", "0.spikes")

    epochs: int = 15
    batch_size: int = 32
    lr: float = 1e-2
    gradient_clip: float = 1.0

    rule: Literal["bptt", "eventprop"] = "eventprop"
    epsilon: float = 1.0
    loss_function: Literal["cross_entropy", "mean", "spike_count"] = "mean"
    learned: bool = False
    hidden: int = 350
    steps: int = 20
    window: int = 20
    weights: tuple[float, ...] = (0.078, 0.045)
    readout_weights: tuple[float, ...] = (0.2, 0.37)
    tau_readout: float = 20e-3
    tau_synapse: float = 5e-3
    wake: float = 10.0

    def activity_cost(self, run: Run, target: Tensor) -> Tensor:
        # All samples of the batch as one trial: a neuron that fires for some of them is awake.
        membranes, spikes = (run.records[name].flatten(0, 1).unsqueeze(1) for name in self.record)
        silent = (spikes.detach().amax((0, 1)) == 0).nonzero().squeeze(1)
        if not len(silent):
            return spikes.new_zeros(())
        share = len(silent) / spikes.shape[-1]  # the others cost nothing, and are many
        return regularizers.silence(membranes[..., silent], spikes[..., silent], 1.0, strength=self.wake * share)


def latency_mnist() -> LatencyMnist:
    """The configuration of the recipe ``latency-mnist``."""
    return LatencyMnist()


def latency_mnist_eventprop() -> LatencyMnistEventProp:
    """The configuration of the recipe ``latency-mnist-eventprop``."""
    return LatencyMnistEventProp()
