"""EventProp's one autograd node: a loop forward on its engine, and the adjoint's loop back on the same."""

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..connections import Delayed
from ..engine import Engine, Feedback, Loop, LoopState
from ..neurons import CubaALIF
from ..neurons.declarations import coefficient_type
from ..zero import ZERO
from .arrivals import Arrivals
from .costate import AdaptiveCostate, Costate
from .delays import DelayedArrivals, backwards, of_recurrence
from .meaning import check_gradient, check_parameters
from .parameters import coefficient_gradients
from .places import Places

NUMBERS = ("tau_mem", "tau_syn", "v_th", "v_reset", "bias", "tau_adapt", "increment")


class Job:
    """What one call of the rule needs in both passes, and no raster.

    Its tensors, in the order in which autograd is to see them: presynaptic raster, parameters of the connection,
    coefficients, states, last output, and weight and bias (or the parameters) of the recurrent connection.
    """

    def __init__(self, rule: Any, loop: Loop, state: LoopState, engine: Engine):
        self.rule, self.loop, self.state, self.engine = rule, loop, state, engine
        (source,) = loop.sources.values() if loop.sources else (None,)
        self.source, neuron = source, loop.neuron
        self.adaptive = isinstance(neuron, CubaALIF)
        self.numbers = {n: getattr(neuron, n).detach() for n in NUMBERS if n in neuron.params}
        self.states = ("i", "v", "a") if self.adaptive else ("i", "v")
        self.records = tuple(n for n in loop.record if n in self.states)
        self.known = tuple(
            n for n, c in zip(loop.coefficients._fields, loop.coefficients, strict=True) if c is not ZERO
        )
        x = None if source is None else source.presynaptic
        x = x if isinstance(x, Tensor) else torch.empty(0)
        module, back = None if source is None else source.module, loop.feedback
        groups = {
            "x": [x],
            "connection": [] if module is None else list(module.parameters()),
            "coefficients": [getattr(loop.coefficients, n) for n in self.known],
            "states": [getattr(state.neuron, n) for n in self.states],
            "last": [] if back is None else [state.feedback],
            "waiting": [] if back is None or not isinstance(back.module, Delayed) else [state.recurrent],
            "recurrent": [] if back is None else _recurrent_tensors(back),
        }
        self.sizes = {name: len(group) for name, group in groups.items()}
        self.tensors = [t for group in groups.values() for t in group]
        self.events: Any = None
        self.like = torch.empty(0)
        self.input_shape = self.output_shape = torch.Size(())
        self.counts: dict[str, int] = {}
        self.plain: dict[str, Tensor] = {}
        self.end: Any = None

    def grouped(self, flat: Any) -> dict[str, list[Any]]:
        left = list(flat)
        return {name: [left.pop(0) for _ in range(size)] for name, size in self.sizes.items()}

    def coefficient(self, name: str) -> Tensor:
        return getattr(self.loop.coefficients, name)


def _recurrent_tensors(back: Feedback) -> list[Tensor]:
    if back.weight is None:
        return list(back.module.parameters())
    bias: Any = back.module.bias
    return [back.weight] if bias is None else [back.weight, bias]


class Node(torch.autograd.Function):
    """From all that a job names to output, differentiable records and final states."""

    @staticmethod
    def forward(ctx: Any, job: Job, *tensors: Tensor) -> Any:
        loop, spiking = job.loop, job.loop.neuron.spiking
        more = [n for n in (("i", "a") if job.adaptive else ("i",)) if spiking and n not in loop.record]
        wanted = dataclasses.replace(loop, record=(*loop.record, *more))
        passed = job.engine(wanted, job.state, 0, loop.steps, "flow")
        kept: list[Any] = []
        if spiking:
            fired = Places.of(passed.output)
            kept = [fired.flat, *_slopes(job, fired, passed.records)]
        presynaptic = None if job.source is None else job.source.presynaptic
        ctx.needed = job.grouped(ctx.needs_input_grad[1:])
        if isinstance(presynaptic, Tensor) and any(any(flags) for flags in ctx.needed.values()):
            places = Places.of(presynaptic)
            kept += [places.flat, places.value]
            job.like = presynaptic.new_empty(0)
            job.input_shape = presynaptic.shape
            presynaptic = None
        job.events, job.output_shape = presynaptic, passed.output.shape
        job.source = job.source and dataclasses.replace(job.source, presynaptic=None)
        groups = job.grouped(tensors)
        ctx.save_for_backward(*kept, *(t for name, g in groups.items() if name != "x" for t in g))
        job.end, job.tensors = passed.state, []
        job.plain = {n: r for n, r in passed.records.items() if n in loop.record and n not in job.records}
        job.loop = dataclasses.replace(loop, inputs={}, sources={})
        ctx.job, ctx.event_gradient, ctx.kept = job, True, len(kept)
        ctx.set_materialize_grads(False)
        finals = [getattr(passed.state.neuron, n) for n in job.states]
        return (passed.output, *(passed.records[n] for n in job.records), *finals)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        job, saved = ctx.job, ctx.saved_tensors
        kept, flat = list(saved[: ctx.kept]), saved[ctx.kept :]
        groups = job.grouped([torch.empty(0), *flat])
        spikes = None
        if job.loop.neuron.spiking:
            (where, jump, after, fall), kept = kept[:4], kept[4:]
            spikes = Spikes(Places(where, None, job.output_shape), jump, after, fall)
        arriving = dict(zip(("output", *job.records), gradients, strict=False))
        finals = dict(zip(job.states, gradients[1 + len(job.records) :], strict=True))
        back = _Back(job, ctx.needed, groups, spikes, arriving, finals)
        back.run()
        inputs = Places(kept[0], kept[1], job.input_shape) if kept else None
        found = back.gradients(inputs)
        return (None, *(g for name in job.sizes for g in found[name]))


