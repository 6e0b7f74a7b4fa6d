"""Which engine runs a loop: the one that was named, or the fastest that can."""

import functools
import warnings

from . import eager, fused
from .loop import Engine, Loop, LoopState, Pass, ResetEdge
from .program import NoElementwiseForm
from .transforms import exported

ENGINES: dict[str, Engine] = {
    "eager": eager.run,
    "cpu": functools.partial(fused.run, device="cpu"),
    "gpu": functools.partial(fused.run, device="cuda"),
}
_warned: set[str] = set()


class Choice:
    """An engine that runs loops, and the name of what ran.

    Args:
        name: "auto" or the name of an engine, which then runs or raises.
    """

    def __init__(self, name: str):
        self.wanted, self.name = name, name

    def __call__(self, loop: Loop, state: LoopState, start: int, stop: int, edge: ResetEdge) -> Pass:
        if self.wanted != "auto":
            try:
                return ENGINES[self.wanted](loop, state, start, stop, edge)
            except (fused.Unsuited, NoElementwiseForm) as error:
                kind = type(loop.neuron).__name__
                raise ValueError(
                    f"engine={self.wanted!r} cannot run this {kind}: {error}. Write engine='auto' or engine='eager'."
                ) from error
        if exported():
            self.name = "eager"
            return eager.run(loop, state, start, stop, edge)
        try:
            found = fused.run(loop, state, start, stop, edge)
            self.name = "gpu" if found.output.device.type == "cuda" else "cpu"
            return found
        except (NoElementwiseForm, fused.NotInstalled) as error:
            kind = type(loop.neuron).__name__
            if kind not in _warned:
                _warned.add(kind)
                warnings.warn(f"{kind} runs on the eager engine, which is slower: {error}.", stacklevel=2)
        except fused.Unsuited:
            pass  # another device or a transform: nothing that a neuron's author could mend
        self.name = "eager"
        return eager.run(loop, state, start, stop, edge)


def choose(name: str) -> Choice:
    """The engine of that name; "auto" takes the fastest that can run the loop at hand.

    Raises:
        ValueError: no such engine.
    """
    if name != "auto" and name not in ENGINES:
        choice = ", ".join(repr(n) for n in ("auto", *ENGINES))
        raise ValueError(f"got engine={name!r}; this version has {choice}.")
    return Choice(name)
