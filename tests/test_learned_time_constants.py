"""The recipes `learned-time-constants` and `ecg`, their data, and what is learned in them."""

import os
from dataclasses import replace

import numpy
import pytest
import torch

pytest.importorskip("lightning", reason="training needs the extra spikeloom[train]")
from scipy.io import savemat

import spikeloom as sl
from spikeloom import training
from spikeloom.datasets import Images
from spikeloom.recipes.ecg import ecg
from spikeloom.recipes.learned_time_constants import GreyLevels, learned_time_constants


def test_grey_levels_look_up_what_the_encoder_does():
    images = torch.randint(0, 256, (5, 6, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    loader = learned_time_constants()._loader(Images(images, torch.zeros(5, dtype=torch.long), ("0",)))
    spikes, _ = loader.batch(torch.arange(5))
    normalised = (images.flatten(1) / 255 - 0.1307) / 0.3081
    assert torch.equal(spikes.to_dense(), sl.encoding.constant_current(normalised, 32))
    assert spikes.total > 0


def test_grey_levels_without_any_spike():
    spikes = GreyLevels(torch.zeros(4, 256))(torch.zeros(2, 3, 3, dtype=torch.uint8))
    assert spikes.shape == (4, 2, 9)
    assert spikes.total == 0


def test_images_are_shifted_in_training_alone():
    dot = torch.zeros(500, 9, 9, dtype=torch.uint8)
    dot[:, 4, 4] = 255
    moved = sl.datasets.shifted(dot, 2, torch.Generator().manual_seed(0))
    assert moved.dtype == torch.uint8
    assert (moved.flatten(1).long().sum(1) == 255).all()
    down, across = moved.nonzero()[:, 1:].T
    assert sorted(down.unique().tolist()) == sorted(across.unique().tolist()) == [2, 3, 4, 5, 6]
    assert len({(int(r), int(c)) for r, c in zip(down, across)}) == 25, "both ways, apart"
    assert torch.equal(sl.datasets.shifted(dot, 0), dot)
    labels = torch.zeros(500, dtype=torch.long)
    load = replace(learned_time_constants(), shift=2)._loader
    data = Images(dot, labels, ("0",))
    assert len(load(data, shuffle=True).batch(torch.arange(500))[0].channel.unique()) == 25
    assert load(data).batch(torch.arange(500))[0].channel.unique().tolist() == [4 * 9 + 4]
    with pytest.raises(ValueError, match=r"shifted got images of shape \[9, 9\] and most=1; expected \[B, height"):
        sl.datasets.shifted(dot[0], 1)


@pytest.mark.parametrize("make", [learned_time_constants, ecg])
def test_learned_and_fixed_begin_alike_and_differ_in_what_is_trained(make):
    networks = []
    for learned in (True, False):
        torch.manual_seed(3)
        networks.append(replace(make(), learned=learned).network())
    learned, fixed = networks
    trained = {name for name, _ in learned.named_parameters()} - {name for name, _ in fixed.named_parameters()}
    names = {name.split(".params.")[1] for name in trained}
    assert names == {"tau_mem.raw", "v_th.raw"} | ({"tau_syn.raw"} if make is ecg else set())
    for one, two in zip(learned.modules(), fixed.modules(), strict=True):
        if isinstance(one, sl.Neuron):
            for name in one.params:
                assert torch.equal(getattr(one, name), getattr(two, name)), "drawn from the same seed"
        elif isinstance(getattr(one, "weight", None), torch.Tensor):
            assert torch.equal(one.weight, two.weight)


def test_the_neurons_parameters_are_log_normal_and_none_feeds_itself():
    torch.manual_seed(0)
    layer = replace(learned_time_constants(), hidden=4000, spread=0.3).network()[1]
    for value, median in ((layer.neuron.tau_mem, 20e-3), (layer.neuron.v_th, 0.5)):
        logarithm = (value / median).log()
        assert abs(logarithm.mean().item()) < 4 * 0.3 / 4000**0.5
        assert abs(logarithm.std().item() - 0.3) < 0.02
    assert not layer.self_connections


def test_learned_time_constants_learn(tmp_path, monkeypatch):
    """On the embedded digits, 28 x 28 by doubling each pixel, for MNIST's files are not everywhere."""

    def small(data_dir, train):
        data = sl.datasets.digits(train=train)
        images = data.images.repeat_interleave(2, 1).repeat_interleave(2, 2)
        return replace(data, images=torch.nn.functional.pad((255 * images).byte(), (6, 6, 6, 6)))

    monkeypatch.setattr(sl.datasets, "mnist", small)
    fitted = training.fit(replace(learned_time_constants(), epochs=4, hidden=30, steps=16), tmp_path)
    assert fitted.test["test_accuracy"] > 0.6  # chance is 0.1
    neuron = fitted.task.network[1].neuron
    assert not torch.allclose(neuron.tau_mem, neuron.params["tau_mem"].initial)
    assert not torch.allclose(neuron.v_th, neuron.params["v_th"].initial)
    assert (neuron.tau_mem > 0).all()


@pytest.fixture
def heartbeats(tmp_path):
    """Files of ECG-QTDB's form: two beats of 30 steps, each channel up when its wave begins; two steps unlabelled."""
    numpy.random.seed(0)
    for name, count in (("train", 40), ("test", 10)):
        x, y = numpy.zeros((count, 61, 4), "int16"), numpy.zeros((count, 61, 6), "uint8")
        for sample in range(count):
            start = numpy.random.randint(0, 5)
            for wave in range(6):
                steps = [beat + start + 5 * wave for beat in (0, 30)]
                for step in steps:
                    x[sample, step, wave % 4] = 1 if wave < 4 else -1
                    y[sample, step : step + 5, wave] = 1
        y[:, :, 0] += (y.sum(2) == 0).astype("uint8")
        y[:, [7, 8]] = 0
        savemat(tmp_path / f"QTDB_{name}.mat", {"x": x, "y": y.clip(0, 1)})
    return tmp_path


def test_ecg_is_read_and_split(heartbeats):
    data = sl.datasets.ecg(heartbeats)
    assert data.inputs.shape == (60, 40, 4), "time first, the last step left out"
    assert data.inputs.unique().tolist() == [-1, 0, 1]
    assert (data.labels[[7, 8]] == -100).all()
    assert (data.labels[9:] >= 0).all()
    kept, held = data.hold_out(0.25, seed=1)
    assert (len(kept), len(held), len(sl.datasets.ecg(heartbeats, train=False))) == (30, 10, 10)
    both = torch.cat([kept.inputs, held.inputs], 1).flatten(0).sum()
    assert both == data.inputs.sum()
    with pytest.raises(ValueError, match="hold_out got fraction=2"):
        data.hold_out(2)


def test_what_is_not_ecg_is_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"QTDB_train.mat was not found in .*SPIKELOOM_DATA"):
        sl.datasets.ecg(tmp_path)
    savemat(tmp_path / "QTDB_train.mat", {"x": numpy.zeros((2, 3, 5)), "y": numpy.zeros((2, 3, 6))})
    with pytest.raises(ValueError, match=r"holds x \[2, 3, 5\] and y \[2, 3, 6\]; expected"):
        sl.datasets.ecg(tmp_path)
    (tmp_path / "QTDB_train.mat").write_bytes(b"no such thing" * 20)
    with pytest.raises(ValueError, match="is not ECG-QTDB's MATLAB file"):
        sl.datasets.ecg(tmp_path)


def test_ecg_is_learned_and_unlabelled_steps_do_not_count(heartbeats, tmp_path):
    experiment = replace(ecg(), epochs=12, batch_size=10, lr=3e-2, validation=0.2, hidden=24)
    fitted = training.fit(experiment, tmp_path / "run", data_dir=heartbeats)
    inputs, labels = fitted.splits.test.batch(torch.arange(10))
    with torch.no_grad():
        predicted = fitted.task(inputs).argmax(2)
    counts = labels >= 0
    assert fitted.test["test_accuracy"] == pytest.approx((predicted == labels)[counts].double().mean().item())
    assert fitted.task.confusion_matrix().sum() == counts.sum()
    assert fitted.test["test_accuracy"] > 0.6


def test_spreads_out_of_range_are_sentences():
    with pytest.raises(ValueError, match=r"learned-time-constants got spread=-1.0, shift=1; expected"):
        replace(learned_time_constants(), spread=-1.0).check()
    with pytest.raises(ValueError, match=r"ecg got spread=3.0; expected a number from 0"):
        replace(ecg(), spread=3.0).check()


@pytest.mark.skipif("SPIKELOOM_DATA" not in os.environ, reason="the real files: set SPIKELOOM_DATA to their directory")
def test_the_real_ecg_has_its_published_size():
    try:
        train, test = sl.datasets.ecg(), sl.datasets.ecg(train=False)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert train.inputs.shape == (1300, 618, 4)
    assert test.labels.shape == (1300, 141)
    assert torch.bincount(test.labels[test.labels >= 0]).argmax() == 4
    assert torch.bincount(train.labels[train.labels >= 0]).argmax() == 5
