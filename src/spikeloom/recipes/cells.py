"""One neuron around any connection: dense, recurrent, convolutional; spikes or rates; surrogate gradients or STDP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikeloom import constraints, datasets, decoding, encoding, initializers, plots
from spikeloom.fire import Fire
from spikeloom.network import Layer, run
from spikeloom.neurons import LI, LIF, Neuron
from spikeloom.parameters import Param, State
from spikeloom.plasticity import STDP, Update
from spikeloom.surrogates import Sigmoid, Smooth
from spikeloom.training.experiment import Experiment, Schedule, Splits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE, MAPS = 32, 16


class EulerCell(Neuron):
    """A user's whole neuron: state (V, I), one step of its equations, and nothing else.

        I += dt / tau_syn (-I + x);   V += dt / tau_mem (-V + I);   V >= v_th: fire, V = v_reset

    Args:
        shape, learn, dt, refractory: see `Neuron`.
        tau_mem, tau_syn: time constants in s (10 ms).
        v_th: threshold (1). v_reset: where a spike puts the membrane (0).

    Source: the cell of a gist and its discussion for Julia's Flux and Lux.

    >>> import torch, spikeloom as sl
    >>> from spikeloom.recipes.cells import EulerCell
    >>> spikes, state = sl.Layer(torch.nn.Conv2d(3, 16, 3), EulerCell(comparator=">="))(torch.rand(5, 2, 3, 32, 32))
    >>> spikes.shape
    torch.Size([5, 2, 16, 30, 30])
    """

    resets = ("zero",)
    tau_mem = Param(10e-3, unit="s", constraint=constraints.time_constant)
    tau_syn = Param(10e-3, unit="s", constraint=constraints.time_constant)
    v_th = Param(1.0)
    v_reset = Param(0.0)
    i = State()
    v = State()

    def coefficients(self, dt: float) -> dict[str, Any]:
        return {"fill": dt / self.tau_syn, "rise": dt / self.tau_mem, "v_th": self.v_th}

    @staticmethod
    def step(c: Any, z: Any, x: Any, fire: Fire) -> tuple[Tensor, dict[str, Tensor]]:
        i = z.i + c.fill * (x - z.i)
        v = z.v + c.rise * (i - z.v)
        s, v = fire(v, c.v_th)
        return s, {"i": i, "v": v}


class ExactCell(EulerCell):
    """The same cell with exact decay: 1 - exp(-dt / tau) in the place of dt / tau.

    >>> from spikeloom.recipes.cells import ExactCell
    >>> round(ExactCell(tau_mem=10e-3).coefficients(1e-3)["rise"].item(), 5)
    0.09516
    """

    def coefficients(self, dt: float) -> dict[str, Any]:
        return {"fill": -torch.expm1(-dt / self.tau_syn), "rise": -torch.expm1(-dt / self.tau_mem), "v_th": self.v_th}


CELLS: dict[str, type[Neuron]] = {"euler": EulerCell, "exact": ExactCell, "lif": LIF}


@dataclass(kw_only=True)
class Cells(Experiment):
    """Coloured digits of 32 x 32 x 3, a hidden layer of one cell around any connection, and a linear readout.

    The digits of scikit-learn, four times as large and each in a colour of its own, drive one encoding neuron for each
    of 3,072 values. The hidden layer's connection, its neuron, its spiking act and its learning rule are settings;
    whichever rule, one optimiser applies it.

    Arguments:
        connection: "dense", "recurrent" (dense, with its own spikes fed back) or "convolution" (16 maps, 3 x 3).
        cell: "euler" or "exact", the neuron written in this file, or "lif" of the library.
        act: "spikes", or "rate": the surrogate's smooth primitive in the place of the spike.
        rule: how the hidden connection learns: by "surrogate" gradients, by "stdp" alone, or by "both".
        hidden: number of neurons of the dense layers.
        steps: time steps T of 1 ms.
        current: current of a white pixel, in units of the encoding neuron's threshold.
        strength: factor of the changes that STDP asks for.
    """

    name: ClassVar[str] = "cells"
    positive: ClassVar[tuple[str, ...]] = ("hidden", "steps", "current", "strength")

    epochs: int = 8
    batch_size: int = 50
    lr: float = 5e-3
    schedule: Schedule = "cosine"
    threads: int = 1

    connection: Literal["dense", "recurrent", "convolution"] = "dense"
    cell: Literal["euler", "exact", "lif"] = "euler"
    act: Literal["spikes", "rate"] = "spikes"
    rule: Literal["surrogate", "stdp", "both"] = "surrogate"
    hidden: int = 64
    steps: int = 24
    current: float = 3.0
    strength: float = 1.0

    def check(self) -> None:
        super().check()
        if self.rule != "surrogate" and self.act == "rate":
            raise ValueError(f"cells got rule={self.rule}, act=rate; STDP needs spikes: write act=spikes.")

    def network(self) -> nn.Module:
        act = Sigmoid(width=0.25)
        options: dict[str, Any] = {"surrogate": Smooth(act) if self.act == "rate" else act}
        neuron = CELLS[self.cell](reset="zero", comparator=">=", tau_mem=10e-3)
        if self.connection == "convolution":
            connection: nn.Module = nn.Conv2d(3, MAPS, 3, padding=1, bias=False)
            outputs, weight = MAPS * (SIDE // 4) ** 2, connection.weight
            pool: nn.Module = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
        else:
            linear = nn.Linear(3 * SIDE**2, self.hidden, bias=False)
            connection, outputs, weight, pool = (
                nn.Sequential(nn.Flatten(), linear),
                self.hidden,
                linear.weight,
                nn.Identity(),
            )
            if self.connection == "recurrent":
                options |= {"recurrent": nn.Linear(self.hidden, self.hidden, bias=False), "self_connections": False}
        # A spike moves a cell's membrane by a hundredth of its weight within the step, and a LIF's by nearly all of it.
        # With a gain of 25, membranes end a trial with a standard deviation of about 1, the threshold; filters, which
        # are few and shared, begin smaller, so that they can still turn.
        gain = 10.0 if self.connection == "convolution" else 25.0
        initializers.scaled_normal_(weight, gain * (0.08 if self.cell == "lif" else 1.0))
        readout = Layer(nn.Linear(outputs, 10, bias=False), LI(10, tau_mem=20e-3))
        initializers.scaled_normal_(readout.connection.weight, 1.0)  # type: ignore[union-attr, arg-type]
        return PlasticNetwork(Layer(connection, neuron, **options), pool, readout, self.rule)

    def data(self, data_dir: str | Path | None = None) -> Splits:
        train, test = datasets.digits(train=True), datasets.digits(train=False)
        return Splits.of(self._loader, train, test, self.validation)

    def _loader(self, images: datasets.Images, shuffle: bool = False) -> datasets.BatchLoader:
        return datasets.BatchLoader(
            coloured(images.intensities, self.seed),
            images.labels,
            self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            transform=self._encode,
        )

    def _encode(self, images: Tensor) -> Tensor:
        return encoding.constant_current(self.current * images, self.steps)

    def decode(self, output: Tensor) -> Tensor:
        return decoding.max_over_time(output)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(self.decode(output), target)

    def penalty(self, network: nn.Module) -> Tensor | None:
        """What STDP asks for, in the shape of a loss: the same backward and the same optimiser serve both rules."""
        assert isinstance(network, PlasticNetwork)
        return None if network.update is None else self.strength * network.update.as_loss()

    def figures(self, before: nn.Module, after: nn.Module, splits: Splits) -> Sequence[Figure]:
        return [self._acts()]

    def _acts(self) -> Figure:
        """One cell under a constant current, with spikes and with the smooth act in their place."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8.5, 5), layout="constrained")
        current = torch.full((100, 1, 1), 1.6)
        for ax, act in zip(figure.subplots(2, 1), (Sigmoid(width=0.25), Smooth(Sigmoid(width=0.25)))):
            neuron = CELLS[self.cell](1, reset="zero", comparator=">=", tau_mem=10e-3)
            port = "current" if "current" in neuron.ports else None
            with torch.no_grad():
                found = run(Layer(None, neuron, surrogate=act, port=port), current, record=("v", "spikes"))
            name = "rate" if isinstance(act, Smooth) else "spikes"
            traces = {"membrane": found.records["v"][:, 0], name: found.output[:, 0]}
            plots.plot_traces(traces, title=f"One cell, current 1.6: {name}", ax=ax)
        return figure


