"""Ordinary Lightning callbacks: seeds, checkpoints, the history of an experiment, and one line for each epoch."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch

from spikeloom.datasets.batches import mix
from spikeloom.training.files import write


class SeedEachEpoch(lightning.Callback):
    """Seed torch's generators at the start of each epoch with a function of (seed, epoch).

    So noise and dropout of an epoch do not depend on what went before, and an epoch that is begun again after an
    interruption is the same epoch, bit for bit.

    Arguments:
        seed: the seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        torch.manual_seed(mix(self.seed + 1, trainer.current_epoch))


class SaveEachEpoch(lightning.Callback):
    """Before each epoch, save weights, optimiser, schedule and callbacks under one name, replacing the one before.

    So an interruption leaves the state from which the epoch that it cut short began. Before an epoch, and not after
    one, all callbacks agree that the last epoch is over.

    Arguments:
        path: the checkpoint's file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # What the epoch's loop does next in any case. Saved as they are, the counters of the last epoch would make
        # Lightning go on at that epoch's last batch.
        loop = trainer.fit_loop.epoch_loop
        for progress in (loop.batch_progress, loop.scheduler_progress, loop.automatic_optimization.optim_progress):
            progress.reset_on_run()
        loop.val_loop.batch_progress.total.reset()
        unfinished = self.path.with_suffix(".part")
        trainer.save_checkpoint(unfinished)
        os.replace(unfinished, self.path)


class HeedInterrupts(lightning.Callback):
    """Let Ctrl-C act between two batches, where no library is in the middle of anything; a second one acts at once.

    Raised anywhere, KeyboardInterrupt can leave a lock of TensorBoard's writer behind, for which its end then waits.
    """

    def __init__(self) -> None:
        self.asked = False

    def handle(self, number: int, frame: Any) -> None:
        """What SIGINT does meanwhile."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def act(self) -> None:
        if self.asked:
            raise KeyboardInterrupt

    def on_train_batch_start(self, *args: Any, **more: Any) -> None:
        self.act()

    def on_validation_batch_start(self, *args: Any, **more: Any) -> None:
        self.act()


class History(lightning.Callback):
    """Keep what was logged, epoch by epoch, in `rows`, through interruptions, and in a CSV file if one is named.

    Arguments:
        path: the CSV file, written anew after each epoch; None for none.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        self._seconds, self._since = 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds of training up to the end of the last epoch; the time between interruption and resume not counted."""
        return self.rows[-1]["seconds"] if self.rows else 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._seconds, self._since = self.seconds, time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        row = {"epoch": trainer.current_epoch + 1}
        row |= {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        self.rows.append(row | {"seconds": self._seconds + time.perf_counter() - self._since})
        if self.path is not None:
            text = io.StringIO()
            writer = csv.DictWriter(text, list(dict.fromkeys(key for row in self.rows for key in row)), restval="")
            writer.writeheader()
            writer.writerows(self.rows)
            write(self.path, text.getvalue())

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])


class EpochLines(lightning.Callback):
    """Print one line after each epoch: plain text, so that it reads as well in a log file.

    Arguments:
        history: where the numbers are; list it before this callback.
        print: called with each line.
    """

    def __init__(self, history: History, print: Callable[[str], None]) -> None:
        self.history, self.print = history, print

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        row = self.history.rows[-1]
        parts = [f"epoch {row['epoch']:>3}/{trainer.max_epochs}"]
        for part in ("train", "validation"):
            if f"{part}_loss" in row:
                accuracy = f" accuracy {row[f'{part}_accuracy']:7.2%}" if f"{part}_accuracy" in row else ""
                parts.append(f"{part} loss {row[f'{part}_loss']:.4f}{accuracy}")
        self.print("  ".join([*parts, f"{row['seconds']:6.1f} s"]))
