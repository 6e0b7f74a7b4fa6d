"""The process of one system: reads a request per line, answers with a line of JSON.

Started by `benchmarks.process` with the system's own Python, so it imports nothing but its runner.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

from .memory import peak
from .prepared import Prepared, Runner, probe
from .work import Case

# A timed run lasts at least this long, so that a step of a millisecond is not lost in the clock's noise.
AT_LEAST = 0.05


class Worker:
    """Answers requests; keeps the network of the last case."""

    def __init__(self, runner: str, options: dict[str, Any], threads: int):
        self.start = lambda: importlib.import_module(f"benchmarks.runners.{runner}").load(threads, **options)
        self.runner: Runner | None = None
        self.prepared: Prepared | None = None
        self.loops = 1

    def hello(self) -> dict[str, Any]:
        """Import the system."""
        self.runner = self.start()
        return {"versions": self.runner.versions()}

    def prepare(self, case: dict[str, Any]) -> dict[str, Any]:
        """Build a network, time its first step (which compiles, where something does), check what it computes."""
        assert self.runner is not None
        self.prepared = None  # before the next one takes memory
        case["channels"] = tuple(case["channels"])
        size = Case(**case)
        self.prepared = prepared = self.runner.build(size)
        first = seconds(prepared.step)
        prepared.calibrate()
        rate = probe(prepared, size)
        self.loops = max(1, min(100, round(AT_LEAST / seconds(prepared.step))))
        return {"first": first, "rate": rate, "remark": prepared.remark()}

    def run(self) -> dict[str, Any]:
        """Time the prepared work, as it is in the middle of a training: threads awake, caches filled."""
        assert self.prepared is not None
        self.prepared.step()
        return {"seconds": seconds(self.prepared.step, self.loops)}

    def memory(self) -> dict[str, Any]:
        """Peak memory of the prepared work."""
        assert self.prepared is not None
        risen, how = peak(self.prepared.step)
        return {"bytes": risen, "how": how}

    def forget(self) -> dict[str, Any]:
        """Let go of the prepared work."""
        self.prepared = None
        return {}


def seconds(step: Callable[[], None], loops: int = 1) -> float:
    """Time of one step, as the mean of several."""
    start = time.perf_counter()
    for _ in range(loops):
        step()
    return (time.perf_counter() - start) / loops


def main() -> None:
    """Serve until the parent closes the pipe."""
    # Libraries print on import; what they say goes to the log, the pipe stays ours.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    worker = Worker(**json.loads(sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except Exception as error:
            sys.excepthook(type(error), error, error.__traceback__)
            text = str(error).strip().splitlines() or [""]
            answer = {"error": f"{type(error).__name__}: {text[0]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
