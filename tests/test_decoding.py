"""Decodings against loops over single samples, and the gradient of spike times against flipped spikes."""

import math

import pytest
import torch

from spikeloom import decoding


def early(steps):
    return torch.exp(-torch.arange(steps) / 5)


DECODINGS = {
    "spike_count": decoding.spike_count,
    "max_over_time": decoding.max_over_time,
    "mean_over_time": decoding.mean_over_time,
    "weighted_mean": lambda x, lengths=None: decoding.mean_over_time(x, lengths, weight=early(len(x))),
    "last": decoding.last,
    "sum_of_softmax": decoding.sum_of_softmax,
    "first_spike_time": lambda x, lengths=None: decoding.first_spike_time(x, 1e-3, lengths),
    "first_spike_event": lambda x, lengths=None: decoding.first_spike_time(x, 1e-3, lengths, gradient="event"),
}  # fmt: skip


def random_spikes(*shape, density=0.15, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator, dtype=torch.float64) < density).double()


@pytest.mark.parametrize("name", DECODINGS)
@pytest.mark.parametrize("channels", [(4,), (2, 3)])
def test_a_padded_sample_equals_the_sample_alone(name, channels):
    decode = DECODINGS[name]
    lengths = torch.tensor([9, 1, 5, 7])
    output = random_spikes(9, 4, *channels)
    if "spike" not in name:
        output = output + torch.randn(9, 4, *channels, dtype=torch.float64)
    for b, length in enumerate(lengths):
        output[length:, b] = torch.nan  # what padding holds must not matter, nor must its gradient be spoilt
    output.requires_grad_()
    together = decode(output, lengths=lengths)
    (gradient,) = torch.autograd.grad(together.sum(), output)
    assert together.shape == (4, *channels)
    for b, length in enumerate(lengths):
        alone = output.detach()[:length, b : b + 1].requires_grad_()
        if name == "weighted_mean":
            expected = decoding.mean_over_time(alone, weight=early(int(length)))
        else:
            expected = decode(alone)
        assert torch.allclose(together[b], expected[0], rtol=1e-12)
        (expected_gradient,) = torch.autograd.grad(expected.sum(), alone)
        assert torch.allclose(gradient[:length, b], expected_gradient[:, 0], rtol=1e-12, atol=1e-15)
        assert not gradient[length:, b].any()


def test_closed_forms():
    t = torch.arange(1, 6, dtype=torch.float64).reshape(5, 1, 1)
    assert decoding.mean_over_time(t).item() == 3
    assert decoding.max_over_time(t * (6 - t)).item() == 9
    assert decoding.last(t).item() == 5
    # sum w t / sum w with w = (1, 0, 0, 0, 1).
    assert decoding.mean_over_time(t, weight=torch.tensor([1.0, 0, 0, 0, 1])).item() == 3
    two = torch.stack([torch.zeros(5, 1), torch.full((5, 1), math.log(3.0))], dim=-1)
    assert torch.allclose(decoding.sum_of_softmax(two), torch.tensor([[1.25, 3.75]]))


def test_equal_maxima_share_the_gradient():
    flat = torch.ones(4, 1, 1, requires_grad=True)
    decoding.max_over_time(flat).sum().backward()
    assert flat.grad.flatten().tolist() == [0.25] * 4


def test_first_spike_time_by_search():
    spikes = random_spikes(20, 6, 5, density=0.06)
    dt = 2e-3
    times = decoding.first_spike_time(spikes, dt)
    for b in range(6):
        for n in range(5):
            where = spikes[:, b, n].nonzero().flatten().tolist()
            assert times[b, n].item() == pytest.approx(dt * ((where[0] if where else 20) + 1), rel=1e-12)
    assert (spikes.sum(0) == 0).any()


