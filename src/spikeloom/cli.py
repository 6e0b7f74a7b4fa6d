"""The command line: ``spikeloom train``, ``list``, ``explain``, ``doctor``."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from spikeloom.recipes import RECIPES, find

if TYPE_CHECKING:
    from rich.console import Console

    from spikeloom.training.experiment import Experiment

FAILED, MISUSED, INTERRUPTED = 1, 2, 130
RUN = "run.json"


class Misuse(ValueError):
    """The command makes no sense as it was written; the message says what to write instead."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Arguments:
        arguments: the words after ``spikeloom``; those of the process if None.

    Returns:
        The exit code: 0 if all went well, 1 if something that is needed is missing, 2 if the command makes no sense,
        130 if it was interrupted.

    >>> from spikeloom.cli import main
    >>> main(["train", "digit"])
    2
    """
    options = _parser().parse_args(arguments)
    try:
        return options.action(options)
    except Misuse as error:
        return _complain(str(error), MISUSED)
    except (OSError, ImportError) as error:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("rich"):
            return _complain("The command line needs rich. Write: pip install 'spikeloom[train]'", FAILED)
        if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("spikeloom"):
            raise  # our own fault, not a missing package
        return _complain(str(error), FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="spikeloom", description="Train spiking neural networks.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a recipe and write its report")
    train.add_argument("recipe", nargs="?", help="the recipe's name; see: spikeloom list")
    train.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change settings of the recipe"
    )
    train.add_argument(
        "--data-dir", metavar="DIR", help="where the data's files are (else SPIKELOOM_DATA, else the cache)"
    )
    train.add_argument("--epochs", type=int, metavar="N", help="short for --set epochs=N")
    train.add_argument("--seed", type=int, metavar="N", help="short for --set seed=N")
    train.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to compute (default: cpu)")
    train.add_argument("--vary", metavar="KEY=A,B", help="a controlled experiment: train with each value of a setting")
    train.add_argument("--processes", type=int, default=1, metavar="N", help="train so many seeds or folds at a time")
    train.add_argument("--out", metavar="DIR", help="directory of the run (default: runs/RECIPE-TIME)")
    train.add_argument("--resume", metavar="DIR", help="go on with the run in this directory, as it was begun")
    train.set_defaults(action=_train)

    show = commands.add_parser("list", help="list the recipes, or the settings of one")
    show.add_argument("recipe", nargs="?", help="a recipe, to list its settings")
    show.set_defaults(action=_list)

    explain = commands.add_parser("explain", help="a neuron from its equations to the code that runs")
    explain.add_argument("neuron", help="its class, such as CubaLIF, or module:Class for your own")
    explain.add_argument("--reset", help="subtract, zero or none (default: the neuron's)")
    explain.add_argument("--refractory", type=int, default=0, metavar="STEPS", help="refractory period in steps")
    explain.set_defaults(action=_explain)

    doctor = commands.add_parser("doctor", help="what is installed, which devices and data there are, what is missing")
    doctor.add_argument("--data-dir", metavar="DIR", help="where the data's files are")
    doctor.set_defaults(action=_doctor)
    return parser


def _train(options: argparse.Namespace) -> int:
    console = _console()
    begun = _begun(options) if options.resume else _new(options)
    experiment = _configured(begun["recipe"], begun["settings"])
    if begun["device"] == "cuda" and not torch.cuda.is_available():
        raise Misuse(
            "There is no CUDA device that torch can use here (see: spikeloom doctor). Leave out --device cuda."
        )
    from spikeloom.training import compare, settings, train
    from spikeloom.training.files import write_json

    if options.processes < 1:
        raise Misuse(f"--processes got {options.processes}; expected 1 or more.")
    varied = _varied(experiment, begun["vary"])

    if options.resume:
        directory = Path(options.resume)
    else:
        named = options.out or f"runs/{experiment.name}-{datetime.now():%Y%m%d-%H%M%S}"
        directory = _free(Path(named), console)
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / RUN, begun | {"settings": settings(experiment)})
    console.print(f"[bold]{experiment.name}[/bold] in {directory}", highlight=False, soft_wrap=True)
    data_dir = options.data_dir or begun["data_dir"]
    kind = {"device": begun["device"], "console": console, "command": begun["command"]}
    kind |= {"data_dir": data_dir, "processes": options.processes}
    try:
        if varied is not None:
            compare(experiment, *varied, directory, **kind)
            console.print((directory / "comparison.md").read_text(), highlight=False, soft_wrap=True, markup=False)
            return 0
        metrics = train(experiment, directory, **kind)
    except KeyboardInterrupt:
        return _complain(f"Interrupted. Go on, from the start of this epoch, with: {_resume(directory)}", INTERRUPTED)
    _print_metrics(metrics, directory, console)
    return 0


def _new(options: argparse.Namespace) -> dict[str, Any]:
    """What a new run begins with: the recipe, the settings to change, and the command that repeats it."""
    if options.recipe is None:
        raise Misuse(f"Which recipe? Write: spikeloom train RECIPE, with one of {', '.join(RECIPES)}.")
    short = {"epochs": options.epochs, "seed": options.seed}
    changes = [*options.set, *(f"{key}={value}" for key, value in short.items() if value is not None)]
    words = ["spikeloom", "train", options.recipe, *(["--set", *changes] if changes else [])]
    words += ["--vary", options.vary] if options.vary else []
    words += [] if options.device == "cpu" else ["--device", options.device]
    begun = {"recipe": options.recipe, "settings": changes, "data_dir": options.data_dir, "device": options.device}
    return begun | {"vary": options.vary, "command": shlex.join(words)}


def _varied(experiment: Experiment, words: str | None) -> tuple[str, list[str]] | None:
    """The setting to vary and its values, from KEY=A,B."""
    if words is None:
        return None
    from spikeloom.training.comparison import arms_of

    key, sign, values = words.partition("=")
    if not sign:
        raise Misuse(f"--vary got '{words}'; expected KEY=A,B, for example learned=true,false.")
    try:
        arms_of(experiment, key, values.split(","))
    except ValueError as error:
        raise Misuse(f"{error} See: spikeloom list {experiment.name}") from error
    return key, values.split(",")


def _begun(options: argparse.Namespace) -> dict[str, Any]:
    """What the run to be resumed was begun with."""
    given = [f"--{name}" for name in ("set", "epochs", "seed", "vary", "out") if getattr(options, name)]
    given += ["--device"] if options.device != "cpu" else []
    given += [options.recipe] if options.recipe else []
    if given:
        raise Misuse(f"--resume goes on with the settings that the run was begun with; leave out {', '.join(given)}.")
    place = Path(options.resume) / RUN
    if not place.exists():
        raise Misuse(
            f"There is no run to resume in {options.resume}: it has no file {RUN}. Name the directory of a run."
        )
    try:
        begun = json.loads(place.read_text())
        return {key: begun[key] for key in ("recipe", "settings", "data_dir", "device", "command")} | {
            "vary": begun.get("vary")  # which earlier versions did not know
        }
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise Misuse(f"{place} cannot be read ({error}): it is not what spikeloom wrote. Start a new run.") from error


def _configured(name: str, changes: Any) -> Experiment:
    from spikeloom.training import with_settings

    try:
        recipe = find(name)
    except ValueError as error:
        raise Misuse(str(error)) from error
    try:
        experiment = with_settings(recipe(), changes)
        experiment.check()
        experiment.network()  # which may refuse a setting too, such as a negative time constant
    except (ValueError, TypeError) as error:
        raise Misuse(f"{error} See: spikeloom list {name}") from error
    return experiment


def _free(directory: Path, console: Console) -> Path:
    """The directory, if it is empty or not there; else the first free one of DIR-2, DIR-3, ..., so no run is lost."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return directory
    number = 2
    while (sibling := directory.with_name(f"{directory.name}-{number}")).exists():
        number += 1
    unfinished = (directory / RUN).exists() and not (directory / "metrics.json").exists()
    hint = f" It holds an unfinished run; to go on with that: {_resume(directory)}" if unfinished else ""
    console.print(f"{directory} is in use, so this run goes to {sibling}.{hint}", highlight=False, soft_wrap=True)
    return sibling


