"""Numbers from samples: medians, spreads, ratios, and who is the fastest of whom."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from .systems import SYSTEMS
from .timing import Row
from .work import Case

# Bytes that a neuron must move per step, forward and backward, in float32: read x, write s; read x and the gradient of
# s, write that of x.
BYTES = 20


def median(row: Row) -> float:
    """The middle sample."""
    return statistics.median(row.samples)


def spread(row: Row) -> tuple[float, float]:
    """First and third quartile; both the sample itself where there is one only."""
    if len(row.samples) < 2:
        return row.samples[0], row.samples[0]
    low, _, high = statistics.quantiles(row.samples, n=4, method="inclusive")
    return low, high


def floor(rows: list[Row]) -> Row | None:
    """The floor among the rows of one case."""
    return next((row for row in rows if row.system == "floor" and row.samples), None)


def ratio(row: Row, rows: list[Row]) -> float | None:
    """How many times the floor; None without one, or where it is zero, as small peaks of memory are."""
    base = floor(rows)
    return median(row) / median(base) if base and row.samples and median(base) > 0 else None


def per_step(row: Row, case: Case) -> float:
    """Nanoseconds per neuron and step."""
    return 1e9 * median(row) / case.neuron_steps


def bandwidth(row: Row, case: Case) -> float:
    """GB/s: of a copy, bytes read and written; of neurons, the bytes that they must move."""
    moved = 8 * case.copy if row.system == "floor" else BYTES * case.neuron_steps
    return moved / median(row) / 1e9


@dataclass(frozen=True)
class Rivalry:
    """One of ours beside the best peer of a kind."""

    kind: str
    ours: str
    peer: str
    times: float


def rivalries(rows: list[Row]) -> list[Rivalry]:
    """For each of ours but the eager reference: how many times it beats the best eager and the best jitted peer."""
    timed = [row for row in rows if row.samples]
    found = []
    for mine in timed:
        if SYSTEMS[mine.system].kind != "ours" or mine.system == "spikeloom-eager":
            continue
        for kind in ("eager", "jitted"):
            peers = [r for r in timed if SYSTEMS[r.system].kind == kind and SYSTEMS[r.system].comparable]
            if peers and median(mine) > 0:
                best = min(peers, key=median)
                found.append(Rivalry(kind, mine.system, best.system, median(best) / median(mine)))
    return found
