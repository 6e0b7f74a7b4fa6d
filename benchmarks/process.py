"""The parent's side of a worker: start it, ask it, and say why it failed."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

from .environments import OWN, python
from .systems import System

ROOT = Path(__file__).parents[1]


class WorkerError(RuntimeError):
    """A worker that cannot do its work; the text is the reason."""


class Process:
    """A worker process. Answers are read by a thread, so that one that never comes can be told.

    Raises:
        WorkerError: the system's environment is missing.
    """

    def __init__(self, system: System, threads: int, patience: float):
        self.system, self.patience = system, patience
        try:
            interpreter = python(system.environment)
        except FileNotFoundError as error:
            raise WorkerError(str(error)) from None
        options = {"runner": system.runner, "options": system.options, "threads": threads}
        self.log = tempfile.TemporaryFile("w+")
        self.child = subprocess.Popen(
            [interpreter, "-m", "benchmarks.worker", json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            cwd=ROOT,
            env=_environment(system, threads),
            text=True,
        )
        self.answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.send("hello")

    def send(self, do: str, **request: Any) -> None:
        """Send a request; its answer is to be received before the next."""
        assert self.child.stdin is not None
        try:
            self.child.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self.child.stdin.flush()
        except OSError:
            pass  # it has ended; receive says why

    def receive(self) -> dict[str, Any]:
        """The answer to the last request.

        Raises:
            WorkerError: the worker said that it failed, ended, or took longer than it may.
        """
        try:
            line = self.answers.get(timeout=self.patience)
        except queue.Empty:
            self.close()
            raise WorkerError(f"no answer within {self.patience:g} s") from None
        if not line:
            code = self.child.wait()
            self.log.seek(0)
            last = [text for text in self.log.read().splitlines() if text.strip()][-1:]
            self.close()
            how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
            raise WorkerError(": ".join([f"the worker {how}", *last]))
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send a request and receive its answer."""
        self.send(do, **request)
        return self.receive()

    def close(self) -> None:
        """End the process."""
        self.child.kill()
        self.child.wait()
        self.log.close()

    def _read(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            self.answers.put(line)
        self.answers.put("")


def _environment(system: System, threads: int) -> dict[str, str]:
    """The child's environment: our package findable, the thread pools of its libraries set before they start."""
    pools = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))
    inherited = os.environ.get("PYTHONPATH") if system.environment == OWN else None
    path = os.pathsep.join(filter(None, [str(ROOT), inherited]))
    return {**os.environ, **pools, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "JAX_PLATFORMS": "cpu"}
