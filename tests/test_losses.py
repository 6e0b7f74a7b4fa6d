"""Losses against closed forms and against the same quantity computed another way."""

import math

import pytest
import torch
import torch.nn.functional as F

from spikeloom import losses
from spikeloom.decoding import first_spike_time


def random_spikes(*shape, density=0.1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator, dtype=torch.float64) < density).double()


def test_spike_count_mse_by_hand():
    spikes = torch.zeros(5, 2, 3)
    spikes[:4, 0, 0] = 1  # sample 0: counts 4 0 0, label 0
    spikes[:, 1, 1] = 1  # sample 1: counts 0 5 0, label 2
    labels = torch.tensor([0, 2])
    expected = ((4 - 3) ** 2 + 1 + 1 + 1 + (5 - 1) ** 2 + 3**2) / 6
    assert losses.spike_count_mse(spikes, labels, 3, 1).item() == pytest.approx(expected)
    # With the last step taken for padding, neuron 1 of sample 1 has 4 spikes.
    shorter = losses.spike_count_mse(spikes, labels, 3, 1, lengths=torch.tensor([5, 4]))
    assert shorter.item() == pytest.approx((1 + 1 + 1 + 1 + 9 + 9) / 6)


def test_spike_count_mse_gradient_is_two_residuals_per_step():
    spikes = random_spikes(6, 2, 3).requires_grad_()
    labels = torch.tensor([1, 0])
    losses.spike_count_mse(spikes, labels, 100, 10).backward()
    residual = spikes.detach().sum(0) - torch.tensor([[10.0, 100, 10], [100, 10, 10]])
    assert torch.allclose(spikes.grad, (2 * residual / 6).expand(6, 2, 3))


@pytest.mark.parametrize("per_step", [False, True])
def test_per_step_cross_entropy_is_the_mean_over_valid_steps(per_step):
    membrane = torch.randn(7, 3, 4, dtype=torch.float64)
    labels = torch.randint(4, (7, 3) if per_step else (3,))
    lengths = torch.tensor([7, 0, 3])
    padded = membrane.clone()
    padded[3:, 2], padded[:, 1] = torch.nan, torch.nan
    each = [
        -membrane[t, b].log_softmax(-1)[labels[t, b] if per_step else labels[b]]
        for b, length in enumerate(lengths)
        for t in range(length)
    ]
    assert torch.allclose(losses.per_step_cross_entropy(padded, labels, lengths), torch.stack(each).mean())
    whole = losses.per_step_cross_entropy(membrane, labels)
    equal_lengths = losses.per_step_cross_entropy(membrane, labels, torch.full((3,), 7))
    assert torch.allclose(whole, equal_lengths)
    if per_step:  # padding may hold any label, such as -1
        labels[3:, 2] = -1
        labels[:, 1] = -1
        assert torch.allclose(losses.per_step_cross_entropy(padded, labels, lengths), torch.stack(each).mean())


def test_van_rossum_closed_forms():
    tau, dt = 10e-3, 1e-3
    spikes, none = torch.zeros(50, 1, 1, dtype=torch.float64), torch.zeros(50, 1, 1, dtype=torch.float64)
    spikes[3] = 1
    assert losses.van_rossum_distance(spikes, none, tau, dt).item() == pytest.approx(0.5, rel=1e-12)
    for shift in (0, 1, 7, 46):
        moved = spikes.roll(shift, 0)
        expected = 1 - math.exp(-shift * dt / tau)
        assert losses.van_rossum_distance(spikes, moved, tau, dt).item() == pytest.approx(expected, abs=1e-14)


def test_van_rossum_is_the_pairwise_quadratic_form():
    # <exp(-(t - a)/tau), exp(-(t - b)/tau)> / tau = exp(-|a - b| / tau) / 2, summed over all pairs of spikes.
    tau, dt, steps = 7e-3, 2e-3, 40
    f, g = (random_spikes(steps, 3, 2, density=0.2, seed=seed) for seed in (0, 1))
    t = torch.arange(steps, dtype=torch.float64) * dt
    kernel = torch.exp(-(t[:, None] - t[None, :]).abs() / tau) / 2
    expected = torch.einsum("abn,ac,cbn->bn", f - g, kernel, f - g)
    distance = losses.van_rossum_distance(f, g, tau, dt, reduction="none")
    assert torch.allclose(distance, expected, rtol=1e-12)
    assert losses.van_rossum_distance(f, g, tau, dt).item() == pytest.approx(expected.mean().item(), rel=1e-12)
    assert losses.van_rossum_distance(f, g, tau, dt, reduction="sum").item() == pytest.approx(expected.sum().item())
    lengths = torch.tensor([40, 10, 25])
    masked = losses.van_rossum_distance(f, g, tau, dt, lengths, reduction="none")
    for b, length in enumerate(lengths):
        alone = losses.van_rossum_distance(f[:length, b], g[:length, b], tau, dt, reduction="none")
        assert torch.allclose(masked[b], alone, rtol=1e-12)


def test_van_rossum_gradient():
    f, g = (random_spikes(12, 2, 2, density=0.3, seed=seed) for seed in (0, 1))
    torch.autograd.gradcheck(lambda s: losses.van_rossum_distance(s, g, 5e-3, 1e-3), f.requires_grad_())
    assert losses.van_rossum_distance(torch.zeros(0, 2, 3), torch.zeros(0, 2, 3), 1.0, 1.0).item() == 0


