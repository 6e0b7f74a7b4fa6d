"""A layer: connection, neuron, and a recurrent connection if wanted."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..engine import Feedback, Loop, LoopState, check_step, choose
from ..engine.noise import normal
from ..neurons import Neuron
from ..surrogates import Smooth, SpikeFunction, SuperSpike, Surrogate
from .context import ACTIVE, Context, fresh_seed
from .modules import absent, apply, has_memory


class LayerState(NamedTuple):
    """State of a layer: its neuron's, the last output (where it is fed back), and its connections' (with memory).

    What a layer does not have is ().
    """

    neuron: Any
    feedback: Any = ()
    recurrent: Any = ()
    connection: Any = ()


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
        context = ACTIVE.get() or Context()
        path = context.path(self)
        state = context.states.get(path) if state is None else state
        if state is not None and not isinstance(state, LayerState):
            raise TypeError(f"got {_name(state)} as state; expected the state that an earlier call returned, or None.")
        inputs, connection_state = self._connect(x, state.connection if state is not None else ())
        first = next(iter(inputs.values()))
        steps, shape = first.shape[0], tuple(first.shape[1:])
        dtype = torch.promote_types(first.dtype, torch.float32)
        neuron_state = self._neuron_state(state, shape, dtype, first.device)
        output_dtype = first.dtype if self.neuron.spiking else dtype
        feedback, begin = self._feedback(state, neuron_state, shape, output_dtype, first.device)
        seed = context.seed if context.seed is not None or not self.neuron.noises else fresh_seed()
        for which, name in enumerate(self.neuron.noises):
            drawn = normal(seed or 0, context.drawn, which, neuron_state.clock, steps, shape)
            inputs[name] = drawn.to(dtype)
        context.drawn += 1
        loop = Loop(
            neuron=self.neuron,
            coefficients=self.neuron.rounded_coefficients(dtype),
            surrogate=context.surrogate or self.surrogate,
            inputs=inputs,
            output_dtype=output_dtype,
            shape=shape,
            steps=steps,
            feedback=feedback,
            alive=self._alive(context.lengths, first, connection_state),
            record=context.wanted(path, self._names()),
        )
        name, engine = choose(context.engine)
        output, end, records = context.gradient(loop, begin, engine)
        final = LayerState(end.neuron, end.feedback, end.recurrent, connection_state)
        context.engines[path], context.final[path] = name, final
        context.keep(path, records)
        return output, final

    def _connect(self, x: Any, state: Any) -> tuple[dict[str, Tensor], Any]:
        """Input of each port [T, B, *N], and the connections' states."""
        modules = self._modules_by_port()
        given = x if isinstance(x, Mapping) else dict.fromkeys(modules, x)
        before = state or {}
        pairs = {port: apply(modules.get(port), y, before.get(port, ())) for port, y in given.items()}
        inputs = {port: y for port, (y, _) in pairs.items()}
        states = {port: after for port, (_, after) in pairs.items() if not absent(after)}
        if not inputs:
            raise ValueError("Layer got an empty dictionary of inputs; expected {port: tensor}.")
        for port, y in inputs.items():
            self._check_port(port)
            self._check_shape(y, next(iter(inputs.values())))
        return inputs, states or ()

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

    def _neuron_state(self, state: LayerState | None, shape: tuple[int, ...], dtype: torch.dtype, device: Any) -> Any:
        fresh = self.neuron.initial_state(shape[0], shape[1:], dtype, device)
        if state is None:
            return fresh
        for name, old, new in zip(fresh._fields, state.neuron, fresh, strict=True):
            got, expected = (f"shape {tuple(s.shape)}" if isinstance(s, Tensor) else "nothing" for s in (old, new))
            if got != expected:
                raise ValueError(
                    f"got a state whose {name} has {got}; expected {expected} for this input. "
                    "Pass the state of the same batch, or None to start afresh."
                )
        return type(fresh)(*(o.to(n.dtype) if isinstance(o, Tensor) else o for o, n in zip(state.neuron, fresh, strict=True)))

    def _feedback(
        self, state: LayerState | None, neuron: Any, shape: tuple[int, ...], dtype: torch.dtype, device: Any
    ) -> tuple[Feedback | None, LoopState]:
        module = self.recurrent
        if module is None:
            return None, LoopState(neuron)
        last = state.feedback.to(dtype) if state is not None else torch.zeros(shape, dtype=dtype, device=device)
        memory = state.recurrent if state is not None else ()
        if has_memory(module) and state is None:
            memory = module.initial_state(last[None])  # type: ignore[operator]
        weight = None
        if not self.self_connections:
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

        return Feedback(call, self.recurrent_port), LoopState(neuron, last, memory)

    def _alive(self, lengths: Tensor | None, first: Tensor, connection_state: Any) -> Tensor | None:
        if lengths is None:
            return None
        if not absent(connection_state) or (self.recurrent is not None and has_memory(self.recurrent)):
            raise ValueError(
                "lengths= does not reach into a connection with memory; run samples of one length together."
            )
        steps, batch = first.shape[:2]
        lengths = torch.as_tensor(lengths, device=first.device)
        if lengths.shape != (batch,) or lengths.is_floating_point() or bool(((lengths < 0) | (lengths > steps)).any()):
            raise ValueError(
                f"got lengths {lengths.tolist()}; expected {batch} whole numbers from 0 to {steps}, one a sample."
            )
        alive = torch.arange(steps, device=first.device)[:, None] < lengths
        return alive.reshape(steps, batch, *(1,) * (first.dim() - 2))

    def _names(self) -> tuple[str, ...]:
        spiking = ("spikes", "v_before_reset") if self.neuron.spiking else ()
        return (*self.neuron.declared_states, *spiking, "output", "input")

    def extra_repr(self) -> str:
        return f"surrogate={self.surrogate}" if self.neuron.spiking else ""


def _name(value: Any) -> str:
    return type(value).__name__
