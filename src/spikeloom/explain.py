"""What a neuron computes, from its equations to the code that runs: ``spikeloom explain NEURON``."""

import importlib
import inspect

import torch

from .engine import Loop
from .engine.generated import Wanted, source
from .engine.program import Program, program_of
from .neurons import Neuron
from .surrogates import SuperSpike, Surrogate


def find(name: str) -> type[Neuron]:
    """The neuron class of that name: one of the library's, or "module:Class".

    Raises:
        ValueError: there is none, with the names that there are.

    >>> find("LIF").__name__
    'LIF'
    """
    import spikeloom

    module, _, attribute = name.rpartition(":")
    found = getattr(importlib.import_module(module) if module else spikeloom, attribute, None)
    if not (isinstance(found, type) and issubclass(found, Neuron)) or found is Neuron:
        names = [n for n, v in vars(spikeloom).items() if isinstance(v, type) and issubclass(v, Neuron)]
        known = ", ".join(sorted(set(names) - {"Neuron"}))
        raise ValueError(f"there is no neuron named {name!r}; there are {known}, or write module:Class for your own.")
    return found


def traced(neuron: Neuron, surrogate: Surrogate | None = None, edge: str = "flow") -> Program:
    """The program of a neuron whose default port is driven.

    Args:
        neuron: the neuron.
        surrogate: stands for the derivative of a spike (default `SuperSpike()`).
        edge: "flow" or "detach", how gradients pass through the reset.

    Raises:
        ValueError: a step that no fused kernel can be made of; the operation is named.
    """
    shape = neuron.shape or (1,)
    loop = Loop(
        neuron=neuron,
        coefficients=neuron.rounded_coefficients(torch.float32),
        surrogate=surrogate or SuperSpike(),
        inputs={neuron.default_port: torch.zeros(1, 1, *shape)},
        shape=(1, *shape),
        steps=1,
        dtype=torch.float32,
        output_dtype=torch.float32,
    )
    return program_of(loop, edge)  # type: ignore[arg-type]


def explain(neuron: Neuron, surrogate: Surrogate | None = None, edge: str = "flow") -> str:
    """A neuron's equations, its step and transpose as traced, and the file of its row functions.

    Args and errors: see `traced`.

    >>> import spikeloom as sl
    >>> "v = t" in explain(sl.LIF())
    True
    """
    program = traced(neuron, surrogate, edge)
    wanted = Wanted(program.ports, program.coefficients)
    parts = [
        ("Equations", inspect.cleandoc(type(neuron).__doc__ or "").split("\nArgs:")[0].rstrip()),
        ("Step, as written", inspect.cleandoc(inspect.getsource(type(neuron).step))),
        ("Step, as traced", program.forward.text()),
        ("Transpose, as traced", program.backward.text()),
        ("Kernel's file, forward", source(program, Wanted(), False)),
        ("Kernel's file, backward", source(program, wanted, True)),
        ("Time loop", "spikeloom/engine/kernels.py: forward, backward"),
    ]
    return "\n\n".join(f"{title}\n{'=' * len(title)}\n\n{text}" for title, text in parts)