def test_time_to_first_spike_cross_entropy_is_the_published_formula():
    dt, tau0, alpha, tau1 = 1e-3, 0.5e-3, 3e-3, 6.4e-3
    times = torch.tensor([[5.0, 6.0, 8.0], [20.0, 3.0, 31.0]], dtype=torch.float64) * dt
    spikes = torch.zeros(30, 2, 3, dtype=torch.float64)
    for b in range(2):
        for c in range(3):
            if times[b, c] <= 30 * dt:
                spikes[round(times[b, c].item() / dt) - 1 :: 4, b, c] = 1  # later spikes must not matter
    labels = torch.tensor([1, 0])
    expected = 0.0
    for b, label in enumerate(labels):
        weights = torch.exp(-times[b] / tau0)
        expected -= math.log(weights[label] / weights.sum()) - alpha * (math.exp(times[b, label] / tau1) - 1)
    loss = losses.time_to_first_spike_cross_entropy(spikes, labels, dt, tau0=tau0, alpha=alpha, tau1=tau1)
    assert loss.item() == pytest.approx(expected / 2, rel=1e-9)


@pytest.mark.parametrize("gradient", ["survival", "event"])
def test_time_to_first_spike_gradient_is_softmax_minus_label_by_the_chain_rule(gradient):
    dt, tau0, alpha, tau1 = 1e-3, 2e-3, 0.1, 6.4e-3
    spikes = random_spikes(20, 4, 3).requires_grad_()
    labels = torch.tensor([0, 1, 2, 0])
    loss = losses.time_to_first_spike_cross_entropy(
        spikes, labels, dt, tau0=tau0, alpha=alpha, tau1=tau1, gradient=gradient
    )
    (found,) = torch.autograd.grad(loss, spikes)
    times = first_spike_time(spikes, dt, gradient=gradient)
    right = F.one_hot(labels, 3).double()
    slope = (right - (-times / tau0).softmax(-1)) / tau0 + right * alpha / tau1 * torch.exp(times / tau1)
    (expected,) = torch.autograd.grad(times, spikes, slope.detach() / 4)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-15)
    assert found.any()


def test_where_the_right_neuron_is_silent_the_event_gradient_silences_no_other():
    spikes = torch.zeros(20, 2, 3, dtype=torch.float64)
    spikes[4, :, 0] = spikes[9, 1, 2] = 1
    spikes.requires_grad_()
    labels = torch.tensor([2, 2])  # silent in the first sample
    losses.time_to_first_spike_cross_entropy(spikes, labels, 1e-3, tau0=5e-3, gradient="event").backward()
    assert spikes.grad is not None
    assert not spikes.grad[:, 0].any() and spikes.grad[4, 1, 0] < 0 < spikes.grad[9, 1, 2]


def test_descending_the_first_spike_loss_on_probabilities_makes_the_right_neuron_first():
    # The survival form on spike probabilities: a neuron that is all but silent learns to fire first.
    logits = torch.full((20, 2, 2), -6.0)
    labels = torch.tensor([0, 1])
    logits[5, :, 1] = 6.0  # neuron 1 fires at step 5 for both labels
    logits.requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=0.3)
    for _ in range(100):
        optimiser.zero_grad()
        losses.time_to_first_spike_cross_entropy(logits.sigmoid(), labels, 1e-3, tau0=2e-3).backward()
        optimiser.step()
    times = first_spike_time((logits > 0).float(), 1e-3)
    assert times.argmin(1).tolist() == [0, 1]


S = torch.zeros(5, 2, 3)
L = torch.tensor([0, 2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: losses.spike_count_mse(torch.zeros(5, 2), L, 1, 0), r"output \[T, B, C\], got shape \(5, 2\)"),
        (lambda: losses.spike_count_mse(S, L + 1, 1, 0), r"in 0 .. 2 for 3 output neurons, got 1 to 3"),
        (lambda: losses.spike_count_mse(S, L.float(), 1, 0), r"class numbers of shape \(2,\), got torch.float32"),
        (lambda: losses.spike_count_mse(S, L[:1], 1, 0), r"of shape \(1,\)"),
        (
            lambda: losses.per_step_cross_entropy(S, torch.zeros(3).long()),
            r"\[B\] or \[T, B\], here \(2,\) or \(5, 2\)",
        ),
        (lambda: losses.per_step_cross_entropy(S, L - 1), r"Labels must lie in 0 .. 2"),
        (lambda: losses.per_step_cross_entropy(S, L, torch.tensor([0, 0])), "no step to average over"),
        (lambda: losses.per_step_cross_entropy(S, L, torch.tensor([5])), "1 entries for a batch of 2"),
        (lambda: losses.van_rossum_distance(S, S[1:], 1e-2, 1e-3), r"got \(5, 2, 3\) and \(4, 2, 3\)"),
        (lambda: losses.van_rossum_distance(S, S, 0.0, 1e-3), "tau and dt in seconds above 0, got tau=0.0"),
        (lambda: losses.van_rossum_distance(S, S, 1.0, 1e-3, reduction="max"), "reduction is .*got 'max'"),
        (lambda: losses.time_to_first_spike_cross_entropy(S, L, 1e-3, tau0=0.0), "tau0=0.0"),
        (lambda: losses.time_to_first_spike_cross_entropy(S, L, 1.0), r"over 80 times tau1=0.0064.*larger tau1"),
        (lambda: losses.time_to_first_spike_cross_entropy(S, L + 5, 1e-3), "Labels must lie in"),
    ],
)
def test_bad_input_gets_a_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()
