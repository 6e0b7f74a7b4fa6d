"""Programs: a neuron's step and its transpose as elementwise graphs, traced once for each neuron and set of options."""

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..neurons import Neuron
from ..zero import ZERO
from .graph import Graph, reciprocals
from .loop import Loop, ResetEdge
from .trace import NoElementwiseForm, trace
from .transforms import unseen

# Two points at which every step is traced: both must give one graph, or the step looked at its input's values.
POINTS = ((0.31, 0.043), (-0.57, 0.081))


@dataclass(frozen=True, eq=False)
class Program:
    """The graphs of one step.

    Inputs are named "c.alpha" (coefficient), "z.v" (state before), "x.impulse" (port or noise), "alive" (a boolean,
    where samples have lengths); outputs "y" (what the neuron puts out), "z.v" (state after), "r.v_before_reset"
    (recorded). In the transpose, "g.y", "g.z.v", "g.r.v" are the gradients that arrive at those outputs, and its own
    outputs "d.x.impulse", "d.z.v", "d.c.alpha" the gradients that leave.

    Attributes:
        name: of the neuron's class.
        coefficients, states, ports, records: names of what goes in and out, in order.
        alive: whether samples have lengths.
        dtype: of the state.
        forward: the step's graph.
        backward: the transpose's, for all that can have a gradient.
        step: the step itself, in torch: from tensors named as the graph's inputs to tensors named as its outputs.
        key: stands for the program where only text can.
    """

    name: str
    coefficients: tuple[str, ...]
    states: tuple[str, ...]
    ports: tuple[str, ...]
    records: tuple[str, ...]
    alive: bool
    dtype: torch.dtype
    forward: Graph
    backward: Graph
    step: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    key: str

    @functools.cached_property
    def advance(self) -> Graph:
        """The step's graph for the states alone."""
        return self.forward.only([f"z.{name}" for name in self.states])

    @functools.cached_property
    def idle(self) -> frozenset[str]:
        """Coefficients that the step does not look at, so that their gradient is zero whatever arrives."""
        return frozenset(n for n in self.coefficients if self.backward.is_zero(f"d.c.{n}"))

    @functools.cache  # noqa: B019 (programs are kept anyway)
    def transpose(self, coefficients: tuple[str, ...], ports: tuple[str, ...]) -> Graph:
        """The transpose for the states and for these coefficients and ports."""
        wanted = [f"d.x.{n}" for n in ports] + [f"d.z.{n}" for n in self.states] + [f"d.c.{n}" for n in coefficients]
        return self.backward.only(wanted)

    def text(self) -> str:
        """Both graphs, readable."""
        return f"step of {self.name}\n{self.forward.text()}\n\ntranspose\n{self.backward.text()}"


PROGRAMS: dict[str, Program] = {}  # key -> program, for the operators, which are given the key
_known: dict[Any, Program | NoElementwiseForm] = {}


def known_program(key: str) -> Program:
    """The program that a key stands for.

    Raises:
        RuntimeError: this process has not traced it, but a graph of another one holds its key.
    """
    if key not in PROGRAMS:
        raise RuntimeError(
            f"this graph runs a neuron's step {key} that this process does not know. Call the network once before, or "
            "export it with engine='eager', whose graphs need nothing of spikeloom."
        )
    return PROGRAMS[key]


def program_of(loop: Loop, edge: ResetEdge) -> Program:
    """The program of a loop's step, traced when it is first asked for.

    Raises:
        NoElementwiseForm: the step holds an operation without an elementwise form, named.
    """
    neuron, c = loop.neuron, loop.coefficients
    driven = tuple(n for n in neuron.ports if n in loop.inputs or (loop.feedback and loop.feedback.port == n))
    options = (
        *(type(neuron), neuron.reset, neuron.refractory, neuron.max_spikes, neuron.comparator, neuron.noises, driven),
        *(type(c), tuple(n for n, v in zip(c._fields, c, strict=True) if v is ZERO), loop.surrogate, edge),
        *(loop.record, loop.alive is not None, loop.dtype),
    )
    if options not in _known:
        try:
            _known[options] = _trace(loop, driven, edge)
        except NoElementwiseForm as error:
            _known[options] = error
    found = _known[options]
    if isinstance(found, NoElementwiseForm):
        raise NoElementwiseForm(str(found))
    return found


