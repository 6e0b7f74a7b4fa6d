"""The results as a page of Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from . import figures
from .systems import SYSTEMS, System
from .timing import Results, Row
from .work import Case, Work


def page(results: Results, works: list[Work], systems: list[System], facts: dict[str, str], quick: bool) -> str:
    """The whole page.

    Args:
        results: what was measured.
        works, systems: what was asked for.
        facts: the machine, the command, the date: name -> text.
        quick: whether the sizes were the small ones.
    """
    parts = ["# spikeloom beside its peers", _preamble(quick), _pairs(facts)]
    for work in works:
        parts += [f"## ({work.letter}) {work.title}", work.what, *_tables(work, results.rows, quick)]
    parts += ["## What each system runs", *_systems(systems, results)]
    return "\n\n".join(parts) + "\n"


def _preamble(quick: bool) -> str:
    small = "**A quick run: small sizes, which say nothing about speed.** " if quick else ""
    return (
        f"{small}Each system in its own process, all timed in turn, again and again; one computes at a time. Times "
        "are medians, with the quartiles behind them. A first call, in a column of its own, holds what is compiled or "
        "set up then, and is in no median. All in float32, with equal weights up to the factor at which each spiking "
        "layer fires in 10 % of its steps; Adam trains the weights only. The floor is the same step without neurons, "
        "on dense input."
    )


def _pairs(facts: dict[str, str]) -> str:
    return "\n".join(f"- {name}: {text}" for name, text in facts.items())


def _tables(work: Work, rows: list[Row], quick: bool) -> Iterator[str]:
    cases = work.sizes(quick)
    for case in cases:
        chosen = [row for row in rows if (row.work, row.case) == (work.letter, case.label)]
        if not chosen:
            continue
        columns = MEMORY if work.measure == "bytes" else NEURON if case.network == "neuron" else STEP
        yield f"### {case.label}: {case.sizes}"
        yield _table(["system", *columns], [[_title(row), *_cells(row, chosen, case, columns)] for row in chosen])
        if found := figures.rivalries(chosen):
            how, best = ("as fast as", "fastest") if work.measure == "seconds" else ("as little as", "leanest")
            lines = [
                (SYSTEMS[r.ours].title, f"{r.times:.2g} times {how}", SYSTEMS[r.peer].title, r.kind) for r in found
            ]
            yield "\n".join(f"- {ours}: {times} {peer}, the {best} {kind} peer" for ours, times, peer, kind in lines)
    if work.letter == "b" and not quick and (shared := list(_longer(rows))):
        yield "### Ten times the steps: (b) over (a) at density 0.05"
        yield _table(["system", "(b) / (a)"], shared)


def _longer(rows: list[Row]) -> Iterator[list[str]]:
    short = {r.system: r for r in rows if (r.work, r.case) == ("a", "density 0.05") and r.samples}
    for row in rows:
        if row.work == "b" and row.samples and row.system in short:
            yield [_title(row), f"{figures.median(row) / figures.median(short[row.system]):.2f}"]


Cell = Callable[[Row, list[Row], Case], str]


def _time(row: Row, rows: list[Row], case: Case) -> str:
    return duration(figures.median(row))


def _quartiles(row: Row, rows: list[Row], case: Case) -> str:
    return " to ".join(duration(value) for value in figures.spread(row))


def _ratio(row: Row, rows: list[Row], case: Case) -> str:
    times = figures.ratio(row, rows)
    return f"{times:.2f}" if times is not None else ""


def _first(row: Row, rows: list[Row], case: Case) -> str:
    return duration(row.first) if row.first is not None else ""


def _rate(row: Row, rows: list[Row], case: Case) -> str:
    return f"{row.rate:.1%}".replace("%", " %") if row.rate is not None else ""


def _remark(row: Row, rows: list[Row], case: Case) -> str:
    return row.remark


def _nanoseconds(row: Row, rows: list[Row], case: Case) -> str:
    return f"{figures.per_step(row, case):.2f}" if row.system != "floor" else ""


def _bandwidth(row: Row, rows: list[Row], case: Case) -> str:
    return f"{figures.bandwidth(row, case):.2f}"


def _copy_share(row: Row, rows: list[Row], case: Case) -> str:
    base = figures.floor(rows)
    return f"{figures.bandwidth(row, case) / figures.bandwidth(base, case):.2f}" if base else ""


def _bytes(row: Row, rows: list[Row], case: Case) -> str:
    return size(figures.median(row))


STEP: dict[str, Cell] = {
    "time": _time,
    "quartiles": _quartiles,
    "times the floor": _ratio,
    "first call": _first,
    "hidden rate": _rate,
    "ran": _remark,
}
NEURON: dict[str, Cell] = {
    "time": _time,
    "quartiles": _quartiles,
    "ns per neuron and step": _nanoseconds,
    "GB/s at 20 bytes": _bandwidth,
    "share of a copy's": _copy_share,
    "first call": _first,
    "rate": _rate,
    "ran": _remark,
}
MEMORY: dict[str, Cell] = {"peak": _bytes, "times the floor": _ratio, "ran": _remark}


def _cells(row: Row, rows: list[Row], case: Case, columns: dict[str, Cell]) -> list[str]:
    if row.reason:
        return [f"none: {row.reason}".replace("|", "/"), *[""] * (len(columns) - 1)]
    return [cell(row, rows, case) for cell in columns.values()]


def _title(row: Row) -> str:
    system = SYSTEMS[row.system]
    return f"**{system.title}**" if system.kind == "ours" else system.title


def _systems(systems: list[System], results: Results) -> Iterator[str]:
    rows = []
    for system in systems:
        versions = results.versions.get(system.name, {})
        rows.append(
            [system.title, system.neuron, system.mode, ", ".join(f"{name} {v}" for name, v in versions.items())]
        )
    yield _table(["system", "neuron", "mode", "versions"], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:" if head[1] in ("time", "peak", "(b) / (a)") else "---"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def duration(seconds: float) -> str:
    """Three digits, in the unit that fits."""
    for unit, size in (("s", 1), ("ms", 1e-3)):
        if seconds >= size * 0.9995:
            return f"{seconds / size:.3g} {unit}" if seconds / size < 999.5 else f"{seconds / size:.0f} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def size(count: float) -> str:
    """Bytes, in MiB from one of them up."""
    return f"{count / 2**20:.0f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"
