"""Data sets: the IDX format, the search for files, the splits, and the loader of whole batches."""

import gzip
import hashlib
import importlib
import math
import os
import urllib.error
import urllib.request
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch

from spikeloom import datasets
from spikeloom.events import Events

# The package exports the function `mnist` under the name of its module.
module = importlib.import_module("spikeloom.datasets.mnist")


# SHA-256 (16 digits) of the published points and labels.
YIN_YANG = {
    "train": ("f5a4054d56f2a058", "7ea074c03c7531b4"),
    "validation": ("5eac358bdf212276", "6a5d1f872dddf69d"),
    "test": ("7bab3ed668ed4992", "2e48e04154ecf043"),
}


def idx(array):
    """The bytes of an IDX file, written from the format's definition."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A data set of MNIST's form with 5 training and 2 test images, and the source that describes it."""
    numbers = np.random.default_rng(0)
    contents = {}
    for part, samples in (("train", 5), ("t10k", 2)):
        contents[f"{part}-images-idx3-ubyte"] = idx(numbers.integers(0, 256, (samples, 28, 28)))
        contents[f"{part}-labels-idx1-ubyte"] = idx(numbers.integers(0, 10, samples))
    source = replace(module.MNIST, md5={name: hashlib.md5(data).hexdigest() for name, data in contents.items()})
    monkeypatch.setattr(module, "MNIST", source)
    monkeypatch.delenv("SPIKELOOM_DATA", raising=False)
    monkeypatch.setattr(module, "_cache", lambda: tmp_path / "cache")
    return tmp_path, contents


def write(folder, contents, pack=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / (f"{name}.gz" if pack else name)).write_bytes(gzip.compress(data) if pack else data)


@pytest.mark.parametrize("shape", [(0,), (3,), (2, 3), (2, 4, 5)])
@pytest.mark.parametrize("pack", [False, True])
def test_idx_gives_back_what_was_written(tmp_path, shape, pack):
    array = np.random.default_rng(1).integers(0, 256, shape)
    write(tmp_path, {"x": idx(array)}, pack)
    assert np.array_equal(datasets.read_idx(tmp_path / ("x.gz" if pack else "x")).numpy(), array)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"PK\x03\x04", "not an IDX file"),
        (b"", "not an IDX file"),
        (bytes([0, 0, 0x0D, 1, 0, 0, 0, 0]), "holds IDX type 0x0d, expected unsigned bytes"),
        (idx(np.zeros((2, 3)))[:-1], r"states the shape \[2, 3\], which is 6 bytes, but holds 5"),
        (bytes([0, 0, 8, 2, 0, 0]), "cut short"),
    ],
)
def test_idx_refuses_damaged_files(tmp_path, content, sentence):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        datasets.read_idx(tmp_path / "x")


@pytest.mark.parametrize("damage", [b"not gzip", gzip.compress(b"0" * 1000)[:-9]], ids=["not gzip", "cut short"])
def test_damaged_gzip_is_named(tmp_path, damage):
    (tmp_path / "x.gz").write_bytes(damage)
    with pytest.raises(ValueError, match="not a complete gzip file"):
        datasets.read_idx(tmp_path / "x.gz")


@pytest.mark.parametrize("folder", ["mnist", ".", "MNIST/raw"])
@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("way", ["argument", "environment", "cache"])
def test_mnist_is_found(small, monkeypatch, folder, pack, way):
    tmp_path, contents = small
    root = tmp_path / ("cache" if way == "cache" else "data")
    write(root / folder, contents, pack)
    if way == "environment":
        monkeypatch.setenv("SPIKELOOM_DATA", str(root))
    data = datasets.mnist(root if way == "argument" else None, train=False)
    pixels = np.frombuffer(contents["t10k-images-idx3-ubyte"][16:], np.uint8).reshape(2, 28, 28)
    assert data.images.dtype == torch.uint8
    assert np.array_equal(data.images.numpy(), pixels)
    assert data.labels.tolist() == list(contents["t10k-labels-idx1-ubyte"][8:])
    assert torch.equal(data.intensities, torch.from_numpy(pixels.astype(np.float32)) / 255)


def test_missing_files_sentence_names_where_it_looked(small, monkeypatch):
    tmp_path, _ = small
    monkeypatch.setenv("SPIKELOOM_DATA", str(tmp_path / "named"))
    with pytest.raises(FileNotFoundError, match=r"no file train-images.*named/mnist.*cache/mnist.*data_dir=.*download"):
        datasets.mnist()
    with pytest.raises(FileNotFoundError) as caught:
        datasets.mnist(tmp_path / "given")
    assert "given" in str(caught.value)
    assert "named" not in str(caught.value)


def test_a_foreign_file_is_refused(small):
    tmp_path, contents = small
    write(tmp_path, {**contents, "train-images-idx3-ubyte": contents["t10k-images-idx3-ubyte"]})
    with pytest.raises(ValueError, match=r"is not MNIST's train-images.*MD5, unpacked, is"):
        datasets.mnist(tmp_path)


