"""Initial weights against the membrane statistics that they promise, by simulation."""

import math

import pytest
import torch
from torch import nn

import spikeloom as sl
from spikeloom import initializers


def impulse_response_sums(neuron, dt=1e-3, steps=2000):
    """dt sum epsilon and dt sum epsilon^2, measured: the neuron's answer to an impulse too small to fire."""
    x = torch.zeros(steps, 1, 1, dtype=torch.float64)
    x[0] = 1e-3
    v = sl.run(sl.Layer(None, neuron), x, record="v").records["v"].flatten() / 1e-3
    return dt * v.sum().item(), dt * (v**2).sum().item()


NEURONS = {
    "CubaLI": lambda **taus: sl.CubaLI(1, **taus),
    "CubaLIF": lambda **taus: sl.CubaLIF(1, **taus),
    "LI": lambda tau_mem, tau_syn: sl.LI(1, tau_mem=tau_mem),
    "LIF": lambda tau_mem, tau_syn: sl.LIF(1, tau_mem=tau_mem),
    "ALIF": lambda tau_mem, tau_syn: sl.ALIF(1, tau_mem=tau_mem),
}


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize("taus", [(20e-3, 5e-3), (10e-3, 10e-3), (5e-3, 30e-3)])
def test_weights_have_the_moments_that_the_measured_impulse_response_asks_for(name, taus):
    neuron = NEURONS[name](tau_mem=taus[0], tau_syn=taus[1])
    first, second = impulse_response_sums(neuron)
    n, rate, mu, sigma = 90_000, 20.0, 0.3, 0.7
    layer = sl.Layer(nn.Linear(n, 1), neuron)
    initializers.fluctuation_driven_(layer, rate, mean_membrane=mu, membrane_std=sigma)
    weight = layer.connection.weight.double()
    mean = mu / (n * rate * first)
    std = math.sqrt(sigma**2 / (n * rate * second) - mean**2)
    assert weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * n))
    assert weight.mean().item() == pytest.approx(mean, abs=5 * std / math.sqrt(n))
    assert not layer.connection.bias.any()


def test_sums_over_steps_tend_to_the_closed_forms_of_the_source():
    tau_mem, tau_syn = 20e-3, 5e-3
    errors = []
    for dt in (1e-3, 0.5e-3, 0.25e-3):
        first, second = initializers._kernel_integrals(sl.CubaLIF(1, tau_mem=tau_mem, tau_syn=tau_syn, dt=dt))
        errors.append((float(first) / tau_syn - 1, float(second) / (tau_syn**2 / (2 * (tau_syn + tau_mem))) - 1))
    assert abs(errors[0][0]) < 4e-3
    assert abs(errors[0][1]) < 4e-3
    for which in (0, 1):  # the kernel begins at 0, so the sum is a trapezoid rule, of second order at least
        assert abs(errors[1][which]) < abs(errors[0][which]) / 3.5
        assert abs(errors[2][which]) < abs(errors[1][which]) / 3.5


@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_poisson_input_moves_the_membrane_as_promised(mu):
    torch.manual_seed(0)
    inputs, neurons, rate, sigma, steps = 200, 300, 20.0, 0.8, 3000
    layer = sl.Layer(nn.Linear(inputs, neurons, bias=False), sl.CubaLI(neurons, tau_mem=10e-3, tau_syn=5e-3))
    initializers.fluctuation_driven_(layer, rate, mean_membrane=mu, membrane_std=sigma)
    counts = torch.poisson(torch.full((steps, 2, inputs), rate * 1e-3))
    with torch.no_grad():
        v = layer(counts)[0][200:]
    # Each neuron has drawn weights of its own: the target is met on average over them.
    # Its variance comes from about 2 * 2800 / (2 * 15) = 190 independent times x 200 inputs: within 2 %.
    assert v.var(0).mean().sqrt().item() == pytest.approx(sigma, rel=0.04)
    # A neuron's mean has spread n nu sigma_w E1 over the draws of weights.
    first, second = (float(x) for x in initializers._kernel_integrals(layer.neuron))
    spread = inputs * rate * first * math.sqrt(sigma**2 / (rate * inputs * second)) / math.sqrt(inputs * neurons)
    assert v.mean().item() == pytest.approx(mu, abs=4 * spread)


def test_recurrence_takes_its_share_of_the_variance():
    torch.manual_seed(0)
    tau_mem, tau_syn, rate, own_rate, share = 20e-3, 5e-3, 10.0, 25.0, 0.3
    layer = sl.Layer(
        nn.Linear(300, 400, bias=False),
        sl.CubaLIF(400, tau_mem=tau_mem, tau_syn=tau_syn, v_th=2.0),
        nn.Linear(400, 400, bias=False),
        self_connections=False,
    )
    initializers.fluctuation_driven_(layer, rate, mean_membrane=0.5, recurrent_rate=own_rate, recurrent_share=share)
    first, second = impulse_response_sums(sl.CubaLI(1, tau_mem=tau_mem, tau_syn=tau_syn))
    forward, own = layer.connection.weight.double(), layer.recurrent.weight.double()
    mean = (300 * rate * forward.mean() + 399 * own_rate * own.mean()).item() * first
    assert mean == pytest.approx(0.5, abs=0.2)
    # By default the threshold is one standard deviation above the mean: sigma_V = 2.0 - 0.5.
    assert 300 * rate * (forward**2).mean().item() * second == pytest.approx((1 - share) * 1.5**2, rel=0.02)
    assert 399 * own_rate * (own**2).mean().item() * second == pytest.approx(share * 1.5**2, rel=0.02)


