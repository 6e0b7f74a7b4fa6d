"""Rows of modules: one that stands in a row twice runs twice."""

import pytest
import torch
from torch import nn

import spikeloom as sl


def test_a_module_that_stands_in_a_row_twice_runs_twice():
    torch.manual_seed(0)
    shared = sl.Layer(nn.Linear(4, 4), sl.LIF(4, tau_mem=5e-3))
    nn.init.normal_(shared.connection.weight, 0.5, 0.5)
    net, x = sl.Sequential(shared, shared), (torch.rand(20, 2, 4) < 0.5).float()
    assert len(net) == len(list(net)) == len(net[:]) == 2 and net[1] is shared
    (y, states), once = net(x), shared(x)[0]
    assert torch.equal(y, shared(once)[0]) and not torch.equal(y, once)
    assert len(states) == 2 and not torch.equal(states[0].neuron.v, states[1].neuron.v)
    assert torch.equal(net(x, states)[0], shared(shared(x, states[0])[0], states[1])[0])


def test_a_pool_may_stand_in_a_row_twice():
    pool = nn.MaxPool2d(2)
    assert sl.Sequential(pool, pool)(torch.rand(5, 1, 2, 8, 8))[0].shape == (5, 1, 2, 2, 2)


def test_neurons_of_two_time_steps_are_refused_wherever_they_stand():
    """Neurons may be changed after the network was built, and one may hold another."""

    class Holding(sl.LIF):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.inner = sl.LIF(3, dt=2e-3)

    wrapped = nn.Module()
    wrapped.layers = sl.Sequential(nn.Linear(4, 3), sl.LIF(3, dt=1e-3))
    wrapped.other = sl.Layer(None, sl.LIF(3, dt=2e-3))
    for network in (sl.Layer(nn.Linear(4, 3), Holding(3)), wrapped):
        with pytest.raises(ValueError, match=r"neurons with dt of 0.001 s and 0.002 s; a network has one"):
            sl.run(network, torch.rand(5, 2, 4))


def test_torchs_modules_in_a_row_take_events_and_say_so():
    spikes = (torch.rand(40, 32, 1, 28, 28) < 0.05).float()
    row, out = nn.Sequential(nn.Flatten(), nn.Linear(784, 128)), nn.Linear(128, 4)
    net = sl.Sequential(sl.Layer(row, sl.LIF(128, v_th=0.1)), sl.Layer(out, sl.LI(4)))
    with torch.no_grad():  # on a grid, on which sums are exact in any order
        for parameter in (*row.parameters(), *out.parameters()):
            parameter.copy_((parameter * 1024).round() / 1024)
    expected = sl.run(net, spikes, engine="eager").output
    for given in (spikes, spikes.bool(), sl.Events.from_dense(spikes)):
        run = sl.run(net, given)
        torch.testing.assert_close(run.output, expected)
        assert run.products["0.connection.1"].startswith(
            ("events: density 0.05 below", "dense: density 0.05 not below")
        )
        assert "0.connection" not in run.products


def test_a_row_goes_on_folded_from_the_first_module_that_torch_alone_calls():
    class Fold(nn.Module):
        def forward(self, x):
            return x.unflatten(0, (-1, 2)).flatten(1, 2)

    class Back(nn.Module):
        def forward(self, x):
            return x.unflatten(1, (2, -1)).flatten(0, 1)

    x = torch.rand(4, 6, 1, 8, 8)
    parts = nn.AvgPool2d(2), nn.Conv2d(1, 3, 3), nn.Tanh(), Fold(), nn.Identity(), Back(), nn.MaxPool2d(2)
    for dtype in (torch.float32, torch.float64):
        row = nn.Sequential(*parts).to(dtype)
        expected = row(x.to(dtype).flatten(0, 1)).unflatten(0, (4, 6))
        for given in (x.to(dtype), sl.Events.from_dense(x)):
            found = sl.run(sl.Sequential(row), given).output
            torch.testing.assert_close(found, expected, rtol=1e-5 if dtype == torch.float32 else 1e-6, atol=1e-6)


def test_a_row_keeps_its_hooks_and_its_sentences():
    calls = []
    row = nn.Sequential(nn.Flatten(), nn.Linear(8, 3))
    row.register_forward_hook(lambda *a: calls.append(a))
    row[1].register_forward_hook(lambda *a: calls.append(a))
    sl.run(sl.Sequential(row), torch.rand(5, 2, 8))
    assert len(calls) == 2
    assert sl.run(sl.Sequential(nn.Sequential()), torch.ones(5, 2, 8, dtype=torch.int64)).output.is_floating_point()
    with pytest.raises(ValueError, match=r"got input of shape \(5, 2, 7\) for Linear\(8, 3\)"):
        sl.run(sl.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(8, 3))), torch.rand(5, 2, 7))
    with pytest.raises(TypeError, match="Sequential returned tuple; expected a tensor"):
        sl.run(sl.Sequential(nn.Sequential(nn.GRU(8, 3))), torch.rand(5, 2, 8))