def _trace(loop: Loop, driven: tuple[str, ...], edge: ResetEdge) -> Program:
    neuron, c = loop.neuron, loop.coefficients
    coefficients = tuple(n for n, v in zip(c._fields, c, strict=True) if v is not ZERO)
    states = (*neuron.declared_states, *(("refractory",) if neuron.refractory else ()))
    ports = (*driven, *neuron.noises)
    records = tuple(n for n in loop.record if n not in ("spikes", "output"))
    named = {"name": type(neuron).__name__, "coefficients": coefficients, "states": states}
    named |= {"ports": ports, "records": records}
    # Out of reach of what surrounds the call: compilers, autocast, checkpointing's hooks, which replace saved tensors.
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)
    with unseen(), torch.inference_mode(False), torch.autocast("cpu", enabled=False), torch.enable_grad(), hooks:
        graphs = [_graphs(loop, named, edge, *point) for point in POINTS]
    if graphs[0] != graphs[1]:
        raise NoElementwiseForm(f"{named['name']}.step does different things for different numbers")
    forward, backward = graphs[0]
    given = (loop.dtype, coefficients, states, ports, records, loop.alive is not None, forward, backward, _form())
    key = hashlib.sha256(repr(given).encode()).hexdigest()[:16]
    # What a step needs to know of a loop, and none of its tensors, for programs are kept.
    bare = replace(loop, inputs={}, sources={}, feedback=None, coefficients=type(c)(*(ZERO for _ in c)))
    bare = replace(bare, alive=None)
    step = functools.partial(_step, bare, named, edge)
    program = Program(
        **named, alive=loop.alive is not None, dtype=loop.dtype, forward=forward, backward=backward, step=step, key=key
    )
    return PROGRAMS.setdefault(key, program)


@functools.cache
def _form() -> str:
    """What says how results lie in memory. Compilers keep graphs on disk, and with another form they are others."""
    return "".join((Path(__file__).parent / name).read_text() for name in ("fake.py", "layout.py"))


def _graphs(loop: Loop, named: dict[str, Any], edge: ResetEdge, start: float, pace: float) -> tuple[Graph, Graph]:
    dtype = loop.dtype
    count = iter(range(1000))

    def number() -> Tensor:
        # Distinct, of both signs, and away from where a step has a kink by design (0, 1).
        k = next(count)
        return torch.tensor([start + pace * k], dtype=dtype, device="cpu")

    leaves = {f"c.{n}": number() for n in named["coefficients"]}
    leaves |= {f"z.{n}": number() for n in named["states"]}
    leaves |= {f"x.{n}": number() for n in named["ports"]}
    alive = {"alive": torch.ones(1, dtype=torch.bool, device="cpu")} if loop.alive is not None else {}

    def step(given: Any) -> dict[str, Any]:
        return _step(loop, named, edge, given)

    forward = trace(step, leaves | alive, dtype)
    names = ["y", *(f"z.{n}" for n in named["states"]), *(f"r.{n}" for n in named["records"])]
    arriving = {f"g.{n}": number() for n in names}
    for leaf in leaves.values():
        leaf.requires_grad_()

    def transpose(given: Any) -> dict[str, Any]:
        with torch.enable_grad():
            out = step(given)
            # As one number, for torch imports a library of symbols (0.6 s) to look at gradients that are handed to it.
            total = torch.zeros(1, dtype=dtype, device="cpu")
            for name in names:
                if out[name].requires_grad:
                    total = total + out[name] * given[f"g.{name}"]
            if not total.requires_grad:
                return dict.fromkeys([f"d.{n}" for n in leaves])
            # create_graph keeps autograd from adding in place, which a trace by identity would not see.
            gradients = torch.autograd.grad(total, list(leaves.values()), create_graph=True, allow_unused=True)
        return {f"d.{n}": g for n, g in zip(leaves, gradients, strict=True)}

    return forward, reciprocals(trace(transpose, leaves | alive | arriving, dtype))


def _step(loop: Loop, named: dict[str, Any], edge: ResetEdge, given: Any) -> dict[str, Any]:
    """One step on named numbers, as the time loop takes it."""
    neuron: Neuron = loop.neuron
    c = type(loop.coefficients)(*(given.get(f"c.{n}", ZERO) for n in loop.coefficients._fields))
    kept = {n: torch.zeros(1, dtype=torch.int64, device="cpu") for n in ("clock", "stream")} if neuron.noises else {}
    z = type(neuron).state_type(**{n: given[f"z.{n}"] for n in named["states"]}, **kept)
    inputs = {n: given[f"x.{n}"] for n in named["ports"]}
    y, after, fire = neuron.advance(c, z, inputs, loop.surrogate, edge)
    out = {"y": y, **{f"z.{n}": getattr(after, n) for n in named["states"]}}
    if "alive" in given:
        zero = torch.zeros_like(y)
        out = {n: torch.where(given["alive"], v, zero if n == "y" else given[n]) for n, v in out.items()}
    for name in named["records"]:
        if name in named["states"]:
            value = out[f"z.{name}"]
        else:
            port = inputs.get(neuron.default_port)
            value = fire.before_reset if name == "v_before_reset" else port
            value = torch.zeros_like(y) if value is None else value
            value = torch.where(given["alive"], value, torch.zeros_like(value)) if "alive" in given else value
        out[f"r.{name}"] = value
    return out
