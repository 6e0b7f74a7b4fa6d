"""Codes against their formulas, distributions against their moments, delta against what can be rebuilt from it."""

import math

import pytest
import torch

import spikeloom as sl
from spikeloom import encoding
from spikeloom.events import Events


def test_linear_latency_is_recipe_5():
    pixels = torch.rand(20, 7, 5, generator=torch.Generator().manual_seed(0))
    events = encoding.latency(pixels, 100, threshold=0.25)
    assert events.shape == (100, 20, 7, 5)
    expected = torch.zeros(100, 20, 7, 5)
    for index in (pixels >= 0.25).nonzero().tolist():
        expected[(int((1 - pixels[tuple(index)]) * 100), *index)] = 1
    assert torch.equal(events.to_dense(), expected)


def test_linear_latency_at_the_ends():
    tiny = torch.finfo(torch.float32).tiny
    events = encoding.latency(torch.tensor([[1.0, tiny, 0.0]]), 10)
    assert events.time.tolist() == [0, 9]  # a zero is silent: its step would be T
    assert events.channel.tolist() == [0, 1]
    assert encoding.latency(torch.tensor([[0.25, 0.2499]]), 10, threshold=0.25).channel.tolist() == [0]
    assert encoding.latency(torch.zeros(0, 3), 10).shape == (10, 0, 3)
    assert encoding.latency(torch.ones(2), 10).to_dense().tolist()[0] == [1.0, 1.0]
    assert encoding.latency(torch.tensor([[True, False]]), 10).total == 1


def test_charging_latency_is_when_a_charged_membrane_reaches_the_threshold():
    steps, dt, tau, theta = 100, 1e-3, 20e-3, 0.2
    current = torch.linspace(0, 1, 101, dtype=torch.float64).reshape(1, -1)
    # V(t) = p (1 - exp(-t / tau)) has not reached theta at the start of the spike's step, and has at its end.
    time = torch.arange(steps + 1, dtype=torch.float64).reshape(-1, 1, 1) * dt
    reached = current * (1 - torch.exp(-time / tau)) >= theta
    expected = (reached[1:] & ~reached[:-1]).double()
    events = encoding.latency(current, steps, threshold=theta, tau=tau, dt=dt)
    assert torch.equal(events.to_dense(torch.float64), expected)
    assert events.total == int(reached[-1].sum()) < 100
    # The slowest currents that still fire, and the fastest that no longer do.
    edge = theta / (1 - torch.exp(-torch.tensor([[98.5, 99.5, 100.5]], dtype=torch.float64) * dt / tau))
    assert encoding.latency(edge, steps, threshold=theta, tau=tau, dt=dt).time.tolist() == [98, 99]


@pytest.mark.parametrize("draw", ["bernoulli", "poisson"])
def test_rate_codes_have_the_right_moments(draw):
    dt, rate = 1e-3, torch.tensor([[5.0, 100.0, 700.0]], dtype=torch.float64)
    probability = 1 - torch.exp(-rate * dt)
    generator = torch.Generator().manual_seed(1)
    steps = 40_000
    spikes = (
        encoding.bernoulli(probability, steps, generator)
        if draw == "bernoulli"
        else encoding.poisson(rate, steps, dt=dt, generator=generator)
    )
    assert spikes.shape == (steps, 1, 3)
    assert spikes.dtype == torch.float64
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    error = (probability * (1 - probability) / steps).sqrt()
    assert bool(((spikes.mean(0) - probability).abs() < 5 * error).all())
    # Independent from step to step: the lag-1 covariance vanishes within its standard error p (1 - p) / sqrt(T).
    centred = spikes - probability
    lagged = (centred[1:] * centred[:-1]).mean(0)
    assert bool((lagged.abs() < 5 * probability * (1 - probability) / math.sqrt(steps)).all())


