"""Recipes: the table, the input that each makes, and short trainings; the full results are in the README."""

import os
from dataclasses import replace

import pytest
import torch

pytest.importorskip("sklearn", reason="the digits need the extra spikeloom[train]")

import spikeloom as sl
from spikeloom import encoding, recipes
from spikeloom.datasets import digits as load_digits
from spikeloom.events import Events
from spikeloom.recipes.digits import digits
from spikeloom.recipes.latency_mnist import latency_mnist
from spikeloom.recipes.rate_patterns import rate_patterns
from spikeloom.recipes.yin_yang import yin_yang
from spikeloom.training.experiment import Experiment


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_is_an_experiment_of_its_name(name):
    experiment = recipes.find(name)()
    assert isinstance(experiment, Experiment)
    assert experiment.name == name
    experiment.check()
    assert recipes.RECIPES[name].summary
    assert recipes.RECIPES[name].expected, "a recipe states its measured result"
    assert recipes.find(name.replace("-", "_")) is recipes.RECIPES[name]


def test_an_unknown_recipe_is_a_sentence():
    with pytest.raises(ValueError, match=r"no recipe 'mnist-latency'\..*Recipes: digits, rate-.*, latency-mnist"):
        recipes.find("mnist-latency")


def test_digits_are_latency_coded():
    splits = digits().data()
    spikes, labels = splits.test.batch(torch.arange(360))
    assert isinstance(spikes, Events)
    images = load_digits(train=False).images.flatten(1)
    assert torch.equal(labels, load_digits(train=False).labels)
    assert spikes.total == int((images > 0).sum()), "one spike for each pixel that is not black"
    sample = spikes[0].to_dense()[:, 0]
    pixel = int(images[0].argmax())
    assert sample[:, pixel].argmax() == 0, "the brightest first"
    assert torch.equal(sample.argmax(0)[images[0] > 0], ((1 - images[0]) * 24).long()[images[0] > 0])


def test_digits_validation_is_cut_from_the_training_data():
    plain, held = digits().data(), replace(digits(), validation=0.2).data()
    assert plain.validation is None
    assert held.validation is not None
    assert held.train.sampler.samples + held.validation.sampler.samples == plain.train.sampler.samples == 1437
    assert held.test.sampler.samples == plain.test.sampler.samples == 360


def test_digits_folds_are_trials():
    trials = replace(digits(), folds=4).trials()
    assert [name for name, _ in trials] == ["fold-0", "fold-1", "fold-2", "fold-3"]
    sizes = [trial.data().test.sampler.samples for _, trial in trials]
    assert sum(sizes) == 1797


def test_seeds_are_trials():
    trials = replace(digits(), seed=5, seeds=3).trials()
    assert [(name, trial.seed, trial.seeds) for name, trial in trials] == [
        ("seed-5", 5, 1),
        ("seed-6", 6, 1),
        ("seed-7", 7, 1),
    ]


def test_digits_learn(tmp_path):
    from spikeloom.training import fit

    fitted = fit(replace(digits(), epochs=4, hidden=32, steps=20, window=16, batch_size=64), tmp_path)
    assert fitted.rows[-1]["train_loss"] < 0.6 * fitted.rows[0]["train_loss"]
    assert fitted.test["test_accuracy"] > 0.6  # chance is 0.1


def test_yin_yang_is_coded_in_time():
    experiment = yin_yang()
    spikes = experiment.encode(torch.tensor([[0.0, 1.0, 0.25, 0.75]])).to_dense()
    assert spikes.shape == (400, 1, 5)
    assert spikes[:, 0].argmax(0).tolist() == [0, 300, 75, 225, 0]
    with pytest.raises(ValueError, match="expected dt <= window <= duration"):
        replace(experiment, duration=20e-3).check()
    assert experiment.data().validation is None
    assert len(replace(experiment, validation=1e-9).data().validation.targets) == 1000


def test_yin_yang_learns_by_exact_gradients(tmp_path):
    from spikeloom.training import fit

    small = replace(
        yin_yang(), epochs=1, hidden=80, dt=0.5e-3, schedule="constant", validation=0.5, test=False, lr=1e-2
    )
    fitted = fit(small, tmp_path)
    assert fitted.rows[-1]["validation_accuracy"] > 0.5  # chance is 0.33
    assert fitted.task.gradient == sl.EventProp()