def _resume(directory: Path) -> str:
    return shlex.join(["spikeloom", "train", "--resume", str(directory)])


def _print_metrics(metrics: dict[str, Any], directory: Path, console: Console) -> None:
    from rich.table import Table

    from spikeloom.training.report import numbers

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in numbers(metrics).items():
        if name not in ("recipe", "versions"):
            table.add_row(name, value)
    for name, trial in metrics.get("trials", {}).items():
        table.add_row(name, ", ".join(f"{k} {v}" for k, v in numbers(trial).items() if k.startswith("test")))
    console.print(table)
    # Without wrapping: a path that is broken over two lines cannot be copied.
    console.print(f"report  {directory / 'report.html'}", highlight=False, soft_wrap=True)


def _list(options: argparse.Namespace) -> int:
    from rich.table import Table

    console = _console()
    if options.recipe:
        from spikeloom.training import settings

        experiment = _configured(options.recipe, {})
        console.print((type(experiment).__doc__ or "").split("\n\n")[0], highlight=False)
        table = Table("key", "value", box=None, padding=(0, 2, 0, 0))
        for key, value in settings(experiment).items():
            table.add_row(key, str(value))
    else:
        table = Table("recipe", "what", "expected", "needs", box=None, padding=(0, 2, 0, 0))
        table.columns[0].no_wrap = True  # a name that is broken over two lines cannot be copied
        for name, recipe in RECIPES.items():
            table.add_row(name, recipe.summary, recipe.expected, recipe.data)
    console.print(table)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from rich.table import Table

    from spikeloom.doctor import findings

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for what, found in findings(options.data_dir):
        table.add_row(what, found)
    _console().print(table)
    return 0


def _explain(options: argparse.Namespace) -> int:
    from spikeloom.explain import explain, find

    try:
        neuron = find(options.neuron)(reset=options.reset, refractory=options.refractory)
        print(explain(neuron))
    except (ValueError, TypeError) as error:
        raise Misuse(str(error)) from error
    return 0


def _console() -> Console:
    from rich.console import Console

    return Console()


def _complain(sentence: str, code: int) -> int:
    print(f"spikeloom: {sentence}", file=sys.stderr)
    return code
