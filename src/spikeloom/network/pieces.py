"""Checkpoints over time through all layers: a network runs in pieces, and only the states between them are kept."""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from ..events import Events
from .context import Context, entered

NEW = ("states", "final", "records", "engines", "products", "available", "calls")  # of each piece


def piece_length(steps: int) -> int:
    """Steps of a piece: as many as there are pieces, so that what is kept and what is computed again are balanced."""
    return max(1, math.isqrt(max(0, steps - 1)) + 1)


def run_in_pieces(network: nn.Module, context: Context, inputs: Any, state: Any, threads_itself: bool) -> Any:
    """A network's output and state, as one call yields them, with what was recorded added to the context.

    Modules that look at all steps at once (normalisation, a dropout mask for all steps) see a piece at a time.
    """
    steps = _steps(inputs)
    length = piece_length(steps)
    outputs: list[Any] = []
    for start in range(0, max(1, steps), length):
        stop = min(start + length, steps)
        part = tree_map(lambda x, a=start, b=stop: _rows(x, a, b), inputs, is_leaf=_are_events)

        def piece(part: Any, state: Any, start: int = start, stop: int = stop) -> Any:
            # A piece of events is a copy, so each is cut where it is used, and cut again for the backward pass.
            part = tree_map(lambda x: x.between(start, stop) if _are_events(x) else x, part, is_leaf=_are_events)
            return _piece(network, context, part, state, start, stop, threads_itself)

        kept: dict[str, Any] = {}

        def first_or_again(part: Any, state: Any, piece: Any = piece, kept: dict[str, Any] = kept) -> Any:
            output, after, records, inner = piece(part, state)
            kept.setdefault("context", inner)
            return output, after, records

        output, state, records = checkpoint(first_or_again, part, state, use_reentrant=False)  # type: ignore[misc]
        inner: Context = kept["context"]
        for name in ("engines", "products", "final", "available", "calls"):
            getattr(context, name).update(getattr(inner, name))
        context.seed = inner.seed
        for name, tensor in records.items():
            context.records.setdefault(name, []).append(tensor)
        outputs.append(output)
    if threads_itself:
        return torch.cat(outputs), state
    context.final = state
    return torch.cat(outputs)


def _piece(
    network: nn.Module, context: Context, part: Any, state: Any, start: int, stop: int, threads_itself: bool
) -> Any:
    """One piece, in a context of its own: it may be run again after the run has ended."""
    lengths = None if context.lengths is None else (context.lengths - start).clamp(0, stop - start)
    fresh: dict[str, Any] = {name: {} for name in NEW}
    inner = dataclasses.replace(context, lengths=lengths, **fresh)
    if not threads_itself:
        inner.states = dict(state or {})
    with entered(inner):
        found = network(part, state) if threads_itself else network(part)
    output, after = found if threads_itself else (found, inner.final)
    if not isinstance(output, Tensor):
        raise TypeError(f"BPTT(checkpoint='time') needs a network that returns a tensor, got {type(output).__name__}.")
    records = {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in inner.records.items()}
    return output, after, records, inner


def _steps(inputs: Any) -> int:
    leaf = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
    return int(leaf.shape[0])


def _are_events(x: Any) -> bool:
    return isinstance(x, Events)


def _rows(x: Any, start: int, stop: int) -> Any:
    return x[start:stop] if isinstance(x, Tensor) else x
