"""Run systems on works: interleaved, one process computing at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from .process import Process, WorkerError
from .systems import System
from .work import Case, Work

# Threads that wait for work spin for a while after their last; they must not do so into another system's time.
PAUSE = 0.03
Say = Callable[[str], None]


@dataclass
class Row:
    """One system on one case: samples in seconds (or bytes), or the reason why there are none."""

    work: str
    case: str
    system: str
    samples: list[float] = field(default_factory=list)
    first: float | None = None
    rate: float | None = None
    remark: str = ""
    reason: str = ""


@dataclass
class Results:
    """All rows, and the versions that the workers reported."""

    rows: list[Row] = field(default_factory=list)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)


class Pool:
    """The worker processes of the moment.

    Each work has its own, so that first calls are first calls and memory begins small; a quick run keeps them.
    """

    def __init__(self, systems: list[System], threads: int, patience: float, results: Results):
        self.systems, self.threads, self.patience, self.results = systems, threads, patience, results
        self.running: dict[str, Process] = {}
        self.failed: dict[str, str] = {}

    def start(self, returning: bool) -> None:
        """Start what does not run; all import at once, since nothing is timed yet."""
        self.failed = {}
        begun: dict[str, Process] = {}
        for system in self.systems:
            if system.name not in self.running:
                try:
                    begun[system.name] = Process(system, self.threads, self.patience, returning)
                except WorkerError as error:
                    self.failed[system.name] = str(error)
        for name, process in begun.items():
            try:
                self.results.versions[name] = process.receive()["versions"]
                self.running[name] = process
            except WorkerError as error:
                self.drop(name, process, str(error))

    def drop(self, name: str, process: Process, reason: str) -> None:
        """End a worker that failed."""
        process.close()
        self.running.pop(name, None)
        self.failed[name] = reason

    def close(self) -> None:
        """End all workers."""
        for process in self.running.values():
            process.close()
        self.running = {}


def measure(
    works: list[Work], systems: list[System], *, quick: bool, repeats: int, threads: int, patience: float, say: Say
) -> Results:
    """Time every system on every work.

    Args:
        works, systems: what to run, on what.
        quick: small sizes, and workers that live on from work to work.
        repeats: timed runs of each system and case.
        threads: of each system.
        patience: seconds after which a worker that does not answer is given up.
        say: where progress goes, a line at a time.
    """
    results = Results()
    pool = Pool(systems, threads, patience, results)
    try:
        for work in works:
            pool.systems = [s for s in systems if work.letter in s.works and work.letter not in s.lacks]
            pool.start(returning=work.measure == "bytes")
            for case in work.sizes(quick):
                say(f"({work.letter}) {work.title}, {case.label}: {'; '.join(s.title for s in pool.systems)}")
                rows = list(_absent(work, case, systems, pool))
                alive = {name: p for name, p in pool.running.items() if name in {s.name for s in pool.systems}}
                run = _memory if work.measure == "bytes" else _seconds
                rows += run(work, case, alive, pool, repeats)
                order = [s.name for s in systems]
                results.rows += sorted(rows, key=lambda row: order.index(row.system))
            if not quick:
                pool.close()
    finally:
        pool.close()
    return results


def _absent(work: Work, case: Case, systems: list[System], pool: Pool) -> Iterator[Row]:
    for system in systems:
        if work.letter in system.lacks:
            yield Row(work.letter, case.label, system.name, reason=system.lacks[work.letter])
        elif system.name in pool.failed and work.letter in system.works:
            yield Row(work.letter, case.label, system.name, reason=pool.failed[system.name])


def _attempt(row: Row, process: Process, pool: Pool, do: str, **request: Any) -> dict[str, Any] | None:
    """An answer, or None with the reason in the row and, if it is gone, the worker struck off."""
    try:
        return process.ask(do, **request)
    except WorkerError as error:
        row.reason, row.samples = str(error), []
        if process.child.poll() is not None:
            pool.drop(row.system, process, row.reason)
        return None


def _prepared(work: Work, case: Case, name: str, process: Process, pool: Pool) -> Row:
    row = Row(work.letter, case.label, name)
    answer = _attempt(row, process, pool, "prepare", case=asdict(case))
    if answer:
        row.first, row.rate, row.remark = answer["first"], answer["rate"], answer["remark"]
    return row


def _seconds(work: Work, case: Case, alive: dict[str, Process], pool: Pool, repeats: int) -> list[Row]:
    rows = {name: _prepared(work, case, name, process, pool) for name, process in alive.items()}
    for _ in range(repeats):
        for name, row in rows.items():
            if row.reason:
                continue
            time.sleep(PAUSE)
            answer = _attempt(row, alive[name], pool, "run")
            if answer:
                row.samples.append(answer["seconds"])
    for name in rows:
        if name in pool.running:
            alive[name].ask("forget")
    return list(rows.values())


def _memory(work: Work, case: Case, alive: dict[str, Process], pool: Pool, repeats: int) -> list[Row]:
    """One system after the other: peaks do not jitter, and side by side they might not fit."""
    rows = []
    for name, process in alive.items():
        row = _prepared(work, case, name, process, pool)
        for _ in range(0 if row.reason else min(repeats, 3)):
            answer = _attempt(row, process, pool, "memory")
            if answer:
                row.samples.append(float(answer["bytes"]))
                row.remark = " ".join(filter(None, [row.remark, answer["how"] if answer["how"] != "VmHWM" else ""]))
        if name in pool.running:
            process.ask("forget")
        rows.append(row)
    return rows
