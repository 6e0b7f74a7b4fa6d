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
