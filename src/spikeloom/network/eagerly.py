"""Keeping Python's business out of torch.compile's graphs."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch


def eagerly(method: Callable[..., Any]) -> Any:
    """A method that torch.compile leaves alone, with all that it calls.

    `torch.compiler.disable` imports the compiler, which takes as long as torch itself, and costs a little at each
    call; so it waits until somebody compiles.
    """
    disabled: list[Callable[..., Any]] = []

    @functools.wraps(method)
    def call(*arguments: Any) -> Any:
        if not _compiling():
            return method(*arguments)
        if not disabled:
            disabled.append(torch.compiler.disable(method))  # type: ignore[arg-type]
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