@pytest.mark.parametrize("delays", ["axon", "synapse"])
def test_yin_yang_learns_delays(delays):
    experiment = replace(
        yin_yang(), hidden=30, delays=delays, wake_hidden=1.0, dt=0.5e-3, output_mean=2.5, output_std=1.0
    )
    network = experiment.network()
    spikes, targets = next(iter(experiment.data().train))
    found = sl.run(network, spikes, gradient=experiment.gradient(), record=experiment.record)
    (experiment.loss(found.output, targets) + experiment.activity_cost(found, targets)).backward()
    for layer, inputs in zip(network, (5, 30), strict=True):
        raw = layer.connection.parameter.raw
        assert raw.shape == ((inputs,) if delays == "axon" else (layer.neuron.shape[0], inputs))
        assert raw.grad.count_nonzero() >= 3
    silent = replace(experiment, wake_hidden=0.0)
    assert silent.record == ("1.v",)
    assert experiment.activity_cost(found, targets) >= silent.activity_cost(found, targets)


@pytest.mark.parametrize("readout", ["membrane", "spikes"])
def test_rate_patterns_are_told_apart(tmp_path, readout):
    from spikeloom.training import fit

    experiment = replace(
        rate_patterns(), readout=readout, epochs=2, steps=60, rate=40.0, train_trials=300, test_trials=100
    )
    fitted = fit(experiment, tmp_path)
    assert fitted.test["test_accuracy"] >= 0.99
    output = fitted.task(fitted.splits.test.batch(torch.arange(4))[0])
    assert bool(((output == 0) | (output == 1)).all()) == (readout == "spikes")


def test_fresh_trials_are_fresh():
    splits = replace(rate_patterns(), validation=0.5).data()
    assert splits.validation is not None
    parts = [splits.train, splits.test, splits.validation]
    assert [part.sampler.samples for part in parts] == [500, 1000, 500]
    first = [tuple(part.inputs[0].channel.tolist()) for part in parts]
    assert len(set(first)) == 3


def test_spike_count_loss_is_an_option():
    experiment = replace(latency_mnist(), loss_function="spike_count", hidden=4)
    output, _ = experiment.network()(torch.zeros(5, 2, 784))
    assert bool(((output == 0) | (output == 1)).all())
    # No spikes at all: (100^2 + 9 * 10^2) / 10 from the definition.
    assert experiment.loss(output, torch.tensor([0, 1])).item() == pytest.approx(1090.0)
    assert experiment.decode(output).shape == (2, 10)


def test_spike_dropout_drops_its_part():
    experiment = replace(latency_mnist(), spike_dropout=0.3, shift=0)
    spikes = Events.from_dense(torch.ones(2, 20, 784))
    kept = experiment._disturb(spikes)
    assert kept.shape == spikes.shape
    assert abs(kept.total / spikes.total - 0.7) < 5 * (0.3 * 0.7 / spikes.total) ** 0.5


def test_shifted_spikes_are_spikes_of_shifted_images():
    images = torch.zeros(200, 28, 28)
    images[:, 3, 27], images[:, 12, 5] = 0.5, 0.75
    spikes = encoding.latency(images.flatten(1), 100)
    moved = replace(latency_mnist(), spike_dropout=0.0, shift=1)._disturb(spikes)
    seen = set()
    for sample in range(200):
        found = {(int(c) // 28, int(c) % 28, int(t)) for c, t in zip(moved[sample].channel, moved[sample].time)}
        (row, column, time) = min(found, key=lambda spike: spike[2])
        assert time == 25
        down, across = row - 12, column - 5
        assert found == {(row, column, 25)} | ({(3 + down, 27 + across, 50)} if across < 1 else set())
        seen.add((down, across))
    assert seen == {(down, across) for down in (-1, 0, 1) for across in (-1, 0, 1)}


@pytest.mark.skipif("SPIKELOOM_DATA" not in os.environ, reason="the real files: set SPIKELOOM_DATA to their directory")
def test_latency_mnist_reads_the_real_files():
    try:
        splits = replace(latency_mnist(), validation=0.1).data()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert splits.validation is not None
    parts = (splits.train, splits.validation, splits.test)
    assert [part.sampler.samples for part in parts] == [54_001, 5_999, 10_000]  # a tenth of each class, rounded
    assert splits.test.inputs.shape == (100, 10_000, 784)
    assert splits.test.inputs.time.max() <= 75, "pixels under the threshold are silent"
