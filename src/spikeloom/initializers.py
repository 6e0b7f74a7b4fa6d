"""Weight initialisation for spiking layers, in place and without gradient, named as in `torch.nn.init`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .network import Layer
from .neurons import ALIF, LI, LIF, CubaLI, CubaLIF, Neuron
from .neurons.integration import decay, rise, synaptic_gain

__all__ = ["fluctuation_driven_", "scaled_normal_", "scaled_uniform_"]


def scaled_normal_(weight: Tensor, gain: float = 1.0, *, generator: torch.Generator | None = None) -> Tensor:
    """Normal weights, w ~ N(0, gain^2 / n) with n the fan-in, so that the summed input does not grow with it.

    SpyTorch draws with a gain of 7 (1 - beta) for a membrane V' = beta V + I; here a synaptic current I adds
    about (1 - beta) I to the membrane in a step, so that the same membrane potentials come from a gain of about 7.

    Args:
        weight: [outputs, inputs, ...], at least 2-D, as in `nn.Linear` and `nn.Conv2d`.
        gain: standard deviation of the input that independent unit inputs sum to.
        generator: source of the random numbers.

    Returns:
        The weight.

    Raises:
        ValueError: a weight with fewer than two axes or no inputs, or a negative gain.

    >>> import torch, spikeloom as sl
    >>> weight = sl.initializers.scaled_normal_(torch.empty(1000, 100), gain=5.0)
    >>> bool(0.49 < weight.std() < 0.51)
    True

    Source: Zenke, SpyTorch, doi:10.5281/zenodo.3724018.
    """
    std = _checked_gain(gain) / math.sqrt(_fan_in(weight))
    with torch.no_grad():
        return weight.normal_(0.0, std, generator=generator)


def scaled_uniform_(weight: Tensor, gain: float = 1.0, *, generator: torch.Generator | None = None) -> Tensor:
    """Uniform weights, w ~ U(-a, a) with a = gain / sqrt(n) and n the fan-in.

    Args:
        weight: [outputs, inputs, ...], at least 2-D.
        gain: bound times sqrt(n); the standard deviation is gain / sqrt(3 n).
        generator: source of the random numbers.

    Returns:
        The weight.

    Raises:
        ValueError: a weight with fewer than two axes or no inputs, or a negative gain.

    >>> import torch, spikeloom as sl
    >>> weight = sl.initializers.scaled_uniform_(torch.empty(1000, 100))
    >>> bool(weight.abs().max() <= 0.1)
    True

    Source: LeCun, Bottou, Orr & Müller, Efficient BackProp, 1998, doi:10.1007/3-540-49430-8_2.
    """
    bound = _checked_gain(gain) / math.sqrt(_fan_in(weight))
    with torch.no_grad():
        return weight.uniform_(-bound, bound, generator=generator)


def fluctuation_driven_(
    layer: Layer,
    rate: float,
    *,
    mean_membrane: float = 0.0,
    membrane_std: float | None = None,
    recurrent_rate: float | None = None,
    recurrent_share: float = 0.1,
    generator: torch.Generator | None = None,
) -> Layer:
    """Normal weights that let input at a given rate move the membrane with a given mean and standard deviation.

    For n Poisson inputs of rate nu and an impulse response epsilon of the membrane,

        mu_V = n nu mu_w E1,   sigma_V^2 = n nu (sigma_w^2 + mu_w^2) E2,   E1 = int epsilon,   E2 = int epsilon^2

    are solved for mu_w and sigma_w, per neuron where its time constants are. With recurrence, `recurrent_share` of the
    variance comes from the recurrent weights. For the current-based neurons, epsilon(t) = tau_syn / (tau_mem - tau_syn)
    (exp(-t/tau_mem) - exp(-t/tau_syn)) and so E1 = tau_syn, E2 = tau_syn^2 / (2 (tau_syn + tau_mem)), as in the source;
    for those without synapse, epsilon(t) = exp(-t/tau_mem), E1 = tau_mem and E2 = tau_mem / 2. What is used here are
    the sums over time steps, which are exact at any dt and tend to these integrals as dt does to 0.

    Threshold, reset and the neuron's bias current are not accounted for; a bias of the connection is set to 0.

    Args:
        layer: with a connection that has a weight (`nn.Linear`, `nn.Conv2d`), and CubaLI, CubaLIF, LI, LIF or ALIF.
        rate: mean rate of an input in 1/s.
        mean_membrane: target mean mu_V, in units of V.
        membrane_std: target standard deviation sigma_V, in units of V. By default the distance from mu_V to the
            threshold, or 1 for a neuron without.
        recurrent_rate: rate expected of the layer's own neurons in 1/s; `rate` unless given.
        recurrent_share: share of the variance due to recurrent weights, between 0 and 1; unused without recurrence.
        generator: source of the random numbers.

    Returns:
        The layer.

    Raises:
        TypeError: a connection without a weight, or a neuron whose impulse response is not known here.
        ValueError: a rate of 0 or less, a share outside (0, 1), a mean that alone makes for more variance than asked
            for, or per-neuron time constants that differ within one output channel.

    >>> import torch, spikeloom as sl
    >>> layer = sl.Layer(torch.nn.Linear(100, 1000, bias=False), sl.CubaLIF(1000, tau_mem=20e-3, tau_syn=5e-3))
    >>> weight = sl.initializers.fluctuation_driven_(layer, rate=10.0).connection.weight
    >>> round(weight.std().item(), 1)  # sqrt(1 / (100 * 10 * E2)), E2 = 5e-3^2 / (2 * 25e-3)
    1.4

    Source: Rossbroich, Gygax & Zenke, Neuromorph. Comput. Eng. 2 (2022), doi:10.1088/2634-4386/ac97bb.
    """
    recurrent_rate = rate if recurrent_rate is None else recurrent_rate
    if not (rate > 0 and recurrent_rate > 0):
        raise ValueError(f"Rates are in 1/s and above 0, got rate={rate}, recurrent_rate={recurrent_rate}.")
    parts = [(_weight(layer.connection, "connection"), rate, 0, 1.0)]
    if layer.recurrent is not None:
        if not 0 < recurrent_share < 1:
            raise ValueError(f"recurrent_share lies between 0 and 1, got {recurrent_share}.")
        own = _weight(layer.recurrent, "recurrent connection")
        parts = [(*parts[0][:3], 1 - recurrent_share)]
        parts.append((own, recurrent_rate, 0 if layer.self_connections else 1, recurrent_share))
    drives = [(_fan_in(weight) - absent) * nu for weight, nu, absent, _ in parts]  # n nu of each
    with torch.no_grad():
        first, second = _kernel_integrals(layer.neuron)
        mean = mean_membrane / (first * sum(drives))
        variance = _target_std(layer.neuron, mean_membrane, membrane_std) ** 2 / second
        for (weight, _, _, share), drive in zip(parts, drives):
            _draw(weight, mean, share * variance / drive, generator)
        for module in (layer.connection, layer.recurrent):
            if isinstance(bias := getattr(module, "bias", None), Tensor):
                bias.zero_()
    return layer


def _kernel_integrals(neuron: Neuron) -> tuple[Tensor, Tensor]:
    """dt times the sum over steps of the impulse response seen at the end of each step, and of its square."""
    dt = neuron.dt
    # A subclass may change the dynamics, so only the types whose response was worked out are taken.
    if type(neuron) in (CubaLI, CubaLIF):
        assert isinstance(neuron, CubaLI)
        alpha, beta = decay(dt, neuron.tau_syn), decay(dt, neuron.tau_mem)
        fall_s, fall_m = rise(dt, neuron.tau_syn), rise(dt, neuron.tau_mem)
        gain, both = synaptic_gain(dt, neuron.tau_mem, neuron.tau_syn), 1 - alpha * beta
        squares = rise(dt, neuron.tau_syn / 2) * rise(dt, neuron.tau_mem / 2)
        # epsilon_k = gain (beta^k - alpha^k) / (beta - alpha): geometric sums, free of cancellation at equal tau.
        return dt * gain / (fall_s * fall_m), dt * gain**2 * (1 + alpha * beta) / (both * squares)
    if type(neuron) in (LI, LIF, ALIF):
        assert isinstance(neuron, LI)
        beta = decay(dt, neuron.tau_mem)
        return dt * beta / rise(dt, neuron.tau_mem), dt * beta**2 / rise(dt, neuron.tau_mem / 2)
    raise TypeError(
        f"fluctuation_driven_ knows the membrane's response of CubaLI, CubaLIF, LI, LIF and ALIF, got "
        f"{type(neuron).__name__}: use scaled_normal_ on the weight instead."
    )


def _target_std(neuron: Neuron, mean: float, std: float | None) -> Tensor:
    if std is None:
        threshold = neuron.v_th if isinstance(neuron, LIF | CubaLIF) else torch.tensor(mean + 1.0, dtype=torch.float64)
        target = threshold - mean
    else:
        target = torch.tensor(std, dtype=torch.float64)
    if not bool((target > 0).all()):
        raise ValueError(
            f"The membrane's standard deviation must be above 0, got {target.tolist()}: pass a positive membrane_std, "
            "or a mean_membrane below the threshold."
        )
    return target


def _draw(weight: Tensor, mean: Tensor, second_moment: Tensor, generator: torch.Generator | None) -> None:
    variance = second_moment - mean**2
    if not bool((variance >= 0).all()):
        raise ValueError(
            "mean_membrane alone makes for more variance than membrane_std allows at this rate: lower mean_membrane, "
            "raise membrane_std, or expect a higher rate."
        )
    mean, variance = (_per_channel(x, weight) for x in torch.broadcast_tensors(mean, variance))
    weight.normal_(generator=generator).mul_(variance.sqrt().to(weight)).add_(mean.to(weight))


def _per_channel(value: Tensor, weight: Tensor) -> Tensor:
    """A value per neuron as one per row of the weight."""
    if value.numel() == 1:
        return value.reshape(())
    if value.numel() != len(weight) or value.shape[0] != len(weight):
        raise ValueError(
            f"Weights are shared by an output channel, but time constants or thresholds of shape {tuple(value.shape)} "
            f"differ within its {len(weight)} channels: give the neuron one value, or one per channel."
        )
    return value.reshape(-1, *[1] * (weight.ndim - 1))


def _weight(module: nn.Module | None, name: str) -> Tensor:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        raise TypeError(
            f"fluctuation_driven_ expects a {name} with one weight, such as nn.Linear, got {type(module).__name__}."
        )
    return weight


def _fan_in(weight: Tensor) -> int:
    if weight.ndim < 2 or weight[:1].numel() == 0:
        raise ValueError(f"Expected a weight [outputs, inputs, ...], got shape {tuple(weight.shape)}.")
    return weight[0].numel()


def _checked_gain(gain: float) -> float:
    if not gain >= 0:
        raise ValueError(f"The gain is not negative, got {gain}.")
    return gain
