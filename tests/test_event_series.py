"""Event series: identities between times, rasters, batches, tables and Tonic's arrays, and refusals."""

import builtins

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import spikeloom as sl


def drawn(seed=0, events=40, shape=(2, 3), stop=0.5, weighted=False):
    random = np.random.default_rng(seed)
    values = random.normal(size=events) if weighted else None
    channels = random.integers(0, int(np.prod(shape)), events)
    return sl.EventSeries(random.uniform(0, stop, events), channels, shape, values=values, stop=stop)


def same(one, two):
    assert torch.allclose(one.times, two.times, rtol=0, atol=1e-12) and one.channels.equal(two.channels)
    assert one.shape == two.shape and (one.values is None) == (two.values is None)
    assert one.values is None or torch.allclose(one.values, two.values)
    assert (one.start, one.stop) == pytest.approx((two.start, two.stop))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.sampled_from([1e-3, 0.1, 1 / 3, 2.5e-4]), st.integers(0, 99))
def test_a_raster_comes_back_from_its_times(steps, channels, dt, seed):
    raster = (torch.rand(steps, channels, generator=torch.Generator().manual_seed(seed)) < 0.3).float()
    series = sl.EventSeries.from_raster(raster, dt=dt, start=1.7)
    assert series.to_raster(dt)[:, 0].equal(raster)
    weighted = raster * torch.randn(steps, channels, generator=torch.Generator().manual_seed(seed))
    assert sl.EventSeries.from_raster(weighted, dt=dt).to_raster(dt)[:, 0].equal(weighted)


def test_events_are_sorted_and_fall_into_their_steps():
    series = sl.EventSeries([0.0205, 0.001, 0.0209, 0.03], [1, 0, 1, 0], shape=2)
    assert series.times.tolist() == [0.001, 0.0205, 0.0209, 0.03] and series.channels.tolist() == [0, 1, 1, 0]
    raster = series.to_raster(0.01)
    assert raster[:, 0].tolist() == [[1, 0], [0, 0], [0, 2], [1, 0]]
    assert series.to_raster(0.01, steps=3)[:, 0].equal(raster[:3, 0]) and series.to_raster(0.01, steps=9).shape[0] == 9
    assert sl.EventSeries([], shape=3, stop=0.01).to_raster(0.001).shape == (10, 1, 3)
    assert sl.EventSeries([0.5]).shape == (1,) and len(sl.EventSeries([])) == 0


def test_trains_and_batches():
    series = sl.EventSeries.from_trains([[0.3, 0.1], [], [0.2]], stop=0.4)
    assert series.times.tolist() == [0.1, 0.2, 0.3] and series.channels.tolist() == [0, 2, 0]
    parts = [drawn(seed, stop=0.1 * (seed + 1)) for seed in range(4)]
    batch = sl.EventSeries.batch(parts, dt=1e-3)
    assert batch.shape == (400, 4, 2, 3)
    for k, part in enumerate(parts):
        assert batch[k].to_dense()[: part.to_raster().shape[0]].equal(part.to_raster())
        back = sl.EventSeries.from_events(batch, k)
        assert back.channels.sort().values.equal(part.channels.sort().values)
        assert bool(((back.times.sort().values - part.times).abs() <= 1e-3).all())
    mixed = sl.EventSeries.batch([drawn(weighted=True), drawn()])
    assert mixed.value is not None and mixed[1].to_dense().equal(drawn().to_raster())
    v, _ = sl.Sequential(torch.nn.Flatten(1), sl.Layer(torch.nn.Linear(6, 2), sl.LIF(2)))(batch)
    assert v.shape == (400, 4, 2)


@pytest.mark.parametrize("weighted", [False, True])
def test_clip_shift_and_merge_are_inverse_to_each_other(weighted):
    series = drawn(weighted=weighted)
    same(series.clip(0.0, 0.2).merge(series.clip(0.2, 0.35), series.clip(0.35, 0.5)), series)
    same(series.shift(0.7).shift(-0.7), series)
    same(series.shift(0.1).clip(0.2, 0.3), series.clip(0.1, 0.2).shift(0.1))
    assert sl.EventSeries([0.1, 0.2, 0.3]).clip(0.1, 0.3).times.tolist() == [0.1, 0.2]
    assert series.clip(0.1, 0.2).duration == pytest.approx(0.1) and len(series.merge(series)) == 2 * len(series)
    assert series.shift(3.0).to_raster().equal(series.to_raster())
    assert drawn().merge(drawn(weighted=True)).values.sum() == pytest.approx(
        float(drawn(weighted=True).values.sum()) + len(drawn()), rel=1e-5
    )


