"""Pictures of spikes, membranes, training and parameters, on matplotlib axes.

Every function draws on `ax` (a new figure of one axes if None) and returns it. matplotlib is imported on the first use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from spikeloom.events import Events

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours: told apart by colour-blind readers and in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def plot_raster(
    spikes: torch.Tensor | Events,
    *,
    sample: int = 0,
    dt: float = 1e-3,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one mark for each spike: time across, neuron upwards.

    Arguments:
        spikes: tensor [T, *N] of one sample, or Events [T, B, *N]; entries other than 0 are spikes.
        sample: which sample of Events.
        dt: time step in seconds. A spike at index t is drawn at t dt.
        title: a title above the axes.
        ax: where to draw.

    Raises:
        ValueError: if a tensor has fewer than two axes, or there is no such sample.
        ImportError: if matplotlib is not installed.

    >>> import torch, spikeloom as sl
    >>> ax = sl.plots.plot_raster(torch.eye(5), dt=1e-3)
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('Time (ms)', 'Neuron')
    """
    if isinstance(spikes, Events):
        if not 0 <= sample < len(spikes):
            raise ValueError(f"plot_raster got sample={sample}; expected 0 to {len(spikes) - 1} for these Events.")
        events = spikes[sample]
        time, neuron, steps, size = events.time, events.channel, events.shape[0], events.shape[2:].numel()
    else:
        if spikes.dim() < 2:
            raise ValueError(
                f"plot_raster got a tensor of shape {list(spikes.shape)}; expected one sample [T, *N]: write "
                "spikes[:, b] for sample b of a batch."
            )
        flat = spikes.detach().cpu().flatten(1)
        (time, neuron), (steps, size) = flat.nonzero(as_tuple=True), flat.shape
    return plot_events(
        dt * time.cpu().double(), neuron.cpu(), size, (0.0, dt * steps), ylabel="Neuron", title=title, ax=ax
    )


