"""One training run, from seeds to weights, that can be interrupted and resumed without a trace."""

from __future__ import annotations

import io
import logging
import signal
import sys
import threading
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console

from spikeloom.training.callbacks import EpochLines, HeedInterrupts, History, SaveEachEpoch, SeedEachEpoch
from spikeloom.training.experiment import Experiment, Splits
from spikeloom.training.files import write
from spikeloom.training.memory import PeakMemory
from spikeloom.training.progress import EpochProgress
from spikeloom.training.rasters import SpikeRasters
from spikeloom.training.task import Task

CHECKPOINT = "last.ckpt"
WEIGHTS = "weights.pt"


@dataclass(frozen=True)
class Fitted:
    """A finished run: the trained task, its data, a row of numbers for each epoch, the test's numbers, seconds, the
    device that trained it, and what a step took of memory; the network itself is on the processor again."""

    task: Task
    splits: Splits
    rows: list[dict[str, float]]
    test: dict[str, float]
    seconds: float
    device: str = "cpu"
    train_step_mib: float | None = None


def fit(
    experiment: Experiment,
    directory: str | Path,
    *,
    data_dir: str | Path | None = None,
    device: str = "cpu",
    console: Console | None = None,
    callbacks: tuple[lightning.Callback, ...] = (),
) -> Fitted:
    """Train one experiment for all its epochs, and look at the test set once, after the last.

    All randomness follows from the seed and the number of the epoch, and a checkpoint is kept of the start of each
    epoch. So if a run was interrupted in this directory, the same call takes it up at the start of the epoch that was
    cut short, and ends with the same weights, bit for bit, as a run without the interruption.

    Arguments:
        experiment: what to train; see `Experiment`.
        directory: holds last.ckpt, metrics.csv, TensorBoard's files and, at the end, weights.pt (a state_dict).
        data_dir: where the data's files are; see `spikeloom.datasets.data_directories`.
        device: "cpu" or "cuda".
        console: prints one line for each epoch, and a progress bar if it is a terminal; None for silence.
        callbacks: further Lightning callbacks.

    Returns:
        The trained task, the data, and the numbers.

    Raises:
        ValueError: if settings do not go together, or the device is not there.
        OSError: if the directory's checkpoint is damaged, or cannot be written.
        KeyboardInterrupt: if the user interrupts; the checkpoint of the epoch's start is kept.

    Example (not run, for it trains)::

        fitted = sl.training.fit(Digits(epochs=5), "runs/mine")
        fitted.test["test_accuracy"]
    """
    experiment.check()
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ValueError(
            f"fit got device='{device}'; expected cpu" + (" or cuda." if torch.cuda.is_available() else ".")
        )
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    checkpoint = directory / CHECKPOINT
    if checkpoint.exists() and not zipfile.is_zipfile(checkpoint):
        raise OSError(f"{checkpoint} is damaged, so this run cannot go on; start a new one, in another directory.")
    console = console or Console(quiet=True)
    splits = experiment.data(data_dir)
    task = make_task(experiment, splits)
    history, peak, interrupts = History(directory / "metrics.csv"), PeakMemory(), HeedInterrupts()
    stop = EarlyStopping("validation_loss", patience=experiment.patience) if experiment.patience else None
    with _quiet():
        trainer = lightning.Trainer(
            max_epochs=experiment.epochs,
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=1,
            gradient_clip_val=experiment.gradient_clip or None,
            logger=TensorBoardLogger(directory, name="", version="tensorboard", default_hp_metric=False),
            callbacks=[
                interrupts,
                SeedEachEpoch(experiment.seed),
                *callbacks,
                *([stop] if stop else []),
                SpikeRasters(splits.train),
                peak,
                history,
                EpochProgress(console),
                EpochLines(history, lambda line: console.print(line, highlight=False, soft_wrap=True)),
                SaveEachEpoch(checkpoint),
            ],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=sys.maxsize,  # all is logged by the epoch, and to look for more takes time
        )
        with _interruptible(trainer, interrupts), _threads(experiment.threads):
            trainer.fit(
                task,
                splits.train,
                splits.validation,
                ckpt_path=checkpoint if checkpoint.exists() else None,
                weights_only=True,
            )
        test = trainer.test(task, splits.test, verbose=False)[0] if experiment.test else {}
    weights = io.BytesIO()
    torch.save({name: value.cpu() for name, value in task.network.state_dict().items()}, weights)
    write(directory / WEIGHTS, weights.getvalue())
    numbers = {name: float(value) for name, value in test.items()}
    return Fitted(task, splits, history.rows, numbers, history.seconds, device, peak.rise)


def make_task(experiment: Experiment, splits: Splits) -> Task:
    """The task of an experiment before training: with the same seed, always the same weights."""
    torch.manual_seed(experiment.seed)
    return Task(
        experiment.network(),
        experiment.loss,
        experiment.decode if splits.classes else None,
        classes=len(splits.classes) if splits.classes else None,
        penalty=experiment.penalty,
        lr=experiment.lr,
        time_constant_lr=experiment.time_constant_lr,
        weight_decay=experiment.weight_decay,
        optimiser=experiment.optimiser,
        schedule=experiment.schedule,
        gradient=experiment.gradient(),
        record=experiment.record,
        activity_cost=experiment.activity_cost if experiment.record else None,
        anneal=experiment.anneal,
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many CPU threads within, and as many as before afterwards; 0 changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's notes on devices and workers, which tell the user of a recipe nothing; errors still raise."""
    logs = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module=r"lightning\.(pytorch|fabric)\b.*")
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
            yield
    finally:
        for log, level in zip(logs, levels):
            log.setLevel(level)


@contextmanager
def _interruptible(trainer: lightning.Trainer, interrupts: HeedInterrupts) -> Iterator[None]:
    """Give KeyboardInterrupt back to the caller: Lightning turns it into SystemExit and leaves Ctrl-C switched off."""
    handler = signal.getsignal(signal.SIGINT)
    # A handler of the caller's own stays, and other threads than the main one have no say.
    ours = handler is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, interrupts.handle)
    try:
        yield
        interrupts.act()  # pressed after the last batch
    except SystemExit as error:
        if trainer.interrupted and isinstance(error.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from None
        raise
    finally:
        if ours:
            signal.signal(signal.SIGINT, handler)
