"""A layer: connection, neuron, and a recurrent connection if wanted."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..connections import Delayed
from ..engine import Feedback, Loop, LoopState, Source, check_step, choose
from ..engine.coefficients import rounded_coefficients
from ..engine.noise import streams
from ..events import Events
from ..neurons import Neuron
from ..neurons.declarations import broadcasts
from ..surrogates import Smooth, SpikeFunction, SuperSpike, Surrogate
from .compiled import PLAIN, joined, joins
from .context import ACTIVE, Context
from .eagerly import eagerly
from .modules import absent, apply, densify, has_memory, product, wait


class LayerState(NamedTuple):
    """State of a layer: its neuron's, the last output (where it is fed back), its connections' (those with memory), and
    what a gradient rule keeps.

    What a layer does not have is ().
    """

    neuron: Any
    feedback: Any = ()
    recurrent: Any = ()
    connection: Any = ()
    rule: Any = ()


# So that torch.load(weights_only=True) takes a saved state.
torch.serialization.add_safe_globals([LayerState])


class Layer(nn.Module):
    """A connection and a neuron, with a recurrent connection from the neuron to itself if wanted.

        x_t = connection(input_t) + recurrent(output_{t-1});   output_t, state_t = step(state_{t-1}, x_t)

    Called like `torch.nn.LSTM`: `output, state = layer(input, state)`; state None is the neuron's initial state.

    Args:
        connection: any torch module, applied to all steps at once; None passes the input on; a dictionary
            {port: module} feeds several ports of the neuron.
        neuron: the neuron.
        recurrent: a module from the neuron's output [B, *N] to its input of the same shape, such as
            `nn.Linear(n, n, bias=False)`; its spikes arrive at the next step.
        port: port of the neuron that the connection feeds (default: its first).
        recurrent_port: port that the recurrent connection feeds (default: the neuron's first).
        self_connections: False takes the diagonal out of a recurrent `nn.Linear`.
        surrogate: stands for the derivative of a spike (default `SuperSpike()`).

    Returns:
        From a call: the output [T, B, *N] (spikes, or the membrane of a neuron that never fires) and a `LayerState`.

    Raises:
        TypeError, ValueError: an argument, an input or a state that does not fit, said in a sentence.

    >>> import torch, spikeloom as sl
    >>> layer = sl.Layer(torch.nn.Linear(20, 10, bias=False), sl.LIF(10), recurrent=torch.nn.Linear(10, 10, bias=False))
    >>> spikes, state = layer(torch.rand(50, 4, 20))
    >>> more, state = layer(torch.rand(50, 4, 20), state)
    >>> more.shape
    torch.Size([50, 4, 10])
    """

    def __init__(
        self,
        connection: nn.Module | Mapping[str, nn.Module] | None,
        neuron: Neuron,
        recurrent: nn.Module | None = None,
        *,
        port: str | None = None,
        recurrent_port: str | None = None,
        self_connections: bool = True,
        surrogate: SpikeFunction | None = None,
    ):
        super().__init__()
        if not isinstance(neuron, Neuron):
            raise TypeError(f"Layer got {_name(neuron)} as neuron; expected a neuron, such as sl.LIF(100).")
        for what, module in (("connection", connection), ("recurrent connection", recurrent)):
            if isinstance(module, Neuron) or not (module is None or isinstance(module, nn.Module | Mapping)):
                raise TypeError(
                    f"Layer got {_name(module)} as {what}; expected a torch module such as nn.Linear, or None."
                )
        if surrogate is not None and not isinstance(surrogate, Surrogate | Smooth):
            raise TypeError(
                f"Layer got {_name(surrogate)} as surrogate; expected one such as sl.SuperSpike(width=0.1)."
            )
        _adopt_dt(connection, neuron)
        _adopt_dt(recurrent, neuron)
        self.connection = nn.ModuleDict(dict(connection)) if isinstance(connection, Mapping) else connection
        self.neuron, self.recurrent = neuron, recurrent
        self.port, self.recurrent_port = port or neuron.default_port, recurrent_port or neuron.default_port
        for name in (*self._modules_by_port(), self.recurrent_port):
            self._check_port(name)
        if not self_connections and not isinstance(recurrent, nn.Linear):
            raise ValueError(
                "Layer got self_connections=False, which needs a recurrent nn.Linear whose diagonal it can take out; "
                f"got {_name(recurrent)}."
            )
        self.self_connections = self_connections
        self.surrogate = surrogate or SuperSpike()
        check_step(neuron)

    @property
    def dt(self) -> float:
        """Time step in s."""
        return self.neuron.dt

    def forward(self, x: Any, state: LayerState | None = None) -> tuple[Tensor, LayerState]:
        if torch.compiler.is_compiling() and joins(self, x, state):
            _, inputs, _ = self._connect(x, (), PLAIN)
            return joined(self, inputs, state, LayerState)
        return self._call(x, state)

    @eagerly
    def _call(self, x: Any, state: LayerState | None) -> tuple[Tensor, LayerState]:
        context = ACTIVE.get() or Context()
        path = context.path(self, continues=state is not None)
        state = context.states.get(path) if state is None else state
        if state is not None and not isinstance(state, LayerState):
            raise TypeError(f"got {_name(state)} as state; expected the state that an earlier call returned, or None.")
        before = state.connection if state is not None else ()
        sources, inputs, connection_state = self._connect(x, before, context)
        return self._steps(context, path, state, sources, inputs, connection_state)

    def _steps(
        self,
        context: Context,
        path: str,
        state: LayerState | None,
        sources: dict[str, Source],
        inputs: dict[str, Tensor],
        connection_state: Any,
    ) -> tuple[Tensor, LayerState]:
        first = next(iter(inputs.values()))
        steps, shape = first.shape[0], tuple(first.shape[1:])
        dtype = torch.float32
        for y in inputs.values():
            dtype = torch.promote_types(dtype, y.dtype)
        output_dtype = first.dtype if self.neuron.spiking else dtype
        plainly = context.engine == "eager"
        coefficients = self.neuron.rounded_coefficients(dtype) if plainly else rounded_coefficients(self.neuron, dtype)
        self._check_coefficients(coefficients, shape)
        fresh = self.neuron.initial_state(shape[0], shape[1:], dtype, first.device)
        if self.neuron.noises and state is None:
            keys = streams(context.noise_seed(first.device), path, shape[0], first.device)
            fresh = fresh._replace(stream=keys.reshape(fresh.stream.shape))
        neuron_state = fresh if state is None else _adopt(state.neuron, fresh)
        alive = self._alive(context.lengths, first)
        feedback, begin = self._feedback(state, neuron_state, shape, output_dtype, first.device)
        wanted = context.wanted(path, self._names())
        loop = Loop(
            neuron=self.neuron,
            coefficients=coefficients,
            surrogate=context.surrogate or self.surrogate,
            inputs=inputs,
            shape=shape,
            steps=steps,
            dtype=dtype,
            output_dtype=output_dtype,
            sources=sources,
            feedback=feedback,
            alive=alive,
            record=tuple(name for name in wanted if name != "presynaptic"),
        )
        engine = choose(context.engine)
        output, end, records, counts = context.gradient(loop, begin, engine)
        final = LayerState(end.neuron, end.feedback, end.recurrent, connection_state, end.rule)
        context.engines[path], context.final[path] = engine.name, final
        if counts:
            context.counts[path] = counts
        if "presynaptic" in wanted:
            source = next(iter(sources.values()))
            # Of what waits for its delay, that which set out in this call.
            came = densify(source.presynaptic, source.module)
            records = {**records, "presynaptic": came if len(came) == steps else came[len(came) - steps :]}
        context.keep(path, records)
        return output, final

    @eagerly
    def steps(self, inputs: dict[str, Tensor], neuron: Any, feedback: Any) -> tuple[Tensor, LayerState]:
        """All steps outside of a run, from a neuron's state (or () for its initial one) and the last output."""
        state = LayerState(self.neuron.state_type(*neuron), feedback) if neuron else None
        return self._steps(Context(), "", state, {}, inputs, ())

    def _connect(self, x: Any, state: Any, context: Context) -> tuple[dict[str, Source], dict[str, Tensor], Any]:
        """Input of each port [T, B, *N], where it came from, and the connections' states."""
        modules, learning = self._modules_by_port(), torch.is_grad_enabled()
        followed = learning and not context.gradient.owns_connection
        # To ask for a Mapping takes long.
        given = x if not isinstance(x, Tensor | Events) and isinstance(x, Mapping) else dict.fromkeys(modules, x)
        if not given:
            raise ValueError("Layer got an empty dictionary of inputs; expected {port: tensor}.")
        sources: dict[str, Source] = {}
        inputs: dict[str, Tensor] = {}
        states: dict[str, Any] = {}
        for port, value in given.items():
            self._check_port(port)
            module, before = modules.get(port), state[port] if port in (state or ()) else ()
            call, waiting, late = partial(product, module), None, None
            if isinstance(module, Delayed):
                # What waits is what a rule has to know; what still waits in the end has a history under any rule.
                waiting, value, before = wait(module, value, before)
                lengths = None if context.lengths is None else _checked(context.lengths, value)
                call, late = partial(module.arrive, multiply=product), module.left(waiting, lengths)
            with torch.set_grad_enabled(followed):
                inputs[port], after = apply(module, value, before)
                if isinstance(inputs[port], Events):
                    inputs[port] = densify(inputs[port], module)
            if late is not None:
                value, after = waiting, late
            sources[port] = Source(module, value, before, call)
            self._check_shape(inputs[port], next(iter(inputs.values())))
            if not absent(after):
                states[port] = after
        return sources, inputs, states or ()

    def _modules_by_port(self) -> dict[str, nn.Module | None]:
        if isinstance(self.connection, nn.ModuleDict):
            return dict(self.connection.items())
        return {self.port: self.connection}

    def _check_port(self, port: str) -> None:
        if port not in self.neuron.ports:
            raise ValueError(f"{_name(self.neuron)} has no port {port!r}; it has: {', '.join(self.neuron.ports)}.")

    def _check_shape(self, y: Tensor, first: Tensor) -> None:
        wanted = self.neuron.shape
        if wanted is not None and tuple(y.shape[2:]) != wanted:
            expected = ", ".join(str(n) for n in ("T", "B", *wanted))
            raise ValueError(
                f"{_name(self.neuron)} of shape {wanted} got input of shape {tuple(y.shape)} from its connection; "
                f"expected [{expected}]: let the connection's size and the neuron's agree."
            )
        if y.shape != first.shape:
            raise ValueError(
                f"ports got inputs of shapes {tuple(first.shape)} and {tuple(y.shape)}; expected one shape."
            )

    def _check_coefficients(self, coefficients: Any, shape: tuple[int, ...]) -> None:
        for name, value in zip(coefficients._fields, coefficients, strict=True):
            if not isinstance(value, Tensor) or value.dim() == 0 or value.shape == shape[1:]:
                continue
            if not broadcasts(tuple(value.shape), shape[1:]):
                raise ValueError(
                    f"{_name(self.neuron)}'s coefficient {name} has shape {tuple(value.shape)}, which does not fit "
                    f"neurons of shape {shape[1:]}; give parameters one value, or the neurons' shape."
                )

    def _feedback(
        self, state: LayerState | None, neuron: Any, shape: tuple[int, ...], dtype: torch.dtype, device: Any
    ) -> tuple[Feedback | None, LoopState]:
        module = self.recurrent
        rule = state.rule if state is not None else ()
        if module is None:
            return None, LoopState(neuron, rule=rule)
        last = state.feedback if state is not None else torch.zeros(shape, dtype=dtype, device=device)
        if not isinstance(last, Tensor) or tuple(last.shape) != shape:
            raise ValueError(f"got a state without the last output of shape {shape}; pass the state of this layer.")
        last = last.to(dtype)
        memory = state.recurrent if state is not None else ()
        if has_memory(module) and absent(memory):
            memory = module.initial_state(last[None])  # type: ignore[operator]
        weight = None
        hooked = bool(module._forward_pre_hooks)
        if not self.self_connections:
            if hooked:
                raise ValueError(
                    "self_connections=False reads the recurrent connection's weight, and hooks on it, as pruning puts "
                    "there, would not run; make the pruning permanent (torch.nn.utils.prune.remove) or leave "
                    "self_connections=True."
                )
            full: Tensor = module.weight  # type: ignore[assignment]
            weight = full * (1 - torch.eye(len(full), dtype=full.dtype, device=full.device))

        def call(output: Tensor, memory: Any) -> tuple[Tensor, Any]:
            if weight is not None:
                fed = F.linear(output, weight, module.bias)  # type: ignore[arg-type]
            elif has_memory(module):
                fed, memory = module(output[None], memory)
                fed = fed[0]
            else:
                fed = module(output)
            if fed.shape != output.shape:
                shapes = f"{tuple(output.shape)} to {tuple(fed.shape)}"
                raise ValueError(f"the recurrent connection maps {shapes}; expected the same shape.")
            return fed, memory

        plain = module.weight if weight is None and type(module) is nn.Linear and not hooked else weight
        return Feedback(module, plain, call, self.recurrent_port), LoopState(neuron, last, memory, rule)

    def _alive(self, lengths: Tensor | None, first: Tensor) -> Tensor | None:
        if lengths is None:
            return None
        others = (m for m in self._modules_by_port().values() if not isinstance(m, Delayed))
        if any(m is not None and has_memory(m) for m in (*others, self.recurrent)):
            raise ValueError(
                "lengths= does not reach into a connection with memory; run samples of one length together."
            )
        steps, batch = first.shape[:2]
        alive = torch.arange(steps, device=first.device)[:, None] < _checked(lengths, first)
        return alive.reshape(steps, batch, *(1,) * (first.dim() - 2))

    def _names(self) -> tuple[str, ...]:
        spiking = ("spikes", "v_before_reset") if self.neuron.spiking else ()
        return (*self.neuron.declared_states, *spiking, "output", "input", "presynaptic")

    def extra_repr(self) -> str:
        return f"surrogate={self.surrogate}" if self.neuron.spiking else ""


def _adopt(given: Any, fresh: Any) -> Any:
    """A state that was passed on, checked against the one that would have been fresh."""
    if getattr(given, "_fields", None) != fresh._fields:
        raise ValueError(
            f"got the state of another neuron, {_name(given)}; expected {_name(fresh)}, as this layer returned it."
        )
    for name, old, new in zip(fresh._fields, given, fresh, strict=True):
        got, expected = (f"shape {tuple(s.shape)}" if isinstance(s, Tensor) else "nothing" for s in (old, new))
        if got != expected:
            raise ValueError(
                f"got a state whose {name} has {got}; expected {expected} for this input. "
                "Pass the state of the same batch, or None to start afresh."
            )
    return type(fresh)(*(o.to(n.dtype) if isinstance(o, Tensor) else o for o, n in zip(given, fresh, strict=True)))


def _checked(lengths: Tensor, x: Tensor) -> Tensor:
    """Lengths of the samples of x [T, B, *N], on its device."""
    steps, batch = x.shape[:2]
    lengths = torch.as_tensor(lengths, device=x.device)
    if (
        lengths.shape != (batch,)
        or lengths.dtype not in (torch.int64, torch.int32)
        or bool(((lengths < 0) | (lengths > steps)).any())
    ):
        raise ValueError(
            f"got lengths {lengths.tolist()}; expected {batch} whole numbers from 0 to {steps}, one a sample."
        )
    return lengths


def _adopt_dt(connection: nn.Module | Mapping[str, nn.Module] | None, neuron: Neuron) -> None:
    """Let delays stand in the neuron's time steps."""
    modules = connection.values() if isinstance(connection, Mapping) else (connection,)
    for module in modules:
        for inner in module.modules() if module is not None else ():
            if not isinstance(inner, Delayed):
                continue
            if inner is not module:
                raise ValueError(
                    "Layer got a Delayed inside another module; it stands outermost, as it has a state: write "
                    "sl.Delayed(nn.Sequential(...), maximum, shape=...)."
                )
            if neuron.dt_given:
                inner.set_dt(neuron.dt)
            elif inner.dt_given:
                neuron.set_dt(inner.dt)


def _name(value: Any) -> str:
    return type(value).__name__