class PlasticNetwork(nn.Module):
    """A hidden layer, pooling, a readout; the hidden connection learns by gradients, by STDP, or by both.

    Arguments:
        hidden: the layer, whose `connection` is plastic.
        pool: from its spikes to the readout's input, without time.
        readout: the layer that answers.
        rule: "surrogate", "stdp" or "both".

    After a call in training, `update` holds what STDP asks for; None without STDP.
    """

    def __init__(self, hidden: Layer, pool: nn.Module, readout: Layer, rule: str) -> None:
        super().__init__()
        self.hidden, self.pool, self.readout, self.rule = hidden, pool, readout, rule
        # More depression than potentiation, so that synapses whose spikes come at random lose weight.
        self.stdp = STDP(a_plus=1e-4, a_minus=1.05e-4, tau_plus=10e-3, tau_minus=10e-3)
        self.update: Update | None = None

    def forward(self, x: Tensor) -> Tensor:
        spikes, _ = self.hidden(x)
        self.update = None
        if self.rule != "surrogate" and self.training:
            assert isinstance(self.hidden.connection, nn.Module)
            self.update = self.stdp(self.hidden.connection, x, spikes, dt=self.hidden.dt)
        # By STDP alone, the readout's error does not reach the hidden layer.
        passed = spikes.detach() if self.rule == "stdp" else spikes
        return self.readout(self.pool(passed.flatten(0, 1)).unflatten(0, passed.shape[:2]))[0]


def coloured(images: Tensor, seed: int) -> Tensor:
    """Images [B, 8, 8] four times as large, each in a colour that says nothing of its class: [B, 3, 32, 32]."""
    generator = torch.Generator().manual_seed(datasets.mix(seed, len(images)))
    colours = torch.rand(len(images), 3, 1, 1, generator=generator)
    colours = colours / colours.amax(1, keepdim=True)
    return colours * images.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]


def cells() -> Cells:
    """The configuration of the recipe ``cells``."""
    return Cells()
