"""EventProp at the edges of its meaning: pieces with lengths, graded spikes, half precision, pruned matrices."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import spikeloom as sl


def net(recurrent=None, connection=None, **options):
    torch.manual_seed(3)
    connection = nn.Linear(5, 4, bias=False) if connection is None else connection
    for p in connection.parameters():
        nn.init.normal_(p, 1.0, 0.5)
    return sl.Sequential(sl.Layer(connection, sl.CubaLIF(4), recurrent=recurrent, **options), dt=1e-3)


def spikes(steps=30, batch=2):
    torch.manual_seed(4)
    return (torch.rand(steps, batch, 5) < 0.2).float()


def early(run):
    """A loss on all spike times."""
    return _early(run.output, 0)


def _early(output, begin):
    """A gradient at spikes, and nowhere else."""
    steps = torch.arange(begin, begin + len(output), dtype=output.dtype)
    return ((output * output.detach()).flatten(1).sum(1) * (1 + 0.1 * steps)).sum()


@pytest.mark.parametrize("lengths", [None, [30, 30], [30, 17]])
def test_recurrent_spikes_carry_gradients_to_the_run_before(lengths):
    found = []
    for pieces in ((0, 30), (0, 11, 12, 30)):
        network = net(nn.Linear(4, 4, bias=False)).double()
        nn.init.constant_(network[0].recurrent.weight, 0.3)
        state, loss = None, 0.0
        for a, b in itertools.pairwise(pieces):
            left = None if lengths is None else [min(max(n - a, 0), b - a) for n in lengths]
            run = sl.run(network, spikes().double()[a:b], state, lengths=left, gradient=sl.EventProp())
            state, loss = run.state, loss + _early(run.output, a)
        loss.backward()
        found.append([p.grad for p in network.parameters()])
    for whole, parts in zip(*found, strict=True):
        assert whole.any() and torch.allclose(whole, parts, rtol=1e-9, atol=1e-12)


def test_a_matrix_on_several_axes_is_that_matrix_on_each():
    connection, x = nn.Linear(5, 4, bias=False), spikes(batch=6).reshape(30, 2, 3, 5)
    nn.init.constant_(connection.weight, 1.2)
    found = []
    for shape, raster in (((3, 4), x), ((4,), x.flatten(1, 2))):
        connection.zero_grad()
        raster = raster.clone().requires_grad_()
        _early(sl.run(sl.Layer(connection, sl.CubaLIF(shape)), raster, gradient=sl.EventProp()).output, 0).backward()
        found.append((connection.weight.grad.clone(), raster.grad.flatten()))
    for several, one in zip(*found, strict=True):
        assert one.any() and torch.allclose(several, one, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["axon", "synapse"])
def test_a_pruned_matrix_with_delays_gets_its_gradient_or_a_sentence(kind):
    linear, other = nn.Linear(5, 4, bias=False), nn.Linear(5, 4, bias=False)
    nn.init.constant_(linear.weight, 1.2)
    prune.random_unstructured(linear, "weight", amount=0.3)
    with torch.no_grad():
        other.weight.copy_(linear.weight_orig * linear.weight_mask)
    found = []
    for connection in (linear, other):
        delayed = sl.Delayed(connection, 200e-3, per=kind, initial=2e-3)  # so long that spikes go one by one
        layer = sl.Layer(delayed, sl.CubaLIF(4))
        if connection is linear and kind == "synapse":
            with pytest.raises(ValueError, match="reads its connection's weight, and hooks on it"):
                sl.run(layer, spikes(), gradient=sl.EventProp())
            return
        early(sl.run(layer, spikes(), gradient=sl.EventProp())).backward()
        found.append((next(connection.parameters()).grad, delayed.parameter.raw.grad))
    assert found[1][0].any() and torch.allclose(found[0][0], found[1][0] * linear.weight_mask, rtol=1e-5)
    assert found[1][1].any() and torch.allclose(found[0][1], found[1][1], rtol=1e-5)


def test_graded_spikes_are_refused():
    with pytest.raises(ValueError, match="takes spikes of 0 and 1, but Smooth makes graded ones"):
        sl.run(net(surrogate=sl.Smooth(sl.SuperSpike())), spikes(), gradient=sl.EventProp())


def test_half_precision_runs():
    run = sl.run(net().bfloat16(), spikes().bfloat16(), gradient=sl.EventProp())
    early(run).backward()


def test_a_matrix_for_learning_signals_gets_no_exact_gradient():
    network = net(connection=sl.with_feedback(nn.Linear(5, 4)))
    early(sl.run(network, spikes(), gradient=sl.EventProp())).backward()
    assert network[0].connection.feedback.grad is None
    assert network[0].connection.weight.grad.any() and network[0].connection.bias.grad.any()


@pytest.mark.parametrize("rule", [sl.BPTT(), sl.EventProp()])
def test_a_pruned_recurrent_matrix_learns_what_is_left(rule):
    pruned, other = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    prune.random_unstructured(pruned, "weight", amount=0.5)
    mask = pruned.weight_mask
    with torch.no_grad():
        other.weight.copy_(pruned.weight_orig * mask)
    found = []
    for recurrent in (pruned, other):
        network = net(recurrent)
        for _ in range(2):  # a second step meets no stale graph
            network.zero_grad()
            early(sl.run(network, spikes(), gradient=rule)).backward()
        found.append(next(p.grad for p in recurrent.parameters()))
    assert found[1].any() and torch.allclose(found[0], found[1] * mask, rtol=1e-5, atol=1e-7)


def test_weights_that_hooks_would_make_are_not_read_past_them():
    recurrent = nn.Linear(4, 4)
    prune.random_unstructured(recurrent, "weight", amount=0.5)
    with pytest.raises(ValueError, match="self_connections=False reads the recurrent connection's weight"):
        sl.run(net(recurrent, self_connections=False), spikes())
    computed = parametrizations.weight_norm(nn.Linear(5, 4, bias=False))
    with pytest.raises(ValueError, match="needs the weight of a delayed nn.Linear as it is"):
        sl.run(net(connection=sl.Delayed(computed, 5e-3)), spikes(), gradient=sl.EventProp())


@pytest.mark.parametrize("epsilon", [None, 0.0, "small"])
def test_epsilon_is_a_number(epsilon):
    with pytest.raises(ValueError, match="EventProp got epsilon"):
        sl.EventProp(epsilon=epsilon)


def test_a_parameter_on_its_bound_stays_there():
    layer = sl.Layer(None, sl.LIF(3, tau_mem=10.0))
    run = sl.run(layer, torch.rand(5, 2, 3))
    assert run.output.isfinite().all() and float(layer.neuron.tau_mem) == 10.0
    delayed = sl.Delayed(nn.Linear(3, 2), 20e-3, per="axon", initial=torch.tensor([5e-3, 12e-3, 20e-3]), learn=False)
    assert torch.equal(delayed.delay, torch.tensor([5e-3, 12e-3, 20e-3]).double())
    assert sl.round_delays(sl.Sequential(sl.Layer(delayed, sl.LIF(2))))[0].connection.in_steps.tolist() == [5, 12, 20]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sl.Delayed(nn.Linear(3, 2), "long"), "Delayed got maximum='long'; expected seconds above 0"),
        (lambda: sl.Delayed(nn.Linear(3, 2), 5e-3, width="x"), "Delayed got width='x'; expected seconds, 0 or more"),
        (lambda: sl.with_feedback(nn.Linear(3, 2), std="a"), "with_feedback got std='a'; expected a number above 0"),
    ],
)
def test_text_for_a_number_gets_a_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_width_set_later_is_where_annealing_begins():
    layer = sl.Layer(sl.Delayed(nn.Linear(3, 2), 20e-3, width=2e-3), sl.LIF(2))
    layer.connection.width = 8e-3
    sl.anneal_delays(layer, 0.0)
    assert layer.connection.width == 8e-3
    sl.anneal_delays(layer, 1.0)
    assert layer.connection.width == pytest.approx(0.5e-3)
    sl.anneal_delays(layer, 0.0)
    assert layer.connection.width == 8e-3