def test_files_that_do_not_belong_together_are_refused(small, monkeypatch):
    tmp_path, contents = small
    contents["train-labels-idx1-ubyte"] = idx(np.array([1, 2, 3]))
    md5 = {name: hashlib.md5(data).hexdigest() for name, data in contents.items()}
    monkeypatch.setattr(module, "MNIST", replace(module.MNIST, md5=md5))
    write(tmp_path, contents)
    with pytest.raises(ValueError, match="do not belong together"):
        datasets.mnist(tmp_path)


def test_download_checks_before_it_writes(small, monkeypatch):
    tmp_path, contents = small
    asked = []

    def urlopen(url, timeout):
        asked.append(url)
        return BytesIO(gzip.compress(contents[url.rsplit("/", 1)[1].removesuffix(".gz")]))

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    data = datasets.mnist(tmp_path / "new", download=True)
    assert len(data) == 5
    assert sorted(path.name for path in (tmp_path / "new/mnist").iterdir()) == [
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
    ]
    datasets.mnist(tmp_path / "new", download=True)
    assert len(asked) == 2, "what is there is not fetched again"

    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: BytesIO(gzip.compress(b"something else")))
    with pytest.raises(ValueError, match="is not MNIST's"):
        datasets.mnist(tmp_path / "bad", download=True)
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: BytesIO(b"<html>"))
    with pytest.raises(ValueError, match="did not give a gzip file"):
        datasets.mnist(tmp_path / "bad", download=True)
    assert not (tmp_path / "bad").exists()


def test_no_network_is_a_sentence(small, monkeypatch):
    def urlopen(url, timeout):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    with pytest.raises(FileNotFoundError, match=r"could not be downloaded.*no route.*by hand"):
        datasets.mnist(small[0] / "new", download=True)


@pytest.mark.skipif("SPIKELOOM_DATA" not in os.environ, reason="the real files: set SPIKELOOM_DATA to their directory")
@pytest.mark.parametrize("load", [datasets.mnist, datasets.fashion_mnist])
def test_real_files(load):
    for source in (module.MNIST, module.FASHION_MNIST):
        if load.__name__ == source.title.lower().replace("-", "_") and not module.find(
            source, "t10k-images-idx3-ubyte", [Path(os.environ["SPIKELOOM_DATA"])]
        ):
            pytest.skip(f"SPIKELOOM_DATA holds no {source.title}")
    data = load(train=False)
    assert data.images.shape == (10_000, 28, 28)
    # Fashion-MNIST has 1,000 of each class; MNIST's test set has 980 zeros.
    assert data.labels.bincount()[0] == (980 if load is datasets.mnist else 1000)


def test_digits_splits_are_disjoint_stratified_and_fixed():
    train, test = datasets.digits(), datasets.digits(train=False)
    assert len(train) + len(test) == 1797
    rows = {image.numpy().tobytes() for image in train.images}
    assert sum(image.numpy().tobytes() in rows for image in test.images) == 0
    assert (test.labels.bincount() - 36).abs().max() <= 1
    assert torch.equal(datasets.digits(train=False).images, test.images)
    assert train.images.min() == 0
    assert train.images.max() == 1
    tests = torch.cat([datasets.digits(train=False, folds=5, fold=fold).images for fold in range(5)])
    everything = torch.cat([train.images, test.images])
    assert {x.numpy().tobytes() for x in tests} == {x.numpy().tobytes() for x in everything}
    assert len(tests) == 1797


@pytest.mark.parametrize(("folds", "fold"), [(1, 0), (-2, 0), (5, 5), (5, -1), (0, 1)])
def test_digits_refuses_impossible_folds(folds, fold):
    with pytest.raises(ValueError, match=f"folds={folds}, fold={fold}; expected"):
        datasets.digits(folds=folds, fold=fold)


def test_hold_out_takes_a_part_of_each_class():
    labels = torch.arange(200) % 4
    data = datasets.Images(torch.arange(200.0).reshape(200, 1, 1), labels, tuple("abcd"))
    kept, held = data.hold_out(0.1, seed=3)
    assert held.labels.bincount().tolist() == [5, 5, 5, 5]
    assert torch.cat([kept.images, held.images]).flatten().sort().values.tolist() == list(range(200))
    assert torch.equal(data.hold_out(0.1, seed=3)[1].images, held.images)
    assert not torch.equal(data.hold_out(0.1, seed=4)[1].images, held.images)
    with pytest.raises(ValueError, match=r"fraction=1\.5; expected a number between 0 and 1"):
        data.hold_out(1.5)


