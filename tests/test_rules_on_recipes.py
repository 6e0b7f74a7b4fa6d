"""Gradient rules as options of recipes: their gradients against the exact network, and short trainings."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip("lightning", reason="training needs the extra spikeloom[train]")

import spikeloom as sl
from spikeloom import training
from spikeloom.recipes.latency_mnist import latency_mnist, latency_mnist_eventprop
from spikeloom.recipes.learned_time_constants import learned_time_constants
from spikeloom.recipes.rules import rules

EXACT = {"rule": "eventprop", "tau_synapse": 5e-3}


def of_digits(data_dir, train):
    """The embedded digits, 28 x 28 by doubling each pixel, for MNIST's files are not everywhere."""
    data = sl.datasets.digits(train=train)
    images = data.images.repeat_interleave(2, 1).repeat_interleave(2, 2)
    return replace(data, images=F.pad((255 * images).byte(), (6, 6, 6, 6)))


def in_steps_of(dt, experiment):
    """The recipe's own layers in other steps, in double precision."""
    torch.manual_seed(3)
    _, hidden, readout = experiment.network()  # the first is the dropout
    nn.init.normal_(hidden.recurrent.weight, 0.2, 0.5)  # as much as 100 neurons would drive each other
    own = {name: getattr(hidden.neuron, name).detach() for name in ("tau_mem", "tau_syn", "v_th")}
    neuron = sl.CubaLIF(6, learn=tuple(hidden.neuron.learned), reset=hidden.neuron.reset, **own)
    last = {name: getattr(readout.neuron, name).detach() for name in ("tau_mem", "tau_syn")}
    return sl.Sequential(
        sl.Layer(hidden.connection, neuron, hidden.recurrent, self_connections=hidden.self_connections),
        sl.Layer(readout.connection, sl.CubaLI(10, **last)),
        dt=dt,
    ).double()


def test_time_constants_and_thresholds_of_the_recipe_have_their_exact_gradients():
    """The recipe's network with 6 of its neurons, its input and its loss, in ever smaller steps."""
    experiment = replace(learned_time_constants(), hidden=6, steps=20, gain=5.0, **EXACT)
    data = of_digits(None, train=False)[3:4]
    spikes, label = experiment._loader(data).batch(torch.arange(1))
    times, channels = spikes.time.double() * 1e-3, spikes.channel.long()
    errors, exact = [], {}
    for dt in (1e-4, 5e-5, 2.5e-5, 1.25e-5):
        net = in_steps_of(dt, experiment)
        shape = (round(20e-3 / dt), 1, 784)
        step = (times / dt).round().long()
        x = sl.Events.from_coordinates(step, torch.zeros_like(step), channels, shape=shape).to_dense(torch.float64)
        run = sl.run(net, x, gradient=experiment.gradient(), record=("0.spikes",), engine="cpu")
        experiment.loss(run.output, label).backward()
        found = {name: p.grad for name, p in net.named_parameters()}
        if not exact:
            exact = exactly(in_steps_of(dt, experiment), run, times, channels, label)
            assert {"0.neuron.params.tau_mem.raw", "0.neuron.params.v_th.raw"} < exact.keys()
            assert run.records["0.spikes"].sum() > 12
        errors.append({n: float((found[n] - g).norm() / g.norm()) for n, g in exact.items()})
    assert max(errors[-1].values()) < 0.02, errors[-1]
    assert sum(errors[0].values()) > 3 * sum(errors[-1].values()), "first order in dt"


def exactly(net, run, times, channels, label):
    """The same loss on the membranes of the exact network at the times at which those of the run were highest."""
    network = sl.exact.from_layers(net)
    when = (run.output.argmax(0)[0] + 1) * net.dt
    order = when.argsort()
    found = sl.exact.simulate(network, times, channels, duration=20e-3, samples=when[order])
    assert len(found.times) == int(run.records["0.spikes"].sum())
    highest = found.membrane[order.argsort(), torch.arange(10) + 6]
    F.cross_entropy(highest[None], label).backward()
    return {name: p.grad for name, p in net.named_parameters()}