@dataclasses.dataclass
class Spikes:
    """Of each spike: where, 1 / g'-, (V'+ - kept a'-) / g'-, and V- - V+."""

    places: Places
    jump: Tensor
    after: Tensor
    fall: Tensor


def _slopes(job: Job, fired: Places, records: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """What the adjoint needs of each spike. The membrane is taken to be at its threshold; the current after the
    refractory period is that of its last step."""
    loop, neuron, dtype = job.loop, job.loop.neuron, job.loop.dtype

    def number(name: str) -> Any:
        return fired.of_neuron(job.numbers[name], dtype) if name in job.numbers else 0.0

    tau, bias, v_th = number("tau_mem"), number("bias"), number("v_th")
    i = fired.take(records["i"])
    step = fired.flat.long() // max(1, fired.row)
    later = (loop.steps - 1 - step).clamp(max=neuron.refractory)
    released = records["i"].reshape(-1)[fired.flat.long() + later * fired.row]
    a = fired.take(records["a"]) - number("increment") if job.adaptive else torch.zeros_like(i)
    fading = a / number("tau_adapt") if job.adaptive else a
    reset = number("v_reset") + torch.zeros_like(i) if neuron.reset == "zero" else a
    rising = i + bias - v_th - a + tau * fading
    floor = job.rule.epsilon * v_th.abs()
    job.counts.update(spikes=len(i), clamped=int((rising < floor).sum()))
    before = torch.maximum(rising, floor) / tau
    after = (released + bias - reset) / tau
    if neuron.reset != "zero":
        after = after + fading
    return 1 / before, after / before, v_th + a - reset


class _Back:
    """The adjoint's loop, and what comes of it."""

    def __init__(self, job: Job, needed: Any, groups: Any, spikes: Spikes | None, arriving: Any, finals: Any):
        self.job, self.needed, self.groups, self.spikes = job, needed, groups, spikes
        self.arriving, self.finals, self.loop = arriving, finals, job.loop
        self.shape, self.dtype = job.output_shape, job.loop.dtype
        self.device = groups["states"][0].device

    def zeros(self) -> Tensor:
        return torch.zeros(self.shape, dtype=self.dtype, device=self.device)

    def by_state(self) -> dict[str, Tensor]:
        """dL/dV, dL/dI and dL/da at the end of each step, by the loss and by the state that was passed on."""
        found: dict[str, Tensor] = {}
        given = {name: self.arriving.get(name) for name in self.job.states}
        if self.spikes is None and self.arriving["output"] is not None:
            g = self.arriving["output"]
            given["v"] = g if given["v"] is None else given["v"] + g
        alive = self.loop.alive
        for name, g in given.items():
            last = self.finals[name]
            if g is None and last is None:
                continue
            total = self.zeros() if g is None else g.to(self.dtype)
            if alive is not None:
                total = torch.where(alive, total, torch.zeros((), dtype=self.dtype, device=self.device))
            if last is not None and len(total):
                total = total.clone()
                if alive is None:
                    total[-1] += last
                else:
                    # Samples of no steps have none; theirs goes straight to the state before.
                    ends = alive.sum(0).reshape(-1)
                    some = (ends > 0).nonzero().squeeze(1)
                    total[ends[some] - 1, some] += last[some]
            found[name] = total
        return found

    def held(self) -> Tensor | None:
        """1 in the steps of the refractory period."""
        span, spikes = self.loop.neuron.refractory, self.spikes
        if not span or spikes is None:
            return None
        held, index = self.zeros().reshape(-1), spikes.places.flat.long()
        for k in range(1, span + 1):
            later = index + k * spikes.places.row
            held[later[later < len(held)]] = 1.0
        held = held.reshape(self.shape)
        for k in range(min(span, len(held))):
            held[k] = torch.maximum(held[k], (self.job.state.neuron.refractory > k).to(held))
        return held

    def run(self) -> None:
        """Everything with time reversed: step t of the loop is step T - 1 - t of the pass."""
        job, spikes, loop = self.job, self.spikes, self.loop
        self.by, self.still = self.by_state(), self.held()
        on, ports = dict(self.by), {}
        if self.still is not None:
            ports["held"] = self.still.flip(0)
            if "v" in on:
                on["v"] = on["v"] * (1 - self.still)  # there V is v_reset, whatever the spike's time
        ports |= {f"on_{name}": g.flip(0) for name, g in on.items()}
        if spikes is not None:
            ports |= self._jumps(spikes, self.arriving.get("v"))
        if not ports:
            ports["kick"] = torch.zeros((), dtype=self.dtype, device=self.device).expand(self.shape)
        kind = AdaptiveCostate if job.adaptive else Costate
        costate = kind(dt=loop.neuron.dt)
        numbers = {n: job.coefficient(n) for n in ("alpha", "beta", "gain")}
        taus = {"rate_syn": "tau_syn", "rate_mem": "tau_mem"}
        numbers |= {n: (1 / job.numbers[tau]).to(numbers["beta"]) for n, tau in taus.items()}
        if job.adaptive:
            lift = job.numbers["increment"] / job.numbers["tau_adapt"]
            kept = torch.tensor(float(loop.neuron.reset != "zero"))
            numbers |= {
                "rho": job.coefficient("rho"),
                "lift": lift.to(numbers["beta"]),
                "kept": kept.to(numbers["beta"]),
            }
        numbers = {n: x.detach() for n, x in numbers.items()}
        names = ("pv", "pi", "pa") if job.adaptive else ("pv", "pi")
        none = torch.zeros(loop.shape, dtype=self.dtype, device=self.device)
        back, waiting = (None, ()) if loop.feedback is None else self._transposed(loop.feedback)
        begin = LoopState(costate.state_type(**dict.fromkeys(names, none)), none if back else (), waiting)
        reverse = Loop(
            neuron=costate,
            coefficients=coefficient_type(tuple(numbers))(**numbers),
            surrogate=loop.surrogate,
            inputs=ports,
            shape=loop.shape,
            steps=loop.steps,
            dtype=self.dtype,
            output_dtype=self.dtype,
            feedback=back,
            record=names if self._learns("coefficients") else ("pi",),
        )
        passed = job.engine(reverse, begin, 0, loop.steps, "flow")
        self.reach, self.costates, self.start = passed.output, passed.records, passed.state.neuron

    def _learns(self, group: str) -> bool:
        return any(self.needed[group])

    def _jumps(self, spikes: Spikes, on_v: Tensor | None) -> dict[str, Tensor]:
        """Ports of the spikes: what their times are worth to the loss, and how the membrane goes on after them."""
        places, rule, neuron = spikes.places, self.job.rule, self.loop.neuron
        worth, g = torch.zeros_like(spikes.jump), self.arriving["output"]
        if g is not None:
            worth = places.take(g).to(self.dtype)
            check_gradient(g, worth)
        if on_v is not None:
            worth = worth + places.take(on_v).to(worth) / neuron.dt * spikes.fall  # l_V- - l_V+
        if rule.spike_count is not None:
            worth = worth - self._too_many(places) / spikes.jump
        there = places.reversed()
        ports = {"kick": spikes.jump * worth, "drop": 1 - spikes.after}
        if self.job.adaptive or self.loop.feedback is not None:
            ports["jump"] = spikes.jump
        if self.job.adaptive:
            ports["fired"] = torch.ones_like(worth)
        return {name: there.dense(value, worth) for name, value in ports.items()}

    def _too_many(self, places: Places) -> Tensor:
        """The regulariser's part of dL/dV before each spike."""
        rule, index = self.job.rule, places.flat.long() % max(1, places.row)
        count = torch.bincount(index, minlength=places.row)[index].to(self.dtype)
        v_th = places.of_neuron(self.job.numbers["v_th"], self.dtype)
        part = rule.spike_count_strength / (max(1, self.shape[1]) * v_th)
        return part * (count - rule.spike_count) / rule.spike_count

    def _transposed(self, back: Feedback) -> tuple[Feedback, Any]:
        """The recurrent connection from a neuron's arrivals to the spikes that made them, and its state."""
        if isinstance(back.module, Delayed):
            return backwards(back.module, self.zeros()[:1])
        if back.weight is not None:
            matrix = self.groups["recurrent"][0].detach().to(self.dtype).t().contiguous()
            module = nn.utils.skip_init(
                nn.Linear, *matrix.shape[::-1], bias=False, dtype=self.dtype, device=self.device
            )
            module.weight = nn.Parameter(matrix, requires_grad=False)
            return Feedback(module, matrix, lambda q, memory: (F.linear(q, matrix), memory), "spike"), ()

        def call(q: Tensor, memory: Any) -> tuple[Tensor, Any]:
            return self._to_spikes(q), memory

        return Feedback(nn.Identity(), None, call, "spike"), ()

    def _to_spikes(self, q: Tensor) -> Tensor:
        """What arrivals q [B, *N] are worth to the spikes of the step before."""
        assert self.loop.feedback is not None
        with torch.enable_grad():
            s = torch.zeros_like(q, requires_grad=True)
            y = self.loop.feedback.call(s, ())[0]
            return torch.autograd.grad(y, s, q)[0]

    def gradients(self, inputs: Places | None) -> dict[str, list[Any]]:
        """The gradient of each of the job's tensors, None where none is wanted."""
        found: dict[str, list[Any]] = {name: [None] * size for name, size in self.job.sizes.items()}
        source, back = self.job.source, self.loop.feedback
        if source is not None and source.module is not None:
            check_parameters(source.module.parameters(), self.groups["connection"])
        if back is not None and back.weight is None:
            check_parameters(back.module.parameters(), self.groups["recurrent"])
        self._of_connection(inputs, found)
        if back is not None:
            self._of_recurrence(back, found)
        if self._learns("coefficients"):
            self._of_coefficients(inputs, found)
        names = {"i": "pi", "v": "pv", "a": "pa"}
        for k, name in enumerate(self.job.states):
            if self.needed["states"][k]:
                last, alive = self.finals[name], self.loop.alive
                g = getattr(self.start, names[name])
                if last is not None and (alive is not None or not self.loop.steps):
                    ended = torch.ones((), dtype=torch.bool) if alive is None else ~alive.any(0)
                    g = torch.where(ended.to(g.device), last, g)
                found["states"][k] = g
        return found

    def _of_connection(self, inputs: Places | None, found: dict[str, list[Any]]) -> None:
        source, job = self.job.source, self.job
        for_x, for_weights = self.needed["x"][0], self._learns("connection")
        if source is None or not (for_x or for_weights):
            return
        given = (source, job.events if inputs is None else inputs, job.like, self.needed["connection"])
        arrivals = DelayedArrivals(*given) if isinstance(source.module, Delayed) else Arrivals(*given)
        if for_weights:
            found["connection"] = arrivals.weights(self.costates["pi"], self.reach)
        if for_x:
            found["x"] = [arrivals.times(self.reach)]

    def _of_recurrence(self, back: Feedback, found: dict[str, list[Any]]) -> None:
        assert self.spikes is not None
        last, pi = self.groups["last"][0], self.costates["pi"]
        if len(pi) == 0:
            return
        if self.groups["waiting"]:
            fired, waiting = self.spikes.places, self.groups["waiting"][0]
            gradients = of_recurrence(back, waiting, last, fired, pi, self.reach, self.needed["recurrent"])
            found["recurrent"], found["waiting"], found["last"] = gradients
            return
        if self.needed["last"][0]:
            found["last"] = [torch.where(last != 0, self._to_spikes(self.reach[-1]), torch.zeros_like(last))]
        if not self._learns("recurrent"):
            return
        raster = self.spikes.places.reversed().dense(None, pi)
        fed = torch.cat([raster[1:], last[None].to(pi)])  # what each step was fed, with time reversed
        tensors = [
            t.detach().requires_grad_(need)
            for t, need in zip(self.groups["recurrent"], self.needed["recurrent"], strict=True)
        ]
        with torch.enable_grad():
            if back.weight is not None:
                y = F.linear(fed, *(t.to(pi) for t in tensors))
            else:
                tensors = list(back.module.parameters())
                y = back.call(fed.flatten(0, 1), ())[0].unflatten(0, fed.shape[:2])
            wanted = [t for t, need in zip(tensors, self.needed["recurrent"], strict=True) if need]
            each = iter(torch.autograd.grad(y, wanted, pi.to(y)))
        found["recurrent"] = [next(each) if need else None for need in self.needed["recurrent"]]

    def _of_coefficients(self, inputs: Places | None, found: dict[str, list[Any]]) -> None:
        job = self.job
        x = job.events if inputs is None else inputs.dense(None, job.like)
        current = job.source.call(x) if job.source is not None else x
        record = ("i", "v", "a") if job.adaptive else ("i", "v")
        again = dataclasses.replace(self.loop, inputs={"impulse": current}, record=record)
        states = job.engine(again, job.state, 0, self.loop.steps, "flow").records
        each = coefficient_gradients(job, states, self.costates, self.by, self.still, self.spikes)
        known = self.groups["coefficients"]
        found["coefficients"] = [
            each[n].sum_to_size(c.shape).to(c) if need and n in each else None
            for n, c, need in zip(job.known, known, self.needed["coefficients"], strict=True)
        ]
