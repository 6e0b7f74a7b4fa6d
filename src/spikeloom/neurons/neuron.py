"""The contract: a neuron is named parameters, named state, and one pure step."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..capture import capturing
from ..distributions import LogNormal, Normal, Uniform
from ..fire import Fire
from ..parameters import COMPUTED, Input, Noise, Param, ParameterValue, State, Value
from ..unchanged import Snapshot, same, snapshot
from ..zero import ZERO
from .attributes import KNOWN, attributes, values
from .declarations import broadcasts, check_dt, check_shape, coefficient_type, declarations, fields, size, tuple_type

DEFAULT_DT = 1e-3
# Entries that the loop keeps beside the declared state: steps left in the refractory period; the noise's clock and key.
# What is not in use is (), which holds no tensors wherever a state is walked (None would count as a leaf).
KEPT = ("refractory", "clock", "stream")
RESERVED = (
    "shape",
    "reset",
    "refractory",
    "max_spikes",
    "comparator",
    "learn",
    "dt",
    "dt_given",
    "params",
    "unchecked",
)


class Neuron(nn.Module):
    """Base class of all neurons, and the contract for one's own.

    A subclass declares `Param`s, `State`s and, where it has more than the one input `x`, `Input`s and `Noise`s; turns
    parameters into the numbers of a step in `coefficients(dt)`, once per run; and says in `step(c, z, x, fire)` what
    happens in one time step, elementwise. It holds no weights, no time loop and no state.

        c: the coefficients, rounded to the state's precision.   z: the state before the step.
        x: the input, a tensor; with declared inputs, a named tuple of them (what nothing drives is a symbolic zero).
        fire: `s, v = fire(v, threshold)`, see `Fire`.
        returned: the output of this step, and the new state as a dictionary.

    Args:
        shape: the shape of the neurons, an integer or a tuple; None takes any shape (with parameters that broadcast).
        reset: "subtract" the threshold, to "zero" (that is, to v_reset), or "none".
        refractory: whole steps after a spike in which the membrane is held and cannot fire.
        max_spikes: most spikes in one step; with more than one, a spike for each multiple of the threshold passed.
        comparator: ">" (a neuron exactly at threshold does not fire) or ">=".
        learn: names of the parameters to train; an initial state is named `v_init`.
        dt: time step in s; the network's, where it stands in one.
        **parameters: a value for any declared parameter: a number (one for the layer), a tensor that broadcasts to
            `shape`, a distribution (`Normal`, `LogNormal`, `Uniform`; one for each neuron), or a `Param` that also
            narrows its range.

    Raises:
        TypeError: an unknown parameter (the nearest name is given), or a declaration that cannot work.
        ValueError: a value outside its range, a shape that does not fit, an unknown reset.
    """

    membrane: ClassVar[str] = "v"
    resets: ClassVar[tuple[str, ...]] = ("subtract", "zero", "none")
    spiking: ClassVar[bool] = True
    # Whether multiples of the threshold mean anything: not where it is in mV, or drawn afresh in each step.
    many_spikes: ClassVar[bool] = True
    # Names of attributes (a number of sub-steps, an activation) that give the step its form; it sees them as c.NAME.
    structure: ClassVar[tuple[str, ...]] = ()

    declared_params: ClassVar[dict[str, Param]] = {}
    declared_states: ClassVar[dict[str, State]] = {}
    declared_inputs: ClassVar[dict[str, Input]] = {}
    declared_noise: ClassVar[dict[str, Noise]] = {}
    state_type: ClassVar[Callable[..., Any]]
    input_type: ClassVar[Callable[..., Any] | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        found = declarations(cls)
        params, states = found[Param], found[State]
        for name, state in states.items():
            init = vars(state)["init"]
            if isinstance(init, int | float | Tensor | Param):
                param = init if isinstance(init, Param) else Param(init, unit=state.unit)
            elif callable(init) or (init in params and not params[init].optional):
                # Given or learned, it takes the place of what the declaration names.
                param = Param(unit=state.unit, optional=True)
            else:
                raise TypeError(
                    f"{cls.__name__} declares {name} = State(init={init!r}); expected a number, a Param, a function of "
                    "the neuron, or the name of one of its parameters that is not optional."
                )
            param.name = f"{name}_init"
            if isinstance(init, int | float | Tensor | Param) or param.name not in params:
                setattr(cls, param.name, param)
                params[param.name] = param
        for name in (*params, *states, *found[Input], *found[Noise]):
            if name in KEPT or name in RESERVED or hasattr(Neuron, name) or hasattr(nn.ModuleDict, name):
                raise TypeError(f"{cls.__name__} declares {name!r}, a name that the library or torch uses; rename it.")
        if found[Noise] and not found[Input]:
            raise TypeError(f"{cls.__name__} declares noise, so its inputs need names too; add `x = sl.Input()`.")
        cls.declared_params, cls.declared_states = params, states
        cls.declared_inputs, cls.declared_noise = found[Input], found[Noise]
        cls.state_type = tuple_type(cls, "State", (*found[State], *KEPT), defaults=len(KEPT))
        # So that torch.load(weights_only=True) takes a saved state.
        torch.serialization.add_safe_globals([cls.state_type])
        names = (*found[Input], *found[Noise])
        cls.input_type = tuple_type(cls, "Input", names) if names else None

    def __init__(
        self,
        shape: int | tuple[int, ...] | None = None,
        *,
        reset: str | None = None,
        refractory: int = 0,
        max_spikes: int = 1,
        comparator: str = ">",
        learn: str | tuple[str, ...] = (),
        dt: float | None = None,
        **parameters: Value | Param,
    ):
        super().__init__()
        self.__dict__ |= dict.fromkeys(KNOWN)  # from the start, for a compiler looks at which attributes there are
        name = type(self).__name__
        if reset is not None and reset not in self.resets:
            choice = " or ".join(repr(r) for r in self.resets)
            raise ValueError(f"{name} got reset={reset!r}; expected {choice}.")
        for what, count, least in (("refractory", refractory, 0), ("max_spikes", max_spikes, 1)):
            if not isinstance(count, int) or count < least:
                hint = " (2 ms at dt = 1 ms are refractory=2)" if what == "refractory" else ""
                raise ValueError(f"{name} got {what}={count!r}; expected a whole number of {least} or more{hint}.")
        if not self.spiking and (refractory or max_spikes > 1):
            raise ValueError(f"{name} never fires, so it takes no refractory period and no max_spikes.")
        if max_spikes > 1 and not self.many_spikes:
            raise ValueError(f"{name} fires once in a step at most; leave max_spikes out, or take a shorter dt.")
        if refractory and self.membrane not in self.declared_states:
            raise ValueError(
                f"{name} has no state named {self.membrane!r} to hold; name it in the class: membrane = ..."
            )
        if comparator not in (">", ">="):
            raise ValueError(f"{name} got comparator={comparator!r}; expected '>' or '>='.")
        self.shape = None if shape is None else check_shape(name, shape)
        self.reset = reset or self.resets[0]
        self.refractory, self.max_spikes, self.comparator = refractory, max_spikes, comparator
        self.dt_given = dt is not None
        self.dt = check_dt(dt) if dt is not None else DEFAULT_DT
        self.unchecked = False
        self.params = nn.ModuleDict()
        learned = (learn,) if isinstance(learn, str) else tuple(learn)
        self._check_names(parameters, "parameter")
        self._check_names(learned, "parameter to learn")
        for key, declared in self.declared_params.items():
            value = parameters.get(key, declared)
            if key in parameters or key in learned or not declared.optional:
                if value is declared and declared.optional and key.removesuffix("_init") in self.declared_states:
                    # A learned initial state starts where it would have been.
                    value = self._begin(key.removesuffix("_init")).detach()
                self.params[key] = self._build(key, declared, value, key in learned)

    def _check_names(self, names: Any, what: str) -> None:
        for name in names:
            if name not in self.declared_params:
                near = difflib.get_close_matches(str(name), self.declared_params, n=1)
                known = ", ".join(self.declared_params)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise TypeError(f"{type(self).__name__} has no {what} {name!r}; {hint}It has: {known}.")

    def _build(self, key: str, declared: Param, value: Value | Param, learned: bool) -> ParameterValue:
        # The scale is the declaration's, not the value's: the same class has the same one whatever it is given.
        source = value if isinstance(value, Param) else declared
        value, scale = (value.default if isinstance(value, Param) else value), source.scale
        if scale is None:
            scale = source.constraint.default_scale(size(source.default))
        name = f"{type(self).__name__}'s {key}"
        if isinstance(value, Normal | LogNormal | Uniform):
            if self.shape is None:
                raise ValueError(f"{name} got {value}, but the neuron has no shape to draw for; give it one.")
            tensor, hint = value.sample(self.shape), f" ({value} was drawn from; LogNormal stays positive)"
        else:
            tensor, hint = torch.as_tensor(value, dtype=torch.float64).detach().clone(), ""
        if self.shape is not None and not broadcasts(tensor.shape, self.shape):
            raise ValueError(f"{name} got shape {tuple(tensor.shape)}; expected one that broadcasts to {self.shape}.")
        held = ParameterValue(tensor, source.constraint, scale, learned, declared.unit)
        try:
            held.check(tensor, self.dt, name)
        except ValueError as error:
            # A time constant is judged against dt, which the network may still set.
            positive = bool((tensor > 0).all() and tensor.isfinite().all())
            if not source.constraint.in_steps or self.dt_given or not positive:
                raise ValueError(f"{error}{hint}") from None
            self.unchecked = True
        return held

    @property
    def learned(self) -> tuple[str, ...]:
        """Names of the parameters that are trained."""
        return tuple(name for name in self.params if self._held(name).learned)

    def _begin(self, state: str, like: tuple[torch.dtype, torch.device] | None = None) -> Tensor:
        """A state's value before the first step, of that precision and on that device where they are given."""
        init = vars(self.declared_states[state])["init"]
        if (own := values(self).get(f"{state}_init")) is not None:
            return own.start(self.dt, *like) if like else own.value(self.dt)
        value = torch.as_tensor(init(self)) if callable(init) else self._held(init).value(self.dt)
        return value.to(device=like[1], dtype=like[0]) if like else value

    def _held(self, name: str) -> ParameterValue:
        return values(self)[name]

    @property
    def default_port(self) -> str:
        """Name of the port that input reaches where none is named."""
        return next(iter(self.declared_inputs), "x")

    @property
    def ports(self) -> tuple[str, ...]:
        return tuple(self.declared_inputs) or ("x",)

    def set_dt(self, dt: float) -> None:
        """Adopt the network's time step (s); one that was given at construction must agree.

        Raises:
            ValueError: another dt was given, or a time constant lies outside its range at this one.
        """
        dt = check_dt(dt)
        if self.dt_given and dt != self.dt:
            raise ValueError(
                f"{type(self).__name__} was built with dt={self.dt:g} s and stands in a network with dt={dt:g} s; "
                "a network has one dt: leave it out of the neuron."
            )
        self._check_ranges(dt)
        self.dt, self.dt_given = dt, True

    def _check_ranges(self, dt: float) -> None:
        for key in self.params:
            held = self._held(key)
            held.check(held.initial, dt, f"{type(self).__name__}'s {key}")
        self.unchecked = False

    def _frame(self) -> Tensor:
        """dt, and what gives raw tensors their meaning: range and scale of each parameter."""
        held = [self._held(name) for name in self.params]
        numbers = [self.dt, *(x for h in held for x in (*h.constraint.numbers(), h.scale))]
        return torch.tensor(numbers, dtype=torch.float64)

    def get_extra_state(self) -> Tensor:
        return self._frame()

    def set_extra_state(self, state: Tensor) -> None:
        saved, mine = state.double().cpu(), self._frame()
        if not torch.isclose(saved[0], mine[0], rtol=1e-6, atol=0):
            raise ValueError(
                f"these parameters were saved at dt={saved[0]:g} s, and this {type(self).__name__} has "
                f"dt={self.dt:g} s; build the network with dt={saved[0]:g}."
            )
        if saved.shape == mine.shape and not torch.allclose(saved, mine, rtol=1e-6, atol=0):
            which = list(self.params)[int((~torch.isclose(saved, mine, rtol=1e-6)).nonzero()[0] - 1) // 5]
            raise ValueError(
                f"the range or scale of {type(self).__name__}'s {which} is not the one these parameters were saved "
                "with; declare it as it was."
            )

    def forward(self, *_: Any) -> Any:
        name = type(self).__name__
        raise TypeError(
            f"{name} is a neuron and has no time loop; call a layer of it: sl.Layer(connection, {name}(...))."
        )

    def coefficients(self, dt: float) -> Mapping[str, Any]:
        """The numbers of one step at time step `dt` (s): differentiable, any torch, in float64."""
        raise NotImplementedError(f"{type(self).__name__} defines no coefficients(dt); return a dictionary of tensors.")

    @staticmethod
    def step(c: Any, z: Any, x: Any, fire: Fire) -> tuple[Tensor, dict[str, Tensor]]:
        """One time step: returns the output and the new state as a dictionary."""
        raise NotImplementedError("a neuron defines step(c, z, x, fire); return the output and the new state.")

    def rounded_coefficients(self, dtype: torch.dtype) -> Any:
        """The coefficients as a named tuple in the state's precision, rounded once; `v_reset` too where it is used."""
        if self.unchecked:
            self._check_ranges(self.dt)
        shot, options = self._fixed(dtype)
        known = self.__dict__.get("known_coefficients")
        if shot is not None and known is not None and options == known[1] and same(shot, known[0]):
            if capturing():  # a graph will read them: they are to live as long as the neuron
                self.__dict__.setdefault("captured_coefficients", []).append(known[2])
            return known[2]
        drawn = torch.get_rng_state() if shot is not None else None
        found = self._compute_coefficients(dtype)
        # Coefficients that are drawn are drawn for each run.
        if drawn is not None and torch.equal(drawn, torch.get_rng_state()) and not capturing():
            self.__dict__["known_coefficients"] = shot, options, found
        return found

    def _fixed(self, dtype: torch.dtype) -> tuple[Snapshot | None, dict[str, Any]]:
        """All that the coefficients can depend on, where none of it is learned and all of it can be compared."""
        own, all_plain = attributes(self)
        if not all_plain:
            return None, own
        tensors: list[Tensor] = []
        for held in values(self).values():
            if held._parameters or held._modules:  # learned, or in a parametrization of torch's
                return None, own
            tensors += held._buffers.values()
        return snapshot(tensors), own | {"dtype": dtype, "class": type(self)}

    def __getstate__(self) -> dict[str, Any]:
        kept = {k: v for k, v in self.__dict__.items() if k != "captured_coefficients"}
        return kept | dict.fromkeys(KNOWN)

    def formulas(self, given: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """The coefficients before they are rounded, with these values in the place of the parameters' own."""
        COMPUTED.of[id(self)] = dict(given or {})
        try:
            found = dict(self.coefficients(self.dt))
            if self.reset == "zero" and "v_reset" not in found:
                found["v_reset"] = self.v_reset if "v_reset" in self.params else 0.0
        finally:
            del COMPUTED.of[id(self)]
        return found

    def _compute_coefficients(self, dtype: torch.dtype) -> Any:
        found = self.formulas()
        # Numbers become tensors, so that no trace of the step holds one as a constant.
        rounded = {k: _round(v, dtype) for k, v in found.items()}
        structure = tuple((name, getattr(self, name)) for name in self.structure)
        return coefficient_type(tuple(rounded), structure)(**rounded)

    def initial_state(self, batch: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Any:
        """The state before the first step, [batch, *shape] each; gradients reach learned initial values."""
        kept: dict[str, Tensor] = {}
        if self.refractory:
            kept["refractory"] = torch.zeros((batch, *shape), dtype=dtype, device=device)
        if self.noises:
            kept["clock"] = torch.zeros((batch, *(1,) * len(shape)), dtype=torch.int64, device=device)
            # Replaced by the layer, which knows the seed.
            kept["stream"] = torch.zeros_like(kept["clock"])
        starts = {name: self._begin(name, (dtype, device)) for name in self.declared_states}
        states = {name: start.expand(batch, *shape) for name, start in starts.items()}
        return type(self).state_type(**states, **kept)

    @property
    def noises(self) -> tuple[str, ...]:
        """Names of the noises that are drawn: those whose amplitude was given."""
        given = values(self) if self.declared_noise else {}
        return tuple([n for n, d in self.declared_noise.items() if d.amplitude is None or d.amplitude in given])

    def fill_ports(self, inputs: Mapping[str, Any]) -> Any:
        """What `step` sees as x: the one tensor, or a named tuple in which a port that nothing drives is a zero."""
        kind = type(self).input_type
        return inputs["x"] if kind is None else kind(*(inputs.get(name, ZERO) for name in fields(kind)))

    def new_fire(self, c: Any, z: Any, surrogate: Any, reset_edge: str) -> Fire:
        """A `Fire` for one step from state `z`."""
        return Fire(
            surrogate,
            reset=self.reset,
            v_reset=getattr(c, "v_reset", 0.0),
            reset_edge=reset_edge,
            held=(z.refractory, getattr(z, self.membrane)) if self.refractory else None,
            max_spikes=self.max_spikes,
            comparator=self.comparator,
        )

    def advance(
        self, c: Any, z: Any, inputs: Mapping[str, Any], surrogate: Any, reset_edge: str
    ) -> tuple[Tensor, Any, Fire]:
        """One step as a time loop takes it: ports filled, refractory period and clock kept."""
        fire = self.new_fire(c, z, surrogate, reset_edge)
        output, new = self.step(c, z, self.fill_ports(inputs), fire)
        for name, value in new.items():
            if value is ZERO:
                new[name] = torch.zeros_like(getattr(z, name))
        if self.refractory:
            assert fire.fired is not None
            wait = torch.full_like(z.refractory, self.refractory)
            new["refractory"] = torch.where(fire.fired, wait, (z.refractory - 1).clamp(min=0))
        if self.noises:
            new["clock"], new["stream"] = z.clock + 1, z.stream
        return output, type(self).state_type(**new), fire

    def extra_repr(self) -> str:
        parts = [] if self.shape is None else [str(self.shape[0] if len(self.shape) == 1 else self.shape)]
        parts += [f"reset={self.reset!r}"] if self.spiking else []
        parts += [f"refractory={self.refractory}"] if self.refractory else []
        parts += [f"learn={self.learned}"] if self.learned else []
        return ", ".join(parts)


def _round(value: Any, dtype: torch.dtype) -> Any:
    if value is ZERO:
        return value
    return value.to(dtype) if isinstance(value, Tensor) else torch.tensor(value, dtype=dtype, device="cpu")
