"""Engines: what runs the time loop. `eager` is the reference and works everywhere."""

from . import eager
from .check import check_step as check_step
from .loop import Engine as Engine
from .loop import Feedback as Feedback
from .loop import Loop as Loop
from .loop import LoopState as LoopState
from .loop import Pass as Pass
from .loop import Source as Source

ENGINES: dict[str, Engine] = {"eager": eager.run}


def choose(name: str) -> tuple[str, Engine]:
    """The engine of that name, or the best one for "auto".

    Raises:
        ValueError: no such engine.
    """
    if name == "auto":
        name = "eager"
    if name not in ENGINES:
        choice = ", ".join(repr(n) for n in ("auto", *ENGINES))
        raise ValueError(f"got engine={name!r}; this version has {choice}.")
    return name, ENGINES[name]
