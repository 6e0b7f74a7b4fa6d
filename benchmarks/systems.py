"""The systems that are compared, what each of them runs, and what one has to know to read its row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["floor", "ours", "eager", "jitted"]


@dataclass(frozen=True)
class System:
    """One row of a table, and the process behind it."""

    name: str
    title: str
    kind: Kind
    environment: str
    runner: str
    neuron: str
    mode: str
    options: dict[str, Any] = field(default_factory=dict)
    works: str = "abcdef"
    # Letters of works that it cannot do, and why.
    lacks: dict[str, str] = field(default_factory=dict)
    # False for a neuron that computes something else: shown, but no rival.
    comparable: bool = True


OURS = "CubaLIF (current-based), exact, reset by subtraction"
NO_CONVOLUTION = {"e": "has no convolution of its own"}

SYSTEMS = {
    system.name: system
    for system in (
        System("floor", "floor", "floor", "own", "floor", "none", "the Linear or Conv layers alone, dense input"),
        System(
            "spikeloom-eager",
            "spikeloom, eager",
            "ours",
            "own",
            "ours",
            OURS,
            "engine='eager', dense input",
            {"engine": "eager"},
        ),
        System("spikeloom-dense", "spikeloom, dense", "ours", "own", "ours", OURS, "engine='auto', dense input"),
        System(
            "spikeloom-events",
            "spikeloom, events",
            "ours",
            "own",
            "ours",
            OURS,
            "engine='auto', input as sl.Events, as a data loader yields them",
            {"events": True},
            works="abcef",
        ),
        System(
            "spikeloom-sparing",
            "spikeloom, events, sparing memory",
            "ours",
            "own",
            "ours",
            OURS,
            "as above, with the gradient rule that recomputes instead of keeping",
            {"events": True, "sparing": True},
            works="f",
        ),
        System(
            "jax",
            "JAX, lax.scan",
            "jitted",
            "jax",
            "jax_scan",
            "the step of spikeloom's CubaLIF",
            "jitted training step, neurons in lax.scan, products of all steps at once; unrolling made it slower",
        ),
        System(
            "spyx",
            "Spyx",
            "jitted",
            "jax",
            "spyx",
            "LIF, reset by subtraction",
            "jitted training step, neurons under spyx.nn.run, products of all steps at once",
        ),
        System(
            "rockpool-jax",
            "Rockpool, JAX",
            "jitted",
            "jax",
            "rockpool_jax",
            "LIFJax (current-based), reset by subtraction, its own piecewise linear surrogate",
            "jitted training step, products of all steps at once",
            lacks=NO_CONVOLUTION,
        ),
        System(
            "spikingjelly",
            "SpikingJelly",
            "eager",
            "torch",
            "spikingjelly",
            "LIFNode, reset by subtraction, surrogate of width 1; with feedback, LinearRecurrentContainer around it",
            "multi-step mode, which on a CPU picks a loop in torch",
        ),
        System(
            "snntorch",
            "snnTorch",
            "eager",
            "torch",
            "snntorch",
            "Leaky, its fastest neuron with a reset; with feedback, RLeaky",
            "hidden state in the neuron, products of all steps at once, time unbound",
        ),
        System(
            "snntorch-parallel",
            "snnTorch, LeakyParallel (no reset)",
            "eager",
            "torch",
            "snntorch",
            "LeakyParallel: no reset, membrane clipped at zero, so another neuron",
            "all steps at once in nn.RNN",
            {"parallel": True},
            works="abdf",
            comparable=False,
        ),
        System(
            "norse",
            "Norse",
            "eager",
            "torch",
            "norse",
            "LIFBoxCell, its LIF with the least work, reset to zero; with feedback, LIFRecurrent (current-based)",
            "products of all steps at once, time unbound (its layers over time index it, which is slower)",
        ),
        System(
            "sinabs",
            "Sinabs",
            "eager",
            "torch",
            "sinabs",
            "LIF without synapse, one spike per step, reset by subtraction",
            "whole sequences, batch first; EXODUS, its fast way, needs a GPU",
        ),
        System(
            "rockpool",
            "Rockpool, torch",
            "eager",
            "torch",
            "rockpool",
            "LIFTorch (current-based), reset by subtraction, its own piecewise linear surrogate",
            "whole sequences, batch first",
            lacks=NO_CONVOLUTION,
        ),
    )
}


def chosen(words: list[str]) -> list[System]:
    """The systems that words name; `spikeloom` stands for all whose name begins so. The floor is always among them.

    Raises:
        ValueError: a word that names none.
    """
    names = {"floor"} if words else set(SYSTEMS)
    for word in words:
        found = {name for name in SYSTEMS if name == word or name.startswith(f"{word}-")}
        if not found:
            raise ValueError(f"There is no system '{word}'. Systems: {', '.join(SYSTEMS)}.")
        names |= found
    return [system for name, system in SYSTEMS.items() if name in names]
