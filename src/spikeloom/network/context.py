"""What one `run` sets, for layers anywhere inside a network to read."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..capture import capturing
from ..engine.transforms import exported
from ..gradients import BPTT


@dataclass
class Context:
    """Settings of a run, and what layers report to it.

    `names` maps the identity of each module of the network to its path; `states` holds the state that each layer starts
    from where the network itself passes none, and `final` the one it ended with.
    """

    gradient: Any = field(default_factory=BPTT)
    engine: str = "auto"
    surrogate: Any = None
    record: tuple[str, ...] = ()
    lengths: Tensor | None = None
    seed: int | None = None
    drawn: Tensor | None = None
    names: dict[int, str] = field(default_factory=dict)
    states: dict[str, Any] = field(default_factory=dict)
    final: dict[str, Any] = field(default_factory=dict)
    records: dict[str, list[Tensor]] = field(default_factory=dict)
    engines: dict[str, str] = field(default_factory=dict)
    products: dict[str, str] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    available: dict[str, tuple[str, ...]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    def path(self, module: nn.Module, continues: bool) -> str:
        """Where a module stands in the network.

        A call that is handed a state goes on with the last call of the same module; one that starts afresh for the
        second time is another use of it, and gets "[1]" behind its path.
        """
        path = self.names.get(id(module), type(module).__name__)
        count = self.calls.get(path, -1)
        if not continues or count < 0:
            count += 1
            self.calls[path] = count
        return f"{path}[{count}]" if count else path

    def wanted(self, path: str, available: tuple[str, ...]) -> tuple[str, ...]:
        """Which of a layer's names are to be recorded."""
        self.available[path] = available
        if not self.record:
            return ()
        return tuple(name for name in available if name in self.record or _key(path, name) in self.record)

    @property
    def known(self) -> set[str]:
        """All that can be recorded in the layers that ran, by name and by path."""
        everywhere = {name for names in self.available.values() for name in names}
        return everywhere | {_key(path, name) for path, names in self.available.items() for name in names}

    def keep(self, path: str, records: dict[str, Tensor]) -> None:
        for name, tensor in records.items():
            self.records.setdefault(_key(path, name), []).append(tensor)

    def noise_seed(self, device: torch.device) -> int | Tensor:
        """The run's seed; drawn from torch's generator when noise is first needed, so that a network without noise
        leaves the generator alone and `torch.manual_seed` repeats one with it."""
        if self.seed is None and capturing():
            # The graph draws one for each replay.
            if self.drawn is None:
                self.drawn = torch.randint(0, 2**62, (), device=device)
            return self.drawn
        if self.seed is None and exported():
            raise ValueError(
                "a network with noise is exported with a seed: let the exported module call "
                "spikeloom.run(network, x, seed=0)."
            )
        if self.seed is None:
            self.seed = int(torch.randint(0, 2**62, (), device="cpu"))
        return self.seed


def _key(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


ACTIVE: ContextVar[Context | None] = ContextVar("spikeloom_run", default=None)


class _Runs:
    """Whether a run is under way anywhere: torch.compile cannot ask a context variable."""

    def __init__(self) -> None:
        self.under_way, self._count, self._lock = False, 0, threading.Lock()

    def add(self, change: int) -> None:
        with self._lock:
            self._count += change
            self.under_way = self._count > 0


RUNS = _Runs()


@contextmanager
def entered(context: Context) -> Iterator[None]:
    """Let the layers that are called within read this context."""
    token = ACTIVE.set(context)
    RUNS.add(1)
    try:
        yield
    finally:
        RUNS.add(-1)
        ACTIVE.reset(token)