def test_survival_gradient_is_the_effect_of_flipping_a_spike():
    spikes = random_spikes(12, 3, 4, seed=2).requires_grad_()
    times = decoding.first_spike_time(spikes, 1e-3)
    (gradient,) = torch.autograd.grad(times.sum(), spikes)
    assert (spikes.sum(0) == 0).any()
    assert (spikes.sum(0) > 1).any()
    for index in torch.ones_like(spikes).nonzero().tolist():
        flipped = spikes.detach().clone()
        flipped[tuple(index)] = 1 - flipped[tuple(index)]
        change = decoding.first_spike_time(flipped, 1e-3).sum() - times.sum()
        direction = 1 - 2 * spikes[tuple(index)].item()
        assert gradient[tuple(index)].item() * direction == pytest.approx(change.item(), abs=1e-15)


def test_survival_form_is_the_expected_first_spike_time():
    steps, p = 30, 0.1
    probability = torch.full((steps, 1, 1), p, dtype=torch.float64)
    # Geometric distribution cut off at T + 1: E = (1 - q^(T+1)) / p.
    expected = (1 - (1 - p) ** (steps + 1)) / p
    assert decoding.first_spike_time(probability, 1.0).item() == pytest.approx(expected, rel=1e-12)
    torch.autograd.gradcheck(lambda s: decoding.first_spike_time(s, 1.0), probability.requires_grad_())


def test_event_gradient_sits_on_the_first_spike_only():
    spikes = random_spikes(12, 3, 4, seed=2).requires_grad_()
    slope = torch.randn(3, 4, dtype=torch.float64)
    times = decoding.first_spike_time(spikes, 1e-3, gradient="event")
    assert torch.equal(times, decoding.first_spike_time(spikes, 1e-3))
    (gradient,) = torch.autograd.grad((slope * times).sum(), spikes)
    first = spikes * (spikes.cumsum(0) == 1)
    assert torch.equal(gradient, slope * first.detach())


def test_no_steps():
    empty = torch.zeros(0, 2, 3)
    assert decoding.spike_count(empty).tolist() == [[0.0] * 3] * 2
    assert decoding.sum_of_softmax(empty).shape == (2, 3)
    for gradient in ("survival", "event"):
        assert decoding.first_spike_time(empty, 0.5, gradient=gradient).tolist() == [[0.5] * 3] * 2
    for decode in (decoding.max_over_time, decoding.mean_over_time, decoding.last):
        with pytest.raises(ValueError, match="no step to decode"):
            decode(empty)


X = torch.zeros(5, 2, 3)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: decoding.spike_count(torch.zeros(5)), ValueError, r"\[T, B, \*N\], got shape \(5,\)"),
        (lambda: decoding.spike_count([1]), TypeError, r"got list.*to_dense\(\)"),
        (lambda: decoding.spike_count(X, torch.tensor([1.0, 2.0])), TypeError, "whole numbers .*torch.float32"),
        (lambda: decoding.spike_count(X, torch.tensor([[1, 2]]).T), ValueError, r"shape \[B\]"),
        (lambda: decoding.spike_count(X, torch.tensor([1])), ValueError, "1 entries for a batch of 2"),
        (lambda: decoding.spike_count(X, torch.tensor([6, 1])), ValueError, r"in 0 .. 5, .*got 1 to 6"),
        (lambda: decoding.max_over_time(X, torch.tensor([0, 1])), ValueError, r"in 1 .. 5"),
        (lambda: decoding.mean_over_time(X, weight=torch.ones(4)), ValueError, r"shape \(5,\), got \(4,\)"),
        (lambda: decoding.sum_of_softmax(torch.zeros(5, 2)), ValueError, "class axis"),
        (lambda: decoding.first_spike_time(X, 0.0), ValueError, "dt in seconds above 0, got 0.0"),
        (lambda: decoding.first_spike_time(X, 1.0, gradient="exact"), ValueError, '"survival" and .*got \'exact\''),
    ],
)  # fmt: skip
def test_bad_input_gets_a_sentence(make, error, message):
    with pytest.raises(error, match=message):
        make()