def test_rates():
    series = drawn(events=200)
    assert series.rates().shape == (2, 3) and series.rates().sum() * 0.5 == pytest.approx(200)
    rate = series.rate(0.1)
    assert rate.values.shape == (5, 2, 3) and rate.unit == "1/s"
    assert torch.allclose(rate.values.sum(0) * 0.1, series.counts().float())
    assert rate(0.15).allclose(series.clip(0.1, 0.2).rates())
    assert len(series.rate(0.2)) == 2
    # A Poisson process of 50 events per second for 200 s: 10,000 +- 100 events.
    poisson = np.cumsum(np.random.default_rng(1).exponential(1 / 50, 20_000))
    assert float(sl.EventSeries(poisson[poisson < 200], stop=200.0).rates()) == pytest.approx(50, abs=2)


def test_tonic_arrays():
    kind = np.dtype([("t", np.int64), ("x", np.int16), ("y", np.int16), ("p", bool)])
    camera = np.array([(10, 3, 2, 1), (1_500, 0, 1, 0), (1_700, 0, 1, 0)], dtype=kind)
    series = sl.EventSeries.from_tonic(camera, sensor_size=(5, 4, 2), stop=2e-3)
    assert series.shape == (2, 4, 5)
    frames = np.zeros((2, 2, 4, 5))
    np.add.at(frames, (camera["t"] // 1000, camera["p"].astype(int), camera["y"], camera["x"]), 1)
    assert np.array_equal(series.to_raster()[:, 0], frames)
    back = series.to_tonic()
    assert all(np.array_equal(back[name], camera[name]) for name in "txyp")
    same(sl.EventSeries.from_tonic(back, (5, 4, 2), stop=2e-3), series)
    # Spoken digits have no y, and a p of 1 on an axis of size 1.
    audio = np.array([(5, 699, 1), (9, 0, 1)], dtype=[("t", "i8"), ("x", "i8"), ("p", "i8")])
    assert sl.EventSeries.from_tonic(audio, (700, 1, 1)).counts().nonzero().tolist() == [[0, 0], [0, 699]]
    assert sl.EventSeries([0.25], [4], 7).to_tonic().tolist() == [(250_000, 4)]
    assert len(sl.EventSeries.from_tonic(camera[:0], (5, 4, 2))) == 0


def test_tables():
    pytest.importorskip("pandas", reason="pandas is not installed")
    for series in (drawn(), drawn(weighted=True)):
        table = series.to_pandas()
        assert list(table.columns) == ["time", "channel", "value"][: len(table.columns)]
        same(sl.EventSeries.from_pandas(table, (2, 3), stop=0.5), series)


def test_a_plot_has_a_mark_for_each_event():
    import matplotlib.pyplot as plt

    ax = drawn().plot(title="events")
    marks = ax.collections[0].get_offsets()
    assert np.allclose(marks[:, 0], 1e3 * drawn().times) and np.array_equal(marks[:, 1], drawn().channels)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Time (ms)", "Channel")
    plt.close("all")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: sl.EventSeries([0.1, 0.2], [0]), "one time, channel and value for each event"),
        (lambda: sl.EventSeries([0.1, 0.2], stop=0.2), r"0\.1 to 0\.2 s for a recording in \[0, 0\.2\) s"),
        (lambda: sl.EventSeries([float("nan")], stop=0.2), "set start and stop"),
        (lambda: sl.EventSeries([], stop=0.0), "no times for a recording"),
        (lambda: sl.EventSeries([0.1], [3], shape=3), "expected 0 to 2"),
        (lambda: sl.EventSeries.from_raster(torch.ones(3)), r"one sample \[T, \*N\]"),
        (lambda: drawn().merge(drawn(shape=(6,))), "same channels"),
        (lambda: drawn().rate(1.0), "at most the 0.5 s there are"),
        (lambda: sl.EventSeries.batch([]), "got 0 series"),
        (lambda: sl.EventSeries.batch([drawn(), drawn(shape=(6,))]), "same channels"),
        (lambda: drawn().to_events(dt=0.0), "time step in s above 0"),
        (lambda: sl.EventSeries.from_tonic(np.zeros(2), (1, 1, 1)), "fields t and x"),
        (
            lambda: sl.EventSeries.from_tonic(np.array([(1, 5)], dtype=[("t", "i8"), ("x", "i8")]), (5, 1, 1)),
            "x up to 5",
        ),
        (lambda: drawn(weighted=True).to_tonic(), "no values"),
        (lambda: drawn(shape=(1, 1, 2, 3)).to_tonic(), "axes p, y, x"),
    ],
)
def test_what_makes_no_sense_is_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_what_is_missing_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **options):
        if name == "pandas":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"spikeloom\[series\]"):
        drawn().to_pandas()


def test_channels_that_are_no_indices_and_values_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="channels that are not whole numbers"):
        sl.EventSeries([0.1, 0.2], [0.5, 1.7])
    assert sl.EventSeries([0.1, 0.2], [0.0, 2.0]).channels.tolist() == [0, 2]
    with pytest.raises(ValueError, match="values that are NaN or infinite"):
        sl.EventSeries([0.1], values=[float("nan")])
