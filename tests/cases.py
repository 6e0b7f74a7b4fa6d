"""One pass by the reference engine and by a fused one, forward and backward, for the tests of engines to compare."""

from dataclasses import dataclass, field
from typing import Any

import torch

from spikeloom.engine import eager
from spikeloom.engine.generated import Wanted
from spikeloom.engine.loop import Loop, LoopState
from spikeloom.engine.noise import draw
from spikeloom.engine.program import Program, program_of
from tables import SURROGATES, make


@dataclass
class Case:
    """A neuron and random numbers for all that goes into its loop; every coefficient and input has a gradient."""

    name: str
    reset: str | None = None
    surrogate: Any = field(default_factory=lambda: SURROGATES["ATan"])
    edge: str = "flow"
    steps: int = 5
    batch: int = 3
    shape: tuple[int, ...] = (5,)
    per_lane: bool = True  # coefficients for every neuron, not for the layer
    dtype: torch.dtype = torch.float32
    input_dtype: torch.dtype | None = None
    device: str = "cpu"
    lengths: bool = False
    record: tuple[str, ...] = ()
    ports: int = 2
    options: dict[str, Any] = field(default_factory=dict)
    neuron: Any = None  # instead of the one of that name

    def __post_init__(self):
        neuron = self.neuron or make(self.name, self.shape, reset=self.reset, **self.options)
        full = (self.batch, *self.shape)
        self.kind, as_state = self.input_dtype or self.dtype, {"dtype": self.dtype, "device": self.device}

        def spread(value):
            wide = value.expand(self.shape) if self.per_lane else value
            return (wide * (1 + 0.1 * torch.rand(wide.shape))).to(**as_state).requires_grad_()

        rounded = neuron.rounded_coefficients(self.dtype)
        self.coefficients = type(rounded)(*(spread(v) if isinstance(v, torch.Tensor) else v for v in rounded))
        fresh = neuron.initial_state(self.batch, self.shape, self.dtype, torch.device("cpu"))
        self.state = fresh._replace(
            **{n: (torch.randn(full) / 2).to(**as_state).requires_grad_() for n in neuron.declared_states}
        )
        if neuron.refractory:
            left = torch.randint(0, 3, full).to(**as_state)
            self.state = self.state._replace(refractory=left.requires_grad_())
        self.inputs = {p: self.place(torch.randn(self.steps, *full)) for p in neuron.ports[: self.ports]}
        self.noise = {}
        if neuron.noises:
            self.state = self.state._replace(**{n: getattr(self.state, n).to(self.device) for n in ("clock", "stream")})
            self.noise = {n: self.drawn(neuron, k) for k, n in enumerate(neuron.noises)}
        self.neuron = neuron
        self.limits = torch.arange(self.batch, device=self.device) % (self.steps + 1) if self.lengths else None

    def drawn(self, neuron, which):
        """The numbers that the reference engine draws for a noise, of all steps."""
        rows, kind = [], neuron.declared_noise[neuron.noises[which]].distribution
        for t in range(self.steps):
            clock, full = self.state.clock + t, (self.batch, *self.shape)
            rows += draw(self.state.stream, clock, which, 1, full, self.dtype, kind)
        return torch.stack(rows).to(self.kind) if rows else torch.zeros(0, self.batch, *self.shape, dtype=self.kind)

    def place(self, x):
        return x.to(self.kind).to(self.device).requires_grad_()

    @property
    def loop(self) -> Loop:
        alive = None
        if self.limits is not None:
            alive = torch.arange(self.steps, device=self.device)[:, None] < self.limits
            alive = alive.reshape(self.steps, self.batch, *(1,) * len(self.shape))
        return Loop(
            neuron=self.neuron,
            coefficients=self.coefficients,
            surrogate=self.surrogate,
            inputs=self.inputs,
            shape=(self.batch, *self.shape),
            steps=self.steps,
            dtype=self.dtype,
            output_dtype=self.kind if self.neuron.spiking else self.dtype,
            alive=alive,
            record=self.record,
        )

    @property
    def program(self) -> Program:
        return program_of(self.loop, self.edge)  # type: ignore[arg-type]

    @property
    def driven(self) -> tuple[str, ...]:
        """Ports that are fed, noise apart: what has a gradient."""
        return tuple(n for n in self.program.ports if n not in self.noise)

    def leaves(self) -> list[torch.Tensor]:
        p = self.program
        return [
            *(self.inputs[n] for n in self.driven),
            *(getattr(self.state, n) for n in p.states),
            *(getattr(self.coefficients, n) for n in p.coefficients),
        ]

    def reference(self) -> list[torch.Tensor]:
        """Output, final states and records of the reference engine, with their history."""
        found = eager.run(self.loop, LoopState(self.state), 0, self.steps, self.edge)  # type: ignore[arg-type]
        states = [getattr(found.state.neuron, n) for n in self.program.states]
        return [found.output, *states, *(found.records[n] for n in self.program.records)]

    def gradients(self, outputs: list[torch.Tensor], arriving: list[torch.Tensor | None]) -> list[torch.Tensor]:
        """Gradients of the reference engine at `leaves()`."""
        pairs = [(o, g) for o, g in zip(outputs, arriving) if g is not None and o.requires_grad]
        outputs, given = zip(*pairs)
        found = torch.autograd.grad(outputs, self.leaves(), given, allow_unused=True)
        return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(self.leaves(), found)]

    def fused(self, engine: Any, every: int) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Output, final states and records of an engine, and the states that it kept."""
        p = self.program
        with torch.no_grad():
            y, finals, records, kept = engine.forward(
                p,
                every,
                self.limits,
                [getattr(self.coefficients, n) for n in p.coefficients],
                [getattr(self.state, n) for n in p.states],
                [(self.inputs | self.noise)[n] for n in p.ports],
                output_dtype=self.loop.output_dtype,
            )
        return [y, *finals, *records], kept

    def fused_gradients(
        self, engine: Any, every: int, kept: torch.Tensor, arriving: list[torch.Tensor | None]
    ) -> list[torch.Tensor]:
        """Gradients of an engine at `leaves()`."""
        p = self.program
        coefficients, states = [getattr(self.coefficients, n) for n in p.coefficients], len(p.states)
        with torch.no_grad():
            d_inputs, d_states, d_coefficients = engine.backward(
                p,
                every,
                self.limits,
                coefficients,
                [getattr(self.state, n) for n in p.states],
                [(self.inputs | self.noise)[n] for n in p.ports],
                kept,
                arriving[0],
                arriving[1 : 1 + states],
                arriving[1 + states :],
                Wanted(self.driven, p.coefficients),
            )
        d_coefficients = [d.sum_to_size(c.shape) for d, c in zip(d_coefficients, coefficients)]
        return [*d_inputs, *d_states, *d_coefficients]


def compare(case: Case, engine: Any, every: int, arriving: Any = None, rtol: float = 2e-4, atol: float = 2e-5) -> None:
    """Spikes and states bit for bit, gradients to rounding.

    Args:
        arriving: (output number, tensor of its shape) -> gradient that arrives there, or None; default: random.
    """
    expected = case.reference()
    found, kept = case.fused(engine, every)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b), f"{(a != b).sum()} of {a.numel()} numbers differ"
    given = [(arriving or (lambda k, o: torch.randn_like(o)))(k, o) for k, o in enumerate(expected)]
    gradients = case.fused_gradients(engine, every, kept, given)
    for a, b in zip(gradients, case.gradients(expected, given), strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)
