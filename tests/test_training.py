"""Training: exact resume, metrics against an independent count, schedules, callbacks."""

import csv
import io
import json
import logging
import math
import signal
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

import spikeloom as sl

pytest.importorskip("lightning", reason="training needs the extra spikeloom[train]")
import lightning.pytorch as lightning
from rich.console import Console

from experiments import Folds, Small
from spikeloom import training
from spikeloom.datasets import BatchLoader
from spikeloom.training.fitting import CHECKPOINT, WEIGHTS, fit
from spikeloom.training.rasters import watch
from spikeloom.training.task import SCHEDULES, Task


class Interrupt(lightning.Callback):
    """Ctrl-C in a batch, as the signal's handler would raise it."""

    def __init__(self, epoch, batch):
        self.at = (epoch, batch)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.at:
            raise KeyboardInterrupt


def weights(directory):
    return torch.load(directory / WEIGHTS, weights_only=True)


def timeless(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("at", [(0, 1), (1, 0), (2, 2)])
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, at):
    experiment = Small(validation=0.1)
    whole = fit(experiment, tmp_path / "whole")
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(experiment, tmp_path / "cut", callbacks=(Interrupt(*at),))
    assert signal.getsignal(signal.SIGINT) is handler, "Ctrl-C works again"
    assert not (tmp_path / "cut" / WEIGHTS).exists()
    torch.rand(17)  # whatever else happens in between
    resumed = fit(experiment, tmp_path / "cut")
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    assert timeless(resumed.rows) == timeless(whole.rows)
    assert resumed.test == whole.test
    assert len(whole.rows) == 3


class Press(lightning.Callback):
    """Ctrl-C at the end of the first epoch, while libraries write."""

    def __init__(self, times):
        self.times, self.went_on = times, False

    def on_train_epoch_end(self, trainer, pl_module):
        for _ in range(self.times):
            signal.raise_signal(signal.SIGINT)
        self.went_on = True


@pytest.mark.parametrize(("times", "epochs"), [(1, 3), (1, 1), (2, 3)])
def test_ctrl_c_acts_between_batches_and_a_second_one_at_once(tmp_path, times, epochs):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # xdist's workers ignore it
    press = Press(times)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(Small(epochs=epochs), tmp_path, callbacks=(press,))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert press.went_on == (times == 1)
    assert len(fit(Small(epochs=epochs), tmp_path).rows) == epochs


