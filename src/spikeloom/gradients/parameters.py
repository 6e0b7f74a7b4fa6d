"""EventProp's gradients of a neuron's coefficients, from its costates and its membranes."""

from typing import Any

import torch
from torch import Tensor


def coefficient_gradients(
    job: Any, states: dict[str, Tensor], costates: dict[str, Tensor], by: dict[str, Tensor], held: Any, spikes: Any
) -> dict[str, Tensor]:
    """dL/dc for the coefficients of a step, [*N] each; autograd takes them on to the parameters.

    Between spikes a step is linear, and so are its gradients: dL/dbeta = sum p_V V, dL/dalpha = sum p_I I and so on,
    which for dt -> 0 are the source's int lambda_V V' dt and int lambda_I I' dt. At spikes
    dL/dv_th = -sum p_V-, dL/dv_reset = sum p_V+ and dL/dincrement = sum p_a+.

    Args:
        states: "v", "i" and "a" at the end of each step, [T, B, *N].
        costates: "pv", "pi" and "pa" at the start of each step, with time reversed.
        by: dL/dV, dL/dI and dL/da at the end of each step, by the loss itself.
        held: 1 in the refractory period, or None.
        spikes: of the job.
    """
    loop = job.loop
    pv, pi = costates["pv"].flip(0), costates["pi"].flip(0)
    free = 1.0 if held is None else 1 - held
    before = free * pv / job.coefficient("beta").detach()
    v_then = _earlier(states["v"], job.state.neuron.v)
    i_then = states["i"] / job.coefficient("alpha").detach()  # after the step's input
    found = {
        "beta": _total(before * v_then),
        "gain": _total(before * i_then),
        "drive": _total(before),
        "alpha": _total(_later(pi, by.get("i")) * i_then),
    }
    if spikes is None:
        return found
    after = _later(pv, by.get("v"))  # of a spike's step: where v_reset puts V
    where = spikes.places
    found["v_th"] = -_at(where, where.take(before))
    if loop.neuron.reset == "zero":
        found["v_reset"] = _at(where, where.take(after))
        if held is not None and "v" in by:
            found["v_reset"] = found["v_reset"] + _total(held * by["v"])
    if job.adaptive:
        rho, pa = job.coefficient("rho").detach(), costates["pa"].flip(0)
        found["rho"] = _total(pa / rho * _earlier(states["a"], job.state.neuron.a))
        found["increment"] = _at(where, where.take(_later(pa, by.get("a"))))
    return found


def _earlier(states: Tensor, first: Tensor) -> Tensor:
    """The state before each step."""
    return torch.cat([first.detach()[None].to(states), states])[: len(states)]


def _later(costates: Tensor, by: Tensor | None) -> Tensor:
    """The costate at the end of each step, what the loss gives it there included."""
    found = torch.cat([costates[1:], torch.zeros_like(costates[:1])])
    return found if by is None else found + by


def _total(rows: Tensor) -> Tensor:
    return rows.sum((0, 1))


def _at(places: Any, values: Tensor) -> Tensor:
    """Sums over each neuron's spikes."""
    neurons = places.shape[2:]
    count = max(1, neurons.numel())
    total = torch.zeros(count, dtype=values.dtype, device=values.device)
    return total.index_add_(0, places.flat.long() % count, values).reshape(neurons)
