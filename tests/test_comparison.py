"""Controlled experiments: arms, pairs, tables, and processes side by side."""

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

pytest.importorskip("lightning", reason="training needs the extra spikeloom[train]")

from experiments import Small
from spikeloom import cli, plots, training
from spikeloom.training.comparison import arms_of, differences, markdown

TINY = Small(epochs=1, seeds=2)


@pytest.fixture(autouse=True)
def nothing_is_drawn(monkeypatch):
    monkeypatch.setattr(plots, "as_png", lambda ax: b"")


def test_the_interval_is_that_of_a_paired_t_test():
    one, two = [0.91, 0.93, 0.92, 0.95, 0.90], [0.92, 0.93, 0.95, 0.96, 0.93]
    found = differences({"a": one, "b": two})["b"]
    expected = stats.ttest_rel(two, one).confidence_interval(0.95)
    assert found["mean"] - found["half_width"] == pytest.approx(expected.low)
    assert found["mean"] + found["half_width"] == pytest.approx(expected.high)
    assert math.isnan(differences({"a": [0.9], "b": [0.95]})["b"]["half_width"])


def test_arms_differ_in_one_setting_and_share_their_seeds(tmp_path):
    found = training.compare(TINY, "lr", ["0.05", "0.0001"], tmp_path, command="this")
    assert list(found["arms"]) == ["lr=0.05", "lr=0.0001"]
    assert found["measure"] == "test_accuracy"
    for arm, of in found["arms"].items():
        runs = [json.loads((tmp_path / arm / f"seed-{k}" / "metrics.json").read_text()) for k in (0, 1)]
        assert [run["settings"]["seed"] for run in runs] == [0, 1]
        assert {run["settings"]["lr"] for run in runs} == {float(arm.removeprefix("lr="))}
        assert of["values"] == [run["test_accuracy"] for run in runs]
        assert of["test_accuracy"] == pytest.approx(statistics.mean(of["values"]))
    alone = training.train(replace(TINY, seeds=1, seed=1), tmp_path / "alone")
    assert alone["test_accuracy"] == found["arms"]["lr=0.05"]["values"][1], "an arm is the recipe itself"
    assert json.loads((tmp_path / "comparison.json").read_text()) == json.loads(json.dumps(found))
    text = (tmp_path / "comparison.md").read_text()
    assert text == markdown(found)
    assert "| lr=0.0001 | " in text
    assert "    this\n" in text
    assert "lr=0.0001 minus lr=0.05" in (tmp_path / "report.html").read_text()


def test_finished_runs_of_other_settings_are_not_taken_for_these(tmp_path):
    training.train(TINY, tmp_path / "mine")
    training.train(TINY, tmp_path / "mine")
    with pytest.raises(ValueError, match=r"seed-0 holds a finished run with lr=.*; name another directory"):
        training.train(replace(TINY, lr=0.5), tmp_path / "mine")
    (tmp_path / "arms").mkdir()
    (tmp_path / "mine").rename(tmp_path / "arms" / f"lr={TINY.lr}")
    with pytest.raises(ValueError, match="holds a finished run with batch_size="):
        training.compare(replace(TINY, batch_size=7), "lr", [TINY.lr, 0.5], tmp_path / "arms")


def test_a_comparison_goes_on_where_it_stopped(tmp_path, monkeypatch):
    whole = training.compare(TINY, "lr", [0.05, 0.01], tmp_path)
    (tmp_path / "lr=0.01" / "seed-1" / "metrics.json").unlink()
    trained = []
    fit = training.trials.fit
    monkeypatch.setattr(training.trials, "fit", lambda e, *a, **k: trained.append((e.lr, e.seed)) or fit(e, *a, **k))
    again = training.compare(TINY, "lr", [0.05, 0.01], tmp_path)
    assert trained == [(0.01, 1)]
    assert again["arms"]["lr=0.01"]["values"] == whole["arms"]["lr=0.01"]["values"]


def test_processes_side_by_side_give_the_same_numbers(tmp_path, capfd):
    from rich.console import Console

    one = training.train(replace(TINY, threads=1), tmp_path / "one")
    two = training.train(replace(TINY, threads=1), tmp_path / "two", processes=2, console=Console())
    assert [t["test_loss"] for t in one["trials"].values()] == [t["test_loss"] for t in two["trials"].values()]
    assert {line.split()[0] for line in capfd.readouterr().out.splitlines()} == {"seed-0", "seed-1"}


@pytest.mark.parametrize(
    ("key", "values", "sentence"),
    [
        ("lrr", [1, 2], "There is no setting 'lrr'. Did you mean 'lr'?"),
        ("lr", [0.05], "lr got 0.05; expected two different values."),
        ("lr", ["0.05", "0.050"], "lr got 0.05, 0.050; expected two different values."),
        ("seed", [1, 2], "seed cannot be varied: every arm has the same seeds."),
        ("lr", ["fast", 1], "lr got 'fast'; expected a number"),
        ("lr", [0.1, -1.0], "small got lr=-1.0; expected a number above 0."),
    ],
)
def test_arms_that_make_no_sense_are_sentences(key, values, sentence):
    with pytest.raises(ValueError) as error:
        arms_of(TINY, key, values)
    assert sentence in str(error.value)


def test_damaged_metrics_are_named_and_left_alone(tmp_path):
    (tmp_path / "metrics.json").write_text('{"recipe": "sma')
    with pytest.raises(OSError, match=r"metrics\.json is damaged \(.*\); delete it, and its run is trained again"):
        training.train(Small(epochs=1), tmp_path)
    assert (tmp_path / "metrics.json").read_text() == '{"recipe": "sma'


def test_no_processes_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="train got processes=0; expected 1 or more."):
        training.train(TINY, tmp_path, processes=0)


def test_the_command_line_varies_a_setting(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    quick = ["epochs=1", "hidden=4", "steps=5", "window=4", "batch_size=1000"]
    words = ["train", "digits", "--set", *quick, "--vary", "hidden=4,6", "--out", "here"]
    assert cli.main(words) == 0
    out = capfd.readouterr().out
    assert "hidden=6 minus hidden=4, seed by seed:" in out
    assert f"spikeloom train digits --set {' '.join(quick)} --vary hidden=4,6" in out
    assert cli.main(["train", "--resume", "here"]) == 0
    assert "hidden=6 minus hidden=4" in capfd.readouterr().out
    for wrong, sentence in [
        (["--vary", "hidden"], "--vary got 'hidden'; expected KEY=A,B"),
        (["--vary", "hiden=4,5"], "There is no setting 'hiden'. Did you mean 'hidden'?"),
        (["--processes", "0"], "--processes got 0; expected 1 or more."),
    ]:
        assert cli.main(["train", "digits", *wrong]) == 2
        assert sentence in capfd.readouterr().err


def test_processes_end_with_the_one_that_started_them():
    """Killed, so that it can tell nobody: a scheduler's kill -9 leaves no training behind that goes on for hours."""
    script = (
        "import multiprocessing, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from spikeloom.training.trials import end_with_parent\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    pool = ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent)\n"
        "    pool.submit(time.sleep, 0).result()\n"
        "    pool.submit(time.sleep, 300)\n"
        "    print(*pool._processes, flush=True)\n"
        "    time.sleep(300)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)  # it is there
        parent.kill()
    for _ in range(600):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        status = Path(f"/proc/{child}/status")
        if status.exists() and "\nState:\tZ" in status.read_text():
            return  # ended, and waits for somebody to ask
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the process went on for a minute")
