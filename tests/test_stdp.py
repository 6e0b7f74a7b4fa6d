"""STDP against the closed form of its window, pair by pair, and as a gradient for any optimiser."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spikeloom as sl


def train(*indices, steps=80):
    spikes = torch.zeros(steps, 1, 1, dtype=torch.float64)
    spikes[list(indices)] = 1
    return spikes


def change(rule, pre, post, dt=1e-3, connection=None, state=None):
    connection = connection or nn.Linear(pre.shape[2], post.shape[2], bias=False).double()
    return -rule(connection, pre, post, state, dt=dt).gradients[connection.weight]


def window(rule, pre, post, dt):
    """The sum over all pairs, index by index, from the definition."""
    total = 0.0
    for i in pre.flatten().nonzero().flatten().tolist():
        for j in post.flatten().nonzero().flatten().tolist():
            distance = (j + 1 - i) * dt
            if distance > 0:
                total += rule.a_plus * math.exp(-distance / rule.tau_plus)
            else:
                total -= rule.a_minus * math.exp(distance / rule.tau_minus)
    return total


@pytest.mark.parametrize("dt", [0.25e-3, 1e-3, 3e-3])
@pytest.mark.parametrize("distance", [-30, -5, -1, 0, 1, 7, 40])
def test_one_pair_has_the_window_of_its_distance(dt, distance):
    rule = sl.STDP(a_plus=0.3, a_minus=0.2, tau_plus=17e-3, tau_minus=34e-3)
    pre, post = train(40), train(40 - 1 + distance)  # post index j is fired at (j + 1) dt
    expected = 0.3 * math.exp(-distance * dt / 17e-3) if distance > 0 else -0.2 * math.exp(distance * dt / 34e-3)
    for pairs in ("all", "nearest"):
        found = change(sl.STDP(0.3, 0.2, 17e-3, 34e-3, pairs=pairs), pre, post, dt)
        assert found.item() == pytest.approx(expected, rel=1e-12)
    assert window(rule, pre, post, dt) == pytest.approx(expected)


def test_a_pair_at_one_index_counts_as_pre_before_post():
    assert change(sl.STDP(), train(5), train(5)).item() == pytest.approx(0.01 * math.exp(-1 / 20))
    assert change(sl.STDP(), train(6), train(5)).item() == pytest.approx(-0.0105)


def test_trains_sum_over_all_pairs():
    generator = torch.Generator().manual_seed(0)
    pre = (torch.rand(200, 1, 3, generator=generator) < 0.1).double()
    post = (torch.rand(200, 1, 2, generator=generator) < 0.1).double()
    rule = sl.STDP(a_plus=0.3, a_minus=0.2, tau_plus=17e-3, tau_minus=34e-3)
    found = change(rule, pre, post)
    expected = [[window(rule, pre[:, :, i], post[:, :, o], 1e-3) for i in range(3)] for o in range(2)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_nearest_pairs_only_see_the_last_spike():
    every, nearest = sl.STDP(a_minus=0.0), sl.STDP(a_minus=0.0, pairs="nearest")
    burst, post = train(10, 12, 14), train(20)
    last = 0.01 * math.exp(-7 / 20)
    assert change(nearest, burst, post).item() == pytest.approx(last)
    assert change(every, burst, post).item() == pytest.approx(last * (1 + math.exp(-2 / 20) + math.exp(-4 / 20)))
    every, nearest = sl.STDP(a_plus=0.0), sl.STDP(a_plus=0.0, pairs="nearest")
    last = -0.0105 * math.exp(-5 / 20)
    assert change(nearest, post, burst).item() == pytest.approx(last)
    assert change(every, post, burst).item() == pytest.approx(last * (1 + math.exp(-2 / 20) + math.exp(-4 / 20)))


@pytest.mark.parametrize("pairs", ["all", "nearest"])
def test_two_halves_are_the_whole(pairs):
    generator = torch.Generator().manual_seed(1)
    pre, post = ((torch.rand(60, 4, n, generator=generator) < 0.2).double() for n in (5, 3))
    rule, connection = sl.STDP(pairs=pairs), nn.Linear(5, 3, bias=False).double()
    whole = rule(connection, pre, post)
    first = rule(connection, pre[:23], post[:23])
    second = rule(connection, pre[23:], post[23:], first.state)
    both = first.gradients[connection.weight] + second.gradients[connection.weight]
    torch.testing.assert_close(both, whole.gradients[connection.weight])
    torch.testing.assert_close(second.state, whole.state)
    empty = rule(connection, pre[:0], post[:0], first.state)
    assert (empty.gradients[connection.weight] == 0).all()
    torch.testing.assert_close(empty.state, first.state)


def test_a_batch_is_the_mean_of_its_samples():
    generator = torch.Generator().manual_seed(2)
    pre, post = ((torch.rand(40, 6, n, generator=generator) < 0.2).double() for n in (5, 3))
    connection = nn.Linear(5, 3).double()
    single = [change(sl.STDP(), pre[:, b : b + 1], post[:, b : b + 1], connection=connection) for b in range(6)]
    torch.testing.assert_close(change(sl.STDP(), pre, post, connection=connection), torch.stack(single).mean(0))


def test_independent_poisson_trains_drift_by_the_integral_of_the_window():
    rate, steps, batch = 0.05, 400, 400
    generator = torch.Generator().manual_seed(3)
    pre, post = ((torch.rand(steps, batch, 5, generator=generator) < rate).double() for _ in range(2))
    rule = sl.STDP(a_plus=0.02, a_minus=0.01, tau_plus=10e-3, tau_minus=15e-3)
    found = change(rule, pre, post)
    plus, minus = math.exp(-1 / 10), math.exp(-1 / 15)
    # Sums over i <= j of exp(-(j - i + 1) dt / tau+), and over i > j of exp(-(i - j - 1) dt / tau-).
    pairs_plus = sum((steps - k) * plus ** (k + 1) for k in range(steps))
    pairs_minus = sum((steps - k) * minus ** (k - 1) for k in range(1, steps))
    expected = rate**2 * (0.02 * pairs_plus - 0.01 * pairs_minus)
    error = found.std().item() / 5
    assert abs(found.mean().item() - expected) < 5 * error
    assert error < 0.2 * abs(expected), "the test can tell"


def test_convolutions_sum_the_changes_of_all_places():
    generator = torch.Generator().manual_seed(4)
    pre = (torch.rand(30, 2, 3, 6, 6, generator=generator) < 0.2).double()
    post = (torch.rand(30, 2, 4, 6, 6, generator=generator) < 0.2).double()
    connection = nn.Conv2d(3, 4, 3, padding=1).double()
    update = sl.STDP()(connection, pre, post)
    assert set(update.gradients) == {connection.weight}, "biases are left alone"
    # The same as a dense connection from unfolded patches, summed over places.
    patches = F.unfold(pre.flatten(0, 1), 3, padding=1).unflatten(0, (30, 2))  # [T, B, 27, 36]
    expected = sum(change(sl.STDP(), patches[..., k], post.flatten(3)[..., k]) for k in range(36))
    torch.testing.assert_close(-update.gradients[connection.weight], expected.reshape(4, 3, 3, 3))


def test_a_stack_and_events_are_taken_too():
    spikes = (torch.rand(10, 2, 2, 3, generator=torch.Generator().manual_seed(5)) < 0.3).float()
    stack = nn.Sequential(nn.Flatten(), nn.Linear(6, 4))
    post = torch.ones(10, 2, 4)
    one = sl.STDP()(stack, spikes, post).gradients[stack[1].weight]
    torch.testing.assert_close(one, sl.STDP()(stack[1], spikes.flatten(2), post).gradients[stack[1].weight])
    flat = sl.Events.from_dense(spikes.flatten(2))
    torch.testing.assert_close(one, sl.STDP()(stack[1], flat, post).gradients[stack[1].weight])


def test_any_optimiser_applies_it():
    pre, post = torch.ones(20, 3, 5), (torch.arange(60).reshape(20, 3, 1) % 4 == 0).float().expand(20, 3, 2)
    for make in (lambda p: torch.optim.SGD(p, lr=1.0), lambda p: torch.optim.Adam(p, lr=0.01)):
        connection = nn.Linear(5, 2, bias=False)
        before = connection.weight.detach().clone()
        update, optimiser = sl.STDP(a_plus=0.03)(connection, pre, post), make(connection.parameters())
        wanted = -update.gradients[connection.weight]
        assert (wanted != 0).all()
        loss = update.as_loss()
        assert loss.item() == 0
        loss.backward()
        optimiser.step()
        moved = connection.weight.detach() - before
        if isinstance(optimiser, torch.optim.SGD):
            torch.testing.assert_close(moved, wanted)
        assert torch.equal(moved.sign(), wanted.sign())


def test_plasticity_and_surrogate_gradients_add_up_in_one_backward():
    torch.manual_seed(0)
    net = sl.Sequential(sl.Layer(nn.Linear(6, 5), sl.LIF(5)), sl.Layer(nn.Linear(5, 2), sl.LI(2)))
    x = (torch.rand(30, 4, 6) < 0.5).float()
    run = sl.run(net, x, record=("0.presynaptic", "0.spikes"))
    update = sl.STDP()(net[0].connection, run.records["0.presynaptic"], run.records["0.spikes"], dt=run.dt)
    loss = run.output.square().mean()
    plain = torch.autograd.grad(loss, tuple(net.parameters()), retain_graph=True)
    (loss + update.as_loss()).backward()
    for parameter, gradient in zip(net.parameters(), plain, strict=True):
        expected = gradient + update.gradients.get(parameter, torch.zeros(()))
        torch.testing.assert_close(parameter.grad, expected)
    assert update.gradients[net[0].connection.weight].abs().sum() > 0


def test_it_works_without_a_graph_and_changes_nothing_by_itself():
    connection, spikes = nn.Linear(3, 3), torch.ones(5, 1, 3)
    before = connection.weight.clone()
    with torch.no_grad():
        update = sl.STDP()(connection, spikes, spikes)
    assert torch.equal(connection.weight, before)
    assert connection.weight.grad is None
    assert not any(t.requires_grad for t in (*update.gradients.values(), *update.state))


@pytest.mark.parametrize(
    ("call", "kind", "sentence"),
    [
        (lambda: sl.STDP(tau_plus=0), ValueError, "STDP got tau_plus=0; expected seconds above 0"),
        (lambda: sl.STDP(tau_minus=math.inf), ValueError, "STDP got tau_minus=inf; expected seconds above 0"),
        (lambda: sl.STDP(pairs="some"), ValueError, "STDP got pairs='some'; expected 'all' or 'nearest'"),
        (lambda: stdp(nn.ReLU()), TypeError, "STDP got ReLU, which has no weights to train"),
        (lambda: stdp(Remembers()), TypeError, "STDP got Remembers, which has a memory of its own"),
        (lambda: stdp(dt=0.0), ValueError, "STDP got dt=0.0; expected seconds above 0"),
        (lambda: stdp(post=(4, 1, 2)), ValueError, r"shape \(5, 1, 3\) and postsynaptic ones of shape \(4, 1, 2\)"),
        (lambda: stdp(post=(5, 1, 3)), ValueError, r"shape \(5, 1, 3\) for Linear, whose output has shape \(5, 1, 2\)"),
        (lambda: stdp(state=(2, 3)), ValueError, r"traces of shapes \(2, 3\) and \(2, 3\); expected \(1, 3\)"),
    ],
)
def test_what_does_not_fit_is_a_sentence(call, kind, sentence):
    with pytest.raises(kind, match=sentence):
        call()


class Remembers(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

    def initial_state(self, x):
        return ()


def stdp(connection=None, post=(5, 1, 2), state=None, dt=1e-3):
    traces = None if state is None else sl.plasticity.STDPState(torch.zeros(state), torch.zeros(state))
    return sl.STDP()(connection or nn.Linear(3, 2), torch.ones(5, 1, 3), torch.ones(post), traces, dt=dt)


def test_what_is_not_linear_is_refused():
    torch.manual_seed(0)
    spikes, post, linear = torch.ones(5, 2, 4), torch.ones(5, 2, 3), nn.Linear(4, 3)
    for more in (nn.ReLU(), nn.Dropout(0.5), nn.Tanh()):
        with pytest.raises(TypeError, match="not linear in its input; expected a connection such as nn.Linear"):
            sl.STDP()(nn.Sequential(linear, nn.Linear(3, 3), more), spikes, post)
    still = nn.Sequential(nn.Dropout(0.5), linear).eval()
    one, other = (sl.STDP()(c, spikes, post).gradients[linear.weight] for c in (still, linear))
    assert torch.equal(one, other)


def test_milliseconds_and_other_numbers_are_refused():
    spikes = torch.ones(5, 2, 3)
    for rule, dt in ((sl.STDP(tau_plus=20), 1e-3), (sl.STDP(tau_minus=20), 1e-3), (sl.STDP(), 1)):
        with pytest.raises(ValueError, match="seconds: 20 ms are 20e-3"):
            rule(nn.Linear(3, 3), spikes, spikes, dt=dt)
    with pytest.raises(ValueError, match="a_plus=nan; expected a finite number"):
        sl.STDP(a_plus=math.nan)
