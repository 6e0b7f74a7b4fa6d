"""Costs on activity by hand-counted spikes, and their gradients by direction."""

import pytest
import torch

from spikeloom import regularizers as r


def raster(counts, steps=10):
    """[T, B, N] with the given counts [B, N]."""
    counts = torch.tensor(counts)
    return (torch.arange(steps).reshape(-1, 1, 1) < counts).double()


@pytest.mark.parametrize(
    ("bound", "per", "norm", "expected"),
    [
        # counts: sample 0 -> 0, 4; sample 1 -> 1, 9; means 2 and 5
        ("lower", "neuron", 1, (3 + 0 + 2 + 0) / 4),
        ("lower", "neuron", 2, (9 + 0 + 4 + 0) / 4),
        ("lower", "population", 1, (1 + 0) / 2),
        ("lower", "population", 2, (1 + 0) / 2),
        ("upper", "neuron", 1, (0 + 1 + 0 + 6) / 4),
        ("upper", "neuron", 2, (0 + 1 + 0 + 36) / 4),
        ("upper", "population", 1, (0 + 2) / 2),
        ("upper", "population", 2, (0 + 4) / 2),
    ],
)
def test_by_hand(bound, per, norm, expected):
    cost = {"lower": r.firing_lower_bound, "upper": r.firing_upper_bound}[bound]
    spikes = raster([[0, 4], [1, 9]])
    assert cost(spikes, 3, per=per, norm=norm).item() == pytest.approx(expected)
    assert cost(spikes, 3, 0.25, per=per, norm=norm).item() == pytest.approx(expected / 4)
    assert cost(spikes.reshape(10, 2, 2, 1), 3, per=per, norm=norm).item() == pytest.approx(expected)


def test_padding_does_not_count():
    spikes = raster([[9, 9]])
    assert r.firing_upper_bound(spikes, 3, lengths=torch.tensor([3])).item() == 0
    assert r.firing_lower_bound(spikes, 3, lengths=torch.tensor([2])).item() == 1


def test_gradients_push_the_right_neurons_only():
    spikes = raster([[0, 4, 9]]).requires_grad_()
    (wake,) = torch.autograd.grad(r.firing_lower_bound(spikes, 3), spikes)
    (calm,) = torch.autograd.grad(r.firing_upper_bound(spikes, 5, per="neuron"), spikes)
    assert wake.unique(dim=0).tolist() == [[[-1 / 3, 0, 0]]]
    assert calm.unique(dim=0).tolist() == [[[0, 0, 1 / 3]]]


def test_parameter_bounds():
    tau = torch.tensor([5e-3, 10e-3, 20e-3, 40e-3], dtype=torch.float64, requires_grad=True)
    assert r.parameter_bounds(tau, low=5e-3, high=40e-3).item() == 0
    assert r.parameter_bounds(tau, low=10e-3).item() == pytest.approx(0.5**2 / 4)
    assert r.parameter_bounds(tau, high=20e-3).item() == pytest.approx(1 / 4)
    assert r.parameter_bounds(tau, low=10e-3, high=30e-3).item() == pytest.approx((0.25**2 + 0.5**2) / 4)
    torch.autograd.gradcheck(lambda p: r.parameter_bounds(p, low=9e-3, high=30e-3), tau, eps=1e-7)
    # Measured relative to the bounds, so the unit does not matter.
    in_ms = r.parameter_bounds(1e3 * tau, low=9, high=30).item()
    assert in_ms == pytest.approx(r.parameter_bounds(tau, low=9e-3, high=30e-3).item())
    assert r.parameter_bounds(torch.tensor([-2.0]), low=-1.0).item() == pytest.approx(1.0)


def test_silence_costs_the_distance_to_the_threshold():
    v = torch.tensor([[0.2, 0.9, -1.0], [0.5, 0.1, -2.0]], dtype=torch.float64).unsqueeze(1).requires_grad_()
    spikes = torch.zeros(2, 1, 3, dtype=torch.float64)
    spikes[0, 0, 1] = 1
    cost = r.silence(v, spikes, v_th=torch.tensor([1.0, 1.0, 2.0]), strength=6.0)
    assert cost.item() == pytest.approx(6 * (0.5 + 0.0 + 1.5) / 3)
    cost.backward()
    # At the highest point of the silent ones, and nowhere else.
    assert v.grad is not None and v.grad.flatten().tolist() == [0, 0, -1, -2, 0, 0]


S = torch.zeros(5, 2, 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: r.firing_lower_bound(S, 1, per="layer"), '"neuron" or "population", got \'layer\''),
        (lambda: r.firing_upper_bound(S, 1, norm=3), "norm is 1 or 2, got 3"),
        (lambda: r.firing_upper_bound(S, -1), "not negative, got -1"),
        (lambda: r.silence(S, S[1:], 1.0), "membranes and spikes of one shape"),
        (lambda: r.silence(S, S, 0.0), "thresholds above 0, got 0"),
        (lambda: r.parameter_bounds(S), "low=, high= or both, got neither"),
        (lambda: r.parameter_bounds(S, low=2, high=1), "low < high, got low=2, high=1"),
        (lambda: r.parameter_bounds(S, low=0.0), "bound of 0 gives no scale"),
        (lambda: r.parameter_bounds(S, high=0.0), "bound of 0 gives no scale"),
    ],
)
def test_bad_input_gets_a_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()