def test_absent_self_connections_are_no_inputs():
    def recurrent(self_connections):
        layer = sl.Layer(nn.Linear(3, 4), sl.LIF(4), nn.Linear(4, 4), self_connections=self_connections)
        initializers.fluctuation_driven_(layer, 10.0, generator=torch.Generator().manual_seed(0))
        return layer.recurrent.weight

    assert torch.allclose(recurrent(False), recurrent(True) * math.sqrt(4 / 3))


def test_each_neuron_gets_weights_for_its_own_time_constants():
    torch.manual_seed(0)
    tau_mem = torch.tensor([5e-3, 20e-3, 80e-3])
    layer = sl.Layer(nn.Linear(20_000, 3, bias=False), sl.CubaLI(3, tau_mem=tau_mem, tau_syn=5e-3))
    std = initializers.fluctuation_driven_(layer, 10.0).connection.weight.std(1)
    for got, tau in zip(std, tau_mem):
        second = impulse_response_sums(sl.CubaLI(1, tau_mem=float(tau), tau_syn=5e-3))[1]
        assert got.item() == pytest.approx(1 / math.sqrt(20_000 * 10 * second), rel=0.03)


def test_convolutions_count_their_kernel_as_inputs():
    torch.manual_seed(0)
    layer = sl.Layer(nn.Conv2d(16, 64, 5), sl.LIF((64, 4, 4), tau_mem=10e-3))
    weight = initializers.fluctuation_driven_(layer, 10.0).connection.weight
    second = impulse_response_sums(sl.LIF(1, tau_mem=10e-3))[1]
    assert weight.std().item() == pytest.approx(1 / math.sqrt(16 * 25 * 10 * second), rel=0.03)
    tau = torch.linspace(5e-3, 20e-3, 64).reshape(64, 1, 1)
    layer = sl.Layer(nn.Conv2d(16, 64, 5), sl.LIF((64, 4, 4), tau_mem=tau))
    std = initializers.fluctuation_driven_(layer, 10.0).connection.weight.flatten(1).std(1)
    assert std[0] > 1.5 * std[-1]


def test_scaled_draws_have_their_moments():
    torch.manual_seed(0)
    for shape in ((500, 400), (200, 16, 5, 5)):
        n = math.prod(shape[1:])
        normal = initializers.scaled_normal_(torch.empty(shape), 3.0)
        assert normal.std().item() == pytest.approx(3 / math.sqrt(n), rel=0.02)
        assert (normal**4).mean().item() / normal.var().item() ** 2 == pytest.approx(3, rel=0.05)
        uniform = initializers.scaled_uniform_(torch.empty(shape), 3.0)
        assert uniform.abs().max().item() == pytest.approx(3 / math.sqrt(n), rel=1e-3)
        assert uniform.std().item() == pytest.approx(3 / math.sqrt(3 * n), rel=0.02)


def test_in_place_without_gradient_and_seeded():
    def drawn(seed):
        generator = torch.Generator().manual_seed(seed)
        layer = sl.Layer(nn.Linear(5, 4), sl.LIF(4), nn.Linear(4, 4))
        initializers.fluctuation_driven_(layer, 10.0, generator=generator)
        initializers.scaled_normal_(bonus := nn.Parameter(torch.empty(3, 2)), generator=generator)
        assert bonus.requires_grad
        assert layer.connection.weight.grad_fn is None
        assert not layer.recurrent.bias.any()
        return torch.cat([layer.connection.weight.flatten(), layer.recurrent.weight.flatten(), bonus.flatten()])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    weight = torch.empty(3, 2)
    assert initializers.scaled_uniform_(weight) is weight


def layer_of(neuron, **options):
    return sl.Layer(nn.Linear(5, 4), neuron, **options)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: initializers.scaled_normal_(torch.empty(3)),
            ValueError,
            r"\[outputs, inputs, ...\], got shape \(3,\)",
        ),
        (lambda: initializers.scaled_uniform_(torch.empty(3, 0)), ValueError, r"got shape \(3, 0\)"),
        (lambda: initializers.scaled_normal_(torch.empty(3, 2), -1.0), ValueError, "not negative, got -1.0"),
        (lambda: initializers.fluctuation_driven_(layer_of(sl.LIF(4)), 0.0), ValueError, "above 0, got rate=0.0"),
        (lambda: initializers.fluctuation_driven_(layer_of(sl.IF(4)), 1.0), TypeError, "got IF: use scaled_normal_"),
        (lambda: initializers.fluctuation_driven_(layer_of(sl.AdLIF(4)), 1.0), TypeError, "got AdLIF"),
        (
            lambda: initializers.fluctuation_driven_(sl.Layer(None, sl.LIF(4)), 1.0),
            TypeError,
            "connection with one weight, such as nn.Linear, got NoneType",
        ),
        (
            lambda: initializers.fluctuation_driven_(
                layer_of(sl.LIF(4), recurrent=nn.Linear(4, 4)), 1.0, recurrent_share=1.0
            ),
            ValueError,
            "between 0 and 1, got 1.0",
        ),
        (
            lambda: initializers.fluctuation_driven_(layer_of(sl.LIF(4)), 1.0, mean_membrane=1.0),
            ValueError,
            "mean_membrane below the threshold",
        ),
        (
            lambda: initializers.fluctuation_driven_(layer_of(sl.LIF(4)), 1.0, mean_membrane=0.9, membrane_std=0.01),
            ValueError,
            "lower mean_membrane",
        ),
        (
            lambda: initializers.fluctuation_driven_(
                sl.Layer(nn.Conv2d(1, 4, 3), sl.LIF((4, 2, 2), tau_mem=sl.Uniform(5e-3, 9e-3))), 1.0
            ),
            ValueError,
            r"of shape \(4, 2, 2\) differ within its 4 channels",
        ),
    ],
)
def test_bad_input_gets_a_sentence(make, error, message):
    with pytest.raises(error, match=message):
        make()
