"""Spike rasters and firing rates in TensorBoard, through an ordinary callback."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from torch import Tensor, nn

from spikeloom import plots
from spikeloom.datasets.batches import BatchLoader
from spikeloom.network import Run, run
from spikeloom.neurons import Neuron


class SpikeRasters(lightning.Callback):
    """Watch the same samples after each epoch: log each layer's firing rate, and now and then draw its spikes.

    Logs ``rate_hz/LAYER``, the mean over neurons, samples and time, in spikes per second; TensorBoard, where it is a
    logger, also gets the rasters of the first sample.

    Arguments:
        loader: where the samples come from.
        samples: so many, the first ones.
        every: draw rasters after each so many epochs, and after the first and the last.
    """

    def __init__(self, loader: BatchLoader, samples: int = 16, every: int = 5) -> None:
        self.loader, self.every = loader, every
        self.index = torch.arange(min(samples, loader.sampler.samples))

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        network = pl_module.network
        assert isinstance(network, nn.Module)
        if not fires(network):
            return
        epoch = trainer.current_epoch + 1
        watched = watch(network, self.loader.batch(self.index)[0], ("spikes",))
        for name, spikes in watched.records.items():
            pl_module.log(f"rate_hz/{name.removesuffix('.spikes') or 'layer'}", spikes.mean() / watched.dt)
        if epoch not in (1, trainer.max_epochs) and epoch % self.every:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for name, spikes in watched.records.items():
                    logger.experiment.add_figure(name, raster_figure(spikes, watched.dt, name), trainer.global_step)


def fires(network: nn.Module) -> bool:
    """Whether there is a neuron in the network that has spikes to record."""
    return any(isinstance(module, Neuron) and module.spiking for module in network.modules())


def watch(network: nn.Module, inputs: Any, record: tuple[str, ...]) -> Run:
    """A run for the eyes only: no gradient, Dropout and the like switched off, and left as they were."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    try:
        with torch.no_grad():
            return run(network, inputs.to(device), record=record, seed=0)
    finally:
        for module, training in modes.items():
            module.training = training


def raster_figure(spikes: Tensor, dt: float, title: str) -> Figure:
    """A figure of the spikes [T, B, *N] of the first sample."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    plots.plot_raster(spikes[:, 0], dt=dt, title=title, ax=figure.subplots())
    return figure
