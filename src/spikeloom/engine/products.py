"""Event-driven products: Linear and Conv2d on spikes cost a row of weights for each spike, not for each place.

The forward pass and the weights' gradient go event by event; a gradient of the input is a dense product. Where another
transform is at work (functorch, forward-mode derivatives, torch.compile, autocast), and for derivatives of derivatives,
dense torch operations compute the same.
"""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C import _functorch  # type: ignore[attr-defined]

from .convolution import Convolution
from .matrix import Matrix
from .rows import LARGEST, Rows, rows_of_raster
from .transforms import recorded, transformed


class Listed(Protocol):
    """What has a list of the events of each row."""

    @property
    def shape(self) -> torch.Size: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def total(self) -> int: ...
    def index_lists(self) -> Rows: ...


class Spikes(Listed, Protocol):
    """Spike trains as events, such as `spikeloom.Events`."""

    def to_dense(self, dtype: torch.dtype = ...) -> Tensor: ...


def linear(x: Tensor | Spikes, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x W^T + b, event by event.

    Args:
        x: [T, B, N_in], events or a raster that is nearly all zeros.
        weight: [N_out, N_in], float32 or float64.
        bias: [N_out], or None.

    Returns:
        [T, B, N_out]. Differentiable in weight, bias, and a raster.

    Raises:
        ValueError: shapes do not fit.
    """
    if x.shape[2:] != weight.shape[1:]:
        raise ValueError(
            f"linear got input of shape {tuple(x.shape)} for a weight of shape {tuple(weight.shape)}; "
            f"expected [T, B, {weight.shape[1]}]."
        )
    if not suited(x, weight, bias):
        return F.linear(_dense(x, weight), weight, bias)
    return _product(x, weight, bias, Matrix(*weight.shape))


def conv2d(
    x: Tensor | Spikes,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: str | int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d` of every step and sample, event by event.

    Args:
        x: [T, B, C_in, H, W], events or a raster that is nearly all zeros.
        weight: [C_out, C_in / groups, K_h, K_w], float32 or float64.
        bias: [C_out], or None.
        stride, padding, dilation, groups: as torch's; padding is with zeros.

    Returns:
        [T, B, C_out, H_out, W_out], in memory channels last. Differentiable in weight, bias, and a raster.

    Raises:
        ValueError: shapes do not fit.
    """
    operation = Convolution.of(tuple(x.shape), tuple(weight.shape), stride, padding, dilation, groups)
    if operation is None or not suited(x, weight, bias):
        images = _dense(x, weight).flatten(0, 1)
        y = F.conv2d(images, weight, bias, stride, padding, dilation, groups)  # type: ignore[arg-type]
        return y.unflatten(0, x.shape[:2])
    return _product(x, weight, bias, operation)


def obstacle(x: Tensor | Listed, dtype: torch.dtype) -> str:
    """Why kernels do not take an input to weights of a dtype, or nothing where they do."""
    if recorded():
        return "under torch.compile or torch.jit.trace"
    if x.device.type != "cpu":
        return f"input on {x.device}"
    if dtype not in (torch.float32, torch.float64):
        return f"weights of {dtype}"
    if isinstance(x, Tensor) and _functorch.is_legacy_batchedtensor(x):
        return "under a vectorised derivative"  # which torch.autograd.functional takes without functorch
    if isinstance(x, Tensor) and x.is_neg():
        return "input is negated when it is read"
    if isinstance(x, Tensor) and (type(x) is not Tensor or x.layout != torch.strided or x.dtype != dtype):
        return f"input is a {type(x).__name__} of {x.dtype}, {x.layout}"
    if x.shape.numel() == 0:
        return "empty input"
    if max(x.shape[0] * x.shape[1], x.numel() if isinstance(x, Tensor) else x.total) > LARGEST:
        return "more input than 32-bit integers count"
    if transformed():
        return "under a transform of torch.func or a forward-mode derivative"
    if torch._C._len_torch_dispatch_stack():
        return "under a mode that sees every operation, as tracers and counters do"
    return "under autocast" if torch.is_autocast_enabled("cpu") else ""


def suited(x: Tensor | Listed, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether kernels take all of these."""
    parameters = [t for t in (weight, bias) if t is not None]
    plain = all(type(t) in (Tensor, torch.nn.Parameter) and t.layout == torch.strided for t in parameters)
    alike = all(t.dtype == weight.dtype and t.device.type == "cpu" and t.numel() for t in parameters)
    return plain and alike and not obstacle(x, weight.dtype)


def event_weight_gradient(x: Listed, g: Tensor, weight: Tensor, reverse: bool = False) -> Tensor:
    """sum over t and b of g x^T, event by event, of what is `suited`.

    Args:
        x: [T, B, N_in], as events.
        g: [T, B, N_out], in the weight's precision.
        weight: [N_out, N_in].
        reverse: time runs back in g.
    """
    rows = _listed(x, weight)
    return Matrix(*weight.shape).weight_gradient(rows.reversed() if reverse else rows, g, weight)


def _dense(x: Tensor | Spikes, weight: Tensor) -> Tensor:
    return x if isinstance(x, Tensor) else x.to_dense(weight.dtype)


def _product(x: Tensor | Spikes, weight: Tensor, bias: Tensor | None, operation: Any) -> Tensor:
    if isinstance(x, Tensor):
        flat, operation = operation.flat(x)
        rows = rows_of_raster(flat.detach())
    else:
        rows = _listed(x, weight)
    return operation.seen(_Product.apply(x if isinstance(x, Tensor) else None, weight, bias, rows, operation))


def _listed(x: Listed, weight: Tensor) -> Rows:
    rows = x.index_lists()
    return rows if rows.value is None else rows._replace(value=rows.value.to(weight.dtype))


class _Product(torch.autograd.Function):
    """A linear operation on rows of events (see matrix.py and convolution.py). Its output is as it lies in memory, with
    the bias along the last axis."""

    @staticmethod
    def forward(ctx: Any, x: Tensor | None, weight: Tensor, bias: Tensor | None, rows: Rows, operation: Any) -> Tensor:
        # The raster itself is needed where its own gradient is, for derivatives of derivatives.
        kept = x if x is not None and x.requires_grad else None
        ctx.save_for_backward(kept, weight, rows.start, rows.stop, rows.channel, rows.value)
        ctx.shape, ctx.time_first, ctx.operation = rows.shape, rows.time_first, operation
        return operation.forward(rows, weight.detach(), None if bias is None else bias.detach())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (g,) = gradients
        x, weight, start, stop, channel, value = ctx.saved_tensors
        rows, operation = Rows(start, stop, channel, value, ctx.shape, ctx.time_first), ctx.operation
        for_x, for_weight, for_bias = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled() or not suited(g, weight):
            d_x, d_weight = _dense_gradients(operation, x, weight, rows, g, for_x, for_weight)
        else:
            d_x = operation.input_gradient(g, weight) if for_x else None
            d_weight = operation.weight_gradient(rows, g, weight) if for_weight else None
        d_bias = g.flatten(0, -2).sum(0) if for_bias else None
        return d_x, d_weight, d_bias, None, None


def _dense_gradients(
    operation: Any, x: Tensor | None, weight: Tensor, rows: Rows, g: Tensor, for_x: bool, for_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The same by torch's own operations, which can be differentiated again."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases, for the input may depend on the weight (a layer called twice): autograd would follow that, too.
        raster = operation.raster(rows, weight.dtype) if x is None else x.view_as(x)
        weight = weight.view_as(weight) if weight.requires_grad else weight.detach().requires_grad_(for_weight)
        wanted = [t for t, needed in ((raster, for_x), (weight, for_weight)) if needed]
        if not wanted:
            return None, None
        found = list(
            torch.autograd.grad(operation.dense(raster, weight), wanted, operation.seen(g), create_graph=again)
        )
    return (found.pop(0) if for_x else None), (found.pop(0) if for_weight else None)
