"""Connections under an online rule: what their weights get of a neuron's input, and what their inputs get."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..engine import Loop, is_matrix
from ..engine.breakeven import choose_linear
from ..engine.matrix import Matrix
from ..engine.rows import rows_of_raster
from .meaning import check_parameters

# Modules that are another function each time, or that each call changes.
CHANGING = (
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
)


@dataclass(frozen=True)
class Synapses:
    """A connection to a port, and what went into it.

    Args:
        name: of the port, or "recurrent".
        port: that it feeds.
        kind: of the connection, in words.
        module: the connection, or None where the input is passed on.
        x: what went into it, [T, B, *N_in], a tensor with its history or `Events`.
        call: applies the connection to such an input.
        weight: [N, N_in] where it is one matrix, else None.   bias: [N], or None.
        parameters: all that it learns: weight and bias, or the parameters of a module of another kind.
        back: the matrix [N, N_in] that takes learning signals to its input in place of the weight, or None.
        back_learns: whether that matrix gets the gradient that the weight gets.
    """

    name: str
    port: str
    kind: str
    module: nn.Module | None
    x: Any
    call: Callable[[Any], Tensor]
    weight: Tensor | None
    bias: Tensor | None
    parameters: tuple[Tensor, ...]
    back: Tensor | None = None
    back_learns: bool = False

    @property
    def learns(self) -> bool:
        return any(p.requires_grad for p in self.parameters) or self.back_learns

    @property
    def signals(self) -> bool:
        """Whether learning signals are to reach its input."""
        return isinstance(self.x, Tensor) and self.x.requires_grad

    def dense(self, like: Tensor) -> Tensor:
        """Its input as a raster."""
        x = self.x.detach() if isinstance(self.x, Tensor) else self.x.to_dense(like.dtype)
        return x.to(like)


def plain(module: nn.Module | None, loop: Loop) -> bool:
    """Whether a connection is one matrix from [T, B, N_in] to [T, B, N] and nothing else."""
    return is_matrix(module) and len(loop.shape) == 2


def _learned(module: nn.Module | None) -> tuple[Tensor, ...]:
    """What a connection computes with."""
    return () if module is None else tuple(p for n, p in module.named_parameters() if n != "feedback")


def check_again(module: nn.Module) -> None:
    """Refuse a connection that the backward pass, which calls it again, would not find as it was.

    Raises:
        ValueError: it draws numbers or gathers statistics.
    """
    for part in module.modules():
        if part.training and isinstance(part, CHANGING):
            raise ValueError(
                f"an online rule calls a connection again in the backward pass, where {type(part).__name__} would be "
                "another function; put it between the layers, or take it out of training: .eval()."
            )


def synapses_of(loop: Loop, feedback: str) -> list[Synapses]:
    """The connections of a loop, without the recurrent one.

    Raises:
        ValueError: no matrix for random or adaptive feedback, or a connection that is another one when called again.
    """
    found = []
    for port, source in loop.sources.items():
        module, kind = source.module, type(source.module).__name__
        known: Any = module if plain(module, loop) else None
        weight, bias = (None, None) if known is None else (known.weight, known.bias)
        one = Synapses(port, port, kind, module, source.presynaptic, source.call, weight, bias, _learned(module))
        if module is not None and known is None and (one.learns or one.signals):
            check_again(module)
        if feedback != "symmetric" and one.signals and module is not None:
            back = getattr(module, "feedback", None)
            if not isinstance(back, Tensor) or (feedback == "adaptive" and known is None):
                raise ValueError(
                    f"feedback={feedback!r} sends learning signals back through a matrix B of the connection, which "
                    f"this {kind} does not have; write sl.with_feedback(nn.Linear(...)), before the optimiser is made, "
                    "or feedback='symmetric'."
                )
            one = replace(one, back=back, back_learns=feedback == "adaptive" and back.requires_grad)
        found.append(one)
    return found


def recurrent_synapses(loop: Loop, last: Tensor, output: Tensor) -> Synapses:
    """The recurrent connection of a loop, fed with the output of the step before; its spikes have no gradient."""
    back = loop.feedback
    assert back is not None
    fed = torch.cat([last.detach()[None].to(output), output])[: len(output)]

    def call(x: Tensor) -> Tensor:
        return back.call(x.flatten(0, 1), ())[0].unflatten(0, x.shape[:2])

    module, kind = back.module, type(back.module).__name__
    found = Synapses("recurrent", back.port, kind, module, fed, call, None, None, _learned(module))
    if back.weight is None or not plain(module, loop):
        if found.learns:
            check_again(module)
        return found
    bias: Any = back.module.bias
    parameters = (back.weight,) if bias is None else (back.weight, bias)
    return replace(found, weight=back.weight, bias=bias, parameters=parameters)


class Arrive(torch.autograd.Function):
    """A port's input, already computed, and its twin: the first one's gradient goes to the connections' parameters, the
    twin's to what went into them."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, synapses: list[Synapses], *tensors: Tensor) -> Any:
        ctx.synapses = [_without_history(s) for s in synapses]
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return value.view_as(value), value.view_as(value)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, through: Tensor | None, now: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        needs, saved = list(ctx.needs_input_grad[2:]), list(ctx.saved_tensors)
        found: list[Tensor | None] = []
        for one in ctx.synapses:
            count = len(one.parameters) + 2
            part, needed = saved[:count], needs[:count]
            saved, needs = saved[count:], needs[count:]
            found += _gradients(one, part, needed, through, now)
        return None, None, *found