def test_a_handler_of_the_callers_own_stays(tmp_path):
    pressed = []

    def own(number, frame):
        pressed.append(number)

    before = signal.signal(signal.SIGINT, own)
    try:
        assert len(fit(Small(epochs=1), tmp_path, callbacks=(Press(1),)).rows) == 1
        assert signal.getsignal(signal.SIGINT) is own and pressed == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_threads_are_set_for_the_training_and_put_back(tmp_path):
    seen = []

    class Watch(lightning.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            seen.append(torch.get_num_threads())

    before = torch.get_num_threads()
    fit(Small(epochs=1, threads=before + 1), tmp_path, callbacks=(Watch(),))
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_seeds_decide_everything(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.rand(seed + 5)
        fit(Small(epochs=1, seed=seed), tmp_path / name)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_the_checkpoint_holds_no_code_and_nothing_half_written_stays(tmp_path):
    fit(Small(epochs=1), tmp_path)
    torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CHECKPOINT, "metrics.csv", "tensorboard", WEIGHTS]


def test_accuracy_and_loss_are_means_over_samples(tmp_path):
    experiment = Small(epochs=1)
    fitted = fit(experiment, tmp_path)
    loader = fitted.splits.test
    x, target = loader.batch(torch.arange(50))  # 50 samples in batches of 16: the last one is smaller
    output = watch(fitted.task.network, x, ()).output
    assert fitted.test["test_loss"] == pytest.approx(float(experiment.loss(output, target)), rel=1e-5)
    right = (output.amax(0).argmax(1) == target).sum()
    assert fitted.test["test_accuracy"] == pytest.approx(float(right) / 50)
    counts = fitted.task.confusion_matrix()
    assert counts.sum() == 50
    assert counts.diagonal().sum() == right
    assert counts.sum(1).tolist() == target.bincount().tolist()


def test_the_test_set_is_not_read_before_the_end(tmp_path):
    read = []

    class Spy(BatchLoader):
        def batch(self, index):
            read.append(len(rows))
            return super().batch(index)

    class Count(lightning.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            rows.append(trainer.current_epoch)

    rows = []

    @dataclass(kw_only=True)
    class Watched(Small):
        def data(self, data_dir=None):
            splits = super().data(data_dir)
            spied = Spy(splits.test.inputs, splits.test.targets, 16)
            return replace(splits, test=spied)

    fit(Watched(), tmp_path, callbacks=(Count(),))
    assert read == [3] * math.ceil(50 / 16), "each sample once, after the last epoch"
    read.clear()
    fitted = fit(Watched(test=False, epochs=1), tmp_path / "no")
    assert read == []
    assert fitted.test == {}


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear", "exponential"])
def test_schedules_follow_their_formula_batch_by_batch(tmp_path, schedule):
    seen = []

    class Watch(lightning.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    fit(Small(epochs=2, schedule=schedule), tmp_path, callbacks=(Watch(),))
    n = 2 * math.ceil(40 / 16)
    formula = {
        "constant": lambda k: 1.0,
        "cosine": lambda k: math.cos(math.pi * k / n / 2) ** 2,
        "linear": lambda k: (n - k) / n,
        "exponential": lambda k: 0.95 ** (100 * k / n),
    }[schedule]
    assert seen == pytest.approx([0.05 * formula(k) for k in range(n)])
    assert SCHEDULES[schedule](2.0) == (1.0 if schedule == "constant" else pytest.approx(0.0, abs=1e-4))


def test_time_constants_have_their_own_rate(tmp_path):
    task = training.Task(Small().network(), lambda v, y: v.sum(), lr=0.1, time_constant_lr=0.003, weight_decay=0.01)
    trainer = lightning.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, max_steps=1)
    task.trainer = trainer
    trainer.strategy._lightning_module = task
    trainer.fit_loop.max_epochs = 1
    trainer.fit_loop._combined_loader = None
    groups = {}
    loader = Small().data().train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(trainer), "estimated_stepping_batches", property(lambda self: len(loader)))
        for group in task.configure_optimizers()["optimizer"].param_groups:
            groups |= {id(parameter): (group["initial_lr"], group["weight_decay"]) for parameter in group["params"]}
    found = {name: groups[id(parameter)] for name, parameter in task.network.named_parameters()}
    neurons = {name for name in found if ".neuron." in name}
    assert neurons
    assert all(found[name] == ((0.003, 0.0) if name in neurons else (0.1, 0.01)) for name in found)


def test_early_stopping_looks_at_validation(tmp_path):
    fitted = fit(Small(epochs=30, lr=1e-9, validation=0.1, patience=2, noise=0.0), tmp_path)
    # With a rate this small nothing improves by more than rounding.
    assert 3 <= len(fitted.rows) < 30
    with pytest.raises(ValueError, match=r"patience=2 without validation data: write validation=0\.1"):
        fit(Small(patience=2), tmp_path)


def test_csv_and_tensorboard_have_the_numbers_and_the_rasters(tmp_path):
    fitted = fit(Small(epochs=2), tmp_path)
    with (tmp_path / "metrics.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [float(row["train_loss"]) for row in table] == [row["train_loss"] for row in fitted.rows]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    logged = [event.value for event in board.Scalars("train_loss")]
    assert logged == pytest.approx([row["train_loss"] for row in fitted.rows])
    assert [len(board.Images(name)) for name in board.Tags()["images"]] == [2]  # after the first and the last epoch
    # The firing rate, from its definition: spikes per neuron and second of the first 16 samples.
    x, _ = fitted.splits.train.batch(torch.arange(16))
    fitted.splits.train.transform = None
    assert "rate_hz/1" in fitted.rows[0]
    spikes = watch(fitted.task.network, x, ("spikes",)).records["1.spikes"]
    assert spikes.shape == (20, 16, 6)
    assert board.Scalars("rate_hz/1")[-1].value >= 0


def test_firing_rate_is_spikes_per_second(tmp_path):
    fitted = fit(Small(epochs=1, noise=0.0), tmp_path)
    x, _ = fitted.splits.train.batch(torch.arange(16))
    spikes = watch(fitted.task.network, x, ("spikes",)).records["1.spikes"]
    assert spikes.sum() > 0
    assert fitted.rows[0]["rate_hz/1"] == pytest.approx(float(spikes.sum()) / (16 * 6) / (20 * 1e-3), rel=1e-5)


def test_watching_leaves_the_modes_as_they_were():
    network = Small().network()
    network[1].eval()
    modes = [module.training for module in network.modules()]
    watch(network, torch.rand(5, 2, 8), ("spikes",))
    assert [module.training for module in network.modules()] == modes


def test_one_plain_line_for_each_epoch_and_no_noise_from_lightning(tmp_path, capfd):
    stream = io.StringIO()
    fit(Small(epochs=3, validation=0.1), tmp_path, console=Console(file=stream, width=40))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("epoch   2/3  train loss ")
    assert "validation loss" in lines[1]
    assert all(line.isascii() and line.isprintable() for line in lines)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""
    assert logging.getLogger("lightning.pytorch").level != logging.ERROR, "the level is put back"


def test_a_terminal_gets_a_bar(tmp_path):
    stream = io.StringIO()
    fit(Small(epochs=1), tmp_path, console=Console(file=stream, force_terminal=True, width=100))
    assert "3/3" in stream.getvalue()
    assert "epoch   1/1" in stream.getvalue()


def test_task_trains_a_plain_module_on_a_regression(tmp_path):
    """Targets are series [T, B, 1], and the network is no spikeloom network and has no state."""
    x = torch.randn(7, 64, 3, generator=torch.Generator().manual_seed(0))
    target = x @ torch.tensor([[1.0], [-2.0], [0.5]])
    loader = BatchLoader(x, target, 16, shuffle=True, input_axis=1, target_axis=1)
    task = Task(nn.Linear(3, 1), nn.functional.mse_loss, lr=0.1, schedule="linear")
    held_out = BatchLoader(x, target, 64, input_axis=1, target_axis=1)
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = lightning.Trainer(max_epochs=20, accelerator="cpu", **dict.fromkeys(off, False))
    trainer.fit(task, loader, held_out)
    assert float(trainer.callback_metrics["train_loss"]) < 1e-2
    assert float(trainer.callback_metrics["validation_loss"]) < 1e-2
    assert task.confusion_matrix() is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"optimiser": "adm"}, "optimiser='adm'; expected one of adam, adamw, adamax, sgd"),
        ({"schedule": "step"}, "schedule='step'; expected one of constant, cosine, linear"),
        ({"classes": 3}, "classes=3 but no decode: pass a function"),
    ],
)
def test_task_refuses(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Task(nn.Linear(1, 1), nn.functional.mse_loss, **arguments)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"epochs": 0}, "epochs=0; expected a number above 0"),
        ({"lr": -1.0}, r"lr=-1\.0; expected a number above 0"),
        ({"threads": -1}, "threads=-1; expected 1 or more, or 0"),
        ({"seeds": 0}, "seeds=0; expected a number above 0"),
        ({"validation": 1.0}, r"validation=1\.0; expected a part from 0 to below 1"),
    ],
)
def test_experiments_refuse_settings_that_make_no_sense(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit(Small(**changes), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_fit_refuses_a_device_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="device='tpu'; expected cpu"):
        fit(Small(), tmp_path, device="tpu")


def test_trials_have_a_report_each_and_a_summary(tmp_path):
    metrics = training.train(Small(epochs=1, seeds=2), tmp_path, command="spikeloom train small --set seeds=2")
    each = [json.loads((tmp_path / f"seed-{k}/metrics.json").read_text()) for k in range(2)]
    values = torch.tensor([one["test_accuracy"] for one in each], dtype=torch.float64)
    assert metrics["test_accuracy"] == pytest.approx(float(values.mean()))
    assert metrics["test_accuracy_std"] == pytest.approx(float(values.std()))
    assert json.loads((tmp_path / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert [one["seed"] for one in each] == [0, 1]
    page = (tmp_path / "report.html").read_text()
    assert "seed-1" in page
    assert "--set seeds=2" in page


def test_finished_trials_are_not_trained_again(tmp_path):
    training.train(Folds(), tmp_path)
    before = (tmp_path / "fold-0/metrics.json").stat().st_mtime_ns
    (tmp_path / "fold-1/metrics.json").unlink()
    metrics = training.train(Folds(), tmp_path)
    assert (tmp_path / "fold-0/metrics.json").stat().st_mtime_ns == before
    assert set(metrics["trials"]) == {"fold-0", "fold-1"}


def test_importing_training_imports_nothing_heavy():
    code = (
        "import spikeloom.training, spikeloom.recipes, spikeloom.cli, spikeloom.plots, spikeloom.datasets, sys;"
        "print([m for m in ('lightning', 'torchmetrics', 'matplotlib', 'sklearn', 'tensorboard', 'rich')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_extra_is_a_sentence(monkeypatch):
    monkeypatch.delitem(sys.modules, "spikeloom.training.report", raising=False)
    monkeypatch.delitem(vars(training), "write_report", raising=False)
    monkeypatch.setitem(sys.modules, "lightning", None)
    with pytest.raises(ImportError, match=r"write_report needs lightning.*pip install 'spikeloom\[train\]'"):
        _ = training.write_report


def test_the_public_names_are_there():
    for name in training._HOMES:
        assert getattr(training, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = training.nothing
    assert sl.training is training
