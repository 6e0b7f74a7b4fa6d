"""The report of a run: one HTML file with its pictures inside, and the numbers as JSON."""

from __future__ import annotations

import base64
import html
import math
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from matplotlib.figure import Figure

import spikeloom
from spikeloom import plots
from spikeloom.neurons import Neuron
from spikeloom.training.experiment import Experiment
from spikeloom.training.files import write, write_json
from spikeloom.training.fitting import Fitted, make_task
from spikeloom.training.rasters import fires, watch
from spikeloom.training.settings import settings

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { margin-bottom: 0 } h2 { margin-top: 2rem } img { max-width: 100%; height: auto }
table { border-collapse: collapse; margin: 0.5rem 0 } td, th { padding: 0.15rem 1.2rem 0.15rem 0; text-align: left }
tr + tr > * { border-top: 1px solid #ddd } pre { background: #f4f4f4; padding: 0.7rem; overflow-x: auto }
"""

# The states that are drawn over time, where a neuron has them.
TRACES = {"v": "membrane", "i": "synaptic current"}


def versions() -> dict[str, str]:
    """The versions that numbers may depend on.

    >>> sorted(versions())
    ['lightning', 'python', 'spikeloom', 'torch']
    """
    found = {"spikeloom": spikeloom.__version__, "torch": torch.__version__, "lightning": lightning.__version__}
    return found | {"python": platform.python_version()}


def write_report(experiment: Experiment, fitted: Fitted, directory: str | Path, command: str = "") -> dict[str, Any]:
    """Write ``report.html`` and ``metrics.json`` for a finished run.

    Arguments:
        experiment: what was trained.
        fitted: what `fit` returned.
        directory: where the two files go.
        command: the command that repeats the run, for the reader.

    Returns:
        The metrics as they are in ``metrics.json``: the recipe, test_accuracy and test_loss, those of the last epoch on
        the training (and validation) data, epochs, seconds, seed, parameters, engines, device, settings, versions.

    Example (not run, for it trains)::

        sl.training.write_report(experiment, sl.training.fit(experiment, "runs/mine"), "runs/mine")
    """
    directory = Path(directory)
    network = fitted.task.network
    part = fitted.splits.test if experiment.test else fitted.splits.validation or fitted.splits.train
    inputs, _ = part.batch(torch.arange(1))
    kinds = [module for module in network.modules() if isinstance(module, Neuron)]
    names = (
        *(("spikes",) if fires(network) else ()),
        *(state for state in TRACES if any(state in n.declared_states for n in kinds)),
    )
    watched = watch(network.to(fitted.device), inputs, names) if kinds else None
    network.cpu()
    last = fitted.rows[-1] if fitted.rows else {}
    metrics = {
        "recipe": experiment.name,
        **fitted.test,
        **{name: float(value) for name, value in experiment.findings(network, fitted.splits).items()},
        **{name: value for name, value in last.items() if name.startswith(("train_", "validation_"))},
        **({} if fitted.train_step_mib is None else {"train_step_mib": round(fitted.train_step_mib, 2)}),
        "epochs": int(last.get("epoch", 0)),
        "seconds": round(fitted.seconds, 3),
        "seed": experiment.seed,
        "parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "device": fitted.device,
        "engines": watched.engines if watched else {},
        "settings": settings(experiment),
        "versions": versions(),
        "command": command,
    }
    before = make_task(experiment, fitted.splits).network  # the seed gives the initial weights back
    own = experiment.figures(before, network, fitted.splits)
    figures = [*_curves(fitted), *_confusion(experiment, fitted), *own, *_parameters(before, network)]
    if watched is not None:
        figures += _activity(inputs, watched)
    write_json(directory / "metrics.json", metrics)
    write(directory / "report.html", page(experiment.name, numbers(metrics), metrics["settings"], figures, command))
    return metrics


def page(
    title: str, figures_of_merit: Mapping[str, Any], table: Mapping[str, Any], figures: Iterable[Figure], command: str
) -> str:
    """A page of HTML that needs no other file: numbers, pictures, settings, and the command that repeats it."""
    pictures = "\n".join(
        f'<p><img alt="{html.escape(_title(figure))}" src="data:image/png;base64,'
        f'{base64.b64encode(plots.as_png(figure.axes[0])).decode()}"></p>'
        for figure in figures
    )
    repeat = f"<h2>Repeat it</h2>\n<pre>{html.escape(command)}</pre>\n" if command else ""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{html.escape(title)}</h1>\n{_table(figures_of_merit)}\n"
        f"{pictures}\n<h2>Settings</h2>\n{_table(table)}\n{repeat}</body>\n</html>\n"
    )


def numbers(metrics: Mapping[str, Any]) -> dict[str, str]:
    """The figures of a run as a person reads them, in the order of their importance.

    >>> numbers({"test_accuracy": 0.97528, "test_loss": 0.0812345, "epochs": 12, "seconds": 61.23, "settings": {}})
    {'test accuracy': '97.53 %', 'test loss': '0.08123', 'epochs': '12', 'seconds': '61.2'}
    """
    shown: dict[str, str] = {}
    for name, value in metrics.items():
        if name.endswith(("_accuracy", "_accuracy_std")):
            shown[name] = f"{100 * value:.2f} %"
        elif name == "seconds":
            shown[name] = f"{value:.1f}"
        elif isinstance(value, float):
            shown[name] = f"{value:.4g}"
        elif name in ("versions", "engines"):
            shown[name] = ", ".join(f"{key} {item}" for key, item in value.items())
        elif isinstance(value, int | str) and name != "command":
            shown[name] = str(value)
    return {name.replace("_", " "): value for name, value in shown.items() if value}


def _table(rows: Mapping[str, Any]) -> str:
    lines = (f"<tr><th>{html.escape(str(k))}</th><td>{html.escape(str(v))}</td></tr>" for k, v in rows.items())
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _title(figure: Figure) -> str:
    return next((ax.get_title(loc="left") for ax in figure.axes if ax.get_title(loc="left")), "figure")


def _figure(columns: int = 1, width: float = 8.5, height: float = 3.2) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _curves(fitted: Fitted) -> list[Figure]:
    rows = fitted.rows
    kinds = [kind for kind in ("loss", "accuracy") if rows and f"train_{kind}" in rows[0]]
    if not kinds:
        return []
    figure, axes = _figure(len(kinds))
    for ax, kind in zip(axes, kinds):
        named = {part: f"{part}_{kind}" for part in ("train", "validation")}
        curves = {part: [row.get(key, math.nan) for row in rows] for part, key in named.items() if key in rows[-1]}
        # A regression's loss may fall by decades, and then a linear axis shows nothing but the first epoch.
        decades = kind == "loss" and fitted.task.classes is None and all(min(c) > 0 for c in curves.values())
        plots.plot_training_curves(curves, ylabel=kind.capitalize(), log=decades, title=f"Training: {kind}", ax=ax)
    return [figure]


def _confusion(experiment: Experiment, fitted: Fitted) -> list[Figure]:
    counts = fitted.task.confusion_matrix() if experiment.test else None
    if counts is None:
        return []
    figure, (ax,) = _figure(width=5.6, height=5)
    plots.plot_confusion_matrix(counts, fitted.splits.classes, title="Test set", ax=ax)
    return [figure]


def _activity(inputs: Any, watched: Any) -> list[Figure]:
    """What one sample does: its spikes, layer by layer, with membrane and current of a few neurons of each layer."""
    sample = inputs.to_dense() if hasattr(inputs, "to_dense") and not isinstance(inputs, torch.Tensor) else inputs
    figures = []
    if sample.dim() >= 3 and bool(((sample == 0) | (sample == 1)).all()):
        figure, (ax,) = _figure()
        plots.plot_raster(sample[:, 0], dt=watched.dt, title="One sample: input spikes", ax=ax)
        figures.append(figure)
    for path in watched.engines:
        of, prefix = (f"layer {path}", f"{path}.") if path else ("the layer", "")
        traces = {word: watched.records.get(prefix + state) for state, word in TRACES.items()}
        few = {word: values[:, 0].flatten(1)[:, :5] for word, values in traces.items() if values is not None}
        if few:
            figure, (ax,) = _figure()
            plots.plot_traces(few, dt=watched.dt, title=f"One sample: first neurons of {of}", ax=ax)
            figures.append(figure)
        if prefix + "spikes" in watched.records:
            figure, (ax,) = _figure()
            spikes = watched.records[prefix + "spikes"][:, 0]
            plots.plot_raster(spikes, dt=watched.dt, title=f"One sample: spikes of {of}", ax=ax)
            figures.append(figure)
    return figures


def _parameters(before: torch.nn.Module, after: torch.nn.Module) -> list[Figure]:
    """Weights and learned neuron parameters, before and after."""
    figures = []
    trained: dict[str, Any] = dict(after.named_modules())
    for path, module in before.named_modules():
        if isinstance(module, Neuron):
            pairs = [
                (n, getattr(module, n), getattr(trained[path], n), module.declared_params[n].unit)
                for n in module.learned
            ]
        else:
            weight = getattr(module, "weight", None)
            pairs = [("weight", weight, trained[path].weight, "")] if isinstance(weight, torch.Tensor) else []
        for name, old, new, unit in pairs:
            figure, (ax,) = _figure(width=6)
            plots.plot_parameter_histograms(old, new, name=name, unit=unit or "", title=f"{path}: {name}", ax=ax)
            figures.append(figure)
    return figures
