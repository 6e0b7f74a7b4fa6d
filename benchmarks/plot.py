"""The results as a picture: bars for the training steps, lines for the neuron alone."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from . import figures
from .systems import SYSTEMS
from .table import duration
from .timing import Results, Row
from .work import Case, Work

COLOURS = {"floor": "#9aa0a6", "ours": "#0b6e99", "jitted": "#d9822b", "eager": "#c3b5a6"}
# Where systems of a kind cross each other, each has a shade of its own.
SHADES = {
    "ours": ("#7fb8d0", "#0b6e99", "#073b52"),
    "jitted": ("#d9822b", "#a8550f", "#f0b46a"),
    "eager": ("#8d6e63", "#b39b88", "#6d7a4f", "#a9b07f", "#8c7fa3", "#c7a6b0"),
}
INK, FAINT = "#263238", "#e6e8ea"
KINDS = {"ours": "spikeloom", "jitted": "compiled peers", "eager": "eager peers", "floor": "floor: no neurons"}
WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
MARKERS = "osD^vPX<>*hp"


def draw(path: Path, results: Results, works: list[Work], facts: dict[str, str], quick: bool) -> Path | None:
    """Draw what there is of it, and return the path; None where nothing was timed."""
    bars, lines = [], []
    for work in works:
        for case in work.sizes(quick):
            rows = [r for r in results.rows if (r.work, r.case) == (work.letter, case.label) and r.samples]
            if rows and work.measure == "seconds":
                (lines if case.network == "neuron" else bars).append((work, case, rows))
    if not bars and not lines:
        return None
    matplotlib.use("Agg")
    with plt.rc_context(
        {"font.size": 9, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK}
    ):
        figure = _figure(bars, lines, facts)
        # Metadata off, so that the same figures give the same file.
        figure.savefig(path, dpi=160, metadata={"Software": None})
        plt.close(figure)
    return path


Panel = tuple[Work, Case, list[Row]]


def _figure(bars: list[Panel], lines: list[Panel], facts: dict[str, str]) -> plt.Figure:
    columns = min(2, max(1, len(bars)))
    grid_rows = -(-len(bars) // columns)
    # A bar has the same height in every panel; a row of panels is as high as its longest.
    heights = [
        0.55 + 0.24 * max(len(panel[2]) for panel in bars[k * columns : (k + 1) * columns]) for k in range(grid_rows)
    ]
    heights += [4.2] if lines else []
    figure = plt.figure(figsize=(6.1 * max(columns, 2 if lines else 1), sum(heights) + 1.3), layout="constrained")
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    for k, panel in enumerate(bars):
        _bars(figure.add_subplot(grid[k // columns, k % columns]), *panel)
    if lines:
        inner = grid[grid_rows, :].subgridspec(1, 2, width_ratios=(1, 0.36))
        _lines(figure.add_subplot(inner[0]), figure.add_subplot(inner[1]), lines)
    figure.suptitle("spikeloom beside its peers", fontsize=14, fontweight="bold", x=0.01, ha="left")
    handles = [Patch(color=COLOURS[kind], label=text) for kind, text in KINDS.items()]
    figure.legend(handles=handles, loc="upper right", ncols=len(KINDS), frameon=False, fontsize=9)
    scales = "axes are logarithmic, x is times the floor"
    about = f"{facts['processor']}, {facts['threads']} threads, median of {facts['repeats']}, {facts['date']}; {scales}"
    figure.supxlabel(about, fontsize=8, x=0.01, ha="left", color="#607d8b")
    return figure


def _bars(axes: Axes, work: Work, case: Case, rows: list[Row]) -> None:
    rows = sorted(rows, key=figures.median)
    values = [figures.median(row) for row in rows]
    low, high = zip(*(figures.spread(row) for row in rows), strict=True)
    places = range(len(rows))
    axes.barh(places, values, height=0.72, color=[COLOURS[SYSTEMS[row.system].kind] for row in rows], zorder=2)
    axes.hlines(places, low, high, color=INK, linewidth=1, zorder=3)
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 2.5, max(values) * 4)
    if base := figures.floor(rows):
        axes.axvline(figures.median(base), color=COLOURS["floor"], linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for place, row, value, end in zip(places, rows, values, high, strict=True):
        times = figures.ratio(row, rows)
        text = duration(value) if times is None or row.system == "floor" else f"{duration(value)}   {times:.2g} x"
        axes.text(max(value, end) * 1.07, place, text, va="center", fontsize=8, zorder=4, bbox=WHITE)
    axes.set_yticks(places, [SYSTEMS[row.system].title for row in rows])
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        if SYSTEMS[row.system].kind == "ours":
            label.set_fontweight("bold")
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
    axes.set_title(f"({work.letter}) {work.title}\n{case.sizes}; {case.label}", fontsize=9.5, loc="left")
    _bare(axes, "x")


def _lines(axes: Axes, beside: Axes, panels: list[Panel]) -> None:
    """Nanoseconds per neuron and step over the number of lanes."""
    names = [name for name in SYSTEMS if name != "floor" and any(r.system == name for p in panels for r in p[2])]
    ends = []
    for k, name in enumerate(names):
        points = [
            (case.batch * case.hidden, figures.per_step(row, case))
            for _, case, rows in panels
            for row in rows
            if row.system == name
        ]
        kind = SYSTEMS[name].kind
        strong = kind == "ours"
        shades, place = SHADES[kind], [n for n in names if SYSTEMS[n].kind == kind].index(name)
        axes.plot(
            *zip(*points, strict=True),
            color=shades[place % len(shades)],
            marker=MARKERS[k % len(MARKERS)],
            markersize=5,
            linewidth=2.2 if strong else 1.3,
            zorder=3 if strong else 2,
            label=SYSTEMS[name].title,
        )
        ends.append((points[-1][1], name))
    copies = [(c.batch * c.hidden, figures.bandwidth(row, c)) for _, c, rows in panels if (row := figures.floor(rows))]
    axes.set_yscale("log")
    if copies:
        # GB/s is bytes per nanosecond.
        limit = [figures.BYTES / gigabytes for _, gigabytes in copies]
        axes.plot([lanes for lanes, _ in copies], limit, color=COLOURS["floor"], linestyle=(0, (4, 3)), zorder=1)
        note = {"xytext": (0, -5), "textcoords": "offset points", "va": "top", "ha": "right", "fontsize": 8}
        axes.annotate("20 bytes at the speed of a copy", (copies[-1][0], limit[-1]), color="#607d8b", **note)
        axes.set_ylim(bottom=min(limit) / 2)
    axes.set_xscale("log", base=2)
    lanes = [case.batch * case.hidden for _, case, _ in panels]
    axes.set_xticks(
        lanes, [f"{n // 2**20}M" if n >= 2**20 else f"{n // 2**10}k" if n >= 2**10 else f"{n}" for n in lanes]
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("lanes (batch x neurons)")
    work = panels[0][0]
    axes.set_title(f"({work.letter}) {work.title}\nns per neuron and step", fontsize=9.5, loc="left")
    _bare(axes, "y")
    # In the order in which the lines end, so that the legend reads like the picture.
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda k: -ends[k][0])
    beside.axis("off")
    beside.legend([handles[k] for k in order], [labels[k] for k in order], loc="center left", frameon=False)


def _bare(axes: Axes, grid: str) -> None:
    axes.grid(axis=grid, color=FAINT, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, which="both")
    for side in ("top", "right", "left" if grid == "x" else "bottom"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color("#b0bec5")
