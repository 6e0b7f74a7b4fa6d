"""Keeping Python's business out of torch.compile's graphs."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch

WHY = "this spikeloom layer is Python's business (see docs/engines.md): leave fullgraph=True out"


def from_version(*numbers: int) -> bool:
    """Whether torch is of this version or a later one."""
    return torch.__version__ >= numbers  # type: ignore[operator]


def unlooked(function: Callable[..., Any]) -> Any:
    """A function that is called while the compiler makes a graph, and whose result stands in the graph.

    That is what `torch.compiler.assume_constant_result` does, but that imports the compiler.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def eagerly(method: Callable[..., Any]) -> Any:
    """A method that torch.compile leaves alone, with all that it calls.

    `torch.compiler.disable` imports the compiler, which takes as long as torch itself, and costs a little at each
    call; so it waits until somebody compiles.
    """
    disabled: list[Callable[..., Any]] = []

    @unlooked
    def prepare() -> None:
        if not disabled:
            why: Any = {"reason": WHY} if from_version(2, 7) else {}
            disabled.append(torch.compiler.disable(method, **why))  # type: ignore[arg-type]

    @functools.wraps(method)
    def call(*arguments: Any) -> Any:
        if not _compiling():
            return method(*arguments)
        prepare()
        return disabled[0](*arguments)

    return call


def _compiling() -> bool:
    """Whether the compiler traces this, or would look at what is called from here."""
    if torch.compiler.is_compiling():
        return True
    if "torch._dynamo" not in sys.modules:
        return False
    callback = getattr(torch._C._dynamo.eval_frame, "get_eval_frame_callback", None)  # type: ignore[attr-defined]
    return callback is None or callback() is not None
