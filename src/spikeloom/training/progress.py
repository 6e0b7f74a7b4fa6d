"""A progress bar on terminals."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as lightning
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class EpochProgress(lightning.Callback):
    """Show how many batches of the training are done and how long the rest will take, below the printed lines.

    Nothing is drawn where the console is not a terminal, so that log files stay readable.

    Arguments:
        console: where to draw.
    """

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("batches"))
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self.progress = Progress(*columns, *times, console=console, transient=True, disable=not console.is_terminal)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        epochs, batches = trainer.max_epochs or 0, int(trainer.num_training_batches)
        self.progress.start()
        self.task = self.progress.add_task("", total=epochs * batches, completed=trainer.current_epoch * batches)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.progress.update(self.task, description=f"epoch {trainer.current_epoch + 1:>3}/{trainer.max_epochs}")

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        self.progress.advance(self.task)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.progress.stop()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        self.progress.stop()
