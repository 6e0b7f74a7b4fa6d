"""The parent's side of a worker: start it, ask it, and say why it failed."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import IO, Any, cast

from .environments import OWN, python
from .systems import System

ROOT = Path(__file__).parents[1]

# glibc keeps freed blocks for later, where a step could use them unseen; this makes it return all from 64 KiB up. It
# costs time, so only workers whose memory is measured run with it.
RETURNING = {"MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_TRIM_THRESHOLD_": str(2**16)}


class WorkerError(RuntimeError):
    """A worker that cannot do its work; the text is the reason."""


class Process:
    """A worker process. Answers are read by a thread, so that one that never comes can be told.

    Args:
        system: what it runs.
        threads: of its libraries.
        patience: seconds to wait for an answer.
        returning: whether freed memory is to go back to the system at once.

    Raises:
        WorkerError: the system's environment is missing.
    """

    def __init__(self, system: System, threads: int, patience: float, returning: bool = False):
        self.system, self.patience = system, patience
        try:
            interpreter = python(system.environment)
        except FileNotFoundError as error:
            raise WorkerError(str(error)) from None
        options = {"runner": system.runner, "options": system.options, "threads": threads}
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed with the process
        self.child = subprocess.Popen(
            [interpreter, "-m", "benchmarks.worker", json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            cwd=ROOT,
            env=_environment(system, threads) | (RETURNING if returning else {}),
            text=True,
        )
        self.answers: queue.Queue[str] = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.send("hello")

    def send(self, do: str, **request: Any) -> None:
        """Send a request; its answer is to be received before the next."""
        with contextlib.suppress(OSError):  # it has ended; receive says why
            pipe = cast(IO[str], self.child.stdin)
            pipe.write(json.dumps({"do": do, **request}) + "\n")
            pipe.flush()

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
        self.reader.join()
        for pipe in filter(None, (self.child.stdin, self.child.stdout, self.log)):
            with contextlib.suppress(OSError):  # what was not sent to a process that had ended
                pipe.close()

    def _read(self) -> None:
        for line in self.child.stdout or ():
            self.answers.put(line)
        self.answers.put("")


def _environment(system: System, threads: int) -> dict[str, str]:
    """The child's environment: our package findable, the thread pools of its libraries set before they start."""
    pools = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))
    inherited = os.environ.get("PYTHONPATH") if system.environment == OWN else None
    path = os.pathsep.join(filter(None, [str(ROOT), inherited]))
    return {**os.environ, **pools, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "JAX_PLATFORMS": "cpu"}