@pytest.mark.parametrize("make", [learned_time_constants, latency_mnist_eventprop])
def test_recipes_learn_by_exact_gradients(make, tmp_path, monkeypatch):
    monkeypatch.setattr(sl.datasets, "mnist", of_digits)
    sizes = {"hidden": 40, "epochs": 2, "test": False, "validation": 0.3, "batch_size": 32, "lr": 2e-2}
    experiment = replace(make(), **EXACT, **sizes, shift=0, epsilon=0.3)
    fitted = training.fit(experiment, tmp_path)
    assert fitted.task.gradient == sl.EventProp(epsilon=0.3)
    assert fitted.rows[-1]["validation_accuracy"] > 0.4  # chance is 0.1
    if make is learned_time_constants:
        neuron = fitted.task.network[1].neuron
        for name in ("tau_mem", "v_th"):
            assert not torch.allclose(getattr(neuron, name), neuron.params[name].initial)


def test_the_latency_code_fills_its_window_and_the_trial_goes_on():
    experiment = replace(latency_mnist_eventprop(), steps=40)
    spikes, _ = experiment._loader(of_digits(None, train=False)).batch(torch.arange(20))
    assert spikes.shape == (40, 20, 784)
    assert spikes.time.min() == 0 and 13 <= spikes.time.max() < 20
    first, second = (layer.connection.weight for layer in experiment.network())
    assert first.mean().item() == pytest.approx(0.078, abs=0.001) and first.std().item() == pytest.approx(
        0.045, abs=1e-3
    )
    assert second.mean().item() == pytest.approx(0.2, abs=0.04) and second.std().item() == pytest.approx(0.37, abs=0.03)


@pytest.mark.parametrize(
    ("experiment", "sentence"),
    [
        (
            replace(learned_time_constants(), rule="eventprop"),
            r"rule=eventprop and tau_synapse=0; EventProp needs outp",
        ),
        (replace(latency_mnist(), rule="eventprop"), r"tau_synapse=0; EventProp has no gradient of counts, and needs"),
        (
            replace(latency_mnist_eventprop(), loss_function="spike_count"),
            "loss_function=spike_count, tau_synapse=0.00",
        ),
        (replace(latency_mnist(), window=101), "got window=101, steps=100; expected 0 <= window <= steps"),
        (replace(latency_mnist(), weights=(0.1,)), r"got weights=\(0.1,\); expected mean,deviation"),
    ],
)
def test_settings_that_do_not_go_together_are_sentences(experiment, sentence):
    with pytest.raises(ValueError, match=sentence):
        experiment.check()


RULES = {"bptt": sl.BPTT, "eventprop": sl.EventProp, "eprop": sl.EProp, "rtrl": sl.RTRL, "ottt": sl.OTTT}


@pytest.mark.parametrize("task", ["digits", "yin-yang"])
def test_one_network_learns_by_every_rule(task):
    """A few batches, from the same weights: the loss falls, and no two rules do the same."""
    after = {}
    for name, kind in RULES.items():
        experiment = replace(rules(), task=task, rule=name, hidden=40, width=0.5)
        assert type(experiment.gradient()) is kind
        torch.manual_seed(0)
        net, batch = experiment.network(), experiment.data().train.batch(torch.arange(100))
        optimiser, curve = torch.optim.Adam(net.parameters(), lr=1e-2), []
        for _ in range(12):
            loss = experiment.loss(sl.run(net, batch[0], gradient=experiment.gradient()).output, batch[1])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            curve.append(loss.item())
        assert curve[-1] < 0.9 * curve[0], (name, curve)
        after[name] = net[0].connection.weight.detach()
    found = list(after.values())
    assert all(not torch.equal(a, b) for k, a in enumerate(found) for b in found[:k])


@pytest.mark.parametrize("make", [learned_time_constants, latency_mnist_eventprop])
def test_the_class_is_the_highest_output_at_any_time_or_on_average(make):
    output = torch.tensor([[5.0, 1.0], [0.0, 1.0], [0.0, 7.0], [10.0, 6.0]])[:, None]
    assert replace(make(), loss_function="cross_entropy").decode(output).tolist() == [[10.0, 7.0]]
    assert replace(make(), loss_function="mean").decode(output).tolist() == [[3.75, 3.75]]


def test_silent_hidden_neurons_cost_something_and_busy_ones_nothing():
    experiment = latency_mnist_eventprop()
    membranes, spikes = torch.full((40, 3, 4), 0.25), torch.zeros(40, 3, 4)
    spikes[5, 1, :3] = 1  # three neurons fire for one of the samples, the fourth for none
    run = sl.network.Run(None, None, {"0.v": membranes, "0.spikes": spikes}, {}, {}, {}, None, 1e-3)
    assert experiment.activity_cost(run, torch.zeros(3)).item() == pytest.approx(10.0 * 0.75 / 4)
    spikes[7, 2, 3] = 1
    assert experiment.activity_cost(run, torch.zeros(3)).item() == 0
