"""Layers as an exact network, with gradients that end in the layers' own parameters."""

from typing import Any

import torch
from torch import Tensor, nn

from ..connections import Delayed
from ..network import Layer, Sequential
from ..neurons import CubaALIF, CubaLI, CubaLIF
from .synapses import Network


def from_layers(network: Sequential | Layer) -> Network:
    """The exact network of a layer, or of layers one after the other.

    The layers' neurons follow each other; each layer's spikes reach the next one (and its own recurrent connection) at
    once, or after the delays of a `Delayed` connection. The limit of the layers' steps as dt goes to 0.

    Args:
        network: a layer or a `Sequential` of layers with `nn.Linear` connections, delayed or not, and `CubaLI`,
            `CubaLIF` or `CubaALIF`.

    Returns:
        A `Network`, whose tensors depend on the layers' parameters.

    Raises:
        ValueError: something else among the layers.

    >>> import torch, spikeloom as sl
    >>> net = sl.Sequential(sl.Layer(torch.nn.Linear(5, 3, bias=False), sl.CubaLIF(3)))
    >>> sl.exact.from_layers(net).weight.shape
    torch.Size([3, 5])
    """
    layers: list[Any] = [network] if isinstance(network, Layer) else list(network)
    for layer in layers:
        _check(layer)
    sizes = [len(layer.connection.weight) for layer in layers]
    total, first = sum(sizes), layers[0].connection.weight.double()
    rows: list[list[Tensor]] = []
    late: list[list[Tensor]] = []
    for k, layer in enumerate(layers):
        blocks, delays = ([torch.zeros(sizes[k], size, dtype=torch.float64) for size in sizes] for _ in range(2))
        if k:
            blocks[k - 1], delays[k - 1] = layer.connection.weight.double(), _delays(layer.connection)
        if layer.recurrent is not None:
            own, delays[k] = layer.recurrent.weight.double(), _delays(layer.recurrent)
            blocks[k] = own if layer.self_connections else own * (1 - torch.eye(sizes[k], dtype=torch.float64))
        rows.append(blocks)
        late.append(delays)
    rest = torch.zeros(total - sizes[0], first.shape[1], dtype=torch.float64)
    names = ("tau_mem", "tau_syn", "v_th", "v_reset", "bias", "tau_adapt", "increment", "v_init", "i_init")
    numbers = {
        name: torch.cat([_number(layer.neuron, name, sizes[k]) for k, layer in enumerate(layers)]) for name in names
    }
    held = [torch.full((size,), float(layer.neuron.refractory * layer.dt)) for layer, size in zip(layers, sizes)]
    resets = {layer.neuron.reset for layer in layers if layer.neuron.spiking}
    if len(resets) > 1:
        raise ValueError("exact.from_layers got layers that reset in different ways; expected one.")
    reset: Any = next(iter(resets), "zero")
    modules = [module for layer in layers for module in (layer.connection, layer.recurrent)]
    if any(isinstance(module, Delayed) for module in modules):
        numbers["delay"] = torch.cat([_delays(layers[0].connection), rest])
        numbers["recurrent_delay"] = torch.cat([torch.cat(row, 1) for row in late])
    return Network(
        torch.cat([first, rest]),
        torch.cat([torch.cat(row, 1) for row in rows]),
        refractory=torch.cat(held),
        reset=reset,
        **numbers,
    )


def _delays(connection: Any) -> Tensor:
    """Of each synapse, in s."""
    shape = connection.weight.shape
    return connection.delay.expand(shape) if isinstance(connection, Delayed) else torch.zeros(shape).double()


def _check(layer: Any) -> None:
    if not isinstance(layer, Layer) or type(layer.neuron) not in (CubaLI, CubaLIF, CubaALIF):
        what = type(layer.neuron).__name__ if isinstance(layer, Layer) else type(layer).__name__
        raise ValueError(f"exact.from_layers got {what}; expected layers of CubaLI, CubaLIF or CubaALIF.")
    for module in (layer.connection, layer.recurrent):
        module = module.connection if isinstance(module, Delayed) else module
        if not ((type(module) is nn.Linear and module.bias is None) or (module is None and module is layer.recurrent)):
            raise ValueError(
                f"exact.from_layers got {type(module).__name__} as a connection; expected nn.Linear(..., bias=False)."
            )
    if layer.neuron.reset == "none" and layer.neuron.spiking:
        raise ValueError("exact.from_layers got reset='none'; expected 'zero' or 'subtract'.")


def _number(neuron: Any, name: str, size: int) -> Tensor:
    absent = {"v_th": torch.inf, "tau_adapt": 1.0}.get(name, 0.0)
    if name == "v_reset" and neuron.reset != "zero":
        return torch.zeros(size, dtype=torch.float64)
    known = name in neuron.params and (name in neuron.declared_params)
    value = getattr(neuron, name) if known else absent
    return torch.as_tensor(value, dtype=torch.float64).expand(size)