def arrive(value: Tensor, synapses: list[Synapses]) -> tuple[Tensor, Tensor]:
    """Input of a port for the neuron's states, and the same for its output of the same step."""
    tensors: list[Tensor] = []
    for s in synapses:
        none = torch.empty(0)
        x = s.x if isinstance(s.x, Tensor) else none
        back = none if s.back is None else s.back if s.back_learns else s.back.detach()
        tensors += [*s.parameters, x if x.is_floating_point() else none, back]
    return Arrive.apply(value, synapses, *tensors)  # type: ignore[no-any-return]


def _without_history(s: Synapses) -> Synapses:
    """The node keeps inputs as saved tensors, which know when somebody has changed them."""
    x = None if isinstance(s.x, Tensor) and s.x.is_floating_point() else s.x
    return replace(s, x=x, weight=None if s.weight is None else s.weight.detach())


def _gradients(
    one: Synapses, saved: list[Tensor], needs: list[bool], through: Tensor | None, now: Tensor | None
) -> list[Tensor | None]:
    """Of the connection's parameters, its input and its feedback matrix."""
    x, back = saved[-2:]
    x = x if one.x is None else one.x
    found: list[Tensor | None] = [None] * len(needs)
    for_weights, for_x, for_back = any(needs[:-2]), needs[-2], needs[-1]
    if one.weight is None:
        check_parameters(_learned(one.module), one.parameters)
    if through is not None and (for_weights or for_back):
        if one.weight is None:
            wanted = [p for p, need in zip(one.parameters, needs, strict=False) if need]
            with torch.enable_grad():
                y = one.call(x.detach() if isinstance(x, Tensor) else x)
            each = iter(torch.autograd.grad(y, wanted, through.to(y), allow_unused=True))
            found[:-2] = [next(each) if need else None for need in needs[:-2]]
        else:
            at_weight = weight_gradient(x, through, one.weight) if needs[0] or for_back else None
            found[0], found[-1] = (at_weight if need else None for need in (needs[0], for_back))
            if one.bias is not None and needs[1]:
                found[1] = through.sum((0, 1)).to(one.bias)
    if now is not None and for_x:
        matrix = back if one.back is not None else one.weight
        if matrix is not None:
            found[-2] = now.to(matrix) @ matrix
        elif not one.parameters and one.call(x) is x:
            found[-2] = now
        else:
            with torch.enable_grad():
                again = x.detach().requires_grad_()
                y = one.call(again)
            found[-2] = torch.autograd.grad(y, again, now.to(y))[0]
        found[-2] = found[-2].to(x)  # type: ignore[union-attr]
    return found


def weight_gradient(x: Any, g: Tensor, weight: Tensor) -> Tensor:
    """Sum over steps and samples of g x^T, spike by spike where there are few."""
    g = g.to(weight.dtype)
    if g.device.type == "cpu" and len(x.shape) == 3 and choose_linear(x, len(weight), weight.dtype)[0] == "events":
        rows = rows_of_raster(x) if isinstance(x, Tensor) else x.index_lists()
        if rows.value is not None:
            rows = rows._replace(value=rows.value.to(weight.dtype))
        return Matrix(*weight.shape).weight_gradient(rows, g, weight)
    x = x.to(weight.dtype) if isinstance(x, Tensor) else x.to_dense(weight.dtype)
    return g.flatten(0, -2).t() @ x.flatten(0, -2)


def with_feedback(connection: nn.Linear, std: float | None = None) -> nn.Linear:
    """Give a connection a matrix of its own for learning signals, its parameter `feedback`, B [N_out, N_in].

    B is drawn from N(0, std^2). `EProp(feedback="random")` and `EProp(feedback="adaptive")` send learning signals
    back through it in place of W^T; nothing else uses it. It is saved with the network, and trained with "adaptive".

    Args:
        connection: what is given the matrix, in place.
        std: standard deviation of B (default: 1 / sqrt(N_in)). It scales learning signals, beside those of other costs.

    Returns:
        The same connection.

    Raises:
        TypeError: not an nn.Linear.
        ValueError: a standard deviation of 0 or less.

    >>> import torch, spikeloom as sl
    >>> connection = sl.with_feedback(torch.nn.Linear(100, 2))
    >>> connection.feedback.shape
    torch.Size([2, 100])
    """
    if not isinstance(connection, nn.Linear):
        raise TypeError(f"with_feedback got {type(connection).__name__}; expected an nn.Linear.")
    spread: float = connection.in_features**-0.5 if std is None else std
    if not isinstance(spread, int | float) or not 0 < spread < float("inf"):
        raise ValueError(f"with_feedback got std={std!r}; expected a number above 0.")
    back = torch.empty_like(connection.weight)
    nn.init.normal_(back, 0.0, spread)
    connection.register_parameter("feedback", nn.Parameter(back))
    return connection
