"""What a training step is said to take of memory, against what it is known to hold."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning", reason="training needs the extra spikeloom[train]")

from experiments import Small
from spikeloom import training
from spikeloom.training import comparison, memory


class Holding(torch.autograd.Function):
    """Keeps so many MiB from the forward to the backward pass, and no longer."""

    @staticmethod
    def forward(ctx, x, mib):
        ctx.save_for_backward(torch.ones(mib, 2**18))  # written, for memory that was not touched is not there
        return x.clone()

    @staticmethod
    def backward(ctx, *gradients):
        return gradients[0], None


class Heavy(Small):
    """Holds 48 MiB in each step."""

    def loss(self, output, target):
        return super().loss(Holding.apply(output, 48), target)


@pytest.mark.skipif(not memory.CLEAR.exists(), reason="the high-water mark of a process is Linux's")
def test_a_step_is_said_to_take_what_it_holds(tmp_path):
    experiment = Heavy(epochs=2)
    rise = training.fit(experiment, tmp_path).train_step_mib
    assert rise is not None and 44 < rise < 70, "and not both steps, nor the epoch's validation"


def test_where_the_kernel_does_not_tell_nothing_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CLEAR", Path("no/such/file"))
    fitted = training.fit(Small(epochs=1), tmp_path)
    assert fitted.train_step_mib is None and "train_step_mib" not in fitted.rows[0]
    assert fitted.device == "cpu"


def test_a_comparison_shows_time_and_memory():
    of = {"test_accuracy": 0.9, "test_accuracy_std": 0.01, "seconds": 6.0, "values": [0.89, 0.91]}
    metrics = {"recipe": "small", "varied": "lr", "measure": "test_accuracy", "settings": {}, "command": ""}
    metrics |= {"arms": {"a": of | {"train_step_mib": 12.34}, "b": of}, "differences": {}}
    text = comparison.markdown(metrics)
    assert "| a | 90.00 % ± 1.00 % | 2 | 89.00 % to 91.00 % | 3.0 | 12.3 |" in text
    assert "| b | 90.00 % ± 1.00 % | 2 | 89.00 % to 91.00 % | 3.0 | not known |" in text
