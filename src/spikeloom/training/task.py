"""The Lightning task: a network, a loss on its output, a decoding into scores, and an optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as lightning
import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from spikeloom.network import Run, run
from spikeloom.parameters import parameter_groups

OPTIMISERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adamax": torch.optim.Adamax,
    "sgd": torch.optim.SGD,
}

FUSED = ("adam", "adamw", "sgd")  # which torch has as one kernel

UNLABELLED = -100  # torch's own mark for a target that does not count, the default of F.cross_entropy

# From the part of the training that is done, 0 to 1, to the part of the highest learning rate.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * min(done, 1))),
    "linear": lambda done: max(1 - done, 0.0),
    "exponential": lambda done: 0.95 ** (100 * done),
}


class Task(lightning.LightningModule):
    """Train any network that maps x [T, B, *N] to its output, or to (output, state), as `Sequential` does.

    Logs ``train_loss``, ``validation_loss`` and ``test_loss``, means over an epoch's samples, and for classifications
    ``train_accuracy`` and so on: the part of the samples whose highest score is that of the target.

    Arguments:
        network: module that is called with a batch's inputs, a tensor [T, B, *N] or Events.
        loss: function of (output [T, B, *N], targets) that gives a scalar.
        decode: function of the output that gives scores [B, classes], or [T, classes, B] where each step has a label;
            needed for classifications.
        classes: number of classes; None if targets are not int64 class labels, [B] or [T, B]. A label of -100 does not
            count, as in `torch.nn.functional.cross_entropy`.
        penalty: function of the network that gives a scalar, a cost on its parameters, or None. Training adds it to
            the loss, and logs it as ``train_penalty``; ``train_loss`` is the loss alone.
        lr: learning rate of the weights, at its highest.
        time_constant_lr: learning rate of time constants and delays; as `lr` if None.
        weight_decay: weight decay, for weights only.
        optimiser: "adam", "adamw", "adamax" or "sgd".
        schedule: "constant", "cosine", "linear" or "exponential" (to 0.6 %); the rate changes after each batch.
        record: names that the network is to record in training, as `spikeloom.run` takes them, for `activity_cost`.
        activity_cost: function of (a training batch's `Run`, targets) that gives a scalar, added to the loss. The loss
            that is logged is without it.
        anneal: function of (network, part of the training that is done, 0 to 1) that is called before each training
            batch, such as `anneal_delays`, or None.
        gradient: gradient rule, such as `EventProp()`; None for the network's default.

    Raises:
        ValueError: if there is no such optimiser or schedule, or `classes` comes without `decode`.

    Example (not run, for it trains)::

        task = sl.training.Task(net, lambda v, y: F.cross_entropy(v.amax(0), y), lambda v: v.amax(0), classes=10)
        lightning.pytorch.Trainer(max_epochs=10).fit(task, sl.datasets.BatchLoader(spikes, labels))
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        decode: Callable[[Tensor], Tensor] | None = None,
        *,
        classes: int | None = None,
        penalty: Callable[[nn.Module], Tensor | None] | None = None,
        lr: float = 1e-3,
        time_constant_lr: float | None = None,
        weight_decay: float = 0.0,
        optimiser: str = "adam",
        schedule: str = "constant",
        gradient: Any = None,
        record: tuple[str, ...] = (),
        activity_cost: Callable[[Run, Tensor], Tensor] | None = None,
        anneal: Callable[[nn.Module, float], None] | None = None,
    ) -> None:
        super().__init__()
        for kind, value, table in (("optimiser", optimiser, OPTIMISERS), ("schedule", schedule, SCHEDULES)):
            if value not in table:
                raise ValueError(f"Task got {kind}='{value}'; expected one of {', '.join(table)}.")
        if classes is not None and decode is None:
            raise ValueError(
                f"Task got classes={classes} but no decode: pass a function from the output [T, B, classes] to scores "
                "[B, classes], for example decode=sl.decoding.max_over_time."
            )
        self.network, self.loss, self.decode, self.classes = network, loss, decode, classes
        self.penalty = penalty
        self.lr, self.time_constant_lr, self.weight_decay = lr, time_constant_lr, weight_decay
        self.optimiser, self.schedule, self.gradient = optimiser, schedule, gradient
        self.record, self.activity_cost, self.anneal = record, activity_cost, anneal
        self._sums: dict[str, tuple[Tensor, int]] = {}  # of what is logged, and of samples, in this epoch
        self.metrics = nn.ModuleDict()
        if classes is not None:
            for part in ("train", "validation", "test"):
                self.metrics[f"{part}_accuracy"] = MulticlassAccuracy(classes, average="micro", ignore_index=UNLABELLED)
            self.metrics["confusion"] = MulticlassConfusionMatrix(classes, ignore_index=UNLABELLED)

    def forward(self, x: Any) -> Tensor:
        """The network's output, without its state."""
        if self.gradient is not None:
            return run(self.network, x, gradient=self.gradient).output
        result = self.network(x)
        return result[0] if isinstance(result, tuple) else result

    def on_train_epoch_start(self) -> None:
        self._begin("train")

    def on_validation_epoch_start(self) -> None:
        self._begin("validation")

    def on_test_epoch_start(self) -> None:
        self._begin("test")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.anneal is not None:
            self.anneal(self.network, self._done())

    def _done(self) -> float:
        """The part of the training that is done."""
        return min(1.0, self.trainer.global_step / max(1.0, self.trainer.estimated_stepping_batches))

    def training_step(self, batch: Any, index: int) -> Tensor:
        x, target = batch
        if self.activity_cost is None:
            loss = self._step(batch, "train")
        else:
            found = run(self.network, x, gradient=self.gradient, record=self.record)
            loss = self._score(found.output, target, "train") + self.activity_cost(found, target)
        penalty = self.penalty(self.network) if self.penalty is not None else None
        if penalty is not None:
            loss = loss + penalty
            self._count("train_penalty", penalty, 1)
        # Before the epoch's end, where callbacks look for it.
        if self.trainer.is_last_batch:
            self._log_means("train")
        return loss

    def on_train_epoch_end(self) -> None:
        self._log_means("train")  # of an epoch that was cut short

    def on_validation_epoch_end(self) -> None:
        self._log_means("validation")

    def on_test_epoch_end(self) -> None:
        self._log_means("test")

    def validation_step(self, batch: Any, index: int) -> None:
        self._step(batch, "validation")

    def test_step(self, batch: Any, index: int) -> None:
        self._step(batch, "test")

    def _step(self, batch: Any, part: str) -> Tensor:
        x, target = batch
        return self._score(self(x), target, part)

    def _score(self, output: Tensor, target: Tensor, part: str) -> Tensor:
        loss = self.loss(output, target)
        # Not len(target): of time-first targets the batch is not the first axis.
        self._count(f"{part}_loss", loss, output.shape[1])
        if self.decode is not None and self.classes is not None:
            scores = self.decode(output).detach()
            for metric in self._metrics(part):
                metric.update(scores, target)
        return loss

    def _begin(self, part: str) -> None:
        """Forget what an epoch that was cut short has counted, and the last test."""
        self._sums = {name: sums for name, sums in self._sums.items() if not name.startswith(f"{part}_")}
        for metric in self._metrics(part):
            metric.reset()

    def _metrics(self, part: str) -> list[Metric]:
        """What counts the samples of a classification in a part of the data."""
        names = [] if self.classes is None else [f"{part}_accuracy", *(["confusion"] if part == "test" else [])]
        return [metric for name in names if isinstance(metric := self.metrics[name], Metric)]

    def _count(self, name: str, value: Tensor, samples: int) -> None:
        """Add to a mean over the epoch. Lightning's own log would do it, in as much time as a small network's step."""
        total, count = self._sums.get(name, (0.0, 0))
        self._sums[name] = total + samples * value.detach().double(), count + samples

    def _log_means(self, part: str) -> None:
        """Log an epoch's means, once."""
        kind: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": 1}
        for name in [name for name in self._sums if name.startswith(f"{part}_")]:
            total, count = self._sums.pop(name)
            self.log(name, (total / count).float(), **kind)
            if name == f"{part}_loss" and self.classes is not None:
                metric = self.metrics[f"{part}_accuracy"]
                assert isinstance(metric, Metric)
                self.log(f"{part}_accuracy", metric, **kind)

    def confusion_matrix(self) -> Tensor | None:
        """Counts [classes, classes], true class first, of the last test; None for other tasks."""
        metric = self.metrics["confusion"] if self.classes is not None else None
        return metric.compute().cpu() if isinstance(metric, Metric) else None

    def configure_optimizers(self) -> Any:
        groups = parameter_groups(
            self.network, lr=self.lr, time_constant_lr=self.time_constant_lr, weight_decay=self.weight_decay
        )
        parameters = [p for group in groups for p in group["params"]]
        # Under mixed precision Lightning refuses to clip gradients for a fused optimiser.
        fast = self.optimiser in FUSED and not self.trainer.precision.endswith("mixed")
        fast = fast and all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
        fused = {"fused": True} if fast else {}
        optimiser = OPTIMISERS[self.optimiser](groups, lr=self.lr, **fused)
        steps = max(int(self.trainer.estimated_stepping_batches), 1)
        factor = SCHEDULES[self.schedule]
        # Batch by batch: Lightning steps an epoch's schedule only after the checkpoint of that epoch is written.
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: factor(step / steps))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