def plot_events(
    times: torch.Tensor,
    channels: torch.Tensor,
    size: int,
    span: tuple[float, float],
    *,
    ylabel: str = "Channel",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one mark for each event at a real-valued time: time across, channel upwards.

    Arguments:
        times: tensor [K] in seconds.
        channels: integer tensor [K], from 0 to size - 1.
        size: number of channels.
        span: begin and end of the recording in seconds.
        ylabel: what the channels are.
        title: a title above the axes.
        ax: where to draw.

    Raises:
        ImportError: if matplotlib is not installed.

    >>> import torch, spikeloom as sl
    >>> sl.plots.plot_events(torch.tensor([0.01]), torch.tensor([0]), 1, (0.0, 0.1)).get_xlabel()
    'Time (ms)'
    """
    ax = _axes(ax)
    factor, unit = _time_unit(*span)
    # A mark about as tall as a channel's row: single ones stay apart, and thousands still show.
    height = min(max(150 / max(size, 1), 2.4), 14)
    ax.scatter(factor * times.numpy(), channels.numpy(), s=height**2, marker="|", color="black", lw=0.8)
    margin = 0.01 * (span[1] - span[0])
    ax.set(xlabel=f"Time ({unit})", ylabel=ylabel, xlim=(factor * (span[0] - margin), factor * (span[1] + margin)))
    ax.set_ylim(-0.03 * size - 0.5, 1.03 * size - 0.5)
    ax.locator_params(axis="y", integer=True)
    return _finish(ax, title)


def plot_signal(
    times: torch.Tensor,
    values: torch.Tensor,
    *,
    step: bool = False,
    unit: str = "",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a line over time for each channel, all on one axis.

    Arguments:
        times: tensor [T] in seconds.
        values: tensor [T, *N].
        step: each value holds until the next one.
        unit: the unit of the values.
        title: a title above the axes.
        ax: where to draw.

    Raises:
        ImportError: if matplotlib is not installed.

    >>> import torch, spikeloom as sl
    >>> ax = sl.plots.plot_signal(torch.arange(100) * 1e-3, torch.rand(100, 2), unit="mV")
    >>> ax.get_ylabel(), len(ax.lines)
    ('Value (mV)', 2)
    """
    ax = _axes(ax)
    factor, unit_of_time = _time_unit(float(times[0]), float(times[-1]))
    lines = values.detach().cpu().flatten(1) if values.dim() > 1 else values.detach().cpu().unsqueeze(1)
    for channel in range(lines.shape[1]):
        colour, style = COLOURS[channel % len(COLOURS)], "steps-post" if step else "default"
        x, y = factor * times.numpy(), lines[:, channel].numpy()
        ax.plot(x, y, lw=1, color=colour, drawstyle=style, label=f"channel {channel}")
    ax.set(xlabel=f"Time ({unit_of_time})", ylabel=f"Value ({unit})" if unit else "Value")
    if 1 < lines.shape[1] <= len(COLOURS):
        columns = min(lines.shape[1], 4)
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, borderaxespad=0.2, fontsize=9)
        return _finish(ax, title, pad=6 + 18 * -(-lines.shape[1] // columns))
    return _finish(ax, title)


def plot_traces(
    traces: Mapping[str, torch.Tensor] | torch.Tensor,
    *,
    dt: float = 1e-3,
    units: Mapping[str, str] | str = "",
    threshold: float | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw time courses of several neurons, each on its own base line, one colour for each quantity.

    All lines of one quantity share a scale, which a bar at the right end states; so a small trace looks small.

    Arguments:
        traces: tensor [T, neurons], or a mapping from a name, such as "membrane", to such tensors.
        dt: time step in seconds. A value at index t is drawn at (t + 1) dt, the end of its step.
        units: the unit of each quantity, by name or one for all; empty for dimensionless quantities.
        threshold: if given, a dotted line for each neuron at this value of the first quantity.
        title: a title above the axes.
        ax: where to draw.

    Raises:
        ValueError: if a tensor is not [T, neurons], or the quantities differ in shape.
        ImportError: if matplotlib is not installed.

    >>> import torch, spikeloom as sl
    >>> wave = torch.linspace(0, 6, 100).sin().unsqueeze(1)
    >>> ax = sl.plots.plot_traces({"membrane": wave, "current": 10 * wave}, units={"current": "nA"})
    >>> [label.get_text() for label in ax.get_legend().get_texts()]
    ['membrane (scale bar 1)', 'current (scale bar 10 nA)']
    """
    named = dict(traces) if isinstance(traces, Mapping) else {"value": traces}
    shapes = {name: list(values.shape) for name, values in named.items()}
    if not named or any(len(shape) != 2 for shape in shapes.values()) or len({tuple(s) for s in shapes.values()}) > 1:
        raise ValueError(
            f"plot_traces got the shapes {shapes}; expected [T, neurons], the same for every quantity: write "
            "v[:, b, :5] for the first five neurons of sample b."
        )
    ax = _axes(ax)
    for number, (name, values) in enumerate(named.items()):
        values = values.detach().cpu().double()
        steps, neurons = values.shape
        time = 1e3 * dt * torch.arange(1, steps + 1)
        span = float(values.max() - values.min()) if values.numel() else 0.0
        bar = _round_scale(max(span, threshold or 0.0) if number == 0 else span)
        colour = COLOURS[number % len(COLOURS)]
        unit = units if isinstance(units, str) else units.get(name, "")
        label = f"{name} (scale bar {bar:g}{' ' + unit if unit else ''})"
        scale = 0.8 / max(span, bar)
        low = float(values.min()) if values.numel() else 0.0
        for neuron in range(neurons):
            ax.plot(time, neuron + scale * (values[:, neuron] - low), color=colour, lw=1, label=label)
            label = None
            if threshold is not None and number == 0:
                ax.axhline(neuron + scale * (threshold - low), color=colour, lw=0.8, ls=":")
        end = 1e3 * dt * steps * (1.02 + 0.02 * number)
        ax.plot([end, end], [0, scale * bar], color=colour, lw=3, solid_capstyle="butt")
    neurons = next(iter(shapes.values()))[1]
    ax.set(xlabel="Time (ms)", ylabel="Neuron", yticks=range(neurons))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(named), frameon=False, borderaxespad=0.2, fontsize=9)
    return _finish(ax, title, pad=24)


def plot_training_curves(
    curves: Mapping[str, Sequence[float]],
    *,
    ylabel: str = "Loss",
    log: bool = False,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one number for each epoch, a line for each name.

    Arguments:
        curves: a mapping from a name, such as "training", to one value per epoch; the first epoch is 1.
        ylabel: what the values are, with the unit.
        log: a logarithmic vertical axis.
        title: a title above the axes.
        ax: where to draw.

    Raises:
        ImportError: if matplotlib is not installed.

    >>> import spikeloom as sl
    >>> sl.plots.plot_training_curves({"training": [1.0, 0.5, 0.3]}).get_xlabel()
    'Epoch'
    """
    ax = _axes(ax)
    for number, (name, values) in enumerate(curves.items()):
        marker = "o" if len(values) <= 30 else None
        epochs = range(1, len(values) + 1)
        ax.plot(epochs, list(values), color=COLOURS[number % len(COLOURS)], marker=marker, ms=3.5, lw=1.5, label=name)
    ax.set(xlabel="Epoch", ylabel=ylabel)
    if log:
        ax.set_yscale("log")
    ax.locator_params(axis="x", integer=True)
    ax.grid(alpha=0.3, lw=0.5)
    if len(curves) > 1:
        ax.legend(frameon=False, fontsize=9)
    return _finish(ax, title)


def plot_parameter_histograms(
    before: torch.Tensor,
    after: torch.Tensor,
    *,
    name: str = "Parameter",
    unit: str = "",
    bins: int = 30,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the histograms of a parameter before and after training, on the same bins.

    Arguments:
        before: the values before training, of any shape; a single value is drawn as a line.
        after: the values after training, of any shape.
        name: what the parameter is.
        unit: its unit; values in seconds ("s") are drawn in milliseconds.
        bins: number of bins over the range of both.
        title: a title above the axes.
        ax: where to draw.

    Raises:
        ValueError: if one of the tensors is empty.
        ImportError: if matplotlib is not installed.

    >>> import torch, spikeloom as sl
    >>> before, after = torch.full((50,), 0.02), torch.normal(0.02, 0.001, (50,))
    >>> ax = sl.plots.plot_parameter_histograms(before, after, name="tau_mem", unit="s")
    >>> ax.get_xlabel()
    'tau_mem (ms)'
    """
    if not before.numel() or not after.numel():
        raise ValueError(
            f"plot_parameter_histograms got shapes {list(before.shape)} and {list(after.shape)}; "
            "expected values in both."
        )
    factor, unit = (1e3, "ms") if unit == "s" else (1.0, unit)
    ax = _axes(ax)
    values = [factor * tensor.detach().cpu().double().flatten() for tensor in (before, after)]
    low, high = min(float(x.min()) for x in values), max(float(x.max()) for x in values)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    for label, data, colour in zip(("before", "after"), values, COLOURS):
        if float(data.max() - data.min()) <= 1e-9 * max(abs(high), 1e-300):
            # A histogram of equal values would be one tall bar that hides the other histogram.
            ax.axvline(float(data[0]), color=colour, lw=2, label=f"{label} (all {float(data[0]):.4g})")
        else:
            edges = torch.linspace(low - margin, high + margin, bins + 1)
            ax.hist(data.numpy(), edges.tolist(), color=colour, alpha=0.55, label=f"{label} (mean {data.mean():.4g})")
    ax.set(xlabel=f"{name} ({unit})" if unit else name, ylabel="Count", xlim=(low - margin, high + margin))
    ax.legend(frameon=False, fontsize=9)
    return _finish(ax, title)


def plot_confusion_matrix(
    counts: torch.Tensor, classes: Sequence[str] | None = None, *, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw how often each class (row) was taken for each other (column); shade is the part of the row, text the count.

    Arguments:
        counts: integer tensor [classes, classes], true class first.
        classes: their names; numbers if None.
        title: a title above the axes.
        ax: where to draw.

    Raises:
        ValueError: if `counts` is not square, or `classes` has another length.
        ImportError: if matplotlib is not installed.

    >>> import torch, spikeloom as sl
    >>> ax = sl.plots.plot_confusion_matrix(torch.tensor([[9, 1], [0, 10]]), ["yes", "no"])
    >>> [text.get_text() for text in ax.texts]
    ['9', '1', '10']
    """
    names = [str(k) for k in range(len(counts))] if classes is None else list(classes)
    if counts.dim() != 2 or counts.shape != (len(names), len(names)):
        raise ValueError(
            f"plot_confusion_matrix got counts of shape {list(counts.shape)} and {len(names)} class names; expected "
            "[classes, classes], and one name for each class or classes=None."
        )
    counts = counts.detach().cpu()
    part = counts / counts.sum(1, keepdim=True).clamp(min=1)
    ax = _axes(ax, (5.2, 4.8))
    ax.imshow(part.numpy(), cmap="Blues", vmin=0, vmax=1)
    for row in range(len(names)):
        for column in range(len(names)):
            if counts[row, column]:
                shade = "white" if part[row, column] > 0.5 else "black"
                ax.text(column, row, str(int(counts[row, column])), ha="center", va="center", color=shade, fontsize=7)
    ax.set(xlabel="Predicted class", ylabel="True class", xticks=range(len(names)), yticks=range(len(names)))
    slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names), default=0) > 2 else {}
    ax.set_xticklabels(names, **slant)
    ax.set_yticklabels(names)
    return _finish(ax, title)


def _axes(ax: Axes | None, size: tuple[float, float] = (6, 3.6)) -> Axes:
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("Plots need matplotlib. Write: pip install 'spikeloom[plot]'") from error
    return plt.subplots(figsize=size, layout="constrained")[1]


def _time_unit(start: float, stop: float) -> tuple[float, str]:
    """Seconds for what lasts ten of them or more, else milliseconds."""
    return (1.0, "s") if stop - start >= 10 else (1e3, "ms")


def _finish(ax: Axes, title: str | None, pad: float = 6) -> Axes:
    ax.spines[["top", "right"]].set_visible(False)
    if title:
        ax.set_title(title, fontsize=10, loc="left", pad=pad)
    return ax


def _round_scale(span: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above `span`, so that a scale bar has a round length."""
    if span <= 0:
        return 1.0
    power = 10.0 ** torch.tensor(span, dtype=torch.float64).log10().floor().item()
    return max((m * power for m in (1, 2, 5) if m * power <= span * (1 + 1e-9)), default=power)


def as_png(ax: Any, dots_per_inch: int = 110) -> bytes:
    """The figure of an axes as the bytes of a PNG file; the figure is closed.

    >>> import torch, spikeloom as sl
    >>> sl.plots.as_png(sl.plots.plot_raster(torch.eye(5)))[:4]
    b'\\x89PNG'
    """
    import io

    import matplotlib.pyplot as plt

    stream = io.BytesIO()
    ax.figure.savefig(stream, format="png", dpi=dots_per_inch)
    plt.close(ax.figure)
    return stream.getvalue()
