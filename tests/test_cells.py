"""The recipe `cells`: one neuron around any connection, spikes or rates, gradients or STDP under one optimiser."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

pytest.importorskip("lightning", reason="training needs the extra spikeloom[train]")

import spikeloom as sl
from spikeloom import training
from spikeloom.recipes.cells import CELLS, EulerCell, ExactCell, cells, coloured

CONNECTIONS = ("dense", "recurrent", "convolution")


def test_the_cell_is_the_originals_step_by_step():
    x = torch.rand(60, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 6
    for kind, factor in ((EulerCell, 1e-3 / 10e-3), (ExactCell, 1 - math.exp(-1 / 10))):
        neuron = kind(3, comparator=">=", dt=1e-3)
        i = v = torch.zeros(2, 3, dtype=torch.float64)
        expected = []
        for current in x:
            i = i + factor * (-i + current)
            v = v + factor * (-v + i)
            s = (v >= 1).double()
            v = torch.where(s > 0, 0.0, v)
            expected.append(s)
        for engine in ("eager", "cpu"):
            found = sl.run(sl.Layer(None, neuron), x, engine=engine)
            assert torch.equal(found.output, torch.stack(expected))
            torch.testing.assert_close(found.state.neuron.v, v)
    assert torch.stack(expected).sum() > 10


@pytest.mark.parametrize("connection", CONNECTIONS)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("act", ["spikes", "rate"])
def test_every_cell_goes_around_every_connection_with_either_act(connection, cell, act):
    torch.manual_seed(0)
    experiment = replace(cells(), connection=connection, cell=cell, act=act, hidden=8, steps=16, batch_size=4)
    network = experiment.network()
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    output = network(experiment._encode(images))
    assert output.shape == (16, 4, 10)
    hidden, _ = network.hidden(experiment._encode(images))
    assert hidden.shape == ((16, 4, 16, 32, 32) if connection == "convolution" else (16, 4, 8))
    assert bool(((hidden == 0) | (hidden == 1)).all()) == (act == "spikes")
    experiment.loss(output, torch.tensor([0, 1, 2, 3])).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name
    assert (network.hidden.recurrent is not None) == (connection == "recurrent")


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_stdp_and_surrogate_gradients_train_one_network_with_one_optimiser(connection):
    moves = {}
    for rule in ("surrogate", "stdp", "both"):
        torch.manual_seed(0)
        experiment = replace(cells(), connection=connection, rule=rule, hidden=8, steps=20, strength=100.0)
        network = experiment.network()
        weight = next(network.hidden.connection.parameters())
        images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        x, optimiser = experiment._encode(images), torch.optim.SGD(network.parameters(), lr=1.0)
        loss = experiment.loss(network(x), torch.tensor([0, 1, 2, 3]))
        penalty = experiment.penalty(network)
        assert (penalty is None) == (rule == "surrogate")
        before = weight.detach().clone()
        (loss if penalty is None else loss + penalty).backward()
        optimiser.step()
        moves[rule] = weight.detach() - before
        if rule == "stdp":
            with torch.no_grad():
                network.hidden.connection.load_state_dict(
                    {**network.hidden.connection.state_dict(), **_named(network, before)}
                )
                spikes, _ = network.hidden(x)
            asked = network.stdp(network.hidden.connection, x, spikes).gradients[weight]
            torch.testing.assert_close(moves[rule], -100 * asked, rtol=1e-4, atol=1e-5)
        assert (moves[rule] != 0).any()
    torch.testing.assert_close(moves["both"], moves["surrogate"] + moves["stdp"], rtol=1e-3, atol=1e-5)
    network.eval()
    network(x)
    assert experiment.penalty(network) is None, "nothing is learned in evaluation"


def _named(network, value):
    name = next(iter(network.hidden.connection.state_dict()))
    return {name: value}


def test_colours_say_nothing_of_the_class():
    images = torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(0))
    found = coloured(images, seed=0)
    assert found.shape == (6, 3, 32, 32)
    torch.testing.assert_close(found.amax(1), images.repeat_interleave(4, 1).repeat_interleave(4, 2))
    assert torch.equal(found, coloured(images, seed=0))


@pytest.mark.parametrize("connection", ["dense", "recurrent"])
def test_cells_learn(tmp_path, connection):
    fitted = training.fit(replace(cells(), connection=connection, epochs=2, lr=5e-3), tmp_path)
    assert fitted.test["test_accuracy"] > 0.5  # chance is 0.1


def test_stdp_without_spikes_is_a_sentence():
    with pytest.raises(ValueError, match="cells got rule=stdp, act=rate; STDP needs spikes: write act=spikes."):
        replace(cells(), rule="stdp", act="rate").check()


def test_the_picture_shows_spikes_and_the_rate_in_their_place():
    (figure,) = cells().figures(nn.Identity(), nn.Identity(), None)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["One cell, current 1.6: spikes", "One cell, current 1.6: rate"]
