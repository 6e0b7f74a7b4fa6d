"""Frozen noise to a chirp: 50 neurons turn one fixed spike raster into a sine wave of rising frequency."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spikeloom import constraints, datasets, initializers, plots, regularizers
from spikeloom.distributions import Uniform
from spikeloom.events import Events
from spikeloom.network import Layer, Sequential, run
from spikeloom.neurons import LI, CubaLIF
from spikeloom.parameters import Param, ParameterValue
from spikeloom.surrogates import SuperSpike
from spikeloom.training.experiment import Experiment, Schedule, Splits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DT = 1e-3


@dataclass(kw_only=True)
class Chirp(Experiment):
    """One frozen raster of 200 Poisson inputs is mapped to sin(2 pi 10 t^2), by weights and neuron parameters.

    200 inputs, 50 current-based leaky integrate-and-fire neurons that subtract the threshold, an exponential synapse
    for each of them, and one linear output. Every parameter is trained: both sets of weights, and for each neuron
    tau_mem, tau_syn, threshold, bias and the time constant of its output synapse. Time constants stay above 11 dt: they
    cannot leave that range (constrained), or a cost draws them back (bounds_cost), or both.

    Arguments:
        iterations: training steps in an epoch; each sees the whole raster.
        learned: train the neurons' parameters too, or else the weights alone.
        constrained: time constants cannot fall below 11 dt, or else only below dt / 10.
        bounds_cost: strength of a cost on time constants below 11 dt, beside the constraint or instead of it.
        hidden: number of neurons.
        inputs: number of input channels.
        steps: time steps T of 1 ms.
        probability: of a spike in a step and channel.
        width: width of the surrogate.
        fresh: rasters of fresh noise, which should give no chirp.
    """

    name: ClassVar[str] = "chirp"
    positive: ClassVar[tuple[str, ...]] = ("iterations", "hidden", "inputs", "steps", "width", "fresh")
    parts: ClassVar[tuple[str, ...]] = ("probability",)
    lowest: ClassVar[float] = 11 * DT

    epochs: int = 20
    batch_size: int = 1
    lr: float = 1e-2
    schedule: Schedule = "cosine"
    threads: int = 1

    iterations: int = 100
    learned: bool = True
    constrained: bool = True
    bounds_cost: float = 0.0
    hidden: int = 50
    inputs: int = 200
    steps: int = 1000
    probability: float = 0.01
    width: float = 0.3
    fresh: int = 20

    def check(self) -> None:
        super().check()
        if not 0 <= self.bounds_cost < math.inf:
            raise ValueError(f"chirp got bounds_cost={self.bounds_cost}; expected 0 for none, or a number above 0.")
        if self.batch_size != 1 or self.validation:
            raise ValueError("chirp has one frozen raster: leave batch_size at 1 and validation at 0.")

    def network(self) -> nn.Module:
        names = ("tau_mem", "tau_syn", "v_th", "bias") if self.learned else ()
        # Thresholds and biases are given as tensors, so that each neuron learns one of its own.
        values: dict[str, Any] = {"v_th": torch.ones(self.hidden), "bias": torch.zeros(self.hidden)}
        values |= {"tau_mem": self._time_constants(), "tau_syn": self._time_constants()}
        first = nn.Linear(self.inputs, self.hidden, bias=False)
        layer = Layer(first, CubaLIF(self.hidden, learn=names, **values), surrogate=SuperSpike(width=self.width))
        initializers.fluctuation_driven_(layer, rate=max(self.probability, 1e-3) / DT)
        # An input of weight 1 lets this membrane jump by 1 and decay: an exponential synapse.
        synapse = LI(self.hidden, tau_mem=self._time_constants(), learn=names[:1])
        return Sequential(layer, Layer(None, synapse), nn.Linear(self.hidden, 1), dt=DT)

    def _time_constants(self) -> Param:
        bounds = constraints.between(self.lowest, 1.0, logarithmic=True)
        values = Uniform(1.1 * self.lowest, 50e-3)
        return Param(values, unit="s", constraint=bounds if self.constrained else constraints.time_constant)

    def data(self, data_dir: str | Path | None = None) -> Splits:
        frozen, target = self.rasters(1, seed=0), self.target()
        again = torch.zeros(self.iterations, dtype=torch.int64)  # the same raster in each training step
        train = datasets.BatchLoader(frozen[again], target[:, again], 1, target_axis=1)
        return Splits(train, datasets.BatchLoader(frozen, target, 1, target_axis=1))

    def rasters(self, count: int, seed: int) -> Events:
        """Noise [T, count, inputs]; seed 0 is the frozen raster, any other one is fresh."""
        generator = torch.Generator().manual_seed(datasets.mix(self.seed, seed))
        return Events.from_dense(
            (torch.rand(self.steps, count, self.inputs, generator=generator) < self.probability).float()
        )

    def target(self) -> Tensor:
        """sin(2 pi t (10 t)) at t = k dt, [T, 1, 1]: up to 20 periods a second after one second."""
        time = DT * torch.arange(self.steps, dtype=torch.float64)
        return torch.sin(2 * math.pi * 10 * time**2).float().reshape(-1, 1, 1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(output, target)

    def penalty(self, network: nn.Module) -> Tensor | None:
        if not self.bounds_cost:
            return None
        costs = [regularizers.parameter_bounds(tau, low=self.lowest) for tau in _time_constants(network)]
        return self.bounds_cost * torch.stack(costs).sum()

    def findings(self, network: nn.Module, splits: Splits) -> Mapping[str, float]:
        """Error on fresh noise (silence has 0.5), its correlation with the chirp, and the shortest time constant."""
        with torch.no_grad():
            fresh = network(self.rasters(self.fresh, seed=1))[0].squeeze(2).double()
            target = self.target()[:, 0].double()
            correlation = torch.corrcoef(torch.cat([target, fresh], 1).T)[0, 1:]
            shortest = min(float(tau.min()) for tau in _time_constants(network))
        return {
            "fresh_loss": float(F.mse_loss(fresh, target.expand_as(fresh))),
            "fresh_correlation": float(correlation.abs().mean()),
            "shortest_time_constant": shortest,
        }

    def figures(self, before: nn.Module, after: nn.Module, splits: Splits) -> Sequence[Figure]:
        frozen, target = splits.test.batch(torch.arange(1))
        return [
            self._task(frozen, target),
            *self._neurons(after, frozen),
            self._answers(before, after, frozen, target),
            self._weights(before, after),
        ]

    def _task(self, frozen: Events, target: Tensor) -> Figure:
        figure, (above, below) = _figure(2, height=5.4)
        plots.plot_raster(frozen, dt=DT, title="The frozen noise and the chirp it is to become", ax=above)
        _series({"target": target[:, 0, 0]}, "Output", below)
        return figure

    def _neurons(self, network: nn.Module, frozen: Events) -> list[Figure]:
        """Spikes of all neurons; potential, current and the surrogate's derivative of five of them."""
        with torch.no_grad():
            watched = run(network, frozen, record=("0.v", "0.i", "0.v_before_reset", "0.spikes"))
        records = {name: value[:, 0] for name, value in watched.records.items()}
        # From those that fire seldom to those that fire often: a silent neuron shows nothing.
        counts = records["0.spikes"].sum(0)
        ranked = counts.argsort()[int((counts == 0).sum()) :]
        chosen = ranked[torch.linspace(0, len(ranked) - 1, min(5, len(ranked))).long()]
        layer = _first_layer(network)
        assert isinstance(layer.neuron, CubaLIF)
        distance = records["0.v_before_reset"] - layer.neuron.v_th.detach().to(torch.float32)
        raster, (ax,) = _figure(1)
        plots.plot_raster(records["0.spikes"], dt=DT, title="Spikes of the neurons", ax=ax)
        figures = [raster]
        for title, traces in {
            "Membrane potentials and synaptic currents": {"membrane": records["0.v"], "current": records["0.i"]},
            "The surrogate for the derivative of a spike": {"ds/dv": layer.surrogate.derivative(distance)},
        }.items():
            figure, (ax,) = _figure(1, height=4)
            shown = {name: values[:, chosen] for name, values in traces.items()}
            plots.plot_traces(shown, dt=DT, title=f"{title}, five neurons", ax=ax)
            figures.append(figure)
        return figures

    def _answers(self, before: nn.Module, after: nn.Module, frozen: Events, target: Tensor) -> Figure:
        figure, axes = _figure(3, height=7)
        with torch.no_grad():
            outputs = {
                "Before training": before(frozen)[0],
                "After training": after(frozen)[0],
                "After training, with fresh noise: no chirp": after(self.rasters(1, seed=2))[0],
            }
        for ax, (title, output) in zip(axes, outputs.items()):
            error = F.mse_loss(output, target).item()
            series = {"target": target[:, 0, 0], "output": output[:, 0, 0]}
            _series(series, "Output", ax, f"{title} (mean squared error {error:.4f})")
        return figure

    def _weights(self, before: nn.Module, after: nn.Module) -> Figure:
        """Each weight after training over what it was before."""
        figure, axes = _figure(1, 2, height=3.6)
        trained = dict(after.named_parameters())
        for ax, (name, title) in zip(axes, (("0.connection.weight", "Input weights"), ("2.weight", "Output weights"))):
            old, new = dict(before.named_parameters())[name].detach().flatten(), trained[name].detach().cpu().flatten()
            ax.scatter(
                old.numpy(), new.numpy(), s=3 if len(old) > 1000 else 20, color=plots.COLOURS[0], alpha=0.6, lw=0
            )
            ax.axline((0, 0), slope=1, color="black", lw=0.8, ls=":")
            ax.set(xlabel="before training", ylabel="after training")
            ax.set_title(f"{title}: change", fontsize=10, loc="left")
            ax.spines[["top", "right"]].set_visible(False)
        return figure


def _first_layer(network: nn.Module) -> Layer:
    """The first layer of the network."""
    layer = next(network.children())
    assert isinstance(layer, Layer)
    return layer


def _time_constants(network: nn.Module) -> list[Tensor]:
    held = [module for module in network.modules() if isinstance(module, ParameterValue) and module.unit == "s"]
    return [module.value(DT) for module in held]


def _figure(rows: int, columns: int = 1, height: float = 3.2) -> tuple[Figure, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _series(series: Mapping[str, Tensor], ylabel: str, ax: Any, title: str = "") -> None:
    for (name, values), colour in zip(series.items(), ("#000000", plots.COLOURS[1])):
        ax.plot(1e3 * DT * torch.arange(len(values)), values.detach(), color=colour, lw=1.2, label=name)
    ax.set(xlabel="Time (ms)", ylabel=ylabel)
    ax.legend(frameon=False, fontsize=9, loc="lower left")
    ax.set_title(title, fontsize=10, loc="left")
    ax.spines[["top", "right"]].set_visible(False)


def chirp() -> Chirp:
    """The configuration of the recipe ``chirp``."""
    return Chirp()
