"""One call of an online rule: a loop on its engine, with gradients that need no later step, and traces for the next."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..engine import Engine, Loop, LoopState, Pass
from ..engine.loop import ResetEdge
from ..zero import ZERO
from .opened import ARRIVED, FILTERED, LEARNED, NOW, SPIKED, opened
from .synapses import arrive, recurrent_synapses, synapses_of
from .traces import Traced, advance, begin, traced_synapses


class Call:
    """What one call of a rule needs.

    Args:
        rule: an `EProp` or one of its kind.
        loop, state, engine: as a rule is given them.
        shared: whether all neurons of a sample share one trace.
    """

    def __init__(self, rule: Any, loop: Loop, state: LoopState, engine: Engine, shared: bool):
        self.loop, self.state, self.engine = loop, state, engine
        self.edge: ResetEdge = rule.edge
        self.carry, self.kappa = rule.carry, rule.kappa if loop.neuron.spiking and rule.kappa else None
        self.shared = shared and self.kappa is None
        self.synapses = synapses_of(loop, rule.feedback)
        c = loop.coefficients
        self.learned = tuple(n for n, v in zip(c._fields, c, strict=True) if v is not ZERO and v.requires_grad)
        self.names = tuple(loop.neuron.declared_states)

    @property
    def learns(self) -> bool:
        """Whether anything here has a gradient."""
        back = self.loop.feedback
        parameters = [] if back is None else [*back.module.parameters()]
        starts = [getattr(self.state.neuron, n) for n in self.names]
        ends = any(s.learns or s.signals for s in self.synapses)
        found = ends or bool(self.learned) or any(t.requires_grad for t in (*parameters, *starts))
        # In later pieces the states that came are cut from the learned ones with which the first began.
        return found or bool(self._initial())

    def run(self) -> Pass:
        loop = self.loop
        inputs, closed = dict(loop.inputs), None
        if loop.feedback is not None:
            closed = self._closed()
            inputs[loop.feedback.port] = closed.records[ARRIVED]
            self.synapses.append(recurrent_synapses(loop, self.state.feedback, closed.output))
        continues = self.carry and isinstance(self.state.rule, dict)
        carried: dict[str, Tensor] = self.state.rule if continues else {}
        starts = {n: getattr(self.state.neuron, n) for n in self.names}
        lanes = {f"initial.{n}": z for n, z in self._initial().items()}
        lanes |= {f"coefficient.{n}": self._spread(getattr(loop.coefficients, n)) for n in self.learned}
        traced = [*traced_synapses(self.synapses), *(Traced(n, t, "lane") for n, t in lanes.items())]
        if continues:
            self._check(carried, traced)
        if self.kappa is not None:
            starts[FILTERED] = self._zeros()
        first = dict(zip(starts, begin(list(starts.values()), traced, carried), strict=True))
        if carried:
            # Leaves of their own where nothing leads to them, so that final states have derivatives by them.
            first = {n: z if z.requires_grad else z.detach().requires_grad_() for n, z in first.items()}
        # Aliases, for the lanes themselves are also reached by way of the traces.
        spread = {n: lanes[f"coefficient.{n}"].view(loop.shape) for n in self.learned}
        lanes |= {f"coefficient.{n}": t for n, t in spread.items()}
        return self._open(inputs, first, spread, lanes, carried, closed)

    def _closed(self) -> Pass:
        """The recurrent loop, without gradients, and what arrived at the port that it feeds."""
        loop = self.loop
        assert loop.feedback is not None
        neuron, coefficients = opened(loop, keeps=loop.feedback.port)
        start = self.state.neuron._asdict() | {ARRIVED: self._zeros()}
        inner = replace(loop, neuron=neuron, coefficients=coefficients, record=(ARRIVED,))
        with torch.no_grad():
            state = self.state._replace(neuron=type(neuron).state_type(**start))
            return self.engine(inner, state, 0, loop.steps, self.edge)

    def _device(self) -> torch.device:
        return next(iter(self.loop.inputs.values())).device

    def _zeros(self) -> Tensor:
        return torch.zeros(self.loop.shape, dtype=self.loop.dtype, device=self._device())

    def _spread(self, coefficient: Tensor) -> Tensor:
        """A coefficient for each sample and neuron."""
        return coefficient.to(self._device()).expand(self.loop.shape)

    def _initial(self) -> dict[str, Tensor]:
        """Learned initial states, which the first of the runs began with."""
        loop = self.loop
        found = loop.neuron.initial_state(loop.shape[0], loop.shape[1:], loop.dtype, self._device())
        return {n: getattr(found, n) for n in self.names if getattr(found, n).requires_grad}

    def _check(self, carried: dict[str, Tensor], traced: list[Traced]) -> None:
        again = "or begin without traces: state._replace(rule=()) for a layer's state, or carry=False"
        for s in self.synapses:
            if s.learns and s.weight is None:
                raise ValueError(
                    f"the traces of {s.kind} are not carried from one run to the next, only those of nn.Linear on "
                    f"[T, B, N]. Run the sequence as a whole, {again}."
                )
        batch, neurons = self.loop.shape[0], self.loop.shape[1:]
        count = len(self.names) + (self.kappa is not None)
        for one in traced:
            rows = (1,) if self.shared and one.axes == "weight" else neurons
            expected = (count, batch, *rows, *(one.tensor.shape[1:] if one.axes == "weight" else ()))
            got = carried.get(one.name)
            if got is None or tuple(got.shape) != expected:
                shape = "no trace" if got is None else f"a trace of shape {tuple(got.shape)}"
                raise ValueError(
                    f"got a state with {shape} of {one.name} for this {type(self.loop.neuron).__name__}; expected "
                    f"{expected}. Pass the state that this layer returned under the same rule, {again}."
                )

    def _open(
        self,
        inputs: dict[str, Tensor],
        first: dict[str, Tensor],
        spread: dict[str, Tensor],
        lanes: dict[str, Tensor],
        carried: dict[str, Tensor],
        closed: Pass | None,
    ) -> Pass:
        """The loop under autograd, with the recurrent input as it arrived, and what comes of it."""
        loop = self.loop
        ports, twins = dict(inputs), {}
        for port, value in inputs.items():
            fed = [s for s in self.synapses if s.port == port]
            if any(s.learns or s.signals for s in fed):
                ports[port], now = arrive(value.detach().to(loop.dtype), fed)
                if any(s.signals for s in fed):
                    twins[port] = now
        spiked = "spikes" in loop.record
        neuron, coefficients = opened(loop, learns=self.learned, twins=tuple(twins), kappa=self.kappa, spiked=spiked)
        start = self.state.neuron._asdict() | first | {LEARNED + n: t for n, t in spread.items()}
        if spiked:
            start[SPIKED] = self._zeros()
        record = tuple(dict.fromkeys(SPIKED if n == "spikes" else n for n in loop.record))
        inner = replace(
            loop,
            neuron=neuron,
            coefficients=coefficients,
            inputs=ports | {n + NOW: x for n, x in twins.items()},
            sources={},
            feedback=None,
            record=record,
        )
        start = LoopState(type(neuron).state_type(**start))
        passed = self.engine(inner, start, 0, loop.steps, self.edge)
        rule = self._carry(passed, first, lanes, {p: ports[p] for p in inputs}, carried)
        kind = type(self.state.neuron)
        after = kind(**{n: _cut(getattr(passed.state.neuron, n)) for n in kind._fields})
        end = self.state if closed is None else closed.state
        records = {n: self._record(passed, n) for n in loop.record}
        return Pass(Signal.apply(passed.output), LoopState(after, end.feedback, end.recurrent, rule), records)

    def _carry(
        self,
        passed: Pass,
        first: dict[str, Tensor],
        lanes: dict[str, Tensor],
        ports: dict[str, Tensor],
        carried: dict[str, Tensor],
    ) -> Any:
        if not self.carry:
            return ()
        finals = [getattr(passed.state.neuron, n) for n in first]
        synapses = [s for s in self.synapses if s.learns]
        arrived = {p: x for p, x in ports.items() if any(s.port == p for s in synapses)}
        # The states before the first run matter where they are learned; those before later runs by way of their traces.
        ways: dict[str, Tensor | None] = {}
        for name, lane in lanes.items():
            state = name.removeprefix("initial.")
            ways[name] = lane if state == name else None if carried else first[state]
        return advance(finals, list(first.values()) if carried else [], ways, arrived, synapses, carried, self.shared)

    def _record(self, passed: Pass, name: str) -> Tensor:
        if name == "output":
            return Signal.apply(passed.output)  # type: ignore[no-any-return]
        if name != "spikes":
            return passed.records[name]
        spikes, alive = passed.records[SPIKED].to(self.loop.output_dtype), self.loop.alive
        return spikes if alive is None else torch.where(alive, spikes, torch.zeros_like(spikes))


def _cut(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) else x


class Signal(torch.autograd.Function):
    """A layer's output: where gradients that arrive are learning signals of their step."""

    @staticmethod
    def forward(ctx: Any, output: Tensor) -> Tensor:
        ctx.online = True
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0]
