"""The Lightning task by itself."""

import pytest
import torch
from torch import nn

pytest.importorskip("lightning", reason="training needs the extra spikeloom[train]")
import lightning.pytorch as lightning

from spikeloom.datasets import BatchLoader
from spikeloom.training import Task

pytestmark = pytest.mark.filterwarnings("ignore:.*(does not have many workers|IPU|log_every_n_steps).*")


def test_mixed_precision_goes_with_clipped_gradients():
    task = Task(nn.Linear(3, 2), nn.functional.mse_loss)
    loader = BatchLoader(torch.ones(3, 4, 3), torch.zeros(3, 4, 2), 2, input_axis=1, target_axis=1)
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    options = {"max_epochs": 1, "accelerator": "cpu", "gradient_clip_val": 1.0, **off}
    lightning.Trainer(precision="bf16-mixed", **options).fit(task, loader, loader)
    assert not task.optimizers().optimizer.param_groups[0]["fused"]
    lightning.Trainer(**options).fit(task, loader, loader)
    assert task.optimizers().optimizer.param_groups[0]["fused"]


def test_an_epoch_that_was_cut_short_and_an_earlier_test_are_not_counted():
    task = Task(nn.Linear(3, 2), lambda y, _: y.sum() * 0 + 1, lambda y: y.sum(0), classes=2)
    loader = BatchLoader(torch.ones(3, 4, 3), torch.tensor([0, 1, 0, 1]), 2, input_axis=1)
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", **off)
    for part in ("train", "test"):
        task._count(f"{part}_loss", torch.tensor(100.0), 50)
        task.metrics[f"{part}_accuracy"].update(torch.eye(2), torch.tensor([1, 0]))
    trainer.fit(task, loader, loader)
    assert float(trainer.callback_metrics["train_loss"]) == 1
    assert float(trainer.callback_metrics["train_accuracy"]) == 0.5
    for _ in range(2):
        found = trainer.test(task, loader, verbose=False)[0]
        assert found == {"test_loss": 1, "test_accuracy": 0.5} and int(task.confusion_matrix().sum()) == 4