def test_rate_codes_are_seeded_and_take_rates_in_time():
    rate = torch.rand(50, 2, 3) * 500
    one, two = (encoding.poisson(rate, None, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert one.shape == (50, 2, 3)
    assert torch.equal(one, two)
    assert not torch.equal(one, encoding.poisson(rate, None, generator=torch.Generator().manual_seed(4)))
    switched = torch.zeros(10, 1, 1)
    switched[5:] = 1
    assert torch.equal(encoding.bernoulli(switched, None), switched)


def test_direct_does_not_copy_and_passes_gradients():
    values = torch.rand(2, 3, requires_grad=True)
    repeated = encoding.direct(values, 7)
    assert repeated.data_ptr() == values.data_ptr()
    repeated.sum().backward()
    assert torch.equal(values.grad, torch.full((2, 3), 7.0))


def test_constant_current_fires_at_the_closed_form_intervals():
    current = torch.tensor([[0.3, 0.99, 1.01, 1.2345, 2.0, 7.7]], dtype=torch.float64)
    steps, dt, tau = 400, 0.5e-3, 10e-3
    spikes = encoding.constant_current(current, steps, dt=dt)
    expected = torch.zeros_like(spikes)
    for n, p in enumerate(current[0].tolist()):
        if p > 1:
            interval = math.floor(tau / dt * math.log(p / (p - 1))) + 1
            expected[interval - 1 :: interval, 0, n] = 1
    assert torch.equal(spikes, expected)


def test_constant_current_first_spikes_are_the_charging_latency_code():
    values = torch.rand(4, 25, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    neuron = sl.LIF(25, tau_mem=20e-3, v_th=0.2, reset="zero")
    spikes = encoding.constant_current(values, 100, neuron)
    first = spikes * (spikes.cumsum(0) == 1)
    assert torch.equal(first, encoding.latency(values, 100, threshold=0.2, tau=20e-3).to_dense(torch.float64))


def test_constant_current_passes_gradients():
    values = torch.tensor([[0.9, 1.5]], requires_grad=True)
    encoding.constant_current(values, 30).sum().backward()
    assert bool((values.grad > 0).all())


def test_population_peaks_at_the_centres_and_falls_to_the_width():
    centres = torch.linspace(-2, 2, 9, dtype=torch.float64)
    activity = encoding.population(centres, 9, low=-2, high=2)
    assert torch.allclose(activity.diagonal(), torch.ones(9, dtype=torch.float64), rtol=0, atol=1e-15)
    # By default a neighbour's centre is one width away.
    neighbours = torch.full((8,), math.exp(-0.5), dtype=torch.float64)
    assert torch.allclose(activity.diagonal(1), neighbours, rtol=1e-12)
    narrow = encoding.population(torch.tensor([0.25]), 2, width=0.125)
    assert torch.allclose(narrow, torch.tensor([[math.exp(-2), math.exp(-18)]]))
    # With fields as wide as their spacing, a trapezoid sum over the centres is the Gaussian integral to 1e-8.
    inner = encoding.population(torch.rand(5, dtype=torch.float64) * 0.2 + 0.4, 41)
    assert torch.allclose(inner.sum(-1), torch.full((5,), math.sqrt(2 * math.pi), dtype=torch.float64), rtol=2e-8)
    assert encoding.population(torch.rand(4, 2, 3), 5).shape == (4, 2, 3, 5)


def test_delta_can_be_rebuilt_to_within_a_threshold():
    t = torch.linspace(0, 1, 400, dtype=torch.float64).reshape(-1, 1, 1)
    phase = torch.tensor([[0.3, 1.0, 2.0]], dtype=torch.float64)
    signal = torch.sin(2 * math.pi * 2 * t + phase)
    threshold = 0.05  # the signal moves by at most 4 pi / 399 = 0.0315 per step
    spikes = encoding.delta(signal, threshold)
    assert spikes.shape == (400, 1, 3, 2)
    rebuilt = signal[0] + threshold * (spikes[..., 0] - spikes[..., 1]).cumsum(0)
    assert float((rebuilt - signal).abs().max()) < threshold * (1 + 1e-9)
    assert not bool((spikes[..., 0] * spikes[..., 1]).any())
    # Both directions happen, and about as often as the total variation over the threshold (4 periods of 4 amplitudes).
    assert spikes[:, 0, 1].sum() == pytest.approx(8 / threshold, rel=0.1)


def test_delta_catches_up_after_a_jump_and_takes_no_steps():
    signal = torch.tensor([0.0, 3.0, 3.0, 3.0, 3.0]).reshape(5, 1, 1)
    assert encoding.delta(signal, 1.0)[:, 0, 0, 0].tolist() == [0, 1, 1, 1, 0]
    assert encoding.delta(-signal, 1.0)[:, 0, 0, 1].tolist() == [0, 1, 1, 1, 0]
    assert encoding.delta(torch.zeros(0, 2, 3), 1.0).shape == (0, 2, 3, 2)


LEARNED = torch.rand(1, 2, requires_grad=True)
HALF = torch.full((1, 2), 0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: encoding.latency(torch.tensor([[0, 255]]), 10), r"values in \[0, 1\], got 0 to 255.*values / 255"),
        (lambda: encoding.latency(torch.tensor([[float("nan")]]), 10), "got NaN"),
        (lambda: encoding.latency(HALF, 0), "steps is a whole number of at least 1, got 0"),
        (lambda: encoding.latency(HALF, 2.5), "got 2.5"),
        (lambda: encoding.latency(LEARNED, 10), r"carries no gradient.*values.detach\(\)"),
        (lambda: encoding.latency(HALF, 10, threshold=2.0), "threshold in .*got 2.0"),
        (lambda: encoding.latency(HALF, 10, tau=20e-3), "above 0 where tau is given"),
        (lambda: encoding.latency(HALF, 10, threshold=0.2, tau=-1.0), "tau and dt in seconds"),
        (lambda: encoding.bernoulli(HALF + 1, 10), r"in \[0, 1\], got 1.5 to 1.5"),
        (lambda: encoding.bernoulli(LEARNED, 10), "carries no gradient"),
        (lambda: encoding.poisson(-HALF, 10), "spikes per second"),
        (lambda: encoding.poisson(HALF / 0, 10), "got inf to inf"),
        (lambda: encoding.poisson(LEARNED, 10), "carries no gradient"),
        (lambda: encoding.poisson(HALF, 10, dt=0.0), "time step dt"),
        (lambda: encoding.direct(HALF, -1), "got -1"),
        (lambda: encoding.population(HALF, 1), "at least 2 neurons"),
        (lambda: encoding.population(HALF, 3, low=1.0, high=0.0), "low < high"),
        (lambda: encoding.population(HALF, 3, width=0.0), "width above 0"),
        (lambda: encoding.population(HALF * 4, 3), "set low and high"),
        (lambda: encoding.constant_current(HALF / 0, 10), "currents must be finite"),
        (lambda: encoding.constant_current(HALF, 10, sl.LIF(2), dt=0.1), "dt=0.1 s for a neuron with dt=0.001 s"),
        (lambda: encoding.delta(HALF, 0.0), "threshold above 0, got 0.0"),
        (lambda: encoding.delta(HALF / 0, 1.0), "finite"),
        (lambda: encoding.delta(LEARNED, 1.0), "carries no gradient"),
    ],
)
def test_bad_input_gets_a_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_latency_is_sparse():
    assert isinstance(encoding.latency(HALF, 10), Events)