def test_rate_patterns_have_the_stated_rate_and_silent_half():
    trials, rate = 400, 20.0
    spikes, labels = datasets.rate_patterns(trials, 20, 100, 2e-3, rate, torch.Generator().manual_seed(0))
    counts = spikes.to_dense().sum(0).reshape(trials, 2, 10)
    chosen = counts[torch.arange(trials), labels]
    assert counts[torch.arange(trials), 1 - labels].sum() == 0
    # Binomial: mean n p and variance n p (1 - p) a channel, n = 100, p = 1 - exp(-0.04); 4,000 channels.
    p = 1 - math.exp(-0.04)
    assert abs(chosen.mean().item() - 100 * p) < 5 * (100 * p * (1 - p) / 4000) ** 0.5
    assert abs(chosen.var().item() / (100 * p * (1 - p)) - 1) < 0.1
    assert labels.sum() == trials // 2


@pytest.mark.parametrize(
    ("arguments", "sentence"), [({"inputs": 7}, "even number"), ({"rate": -1.0}, "expected 0 or more")]
)
def test_rate_patterns_refuses(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        datasets.rate_patterns(4, **arguments)


@pytest.mark.parametrize("kind", ["events", "images", "raster"])
def test_loader_visits_each_sample_once_and_keeps_pairs_together(kind):
    raster = torch.zeros(30, 23, 23)
    raster[torch.arange(23), torch.arange(23), torch.arange(23)] = 1  # sample k spikes in channel k at step k
    inputs = {"events": Events.from_dense(raster), "images": raster.sum(0), "raster": raster}[kind]
    loader = datasets.BatchLoader(
        inputs, torch.arange(23), 5, shuffle=True, seed=2, input_axis=1 if kind == "raster" else 0
    )
    seen = []
    for x, y in loader:
        x = x.to_dense() if isinstance(x, Events) else x
        x = x.sum(0) if kind != "images" else x
        assert torch.equal(x.argmax(1), y)
        seen += y.tolist()
    assert sorted(seen) == list(range(23))
    assert seen != sorted(seen)
    assert len(loader) == len(list(loader)) == 5


def test_order_depends_on_seed_and_epoch_alone():
    def epoch(seed, number):
        loader = datasets.BatchLoader(torch.arange(50), torch.arange(50), 7, shuffle=True, seed=seed)
        loader.sampler.set_epoch(number)
        torch.rand(number + 3)  # the global generator must not matter
        return torch.cat([y for _, y in loader])

    assert torch.equal(epoch(0, 3), epoch(0, 3))
    orders = {tuple(epoch(seed, number).tolist()) for seed in range(4) for number in range(4)}
    assert len(orders) == 16


def test_the_epoch_may_be_set_after_the_iterator_is_made():
    loader = datasets.BatchLoader(torch.arange(50), torch.arange(50), 50, shuffle=True)
    batches = iter(loader)
    loader.sampler.set_epoch(3)
    order = loader.sampler.order()
    assert torch.equal(next(batches)[1], order)


def test_transform_sees_each_batch():
    loader = datasets.BatchLoader(torch.ones(5, 2), torch.arange(5), 2, transform=lambda x: 3 * x)
    assert torch.equal(torch.cat([x for x, _ in loader]), torch.full((5, 2), 3.0))


def test_loader_refuses():
    with pytest.raises(ValueError, match=r"4 inputs and 5 targets.*input_axis=1"):
        datasets.BatchLoader(torch.ones(4, 5), torch.arange(5))
    with pytest.raises(ValueError, match="batch_size=0; expected 1 or more"):
        datasets.BatchLoader(torch.ones(4), torch.arange(4), 0)


def test_yin_yang_is_the_published_one():
    for part, (points_sum, labels_sum) in YIN_YANG.items():
        points, labels = datasets.yin_yang(part)
        digests = [hashlib.sha256(x.numpy().tobytes()).hexdigest()[:16] for x in (points, labels.to(torch.uint8))]
        assert digests == [points_sum, labels_sum]


def test_yin_yang_classes_are_where_they_should_be():
    points, labels = datasets.yin_yang("train", size=600, seed=3)
    assert torch.equal(points[:, 2:], 1 - points[:, :2])
    x, y = points[:, 0] - 0.5, points[:, 1] - 0.5
    assert bool((x**2 + y**2 <= 0.25).all())
    dots = ((x.abs() - 0.25) ** 2 + y**2) < 0.01
    assert torch.equal(dots, labels == 2)
    # Yin and yang are each other, turned by half a circle.
    far = ((x.abs() - 0.25) ** 2 + y**2) > 0.0625
    assert torch.equal(labels[far] == 1, y[far] > 0)
    assert labels.bincount().min() > 150


def test_yin_yang_has_three_parts():
    with pytest.raises(ValueError, match="part='all'; expected one of train, validation, test"):
        datasets.yin_yang("all")
    with pytest.raises(ValueError, match="size=0; expected 1 or more"):
        datasets.yin_yang(size=0)
