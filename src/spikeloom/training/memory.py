"""Peak memory of a training step, through an ordinary Lightning callback."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch

from spikeloom.engine import memory

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MIB = 2**20


class PeakMemory(lightning.Callback):
    """How far memory rises during a training step, in MiB: `rise`, and ``train_step_mib`` in a run's metrics.

    It is measured once, in the second step of the training, above what was held before it: weights, the optimiser's
    state and the batch are not in it, and what the gradient rule keeps for the way back is. On a GPU it is the memory
    that torch hands out there; on a CPU the resident memory of the process, by the kernel's own high-water mark, so
    that our kernels' and everybody else's counts. Without either, as on macOS, it stays None.
    """

    def __init__(self) -> None:
        self.rise: float | None = None
        self._before: int | None = None

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.rise is None and batch_idx == min(1, int(trainer.num_training_batches) - 1):
            self._before = _begin(pl_module.device)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._before is None:
            return
        self.rise = max(_peak(pl_module.device) - self._before, 0) / MIB
        self._before = None


def _begin(device: torch.device) -> int | None:
    """Start the high-water mark again, and say what is held now, in bytes; None where it cannot be known."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    gc.collect()
    memory.clear()  # blocks that are kept for later would be used again, unseen
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        CLEAR.write_text("5")
        return _field("VmRSS")
    except OSError:
        return None


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _field("VmHWM")


def _field(name: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise OSError(f"{STATUS} has no {name}")
