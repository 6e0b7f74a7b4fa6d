"""The command line: exit codes, sentences, resuming, directories; run in this process with a small recipe."""

import functools
import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

pytest.importorskip("lightning", reason="the command line trains with the extra spikeloom[train]")
import lightning.pytorch as lightning
from rich.console import Console

from spikeloom import cli, recipes
from spikeloom.training import fitting

GO_ON = "Interrupted. Go on, from the start of this epoch, with: spikeloom train --resume"
DIGITS = ["epochs=2", "hidden=8", "steps=5", "window=4", "batch_size=512"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPIKELOOM_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def weights(directory):
    return torch.load(directory / fitting.WEIGHTS, weights_only=True)


def test_train_writes_a_run_and_prints_it(tmp_path, capfd):
    assert cli.main(["train", "digits", "--set", *DIGITS, "--seed", "3", "--out", "here"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == "digits in here"
    assert [line[:11] for line in lines[1:3]] == ["epoch   1/2", "epoch   2/2"]
    assert lines[-1].split() == ["report", "here/report.html"]
    metrics = json.loads((tmp_path / "here/metrics.json").read_text())
    assert 0 < metrics["test_accuracy"] < 1
    assert metrics["epochs"] == 2
    assert metrics["seed"] == 3
    assert metrics["seconds"] > 0
    assert metrics["command"] == f"spikeloom train digits --set {' '.join(DIGITS)} seed=3"
    assert f"{100 * metrics['test_accuracy']:.2f} %" in out
    assert {"torch", "python", "spikeloom", "lightning"} <= metrics["versions"].keys()


def test_the_same_command_again_takes_a_sibling(tmp_path, capfd):
    command = ["train", "digits", "--set", *DIGITS, "epochs=1", "--out", "here"]
    assert [cli.main(command), cli.main(command)] == [0, 0]
    assert sorted(path.name for path in tmp_path.glob("here*")) == ["here", "here-2"]
    assert "here is in use, so this run goes to here-2." in capfd.readouterr().out
    one, two = weights(tmp_path / "here"), weights(tmp_path / "here-2")
    assert all(torch.equal(one[name], two[name]) for name in one)
    (tmp_path / "here-3").mkdir()  # an empty directory is as good as none
    assert cli._free(tmp_path / "here-3", Console(quiet=True)) == tmp_path / "here-3"


def test_ctrl_c_and_resume(tmp_path, capfd, monkeypatch):
    class Interrupt(lightning.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if (trainer.current_epoch, batch_idx) == (1, 1):
                raise KeyboardInterrupt

    command = ["train", "digits", "--set", *DIGITS]
    assert cli.main([*command, "--out", "whole"]) == 0
    with monkeypatch.context() as patch:
        seed = fitting.SeedEachEpoch
        patch.setattr(fitting, "SpikeRasters", lambda *a: Interrupt())
        assert cli.main([*command, "--out", "a cut"]) == 130
        assert fitting.SeedEachEpoch is seed
    assert capfd.readouterr().err == f"spikeloom: {GO_ON} 'a cut'\n"
    assert not (tmp_path / "a cut/metrics.json").exists()
    stream = io.StringIO()
    assert cli._free(tmp_path / "a cut", Console(file=stream)) == tmp_path / "a cut-2"
    assert "It holds an unfinished run; to go on with that: spikeloom train --resume" in stream.getvalue()
    assert cli.main(["train", "--resume", "a cut"]) == 0
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "a cut")
    assert all(torch.equal(one[name], two[name]) for name in one)
    one, two = (json.loads((tmp_path / d / "metrics.json").read_text()) for d in ("whole", "a cut"))
    measured = {"seconds": 0, "train_step_mib": 0}
    assert one | measured == two | measured


def test_a_damaged_checkpoint_is_named(tmp_path, capfd, monkeypatch):
    (tmp_path / "run").mkdir()
    begun = {"recipe": "digits", "settings": DIGITS, "data_dir": None, "device": "cpu", "command": "spikeloom train"}
    (tmp_path / "run/run.json").write_text(json.dumps(begun))
    (tmp_path / "run/last.ckpt").write_bytes(b"PK\x03\x04 cut short")
    assert cli.main(["train", "--resume", "run"]) == 1
    assert "run/last.ckpt is damaged, so this run cannot go on; start a new one" in capfd.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_a_real_signal_in_a_real_process(tmp_path):
    command = [sys.executable, "-m", "spikeloom", "train", "digits", "--set", *DIGITS, "epochs=100000", "--out", "run"]
    # pytest-xdist's workers ignore Ctrl-C, and their children would inherit that.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, preexec_fn=heed)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    assert lines[2].startswith("epoch   2/100000")
    process.send_signal(signal.SIGINT)
    start = time.perf_counter()
    _, err = process.communicate(timeout=60)
    assert time.perf_counter() - start < 30
    assert process.returncode == 130
    assert err == f"spikeloom: {GO_ON} run\n"


def test_cross_validation_by_an_option(tmp_path, capfd):
    small = [*DIGITS, "epochs=1", "folds=2"]
    assert cli.main(["train", "digits", "--set", *small, "--out", "folds"]) == 0
    metrics = json.loads((tmp_path / "folds/metrics.json").read_text())
    assert list(metrics["trials"]) == ["fold-0", "fold-1"]
    assert [trial["settings"]["fold"] for trial in metrics["trials"].values()] == [0, 1]
    assert "test accuracy std" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("train digit", "There is no recipe 'digit'. Did you mean 'digits'? Recipes: digits, "),
        ("train nothing-like-it", "There is no recipe 'nothing-like-it'. Recipes: digits, "),
        ("train", "Which recipe? Write: spikeloom train RECIPE, with one of digits, "),
        ("train digits --set epoch=3", "There is no setting 'epoch'. Did you mean 'epochs'? Settings: epochs, "),
        (
            "train digits --set epochs=few",
            "epochs got 'few'; expected a whole number, for example epochs=10. See: spikeloom",
        ),
        ("train digits --set epochs", "A setting is written key=value, for example lr=0.01; got 'epochs'."),
        ("train digits --set epochs=0", "digits got epochs=0; expected a number above 0."),
        ("train digits --set hidden=0", "digits got hidden=0; expected a number above 0."),
        ("train rate-patterns --set train_trials=0", "rate-patterns got train_trials=0; expected a number above 0."),
        ("train rate-patterns --set rate=-5", "rate-patterns got rate=-5.0; expected a number above 0."),
        ("train latency-mnist --set threshold=7", "latency-mnist got threshold=7.0; expected a number from 0 to 1."),
        (
            "train digits --set window=90",
            "window=90, steps=32; expected 0 < window <= steps. See: spikeloom list digits",
        ),
        ("train digits --set folds=1", "folds=1"),
        (
            "train digits --set schedule=step",
            "schedule got 'step'; expected one of constant, cosine, linear, exponential.",
        ),
        ("train --resume nowhere", "There is no run to resume in nowhere: it has no file run.json."),
        ("train digits --resume x --set a=1 --seed 1", "leave out --set, --seed, digits"),
        ("list digit", "Did you mean 'digits'?"),
    ],
)
def test_misuse_is_a_sentence_and_exit_code_2(command, sentence, capfd, tmp_path):
    assert cli.main(command.split()) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("spikeloom: ")
    assert sentence in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there(capfd):
    assert cli.main(["train", "digits", "--device", "cuda"]) == 2
    assert "There is no CUDA device that torch can use here" in capfd.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", '{"recipe": "digits"}'])
def test_a_damaged_run_is_a_sentence(tmp_path, capfd, content):
    (tmp_path / "run.json").write_text(content)
    assert cli.main(["train", "--resume", str(tmp_path)]) == 2
    assert "cannot be read" in capfd.readouterr().err


def test_missing_data_is_a_sentence(tmp_path, capfd):
    assert cli.main(["train", "latency-mnist", "--data-dir", "nowhere", "--out", "run"]) == 1
    err = capfd.readouterr().err
    assert "MNIST was not found: no file train-images-idx3-ubyte" in err
    assert "nowhere" in err
    assert "--data-dir" in err


def test_missing_extras_are_a_sentence(monkeypatch, capfd):
    from spikeloom import training

    monkeypatch.delitem(vars(training), "train", raising=False)
    for name in ("trials", "fitting"):
        monkeypatch.delitem(sys.modules, f"spikeloom.training.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "lightning", None)
    assert cli.main(["train", "digits"]) == 1
    assert "needs lightning, which is not installed. Write: pip install 'spikeloom[train]'" in capfd.readouterr().err
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert cli.main(["doctor"]) == 1
    assert "The command line needs rich. Write: pip install 'spikeloom[train]'" in capfd.readouterr().err


def test_list_shows_every_recipe_and_its_settings(capfd):
    assert cli.main(["list"]) == 0
    out = capfd.readouterr().out
    for name in recipes.RECIPES:
        assert name in out
        assert cli.main(["list", name]) == 0
        shown = capfd.readouterr().out
        assert "epochs" in shown
        assert "lr" in shown


def test_doctor_says_what_is_there_and_what_is_not(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["doctor", "--data-dir", str(tmp_path)]) == 0
    out = capfd.readouterr().out
    assert f"not found: no train-images-idx3-ubyte in {tmp_path}/mnist; name its directory with --data-dir" in out
    assert torch.__version__ in out
    assert "eager" in out
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / f"{name}-ubyte").touch()
    cli.main(["doctor", "--data-dir", str(tmp_path)])
    assert f"found in {tmp_path}" in capfd.readouterr().out


def test_doctor_names_extras_that_are_missing(monkeypatch):
    import importlib.metadata

    from spikeloom import doctor

    def version(name):
        if name == "matplotlib":
            raise importlib.metadata.PackageNotFoundError
        return "9.9"

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = dict(doctor.findings())
    assert found["matplotlib"] == "not installed; write: pip install 'spikeloom[plot]'"
    assert found["lightning"] == "9.9"


def test_help_of_the_module():
    done = subprocess.run([sys.executable, "-m", "spikeloom", "--help"], capture_output=True, text=True, check=True)
    assert "train" in done.stdout
    assert "doctor" in done.stdout
