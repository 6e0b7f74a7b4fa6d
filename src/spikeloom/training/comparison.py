"""A controlled experiment: the same recipe with one setting varied, all else equal, the same seeds in every arm."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console

from spikeloom.training.experiment import Experiment
from spikeloom.training.files import write, write_json
from spikeloom.training.report import page, versions
from spikeloom.training.settings import SettingError, settings, with_settings
from spikeloom.training.trials import run_all, summary

# What arms are compared by: the first that all runs have.
MEASURES = ("test_accuracy", "test_loss", "validation_accuracy", "validation_loss", "train_loss")


def compare(
    experiment: Experiment,
    key: str,
    values: Sequence[Any],
    directory: str | Path,
    *,
    data_dir: str | Path | None = None,
    device: str = "cpu",
    console: Console | None = None,
    command: str = "",
    processes: int = 1,
) -> dict[str, Any]:
    """Train every trial of an experiment once with each value of one setting, and write the table of what came out.

    Arms share their seeds, so what is compared is the difference seed by seed: its mean, and the 95 % interval of
    Student's t distribution for it. The same call goes on where an interrupted one stopped, as `train` does.

    Arguments:
        experiment: what to train; set `seeds` to 5 or so.
        key: the setting to vary.
        values: its values, as text or as they are; the first is the one that the others are compared with.
        directory: where everything is written: a directory for each arm, ``comparison.json``, ``comparison.md`` and
            ``report.html``.
        data_dir, device, console, command, processes: see `train`.

    Returns:
        What is in ``comparison.json``: for each arm the mean over trials of each number, with its standard deviation
        and the values of `measure`; and under ``differences`` mean and interval of arm minus first arm.

    Raises:
        SettingError: (a ValueError) if there is no such setting, a value cannot be read, or fewer than two are given.
        ValueError, KeyboardInterrupt: see `fit`.

    Example (not run, for it trains)::

        found = sl.training.compare(Ecg(seeds=5), "learned", (False, True), "runs/learned", processes=2)
    """
    arms = arms_of(experiment, key, values)
    directory = Path(directory)
    runs = {
        arm: [(directory / arm / (name or f"seed-{trial.seed}"), trial) for name, trial in e.trials()]
        for arm, e in arms.items()
    }
    found = run_all(
        # Seed by seed, so that an experiment that is cut short still has pairs.
        [run for group in zip(*runs.values(), strict=True) for run in group],
        data_dir=data_dir,
        device=device,
        console=console,
        command=command,
        processes=processes,
    )
    results = {arm: [found[place] for place, _ in of] for arm, of in runs.items()}
    measure = next(name for name in MEASURES if all(name in result for of in results.values() for result in of))
    table = settings(experiment)
    metrics = {
        "recipe": experiment.name,
        "varied": key,
        "measure": measure,
        "arms": {arm: summary(of) | {"values": [r[measure] for r in of]} for arm, of in results.items()},
        "differences": differences({arm: [r[measure] for r in of] for arm, of in results.items()}),
        "settings": {name: value for name, value in table.items() if name != key},
        "versions": versions(),
        "command": command,
    }
    write_json(directory / "comparison.json", metrics)
    write(directory / "comparison.md", markdown(metrics))
    shown = {
        arm: f"{_mean(of, measure)} ({', '.join(_number(v, measure) for v in of['values'])})"
        for arm, of in metrics["arms"].items()
    }
    shown |= {f"{arm} minus {next(iter(arms))}": _interval(d, measure) for arm, d in metrics["differences"].items()}
    write(directory / "report.html", page(f"{experiment.name}: {key}", shown, metrics["settings"], [], command))
    return metrics


def arms_of(experiment: Experiment, key: str, values: Sequence[Any]) -> dict[str, Experiment]:
    """The experiment with each value of a setting, by the arm's name, such as "learned=True".

    Raises:
        SettingError: if there is no such setting, a value cannot be read, or fewer than two different ones are given.
    """
    if key in ("seed", "seeds"):
        raise SettingError(f"{key} cannot be varied: every arm has the same seeds. Write seeds=5 as a setting.")
    made = [with_settings(experiment, {key: value}) for value in values]
    arms = {f"{key}={getattr(e, key)}": e for e in made}
    if len(arms) < 2:
        known = any(field.name == key for field in fields(experiment))
        assert known
        raise SettingError(f"{key} got {', '.join(map(str, values)) or 'no value'}; expected two different values.")
    for arm in arms.values():
        arm.check()
    return arms


def differences(values: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Mean of arm minus first arm, trial by trial, and the half width of its 95 % interval (t distribution).

    >>> found = differences({"fixed": [0.90, 0.92, 0.91], "learned": [0.93, 0.94, 0.95]})["learned"]
    >>> round(found["mean"], 4), round(found["half_width"], 4)
    (0.03, 0.0248)
    """
    from scipy.stats import t

    first, *others = values
    found = {}
    for arm in others:
        pairs = [b - a for a, b in zip(values[first], values[arm], strict=True)]
        half = math.nan
        if len(pairs) > 1:
            half = float(t.ppf(0.975, len(pairs) - 1)) * statistics.stdev(pairs) / math.sqrt(len(pairs))
        found[arm] = {"mean": statistics.mean(pairs), "half_width": half}
    return found


def markdown(metrics: dict[str, Any]) -> str:
    """The comparison as a table in Markdown, with the command that repeats it."""
    measure, arms = metrics["measure"], metrics["arms"]
    lines = [
        f"# {metrics['recipe']}: {metrics['varied']}",
        "",
        f"| arm | {measure.replace('_', ' ')}, mean ± standard deviation | runs | lowest to highest | seconds a run | "
        "memory of a step, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for arm, of in arms.items():
        span = f"{_number(min(of['values']), measure)} to {_number(max(of['values']), measure)}"
        runs = len(of["values"])
        rise = f"{of['train_step_mib']:.1f}" if "train_step_mib" in of else "not known"
        lines.append(f"| {arm} | {_mean(of, measure)} | {runs} | {span} | {of['seconds'] / runs:.1f} | {rise} |")
    lines.append("")
    for arm, d in metrics["differences"].items():
        lines.append(f"{arm} minus {next(iter(arms))}, seed by seed: {_interval(d, measure)}.")
    seconds = sum(of["seconds"] for of in arms.values())
    lines += [
        "",
        f"Training took {seconds / 60:.0f} minutes in all, on one thread a run."
        if metrics["settings"].get("threads") == 1
        else f"Training took {seconds / 60:.0f} minutes in all.",
    ]
    lines += ["", f"    {metrics['command']}", ""] if metrics["command"] else [""]
    return "\n".join(lines)


def _mean(of: dict[str, Any], measure: str) -> str:
    spread = of.get(f"{measure}_std")
    return _number(of[measure], measure) + (f" ± {_number(spread, measure)}" if spread is not None else "")


def _interval(difference: dict[str, float], measure: str) -> str:
    mean, half = difference["mean"], difference["half_width"]
    if math.isnan(half):
        return f"{_number(mean, measure, sign=True)} (one run, so no interval)"
    apart = "the interval excludes 0" if abs(mean) > half else "the interval includes 0"
    return f"{_number(mean, measure, sign=True)} ± {_number(half, measure)} (95 % interval; {apart})"


def _number(value: float, measure: str, sign: bool = False) -> str:
    plus = "+" if sign else ""
    return f"{100 * value:{plus}.2f} %" if measure.endswith("accuracy") else f"{value:{plus}.4g}"
