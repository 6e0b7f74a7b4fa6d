"""Train an experiment in a directory: all its trials, their reports, and a summary."""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console

from spikeloom.training.experiment import Experiment
from spikeloom.training.files import read_json, write, write_json
from spikeloom.training.fitting import fit
from spikeloom.training.report import numbers, page, versions, write_report
from spikeloom.training.settings import settings


def train(
    experiment: Experiment,
    directory: str | Path,
    *,
    data_dir: str | Path | None = None,
    device: str = "cpu",
    console: Console | None = None,
    command: str = "",
    processes: int = 1,
) -> dict[str, Any]:
    """Train every trial of an experiment (its seeds or folds), and write a report for each and for all.

    The same call goes on where an interrupted one stopped: finished trials are kept, and the one that was cut short
    starts again with the epoch it was in; see `fit`.

    Arguments:
        experiment: what to train.
        directory: where everything is written; with several trials, each has a directory of its own inside.
        data_dir: where the data's files are.
        device: "cpu" or "cuda".
        console: prints the progress; None for silence.
        command: the command that repeats the run, for the report.
        processes: so many trials at a time, each in a process of its own. Small networks gain more from that than from
            threads; numbers do not depend on it.

    Returns:
        The metrics of the run, as in ``metrics.json``; with several trials, the mean of each number over the trials,
        its standard deviation under ``NAME_std``, and the trials' own metrics under ``trials``.

    Raises:
        ValueError: a finished run of other settings is in the way.
        OSError: its metrics are damaged. For both, and for what else there is, see also `fit`.

    Example (not run, for it trains)::

        metrics = sl.training.train(Digits(epochs=5), "runs/mine")
    """
    experiment.check()
    directory = Path(directory)
    trials = experiment.trials()
    found = run_all(
        [(directory / name, trial) for name, trial in trials],
        data_dir=data_dir,
        device=device,
        console=console,
        command=command,
        processes=processes,
    )
    results = [found[directory / name] for name, _ in trials]
    if len(trials) == 1:
        return results[0]
    table = settings(experiment)
    metrics: dict[str, Any] = {"recipe": experiment.name, **summary(results), "settings": table, "versions": versions()}
    metrics["command"] = command
    metrics["trials"] = {name: result for (name, _), result in zip(trials, results)}
    shown = numbers(metrics) | {name: _short(result) for name, result in metrics["trials"].items()}
    write_json(directory / "metrics.json", metrics)
    write(directory / "report.html", page(experiment.name, shown, table, [], command))
    return metrics


def run_all(
    runs: Sequence[tuple[Path, Experiment]],
    *,
    data_dir: str | Path | None,
    device: str,
    console: Console | None,
    command: str,
    processes: int,
) -> dict[Path, dict[str, Any]]:
    """The metrics of each run by its directory; finished ones are read, the others trained, some at a time."""
    if processes < 1:
        raise ValueError(f"train got processes={processes}; expected 1 or more.")
    finished = [place for place, trial in runs if _finished(place, trial)]
    open_runs = [(place, trial) for place, trial in runs if place not in finished]
    if processes > 1 and len(open_runs) > 1:
        # Fresh processes, for torch's threads do not survive a fork.
        pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=end_with_parent)
        try:
            shared = (data_dir, device, command, console is not None and not console.quiet)
            for done in as_completed([pool.submit(_run_apart, place, trial, *shared) for place, trial in open_runs]):
                done.result()
        finally:
            pool.shutdown(cancel_futures=True)
    else:
        for place, trial in open_runs:
            if len(runs) > 1 and console is not None:
                console.print(f"[bold]{place.name}[/bold]")
            write_report(trial, fit(trial, place, data_dir=data_dir, device=device, console=console), place, command)
    return {place: read_json(place / "metrics.json") for place, _ in runs}


def end_with_parent() -> None:
    """End this process as soon as the one that started it has gone, however that was ended: nobody waits for it then,
    and what it has written so far is whole."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _finished(place: Path, trial: Experiment) -> bool:
    """Whether a directory holds a finished run; one of other settings must not pass for this trial's."""
    if not (place / "metrics.json").exists():
        return False
    found = read_json(place / "metrics.json")
    # As they are once written: a tuple, say, comes back as a list.
    wanted = json.loads(json.dumps({"recipe": trial.name, "settings": settings(trial)}))
    other = [k for k, v in wanted["settings"].items() if found["settings"].get(k) != v]
    if found["recipe"] != trial.name or other:
        said = ", ".join(f"{k}={found['settings'].get(k)}" for k in other) or f"the recipe {found['recipe']}"
        raise ValueError(f"{place} holds a finished run with {said}; name another directory for these settings.")
    return True


def _run_apart(
    place: Path, trial: Experiment, data_dir: str | Path | None, device: str, command: str, say: bool
) -> None:
    """One run in a process of its own; a line of its log says which run it belongs to."""
    fitted = fit(trial, place, data_dir=data_dir, device=device, console=_Labelled(place.name) if say else None)
    write_report(trial, fitted, place, command)


class _Labelled(Console):
    """A console whose lines begin with a name, without bars, so that several processes can share a terminal."""

    def __init__(self, name: str) -> None:
        super().__init__(force_terminal=False)
        self.name = name

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(f"{self.name:<12}", *objects, **options)


def summary(results: list[dict[str, Any]]) -> dict[str, float]:
    """The mean over trials of each number that all of them have, and its sample standard deviation; seconds add up.

    >>> summary([{"test_accuracy": 0.9, "seconds": 1.0}, {"test_accuracy": 0.8, "seconds": 2.0}])
    {'test_accuracy': 0.85..., 'test_accuracy_std': 0.07..., 'seconds': 3.0}
    """
    found: dict[str, float] = {}
    for name, first in results[0].items():
        values = [result[name] for result in results if name in result]
        if isinstance(first, float) and len(values) == len(results) and name != "seconds":
            found[name] = statistics.mean(values)
            if len(values) > 1:
                found[f"{name}_std"] = statistics.stdev(values)
    return found | {"seconds": round(sum(result["seconds"] for result in results), 3)}


def _short(result: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in numbers(result).items() if name.startswith(("test", "valid")))
