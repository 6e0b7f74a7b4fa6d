"""From numbers to spikes: latency, rate, population, delta and constant-current codes.

`latency` returns `Events`, for each channel fires at most once and the raster would be nearly all zeros; the others
are drawn or computed entry by entry and return tensors [T, B, *N]. `Events.from_dense(spikes)` turns a sparse one into
events.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .events import Events
from .network import Layer
from .neurons import LIF, Neuron

__all__ = ["bernoulli", "constant_current", "delta", "direct", "latency", "poisson", "population"]


def latency(
    values: Tensor, steps: int, *, threshold: float = 0.0, tau: float | None = None, dt: float = 1e-3
) -> Events:
    """One spike per channel at most, the earlier the larger the value.

    Without `tau`, linear in the value p, over the whole trial of T = `steps` steps:

        t = floor((1 - p) T),     silent if p < threshold or p = 0

    With `tau`, the time in which a constant current p charges a leaky membrane up to `threshold` theta:

        t = floor(tau / dt ln(p / (p - theta))),     silent if p <= theta or t >= T

    Args:
        values: [B, *N] in [0, 1].
        steps: T, the length of the trial.
        threshold: value under which a channel stays silent, in [0, 1]; with `tau` it is theta and must exceed 0.
        tau: time constant of the charging membrane in s, or None for the linear code.
        dt: time step in s; only used with `tau`.

    Returns:
        Events of shape (T, B, *N), on the device of `values`.

    Raises:
        ValueError: values outside [0, 1] or NaN, values that require a gradient, or an argument out of range.

    >>> import torch, spikeloom as sl
    >>> pixels = torch.tensor([[1.0, 0.5, 0.1, 0.0]])
    >>> sl.encoding.latency(pixels, steps=100).time
    tensor([ 0, 50, 90])
    >>> sl.encoding.latency(pixels, steps=100, threshold=0.2, tau=20e-3).time
    tensor([ 4, 10])

    Source: Zenke, SpyTorch (doi:10.5281/zenodo.3724018), tutorial 2, for the charging time.
    """
    p = _in_range(values, 0.0, 1.0, "for 8-bit images write values / 255")
    _whole(steps)
    _no_gradient(values)
    if not 0 <= threshold <= 1 or (tau is not None and threshold == 0):
        raise ValueError(f"latency expects a threshold in [0, 1], above 0 where tau is given, got {threshold}.")
    if tau is not None and not (tau > 0 and dt > 0):
        raise ValueError(f"latency expects tau and dt in seconds above 0, got tau={tau}, dt={dt}.")
    flat = p.reshape(len(p), math.prod(p.shape[1:]))
    batch, channel = ((flat >= threshold) & (flat > 0)).nonzero(as_tuple=True)
    p = flat[batch, channel]
    if tau is None:
        # (1 - p) rounds to 1 for the smallest p, which are still above 0.
        time = ((1 - p) * steps).long().clamp(max=steps - 1)
    else:
        charging = tau / dt * torch.log(p / (p - threshold))
        early = charging < steps  # false for p = theta, which charges forever
        time, batch, channel = charging[early].long(), batch[early], channel[early]
    return Events.from_coordinates(time, batch, channel, shape=(steps, *values.shape))


def bernoulli(probability: Tensor, steps: int | None, generator: torch.Generator | None = None) -> Tensor:
    """Independent spikes with the given probability in every step.

    Args:
        probability: [B, *N] in [0, 1], the same in all steps; or [T, B, *N] with `steps=None`.
        steps: T, or None where `probability` has a time axis.
        generator: source of the random numbers, on the device of `probability`.

    Returns:
        Spikes 0 or 1, [T, B, *N], in the floating dtype of `probability`.

    Raises:
        ValueError: values outside [0, 1] or NaN, or that require a gradient, which a drawn spike would not carry.

    >>> import torch, spikeloom as sl
    >>> sl.encoding.bernoulli(torch.tensor([[1.0, 0.0]]), steps=3)[:, 0]
    tensor([[1., 0.],
            [1., 0.],
            [1., 0.]])
    """
    probability = _in_range(probability, 0.0, 1.0, "clamp or rescale them")
    _no_gradient(probability)
    if steps is not None:
        probability = direct(probability, steps)
    return torch.bernoulli(probability, generator=generator)


def poisson(rate: Tensor, steps: int | None, *, dt: float = 1e-3, generator: torch.Generator | None = None) -> Tensor:
    """A Poisson process seen through time steps: a step spikes where at least one of its events falls,

        P(spike) = 1 - exp(-rate dt)

    Args:
        rate: [B, *N] in 1/s, not negative, the same in all steps; or [T, B, *N] with `steps=None`.
        steps: T, or None where `rate` has a time axis.
        dt: time step in s.
        generator: source of the random numbers, on the device of `rate`.

    Returns:
        Spikes 0 or 1, [T, B, *N], in the floating dtype of `rate`.

    Raises:
        ValueError: a rate that is negative, infinite or NaN or requires a gradient, or dt <= 0.

    >>> import torch, spikeloom as sl
    >>> spikes = sl.encoding.poisson(torch.full((8, 100), 50.0), steps=1000)
    >>> bool(45 < spikes.mean() / 1e-3 < 55)
    True
    """
    if not dt > 0:
        raise ValueError(f"poisson expects a time step dt in seconds above 0, got {dt}.")
    rate = _in_range(rate, 0.0, torch.finfo(torch.float32).max, "rates are in spikes per second")
    _no_gradient(rate)
    return bernoulli(-torch.expm1(-rate * dt), steps, generator)


def direct(values: Tensor, steps: int) -> Tensor:
    """The same input in every step (direct coding): [B, *N] seen as [T, B, *N], without a copy, so do not write to it.

    Gradients flow to `values`. As an impulse in every step its effect grows as 1 / dt; feed it to a `current` port to
    have a current that means the same at every dt.

    Raises:
        ValueError: steps is not a whole number of at least 1.

    >>> import torch, spikeloom as sl
    >>> sl.encoding.direct(torch.rand(2, 3), steps=5).shape
    torch.Size([5, 2, 3])
    """
    _whole(steps)
    return values.expand(steps, *values.shape)


def constant_current(values: Tensor, steps: int, neuron: Neuron | None = None, *, dt: float | None = None) -> Tensor:
    """Spikes of neurons that each receive one value as a constant current: regular, and the faster the larger it is.

    A leaky neuron reset to 0 answers a current p above its threshold with one spike every

        floor(tau_mem / dt ln(p / (p - v_th))) + 1 steps,

    and a smaller one with none. Gradients flow to `values` through the neuron's surrogate.

    Args:
        values: [B, *N], currents in units of V; they need not lie in [0, 1].
        steps: T.
        neuron: with a port named `current`; by default `LIF(tau_mem=10e-3, reset="zero")`.
        dt: time step in s; by default the neuron's, or 1e-3.

    Returns:
        Spikes 0 or 1, [T, B, *N].

    Raises:
        ValueError: NaN or infinite values, a neuron without that port, or a dt that is not the neuron's.

    >>> import torch, spikeloom as sl
    >>> sl.encoding.constant_current(torch.tensor([[0.5, 1.5, 5.0]]), steps=100).sum(0)
    tensor([[ 0.,  9., 33.]])

    Source: the encoder of Norse, Pehle & Pedersen, doi:10.5281/zenodo.4422025.
    """
    largest = torch.finfo(torch.float32).max
    values = _in_range(values, -largest, largest, "currents must be finite")
    if neuron is None:
        neuron = LIF(tau_mem=10e-3, reset="zero", dt=1e-3 if dt is None else dt)
    elif dt is not None and dt != neuron.dt:
        raise ValueError(f"constant_current got dt={dt:g} s for a neuron with dt={neuron.dt:g} s: leave dt out.")
    spikes, _ = Layer(None, neuron, port="current")(direct(values, steps))
    return spikes


def population(
    values: Tensor, neurons: int, *, low: float = 0.0, high: float = 1.0, width: float | None = None
) -> Tensor:
    """Each value spread over neurons with Gaussian receptive fields whose centres lie evenly on [low, high]:

        a_k = exp(-(x - mu_k)^2 / (2 sigma^2)),     mu_k = low + k (high - low) / (neurons - 1)

    The result lies in [0, 1] and keeps gradients; hand it to `latency`, or scaled to a rate, to `poisson`.

    Args:
        values: any shape [*], within [low, high].
        neurons: number of neurons per value, at least 2.
        low, high: range of the values.
        width: sigma in the unit of the values; by default the distance between neighbouring centres.

    Returns:
        Activations [*, neurons].

    Raises:
        ValueError: values outside [low, high] or NaN, fewer than 2 neurons, an empty range or a width of 0 or less.

    >>> import torch, spikeloom as sl
    >>> sl.encoding.population(torch.tensor([0.5]), 3)
    tensor([[0.6065, 1.0000, 0.6065]])

    Source: Bohte, Kok & La Poutré, Neurocomputing 48 (2002), doi:10.1016/S0925-2312(01)00658-0.
    """
    if neurons < 2 or not high > low:
        raise ValueError(f"population expects at least 2 neurons and low < high, got {neurons} on [{low}, {high}].")
    width = (high - low) / (neurons - 1) if width is None else width
    if not width > 0:
        raise ValueError(f"population expects a width above 0, got {width}.")
    values = _in_range(values, low, high, "set low and high to the range of the data")
    centres = torch.linspace(low, high, neurons, dtype=values.dtype, device=values.device)
    return torch.exp(-0.5 * ((values.unsqueeze(-1) - centres) / width) ** 2)


def delta(signal: Tensor, threshold: float) -> Tensor:
    """Threshold crossings of a signal as on and off spikes (asynchronous delta modulation).

    A reference follows the signal by one threshold per spike, so that what a receiver can rebuild from the spikes,

        r_t = x_0 + threshold * sum_{t' <= t} (on_t' - off_t'),

    is what the encoder compares with: on if x_t - r_{t-1} >= threshold, off if x_t - r_{t-1} <= -threshold. A signal
    that moves by less than the threshold per step is tracked to within one threshold.

    Args:
        signal: [T, B, *N].
        threshold: in the unit of the signal, above 0.

    Returns:
        Spikes 0 or 1, [T, B, *N, 2]: on in the last axis' entry 0, off in entry 1.

    Raises:
        ValueError: a threshold of 0 or less, NaN or infinity in the signal, or one that requires a gradient.

    >>> import torch, spikeloom as sl
    >>> signal = torch.tensor([0.0, 1.0, 1.2, 0.0]).reshape(4, 1, 1)
    >>> sl.encoding.delta(signal, threshold=0.5)[:, 0, 0]
    tensor([[0., 0.],
            [1., 0.],
            [1., 0.],
            [0., 1.]])

    Source: Corradi & Indiveri, IEEE Trans. Biomed. Circuits Syst. 9 (2015), doi:10.1109/TBCAS.2015.2479256.
    """
    if not threshold > 0:
        raise ValueError(f"delta expects a threshold above 0, got {threshold}.")
    largest = torch.finfo(torch.float32).max
    signal = _in_range(signal, -largest, largest, "the signal must be finite")
    _no_gradient(signal)
    if len(signal) == 0:
        return signal.new_zeros(*signal.shape, 2)
    # Counting whole thresholds, instead of adding them up, keeps the reference free of drift.
    count = torch.zeros_like(signal[0])
    spikes = []
    for change in (signal - signal[0]).unbind(0):
        ahead = change - threshold * count
        both = torch.stack([ahead >= threshold, ahead <= -threshold], dim=-1).to(signal.dtype)
        count = count + both[..., 0] - both[..., 1]
        spikes.append(both)
    return torch.stack(spikes)


def _in_range(values: Tensor, low: float, high: float, hint: str) -> Tensor:
    """The values as floating point, refused with a sentence unless all lie in [low, high]."""
    values = values if values.is_floating_point() else values.to(torch.get_default_dtype())
    if not bool(((values >= low) & (values <= high)).all()):
        found = "NaN" if bool(values.isnan().any()) else f"{float(values.min()):g} to {float(values.max()):g}"
        raise ValueError(f"This encoder expects values in [{low:g}, {high:g}], got {found}: {hint}.")
    return values


def _no_gradient(values: Tensor) -> None:
    if values.requires_grad:
        raise ValueError("This code carries no gradient, but its input requires one: pass values.detach().")


def _whole(steps: int) -> None:
    if int(steps) != steps or steps < 1:
        raise ValueError(f"The number of steps is a whole number of at least 1, got {steps}.")
